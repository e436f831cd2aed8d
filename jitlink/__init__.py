"""jitlink: a JIT linker whose link graph is columns and whose passes are array work.

    sqlite = jitlink.load("libsqlite3.a")             objects, archives, LLVM IR: linked into this process
    graph = jitlink.read("fast.o")                    a link graph to look at, nothing linked
    image = jitlink.link("fast.o", base=0x10000000)   bytes at addresses, nothing mapped

with jitlink.Session() gives linked code a lifetime. All errors are under jitlink.LinkError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jitlink.errors import (
    ClosedError,
    DuplicateDefinitions,
    EmulationFault,
    ExecutionError,
    ForeignException,
    InputError,
    InstructionLimit,
    LinkError,
    LinkFailure,
    MalformedInput,
    MemoryRefused,
    MissingExtra,
    OutOfRange,
    ProgramExit,
    SymbolNotFound,
    UndefinedSymbols,
    UnreadableInput,
    UnsupportedInput,
    UnsupportedRelocation,
    UntypedSymbol,
    UsageError,
)

if TYPE_CHECKING:
    from jitlink.execution import Emulation
    from jitlink.graph import LinkGraph
    from jitlink.image import Image, read
    from jitlink.image import link_image as link
    from jitlink.inputs import Source
    from jitlink.library import Library
    from jitlink.linker import UserPass
    from jitlink.protection import Protection
    from jitlink.resolvers import Resolver, process, shared_library
    from jitlink.runtime.conventions import typed
    from jitlink.session import Dylib, Session

# The linker is loaded when the first of these is asked for: a program that only imports us pays nothing.
_HOMES = {
    "Dylib": "session",
    "Emulation": "execution",
    "Image": "image",
    "Library": "library",
    "LinkGraph": "graph",
    "Protection": "protection",
    "Resolver": "resolvers",
    "Session": "session",
    "link": "image.link_image",
    "process": "resolvers",
    "read": "image",
    "shared_library": "resolvers",
    "typed": "runtime.conventions.typed",
}

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "DuplicateDefinitions",
    "Dylib",
    "Emulation",
    "EmulationFault",
    "ExecutionError",
    "ForeignException",
    "Image",
    "InputError",
    "InstructionLimit",
    "Library",
    "LinkError",
    "LinkFailure",
    "LinkGraph",
    "MalformedInput",
    "MemoryRefused",
    "MissingExtra",
    "OutOfRange",
    "ProgramExit",
    "Protection",
    "Resolver",
    "Session",
    "SymbolNotFound",
    "UndefinedSymbols",
    "UnreadableInput",
    "UnsupportedInput",
    "UnsupportedRelocation",
    "UntypedSymbol",
    "UsageError",
    "link",
    "load",
    "new_graph",
    "process",
    "read",
    "shared_library",
    "typed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A module, or a module and the name that it has there.
    home, _, last = _HOMES[name].rpartition(".")
    module, original = (home, last) if home else (last, name)
    value = globals()[name] = getattr(import_module(f"jitlink.{module}"), original)
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]


def load(
    *sources: Source,
    define: Mapping[str, Any] | Callable[[str], Any] | None = None,
    link_against: Sequence[Resolver | Mapping[str, Any] | Callable[[str], Any]] | None = None,
    whole_archive: bool = False,
    dead_strip: bool | None = None,
    exports: Sequence[str] | None = None,
    copy_data: Sequence[str] = (),
    relax: bool = True,
    passes: Mapping[str, Sequence[UserPass]] | None = None,
    target: str | None = None,
    emulate: bool | Emulation = False,
) -> Library:
    """Link inputs into this process, or into an emulated CPU, and give their functions by name.

    sources: paths, bytes or link graphs of objects, archives, LLVM IR (text or bitcode). Objects are
    linked at once; members of archives when something asks for them. define: addresses for names, before
    all else. link_against: where other undefined names are looked up, by default in this process, or in
    the emulated CPU's C library. target and emulate: see Session. The other keywords are those of
    Dylib.add.

    The library lives in a session of its own until its close(). Raises LinkError; then nothing is mapped.
    """
    from jitlink.session import Session

    session = Session(target=target, emulate=emulate)
    try:
        dylib = session.dylib("load")
        resolvers = [dylib.outside] if link_against is None else list(link_against)
        dylib.link_against(*([define] if define is not None else []), *resolvers)
        dylib.add(
            *sources,
            whole_archive=whole_archive,
            dead_strip=dead_strip,
            exports=exports,
            copy_data=copy_data,
            relax=relax,
            passes=passes,
        )
        dylib.link()
    except BaseException:
        session.close()
        raise
    return dylib.residence.library(dylib, owns_session=True)


def new_graph(name: str, target: str | None = None) -> LinkGraph:
    """Make an empty link graph to be built by hand; target: the machine, by default the host's.

    Raises UnsupportedInput for a machine that we do not link for.
    """
    from jitlink.graph import LinkGraph
    from jitlink.image import target_of
    from jitlink.inputs import collect

    return LinkGraph(target_of(collect(()), target), name=name)

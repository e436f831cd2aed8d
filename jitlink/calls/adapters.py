"""Adapters: where an exception of linked code ends, instead of the process.

A typed call goes in through an adapter, a few instructions that are linked for each function when it is
first asked for (see jitlink.arches.x86_64_calls). When an exception reaches it, its landing pad calls a
handler here, which looks at the exception, destroys it, and keeps a ForeignException until the call has
returned. Adapters lie in a dylib of their own beside that of the function, and are closed with it.

The unwinder that comes along is the one that the dylib's own code resolves: GCC's, or the libunwind that
was linked with it. Where there is none, nothing can be thrown, and there is no adapter.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jitlink.arches.architecture import Routine
from jitlink.calls import pending
from jitlink.calls.c_types import Array, CType, Function, Number, Record
from jitlink.calls.entries import builtin_at, entry_routines
from jitlink.calls.foreign import examine
from jitlink.errors import LinkError
from jitlink.graph import LinkGraph, Purpose, Scope
from jitlink.protection import Protection
from jitlink.resolvers import process, shared_library

if TYPE_CHECKING:
    from jitlink.session import Dylib

ROUTINES = {"x86_64": "jitlink.arches.x86_64_calls"}
"""The module with the code of each machine."""
UNWINDER = ("_Unwind_SetGR", "_Unwind_SetIP")
GCC_LIBRARY = "libgcc_s.so.1"
CODE = Protection.READ | Protection.EXECUTE
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Adapters:
    """The adapters of one dylib."""

    def __init__(self, dylib: Dylib) -> None:
        self._dylib = dylib
        self._helper: Dylib | None = None
        target = dylib.session.target
        self._routines: Any = import_module(ROUTINES[target.name]) if target.name in ROUTINES else None
        self._count = 0
        self._handler = HANDLER(self._handle)

    def ways_into(self, name: str, address: int, kind: Function) -> tuple[int, Callable[..., Any] | None]:
        """Where calls of a function go in: the address for cffi, and the function for CPython, if it gets one.

        name: of the symbol; address: of the function, which is the address where there is no unwinder.
        """
        graph = LinkGraph(self._dylib.session.target, name=name)
        self._count += 1
        called = {"adapter": f"{name} (typed call {self._count})", "entry": f"{name} (entry {self._count})"}
        names: dict[str, Any] = {"target": address, "inner": address}
        if self._routines is not None and self._has_unwinder():
            stack, x87 = self._routines_need(kind)
            code = self._routines.exception_adapter(stack, x87_result=x87)
            _add_adapter(graph, code, called["adapter"])
            names["handler"] = self._handler
        entry = entry_routines(self._dylib.session.target.name, kind)
        if entry is not None:
            code, unwind = entry
            _add_entry(graph, code, unwind, called["entry"], called["adapter"] if "handler" in names else "inner")
        if len(graph.blocks) == 1:
            return address, None
        helper = self._opened()
        helper.link_against(names, _python_function, self._find)
        helper.add(graph)
        inner = helper[called["adapter"]].address if "handler" in names else address
        return inner, builtin_at(name, helper[called["entry"]].address) if entry is not None else None

    def _routines_need(self, kind: Function) -> tuple[int, bool]:
        """Bytes of arguments that may be on the stack, and whether the result is a long double."""
        result = kind.result.plain
        return stack_bound(kind, self._routines), isinstance(result, Number) and result.width == 16

    def _opened(self) -> Dylib:
        if self._helper is None:
            self._helper = self._dylib.helper()
        return self._helper

    def _has_unwinder(self) -> bool:
        return all(self._find(name) for name in UNWINDER)

    def _find(self, name: str) -> int | None:
        found = self._dylib.address_of(name)
        return found or next((each.address_of(name) for each in self._libraries()), None)

    def _libraries(self) -> list[Any]:
        try:
            return [shared_library(GCC_LIBRARY)]
        except LinkError:
            return []

    def _handle(self, exception: int) -> None:
        """Called by a landing pad, with an exception that nobody has caught."""
        try:
            raise examine(exception, self._find)
        except BaseException as error:
            pending.keep(error, self._dylib)


def _python_function(name: str) -> int | None:
    """The address of what belongs to CPython, whatever the code itself calls by such a name."""
    return process().address_of(name) if name.startswith(("Py", "_Py")) else None


def stack_bound(kind: Function, routines: Any) -> int:
    """Bytes of arguments that are on the stack at most: none where the registers are sure to suffice."""
    general = vector = whole = 0
    in_memory = False
    result = kind.result.plain
    # The address for a large result takes a register.
    general += isinstance(result, Record)
    for _, each in kind.parameters:
        plain = each.plain
        size = each.size or routines.WORD
        whole += -(-size // 16) * 16
        if isinstance(plain, Number) and plain.sort in ("float", "complex"):
            vector += 2 if plain.sort == "complex" else 1
            in_memory |= plain.width == 16 and plain.sort == "float"
        elif isinstance(plain, Record):
            general, vector = general + 2, vector + 2
            in_memory |= size > 16 or _holds_long_double(plain)
        else:
            general += 1
    fits = general <= routines.GENERAL_REGISTERS and vector <= routines.VECTOR_REGISTERS
    return 0 if fits and not in_memory else whole


def _holds_long_double(kind: CType) -> bool:
    plain = kind.plain
    if isinstance(plain, Record):
        return any(_holds_long_double(member.type) for member in plain.members)
    if isinstance(plain, Array):
        return _holds_long_double(plain.element)
    return isinstance(plain, Number) and plain.width == 16


def _add_adapter(graph: LinkGraph, code: Any, name: str) -> None:
    """Add an adapter to a link graph, under a name."""
    text = graph.add_section(".text", CODE)
    adapter = graph.add_block(text, code.adapter.content)
    personality = graph.add_block(text, code.personality.content)
    symbols = {
        "adapter": graph.add_symbol(name, adapter, size=len(code.adapter.content)),
        "landing": graph.add_symbol("landing", adapter, code.landing, scope=Scope.LOCAL),
        "personality": graph.add_symbol("personality", personality, scope=Scope.LOCAL),
    }
    _add_edges(graph, adapter, code.adapter, symbols)
    _add_edges(graph, personality, code.personality, symbols)
    _add_record(graph, code.unwind, symbols)


def _add_entry(graph: LinkGraph, entry: Routine, unwind: Routine, name: str, inner: str) -> None:
    """Add the entry of CPython to a link graph, under a name. inner: the name of what it calls."""
    text = graph.add_section(".text", CODE)
    block = graph.add_block(text, entry.content)
    known = {row.name: row.row for row in graph.symbols if row.name}
    symbols = {"entry": graph.add_symbol(name, block, size=len(entry.content))}
    if inner in known:
        symbols["inner"] = known[inner]
    _add_edges(graph, block, entry, symbols)
    _add_record(graph, unwind, symbols)


def _add_record(graph: LinkGraph, unwind: Routine, symbols: dict[str, int]) -> None:
    section = graph.add_section(".eh_frame", purpose=Purpose.EH_FRAME)
    _add_edges(graph, graph.add_block(section, unwind.content, alignment=8), unwind, symbols)


def _add_edges(graph: LinkGraph, block: int, routine: Routine, symbols: dict[str, int]) -> None:
    """Add the references of a routine; what is not among the symbols is outside."""
    for offset, kind, wanted, addend in routine.edges:
        if wanted not in symbols:
            symbols[wanted] = graph.add_symbol(wanted)
        graph.add_edge(block, offset, kind, symbols[wanted], addend)

"""What a session asks of the place where its code runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jitlink.arches.architecture import Architecture
from jitlink.graph import LinkGraph
from jitlink.linker import Linked
from jitlink.passes.needs import Needs
from jitlink.passes.thread_storage import ThreadStorage, Variable
from jitlink.resolvers import Resolver

if TYPE_CHECKING:
    from jitlink.handles import Symbol
    from jitlink.library import Library


class Located(Protocol):
    """What an address belongs to; its text is what a person wants to read."""

    @property
    def offset(self) -> int:
        """Bytes from the start of the function or variable to the address."""


Locate = Callable[[int], Located | None]
"""From an address to what it belongs to."""


FindVariable = Callable[[str, bool], Variable | None]
"""From the name of a thread-local variable, and whether no other dylib may define it, to where it is."""


class Residence(Protocol):
    """Where the code of one dylib is, and what runs it. It is the Place of its links (jitlink.linker)."""

    page_size: int

    def begin(self, graph: LinkGraph) -> None:
        """Learn what is going to be linked. Raises LinkFailure if it cannot run here."""

    def choose(self, needs: Needs) -> int:
        """Choose the address of an image."""

    def place(self, linked: Linked) -> None:
        """Put a finished image into memory; a failure leaves nothing of it behind."""

    def give_up(self) -> None:
        """Let go of what a link that failed had taken."""

    def release(self) -> None:
        """Unmap everything."""

    def when_idle(self, unmap: Callable[[], None], lock: threading.RLock) -> None:
        """Call unmap as soon as no thread needs the code: at once, or when a later dylib is opened or closed.

        lock: to be held meanwhile, as it is now.
        """

    def outside(self) -> Resolver:
        """Where the names come from that the dylib does not define, unless the caller says otherwise."""

    def resolver(self, given: Resolver | Mapping[str, Any] | Callable[[str], Any]) -> Resolver:
        """Make a resolver of what the caller gave. Raises TypeError, or UsageError for what is of no use here."""

    def storage(self, find: FindVariable) -> ThreadStorage | None:
        """Who makes the threads' blocks of the dylib's variables. find: finds those that a link does not define.

        None where the machine has no thread-locals that we link.
        """

    def variable_of(self, resolver: Resolver, name: str) -> Variable | None:
        """The thread-local variable that a resolver has under a name, or None. Raises LinkFailure for other things."""

    def refuse_variable(self, resolver: Resolver, name: str, address: int) -> None:
        """Raise LinkFailure if what a resolver has found is thread-local: it is asked for as one thing for all."""

    def address_of_variable(self, variable: Variable) -> int:
        """The address of the calling thread's copy of a thread-local variable."""

    def own_name(self, name: str) -> int | None:
        """The address of a name that code needs in order to run here, whatever it is linked against; or None."""

    def is_function(self, address: int) -> bool:
        """Whether a function starts at an address outside of all links."""

    def datum(self, address: int) -> bytes | None:
        """The bytes of the variable at an address outside of all links, or None."""

    def run_initialisers(self, functions: Sequence[int]) -> None:
        """Call initialisers in order."""

    def run_finalisers(self, dso_handle: int | None, functions: Sequence[int]) -> None:
        """Run and forget the atexit handlers of the dylib, then call its finalisers in order."""

    def symbol(self, owner: Any, name: str, address: int, size: int) -> Symbol:
        """A handle on a symbol. owner: the dylib."""

    def library(self, owner: Any, *, owns_session: bool = False) -> Library:
        """The functions of a dylib by name. owner: the dylib; owns_session: close the session with it."""


class Execution(Protocol):
    """Where the code of a session runs.

    Attributes: target; in_process (whether that is this process, whose unwinder and debugger then learn
    of the code); lock (of the session: held while anything is changed, and while emulated code runs).
    """

    @property
    def target(self) -> Architecture: ...
    @property
    def in_process(self) -> bool: ...
    @property
    def lock(self) -> threading.RLock: ...

    def residence(self, locate: Locate) -> Residence:
        """Make the residence of a dylib. locate: what addresses of the session belong to, for errors."""

    def close(self) -> None:
        """Let go of everything; all residences are released by then."""

"""Observers: debuggers and profilers, which are told of every link of a session when somebody asked for it.

Asked for by the arguments of Session, or by the environment: JITLINK_DEBUG=1 for a debugger,
JITLINK_PERF=map or JITLINK_PERF=dump for a profiler. Nothing of this is imported otherwise.
"""

from __future__ import annotations

import os
from typing import Literal, Protocol

from jitlink.arches.architecture import Architecture
from jitlink.errors import UsageError
from jitlink.linker import Linked
from jitlink.runtime.unwind_chain import UnwindChain

DEBUG_VARIABLE, PROFILE_VARIABLE = "JITLINK_DEBUG", "JITLINK_PERF"
Profiler = Literal["map", "dump", "none"]


class Observer(Protocol):
    """Somebody who is told of links."""

    def add(self, owner: object, linked: Linked, chain: UnwindChain | None) -> None:
        """Learn of a link of owner, whose code is in memory and has not run yet."""

    def remove(self, owner: object) -> None:
        """Learn that the code of an owner is about to be unmapped."""


def observers(target: Architecture, debugger: bool | None, profiler: Profiler | None) -> list[Observer]:
    """The observers that a session has; None leaves the choice to the environment.

    Raises UsageError for a profiler that does not exist.
    """
    found: list[Observer] = []
    if debugger is None:
        debugger = os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    if debugger:
        from jitlink.runtime.debugger import Debugger

        found.append(Debugger(target))
    chosen = profiler if profiler is not None else os.environ.get(PROFILE_VARIABLE) or "none"
    if chosen == "map":
        from jitlink.runtime.perf_map import PerfMap

        found.append(PerfMap())
    elif chosen == "dump":
        from jitlink.runtime.jitdump import JitDump

        found.append(JitDump(target))
    elif chosen != "none":
        raise UsageError(f"there is no profiler {chosen!r}: there are 'map', 'dump' and 'none'")
    return found

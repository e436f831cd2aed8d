"""Which helpers of a program are machine code: those of the library, and those that are C functions of the user's.

A helper of the library stands for the function in Python of that number, as long as nobody has put another one in its
place. A program of the other byte order has its helpers called in Python: its numbers in memory are not the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from jitlink.bpf.helpers import checksums, elements, environment, rings
from jitlink.bpf.helpers.host import Host
from jitlink.bpf.helpers.native import NativeHelper
from jitlink.bpf.machine import Helper

if TYPE_CHECKING:
    from jitlink.bpf.jit.leaving import LeavingMachine


class Standing(NamedTuple):
    """A helper of the library: the function in Python that it stands for, and its name in the library."""

    function: Callable[..., int]
    name: str


# fmt: off
LIBRARY: dict[int, Standing] = {
    1:   Standing(elements.map_lookup_elem,         "map_lookup_elem"),
    2:   Standing(elements.map_update_elem,         "map_update_elem"),
    3:   Standing(elements.map_delete_elem,         "map_delete_elem"),
    5:   Standing(environment.ktime_get_ns,         "ktime_get_ns"),
    7:   Standing(environment.get_prandom_u32,      "get_prandom_u32"),
    8:   Standing(environment.get_smp_processor_id, "get_smp_processor_id"),
    28:  Standing(checksums.csum_diff,              "csum_diff"),
    125: Standing(environment.ktime_get_boot_ns,    "ktime_get_boot_ns"),
    130: Standing(rings.ringbuf_output,             "ringbuf_output"),
    160: Standing(environment.ktime_get_ns,         "ktime_get_ns"),
    195: Standing(elements.map_lookup_percpu_elem,  "map_lookup_percpu_elem"),
    208: Standing(environment.ktime_get_tai_ns,     "ktime_get_tai_ns"),
}
# fmt: on


@dataclass
class NativeHelpers:
    """Helpers in machine code.

    Attributes: addresses (by number); used (by number, the helpers in Python whose place they take); shown (the
    address of what their host shows to those of the library, which the record of a run has to hold; or 0).
    """

    addresses: dict[int, int] = field(default_factory=dict)
    used: dict[int, Helper] = field(default_factory=dict)
    shown: int = 0


def native_helpers(machine: LeavingMachine, numbers: Iterable[int], *, swapped: bool) -> NativeHelpers:
    """Find those of a program's helpers that are machine code. swapped: its byte order is not the host's."""
    found = NativeHelpers()
    if not machine.calls_host_code:
        return found
    standing: dict[int, tuple[Helper, Host]] = {}
    for number in numbers:
        helper: Any = machine.helpers.get(number)
        if isinstance(helper, NativeHelper):
            found.addresses[number], found.used[number] = helper.address, helper
        elif number in LIBRARY and not swapped and getattr(helper, "func", None) is LIBRARY[number].function:
            standing[number] = helper, helper.args[0]
    if standing:
        _add_library(machine, found, standing)
    return found


def _add_library(machine: LeavingMachine, found: NativeHelpers, standing: dict[int, tuple[Helper, Host]]) -> None:
    """Add the helpers of the library, if there is one."""
    # Most programs call no such helper, and need nothing of this.
    from jitlink.bpf.native.library import library

    made = library(keeps=machine.keeps)
    if made is None:
        return
    # A run has one host; what belongs to another is left to Python.
    host = next(iter(standing.values()))[1]
    found.shown = host.show(host.maps.known(made).address)
    for number, (helper, of_host) in standing.items():
        if of_host is host:
            found.addresses[number] = made.helper(LIBRARY[number].name, checked=machine.plan.sandbox)
            found.used[number] = helper

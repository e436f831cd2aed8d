"""What a program is compiled for, and what its functions take and give back for that."""

from __future__ import annotations

from dataclasses import dataclass

from jitlink.bpf.jit.abi import OFFSET
from jitlink.bpf.native.lookups import Lookup

RESULTS = 6
"""How many registers a function gives back: r0 to r5."""
LOCALS = 10
"""How many registers a function takes: r0 to r9."""


@dataclass(frozen=True)
class Choices:
    """What a program is compiled for.

    Attributes: sandbox; metered; swapped (its byte order is not the host's); frame_is_known (r10 is the
    end of the active frame); good (accesses that need no check, by slot); symbols (for slots with a constant
    that is an address: the symbol that stands for it); helpers (numbers of those in machine code); lookups
    (of maps in machine code, by the symbol of the map); looked_up (calls of map_lookup_elem whose map is known, by
    slot: its symbol); inlines (functions and lookups of any size may be inlined).
    """

    sandbox: bool
    metered: bool
    swapped: bool
    frame_is_known: bool
    good: list[bool]
    symbols: dict[int, str]
    helpers: frozenset[int]
    lookups: dict[str, Lookup]
    looked_up: dict[int, str]
    inlines: bool

    @property
    def result(self) -> str:
        """The type of what a function gives back."""
        return "{ " + ", ".join(["i64"] * (RESULTS + self.metered)) + ", i1 }"

    @property
    def parameters(self) -> list[str]:
        """The types and names of what a function takes."""
        registers = [f"i64 %r{number}" for number in range(LOCALS + (not self.frame_is_known))]
        budget = ["i64 %budget"] if self.metered else []
        return ["ptr noalias %record", "i64 %frame", "ptr noalias %stack", *registers, "i64 %rounds", *budget]


def record_field(name: str, within: int = 0) -> str:
    """The address of a field of the record, as an instruction's right side."""
    return f"getelementptr i8, ptr %record, i64 {OFFSET[name] + within}"

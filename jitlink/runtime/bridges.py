"""Entries to functions of another calling convention, made while the code runs.

An entry reads the function that it leads to from a slot, so that entries for functions that are not known yet
can be linked beforehand, as many as fit a page, and no page is ever written and executable. All entries of a
page lead through one bridge, for one signature (see jitlink.arches.x86_64_conventions).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from jitlink.arches.x86_64_conventions import (
    ADDEND,
    BRIDGE_FIELD,
    ENTRY,
    FIELD,
    POINTER_FIELD,
    WORD,
    Signature,
    bridge_from_microsoft,
    bridge_to_microsoft,
)
from jitlink.graph import LinkGraph, Scope
from jitlink.protection import Protection

if TYPE_CHECKING:
    from jitlink.session import Dylib

ENTRIES = 64
"""In a page of them."""
CODE = Protection.READ | Protection.EXECUTE
DATA = Protection.READ | Protection.WRITE


class Bridges:
    """The entries for the code of one dylib; they are unmapped when it is closed."""

    def __init__(self, dylib: Dylib) -> None:
        self._dylib = dylib
        self._made: dict[tuple[int, Signature, bool], int] = {}
        # What an entry leads to: a pointer that comes back is not bridged a second time.
        self._origin: dict[int, tuple[int, bool]] = {}
        self._free: dict[tuple[Signature, bool], list[tuple[int, int]]] = {}
        self._pages = 0

    def to_microsoft(self, address: int, kind: Signature) -> int:
        """Where this process can call a function of Microsoft's convention. 0 stays 0."""
        return self._entry(address, kind, to_microsoft=True)

    def from_microsoft(self, address: int, kind: Signature) -> int:
        """Where code of Microsoft's convention can call a function of this process. 0 stays 0."""
        return self._entry(address, kind, to_microsoft=False)

    def _entry(self, address: int, kind: Signature, *, to_microsoft: bool) -> int:
        known = self._origin.get(address)
        if not address or (known is not None and known[1] != to_microsoft):
            return known[0] if known else address
        key = address, kind, to_microsoft
        with self._dylib.session.lock:
            if key not in self._made:
                free = self._free.setdefault((kind, to_microsoft), [])
                if not free:
                    free += self._new_page(kind, to_microsoft)
                entry, slot = free.pop()
                ctypes.c_uint64.from_address(slot).value = address
                self._made[key] = entry
                self._origin[entry] = address, to_microsoft
            return self._made[key]

    def _new_page(self, kind: Signature, to_microsoft: bool) -> list[tuple[int, int]]:
        """Link a page of entries; returns the address and the slot of each."""
        self._pages += 1
        name = f"bridges {self._pages}: {kind}"
        graph = LinkGraph(self._dylib.session.target, name=name)
        text, data = graph.add_section(".text", CODE), graph.add_section(".bss", DATA)
        make = bridge_to_microsoft if to_microsoft else bridge_from_microsoft
        bridge = graph.add_symbol("bridge", graph.add_block(text, make(kind)), scope=Scope.LOCAL)
        slots = graph.add_symbol(f"{name}, slots", graph.add_block(data, WORD * ENTRIES))
        entries = graph.add_block(text, ENTRY * ENTRIES)
        graph.add_symbol(name, entries)
        for number in range(ENTRIES):
            at = len(ENTRY) * number
            graph.add_edge(entries, at + POINTER_FIELD, FIELD, slots, WORD * number + ADDEND)
            graph.add_edge(entries, at + BRIDGE_FIELD, FIELD, bridge, ADDEND)
        helper = self._dylib.helper()
        helper.add(graph)
        first, first_slot = helper[name].address, helper[f"{name}, slots"].address
        return [(first + len(ENTRY) * row, first_slot + WORD * row) for row in reversed(range(ENTRIES))]

"""The second version of a loop, without checks and meter: for how many rounds it may run, and what they cost.

jitlink.bpf.llvm_tier.loops says which loops have one, and what a round accesses.
"""

from __future__ import annotations

from jitlink.bpf.llvm_tier.accesses import Accesses
from jitlink.bpf.llvm_tier.loops import Loop, Window, find_loop
from jitlink.bpf.llvm_tier.values import LIKELY


class Rounds(Accesses):
    """How many rounds of a loop go without checks."""

    def _find_loops(self) -> dict[int, Loop]:
        """The loops that get a second version, by their blocks."""
        if not self.choices.sandbox and not self.choices.metered:
            return {}
        found = (find_loop(self.program, block, self._is_checked) for block in self.body.blocks.values())
        return {loop.lead: loop for loop in found if loop is not None}

    def _account(self, loop: Loop, more: int) -> None:
        """Take what the second version has carried out from the budget: its rounds, and more instructions."""
        if self.choices.metered:
            used = self._set(f"mul i64 %L{loop.lead}.i, {loop.count}")
            left = self._set("load i64, ptr %Budget")
            left = self._set(f"sub i64 {left}, {used}")
            self._add(f"store i64 {self._set(f'sub i64 {left}, {more}')}, ptr %Budget")

    def _rounds(self, loop: Loop) -> str:
        """How many rounds need no check and no meter."""
        rounds = "-1"
        if self.choices.metered:
            rounds = self._set(f"udiv i64 {self._set('load i64, ptr %Budget')}, {loop.count}")
        for window, site in zip(loop.windows, loop.kept, strict=True):
            room = self._room(window, *site)
            rounds = self._set(f"call i64 @llvm.umin.i64(i64 {rounds}, i64 {room})")
        return rounds

    def _room(self, window: Window, start: str, places: str) -> str:
        """For how many rounds a window stays in the region that it is in; 0 where it is in none."""
        first = str(window.low)
        for register, factor in window.terms:
            value = self._set(f"mul i64 {self._get(register)}, {factor}") if factor != 1 else self._get(register)
            first = self._set(f"add i64 {first}, {value}")
        number, size = self._new(), window.high - window.low
        distance = self._set(f"sub i64 {first}, {self._set(f'load i64, ptr {start}')}")
        known = self._set(f"icmp ult i64 {distance}, {self._set(f'load i64, ptr {places}')}")
        self._add(f"br i1 {known}, label %y{number}, label %x{number}, {LIKELY}", f"x{number}:")
        found = (
            f"call {{ i64, i64 }} @search(ptr %record, i64 %frame, i64 {first}, i64 {size}, i1 {int(window.writes)})"
        )
        pair = self._set(found)
        self._add(f"store i64 {self._set(f'extractvalue {{ i64, i64 }} {pair}, 0')}, ptr {start}")
        length = self._set(f"extractvalue {{ i64, i64 }} {pair}, 1")
        length = self._set(f"call i64 @llvm.usub.sat.i64(i64 {length}, i64 {size - 1})")
        self._add(f"store i64 {length}, ptr {places}", f"br label %y{number}", f"y{number}:")
        distance = self._set(f"sub i64 {first}, {self._set(f'load i64, ptr {start}')}")
        count = self._set(f"load i64, ptr {places}")
        inside = self._set(f"icmp ult i64 {distance}, {count}")
        if not window.step:
            return self._set(f"select i1 {inside}, i64 -1, i64 0")
        if window.step > 0:
            last = self._set(f"sub i64 {count}, 1")
            distance = self._set(f"sub i64 {last}, {distance}")
        more = self._set(f"udiv i64 {distance}, {abs(window.step)}")
        return self._set(f"select i1 {inside}, i64 {self._set(f'add i64 {more}, 1')}, i64 0")

"""Placement: where in the address space the images of a dylib go, and how they get there.

A dylib reserves one range of addresses and puts the images of all its links into it, so that code of
the small model reaches from one to the other. The range is chosen by what the first link needs: below
2 GiB for code with 32-bit addresses, near the libraries whose data it reaches for, else near the
libraries that it calls, so that calls need no stubs. A later link with other needs gets another range.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from jitlink.errors import MemoryRefused
from jitlink.linker import Linked
from jitlink.memory import ANYWHERE, Policy, Reservation, Segment, page_size, reserve
from jitlink.passes.needs import Needs
from jitlink.protection import Protection

SMALLEST_RANGE = 8 << 20
"""Small, since the room near the libraries of a process is 2 GiB either way, and hundreds of dylibs may want it."""
ROOM_TO_GROW = 4
REACH = 1 << 31
LOWEST = 1 << 16
CODE = Protection.READ | Protection.EXECUTE
RESOLVER = ctypes.CFUNCTYPE(ctypes.c_void_p)


@dataclass
class Range:
    """A reserved range of addresses; used counts bytes from its start."""

    reservation: Reservation
    used: int = 0

    @property
    def base(self) -> int:
        """Its first address."""
        return self.reservation.base

    def offset_for(self, needs: Needs) -> int | None:
        """Where in the range an image can go, or None."""
        alignment = max(needs.alignment, page_size())
        start = -(-(self.base + self.used) // alignment) * alignment
        end = start + needs.size
        if end > self.base + self.reservation.size or (needs.ceiling and end > needs.ceiling):
            return None
        if any(abs(address - place) >= REACH for address in needs.required for place in (start, end)):
            return None
        return start - self.base


class Images:
    """The memory of a dylib: chooses where images go, and puts them there."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.page_size = page_size()
        self.ranges: list[Range] = []
        self._chosen: Range | None = None

    def choose(self, needs: Needs) -> int:
        """Choose the address of an image. Raises MemoryRefused where there is no room for it."""
        for each in self.ranges:
            offset = each.offset_for(needs)
            if offset is not None:
                self._chosen = each
                return each.base + offset
        self._chosen = Range(self._reserve(needs))
        self.ranges.append(self._chosen)
        offset = self._chosen.offset_for(needs)
        # Where some needs cannot be met, the fixups that then do not fit say so by name.
        return self._chosen.base + (offset or 0)

    def _reserve(self, needs: Needs) -> Reservation:
        wanted = max(SMALLEST_RANGE, ROOM_TO_GROW * needs.size) + needs.alignment
        least = needs.size + needs.alignment
        if needs.ceiling:
            return self._within(wanted, least, 0, needs.ceiling)
        for near in (needs.required, [needs.preferred] if needs.preferred else []):
            if near:
                low, high = max(max(near) - REACH, LOWEST), min(near) + REACH
                try:
                    return self._within(wanted, least, low, high)
                except MemoryRefused:
                    continue
        return self._within(wanted, least, 0, ANYWHERE)

    def _within(self, wanted: int, least: int, low: int, high: int) -> Reservation:
        """Reserve a range with room to grow, or one that is just large enough."""
        try:
            return reserve(wanted, low=low, high=high, policy=self.policy)
        except MemoryRefused:
            return reserve(least, low=low, high=high, policy=self.policy)

    def place(self, linked: Linked) -> None:
        """Put a finished image into memory and give its pages their protections.

        IFUNC resolvers run in between: the code is executable then, and the GOT still writable. A
        failure leaves nothing of the image behind.
        """
        chosen = self._chosen
        assert chosen is not None
        start = linked.base - chosen.base
        end = start + -(-linked.layout.size // self.page_size) * self.page_size
        try:
            segments = self._commit(chosen.reservation, start, linked)
            code = [segment for segment in segments if segment.protection == CODE]
            for segment in code:
                segment.seal()
            for slot in linked.resolver_slots:
                self._run_resolver(slot, segments)
            for segment in segments:
                if segment not in code:
                    segment.seal()
        except BaseException:
            if end > start:
                chosen.reservation.decommit(start, end - start)
            raise
        chosen.used = end

    def _commit(self, reservation: Reservation, start: int, linked: Linked) -> list[Segment]:
        segments = []
        for part in linked.layout.segments:
            size = -(-part.size // self.page_size) * self.page_size
            if not size:
                continue
            segment = reservation.commit(start + part.offset, size, part.protection)
            segment.working[: part.filled] = linked.image[part.offset : part.offset + part.filled]
            segments.append(segment)
        return segments

    def _run_resolver(self, slot: int, segments: list[Segment]) -> None:
        """Replace the resolver in a GOT entry by the function that it chooses."""
        segment = next(segment for segment in segments if segment.address <= slot < segment.address + segment.size)
        entry = segment.working[slot - segment.address :][:8]
        resolver = int.from_bytes(entry.tobytes(), "little")
        entry[:] = list((RESOLVER(resolver)() or 0).to_bytes(8, "little"))

    def give_up(self) -> None:
        """Give back the ranges that no image is in: a link that failed had reserved them."""
        for each in [each for each in self.ranges if not each.used]:
            each.reservation.release()
            self.ranges.remove(each)

    def release(self) -> None:
        """Unmap everything."""
        for each in self.ranges:
            each.reservation.release()
        self.ranges.clear()

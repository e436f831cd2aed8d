"""From an object of a program to memory that can be run."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count

import numpy as np

from jitlink.arches import host_architecture
from jitlink.bpf.jit.images import ENTER
from jitlink.bpf.jit.program import Slots
from jitlink.columns import Rows
from jitlink.inputs import collect
from jitlink.linker import Linked, Options, link
from jitlink.memory import Reservation, page_size, reserve
from jitlink.passes.needs import Needs
from jitlink.protection import Protection

_PLACES = count(1 << 62, 1 << 32)
"""Numbers for the instructions of images: no address is one of them, and no two images share one."""
FROM_C = ("memcpy", "memmove", "memset", "memcmp", "bcmp")
"""What LLVM calls without being asked to."""


@dataclass(frozen=True)
class Entries:
    """What the machine looks up. entry (int64[slots + 1]: from the image's base to where a slot is entered); slots."""

    entry: Rows
    slots: Slots


class LlvmImage:
    """A program in memory, which is given back when the image is dropped.

    Attributes: base, end (the numbers of its places: slot + 1 behind base); start (address of its entry 0); enter
    (the routine, as a C function); lookups (none: see jitlink.bpf.jit.images); functions (slots
    that a call from outside may enter); code; addresses (of the entries, by slot).
    """

    def __init__(
        self, slots: Slots, base: int, enter: int, addresses: Mapping[int, int], reservation: Reservation
    ) -> None:
        self.base, self.end = base, base + len(slots.form) + 1
        self.addresses = addresses
        self.functions = set(addresses)
        entry = np.full(len(slots.form), -1, np.int64)
        for slot, address in addresses.items():
            entry[slot] = address - base
        self.code = Entries(entry, slots)
        self.start = addresses[0]
        self.lookups: dict[int, tuple[int, int]] = {}
        self.enter = ENTER(enter)
        weakref.finalize(self, reservation.release).atexit = False

    def slot_of(self, place: int) -> int:
        """The slot that a place stands for."""
        return place - self.base - 1


class _World:
    """What the linker sees around a program."""

    def __init__(self, addresses: Mapping[str, int]) -> None:
        self.addresses = addresses

    def address_of(self, name: str) -> int | None:
        """The address of a name that we have chosen, or of a function of C that LLVM calls."""
        found = self.addresses.get(name)
        return _from_c(name) if found is None and name in FROM_C else found

    def own_address_of(self, name: str) -> int | None:
        """Nothing was linked before."""
        return None

    hidden_address_of = own_address_of

    def is_function(self, address: int) -> bool:
        """What is called is a function, and what is not is reached through the GOT."""
        return True

    def datum(self, address: int) -> bytes | None:
        """Nothing is copied."""
        return None


class _Pages:
    """Pages of their own for one image."""

    def __init__(self) -> None:
        self.page_size = page_size()
        self.reservation: Reservation | None = None

    def choose(self, needs: Needs) -> int:
        """Reserve the pages."""
        self.reservation = reserve(needs.size + needs.alignment)
        return self.reservation.base

    def fill(self, linked: Linked, trap: int) -> Reservation:
        """Put the image into the pages and give them their protections."""
        assert self.reservation is not None
        for part in linked.layout.segments:
            size = -(-part.size // self.page_size) * self.page_size
            segment = self.reservation.commit(part.offset, size, part.protection)
            segment.working[: part.filled] = linked.image[part.offset : part.offset + part.filled]
            if part.protection & Protection.EXECUTE:
                # Also where no block lies: nobody shall run what is there.
                segment.working[part.filled :] = trap
            segment.seal()
        return self.reservation

    def release(self) -> None:
        """Give the pages back."""
        if self.reservation is not None:
            self.reservation.release()


@cache
def _from_c(name: str) -> int:
    address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    assert address
    return address


def load_functions(
    content: bytes, names: Mapping[str, str], symbols: Mapping[str, int]
) -> tuple[dict[str, int], Reservation]:
    """Link an object and map it; returns the addresses of what names says (key: symbol), and the pages.

    symbols: the addresses of what the object refers to. Raises LinkError, and MemoryRefused where the host gives
    no memory.
    """
    target = host_architecture()
    assert target is not None
    inputs = collect([content])
    graph = inputs.read(inputs.objects, target)
    pages = _Pages()
    try:
        linked = link(graph, _World(symbols), pages, Options())
        reservation = pages.fill(linked, target.trap)
    except BaseException:
        pages.release()
        raise
    definitions = linked.definitions()
    addresses = {}
    for key, symbol in names.items():
        row = definitions.find(symbol.encode())
        assert row is not None, f"the object has no {symbol}"
        addresses[key] = int(definitions.address[row])
    return addresses, reservation


def load_object(content: bytes, slots: Slots, entries: list[int], symbols: Mapping[str, int]) -> LlvmImage:
    """Link the object of a program and map it; raises as load_functions. symbols: addresses of what it refers to."""
    base = next(_PLACES)
    names = {"enter": "enter"} | {str(slot): f"entry{slot}" for slot in entries}
    addresses, reservation = load_functions(content, names, {**symbols, "places": base})
    enter = addresses.pop("enter")
    return LlvmImage(slots, base, enter, {int(slot): address for slot, address in addresses.items()}, reservation)

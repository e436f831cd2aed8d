"""Instructions that touch memory, call or leave: one closure maker each.

Arithmetic and branches are made from expressions (semantics.py); what is here needs the machine.
Every maker takes what is known of an instruction before it runs and returns a step: a closure that
carries it out on the registers and returns the index of the next instruction.

Loads and stores remember the region that they used last and look for another one only when an
address lies outside of it: an instruction that reads the packet reads the packet the next time too.
A region that was removed has size 0, so what is remembered never outlives it.

Misaligned loads and stores are allowed, as on x86. A misaligned atomic access faults, since the
kernel's verifier asks for natural alignment there.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.machine import VALUE_MASK
from jitlink.bpf.regions import Region, Regions
from jitlink.bpf.semantics import Step

_NOWHERE = Region("nowhere", 0, memoryview(b""), writable=False)

_MARK = {"little": "<", "big": ">"}
_UNSIGNED = {8: "B", 16: "H", 32: "I", 64: "Q"}
_SIGNED = {8: "b", 16: "h", 32: "i"}


def load(
    regions: Regions, byteorder: ByteOrder, bits: int, signed: bool, d: int, s: int, offset: int, following: int
) -> Step:
    """dst = *(size *)(src + offset), zero- or sign-extended to 64 bits."""
    find, size = regions.find, bits // 8
    unpack = Struct(_MARK[byteorder] + (_SIGNED if signed else _UNSIGNED)[bits]).unpack_from
    region = _NOWHERE

    def load_unsigned(r: list[int]) -> int:
        nonlocal region
        at = r[s] + offset - region.address
        if at < 0 or at > region.size - size:
            region = find(r[s] + offset, size)
            at = (r[s] + offset & VALUE_MASK) - region.address
        r[d] = unpack(region.data, at)[0]
        return following

    def load_signed(r: list[int]) -> int:
        load_unsigned(r)
        r[d] &= VALUE_MASK
        return following

    return load_signed if signed else load_unsigned


def store(regions: Regions, byteorder: ByteOrder, bits: int, d: int, s: int, offset: int, following: int) -> Step:
    """*(size *)(dst + offset) = the low bits of src."""
    find, size, mask = regions.find, bits // 8, (1 << bits) - 1
    pack = Struct(_MARK[byteorder] + _UNSIGNED[bits]).pack_into
    region = _NOWHERE

    def store_register(r: list[int]) -> int:
        nonlocal region
        at = r[d] + offset - region.address
        if at < 0 or at > region.size - size:
            region = find(r[d] + offset, size, True)
            at = (r[d] + offset & VALUE_MASK) - region.address
        pack(region.data, at, r[s] & mask)
        return following

    return store_register


def store_constant(
    regions: Regions, byteorder: ByteOrder, bits: int, d: int, value: int, offset: int, following: int
) -> Step:
    """*(size *)(dst + offset) = the low bits of a constant."""
    data = (value & (1 << bits) - 1).to_bytes(bits // 8, byteorder)
    find, size = regions.find, bits // 8
    region = _NOWHERE

    def store_immediate(r: list[int]) -> int:
        nonlocal region
        at = r[d] + offset - region.address
        if at < 0 or at > region.size - size:
            region = find(r[d] + offset, size, True)
            at = (r[d] + offset & VALUE_MASK) - region.address
        region.data[at : at + size] = data
        return following

    return store_immediate


ATOMIC_RESULTS: dict[str, Callable[[int, int, int], int]] = {
    "add": lambda old, operand, r0: old + operand,
    "or": lambda old, operand, r0: old | operand,
    "and": lambda old, operand, r0: old & operand,
    "xor": lambda old, operand, r0: old ^ operand,
    "xchg": lambda old, operand, r0: operand,
    "cmpxchg": lambda old, operand, r0: operand if old == r0 else old,
    "load_acquire": lambda old, operand, r0: old,
    "store_release": lambda old, operand, r0: operand,
}
"""What an atomic operation leaves in memory, from what was there, src and r0, all cut to its width."""


def atomic(
    regions: Regions, byteorder: ByteOrder, operation: str, bits: int, d: int, s: int, offset: int, following: int
) -> Step:
    """An atomic operation of RFC 9669 section 5.3, load_acquire or store_release.

    A run has one thread, so that nothing need be done to make it atomic or ordered.
    """
    size, mask = bits // 8, (1 << bits) - 1
    layout = Struct(_MARK[byteorder] + _UNSIGNED[bits])
    result = ATOMIC_RESULTS[operation.removeprefix("fetch_")]
    reads_only = operation == "load_acquire"
    base = s if reads_only else d
    # The register that gets the old value: src where the operation fetches it.
    fetched = {"load_acquire": d, "cmpxchg": 0, "xchg": s}.get(operation, s if operation.startswith("fetch_") else None)

    def step(r: list[int]) -> int:
        address = r[base] + offset & VALUE_MASK
        if address % size:
            raise BpfFault(
                FaultKind.MISALIGNED_ATOMIC,
                f"atomic access of {size} bytes at {address:#x}, which is not a multiple of {size}",
                address=address,
                size=size,
            )
        region = regions.find(address, size, not reads_only)
        at = address - region.address
        old = layout.unpack_from(region.data, at)[0]
        if not reads_only:
            layout.pack_into(region.data, at, result(old, r[s] & mask, r[0] & mask) & mask)
        if fetched is not None:
            r[fetched] = old
        return following

    return step


def convert(operation: str, bits: int, byteorder: ByteOrder, d: int, following: int) -> Step:
    """le, be: cut dst to its low bits, in the byte order named; bswap: swap them always."""
    size, mask = bits // 8, (1 << bits) - 1
    swaps = operation == "bswap" or {"le": "little", "be": "big"}[operation] != byteorder

    def truncate(r: list[int]) -> int:
        r[d] &= mask
        return following

    def swap(r: list[int]) -> int:
        r[d] = int.from_bytes((r[d] & mask).to_bytes(size, "little"), "big")
        return following

    return swap if swaps else truncate


def constant(d: int, value: int, following: int) -> Step:
    """dst = a 64-bit constant."""

    def load_constant(r: list[int]) -> int:
        r[d] = value
        return following

    return load_constant


def jump(target: int) -> Step:
    """Go to target."""
    return lambda r: target


def refuse(kind: FaultKind, detail: str) -> Step:
    """Stop the program here."""

    def stop(r: list[int]) -> int:
        raise BpfFault(kind, detail)

    return stop

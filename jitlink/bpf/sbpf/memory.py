"""The memory of an SBPF program: fixed regions at virtual addresses, and the way from there to the host.

    0x0_0000_0000   constants, in version 3
    0x1_0000_0000   the program: code and constants; in version 3 code, which cannot be read
    0x2_0000_0000   the stack
    0x3_0000_0000   the heap
    0x4_0000_0000   the input of the run

So the upper half of an address says the region, and the lower half is a distance in it. A program sees no
address of the host, and two machines that run it see the same numbers.

In version 0 a gap as large as a frame follows every frame of the stack, where nothing may be accessed. An
access that begins in a frame and runs over its end goes on in the next one: so does the public implementation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.columns import Buffer
from jitlink.errors import UsageError

REGION_BITS = 32
REGION_SIZE = 1 << REGION_BITS
CONSTANTS_START, PROGRAM_START, STACK_START, HEAP_START, INPUT_START = (number << REGION_BITS for number in range(5))
REGIONS = 5
FRAME_SIZE = 4096
CALL_DEPTH = 64
"""How many functions can be active at once, the first one included."""
STACK_BYTES = FRAME_SIZE * CALL_DEPTH
HEAP_BYTES = 32 * 1024
LARGEST_HEAP = 256 * 1024
ADDRESS_MASK = 0xFFFF_FFFF_FFFF_FFFF
FRAME_BITS = FRAME_SIZE.bit_length() - 1


@dataclass(eq=False)
class Region:
    """Bytes at a virtual address.

    Attributes: name; address (of the first byte); array (uint8[n], the bytes); data (the same, as memoryview);
    writable; gapped (each frame is followed by a gap).
    """

    name: str
    address: int
    array: Buffer
    writable: bool
    gapped: bool = False

    def __post_init__(self) -> None:
        self.data: memoryview = self.array.data

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.array)

    def offset_of(self, address: int, size: int) -> int | None:
        """Where in the bytes an access lies; None where it is not all in them. address: unsigned."""
        offset = address - self.address
        if self.gapped:
            frame, within = offset >> FRAME_BITS, offset & FRAME_SIZE - 1
            if frame & 1:
                return None
            offset = frame >> 1 << FRAME_BITS | within
        return offset if offset >= 0 and offset + size <= len(self.array) else None


class Memory:
    """The regions of one machine, each found by the upper half of an address."""

    def __init__(self, *regions: Region) -> None:
        self.regions: list[Region | None] = [None] * REGIONS
        for region in regions:
            self.put(region)

    def put(self, region: Region) -> None:
        """Put a region in its place, which it may take from another. Raises UsageError where it does not fit."""
        number, first = divmod(region.address, REGION_SIZE)
        if not 0 <= number < REGIONS or first + region.size * (1 + region.gapped) > REGION_SIZE:
            raise UsageError(f"the region {region.name} at {region.address:#x} does not fit the address space")
        self.regions[number] = region

    def translate(self, address: int, size: int, write: bool = False) -> tuple[Region, int]:
        """Find the region of an access, and where in its bytes it lies. Raises BpfFault where there is no such."""
        address &= ADDRESS_MASK
        number = address >> REGION_BITS
        region = self.regions[number] if number < REGIONS else None
        offset = None if region is None else region.offset_of(address, size)
        if region is None or offset is None:
            raise self._out_of_bounds(address, size, write, region)
        if write and not region.writable:
            raise BpfFault(
                FaultKind.READ_ONLY,
                f"write of {size} bytes at {address:#x} in the {region.name}, which is read-only",
                address=address,
                size=size,
                nearest=region.name,
            )
        return region, offset

    def read(self, address: int, size: int) -> bytes:
        """Copy bytes out. Raises BpfFault outside of the memory."""
        if not size:
            return b""
        region, at = self.translate(address, size)
        return bytes(region.data[at : at + size])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in. Raises BpfFault outside of the memory, or where it is read-only."""
        if len(data):
            region, at = self.translate(address, len(data), True)
            region.data[at : at + len(data)] = bytes(data)

    def _out_of_bounds(self, address: int, size: int, write: bool, region: Region | None) -> BpfFault:
        access = f"{'write' if write else 'read'} of {size} bytes at {address:#x}"
        where = "in no region" if region is None else f"outside of the {region.name} ({region.size} bytes)"
        if region is not None and region.gapped and region.offset_of(address & -FRAME_SIZE, 1) is None:
            where = "in a gap of the stack, or above it"
        return BpfFault(
            FaultKind.OUT_OF_BOUNDS,
            f"{access} is {where}",
            address=address,
            size=size,
            nearest=None if region is None else region.name,
        )


def zeroed(size: int) -> Buffer:
    """Make bytes that are all zero: uint8[size]."""
    return np.zeros(size, np.uint8)

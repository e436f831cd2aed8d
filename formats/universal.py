"""Universal files: one file with code for several machines, of which the wanted one is taken.

A universal ("fat") file is a table, in big-endian order whatever the machines are, that says where the
slice of each machine lies. A slice is an object or an archive like any other.

Source: <mach-o/fat.h>, <mach/machine.h>.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jitlink.columns import Buffer
from jitlink.errors import MalformedInput, UnsupportedInput
from jitlink.formats import macho_layout as macho

HEADER_SIZE = 8
CPU = [("cpu", ">u4"), ("subtype", ">u4")]
ENTRY = {
    macho.FAT_MAGIC: np.dtype([*CPU, ("offset", ">u4"), ("size", ">u4"), ("align", ">u4")]),
    macho.FAT_MAGIC_64: np.dtype([*CPU, ("offset", ">u8"), ("size", ">u8"), ("align", ">u4"), ("reserved", ">u4")]),
}
MAGICS = tuple(magic.to_bytes(4, "big") for magic in ENTRY)
MOST_SLICES = 42
"""A class file of Java has the same magic number; the version that follows it is 43 or more (45 is Java 1.0)."""
CPU_OF_MACHINE = {"x86_64": macho.CPU_TYPE_X86_64, "aarch64": macho.CPU_TYPE_ARM64}
SPECIAL_SUBTYPES = {
    (macho.CPU_TYPE_X86_64, macho.CPU_SUBTYPE_X86_64_H): "x86_64h",
    (macho.CPU_TYPE_ARM64, macho.CPU_SUBTYPE_ARM64E): "arm64e",
}


@dataclass(frozen=True)
class Slice:
    """A part of a universal file: machine (as Apple's tools name it), cpu, start and size (bytes, in the pool)."""

    machine: str
    cpu: int
    start: int
    size: int

    @property
    def is_plain(self) -> bool:
        """Whether it runs on every machine of its sort."""
        return self.machine not in SPECIAL_SUBTYPES.values()


def is_universal(pool: Buffer, start: int, size: int) -> bool:
    """Whether the bytes at start are a universal file."""
    if size < HEADER_SIZE or pool[start : start + 4].tobytes() not in MAGICS:
        return False
    return int.from_bytes(pool[start + 4 : start + 8].tobytes(), "big") <= MOST_SLICES


def read_universal(pool: Buffer, start: int, size: int, name: str) -> list[Slice]:
    """Read the slices of a universal file. Raises MalformedInput."""
    magic, count = (int.from_bytes(pool[start + at : start + at + 4].tobytes(), "big") for at in (0, 4))
    entry = ENTRY[magic]
    end = HEADER_SIZE + count * entry.itemsize
    if end > size:
        raise MalformedInput("the file ends inside its table of slices", input=name)
    slices = []
    for record in np.frombuffer(pool[start + HEADER_SIZE : start + end].tobytes(), entry):
        cpu, subtype = int(record["cpu"]), int(record["subtype"]) & macho.CPU_SUBTYPE_MASK
        machine = SPECIAL_SUBTYPES.get((cpu, subtype)) or macho.CPU_NAMES.get(cpu, f"CPU type {cpu:#x}")
        offset, length = int(record["offset"]), int(record["size"])
        if offset < end or offset + length > size:
            raise MalformedInput(f"the slice for {machine} lies outside of the file", input=name)
        slices.append(Slice(machine, cpu, start + offset, length))
    return slices


def wanted_slice(slices: Sequence[Slice], machine: str | None, preferred: str | None, name: str) -> Slice:
    """Choose the slice for a machine; without one, that for the preferred machine, or the first that we link for.

    Of several slices for one machine the plain one is taken. Raises UnsupportedInput where there is none.
    """
    machines = [machine] if machine is not None else [*([preferred] if preferred else []), *CPU_OF_MACHINE]
    for each in machines:
        fitting = [one for one in slices if one.cpu == CPU_OF_MACHINE.get(each)]
        if fitting:
            return next((one for one in fitting if one.is_plain), fitting[0])
    words = ", ".join(one.machine for one in slices) or "nothing"
    wanted = machine or "any machine that we link for"
    raise UnsupportedInput(f"a universal file without code for {wanted}; it has {words}", input=name)

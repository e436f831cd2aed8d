"""The instructions of a block, each with its bytes and its text.

Capstone disassembles all machines but BPF, for which the project has a disassembler of its own. Bytes
that are no instruction, such as data between functions, are shown as bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jitlink.graph import Definition, LinkGraph

UNIT = {"x86_64": 1, "aarch64": 4, "riscv64": 2, "bpf": 8, "bpfeb": 8}
"""Bytes that instructions of a machine are multiples of."""
BYTES_A_LINE = 8
"""Of what is no instruction."""


class Instruction(NamedTuple):
    """One instruction, or bytes that are none.

    Attributes: offset (bytes from the start of the block); content; text (mnemonic and operands).
    """

    offset: int
    content: bytes
    text: str

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + len(self.content)


def instructions(graph: LinkGraph, block: int, content: bytes, address: int = 0) -> Iterator[Instruction]:
    """Disassemble a block.

    content: its bytes, which may be those of a finished link; address: of the first one.
    """
    for start, end, code in _stretches(graph, block, len(content)):
        if code:
            yield from _disassembled(graph.target.name, content, start, end, address)
        else:
            yield from _data(content, start, end)


def _stretches(graph: LinkGraph, block: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """The parts of a block that are code and those that are data, as mapping symbols say.

    Source: AAELF64, section 5.5.5 (Mapping symbols): $x starts code and $d data; RISC-V has the same.
    """
    symbols = graph.symbols
    rows = ((symbols.block == block) & (symbols.definition == Definition.DEFINED)).nonzero()[0]
    marks = {0: True}
    if graph.target.name in ("aarch64", "riscv64"):
        for row, name in zip(rows.tolist(), graph.names_at(symbols.name[rows]), strict=True):
            if name[:2] in (b"$x", b"$d") and name[2:3] in (b"", b"."):
                marks[min(int(symbols.offset[row]), size)] = name[:2] == b"$x"
    starts = sorted(marks)
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        if start < end:
            yield start, end, marks[start]


def _disassembled(machine: str, content: bytes, start: int, end: int, address: int) -> Iterator[Instruction]:
    if machine.startswith("bpf"):
        yield from _bpf(machine, content, start, end)
        return
    if machine not in _capstone_modes():
        yield from _data(content, start, end)
        return
    at = start
    for place, size, mnemonic, operands in _capstone(machine).disasm_lite(content[start:end], address + start):
        offset = place - address
        yield Instruction(offset, content[offset : offset + size], f"{mnemonic} {operands}".rstrip())
        at = offset + size
    yield from _data(content, at, end)


def _data(content: bytes, start: int, end: int) -> Iterator[Instruction]:
    for at in range(start, end, BYTES_A_LINE):
        part = content[at : min(at + BYTES_A_LINE, end)]
        yield Instruction(at, part, ".byte " + ", ".join(f"{byte:#04x}" for byte in part))


def _bpf(machine: str, content: bytes, start: int, end: int) -> Iterator[Instruction]:
    from jitlink.bpf.disassembler import instruction_texts
    from jitlink.bpf.instructions import SLOT, decode

    whole = start + (end - start) // SLOT * SLOT
    code = decode(content[start:whole], "big" if machine == "bpfeb" else "little")
    rows = list(instruction_texts(code))
    ends = [start + index * SLOT for index, _ in rows[1:]] + [whole]
    for (index, text), behind in zip(rows, ends, strict=True):
        offset = start + index * SLOT
        yield Instruction(offset, content[offset:behind], text)
    yield from _data(content, whole, end)


_OPENED: dict[str, Any] = {}


def _capstone(machine: str) -> Any:
    """A disassembler of capstone, opened once."""
    if machine not in _OPENED:
        import capstone

        disassembler = capstone.Cs(*_capstone_modes()[machine])
        disassembler.skipdata = True
        _OPENED[machine] = disassembler
    return _OPENED[machine]


def _capstone_modes() -> dict[str, tuple[int, int]]:
    import capstone

    return {
        "x86_64": (capstone.CS_ARCH_X86, capstone.CS_MODE_64),
        "aarch64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM),
        "riscv64": (capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC),
    }


def edges_by_instruction(graph: LinkGraph, block: int, found: Sequence[Instruction]) -> dict[int, list[int]]:
    """The edges whose fields start inside each instruction: rows of edges by the number of the instruction."""
    first, last = np.searchsorted(graph.edges.block, (block, block + 1)).tolist()
    starts = [instruction.offset for instruction in found]
    held: dict[int, list[int]] = {}
    for row, offset in zip(range(first, last), graph.edges.offset[first:last].tolist(), strict=True):
        number = bisect_right(starts, offset) - 1
        if number >= 0:
            held.setdefault(number, []).append(row)
    return held

"""BPF: relocation kinds, in both byte orders.

BPF objects use REL sections: the addend of a relocation is what its field holds. An instruction is 8
bytes, `opcode registers offset imm`, and P is the address of the instruction, so that the field of a
relocation starts at P + 4. A wide constant (lddw) is two of them, with the halves of its value in their
two imms.

Two rows need more than their formula in the kernel's document:

R_BPF_64_64   The document names the first imm; a linker that knows addresses fills both. The addend is
              the first one, a signed number of 32 bits, for that is all that compilers write there.
R_BPF_64_32   The document says (S + A) / 8 - 1, where S counts from the start of the section that the
              call is in. A finished call counts instructions from the one that follows it, so we say
              S + A - P, and the field divides by 8 and takes 1 off. The addend is (imm + 1) * 8.

Source: Documentation/bpf/llvm_reloc.rst of the Linux kernel; RFC 9669 sections 3 and 5.4; include/elf/bpf.h
of binutils 2.40 for what older GNU assemblers wrote (see also jitlink.bpf.gnu_objects).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture, Stub
from jitlink.columns import Buffer, Column, Rows, load_records, store_records
from jitlink.fields import Addresses, Field
from jitlink.formulas import A, Kind, KindTable, P, S, signed, unsigned
from jitlink.graph import LinkGraph

ELF_MACHINE = 247
INSTRUCTION = 8
IMM = 4
NEXT_IMM = 12

LLVM_RELOC = "Linux, Documentation/bpf/llvm_reloc.rst"
GNU_RELOC = "binutils 2.40, include/elf/bpf.h"
SOLANA = "it belongs to the shared objects of Solana's machine, which have a memory map of their own"
NO_RESOLVERS = "BPF has no indirect functions (STT_GNU_IFUNC)"

FUNCTION_POINTER = "R_BPF_64_64, function"
"""The kind that a reference to a function becomes, in a program whose functions are counted from its start."""
NO_RESOLVER = "IFUNC resolver"


@dataclass(frozen=True)
class WideImmediate(Field):
    """The value of a wide constant: its low half in the first imm, its high half in the second."""

    @property
    def size(self) -> int:
        """Of both instruction slots, in bytes."""
        return 2 * INSTRUCTION

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write both halves."""
        store_records(image, positions + IMM, values.astype(self.word))
        store_records(image, positions + NEXT_IMM, (values >> np.uint64(32)).astype(self.word))

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """Read the first imm, sign-extended."""
        return _load_imm(image, positions, self.word)

    def __str__(self) -> str:
        return "both imms of lddw"


@dataclass(frozen=True)
class Distance(Field):
    """A distance in the imm of an instruction: in instructions, from the one that follows.

    slots: of the instruction; the second imm of a wide constant is cleared.
    """

    slots: int = 1

    @property
    def size(self) -> int:
        """Of the instruction, in bytes."""
        return self.slots * INSTRUCTION

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write the distances, given in bytes from the instruction itself."""
        imm = (values.view(np.int64) >> 3) - 1
        store_records(image, positions + IMM, imm.astype(self.word))
        if self.slots > 1:
            store_records(image, positions + NEXT_IMM, np.zeros(len(values), self.word))

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """Read the distances back, in bytes."""
        return (_load_imm(image, positions, self.word) + 1) * INSTRUCTION

    def __str__(self) -> str:
        return "imm, value / 8 - 1"


def _load_imm(image: Buffer, positions: Column, word: np.dtype[np.uint32]) -> npt.NDArray[np.int64]:
    signed_word = np.dtype(word.str.replace("u", "i"))
    return load_records(image, positions + IMM, signed_word).astype(np.int64)


def _kinds(order: Literal["<", ">"]) -> KindTable:
    word64, word32 = Field(np.dtype(f"{order}u8")), Field(np.dtype(f"{order}u4"))
    lddw = WideImmediate(word32.word)
    call, function = Distance(word32.word), Distance(word32.word, slots=2)
    # A distance of 2**34 bytes would fit the imm; a bit less keeps the "- 1" out of the check.
    near = signed(34, align=INSTRUCTION)
    # fmt: off
    return KindTable([
        #    name                  number  value      field     check
        Kind("R_BPF_NONE",         0),
        Kind("R_BPF_64_64",        1,      S + A,     lddw,     source=LLVM_RELOC),
        Kind("R_BPF_64_ABS64",     2,      S + A,     word64,   source=LLVM_RELOC),
        Kind("R_BPF_64_ABS32",     3,      S + A,     word32,   unsigned(32), source=LLVM_RELOC),
        # As ABS32, but for .BTF and .BTF.ext, which speak of the object and not of its place in memory:
        # what the compiler has written there stays.
        Kind("R_BPF_64_NODYLD32",  4,      S + A,     source=LLVM_RELOC),
        Kind("R_BPF_64_RELATIVE",  8,      reason=SOLANA),
        Kind("R_BPF_64_32",        10,     S + A - P, call,     near, source=LLVM_RELOC),
        # What GNU's assembler before binutils 2.41 wrote for ABS32 and ABS64; the rest of its numbers agree.
        Kind("R_BPF_DATA_32",      11,     S + A,     word32,   unsigned(32), source=GNU_RELOC),
        Kind("R_BPF_DATA_64",      12,     S + A,     word64,   source=GNU_RELOC),
        # A pointer to a function of the program itself: lddw with src 4, code_addr(imm) in RFC 9669.
        Kind(FUNCTION_POINTER,     -1,     S + A - P, function, near, source="RFC 9669, 5.4"),
        Kind(NO_RESOLVER,          -1,     reason=NO_RESOLVERS),
    ])
    # fmt: on


def is_branch(graph: LinkGraph, rows: Rows) -> npt.NDArray[np.bool_]:
    """No kind leaves it open whether it is a call: bool[rows], all false."""
    return np.zeros(len(rows), np.bool_)


def relax(graph: LinkGraph, rows: Rows) -> tuple[Rows, Rows]:
    """There is no GOT and nothing to relax."""
    return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)


def _architecture(name: str, byte_order: Literal["little", "big"]) -> Architecture:
    return Architecture(
        name=name,
        elf_machine=ELF_MACHINE,
        kinds=_kinds("<" if byte_order == "little" else ">"),
        pointer="R_BPF_64_ABS64",
        resolver_pointer=NO_RESOLVER,
        # A call that is out of reach stays so: no kind goes through a stub.
        stub=Stub(b"", INSTRUCTION, ()),
        reach=1 << 33,
        absolute={},
        pc_relative=(),
        is_branch=is_branch,
        relax=relax,
        # Opcode 0 is no instruction.
        trap=0,
        large_section_flag=0,
        support={},
        byte_order=byte_order,
    )


BPF = _architecture("bpf", "little")
BPF_BIG_ENDIAN = _architecture("bpfeb", "big")

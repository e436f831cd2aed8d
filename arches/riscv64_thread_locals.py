"""RISC-V: the relocations of thread-local storage, and what TLS descriptors become in local-exec form.

A thread's block lies above the thread pointer, which is the register tp. The upper part of an address is
marked with the variable; the lower parts name a label at it, as in riscv64_pairs. Offsets for __tls_get_addr
are counted from 0x800 bytes into the block, so that signed immediates reach twice as far.

    label:  auipc a0, %tlsdesc_hi(variable)            nop
            ld    t0, %tlsdesc_load_lo(label)(a0)      nop
            addi  a0, a0, %tlsdesc_add_lo(label)       lui  a0, %tprel_hi(variable)
            jalr  t0, t0, %tlsdesc_call(label)         addi a0, a0, %tprel_lo(variable)

The right column is what the sequence becomes where the block has one distance from the thread pointer.
The psABI has no such form for initial exec and general dynamic code.

Source: RISC-V ELF psABI, Thread Local Storage; Linker Relaxation (TLS Descriptors -> Local Exec Relaxation).
"""

from __future__ import annotations

import struct

import numpy as np

from jitlink.arches.riscv64_fields import I_TYPE, S_TYPE, U_TYPE, rounded
from jitlink.arches.thread_locals import Codes, LoaderKinds, ThreadLocalRules, entry_words
from jitlink.columns import Rows
from jitlink.fields import WORD32, WORD64
from jitlink.formulas import GOT, TLS, TP, A, Access, G, Kind, P, S, Value, constant, signed
from jitlink.graph import LinkGraph

PSABI = "RISC-V ELF psABI, Thread Local Storage"
BIAS = 0x800
# The lower part of a pair has the value of the upper one, whose place the symbol of the edge is.
OF_UPPER = Value("S + A - P of the HI20 at S", frozenset("SAP"), (S + A - P).of)
TO_ENTRY = G + GOT + A - P
OFFSET, DISTANCE = S + A - TLS - constant(BIAS), S + A - TP
HI20 = "R_RISCV_TLSDESC_HI20"
LOAD, ADD, CALL = "R_RISCV_TLSDESC_LOAD_LO12", "R_RISCV_TLSDESC_ADD_LO12", "R_RISCV_TLSDESC_CALL"

# fmt: off
THREAD_LOCAL_KINDS = [
    Kind("R_RISCV_TLS_DTPREL32",     8,      OFFSET,   WORD32, signed(32), source=PSABI, access=Access.BLOCK_OFFSET),
    Kind("R_RISCV_TLS_DTPREL64",     9,      OFFSET,   WORD64, source=PSABI, access=Access.BLOCK_OFFSET),
    Kind("R_RISCV_TLS_GOT_HI20",     21,     TO_ENTRY, U_TYPE, rounded(32), source=PSABI, access=Access.INITIAL_EXEC),
    Kind("R_RISCV_TLS_GD_HI20",      22,     TO_ENTRY, U_TYPE, rounded(32), source=PSABI,
         access=Access.GENERAL_DYNAMIC),
    Kind("R_RISCV_TPREL_HI20",       29,     DISTANCE, U_TYPE, rounded(32), source=PSABI, access=Access.LOCAL_EXEC),
    Kind("R_RISCV_TPREL_LO12_I",     30,     DISTANCE, I_TYPE, source=PSABI, access=Access.LOCAL_EXEC),
    Kind("R_RISCV_TPREL_LO12_S",     31,     DISTANCE, S_TYPE, source=PSABI, access=Access.LOCAL_EXEC),
    # The instruction that adds tp, which may be left out where the upper part is zero.
    Kind("R_RISCV_TPREL_ADD",        32,     source=PSABI),
    Kind(HI20,                       62,     TO_ENTRY, U_TYPE, rounded(32), source=PSABI, access=Access.DESCRIPTOR),
    Kind(LOAD,                       63,     OF_UPPER, I_TYPE, source=PSABI),
    Kind(ADD,                        64,     OF_UPPER, I_TYPE, source=PSABI),
    Kind(CALL,                       65,     source=PSABI),
    # The words of GOT entries.
    *entry_words(BIAS),
]
# fmt: on

NOP, LUI_A0, ADDI_A0 = 0x00000013, 0x00000537, 0x00050513
FORM_OF = {
    HI20: (NOP, ""),
    LOAD: (NOP, ""),
    ADD: (LUI_A0, "R_RISCV_TPREL_HI20"),
    CALL: (ADDI_A0, "R_RISCV_TPREL_LO12_I"),
}
"""What each instruction of the sequence becomes, with its relocation."""


def relax_descriptors(graph: LinkGraph, rows: Rows) -> tuple[Rows, Codes]:
    """Rewrite descriptor sequences. rows: int64[n], edges to variables that have one distance from tp.

    Gives the edges their new kinds and targets. Returns the edges whose instructions change, int64[m], and
    the new instructions. Sequences that lack a part stay as they are.
    """
    edges, symbols = graph.edges, graph.symbols
    number = {name: graph.target.kind_number(name) for name in FORM_OF}
    upper = rows[edges.kind[rows] == number[HI20]]
    place_of_upper = zip(edges.block[upper].tolist(), edges.offset[upper].tolist(), strict=True)
    parts: dict[tuple[int, int], list[int]] = {place: [] for place in place_of_upper}
    live = graph.blocks.live[edges.block]
    for name in (LOAD, ADD, CALL):
        for row in ((edges.kind == number[name]) & live).nonzero()[0].tolist():
            label = edges.target[row]
            place = int(symbols.block[label]), int(symbols.offset[label])
            if place in parts:
                parts[place].append(row)
    changed: list[int] = []
    codes: list[int] = []
    name_of = {kind: name for name, kind in number.items()}
    for row, others in zip(upper.tolist(), parts.values(), strict=True):
        if {int(edges.kind[each]) for each in others} != {number[LOAD], number[ADD], number[CALL]}:
            continue
        variable, addend = int(edges.target[row]), int(edges.addend[row])
        for each in (row, *others):
            code, becomes = FORM_OF[name_of[int(edges.kind[each])]]
            changed.append(each)
            codes.append(code)
            edges.kind[each] = graph.target.kind_number(becomes) if becomes else 0
            edges.target[each], edges.addend[each] = (variable, addend) if becomes else (0, 0)
    words = np.frombuffer(struct.pack(f"<{len(codes)}I", *codes), np.uint8).reshape(-1, 4)
    return np.array(changed, np.int64), words


THREAD_LOCALS = ThreadLocalRules(
    below=False,
    reserved=0,
    bias=BIAS,
    loader=LoaderKinds(module=7, from_thread_pointer=11, descriptor=12),
    relaxations=(),
    relax_by_label=relax_descriptors,
)

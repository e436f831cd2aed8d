"""x86-64: relocation kinds, the PLT stub and GOT relaxation.

Source: System V Application Binary Interface, AMD64 Architecture Processor Supplement (the x86-64
psABI), version 1.0: section 4.4 for the relocation types, table 4.9 for their fields and formulas,
appendix B.2 for the optimisation of GOTPCRELX. The checks are what the psABI demands of _32 and _32S,
and for the rest what keeps the value that the program sees equal to the value computed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture, Stub
from jitlink.arches.thread_locals import entry_words
from jitlink.arches.x86_64_coff import ABSOLUTE as COFF_ABSOLUTE
from jitlink.arches.x86_64_coff import KINDS as COFF_KINDS
from jitlink.arches.x86_64_coff import PC_RELATIVE as COFF_PC_RELATIVE
from jitlink.arches.x86_64_coff import REL32
from jitlink.arches.x86_64_macho import KINDS as MACHO_KINDS
from jitlink.arches.x86_64_macho import PC_RELATIVE as MACHO_PC_RELATIVE
from jitlink.arches.x86_64_support import SUPPORT
from jitlink.arches.x86_64_thread_locals import THREAD_LOCALS
from jitlink.columns import Rows
from jitlink.fields import WORD8, WORD16, WORD32, WORD64
from jitlink.formulas import (
    GOT,
    TLS,
    TP,
    A,
    Access,
    G,
    Kind,
    KindTable,
    L,
    P,
    S,
    Through,
    Z,
    either,
    signed,
    unsigned,
)
from jitlink.graph import LinkGraph

SHF_X86_64_LARGE = 0x10000000
PSABI = "x86-64 psABI, table 4.9"
PSABI_B2 = "x86-64 psABI, B.2"
SLOT = Through.GOT_ENTRY
RELAX = Through.RELAXABLE_GOT_ENTRY
BRANCH = Through.BRANCH
ELF_TLS = "ELF Handling For Thread-Local Storage, chapter 4"

DYNAMIC = "it belongs into executables and shared objects, not into relocatable ones"
VTABLE = "it served the vtable garbage collection of old GNU linkers; compile without -fvtable-gc"


def _of_entry(name: str, number: int, access: Access) -> Kind:
    """A kind that holds the distance to a GOT entry for a thread-local, at which the edge is aimed."""
    return Kind(name, number, G + GOT + A - P, WORD32, signed(32), source=ELF_TLS, access=access)


# fmt: off
KINDS = KindTable([
    #    name                           number  value            field   check
    Kind("R_X86_64_NONE",               0),
    Kind("R_X86_64_64",                 1,      S + A,           WORD64, source=PSABI),
    Kind("R_X86_64_PC32",               2,      S + A - P,       WORD32, signed(32), source=PSABI),
    Kind("R_X86_64_GOT32",              3,      G + A,           WORD32, signed(32), SLOT, source=PSABI),
    Kind("R_X86_64_PLT32",              4,      L + A - P,       WORD32, signed(32), BRANCH, source=PSABI),
    Kind("R_X86_64_COPY",               5,      reason=DYNAMIC),
    Kind("R_X86_64_GLOB_DAT",           6,      reason=DYNAMIC),
    Kind("R_X86_64_JUMP_SLOT",          7,      reason=DYNAMIC),
    Kind("R_X86_64_RELATIVE",           8,      reason=DYNAMIC),
    Kind("R_X86_64_GOTPCREL",           9,      G + GOT + A - P, WORD32, signed(32), SLOT, source=PSABI),
    Kind("R_X86_64_32",                 10,     S + A,           WORD32, unsigned(32), source=PSABI),
    Kind("R_X86_64_32S",                11,     S + A,           WORD32, signed(32), source=PSABI),
    Kind("R_X86_64_16",                 12,     S + A,           WORD16, either(16), source=PSABI),
    Kind("R_X86_64_PC16",               13,     S + A - P,       WORD16, signed(16), source=PSABI),
    Kind("R_X86_64_8",                  14,     S + A,           WORD8,  either(8), source=PSABI),
    Kind("R_X86_64_PC8",                15,     S + A - P,       WORD8,  signed(8), source=PSABI),
    Kind("R_X86_64_DTPMOD64",           16,     reason=DYNAMIC),
    Kind("R_X86_64_DTPOFF64",           17,     S + A - TLS,     WORD64, source=ELF_TLS, access=Access.BLOCK_OFFSET),
    Kind("R_X86_64_TPOFF64",            18,     S + A - TP,      WORD64, source=ELF_TLS, access=Access.LOCAL_EXEC),
    _of_entry("R_X86_64_TLSGD",         19,     Access.GENERAL_DYNAMIC),
    _of_entry("R_X86_64_TLSLD",         20,     Access.LOCAL_DYNAMIC),
    Kind("R_X86_64_DTPOFF32",           21,     S + A - TLS,     WORD32, signed(32), source=ELF_TLS,
         access=Access.BLOCK_OFFSET),
    _of_entry("R_X86_64_GOTTPOFF",      22,     Access.INITIAL_EXEC),
    Kind("R_X86_64_TPOFF32",            23,     S + A - TP,      WORD32, signed(32), source=ELF_TLS,
         access=Access.LOCAL_EXEC),
    Kind("R_X86_64_PC64",               24,     S + A - P,       WORD64, source=PSABI),
    Kind("R_X86_64_GOTOFF64",           25,     S + A - GOT,     WORD64, source=PSABI),
    Kind("R_X86_64_GOTPC32",            26,     GOT + A - P,     WORD32, signed(32), source=PSABI),
    Kind("R_X86_64_GOT64",              27,     G + A,           WORD64, through=SLOT, source=PSABI),
    Kind("R_X86_64_GOTPCREL64",         28,     G + GOT - P + A, WORD64, through=SLOT, source=PSABI),
    Kind("R_X86_64_GOTPC64",            29,     GOT - P + A,     WORD64, source=PSABI),
    Kind("R_X86_64_GOTPLT64",           30,     G + A,           WORD64, through=SLOT, source=PSABI),
    Kind("R_X86_64_PLTOFF64",           31,     L - GOT + A,     WORD64, source=PSABI),
    Kind("R_X86_64_SIZE32",             32,     Z + A,           WORD32, either(32), source=PSABI),
    Kind("R_X86_64_SIZE64",             33,     Z + A,           WORD64, source=PSABI),
    _of_entry("R_X86_64_GOTPC32_TLSDESC", 34,   Access.DESCRIPTOR),
    Kind("R_X86_64_TLSDESC_CALL",       35,     source=PSABI, access=Access.DESCRIPTOR_CALL),
    Kind("R_X86_64_TLSDESC",            36,     reason=DYNAMIC),
    Kind("R_X86_64_IRELATIVE",          37,     reason=DYNAMIC),
    Kind("R_X86_64_RELATIVE64",         38,     reason=DYNAMIC),
    # The two of the withdrawn MPX extension: a branch with a BND prefix is a branch.
    Kind("R_X86_64_PC32_BND",           39,     S + A - P,       WORD32, signed(32), source=PSABI),
    Kind("R_X86_64_PLT32_BND",          40,     L + A - P,       WORD32, signed(32), BRANCH, source=PSABI),
    Kind("R_X86_64_GOTPCRELX",          41,     G + GOT + A - P, WORD32, signed(32), RELAX, source=PSABI_B2),
    Kind("R_X86_64_REX_GOTPCRELX",      42,     G + GOT + A - P, WORD32, signed(32), RELAX, source=PSABI_B2),
    Kind("R_X86_64_CODE_4_GOTPCRELX",   43,     G + GOT + A - P, WORD32, signed(32), RELAX, source=PSABI_B2),
    _of_entry("R_X86_64_CODE_4_GOTTPOFF", 44,  Access.INITIAL_EXEC),
    _of_entry("R_X86_64_CODE_4_GOTPC32_TLSDESC", 45, Access.DESCRIPTOR),
    Kind("R_X86_64_CODE_5_GOTPCRELX",   46,     G + GOT + A - P, WORD32, signed(32), SLOT, source=PSABI_B2),
    _of_entry("R_X86_64_CODE_5_GOTTPOFF", 47,  Access.INITIAL_EXEC),
    _of_entry("R_X86_64_CODE_5_GOTPC32_TLSDESC", 48, Access.DESCRIPTOR),
    Kind("R_X86_64_CODE_6_GOTPCRELX",   49,     G + GOT + A - P, WORD32, signed(32), SLOT, source=PSABI_B2),
    _of_entry("R_X86_64_CODE_6_GOTTPOFF", 50,  Access.INITIAL_EXEC),
    _of_entry("R_X86_64_CODE_6_GOTPC32_TLSDESC", 51, Access.DESCRIPTOR),
    Kind("R_X86_64_GNU_VTINHERIT",      250,    reason=VTABLE),
    Kind("R_X86_64_GNU_VTENTRY",        251,    reason=VTABLE),
    # What relaxation makes of GOTPCRELX (psABI B.2): the opcode is rewritten beside the field.
    Kind("GOTPCRELX, mov to lea",       -1,     S + A - P,       WORD32, signed(32), rewrites=((-2, 0x8D),)),
    Kind("GOTPCRELX, call to direct",   -1,     S + A - P,       WORD32, signed(32), rewrites=((-2, 0x67), (-1, 0xE8))),
    Kind("GOTPCRELX, jmp to direct",    -1,     S + A - P,       WORD32, signed(32), rewrites=((-1, 0xE9), (4, 0x90))),
    # A call with prefixes, as the ABI has it in thread-local code: an operand size prefix before an address size
    # prefix would make the distance one of 16 bits on some processors, so the call gets the other padding.
    Kind("GOTPCRELX, padded call to direct", -1, S + A - P,      WORD32, signed(32),
         rewrites=((-3, 0x66), (-2, 0x48), (-1, 0xE8))),
    # A GOT entry that the linker fills with what the IFUNC resolver at S returns.
    Kind("IFUNC resolver",              -1,     S + A,           WORD64),
    # The words of GOT entries for thread-locals.
    *entry_words(),
    *MACHO_KINDS,
    *COFF_KINDS,
])
# fmt: on

AS_LEA = KINDS.by_name["GOTPCRELX, mov to lea"]
AS_CALL = KINDS.by_name["GOTPCRELX, call to direct"]
AS_PADDED_CALL = KINDS.by_name["GOTPCRELX, padded call to direct"]
AS_JUMP = KINDS.by_name["GOTPCRELX, jmp to direct"]
COFF_REL32 = KINDS.by_name[REL32]

# The addend of a field that ends its instruction: RIP points 4 bytes past the field's start.
FIELD_ENDS_INSTRUCTION = -4


def relax(graph: LinkGraph, rows: Rows) -> tuple[Rows, Rows]:
    """Find the relaxed form of GOT loads whose target is near.

    rows: int64[n], edges of the GOTPCRELX kinds. Returns (kind, shift), int64[n] each: the kind of the
    rewritten instruction, or 0 if it has none, and by how much its field moves. A call keeps its length
    by an address-size prefix; a jump starts one byte earlier and is followed by a nop, so that the
    return address of a call and the end of a jump stay what they were. Source: psABI B.2.
    """
    opcode, operand = bytes_before(graph, rows)
    ends_instruction = graph.edges.addend[rows] == FIELD_ENDS_INSTRUCTION
    # ModRM of a RIP-relative operand has mod = 0 and r/m = 5.
    load = (opcode == 0x8B) & ((operand & 0xC7) == 0x05)
    call = (opcode == 0xFF) & (operand == 0x15)
    jump = (opcode == 0xFF) & (operand == 0x25)
    as_call = np.where(call & _has_padding(graph, rows), AS_PADDED_CALL, AS_CALL)
    kind = np.where(load, AS_LEA, np.where(call, as_call, np.where(jump, AS_JUMP, 0)))
    return np.where(ends_instruction, kind, 0), np.where(jump & ends_instruction, -1, 0)


def _has_padding(graph: LinkGraph, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which GOT loads stand behind an operand size prefix and REX.W, with the opcode's two bytes between: bool[n]."""
    block, offset = graph.edges.block[rows], graph.edges.offset[rows]
    place = graph.blocks.content[block] + offset
    readable = (offset >= 4) & (place < len(graph.pool)) & ~graph.blocks.zero_fill[block]
    place = np.where(readable, place, 4)
    if len(graph.pool) < 4:
        return np.zeros(len(rows), np.bool_)
    padded: npt.NDArray[np.bool_] = readable & (graph.pool[place - 4] == 0x66) & (graph.pool[place - 3] == 0x48)
    return padded


def is_branch(graph: LinkGraph, rows: Rows) -> npt.NDArray[np.bool_]:
    """Say which edges sit in the operand of a call, jmp or jcc: rows int64[n] gives bool[n].

    Assemblers before binutils 2.31 and hand-written objects use PC32 where PLT32 is meant.
    """
    before, opcode = bytes_before(graph, rows)
    direct = (opcode == 0xE8) | (opcode == 0xE9)
    conditional = (before == 0x0F) & ((opcode & 0xF0) == 0x80)
    executable = graph.sections.protection[graph.blocks.section[graph.edges.block[rows]]] & 4 != 0
    branch: npt.NDArray[np.bool_] = (direct | conditional) & executable
    # COFF counts from the end of the field as it is.
    ends = np.where(graph.edges.kind[rows] == COFF_REL32, 0, FIELD_ENDS_INSTRUCTION)
    branch &= graph.edges.addend[rows] == ends
    return branch


def bytes_before(graph: LinkGraph, rows: Rows) -> tuple[Rows, Rows]:
    """Read the two bytes before each fixup; zero for a byte before the block, or where nothing is in the pool."""
    if not len(graph.pool):
        return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    block, offset = graph.edges.block[rows], graph.edges.offset[rows]
    place = graph.blocks.content[block] + offset
    readable = (place < len(graph.pool)) & ~graph.blocks.zero_fill[block]
    # A block that starts with a call has one byte before its first field.
    far, near = (readable & (offset >= distance) for distance in (2, 1))
    first = np.where(far, graph.pool[np.where(far, place - 2, 0)], 0)
    second = np.where(near, graph.pool[np.where(near, place - 1, 0)], 0)
    return first, second


X86_64 = Architecture(
    name="x86_64",
    elf_machine=62,
    kinds=KINDS,
    pointer="R_X86_64_64",
    resolver_pointer="IFUNC resolver",
    # jmp *slot(%rip), then int3 to fill eight bytes.
    stub=Stub(bytes.fromhex("ff2500000000cccc"), 8, ((2, "R_X86_64_PC32", -4),)),
    reach=1 << 31,
    absolute={
        "R_X86_64_32": 1 << 32,
        "R_X86_64_32S": 1 << 31,
        "X86_64_RELOC_UNSIGNED, 4 bytes": 1 << 32,
        **COFF_ABSOLUTE,
    },
    pc_relative=("R_X86_64_PC32", *MACHO_PC_RELATIVE, *COFF_PC_RELATIVE),
    is_branch=is_branch,
    relax=relax,
    trap=0xCC,
    large_section_flag=SHF_X86_64_LARGE,
    support=SUPPORT,
    thread_locals=THREAD_LOCALS,
)

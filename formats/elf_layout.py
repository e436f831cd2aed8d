"""The layout of 64-bit ELF: its records as little-endian dtypes, and the constants we read.

Records of big-endian objects are turned around when they are loaded (ElfReader.load).

Source: System V Application Binary Interface (gABI), chapters 4 and 5; GNU extensions from the
GNU gABI supplement; CREL from the gABI proposal that LLVM 20 and binutils 2.44 implement.
"""

from __future__ import annotations

import numpy as np

EHDR = np.dtype(
    [
        # The first seven bytes of e_ident: magic number, class, byte order, version.
        ("ident", "<u8"),
        ("ident_rest", "<u8"),
        # e_type in the low half, e_machine in the high half; of a big-endian object the other way round.
        ("type_and_machine", "<u4"),
        ("version", "<u4"),
        ("entry", "<u8"),
        ("phoff", "<u8"),
        ("shoff", "<u8"),
        ("flags", "<u4"),
        ("ehsize", "<u2"),
        ("phentsize", "<u2"),
        ("phnum", "<u2"),
        ("shentsize", "<u2"),
        ("shnum", "<u2"),
        ("shstrndx", "<u2"),
    ]
)
SHDR = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("addr", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("addralign", "<u8"),
        ("entsize", "<u8"),
    ]
)
SYM = np.dtype([("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")])
RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
REL = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4")])
WORD = np.dtype("<u4")
CHDR = np.dtype([("type", "<u4"), ("reserved", "<u4"), ("size", "<u8"), ("addralign", "<u8")])

MAGIC = b"\x7fELF"
CLASS_64, DATA_LITTLE, DATA_BIG, VERSION_CURRENT = 2, 1, 2, 1
IDENT = int.from_bytes(MAGIC + bytes((CLASS_64, DATA_LITTLE, VERSION_CURRENT)), "little")
IDENT_BIG = int.from_bytes(MAGIC + bytes((CLASS_64, DATA_BIG, VERSION_CURRENT)), "little")
IDENT_MASK = (1 << 56) - 1
TYPE_NAMES = {0: "no file type", 2: "an executable", 3: "a shared object", 4: "a core file"}
ET_REL = 1
MACHINE_NAMES = {
    2: "EM_SPARC",
    3: "EM_386",
    4: "EM_68K",
    8: "EM_MIPS",
    15: "EM_PARISC",
    20: "EM_PPC",
    21: "EM_PPC64",
    22: "EM_S390",
    40: "EM_ARM",
    42: "EM_SH",
    43: "EM_SPARCV9",
    50: "EM_IA_64",
    62: "EM_X86_64",
    83: "EM_AVR",
    105: "EM_MSP430",
    183: "EM_AARCH64",
    190: "EM_CUDA",
    224: "EM_AMDGPU",
    243: "EM_RISCV",
    247: "EM_BPF",
    258: "EM_LOONGARCH",
}
"""Names of e_machine in errors: those that compilers of today make objects for (gABI, e_machine)."""

SHT_NULL = 0
SHT_PROGBITS = 1
SHT_SYMTAB = 2
SHT_STRTAB = 3
SHT_RELA = 4
SHT_NOTE = 7
SHT_NOBITS = 8
SHT_REL = 9
SHT_INIT_ARRAY = 14
SHT_FINI_ARRAY = 15
SHT_PREINIT_ARRAY = 16
SHT_GROUP = 17
SHT_SYMTAB_SHNDX = 18
SHT_CREL = 0x40000014

SHF_WRITE = 0x1
SHF_ALLOC = 0x2
SHF_EXECINSTR = 0x4
SHF_LINK_ORDER = 0x80
SHF_TLS = 0x400
SHF_COMPRESSED = 0x800
SHF_GNU_RETAIN = 0x200000
SHF_EXCLUDE = 0x80000000

SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00
SHN_X86_64_LCOMMON = 0xFF02
SHN_ABS = 0xFFF1
SHN_COMMON = 0xFFF2
SHN_XINDEX = 0xFFFF

STB_LOCAL, STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE = 0, 1, 2, 10
STV_INTERNAL, STV_HIDDEN = 1, 2

GRP_COMDAT = 1
ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD = 1, 2

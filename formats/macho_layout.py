"""The layout of 64-bit Mach-O: its records as little-endian dtypes, and the constants we read.

Source: Apple's headers <mach-o/loader.h>, <mach-o/nlist.h>, <mach-o/reloc.h>, <mach-o/x86_64/reloc.h>,
<mach-o/arm64/reloc.h>, <mach-o/fat.h>, <mach/machine.h> and <mach-o/compact_unwind_encoding.h>.
"""

from __future__ import annotations

import numpy as np

HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("cputype", "<u4"),
        ("cpusubtype", "<u4"),
        ("filetype", "<u4"),
        ("ncmds", "<u4"),
        ("sizeofcmds", "<u4"),
        ("flags", "<u4"),
        ("reserved", "<u4"),
    ]
)
COMMAND = np.dtype([("cmd", "<u4"), ("cmdsize", "<u4")])
SEGMENT = np.dtype(
    [
        ("cmd", "<u4"),
        ("cmdsize", "<u4"),
        ("segname", "V16"),
        ("vmaddr", "<u8"),
        ("vmsize", "<u8"),
        ("fileoff", "<u8"),
        ("filesize", "<u8"),
        ("maxprot", "<i4"),
        ("initprot", "<i4"),
        ("nsects", "<u4"),
        ("flags", "<u4"),
    ]
)
SECTION = np.dtype(
    [
        # The names of section and segment together.
        ("names", "V32"),
        ("addr", "<u8"),
        ("size", "<u8"),
        ("offset", "<u4"),
        ("align", "<u4"),
        ("reloff", "<u4"),
        ("nreloc", "<u4"),
        ("flags", "<u4"),
        ("reserved1", "<u4"),
        ("reserved2", "<u4"),
        ("reserved3", "<u4"),
    ]
)
SYMTAB = np.dtype(
    [("cmd", "<u4"), ("cmdsize", "<u4"), ("symoff", "<u4"), ("nsyms", "<u4"), ("stroff", "<u4"), ("strsize", "<u4")]
)
DYSYMTAB = np.dtype({"names": ["indirectsymoff", "nindirectsyms"], "formats": ["<u4", "<u4"], "offsets": [56, 60],
                     "itemsize": 80})  # fmt: skip
NLIST = np.dtype([("strx", "<u4"), ("type", "u1"), ("sect", "u1"), ("desc", "<u2"), ("value", "<u8")])
RELOCATION = np.dtype([("address", "<u4"), ("info", "<u4")])
WORD = np.dtype("<u4")

MAGIC_64 = 0xFEEDFACF
OTHER_MAGICS = {0xFEEDFACE: "a 32-bit Mach-O file", 0xCEFAEDFE: "a 32-bit, big-endian Mach-O file",
                0xCFFAEDFE: "a big-endian Mach-O file"}  # fmt: skip

CPU_TYPE_X86_64 = 0x01000007
CPU_TYPE_ARM64 = 0x0100000C
CPU_NAMES = {
    7: "i386",
    CPU_TYPE_X86_64: "x86_64",
    12: "arm",
    CPU_TYPE_ARM64: "arm64",
    0x0200000C: "arm64_32",
    18: "ppc",
    0x01000012: "ppc64",
}
CPU_SUBTYPE_MASK = 0x00FFFFFF
CPU_SUBTYPE_X86_64_H = 8
CPU_SUBTYPE_ARM64E = 2

MH_OBJECT = 1
FILE_TYPES = {
    2: "an executable",
    3: "a fixed VM library",
    4: "a core file",
    6: "a dynamic library",
    7: "a dynamic linker",
    8: "a bundle",
    9: "a stub of a dynamic library",
    10: "a file of debug symbols",
    11: "a kernel extension",
}
MH_SUBSECTIONS_VIA_SYMBOLS = 0x2000

LC_SYMTAB, LC_DYSYMTAB, LC_SEGMENT_64 = 0x2, 0xB, 0x19

S_ZEROFILL = 0x1
S_CSTRING_LITERALS = 0x2
S_4BYTE_LITERALS, S_8BYTE_LITERALS, S_16BYTE_LITERALS = 0x3, 0x4, 0xE
S_LITERAL_POINTERS = 0x5
S_NON_LAZY_SYMBOL_POINTERS, S_LAZY_SYMBOL_POINTERS, S_SYMBOL_STUBS = 0x6, 0x7, 0x8
S_MOD_INIT_FUNC_POINTERS, S_MOD_TERM_FUNC_POINTERS = 0x9, 0xA
S_GB_ZEROFILL = 0xC
S_DTRACE_DOF = 0xF
S_LAZY_DYLIB_SYMBOL_POINTERS = 0x10
S_THREAD_LOCAL_REGULAR, S_THREAD_LOCAL_ZEROFILL = 0x11, 0x12
S_THREAD_LOCAL_VARIABLES, S_THREAD_LOCAL_VARIABLE_POINTERS = 0x13, 0x14
S_THREAD_LOCAL_INIT_FUNCTION_POINTERS = 0x15
S_INIT_FUNC_OFFSETS = 0x16
SECTION_TYPE = 0xFF

S_ATTR_PURE_INSTRUCTIONS = 0x80000000
S_ATTR_NO_DEAD_STRIP = 0x10000000
S_ATTR_LIVE_SUPPORT = 0x08000000
S_ATTR_DEBUG = 0x02000000
S_ATTR_SOME_INSTRUCTIONS = 0x00000400

N_STAB, N_PEXT, N_TYPE, N_EXT = 0xE0, 0x10, 0x0E, 0x01
N_UNDF, N_ABS, N_INDR, N_SECT = 0x0, 0x2, 0xA, 0xE
N_NO_DEAD_STRIP, N_WEAK_REF, N_WEAK_DEF = 0x20, 0x40, 0x80
REFERENCED_DYNAMICALLY = 0x10
N_SYMBOL_RESOLVER = 0x100
N_ALT_ENTRY = 0x200
COMMON_ALIGNMENT_SHIFT, COMMON_ALIGNMENT_MASK = 8, 0xF

INDIRECT_SYMBOL_LOCAL, INDIRECT_SYMBOL_ABS = 0x80000000, 0x40000000

R_SCATTERED = 0x80000000
"""In r_address: a scattered relocation, which 32-bit architectures have."""
R_ABS = 0
"""As r_symbolnum of a relocation that is not external: an absolute address, which nothing moves."""

FAT_MAGIC, FAT_MAGIC_64 = 0xCAFEBABE, 0xCAFEBABF

"""The layout of COFF objects: their records as little-endian dtypes, and the constants we read.

Source: Microsoft PE Format specification, sections "COFF File Header", "Section Table", "COFF Relocations",
"COFF Symbol Table", "Import Library Format"; for /bigobj, ANON_OBJECT_HEADER_BIGOBJ and IMAGE_SYMBOL_EX of
winnt.h in the Windows SDK.
"""

from __future__ import annotations

import numpy as np

HEADER = np.dtype(
    [
        ("machine", "<u2"),
        ("sections", "<u2"),
        ("time", "<u4"),
        ("symbols_at", "<u4"),
        ("symbols", "<u4"),
        ("optional_size", "<u2"),
        ("characteristics", "<u2"),
    ]
)
# A header that starts with machine 0 and 0xffff sections is anonymous: which sort, version and class say.
BIG_HEADER = np.dtype(
    [
        ("machine_unknown", "<u2"),
        ("sections_none", "<u2"),
        ("version", "<u2"),
        ("machine", "<u2"),
        ("time", "<u4"),
        ("class", "V16"),
        ("data_size", "<u4"),
        ("flags", "<u4"),
        ("metadata_size", "<u4"),
        ("metadata_at", "<u4"),
        ("sections", "<u4"),
        ("symbols_at", "<u4"),
        ("symbols", "<u4"),
    ]
)
IMPORT_HEADER = np.dtype(
    [
        ("machine_unknown", "<u2"),
        ("sections_none", "<u2"),
        ("version", "<u2"),
        ("machine", "<u2"),
        ("time", "<u4"),
        ("data_size", "<u4"),
        ("ordinal_or_hint", "<u2"),
        ("type", "<u2"),
    ]
)
SECTION = np.dtype(
    [
        ("name", "V8"),
        ("virtual_size", "<u4"),
        ("virtual_address", "<u4"),
        ("size", "<u4"),
        ("data_at", "<u4"),
        ("relocations_at", "<u4"),
        ("lines_at", "<u4"),
        ("relocations", "<u2"),
        ("lines", "<u2"),
        ("flags", "<u4"),
    ]
)
SYMBOL = np.dtype(
    [("name", "V8"), ("value", "<u4"), ("section", "<i2"), ("type", "<u2"), ("class", "u1"), ("aux", "u1")]
)
BIG_SYMBOL = np.dtype(
    [("name", "V8"), ("value", "<u4"), ("section", "<i4"), ("type", "<u2"), ("class", "u1"), ("aux", "u1")]
)
# The auxiliary records that a linker reads; one of /bigobj has the high half of the section number, and two bytes more.
AUX_SECTION = np.dtype(
    [
        ("size", "<u4"),
        ("relocations", "<u2"),
        ("lines", "<u2"),
        ("checksum", "<u4"),
        ("number", "<u2"),
        ("selection", "u1"),
        ("unused", "u1"),
        ("high_number", "<u2"),
    ]
)
AUX_WEAK = np.dtype([("default", "<u4"), ("search", "<u4")])
RELOCATION = np.dtype([("address", "<u4"), ("symbol", "<u4"), ("type", "<u2")])
WORD = np.dtype("<u4")

MACHINE_AMD64, MACHINE_ARM64 = 0x8664, 0xAA64
OTHER_MACHINES = {
    0x014C: "i386",
    0x01C0: "ARM",
    0x01C4: "ARM Thumb-2",
    0x0200: "Itanium",
    0xA641: "ARM64EC",
    0xA64E: "ARM64X",
}
"""Machines whose objects are told by their number, so that they are refused by name."""

ANONYMOUS = b"\0\0\xff\xff"
BIG_CLASS = bytes.fromhex("c7a1bad1eebaa94baf20faf66aa4dcb8")
"""The class identifier of /bigobj, D1BAA1C7-BAEE-4BA9-AF20-FAF66AA4DCB8, as it lies in the file."""
VERSION_IMPORT, VERSION_BIG = 0, 2

EXECUTABLE_IMAGE = 0x0002

SCN_CNT_CODE = 0x00000020
SCN_CNT_UNINITIALIZED_DATA = 0x00000080
SCN_LNK_INFO = 0x00000200
SCN_LNK_REMOVE = 0x00000800
SCN_LNK_COMDAT = 0x00001000
SCN_ALIGN_SHIFT, SCN_ALIGN_MASK = 20, 0xF
SCN_LNK_NRELOC_OVFL = 0x01000000
SCN_MEM_DISCARDABLE = 0x02000000
SCN_MEM_EXECUTE = 0x20000000
SCN_MEM_WRITE = 0x80000000
COUNT_OVERFLOWN = 0xFFFF

SYM_UNDEFINED, SYM_ABSOLUTE, SYM_DEBUG = 0, -1, -2
CLASS_EXTERNAL, CLASS_STATIC, CLASS_SECTION, CLASS_WEAK_EXTERNAL = 2, 3, 104, 105
DTYPE_FUNCTION = 2
"""In the bits of a symbol's type from 4 on."""

SELECT_NODUPLICATES = 1
SELECT_ANY = 2
SELECT_SAME_SIZE = 3
SELECT_EXACT_MATCH = 4
SELECT_ASSOCIATIVE = 5
SELECT_LARGEST = 6
SELECT_NEWEST = 7

WEAK_SEARCH_NOLIBRARY = 1
WEAK_SEARCH_LIBRARY = 2
WEAK_SEARCH_ALIAS = 3
WEAK_ANTI_DEPENDENCY = 4

IMPORT_CODE, IMPORT_DATA, IMPORT_CONST = 0, 1, 2
IMPORT_ORDINAL, IMPORT_NAME, IMPORT_NAME_NOPREFIX, IMPORT_NAME_UNDECORATE, IMPORT_NAME_EXPORTAS = range(5)

"""AArch64: the relocations of ELF that are not linked, each with the reason.

Source: AAELF64, "Relocation codes" and "Dynamic relocations", for the dynamic ones and those of ILP32 (ELF
objects with 32-bit pointers, whose numbers lie below 256); PAuthABIELF64 (PAuth ABI Extension to ELF for the
Arm 64-bit Architecture), "Relocations", for those of signed pointers.
"""

from __future__ import annotations

from jitlink.formulas import Kind

DYNAMIC = "it belongs into executables and shared objects, not into relocatable ones"
ILP32 = "it belongs to objects with 32-bit pointers (ILP32), which are not linked"
SIGNED = "it wants a pointer signed with a key of the process; compile without pointer authentication of data"
PATCHED = "it replaces an instruction where a certain symbol is defined, for pointer field protection; compile without"
COMPUTED = "it stores what a function returns at load time; use an initialiser"

# fmt: off
_DYNAMIC = {
    "COPY": 1024, "GLOB_DAT": 1025, "JUMP_SLOT": 1026, "RELATIVE": 1027, "TLS_DTPMOD64": 1028, "TLS_DTPREL64": 1029,
    "TLS_TPREL64": 1030, "TLSDESC": 1031, "IRELATIVE": 1032,
}
_SIGNED = {
    "ABS64": 580, "MOVW_GOTOFF_G0": 581, "MOVW_GOTOFF_G0_NC": 582, "MOVW_GOTOFF_G1": 583, "MOVW_GOTOFF_G1_NC": 584,
    "MOVW_GOTOFF_G2": 585, "MOVW_GOTOFF_G2_NC": 586, "MOVW_GOTOFF_G3": 587, "GOT_LD_PREL19": 588,
    "LD64_GOTOFF_LO15": 589, "ADR_GOT_PAGE": 590, "LD64_GOT_LO12_NC": 591, "LD64_GOTPAGE_LO15": 592,
    "GOT_ADD_LO12_NC": 593, "GOT_ADR_PREL_LO21": 594, "TLSDESC_ADR_PAGE21": 595, "TLSDESC_LD64_LO12": 596,
    "TLSDESC_ADD_LO12": 597, "RELATIVE": 1041, "GLOB_DAT": 1042, "TLSDESC": 1043, "IRELATIVE": 1044,
}
_ILP32 = {
    "ABS32": 1, "ABS16": 2, "PREL32": 3, "PREL16": 4, "MOVW_UABS_G0": 5, "MOVW_UABS_G0_NC": 6, "MOVW_UABS_G1": 7,
    "MOVW_SABS_G0": 8, "LD_PREL_LO19": 9, "ADR_PREL_LO21": 10, "ADR_PREL_PG_HI21": 11, "ADD_ABS_LO12_NC": 12,
    "LDST8_ABS_LO12_NC": 13, "LDST16_ABS_LO12_NC": 14, "LDST32_ABS_LO12_NC": 15, "LDST64_ABS_LO12_NC": 16,
    "LDST128_ABS_LO12_NC": 17, "TSTBR14": 18, "CONDBR19": 19, "JUMP26": 20, "CALL26": 21, "MOVW_PREL_G0": 22,
    "MOVW_PREL_G0_NC": 23, "MOVW_PREL_G1": 24, "GOT_LD_PREL19": 25, "ADR_GOT_PAGE": 26, "LD32_GOT_LO12_NC": 27,
    "LD32_GOTPAGE_LO14": 28, "PLT32": 29, "TLSGD_ADR_PREL21": 80, "TLSGD_ADR_PAGE21": 81, "TLSGD_ADD_LO12_NC": 82,
    "TLSLD_ADR_PREL21": 83, "TLSLD_ADR_PAGE21": 84, "TLSLD_ADD_LO12_NC": 85, "TLSLD_LD_PREL19": 86,
    "TLSLD_MOVW_DTPREL_G1": 87, "TLSLD_MOVW_DTPREL_G0": 88, "TLSLD_MOVW_DTPREL_G0_NC": 89,
    "TLSLD_ADD_DTPREL_HI12": 90, "TLSLD_ADD_DTPREL_LO12": 91, "TLSLD_ADD_DTPREL_LO12_NC": 92,
    "TLSLD_LDST8_DTPREL_LO12": 93, "TLSLD_LDST8_DTPREL_LO12_NC": 94, "TLSLD_LDST16_DTPREL_LO12": 95,
    "TLSLD_LDST16_DTPREL_LO12_NC": 96, "TLSLD_LDST32_DTPREL_LO12": 97, "TLSLD_LDST32_DTPREL_LO12_NC": 98,
    "TLSLD_LDST64_DTPREL_LO12": 99, "TLSLD_LDST64_DTPREL_LO12_NC": 100, "TLSLD_LDST128_DTPREL_LO12": 101,
    "TLSLD_LDST128_DTPREL_LO12_NC": 102, "TLSIE_ADR_GOTTPREL_PAGE21": 103, "TLSIE_LD32_GOTTPREL_LO12_NC": 104,
    "TLSIE_LD_GOTTPREL_PREL19": 105, "TLSLE_MOVW_TPREL_G1": 106, "TLSLE_MOVW_TPREL_G0": 107,
    "TLSLE_MOVW_TPREL_G0_NC": 108, "TLSLE_ADD_TPREL_HI12": 109, "TLSLE_ADD_TPREL_LO12": 110,
    "TLSLE_ADD_TPREL_LO12_NC": 111, "TLSLE_LDST8_TPREL_LO12": 112, "TLSLE_LDST8_TPREL_LO12_NC": 113,
    "TLSLE_LDST16_TPREL_LO12": 114, "TLSLE_LDST16_TPREL_LO12_NC": 115, "TLSLE_LDST32_TPREL_LO12": 116,
    "TLSLE_LDST32_TPREL_LO12_NC": 117, "TLSLE_LDST64_TPREL_LO12": 118, "TLSLE_LDST64_TPREL_LO12_NC": 119,
    "TLSLE_LDST128_TPREL_LO12": 120, "TLSLE_LDST128_TPREL_LO12_NC": 121, "TLSDESC_LD_PREL19": 122,
    "TLSDESC_ADR_PREL21": 123, "TLSDESC_ADR_PAGE21": 124, "TLSDESC_LD32_LO12": 125, "TLSDESC_ADD_LO12": 126,
    "TLSDESC_CALL": 127, "COPY": 180, "GLOB_DAT": 181, "JUMP_SLOT": 182, "RELATIVE": 183, "TLS_DTPREL": 184,
    "TLS_DTPMOD": 185, "TLS_TPREL": 186, "TLSDESC": 187, "IRELATIVE": 188,
}
# fmt: on

REFUSED_KINDS = [
    *(Kind(f"R_AARCH64_P32_{name}", number, reason=ILP32) for name, number in _ILP32.items()),
    Kind("R_AARCH64_PATCHINST", 316, reason=PATCHED),
    Kind("R_AARCH64_FUNCINIT64", 317, reason=COMPUTED),
    *(Kind(f"R_AARCH64_AUTH_{name}", number, reason=SIGNED) for name, number in _SIGNED.items()),
    *(Kind(f"R_AARCH64_{name}", number, reason=DYNAMIC) for name, number in _DYNAMIC.items()),
]
"""The rows, for the table of the architecture (jitlink.arches.aarch64)."""

"""The two symbols through which a debugger learns of linked code, in a shared library made by hand.

GDB looks in every file of a process for the function `__jit_debug_register_code`, on which it sets a
breakpoint, and for the variable `__jit_debug_descriptor`, which it reads when that is hit, and when it
attaches. Symbols in memory are not enough: it reads them from the files that the dynamic loader has
loaded. So we write such a file, a shared library of some hundred bytes, into memory (memfd_create), and
have the loader load it by a path under /proc that other processes can open too.

Sources: GDB manual, chapter JIT Compilation Interface; gABI, chapters 4 and 5.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache

from jitlink.errors import MemoryRefused
from jitlink.runtime.host_flags import host_elf_flags

REGISTER, DESCRIPTOR = "__jit_debug_register_code", "__jit_debug_descriptor"

RETURN = {62: bytes.fromhex("c3"), 183: bytes.fromhex("c0035fd6"), 243: bytes.fromhex("67800000")}
"""A function that only returns, by e_machine: x86-64, AArch64, RISC-V."""
DESCRIPTOR_CONTENT = struct.pack("<IIQQ", 1, 0, 0, 0)
"""struct jit_descriptor: version, action_flag, relevant_entry, first_entry."""

PAGE = 0x10000
"""Distance of segments in memory: the largest page of the machines we link for."""
HEADER_SIZE, SEGMENT_SIZE, SECTION_SIZE, SYMBOL_SIZE = 64, 56, 64, 24
ET_DYN = 3
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
SHT_PROGBITS, SHT_STRTAB, SHT_DYNAMIC, SHT_DYNSYM = 1, 3, 6, 11
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT = 0, 4, 5, 6, 10, 11
READ, WRITE, EXECUTE = 4, 2, 1
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
GLOBAL_FUNCTION, GLOBAL_OBJECT = 0x12, 0x11
SEGMENTS, TEXT_SECTION, DATA_SECTION = 5, 3, 5
SECTION_NAMES = b"\0.dynsym\0.dynstr\0.text\0.dynamic\0.data\0.shstrtab\0"


@cache
def descriptor_library(elf_machine: int) -> ctypes.CDLL:
    """Load the library, once in a process. Raises MemoryRefused where the host does not allow it."""
    try:
        file = os.memfd_create("gdb-jit-interface")
        # The file stays open: a debugger opens it by this path as long as the process lives.
        os.write(file, library_file(elf_machine, host_elf_flags()))
        return ctypes.CDLL(f"/proc/{os.getpid()}/fd/{file}")
    except (OSError, AttributeError) as error:
        raise MemoryRefused(f"the debugger interface cannot be loaded: {error}") from error


def library_file(elf_machine: int, elf_flags: int) -> bytes:
    """Write the shared library: headers and tables; a page of code; a page of data. elf_flags: of the process."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (REGISTER, DESCRIPTOR))
    code = RETURN[elf_machine]
    symbols_at = HEADER_SIZE + SEGMENTS * SEGMENT_SIZE
    # One bucket: its chain goes through both symbols.
    hash_table = struct.pack("<6I", 1, 3, 1, 0, 2, 0)
    hash_at = symbols_at + 3 * SYMBOL_SIZE
    names_at = hash_at + len(hash_table)
    code_at = -(-(names_at + len(names)) // 16) * 16
    data_at = -(-(code_at + len(code)) // 16) * 16
    code_address, data_address = code_at + PAGE, data_at + 2 * PAGE
    dynamic = struct.pack(
        "<12Q",
        *(DT_HASH, hash_at, DT_STRTAB, names_at, DT_SYMTAB, symbols_at),
        *(DT_STRSZ, len(names), DT_SYMENT, SYMBOL_SIZE, DT_NULL, 0),
    )
    dynamic_at, dynamic_address = data_at + len(DESCRIPTOR_CONTENT), data_address + len(DESCRIPTOR_CONTENT)
    section_names_at = dynamic_at + len(dynamic)
    sections_at = -(-(section_names_at + len(SECTION_NAMES)) // 8) * 8
    data_size = len(DESCRIPTOR_CONTENT) + len(dynamic)
    symbols = bytes(SYMBOL_SIZE)
    symbols += struct.pack("<IBBHQQ", 1, GLOBAL_FUNCTION, 0, TEXT_SECTION, code_address, len(code))
    symbols += struct.pack(
        "<IBBHQQ", 2 + len(REGISTER), GLOBAL_OBJECT, 0, DATA_SECTION, data_address, len(DESCRIPTOR_CONTENT)
    )
    segments = b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, at, address, address, size, size, alignment)
        for kind, flags, at, address, size, alignment in (
            (PT_LOAD, READ, 0, 0, names_at + len(names), PAGE),
            (PT_LOAD, READ | EXECUTE, code_at, code_address, len(code), PAGE),
            (PT_LOAD, READ | WRITE, data_at, data_address, data_size, PAGE),
            (PT_DYNAMIC, READ | WRITE, dynamic_at, dynamic_address, len(dynamic), 8),
            # Without this one the loader makes the stacks of the process executable.
            (PT_GNU_STACK, READ | WRITE, 0, 0, 0, 16),
        )
    )
    sections = bytes(SECTION_SIZE) + b"".join(
        struct.pack("<IIQQQQIIQQ", SECTION_NAMES.index(name), *fields)
        for name, *fields in (
            (b".dynsym", SHT_DYNSYM, SHF_ALLOC, symbols_at, symbols_at, len(symbols), 2, 1, 8, SYMBOL_SIZE),
            (b".dynstr", SHT_STRTAB, SHF_ALLOC, names_at, names_at, len(names), 0, 0, 1, 0),
            (b".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, code_address, code_at, len(code), 0, 0, 16, 0),
            (b".dynamic", SHT_DYNAMIC, SHF_ALLOC | SHF_WRITE, dynamic_address, dynamic_at, len(dynamic), 2, 0, 8, 16),
            (b".data", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, data_address, data_at, len(DESCRIPTOR_CONTENT), 0, 0, 8, 0),
            (b".shstrtab", SHT_STRTAB, 0, 0, section_names_at, len(SECTION_NAMES), 0, 0, 1, 0),
        )
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(ET_DYN, elf_machine, 1, 0, HEADER_SIZE, sections_at, elf_flags),
        *(HEADER_SIZE, SEGMENT_SIZE, SEGMENTS, SECTION_SIZE, 7, 6),
    )
    content = bytearray(sections_at)
    for at, part in (
        (0, header + segments + symbols + hash_table + names),
        (code_at, code),
        (data_at, DESCRIPTOR_CONTENT + dynamic),
        (section_names_at, SECTION_NAMES),
    ):
        content[at : at + len(part)] = part
    return bytes(content) + sections

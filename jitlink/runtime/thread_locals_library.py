"""A shared library that is nothing but thread-local storage, made by hand for the dynamic loader.

The loader of a process owns its threads' storage: it gives every module with a PT_TLS segment a number,
makes each thread's copy of the segment when the thread first asks for it, and frees it when the thread
ends. Code reaches its copy through the loader's own `__tls_get_addr` and TLS descriptors. To get all of
this for linked code, at the speed of a shared library and with nothing of ours in between, we write a
shared library into memory whose only content is that segment, and have the loader load it.

What the loader knows, we ask in its own language, by dynamic relocations of the library. It fills in a
word each, and we read it: the number of the module, the distance of its block from the thread pointer
(for this one the loader must find room in what it has reserved in every thread, or refuse), and the two
words of each TLS descriptor.

Sources: U. Drepper, ELF Handling For Thread-Local Storage; A. Oliva, G. Araújo, Thread-Local Storage
Descriptors; gABI, chapter 5.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from jitlink.arches.thread_locals import LoaderKinds
from jitlink.passes.thread_storage import Template

PAGE = 0x10000
"""Distance of segments in memory and in the file: the largest page of the machines we link for."""
HEADER_SIZE, SEGMENT_SIZE, SYMBOL_SIZE, RELA_SIZE, WORD = 64, 56, 24, 24, 8
ET_DYN = 3
PT_LOAD, PT_DYNAMIC, PT_TLS, PT_GNU_STACK = 1, 2, 7, 0x6474E551
READ, WRITE = 4, 2
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_RELAENT = 0, 4, 5, 6, 7, 8, 9
DT_STRSZ, DT_SYMENT, DT_FLAGS = 10, 11, 30
DF_STATIC_TLS = 0x10
DYNAMIC_ENTRIES = 10
NO_NAMES = b"\0"
# One bucket, and a chain for the null symbol, which is the only one.
HASH_TABLE = struct.pack("<4I", 1, 1, 0, 0)


@dataclass(frozen=True)
class LibraryFile:
    """The library and where its words are.

    Attributes: content, parts of it by position in the file; size (bytes of the file); words (where the
    words are that the loader fills, from where it loads the library).
    """

    content: dict[int, bytes]
    size: int
    words: int


def library_file(
    elf_machine: int,
    elf_flags: int,
    loader: LoaderKinds,
    template: Template,
    *,
    static: bool,
    descriptors: Sequence[int],
) -> LibraryFile:
    """Write the library.

    elf_flags: those of the process's own libraries. static: whether the block must be at one distance from
    the thread pointer in all threads, as initial-exec and local-exec code needs it. descriptors: offsets in
    the block to make a TLS descriptor for. The loader fills the number of the module; then, if static, the
    distance of the block from the thread pointer; then two words for each descriptor.
    """
    words_at = PAGE
    relocations = [(words_at, loader.module, 0)]
    if static:
        relocations.append((words_at + WORD, loader.from_thread_pointer, 0))
    first_descriptor = words_at + WORD * len(relocations)
    relocations += [
        (first_descriptor + 2 * WORD * number, loader.descriptor, offset) for number, offset in enumerate(descriptors)
    ]
    words = WORD * (1 + static + 2 * len(descriptors))
    # The relocations stand behind the words, so that the first segment is short whatever their number.
    rela_at = words_at + words
    rela = b"".join(struct.pack("<QQq", at, kind, offset) for at, kind, offset in relocations)
    dynamic_at = rela_at + len(rela)
    segments = 5 if template.content else 4
    symbols_at = HEADER_SIZE + segments * SEGMENT_SIZE
    hash_at = symbols_at + SYMBOL_SIZE
    names_at = hash_at + len(HASH_TABLE)
    dynamic = struct.pack(
        f"<{2 * DYNAMIC_ENTRIES}Q",
        *(DT_HASH, hash_at, DT_STRTAB, names_at, DT_SYMTAB, symbols_at),
        *(DT_STRSZ, len(NO_NAMES), DT_SYMENT, SYMBOL_SIZE),
        *(DT_RELA, rela_at, DT_RELASZ, len(rela), DT_RELAENT, RELA_SIZE),
        *(DT_FLAGS, DF_STATIC_TLS if static else 0, DT_NULL, 0),
    )
    data_size = dynamic_at + len(dynamic) - words_at
    template_at = -(-(words_at + data_size) // PAGE) * PAGE
    # Its address is a multiple of its alignment, as the copies' are; without content it has no place.
    template_address = -(-template_at // template.alignment) * template.alignment if template.content else 0
    filled = len(template.content)
    table = [
        (PT_LOAD, READ, 0, 0, names_at + len(NO_NAMES), names_at + len(NO_NAMES), PAGE),
        (PT_LOAD, READ | WRITE, words_at, words_at, data_size, data_size, PAGE),
        (PT_DYNAMIC, READ | WRITE, dynamic_at, dynamic_at, len(dynamic), len(dynamic), WORD),
        (PT_TLS, READ, template_at, template_address, filled, template.size, template.alignment),
        # Without this one the loader makes the stacks of the process executable.
        (PT_GNU_STACK, READ | WRITE, 0, 0, 0, 0, 16),
    ]
    if filled:
        table.insert(2, (PT_LOAD, READ, template_at, template_address, filled, filled, PAGE))
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(ET_DYN, elf_machine, 1, 0, HEADER_SIZE, 0, elf_flags),
        *(HEADER_SIZE, SEGMENT_SIZE, len(table), 0, 0, 0),
    )
    head += b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, at, address, address, in_file, in_memory, alignment)
        for kind, flags, at, address, in_file, in_memory, alignment in table
    )
    head += bytes(SYMBOL_SIZE) + HASH_TABLE + NO_NAMES
    content = {0: head, words_at: bytes(words) + rela + dynamic, template_at: template.content}
    return LibraryFile(content, template_at + filled, words_at)

"""Damaged inputs: sound objects and archives with a few faults put in, and what must come of them.

Real objects and archives, of several compilers and of the machine's own libraries, are damaged a little:
bytes flipped, ends cut off, pieces moved, and single fields of headers, symbols, relocations and archive
members set to values that tend to be wrong. What comes out is read, and linked into an image at an
address, with an address for every name it asks for. Nothing is executed.

As a program this runs many more inputs than the tests do, each with an alarm against hangs, all of them
with a limit on memory; the same seed gives the same inputs:

    python -m tests.mutations 20000 [seed]
"""

from __future__ import annotations

import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import which
from types import FrameType

import numpy as np

import jitlink
from jitlink.formats import elf_layout as elf
from jitlink.formats.archive import read_archive
from tests import programs, toolchain
from tests.riscv64 import objects as riscv64

BASE = 0x1000_0000
MEMORY = 1 << 30
"""Bytes that the process may grow by while damaged inputs are linked; the inputs have some kilobytes each."""
SECONDS = 10
"""More than a link of any input here takes by a factor of a thousand."""
DAMAGES_AT_MOST = 3
LARGEST_SEED = 40_000

SMALL = (0, 1, 2, 3, 4, 7, 8, 15, 16, 24, 63, 64, 127, 128, 255, 0xFF00, 0xFFF1, 0xFFF2, 0xFFFF)
LARGE = (1 << 31, 1 << 32, 1 << 40, 1 << 47, 1 << 62, 1 << 63, 1 << 64)
INTERESTING = (*SMALL, *LARGE, *(value - 1 for value in LARGE), (1 << 64) - 64)
DEBIAN_MEMBERS = {"libz.a": 4, "libcrypto.a": 6, "libsqlite3.a": 3, "libexpat.a": 2}

ASSEMBLY = """
    .section .text.once,"axG",@progbits,once,comdat
    .weak once
    .type once, @function
once:
    jmp *entry@GOTPCREL(%rip)
    .text
    .globl entry, choose
    .type entry, @function
    .type choose, @gnu_indirect_function
entry:
    .cfi_startproc
    movq shared@GOTPCREL(%rip), %rax
    call outside@PLT
    leaq __start_my_set(%rip), %rcx
    movabsq $_GLOBAL_OFFSET_TABLE_-entry, %rdx
    movl $table, %esi
    ret
    .cfi_endproc
choose:
    leaq entry(%rip), %rax
    ret
    .section my_set,"aw",@progbits
    .quad entry, once, late - .
    .section .init_array.200,"aw",@init_array
    .quad entry
    .section .ctors.65000,"aw",@progbits
    .quad entry
    .section .rodata.str1.1,"aMS",@progbits,1
    .asciz "one string"
    .section .text.retained,"axR",@progbits
    call once
    .section .associated,"ao",@progbits,.text.retained
    .long 0
    .data
    .hidden table
    .globl table
table:
    .quad table+8, entry, outside - .
    .weak late
    .quad late
    .comm shared, 64, 32
    .local own
    .comm own, 8, 8
    .globl absolute
    .set absolute, 0x1234
"""


# Seeds


@cache
def seeds() -> dict[str, bytes]:
    """The sound inputs, by name: small objects and archives of every maker that is there."""
    source = programs.source("linkage_a.c")
    made = {
        "zig assembly": toolchain.assemble(ASSEMBLY),
        "zig": toolchain.zig_cc(source, "-O2", "-fPIC"),
        "zig sections": toolchain.zig_cc(source, "-O1", "-g", "-ffunction-sections", "-fdata-sections"),
    }
    for compiler in ("gcc", "clang"):
        if which(compiler):
            made[compiler] = toolchain.compile_with(source, "-O2", compiler=compiler)
            made[f"{compiler} large"] = toolchain.compile_with(source, "-mcmodel=large", "-fPIC", compiler=compiler)
    if which("clang-22"):
        flags = ("-O1", "-Wa,--crel,--allow-experimental-crel")
        made["clang-22 crel"] = toolchain.compile_with(source, *flags, compiler="clang-22")
    members = {f"member_with_a_long_name_{row}.o": content for row, content in enumerate(list(made.values())[:2])}
    made["gnu archive"] = toolchain.archive_of(members, "gnu")
    made["bsd archive"] = toolchain.archive_of(members, "bsd")
    return made | riscv64.mutation_seeds() | _debian_members()


@cache
def companion() -> bytes:
    """A sound object with names of its own, to be linked beside a damaged one."""
    return toolchain.zig_cc(programs.source("linkage_b.c"), "-O2", "-ffunction-sections")


def _debian_members() -> dict[str, bytes]:
    """Some small members of static libraries of the machine, those that it has."""
    found = {}
    for library, count in DEBIAN_MEMBERS.items():
        for path in [directory / library for directory in toolchain.library_directories()]:
            if path.is_file():
                small = {name: content for name, content in _members(path).items() if is_linkable(content)}
                for name in list(small)[:: max(len(small) // count, 1)][:count]:
                    found[f"{library}({name})"] = small[name]
                break
    return found


def _members(path: Path) -> dict[str, bytes]:
    """The small members of an archive."""
    pool = np.fromfile(path, np.uint8)
    archive = read_archive(pool, 0, len(pool), path.name)
    rows = zip(archive.member_names, archive.starts.tolist(), archive.sizes.tolist(), strict=True)
    return {name: pool[start : start + size].tobytes() for name, start, size in rows if size < LARGEST_SEED}


def is_linkable(content: bytes) -> bool:
    """Whether an input goes through the whole link: one with indirect functions fails at its very end."""
    try:
        jitlink.link(content, base=BASE, define=lambda name: BASE + 0x100_0000, whole_archive=True)
    except jitlink.LinkError as error:
        return "STT_GNU_IFUNC" in str(error)
    return True


# Damage


def damaged(content: bytes, choices: random.Random) -> bytes:
    """Damage a sound input in a few places."""
    buffer = bytearray(content)
    for _ in range(choices.randint(1, DAMAGES_AT_MOST)):
        if buffer:
            choices.choice(DAMAGES)(buffer, choices)
    return bytes(buffer)


def flip(buffer: bytearray, choices: random.Random) -> None:
    """Change one byte."""
    buffer[choices.randrange(len(buffer))] ^= choices.randint(1, 255)


def flip_some(buffer: bytearray, choices: random.Random) -> None:
    """Change some bytes that lie close together."""
    start = choices.randrange(len(buffer))
    for position in range(start, min(start + 16, len(buffer))):
        if choices.random() < 0.5:
            buffer[position] = choices.randrange(256)


def set_word(buffer: bytearray, choices: random.Random) -> None:
    """Put a value that tends to be wrong at an aligned place."""
    width = choices.choice((2, 4, 8))
    position = choices.randrange(len(buffer)) // width * width
    _put(buffer, position, width, choices.choice(INTERESTING))


def truncate(buffer: bytearray, choices: random.Random) -> None:
    """Cut the end off."""
    del buffer[choices.randrange(len(buffer)) :]


def splice(buffer: bytearray, choices: random.Random) -> None:
    """Copy one piece over another."""
    size = choices.randint(1, min(256, len(buffer)))
    source, destination = (choices.randrange(len(buffer) - size + 1) for _ in range(2))
    buffer[destination : destination + size] = buffer[source : source + size]


def insert(buffer: bytearray, choices: random.Random) -> None:
    """Move everything behind some place by a few bytes."""
    position = choices.randrange(len(buffer))
    buffer[position:position] = bytes(choices.choice((1, 2, 8, 16, 64)))


def delete(buffer: bytearray, choices: random.Random) -> None:
    """Take a few bytes out."""
    position = choices.randrange(len(buffer))
    del buffer[position : position + choices.choice((1, 2, 8, 16, 64))]


def set_header_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of an ELF header."""
    _set_field(buffer, 0, elf.EHDR, choices)


def set_section_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a section header."""
    headers = section_headers(buffer)
    if headers:
        _set_field(buffer, choices.choice(headers), elf.SHDR, choices)


def set_symbol_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a symbol."""
    _set_record_field(buffer, (elf.SHT_SYMTAB,), elf.SYM, choices)


def set_relocation_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a relocation."""
    _set_record_field(buffer, (elf.SHT_RELA,), elf.RELA, choices)


def set_content_word(buffer: bytearray, choices: random.Random) -> None:
    """Set a word inside a section: of a group, an unwind record, a string, code."""
    headers = section_headers(buffer)
    if headers:
        offset, size = struct.unpack_from("<QQ", buffer, choices.choice(headers) + 24)
        if 4 <= size <= len(buffer) and offset <= len(buffer):
            _put(buffer, offset + choices.randrange(size // 4) * 4, 4, choices.choice(INTERESTING))


def swap_section_types(buffer: bytearray, choices: random.Random) -> None:
    """Give a section the type and flags of another one."""
    headers = section_headers(buffer)
    if headers:
        one, other = choices.choice(headers), choices.choice(headers)
        buffer[one + 4 : one + 16] = buffer[other + 4 : other + 16]


def set_archive_field(buffer: bytearray, choices: random.Random) -> None:
    """Write over the name, the size or the end mark of a member header."""
    marks = [position for position in range(66, len(buffer)) if buffer[position : position + 2] == b"`\n"][:64]
    if buffer.startswith(b"!<") and marks:
        start = choices.choice(marks) - 58
        fields: dict[int, tuple[bytes, ...]] = {}
        fields[0] = (b"/", b"//", b"/9999", b"/7", b"#1/20", b"#1/999999", b"/SYM64/", b"__.SYMDEF", b"x/")
        fields[48] = (b"0", b"1", b"9999999999", b"-1", b"", b"60", b"1e3")
        fields[58] = (b"``", b"\n\n")
        offset = choices.choice(list(fields))
        width = {0: 16, 48: 10, 58: 2}[offset]
        buffer[start + offset : start + offset + width] = choices.choice(fields[offset]).ljust(width)


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    flip_some,
    set_word,
    truncate,
    splice,
    insert,
    delete,
    set_header_field,
    *(set_section_field,) * 4,
    *(set_symbol_field,) * 3,
    *(set_relocation_field,) * 3,
    set_content_word,
    swap_section_types,
    *(set_archive_field,) * 2,
)
"""What may happen to an input, each as likely as the others; those that aim well stand here more than once."""


def section_headers(buffer: bytearray) -> list[int]:
    """Where the section headers of an ELF file start, as far as they lie inside it."""
    if not buffer.startswith(elf.MAGIC) or len(buffer) < elf.EHDR.itemsize:
        return []
    start, count = struct.unpack_from("<Q", buffer, 40)[0], struct.unpack_from("<H", buffer, 60)[0]
    last = len(buffer) - elf.SHDR.itemsize
    return [at for at in range(start, start + min(count, 512) * elf.SHDR.itemsize, elf.SHDR.itemsize) if at <= last]


def _set_record_field(
    buffer: bytearray, types: tuple[int, ...], record: np.dtype[np.void], choices: random.Random
) -> None:
    """Set a field of one record of a table section."""
    tables = [at for at in section_headers(buffer) if struct.unpack_from("<I", buffer, at + 4)[0] in types]
    if tables:
        offset, size = struct.unpack_from("<QQ", buffer, choices.choice(tables) + 24)
        if record.itemsize <= size <= len(buffer) and offset <= len(buffer):
            row = choices.randrange(size // record.itemsize)
            _set_field(buffer, offset + row * record.itemsize, record, choices)


def _set_field(buffer: bytearray, start: int, record: np.dtype[np.void], choices: random.Random) -> None:
    """Set one field of a record to a value that tends to be wrong, or that is nearly right."""
    kind, offset = record.fields[choices.choice(record.names)][:2]  # type: ignore[index, arg-type]
    place, width = start + offset, min(kind.itemsize, 8)
    before = int.from_bytes(buffer[place : place + width], "little")
    nearby = before + choices.choice((-1, 1, 8, -8, len(buffer)))
    _put(
        buffer, place, width, choices.choice((nearby, len(buffer), choices.choice(INTERESTING), choices.randrange(64)))
    )


def _put(buffer: bytearray, place: int, width: int, value: int) -> None:
    if 0 <= place <= len(buffer) - width:
        buffer[place : place + width] = (value % (1 << 8 * width)).to_bytes(width, "little")


# Linking


def link_or_refuse(content: bytes, choices: random.Random) -> str:
    """Read and link one input, alone or beside a sound one; says how that ended. Any other error passes."""
    sources = [content]
    if choices.random() < 0.25:
        sources.insert(choices.randrange(2), companion())
    far = choices.random() < 0.25
    try:
        jitlink.read(content)
        jitlink.link(
            *sources,
            base=BASE,
            define=lambda name: BASE + 0x100_0000 + len(name) * 16 + (far << 40),
            whole_archive=choices.random() < 0.8,
            dead_strip=choices.random() < 0.5,
            exports=["answer", "entry"],
        )
    except jitlink.LinkError as error:
        str(error)
        return type(error).__name__
    return "linked"


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let the process grow by MEMORY and no more: what asks for more gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# The program


def main(count: int, seed: int) -> int:
    """Link count damaged inputs. Prints how they ended; returns 1 if any ended otherwise than it may."""

    def link_one(number: int, content: bytes, choices: random.Random) -> str:
        return link_or_refuse(damaged(content, choices), choices)

    return run_campaign(count, seed, seeds(), link_one)


def run_campaign(
    count: int, seed: int, sound: Mapping[str, bytes], run_one: Callable[[int, bytes, random.Random], str]
) -> int:
    """Run many inputs, each with an alarm, all of them with a limit on memory; the same seed gives the same inputs.

    sound: the inputs before they are damaged, by name. run_one: damages and runs one, and says how it ended.
    Prints how they ended; returns 1 if any ended with an exception that got out.
    """
    signal.signal(signal.SIGALRM, _too_long)
    names = sorted(sound)
    outcomes: Counter[str] = Counter()
    started = time.perf_counter()
    with limited_memory():
        for number in range(count):
            choices = random.Random(f"{seed}/{number}")
            name = choices.choice(names)
            signal.alarm(SECONDS)
            try:
                outcomes[run_one(number, sound[name], choices)] += 1
            except Exception as error:
                outcomes[f"FAULT: {type(error).__name__}"] += 1
                print(f"input {number} of seed {seed}, made from {name}:", file=sys.stderr)
                traceback.print_exception(error, limit=-6, file=sys.stderr)
            finally:
                signal.alarm(0)
    for outcome, times in outcomes.most_common():
        print(f"{times:8} {outcome}")
    print(f"{count} inputs from {len(names)} seeds in {time.perf_counter() - started:.0f} s, seed {seed}")
    return int(any(outcome.startswith("FAULT") for outcome in outcomes))


def _too_long(signal_number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"one input took more than {SECONDS} s")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))

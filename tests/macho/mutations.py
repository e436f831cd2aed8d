"""Damaged Mach-O objects and universal files; what is done to them, and what must come of it, as in tests.mutations.

As a program this runs many more inputs than the tests do:

    python -m tests.macho.mutations 20000 [seed]
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from functools import cache

import numpy as np

import jitlink
from jitlink.formats import macho_layout as macho
from tests import programs
from tests.macho.objects import assembled, compiled
from tests.macho.universal_files import universal
from tests.mutations import (
    BASE,
    DAMAGES_AT_MOST,
    INTERESTING,
    _put,
    _set_field,
    delete,
    flip,
    flip_some,
    insert,
    run_campaign,
    set_word,
    splice,
    truncate,
)
from tests.toolchain import archive_of

COMMANDS_AT = macho.HEADER.itemsize
MOST_RECORDS = 4096

CXX = """
struct Guard { int *count; ~Guard(); };
Guard::~Guard() { ++*count; }
int thrower(int x, int *count) { Guard guard{count}; if (x > 3) throw x; return x; }
extern "C" int answer(int x) { int n = 0; try { return thrower(x, &n); } catch (int e) { return e + n; } }
"""
THREAD_LOCAL = """
_Thread_local int counter = 3;
static _Thread_local long room[4];
int answer(int x) { room[x & 3] += x; return ++counter + (int)room[1]; }
"""
ASSEMBLY = {
    "x86_64": """
    .text
    .globl _entry
_entry:
    .cfi_startproc
    movq _shared@GOTPCREL(%rip), %rax
    cmpq $0, _outside@GOTPCREL(%rip)
    callq _outside
    movl $1, _table+4(%rip)
    leaq L_string+2(%rip), %rcx
    ret
    .cfi_endproc
    .alt_entry _inside
_inside:
    ret
    .data
    .globl _table
    .p2align 4
_table:
    .quad _entry, _table+8, _weak-_table, _weak-_entry, L_string
    .long _entry-_table, _weak-_entry
    .weak_definition _weak
    .globl _weak
_weak:
    .quad 1
    .private_extern _hidden
    .globl _hidden
_hidden:
    .quad 2
    .no_dead_strip _hidden
    .cstring
L_string:
    .asciz "one"
    .asciz "two"
    .literal8
    .quad 3
    .mod_init_func
    .quad _entry
    .comm _shared, 64, 4
    .zerofill __DATA, __bss, _zeroes, 100, 3
    .globl _absolute
    .set _absolute, 0x1234
    .globl _second
    .set _second, _far
    .weak_reference _maybe
    .data
    .quad _maybe
    """,
    "aarch64": """
    .text
    .globl _entry
    .p2align 2
_entry:
    .cfi_startproc
    adrp x0, _shared@GOTPAGE
    ldr x0, [x0, _shared@GOTPAGEOFF]
    adrp x1, _table@PAGE
    add x1, x1, _table@PAGEOFF
    ldr x2, [x1, _table@PAGEOFF]
    ldrb w2, [x1, _table@PAGEOFF]
    adrp x3, _table@PAGE+64
    ldr q0, [x3, _table@PAGEOFF+64]
    bl _outside
    b _entry
    .cfi_endproc
    .data
    .globl _table
    .p2align 4
_table:
    .quad _entry, _table+8, _apart-_table, _apart-_entry
    .long _entry-_table, _apart-_entry, _outside@GOT-.
_apart:
    .quad 0
    .comm _shared, 64, 4
    .mod_init_func
    .p2align 3
    .quad _entry
    """,
}


@cache
def seeds() -> dict[str, bytes]:
    """The sound inputs, by name."""
    source = programs.source("linkage_a.c")
    made = {}
    for machine in ("x86_64", "aarch64"):
        made[f"assembly {machine}"] = assembled(ASSEMBLY[machine], machine)
        made[f"c {machine}"] = compiled(source, "-O2", machine=machine)
        made[f"c debug {machine}"] = compiled(source, "-O0", "-g", machine=machine)
        made[f"c++ {machine}"] = compiled(CXX, "-O2", machine=machine, language="c++")
        made[f"thread-local {machine}"] = compiled(THREAD_LOCAL, "-O1", machine=machine)
        compact = ("-O2", "-femit-dwarf-unwind=no-compact-unwind")
        made[f"c++ compact {machine}"] = compiled(CXX, *compact, machine=machine, language="c++")
    made["archive"] = archive_of({f"a_member_{n}.o": made[n + " x86_64"] for n in ("c", "assembly")}, "darwin")
    made["universal"] = universal({"x86_64": made["c x86_64"], "arm64": made["c aarch64"]})
    return made


def set_header_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a Mach-O header."""
    _set_field(buffer, 0, macho.HEADER, choices)


def set_command_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a load command."""
    commands = load_commands(buffer)
    if commands:
        at = choices.choice(commands)
        sort = int.from_bytes(buffer[at : at + 4], "little")
        records = {macho.LC_SEGMENT_64: macho.SEGMENT, macho.LC_SYMTAB: macho.SYMTAB}
        _set_field(buffer, at, records.get(sort, macho.COMMAND), choices)


def set_section_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a section header."""
    headers = section_headers(buffer)
    if headers:
        _set_field(buffer, choices.choice(headers), macho.SECTION, choices)


def set_symbol_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a symbol."""
    tables = [at for at in load_commands(buffer) if buffer[at : at + 4] == b"\x02\0\0\0"]
    if tables and tables[0] + macho.SYMTAB.itemsize <= len(buffer):
        start, count = struct.unpack_from("<II", buffer, tables[0] + 8)
        if count:
            row = choices.randrange(min(count, MOST_RECORDS))
            _set_field(buffer, start + row * macho.NLIST.itemsize, macho.NLIST, choices)


def set_relocation_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a relocation, or one part of it."""
    headers = [at for at in section_headers(buffer) if struct.unpack_from("<I", buffer, at + 60)[0]]
    if headers:
        start, count = struct.unpack_from("<II", buffer, choices.choice(headers) + 56)
        at = start + choices.randrange(min(count, MOST_RECORDS)) * macho.RELOCATION.itemsize
        if choices.random() < 0.5 and at + 8 <= len(buffer):
            shift = choices.choice((24, 25, 26, 27, 28, 29, 30, 31))
            info = int.from_bytes(buffer[at + 4 : at + 8], "little") ^ 1 << shift
            _put(buffer, at + 4, 4, info)
        else:
            _set_field(buffer, at, macho.RELOCATION, choices)


def set_content_word(buffer: bytearray, choices: random.Random) -> None:
    """Set a word inside a section: of an unwind record, a pointer, code."""
    headers = section_headers(buffer)
    if headers:
        size, offset = struct.unpack_from("<QI", buffer, choices.choice(headers) + 40)
        if 4 <= size <= len(buffer) and offset <= len(buffer):
            _put(buffer, offset + choices.randrange(size // 4) * 4, 4, choices.choice(INTERESTING))


def swap_sections(buffer: bytearray, choices: random.Random) -> None:
    """Give a section the name or the type and attributes of another one."""
    headers = section_headers(buffer)
    if headers:
        one, other = choices.choice(headers), choices.choice(headers)
        start, end = choices.choice(((0, 32), (64, 68), (64, 72)))
        buffer[one + start : one + end] = buffer[other + start : other + end]


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    flip_some,
    set_word,
    truncate,
    splice,
    insert,
    delete,
    set_header_field,
    *(set_command_field,) * 2,
    *(set_section_field,) * 4,
    *(set_symbol_field,) * 4,
    *(set_relocation_field,) * 4,
    *(set_content_word,) * 2,
    *(swap_sections,) * 2,
)
"""What may happen to an input, each as likely as the others; those that aim well stand here more than once."""


def damaged(content: bytes, choices: random.Random) -> bytes:
    """Damage a sound input in a few places."""
    buffer = bytearray(content)
    for _ in range(choices.randint(1, DAMAGES_AT_MOST)):
        if buffer:
            choices.choice(DAMAGES)(buffer, choices)
    return bytes(buffer)


def load_commands(buffer: bytearray) -> list[int]:
    """Where the load commands of an object start, as far as they lie inside it."""
    found: list[int] = []
    if not buffer.startswith(b"\xcf\xfa\xed\xfe"):
        return found
    at = COMMANDS_AT
    while at + macho.COMMAND.itemsize <= len(buffer) and len(found) < int.from_bytes(buffer[16:20], "little"):
        found.append(at)
        size = int.from_bytes(buffer[at + 4 : at + 8], "little")
        if size < macho.COMMAND.itemsize:
            break
        at += size
    return found


def section_headers(buffer: bytearray) -> list[int]:
    """Where the section headers of an object start, as far as they lie inside it."""
    segments = [at for at in load_commands(buffer) if buffer[at] == macho.LC_SEGMENT_64]
    if not segments or segments[0] + macho.SEGMENT.itemsize > len(buffer):
        return []
    count = int(np.frombuffer(buffer[segments[0] :][: macho.SEGMENT.itemsize], macho.SEGMENT)["nsects"][0])
    start, size = segments[0] + macho.SEGMENT.itemsize, macho.SECTION.itemsize
    return [start + row * size for row in range(min(count, 64)) if start + (row + 1) * size <= len(buffer)]


def link_or_refuse(content: bytes, choices: random.Random) -> str:
    """Read and link one input; says how that ended. Any error that is no LinkError passes."""
    far = choices.random() < 0.25
    try:
        jitlink.read(content)
        jitlink.link(
            content,
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


def main(count: int, seed: int) -> int:
    """Link count damaged inputs. Prints how they ended; returns 1 if any ended otherwise than it may."""
    return run_campaign(
        count, seed, seeds(), lambda number, content, choices: link_or_refuse(damaged(content, choices), choices)
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))

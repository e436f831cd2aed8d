"""Damaged COFF objects and import libraries, to be linked or refused; see tests/mutations.py.

As a program this runs many more of them than the tests do:

    python -m tests.coff.mutations 20000 [seed]
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from functools import cache

import jitlink
from jitlink.formats import coff_layout as coff
from tests import mutations, programs, toolchain
from tests.coff.writer import (
    ANY,
    ASSOCIATIVE,
    CODE,
    DATA,
    EXACT_MATCH,
    INFO,
    LARGEST,
    NEWEST,
    READ_ONLY,
    REMOVE,
    SAME_SIZE,
    ZEROES,
    Object,
    import_member,
)

TARGETS = ("x86_64-windows-gnu", "aarch64-windows-gnu")


def everything(*, big: bool) -> bytes:
    """A small object with something of everything that COFF has."""
    made = Object(big=big, time=3)
    text = made.section(".text", bytes(32), CODE, alignment=16)
    data = made.section("a_section_with_a_long_name", bytes(64), DATA, alignment=8)
    made.section(".bss", 100, ZEROES)
    made.section(".drectve", b"/alternatename:absent=f -export:g=f /include:f /merge:.a=.b", INFO | REMOVE)
    f = made.symbol("f", section=text, type=0x20)
    made.symbol(".file", section=-2, storage=103, aux=b"a source file of a long name.c")
    late = made.symbol("outside_of_the_object")
    weak = made.weak("weak", f)
    made.symbol("common", 24)
    for number, selection in enumerate((ANY, SAME_SIZE, EXACT_MATCH, LARGEST, NEWEST)):
        parent = made.comdat(".rdata", bytes(16), selection, f"thing_{number}", flags=READ_ONLY)
        made.comdat(".CRT$XCU", bytes(8), ASSOCIATIVE, parent=parent)
        made.relocate(parent, 0, late, 1)
    for number, kind in enumerate((1, 2, 3, 4, 5, 9, 10, 11, 12)):
        made.relocate(data, 4 * number, (f, late, weak)[number % 3], kind)
    info = made.symbol("info", section=data)
    table = made.section(".pdata", bytes(12), READ_ONLY)
    for offset, target in ((0, f), (4, made.symbol("end", 16, text)), (8, info)):
        made.relocate(table, offset, target, 3)
    made.relocate(text, 4, made.symbol("__imp_far"), 4)
    made.relocate(text, 12, made.symbol("__ImageBase"), 4)
    return made.write()


@cache
def seeds() -> dict[str, bytes]:
    """The sound inputs, by name."""
    made = {"everything": everything(big=False), "everything, bigobj": everything(big=True)}
    for target in TARGETS:
        source = programs.source("linkage_a.c")
        made[f"zig {target}"] = toolchain.zig_cc(source, "-O1", "-ffunction-sections", target=target)
        made[f"zig -g {target}"] = toolchain.zig_cc(source, "-O0", "-g", target=target)
    made["import"] = import_member("f", exported="g", name_type=4)
    members = {"a.obj": made["everything"], "b.obj": import_member("far"), "c.obj": import_member("_x@8", name_type=3)}
    made["archive"] = toolchain.archive_of(members, "coff")
    return made


def set_header_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of the file header."""
    record = coff.BIG_HEADER if buffer.startswith(coff.ANONYMOUS) else coff.HEADER
    mutations._set_field(buffer, 0, record, choices)


def set_section_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a section header."""
    headers = _section_headers(buffer)
    if headers:
        mutations._set_field(buffer, choices.choice(headers), coff.SECTION, choices)


def set_symbol_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a symbol, or of an auxiliary record."""
    at, count, size = _symbols(buffer)
    if count:
        record = choices.choice((coff.SYMBOL, coff.BIG_SYMBOL, coff.AUX_SECTION, coff.AUX_WEAK))
        mutations._set_field(buffer, at + size * choices.randrange(count), record, choices)


def set_relocation_field(buffer: bytearray, choices: random.Random) -> None:
    """Set a field of a relocation."""
    tables = [at for at in _section_headers(buffer) if struct.unpack_from("<H", buffer, at + 32)[0]]
    if tables:
        header = choices.choice(tables)
        start, count = (
            struct.unpack_from("<I", buffer, header + 24)[0],
            struct.unpack_from("<H", buffer, header + 32)[0],
        )
        mutations._set_field(buffer, start + 10 * choices.randrange(count), coff.RELOCATION, choices)


def swap_sections(buffer: bytearray, choices: random.Random) -> None:
    """Give a section the name, or the flags, of another one."""
    headers = _section_headers(buffer)
    if headers:
        one, other = choices.choice(headers), choices.choice(headers)
        start, end = choices.choice(((0, 8), (36, 40)))
        buffer[one + start : one + end] = buffer[other + start : other + end]


def _is_big(buffer: bytearray) -> bool:
    return buffer.startswith(coff.ANONYMOUS) and buffer[4:6] == b"\2\0"


def _section_headers(buffer: bytearray) -> list[int]:
    """Where the section headers start, as far as they lie inside the file."""
    if len(buffer) < coff.BIG_HEADER.itemsize or buffer.startswith(b"!<"):
        return []
    start, count = (56, _field(buffer, 44)) if _is_big(buffer) else (20, _field(buffer, 2, 2))
    last = len(buffer) - coff.SECTION.itemsize
    return [at for at in range(start, start + 40 * min(count, 512), 40) if at <= last]


def _symbols(buffer: bytearray) -> tuple[int, int, int]:
    """Where the symbols start, how many there are, and the size of each."""
    if len(buffer) < coff.BIG_HEADER.itemsize or buffer.startswith(b"!<"):
        return 0, 0, 18
    at, count, size = (
        (_field(buffer, 48), _field(buffer, 52), 20) if _is_big(buffer) else (_field(buffer, 8), _field(buffer, 12), 18)
    )
    return at, min(count, (len(buffer) - at) // size if at < len(buffer) else 0), size


def _field(buffer: bytearray, at: int, width: int = 4) -> int:
    return int.from_bytes(buffer[at : at + width], "little")


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    mutations.flip,
    mutations.flip_some,
    mutations.set_word,
    mutations.truncate,
    mutations.splice,
    mutations.insert,
    mutations.delete,
    *(set_header_field,) * 2,
    *(set_section_field,) * 4,
    *(set_symbol_field,) * 5,
    *(set_relocation_field,) * 3,
    *(swap_sections,) * 2,
    mutations.set_archive_field,
)


def damaged(content: bytes, choices: random.Random) -> bytes:
    """Damage a sound input in a few places."""
    buffer = bytearray(content)
    for _ in range(choices.randint(1, mutations.DAMAGES_AT_MOST)):
        if buffer:
            choices.choice(DAMAGES)(buffer, choices)
    return bytes(buffer)


def link_or_refuse(content: bytes, choices: random.Random) -> str:
    """Read and link one input, alone or beside a sound one; says how that ended. Any other error passes."""
    sources = [content]
    if choices.random() < 0.5:
        sources.insert(choices.randrange(2), seeds()["everything"])
    far = choices.random() < 0.25
    try:
        jitlink.read(content)
        jitlink.link(
            *sources,
            base=mutations.BASE,
            define=lambda name: mutations.BASE + 0x100_0000 + len(name) * 16 + (far << 40),
            whole_archive=choices.random() < 0.8,
            dead_strip=choices.random() < 0.5,
            exports=["answer", "f", "_x@8"],
        )
    except jitlink.LinkError as error:
        str(error)
        return type(error).__name__
    return "linked"


def is_linkable(content: bytes) -> bool:
    """Whether an input goes through the whole link."""
    try:
        jitlink.link(content, base=mutations.BASE, define=lambda name: mutations.BASE + 0x100_0000, whole_archive=True)
    except jitlink.LinkError:
        return False
    return True


def main(count: int, seed: int) -> int:
    """Link count damaged inputs. Prints how they ended; returns 1 if any ended otherwise than it may."""

    def link_one(number: int, content: bytes, choices: random.Random) -> str:
        return link_or_refuse(damaged(content, choices), choices)

    return mutations.run_campaign(count, seed, seeds(), link_one)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))

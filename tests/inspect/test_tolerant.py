"""Damaged inputs, shown as far as they are sound."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from jitlink.cli import main
from jitlink.formats import elf_layout as elf
from jitlink.inspect.tolerant import read_what_is_sound
from tests.inspect.objects import sample
from tests.toolchain import archive_of

GOOD = sample("x86_64-linux")


def sections_of_type(content: bytes, *types: int) -> list[int]:
    """Where the headers of the sections of some types start in an object."""
    start, count = (int.from_bytes(content[at : at + size], "little") for at, size in ((40, 8), (60, 2)))
    headers = range(start, start + 64 * count, 64)
    return [at for at in headers if int.from_bytes(content[at + 4 : at + 8], "little") in types]


def patched(content: bytes, at: int, value: int, size: int = 8) -> bytes:
    """An object with other bytes at a place."""
    return content[:at] + value.to_bytes(size, "little") + content[at + size :]


def archive_with_damaged(*damaged: int, members: int) -> bytes:
    """An archive of objects, some of which say a wrong size of their section headers (gABI, e_shentsize)."""
    archive = archive_of({f"member{number}.o": GOOD for number in range(members)})
    starts = [found.start() for found in re.finditer(re.escape(GOOD[:16]), archive)]
    for number in damaged:
        archive = patched(archive, starts[number] + 58, 7, 2)
    return archive


def test_a_sound_input_has_no_faults():
    """Then it is what jitlink.read gives."""
    found = read_what_is_sound(GOOD)
    assert not found.faults
    assert found.graph is not None
    assert found.graph.symbols["entry"].block is not None


def test_damaged_members_do_not_hide_the_others():
    """Of an archive, each bad member is one fault and the good ones are shown."""
    found = read_what_is_sound(archive_with_damaged(1, 3, members=4))
    assert found.graph is not None
    assert len(found.graph.inputs) == 3
    assert len(found.faults) == 2
    assert "member1.o" in found.faults[0].input


def test_a_bad_relocation_section_does_not_hide_the_sound_one():
    """The relocations of one section are left out, and those of another are there."""
    tables = sections_of_type(GOOD, elf.SHT_RELA)
    assert len(tables) >= 2
    offset = int.from_bytes(GOOD[tables[0] + 24 : tables[0] + 32], "little")
    # A relocation of a symbol that is not there.
    found = read_what_is_sound(patched(GOOD, offset + 12, 0xFFFF, 4))
    assert found.graph is not None
    whole = read_what_is_sound(GOOD).graph
    assert whole is not None
    assert 1 < len(found.graph.edges) < len(whole.edges)
    [fault] = found.faults
    assert "refers to a symbol that is not there" in fault.error


def test_bad_symbols_do_not_hide_the_sections():
    """An object whose symbol table is nonsense still has sections."""
    [table] = sections_of_type(GOOD, elf.SHT_SYMTAB)
    found = read_what_is_sound(patched(GOOD, table + 56, 7))
    assert found.graph is not None
    assert len(found.graph.sections) > 3
    assert len(found.graph.symbols) == 1
    assert len(found.faults) == 1


@pytest.mark.parametrize("content", [b"", b"nonsense", GOOD[:40], b"!<arch>\nbroken"])
def test_nothing_sound_is_faults_alone(content):
    """What has no sound part at all is a fault and no graph."""
    found = read_what_is_sound(content)
    assert found.graph is None
    assert len(found.faults) == 1


def test_the_command_shows_the_rest_and_exits_with_1(tmp_path):
    """Standard output has the sound member, standard error the fault, and the exit code is 1."""
    path = tmp_path / "lib.a"
    path.write_bytes(archive_with_damaged(1, members=2))
    result = CliRunner().invoke(main, ["show", str(path)])
    assert result.exit_code == 1
    assert "member0.o" in result.stdout
    assert "entry" in result.stdout
    assert "member1.o" in result.stderr
    assert "Traceback" not in result.output

""".BTF.ext: the source line of an instruction, and the relocations of CO-RE."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.btf_ext import LineTable, parse_ext
from jitlink.errors import LinkError, MalformedInput, UnsupportedInput
from tests.bpf.objects import compiled

SOURCE = """
struct packet { int length; int kind; } __attribute__((preserve_access_index));
int classify(struct packet *packet)
{
    int length = packet->length;
    if (length > 100)
        return 3;
    return packet->kind * 7;
}
__attribute__((section("second"))) int other(int x)
{
    return x + 1;
}
"""


@pytest.fixture(params=["little", "big"])
def made(request):
    return compiled(SOURCE, request.param)


def test_lines_agree_with_the_line_program_of_dwarf(made):
    """Every line that BTF gives for an instruction is one that DWARF gives for its address."""
    dwarf = made.elf.get_dwarf_info(relocate_dwarf_sections=False)
    program = dwarf.line_program_for_CU(next(dwarf.iter_CUs()))
    known = set()
    for entry in program.get_entries():
        if entry.state is not None:
            known.add((entry.state.address, entry.state.line))
    table = made.ext.line_table(".text")
    assert len(table) > 3
    for row in range(len(table)):
        # At its first instruction BTF has the line of the function's name and column 0, DWARF that of its brace.
        if table.column[row]:
            assert (int(table.instruction[row]) * 8, table.row(row).line) in known


def test_a_line_holds_for_instructions_up_to_the_next(made):
    """An instruction without a record of its own belongs to the record before it; the text is the source."""
    table = made.ext.line_table(".text")
    count = len(made.section(".text")) // 8
    lines = [table(instruction) for instruction in range(count)]
    assert lines == table.lines(count)
    assert lines[0].file.endswith("source.c")
    source = SOURCE.splitlines()
    for line in lines:
        assert line.text == source[line.line - 1]
    assert any("packet->kind * 7" in line.text for line in lines)
    assert str(lines[-1]).startswith(f"{lines[-1].file}:{lines[-1].line}:")


def test_sections_are_apart(made):
    """Each section of code has its own lines and functions."""
    ext = made.ext
    assert {".text", "second"} <= set(ext.sections)
    assert any("x + 1" in line.text for line in ext.line_table("second").lines(2))
    types = ext.function_types("second")
    assert [made.btf.types[type].name for type in types.values()] == ["other"]
    assert len(ext.line_table("none")) == 0
    assert ext.line_table("none")(0) is None


def test_relocations_name_type_access_and_kind(made):
    """The accesses of a struct that keeps its access indices are recorded: member 0 and member 1, byte offset."""
    records = made.ext.core_relocations(".text")
    assert sorted((record.access, record.kind) for record in records) == [("0:0", 0), ("0:1", 0)]
    assert {made.btf.types[record.type].name for record in records} == {"packet"}
    assert all(record.offset % 8 == 0 for record in records)


def test_tables_of_several_pieces_of_code_are_joined(made):
    """Pieces of code that are moved and put together keep the lines of their instructions."""
    text, other = made.ext.line_table(".text"), made.ext.line_table("second")
    joined = LineTable.joined([other.moved(10), text.part(0, 10)])
    assert joined(10) == other(0)
    assert [joined(n) for n in range(3)] == [text(n) for n in range(3)]
    assert text.part(2, 3)(0) == text(2)


def broken(made, **words):
    """Change words of the header, by their position in bytes."""
    data = bytearray(made.section(".BTF.ext"))
    mark = "<" if made.btf.byte_order == "little" else ">"
    for position, value in words.items():
        struct.pack_into(mark + "I", data, int(position.removeprefix("at")), value)
    return bytes(data)


@pytest.mark.parametrize(
    "words",
    [{"at4": 8}, {"at4": 1 << 20}, {"at8": 1 << 20}, {"at12": 1 << 30}, {"at12": 3}, {"at32": 4}, {"at40": 1 << 28}],
    ids=[
        "short header",
        "long header",
        "part outside",
        "part too long",
        "part too short",
        "record size",
        "group count",
    ],
)
def test_parts_that_lie_outside_are_refused(made, words):
    """Offsets, lengths, record sizes and counts that do not fit raise MalformedInput."""
    with pytest.raises(MalformedInput):
        parse_ext(broken(made, **words), made.btf)


def test_another_version_is_unsupported(made):
    """Version 2 is refused as unsupported, not as broken."""
    data = bytearray(made.section(".BTF.ext"))
    data[2] = 2
    with pytest.raises(UnsupportedInput):
        parse_ext(data, made.btf)


@settings(settings.get_profile("mutations"))
@given(st.data())
def test_mutated_parts_are_read_or_refused(data):
    """A section with some bytes changed is refused, or its lines can be asked for."""
    made = compiled(SOURCE, "little")
    good = bytearray(made.section(".BTF.ext"))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        ext = parse_ext(good, made.btf)
    except LinkError:
        return
    for section in ext.sections:
        ext.line_table(section).lines(20)
        ext.core_relocations(section)
        ext.function_types(section)

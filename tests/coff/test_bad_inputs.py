"""Broken COFF objects are refused with an error that names the input and the rule, and nothing else happens."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

import jitlink
from jitlink import InputError, MalformedInput, UnsupportedInput
from tests.coff.writer import CODE, DATA, EXTERNAL, FILE, OVERFLOW, Object

Change = Callable[[Object], None]
ADDR64 = 1
END = 1 << 20


def sound() -> Object:
    """An object with a section, a relocation, long names and a weak external."""
    made = Object()
    text = made.section(".text", bytes(16), CODE)
    made.section("a_section_with_a_long_name", bytes(16), DATA)
    made.symbol(".file", section=-2, storage=FILE, aux=b"source.c")
    made.symbol("a_symbol_with_a_long_name", section=text)
    made.relocate(text, 8, made.weak("weak", 2), ADDR64)
    return made


def section_field(**values: int | bytes) -> Change:
    def change(made: Object) -> None:
        for name, value in values.items():
            setattr(made.sections[0], name, value)

    return change


def relocation(offset: int, symbol: int, type: int = ADDR64) -> Change:
    return lambda made: made.sections[0].relocations.append((offset, symbol, type))


def record(index: int, content: bytes) -> Change:
    def change(made: Object) -> None:
        made.records[index] = content.ljust(18, b"\0")

    return change


def symbol(section: int, storage: int = EXTERNAL, aux: int = 0, name: bytes = b"name") -> Change:
    return lambda made: made.records.append(struct.pack("<8sIhHBB", name, 0, section, 0, storage, aux))


def overflown(count: int, first: int) -> Change:
    def change(made: Object) -> None:
        section = made.sections[0]
        section.flags |= OVERFLOW
        section.count = 0xFFFF
        section.relocations.insert(0, (first, 0, 0))
        section.relocations += [(0, 2, 0)] * count

    return change


FAULTS: list[tuple[str, Change, str]] = [
    ("content outside", section_field(data_at=END), "section 1 goes past the end of the file"),
    ("content too long", section_field(size=END), "section 1 goes past the end of the file"),
    ("alignment", section_field(flags=CODE | 15 << 20), "the alignment of section 1 is none that COFF has"),
    ("name outside", section_field(name=b"/99999"), "the name of a section lies outside the string table"),
    ("name in the size", section_field(name=b"/3"), "the name of a section lies outside the string table"),
    ("name without digits", section_field(name=b"/"), "gives no offset behind its slash"),
    ("name of letters", section_field(name=b"/12x"), "gives no offset behind its slash"),
    ("name in base 64", section_field(name=b"//A*AAAA"), "gives no offset behind its slash"),
    ("relocations outside", section_field(relocations_at=END), "the relocations of section 1 go past the end"),
    ("too many relocations", section_field(count=60000), "the relocations of section 1 go past the end"),
    ("overlap", section_field(size=20), "two of its sections share bytes of the file"),
    ("overflow, too few", overflown(3, 3), "says that its relocations do not fit its header, and counts fewer"),
    ("overflow, none", overflown(3, 0), "says that its relocations do not fit its header, and counts fewer"),
    ("overflow, too many", overflown(3, 0x10000), "the relocations of section 1 go past the end"),
    ("overflow, all bits", overflown(3, 0xFFFFFFFF), "the relocations of section 1 go past the end"),
    ("relocation outside", relocation(9, 2), "a relocation lies outside its section"),
    ("relocation far outside", relocation(0xFFFFFFFF, 2), "a relocation lies outside its section"),
    ("relocation of no symbol", relocation(0, 99), "a relocation refers to a symbol that is not there"),
    ("relocation of all bits", relocation(0, 0xFFFFFFFF), "a relocation refers to a symbol that is not there"),
    ("relocation of a record", relocation(0, 1), "a relocation refers to an auxiliary record"),
    ("section not there", symbol(3), "symbol 5 is in a section that is not there"),
    ("reserved section", symbol(-3), "symbol 5 is in a section that is not there"),
    ("records past the end", symbol(1, aux=1), "auxiliary records of a symbol go past the end"),
    ("many records past the end", symbol(1, aux=255), "auxiliary records of a symbol go past the end"),
    ("long name outside", symbol(1, name=struct.pack("<II", 0, 9999)), "the name of a symbol lies outside the string"),
    ("long name in the size", symbol(1, name=struct.pack("<II", 0, 2)), "the name of a symbol lies outside the string"),
    ("default not there", record(4, struct.pack("<II", 99, 3)), "the default of a weak external is not there"),
    ("default a record", record(4, struct.pack("<II", 1, 3)), "the default of a weak external is not there"),
    ("search kind", record(4, struct.pack("<II", 2, 5)), "a weak external has an unknown search kind"),
    ("weak alone", symbol(0, storage=105), "a weak external has no auxiliary record"),
    ("symbols outside", lambda made: setattr(made, "symbol_count", END), "its symbol table goes past the end"),
    ("strings too long", lambda made: setattr(made, "string_size", END), "its string table goes past the end"),
    ("strings too short", lambda made: setattr(made, "string_size", 3), "its string table has less than 4 bytes"),
    ("strings cut", lambda made: setattr(made, "string_size", 10), "its string table does not end with a NUL byte"),
]


def test_the_sound_object_is_linked():
    """Unchanged, the object of these tests goes through the whole link."""
    assert jitlink.link(sound().write(), base=0x10000).address_of("a_symbol_with_a_long_name") == 0x10000


@pytest.mark.parametrize("big", [False, True], ids=["ordinary", "bigobj"])
@pytest.mark.parametrize(("change", "fault"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_wrong_field_is_refused(change, fault, big):
    """One wrong field is refused with the rule that it breaks; so it is in an object among others."""
    made = sound()
    change(made)
    content = made.write()
    if big:
        content = as_big(made)
    with pytest.raises(MalformedInput, match=fault) as error:
        jitlink.read(sound().write(), content)
    assert error.value.input == "(bytes 2)"


def as_big(made: Object) -> bytes:
    """The same object in the form of /bigobj, whose records are two bytes longer."""
    made.big = True
    records = []
    following = 0
    for each in made.records:
        if following:
            records.append(each + b"\0\0")
            following -= 1
            continue
        name, value, section, type, storage, following = struct.unpack("<8sIhHBB", each)
        records.append(struct.pack("<8sIiHBB", name, value, section, type, storage, following))
    made.records = records
    return made.write()


@pytest.mark.parametrize("size", [*range(60), 100, 140])
@pytest.mark.parametrize("big", [False, True], ids=["ordinary", "bigobj"])
def test_an_object_that_is_cut_short_is_refused(size, big):
    """However short the beginning of an object is, it is refused as one or as nothing that we know."""
    content = (as_big(sound()) if big else sound().write())[:size]
    with pytest.raises(InputError):
        jitlink.read(content)


def test_an_executable_is_refused():
    """An executable image without its DOS part is still no object."""
    content = bytearray(sound().write())
    content[18] |= 2
    with pytest.raises(UnsupportedInput, match="an executable image; only relocatable objects are linked"):
        jitlink.read(bytes(content))


def test_objects_of_link_time_code_generation_are_refused():
    """An anonymous object of another class is what /GL compiles to: it holds no machine code."""
    content = struct.pack("<HHHHI16s", 0, 0xFFFF, 1, 0x8664, 0, bytes(16)).ljust(64, b"\0")
    with pytest.raises(UnsupportedInput, match="without link-time code generation"):
        jitlink.read(content)


@pytest.mark.parametrize(("machine", "name"), [(0x14C, "i386"), (0x1C4, "ARM Thumb-2"), (0xA641, "ARM64EC")])
def test_objects_for_other_machines_are_refused_by_name(machine, name):
    """Objects for machines that we do not link for say so."""
    with pytest.raises(UnsupportedInput, match=f"COFF objects for {name} are not linked"):
        jitlink.read(Object(machine=machine).write())


def test_many_sections_of_one_content_take_no_memory():
    """Sections that all claim the same bytes would make a large image of a small file: they are refused."""
    made = Object()
    made.section(".data", bytes(100_000), DATA)
    for _ in range(1000):
        made.section(".data", 0, DATA)
        made.sections[-1].size = 100_000
        made.sections[-1].data_at = 20 + 40 * 1001
    with pytest.raises(MalformedInput, match="two of its sections share bytes of the file"):
        jitlink.read(made.write())


def test_many_tables_of_one_place_take_no_memory():
    """The same for relocations."""
    made = Object()
    made.section(".data", bytes(8), DATA)
    target = made.symbol("x")
    for _ in range(1000):
        made.relocate(1, 0, target, ADDR64)
    for _ in range(1000):
        made.section(".data", b"12345678", DATA)
        made.sections[-1].count = 1000
        made.sections[-1].relocations_at = 20 + 40 * 1001 + 8
    with pytest.raises(MalformedInput, match="two of its sections share bytes of the file"):
        jitlink.read(made.write())


def test_auxiliary_records_that_claim_each_other_are_found_in_linear_time():
    """A chain of records that each look like a symbol with further records is walked once."""
    made = Object()
    made.section(".data", bytes(8), DATA)
    for _ in range(50_000):
        made.symbol("x", section=1, storage=3, aux=b"\xff" * 18)
    assert len(jitlink.read(made.write()).symbols) == 100_001

"""Debug information that is broken refuses the typed call, names the place, and keeps nothing from linking."""

from __future__ import annotations

import ctypes
import io
import random
import struct
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jitlink
from jitlink.calls.debug_info import DebugInfo
from jitlink.calls.reading import TypeReader
from tests import toolchain
from tests.calls import mutations
from tests.mutations import limited_memory

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

SOURCE = "typedef struct { int x, y; } pair; int sum(pair p) { return p.x + p.y; } int one(void) { return 1; }"

SUBPROGRAM, PARAMETER, TYPEDEF, BASE, STRUCT, MEMBER, ARRAY, RANGE, POINTER, CONST = range(2, 12)
"""Abbreviation codes of the debug information that is made here; 1 is the unit."""
ABBREVIATIONS = {
    # code: tag, whether it has children, (attribute, form) pairs. DWARF 5, tables 7.3, 7.5 and 7.6.
    1: (0x11, 1, [(0x13, 0x05)]),
    SUBPROGRAM: (0x2E, 1, [(0x03, 0x08), (0x49, 0x13), (0x27, 0x19)]),
    PARAMETER: (0x05, 0, [(0x03, 0x08), (0x49, 0x13)]),
    TYPEDEF: (0x16, 0, [(0x03, 0x08), (0x49, 0x13)]),
    BASE: (0x24, 0, [(0x03, 0x08), (0x0B, 0x0B), (0x3E, 0x0B)]),
    STRUCT: (0x13, 1, [(0x03, 0x08), (0x0B, 0x06)]),
    MEMBER: (0x0D, 0, [(0x03, 0x08), (0x49, 0x13), (0x38, 0x06)]),
    ARRAY: (0x01, 1, [(0x49, 0x13)]),
    RANGE: (0x21, 0, [(0x37, 0x07)]),
    POINTER: (0x0F, 0, [(0x49, 0x13)]),
    CONST: (0x26, 0, [(0x49, 0x13)]),
}


class Maker:
    """Writes a unit of DWARF 4, entry by entry. References are to labels, filled in at the end."""

    def __init__(self) -> None:
        self.content = bytearray(11)
        self.labels: dict[str, int] = {}
        self.references: list[tuple[int, str]] = []
        self.entry(1, "unit", struct.pack("<H", 0x0C))

    def entry(self, code: int, label: str, *parts: bytes | str) -> Maker:
        """Add an entry; a text among its parts is a reference."""
        self.labels[label] = len(self.content)
        self.content.append(code)
        for part in parts:
            if isinstance(part, str):
                self.references.append((len(self.content), part))
                part = bytes(4)
            self.content += part
        return self

    def end(self) -> Maker:
        """End the children of an entry."""
        self.content.append(0)
        return self

    def sections(self) -> dict[str, bytes]:
        """The debug sections."""
        content = self.content + b"\0"
        for at, label in self.references:
            struct.pack_into("<I", content, at, self.labels[label])
        struct.pack_into("<IHIB", content, 0, len(content) - 4, 4, 0, 8)
        table = b""
        for code, (tag, children, attributes) in ABBREVIATIONS.items():
            table += bytes([code, tag, children]) + b"".join(bytes(pair) for pair in attributes) + b"\0\0"
        return {".debug_info": bytes(content), ".debug_abbrev": table + b"\0"}


def name(text: str) -> bytes:
    return text.encode() + b"\0"


def function_of(maker: Maker) -> str:
    """The prototype of f, whose parameter is of the type with the label "type"; raises what a library would."""
    maker.entry(SUBPROGRAM, "f", name("f"), "int").entry(PARAMETER, "p", name("p"), "type").end()
    maker.entry(BASE, "int", name("int"), b"\x04\x05")
    info = DebugInfo(maker.sections(), "made.o", little_endian=True)
    from jitlink.calls.foreign_types import ForeignTypes

    kind = TypeReader(info).function(info.entry_of("f"))
    ForeignTypes().of(kind)
    return kind.declared("f")


def test_made_debug_information_is_read():
    """What these tests make is sound where it is not broken on purpose."""
    maker = Maker().entry(STRUCT, "s", name("s"), struct.pack("<I", 8))
    maker.entry(MEMBER, "m", name("m"), "type", struct.pack("<I", 0)).end()
    maker.entry(POINTER, "type", "s")
    assert function_of(maker) == "int f(struct s *p)"


@pytest.mark.parametrize(
    "chain",
    [
        [(TYPEDEF, "type", name("a"), "type")],
        [(TYPEDEF, "type", name("a"), "b"), (TYPEDEF, "b", name("b"), "type")],
        [(POINTER, "type", "b"), (CONST, "b", "type")],
        [(CONST, "type", "b"), (TYPEDEF, "b", name("b"), "c"), (POINTER, "c", "type")],
    ],
    ids=["itself", "typedefs", "a pointer", "three"],
)
def test_a_loop_of_type_references_is_refused(chain):
    """A chain that comes back to itself describes no type; the place is named."""
    maker = Maker()
    for code, label, *parts in chain:
        maker.entry(code, label, *parts)
    with pytest.raises(
        jitlink.MalformedInput, match=r"made.o: .debug_info\+0x[0-9a-f]+: a type that is made of itself"
    ):
        function_of(maker)


def test_a_structure_that_holds_itself_is_refused():
    """Directly, or through another one of the same size; through a pointer it is a list."""
    maker = Maker().entry(STRUCT, "type", name("s"), struct.pack("<I", 4))
    maker.entry(MEMBER, "m", name("m"), "other", struct.pack("<I", 0)).end()
    maker.entry(STRUCT, "other", name("o"), struct.pack("<I", 4))
    maker.entry(MEMBER, "n", name("n"), "type", struct.pack("<I", 0)).end()
    with pytest.raises(jitlink.UntypedSymbol, match="holding itself"):
        function_of(maker)


def test_a_member_outside_of_its_structure_is_refused():
    """Otherwise a write to the member would go to memory of others."""
    maker = Maker().entry(STRUCT, "type", name("s"), struct.pack("<I", 8))
    maker.entry(MEMBER, "m", name("m"), "int", struct.pack("<I", 6)).end()
    with pytest.raises(jitlink.MalformedInput, match=r"\+0x[0-9a-f]+: a member that lies outside of its structure"):
        function_of(maker)


@pytest.mark.parametrize("count", [1 << 63, 1 << 47, 1 << 46, (1 << 64) - 2])
def test_a_huge_count_is_refused(count):
    """An array that is larger than memory is no array, and nothing is allocated for it."""
    maker = Maker().entry(ARRAY, "array", "int").entry(RANGE, "r", struct.pack("<Q", count)).end()
    maker.entry(POINTER, "type", "array")
    with limited_memory(), pytest.raises(jitlink.MalformedInput, match=r"elements|larger than memory"):
        function_of(maker)


def test_types_that_are_nested_without_end_are_refused():
    """A chain of a thousand pointers is followed some steps, and refused."""
    maker = Maker().entry(POINTER, "type", "1")
    for number in range(1, 1000):
        maker.entry(POINTER, str(number), str(number + 1))
    maker.entry(POINTER, "1000", "int")
    with pytest.raises(jitlink.MalformedInput, match="nested too deep"):
        function_of(maker)


def test_many_small_entries_are_read_in_linear_time():
    """A hundred thousand entries are walked once."""
    maker = Maker()
    for number in range(100_000):
        maker.entry(TYPEDEF, "last", name(f"t{number}"), "int")
    maker.entry(POINTER, "type", "last")
    assert function_of(maker) == "int f(t99999 *p)"


@pytest.mark.parametrize("reference", [0xFFFFFFFF, 0x7FFFFFFF, 1])
def test_a_reference_out_of_the_unit_is_refused(reference):
    """A type that is nowhere, or in the header, is malformed."""
    maker = Maker()
    maker.labels["type"] = reference
    with pytest.raises(jitlink.MalformedInput, match=r"made.o: .debug_info"):
        function_of(maker)


@pytest.mark.parametrize("cut", [1, 5, 12, 20, 30])
def test_truncated_sections_are_refused(cut):
    """What is cut off is refused with the section and the offset, and not found is not guessed."""
    maker = Maker().entry(TYPEDEF, "type", name("t"), "int")
    maker.entry(SUBPROGRAM, "f", name("f"), "int").entry(PARAMETER, "p", name("p"), "type").end()
    maker.entry(BASE, "int", name("int"), b"\x04\x05")
    sections = maker.sections()
    for section in sections:
        broken = {**sections, section: sections[section][:cut]}
        info = DebugInfo(broken, "made.o", little_endian=True)
        with pytest.raises(jitlink.MalformedInput, match=r"made\.o: \.debug_info\+0x[0-9a-f]+: "):
            TypeReader(info).function(info.entry_of("f"))


def broken_object() -> bytes:
    """An object whose debug information is zeroes where its entries should be."""
    content = bytearray(toolchain.zig_cc(SOURCE, "-g", "-O1"))
    section: Any = ELFFile(io.BytesIO(bytes(content))).get_section_by_name(".debug_abbrev")
    start, size = section["sh_offset"], section["sh_size"]
    content[start : start + size] = b"\xff" * size
    return bytes(content)


def test_code_whose_debug_information_is_broken_still_works():
    """It is linked, called by declaration and by ctypes; the typed call names the place."""
    with jitlink.load(broken_object()) as library:
        assert library.function("one")() == 1
        with pytest.raises(jitlink.UntypedSymbol, match=r"one is linked, but \(bytes\): .debug_info\+0x[0-9a-f]+: "):
            library.one()
        with pytest.raises(jitlink.UntypedSymbol) as caught:
            library.sum((1, 2))
        assert isinstance(caught.value.__cause__, jitlink.MalformedInput)
        assert not hasattr(library, "one")
        library.cdef("typedef struct { int x, y; } pair; int sum(pair);")
        assert library.sum({"x": 40, "y": 2}) == 42


def test_broken_debug_information_of_one_object_leaves_others_alone():
    """Each object has its own; and an object without any is no fault."""
    other = toolchain.zig_cc("int two(void) { return 2; }", "-g")
    with jitlink.load(broken_object(), other) as library:
        assert library.two() == 2
        with pytest.raises(jitlink.UntypedSymbol):
            library.one()


@settings(settings.get_profile("mutations"), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, 1 << 32), st.data())
def test_damaged_debug_information_is_read_or_refused(number, data):
    """Whatever is damaged, each symbol gets a type or is refused, and the object is linked."""
    seed = data.draw(st.sampled_from(sorted(mutations.seeds())))
    with limited_memory():
        mutations.ask_everything(mutations.damaged(mutations.seeds()[seed], random.Random(number)))


def test_the_sound_inputs_of_the_mutations_are_typed():
    """Undamaged, nearly everything has a type: else the damage would be tested on nothing."""
    for content in mutations.seeds().values():
        outcomes = mutations.ask_everything(content)
        assert outcomes["typed"] >= sum(outcomes.values()) / 2
        assert not [outcome for outcome in outcomes if "Malformed" in outcome]


def test_the_address_of_the_mutations_is_one():
    """The campaign defines all names by an address in the C library."""
    assert ctypes.string_at(mutations.ANYWHERE, 1)

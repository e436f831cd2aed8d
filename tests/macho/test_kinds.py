"""Each relocation of Mach-O computes what the header says, up to the end of its range and not one step further.

Most objects here are written by hand, since assemblers do not write every form. What a static linker makes of
assembled ones is compared in test_static_linker.py.
"""

from __future__ import annotations

import struct

import pytest

import jitlink
from jitlink import LinkFailure, MalformedInput, UnsupportedRelocation
from jitlink.errors import OutOfRange
from tests.macho.objects import ARM64, N_ABS, N_EXT, X86_64, Built, Section, Symbol, relocation, undefined

BASE = 0x2_3456_8000
HERE, OUTSIDE = 0, 1
"""The symbols of the objects: one at the start of the section, and one that is given."""


def linked(
    content: bytes, *records: bytes, cpu: int = X86_64, target: int = 0, more: tuple[Symbol, ...] = ()
) -> tuple[bytes, int]:
    """Link one section whose relocations refer to a symbol at an address; returns its bytes and its address."""
    text = Section(content=content, relocations=records, align=4)
    built = Built([text], [Symbol("_here", 1, 0), undefined("_outside"), *more], cpu=cpu)
    image = jitlink.link(bytes(built), base=BASE, define={"outside": target})
    start = image.address_of("here")
    return image.read(start, len(content)), start


def signed32(content: bytes, at: int) -> int:
    return int(struct.unpack_from("<i", content, at)[0])


# x86-64. What the CPU adds: the address behind the field, and behind an immediate for SIGNED_1, _2 and _4.

RELATIVE = {"SIGNED": (1, 0), "SIGNED_1": (6, 1), "SIGNED_2": (7, 2), "SIGNED_4": (8, 4)}


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("distance", [0, -(2**31), 2**31 - 1])
def test_a_signed_field_reaches_its_whole_range(name, distance):
    """The displacement of a named symbol counts from the end of the field; what stands in it is the addend."""
    number, _ = RELATIVE[name]
    field_end = BASE + 3 + 4
    record = relocation(3, number, symbol=OUTSIDE, relative=True, length=2)
    content, start = linked(b"\x48\x8d\x05" + bytes(13), record, target=field_end + distance)
    assert start == BASE
    assert signed32(content, 3) == distance


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("distance", [-(2**31) - 1, 2**31])
def test_a_signed_field_reaches_no_further(name, distance):
    """One step past either end of 32 bits is an error that names the relocation."""
    number, _ = RELATIVE[name]
    record = relocation(3, number, symbol=OUTSIDE, relative=True, length=2)
    with pytest.raises(OutOfRange) as caught:
        linked(b"\x48\x8d\x05" + bytes(13), record, target=BASE + 7 + distance)
    assert caught.value.kind == f"X86_64_RELOC_{name}"


@pytest.mark.parametrize("name", RELATIVE)
def test_a_signed_field_of_a_section_counts_from_the_end_of_the_instruction(name):
    """Without a symbol the field holds the displacement in the object, from behind the immediate."""
    number, immediate = RELATIVE[name]
    # From offset 3 + 4 + immediate in the object, the byte at 20.
    stored = 20 - (3 + 4 + immediate)
    content = b"\x48\xc7\x05" + struct.pack("<i", stored) + bytes(25)
    record = relocation(3, number, symbol=1, external=False, relative=True, length=2)
    far = Symbol("_apart", 1, 20)
    built = Built([Section(content=content, relocations=[record], align=4)], [Symbol("_here", 1, 0), far])
    image = jitlink.link(bytes(built), base=BASE)
    here, apart = image.address_of("here"), image.address_of("apart")
    assert signed32(image.read(here, 20), 3) == apart - (here + 3 + 4 + immediate)


def test_an_addend_stands_in_the_field():
    """X86_64_RELOC_SIGNED to _outside with 0x10 in the field reaches 0x10 behind it."""
    record = relocation(3, 1, symbol=OUTSIDE, relative=True, length=2)
    content, _ = linked(b"\x48\x8d\x05\x10\0\0\0", record, target=BASE + 0x100)
    assert signed32(content, 3) == BASE + 0x110 - (BASE + 7)


@pytest.mark.parametrize("cpu", [X86_64, ARM64])
@pytest.mark.parametrize(("target", "fits"), [(0, True), (2**32 - 1, True), (2**32, False), (-1, False)])
def test_a_pointer_of_four_bytes_holds_low_addresses(cpu, target, fits):
    """UNSIGNED with r_length 2 is an address below 4 GiB."""
    record = relocation(8, 0, symbol=OUTSIDE, length=2)
    if fits:
        assert linked(bytes(16), record, cpu=cpu, target=target)[0][8:12] == target.to_bytes(4, "little")
    else:
        with pytest.raises(OutOfRange):
            linked(bytes(16), record, cpu=cpu, target=target % 2**64)


@pytest.mark.parametrize("cpu", [X86_64, ARM64])
def test_a_pointer_of_eight_bytes_holds_any_address(cpu):
    """UNSIGNED with r_length 3 is S + A modulo 2**64, with the addend from the field."""
    record = relocation(8, 0, symbol=OUTSIDE)
    content, _ = linked(bytes(8) + (0x10).to_bytes(8, "little"), record, cpu=cpu, target=0xFFFF_FFFF_FFFF_FFF8)
    assert content[8:] == (8).to_bytes(8, "little")


def test_a_near_branch_goes_there_and_a_far_one_through_a_stub():
    """X86_64_RELOC_BRANCH reaches a target of 2 GiB away directly, and any other by a stub."""
    record = relocation(1, 2, symbol=OUTSIDE, relative=True, length=2)
    near, start = linked(b"\xe8" + bytes(7), record, target=BASE + 0x1000_0000)
    assert start + 5 + signed32(near, 1) == BASE + 0x1000_0000
    far, start = linked(b"\xe8" + bytes(7), record, target=BASE + 0x7000_0000_0000)
    assert start <= start + 5 + signed32(far, 1) < start + 0x10000


@pytest.mark.parametrize(("target", "opcode"), [(BASE + 0x1000, 0x8D), (BASE + 0x7000_0000_0000, 0x8B)])
def test_a_got_load_of_something_near_becomes_lea(target, opcode):
    """movq _x@GOTPCREL(%rip) loads from a GOT entry, or computes the address where it is near."""
    record = relocation(3, 3, symbol=OUTSIDE, relative=True, length=2)
    content, start = linked(b"\x48\x8b\x05" + bytes(5), record, target=target)
    assert content[1] == opcode
    place = start + 7 + signed32(content, 3)
    assert place == target if opcode == 0x8D else place != target


def test_got_refers_to_an_entry_even_where_its_target_is_near():
    """X86_64_RELOC_GOT is in instructions that have no form without the entry, such as push and cmp."""
    text = Section(content=b"\xff\x35" + bytes(6), relocations=[relocation(2, 4, symbol=1, relative=True, length=2)])
    image = jitlink.link(
        bytes(Built([text], [Symbol("_here", 1, 0), undefined("_outside")])),
        base=BASE,
        define={"outside": BASE + 0x1000},
    )
    start = image.address_of("here")
    slot = start + 6 + signed32(image.read(start, 8), 2)
    assert image.read(slot, 8) == (BASE + 0x1000).to_bytes(8, "little")


# Pairs: the field becomes A + addend - B.


def difference(length: int, minuend: Symbol, subtrahend: Symbol, *, addend: int = 0, cpu: int = X86_64) -> int:
    """What a pair in a section of its own makes of two symbols."""
    size = 1 << length
    subtractor = 5 if cpu == X86_64 else 1
    data = Section(
        "__DATA",
        "__data",
        (addend % (1 << 8 * size)).to_bytes(size, "little"),
        # Records are written in pairs, the SUBTRACTOR first.
        [relocation(0, subtractor, symbol=1, length=length), relocation(0, 0, symbol=0, length=length)],
        flags=0,
    )
    symbols = [minuend, subtrahend, Symbol("_d", 1, 0)]
    image = jitlink.link(bytes(Built([data, Section(content=bytes(16))], symbols, cpu=cpu)), base=BASE)
    return int.from_bytes(image.read(image.address_of("d"), size), "little", signed=True)


def absolute(name: str, value: int) -> Symbol:
    return Symbol(name, type=N_ABS | N_EXT, value=value)


@pytest.mark.parametrize("cpu", [X86_64, ARM64])
@pytest.mark.parametrize("length", [2, 3])
def test_a_difference_of_symbols_anywhere(cpu, length):
    """Neither symbol has to lie in the block of the field."""
    assert difference(length, absolute("_a", 0x5000), absolute("_b", 0x1000), addend=-3, cpu=cpu) == 0x3FFD


@pytest.mark.parametrize("cpu", [X86_64, ARM64])
@pytest.mark.parametrize(
    ("value", "fits"), [(2**31 - 1, True), (-(2**31), True), (2**31, False), (-(2**31) - 1, False)]
)
def test_a_difference_of_four_bytes_is_checked(cpu, value, fits):
    """It has to fit 32 bits with a sign; where the symbols lie does not matter."""
    base = 0x7000_0000_0000
    symbols = absolute("_a", base + value), absolute("_b", base)
    if fits:
        assert difference(2, *symbols, cpu=cpu) == value
    else:
        with pytest.raises(OutOfRange):
            difference(2, *symbols, cpu=cpu)


@pytest.mark.parametrize("cpu", [X86_64, ARM64])
@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("which", ["minuend", "subtrahend"])
def test_a_difference_with_a_symbol_in_the_block_of_the_field(cpu, length, which):
    """The distance to or from the place itself, as in unwind records: one symbol at offset 4 of the block."""
    size = 1 << length
    subtractor = 5 if cpu == X86_64 else 1
    own, other = 0, 1
    first, second = (own, other) if which == "subtrahend" else (other, own)
    data = Section(
        "__DATA",
        "__data",
        bytes(8) + (7).to_bytes(8, "little"),
        [relocation(8, subtractor, symbol=first, length=length), relocation(8, 0, symbol=second, length=length)],
        flags=0,
    )
    symbols = [Symbol("_own", 1, 4, desc=0x200), Symbol("_other", 2, 16), Symbol("_d", 1, 0)]
    image = jitlink.link(bytes(Built([data, Section(content=bytes(16))], symbols, cpu=cpu)), base=BASE)
    d, other_address = image.address_of("d"), image.address_of("other")
    found = int.from_bytes(image.read(d + 8, size), "little", signed=True)
    assert found == 7 + (other_address - (d + 4) if which == "subtrahend" else d + 4 - other_address)
    assert len(image.graph.edges) == 2


def test_a_difference_of_which_the_second_symbol_is_gone_is_refused():
    """A pass that moves the two edges of a pair apart gets an error and no wrong number."""

    def part(graph):
        graph.edges.offset[2] += 1

    data = Section("__DATA", "__data", bytes(16), [relocation(0, 5, symbol=1), relocation(0, 0, symbol=0)], flags=0)
    built = Built([data], [absolute("_a", 5), absolute("_b", 3), Symbol("_d", 1, 0)])
    with pytest.raises(LinkFailure, match="second symbol is missing"):
        jitlink.link(bytes(built), base=BASE, passes={"pre_fixup": [part]})


# arm64

BL, ADRP, ADD, LDR = 0x94000000, 0x90000000, 0x91000000, 0xF9400000


def instructions(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def word(content: bytes, at: int = 0) -> int:
    return int.from_bytes(content[at : at + 4], "little")


@pytest.mark.parametrize("distance", [2**27 - 4, -(2**27), 0x1000])
def test_branch26_reaches_its_whole_range(distance):
    """A BL reaches 128 MiB either way, in steps of 4; what is not surely in reach goes through a stub in reach."""
    record = relocation(0, 2, symbol=OUTSIDE, relative=True, length=2)
    content, start = linked(instructions(BL, 0), record, cpu=ARM64, target=BASE + distance)
    immediate = word(content) & 0x3FFFFFF
    reached = start + 4 * (immediate - (immediate >> 25 << 26))
    assert reached == BASE + distance or 0 < reached - start < 0x10000


def test_branch26_does_not_go_between_instructions():
    """A distance that is no multiple of 4 is an error."""
    record = relocation(0, 2, symbol=OUTSIDE, relative=True, length=2)
    with pytest.raises(OutOfRange, match="multiple of 4"):
        linked(instructions(BL, 0), record, cpu=ARM64, target=BASE + 0x1002)


def pages(content: bytes) -> int:
    """The signed number of pages in an ADRP."""
    found = (word(content) >> 29 & 3) | (word(content) >> 5 & 0x7FFFF) << 2
    return found - (found >> 20 << 21)


@pytest.mark.parametrize(
    ("count", "fits"), [(2**20 - 1, True), (-(2**20), True), (2**20, False), (-(2**20) - 1, False)]
)
def test_page21_reaches_four_gib(count, fits):
    """The distance of two pages has 21 bits with a sign; the low bits of the target do not matter."""
    base = 0x20_0000_0000
    text = Section(
        content=instructions(ADRP, 0), align=4, relocations=[relocation(0, 3, symbol=1, relative=True, length=2)]
    )
    built = bytes(Built([text], [Symbol("_here", 1, 0), undefined("_outside")], cpu=ARM64))
    target = base + count * 4096 + 0xABC
    if fits:
        image = jitlink.link(built, base=base, define={"outside": target})
        assert pages(image.read(base, 4)) == count
    else:
        with pytest.raises(OutOfRange):
            jitlink.link(built, base=base, define={"outside": target})


SCALED = {
    "add": (ADD, 1),
    "ldrb": (0x39400000, 1),
    "ldr b": (0x3D400000, 1),
    "ldrh": (0x79400000, 2),
    "ldr h": (0x7D400000, 2),
    "ldr w": (0xB9400000, 4),
    "ldrsw": (0xB9800000, 4),
    "ldr s": (0xBD400000, 4),
    "ldr x": (LDR, 8),
    "str x": (0xF9000000, 8),
    "ldr d": (0xFD400000, 8),
    "ldr q": (0x3DC00000, 16),
    "str q": (0x3D800000, 16),
}


@pytest.mark.parametrize("name", SCALED)
def test_pageoff12_is_scaled_by_its_instruction(name):
    """The low 12 bits of the address, in units of what the instruction loads; the rest must be 0."""
    code, scale = SCALED[name]
    record = relocation(0, 4, symbol=OUTSIDE, length=2)
    for low in (0, 4096 - scale):
        content, _ = linked(instructions(code | 0x23, 0), record, cpu=ARM64, target=0x5000 + low)
        assert word(content) == code | 0x23 | low // scale << 10
    if scale > 1:
        with pytest.raises(OutOfRange, match=f"multiple of {scale}"):
            linked(instructions(code, 0), record, cpu=ARM64, target=0x5000 + scale // 2)


def test_an_addend_relocation_gives_the_addend_of_the_next():
    """ARM64_RELOC_ADDEND has 24 bits with a sign, in the place of a symbol's number."""
    for addend in (0x10, -0x10, 2**23 - 0x10, -(2**23)):
        records = [
            relocation(0, 10, symbol=addend, external=False, length=2),
            relocation(0, 4, symbol=OUTSIDE, length=2),
        ]
        content, _ = linked(instructions(ADD, 0), *records, cpu=ARM64, target=0x1000_0000)
        assert word(content) >> 10 & 0xFFF == (0x1000_0000 + addend) & 0xFFF
        records[1] = relocation(0, 3, symbol=OUTSIDE, relative=True, length=2)
        content, start = linked(instructions(ADRP, 0), *records, cpu=ARM64, target=BASE)
        assert (start & -4096) + 4096 * pages(content) == (BASE + addend) & -4096


def test_the_got_is_used_where_the_target_is_far_and_left_out_where_it_is_near():
    """ADRP and LDR of a GOT entry become ADRP and ADD, or NOP and ADR, of the symbol itself."""
    records = [
        relocation(4, 6, symbol=OUTSIDE, length=2),
        relocation(0, 5, symbol=OUTSIDE, relative=True, length=2),
    ]
    code = instructions(ADRP, LDR, 0, 0)
    near, start = linked(code, *records, cpu=ARM64, target=BASE + 0x4000_0010)
    assert word(near, 4) & 0xFFC00000 == ADD
    assert (start & -4096) + 4096 * pages(near) + (word(near, 4) >> 10 & 0xFFF) == BASE + 0x4000_0010
    far, _ = linked(code, *records, cpu=ARM64, target=BASE + 0x7000_0000_0000)
    assert word(far, 4) & 0xFFC00000 == LDR


def test_pointers_to_got_entries():
    """POINTER_TO_GOT is the distance to an entry in 4 bytes, or its address in 8."""
    records = [
        relocation(8, 7, symbol=OUTSIDE, length=3),
        relocation(0, 7, symbol=OUTSIDE, relative=True, length=2),
    ]
    text = Section("__DATA", "__data", bytes(16), records, flags=0, align=3)
    built = Built([text], [Symbol("_here", 1, 0), undefined("_outside")], cpu=ARM64)
    image = jitlink.link(bytes(built), base=BASE, define={"outside": 0x1234})
    here = image.address_of("here")
    slot = int.from_bytes(image.read(here + 8, 8), "little")
    assert here + signed32(image.read(here, 4), 0) == slot
    assert image.read(slot, 8) == (0x1234).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("number", "code", "relative", "fault"),
    [
        (2, ADD, True, "a B or BL"),
        (2, BL | 1, True, "a B or BL whose field is 0"),
        (3, ADD, True, "an ADRP"),
        (3, ADRP | 1 << 5, True, "an ADRP whose field is 0"),
        (4, ADRP, False, "an ADD, a load or a store"),
        (4, LDR | 1 << 10, False, "a load or store whose field is 0"),
        (5, ADD, True, "an ADRP"),
        (6, ADD, False, "an 8-byte LDR"),
        (6, 0xB9400000, False, "an 8-byte LDR"),
    ],
)
def test_relocations_of_instructions_must_be_in_them(number, code, relative, fault):
    """The instruction is looked at, since writing into another one would make nonsense of it."""
    with pytest.raises(MalformedInput, match=fault):
        linked(instructions(code, 0), relocation(0, number, symbol=1, relative=relative, length=2), cpu=ARM64)


# What is not applied


@pytest.mark.parametrize(
    ("cpu", "number", "name"),
    [
        (ARM64, 11, "ARM64_RELOC_AUTHENTICATED_POINTER"),
        (X86_64, 12, "of unknown type"),
        (ARM64, 15, "of unknown type"),
    ],
)
def test_unsupported_relocations_name_themselves(cpu, number, name):
    """The error has the name, the number, the reason and the place."""
    with pytest.raises(UnsupportedRelocation) as caught:
        linked(bytes(16), relocation(0, number, symbol=1), cpu=cpu)
    assert (caught.value.name, caught.value.number) == (name, number)
    assert "__TEXT,__text" in str(caught.value)


@pytest.mark.parametrize(
    ("cpu", "number", "relative", "length"),
    [(X86_64, 0, True, 3), (X86_64, 1, False, 2), (X86_64, 1, True, 3), (X86_64, 2, True, 0), (ARM64, 7, False, 2)],
)
def test_forms_that_a_relocation_does_not_have_are_refused(cpu, number, relative, length):
    """A type is applied only with the r_pcrel and r_length that the header knows for it."""
    with pytest.raises(UnsupportedRelocation, match="is not one of its forms"):
        linked(bytes(16), relocation(0, number, symbol=1, relative=relative, length=length), cpu=cpu)

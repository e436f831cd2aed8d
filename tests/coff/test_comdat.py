"""COMDAT sections: which copy is kept, by each way of choosing; what goes with it; what is refused."""

from __future__ import annotations

import itertools
import subprocess

import lief
import pytest

import jitlink
from jitlink import DuplicateDefinitions, LinkFailure, MalformedInput
from tests.coff.writer import (
    ANY,
    ASSOCIATIVE,
    CODE,
    COMDAT,
    DATA,
    EXACT_MATCH,
    LARGEST,
    NEWEST,
    NO_DUPLICATES,
    READ_ONLY,
    SAME_SIZE,
    STATIC,
    Object,
)

BASE = 0x10000


def thing(content: bytes, selection: int, *, time: int = 0, name: str = "thing") -> bytes:
    """An object with one COMDAT section, and a pointer to what is in it."""
    made = Object(time=time)
    made.comdat(".data", content, selection, name)
    data = made.section(".rdata", bytes(8), READ_ONLY)
    made.relocate(data, 0, 2, 1)
    return made.write()


def kept(*objects: bytes) -> bytes:
    """What is kept of the thing, and that no other copy is in the image."""
    image = jitlink.link(*objects, base=BASE)
    blocks = image.graph.blocks
    live = [each for each in blocks if each.live and each.section.name == ".data"]
    assert len(live) == 1
    address = image.address_of("thing")
    assert live[0].address == address
    pointers = [each for each in blocks if each.live and each.section.name == ".rdata"]
    assert {image.read(each.address, 8) for each in pointers} == {address.to_bytes(8, "little")}
    return image.read(address, live[0].size)


@pytest.mark.parametrize("selection", [ANY, SAME_SIZE, EXACT_MATCH, LARGEST, NEWEST])
def test_of_equal_copies_one_is_kept(selection):
    """All references go to the one copy that is kept."""
    assert kept(*[thing(b"abcd", selection)] * 3) == b"abcd"


def test_any_keeps_the_first():
    """Of different copies that may be chosen freely, the first is kept."""
    assert kept(thing(b"one", ANY), thing(b"other", ANY)) == b"one"


def test_the_largest_is_kept():
    """Of copies of which the largest is wanted, it is kept wherever it stands; among equals the first."""
    for order in itertools.permutations([b"12", b"1234", b"123"]):
        assert kept(*(thing(content, LARGEST) for content in order)) == b"1234"
    assert kept(thing(b"ab", LARGEST), thing(b"cd", LARGEST)) == b"ab"


def test_the_newest_is_kept():
    """Of copies of which the newest is wanted, that of the object with the latest time stamp is kept."""
    objects = [thing(b"old", NEWEST, time=5), thing(b"new", NEWEST, time=9), thing(b"mid", NEWEST, time=7)]
    for order in itertools.permutations(objects):
        assert kept(*order) == b"new"


def test_any_and_largest_agree_on_the_largest():
    """Compilers ask for any copy of a vtable without type information, and for the largest of one with it."""
    for order in itertools.permutations([thing(b"12", ANY), thing(b"1234", LARGEST)]):
        assert kept(*order) == b"1234"


def test_a_second_copy_of_what_must_be_alone_is_refused():
    """With "no duplicates" a second copy is a duplicate definition, by name and places."""
    assert kept(thing(b"abcd", NO_DUPLICATES)) == b"abcd"
    with pytest.raises(DuplicateDefinitions, match=r"thing, defined by \(bytes\): .data and by \(bytes 2\): .data"):
        kept(thing(b"abcd", NO_DUPLICATES), thing(b"abcd", NO_DUPLICATES))


def test_copies_of_different_size_are_refused_where_sizes_must_agree():
    """With "same size" the sizes are compared, and not the contents."""
    assert kept(thing(b"abcd", SAME_SIZE), thing(b"efgh", SAME_SIZE)) == b"abcd"
    with pytest.raises(LinkFailure, match="thing: its copies must have the same size"):
        kept(thing(b"abcd", SAME_SIZE), thing(b"abcde", SAME_SIZE))


def test_copies_of_different_content_are_refused_where_they_must_be_equal():
    """With "exact match" the contents are compared."""
    with pytest.raises(LinkFailure, match="thing: its copies must be equal, and differ in"):
        kept(thing(b"abcd", EXACT_MATCH), thing(b"abce", EXACT_MATCH))


def test_copies_that_refer_to_other_symbols_are_not_equal():
    """With "exact match" the relocations are compared too: equal bytes may refer to different symbols."""
    objects = []
    for target in ("one", "other"):
        made = Object()
        section = made.comdat(".data", bytes(8), EXACT_MATCH, "thing")
        made.relocate(section, 0, made.symbol(target), 1)
        objects.append(made.write())
    with pytest.raises(LinkFailure, match="thing: its copies must be equal"):
        jitlink.link(*objects, base=BASE, define={"one": 1, "other": 2})


def test_copies_that_are_to_be_chosen_differently_are_refused():
    """Two objects must agree on how to choose, but for any and largest."""
    with pytest.raises(LinkFailure, match="thing: its copies are to be chosen by any and same size"):
        kept(thing(b"abcd", ANY), thing(b"abcd", SAME_SIZE))


@pytest.mark.needs("lld-link")
@pytest.mark.parametrize(
    ("contents", "selection"),
    [((b"one.", b"other"), ANY), ((b"12..", b"1234....", b"123."), LARGEST), ((b"abcd", b"efgh"), SAME_SIZE)],
    ids=["any", "largest", "same size"],
)
def test_lld_link_keeps_the_same_copy(contents, selection, tmp_path):
    """The copy that is kept is the one that lld-link keeps."""
    objects = [thing(content, selection) for content in contents]
    files = []
    for number, content in enumerate(objects):
        files.append(tmp_path / f"{number}.obj")
        files[-1].write_bytes(content)
    out = tmp_path / "a.dll"
    options = ["/dll", "/noentry", "/machine:x64", "/opt:noref", "/export:thing,DATA", f"/out:{out}"]
    subprocess.run(["lld-link", *options, *files], check=True, capture_output=True)
    binary = lief.PE.parse(str(out))
    assert binary is not None
    exported = next(each for each in binary.exported_functions if each.name == "thing")
    ours = kept(*objects)
    assert bytes(binary.get_content_from_virtual_address(exported.address, len(ours))) == ours


# Associative sections


def with_followers(content: bytes, mark: bytes) -> bytes:
    """A COMDAT section, a section that goes with it, and one that goes with that."""
    made = Object()
    leader = made.comdat(".data", content, ANY, "thing")
    follower = made.comdat(".xdata", mark, ASSOCIATIVE, parent=leader)
    made.comdat(".more", mark, ASSOCIATIVE, parent=follower)
    return made.write()


def test_associative_sections_go_with_their_section():
    """What goes with a copy that is dropped is dropped, also through other associative sections."""
    image = jitlink.link(with_followers(b"one", b"first"), with_followers(b"two", b"second"), base=BASE)
    live = [(each.section.name, each.content) for each in image.graph.blocks if each.live]
    assert live == [(".data", b"one"), (".xdata", b"first"), (".more", b"first")]


def test_dead_strip_drops_what_goes_with_a_dropped_section():
    """A section that goes with another one is kept for that alone, and does not keep it."""
    made = Object()
    for name in ("used", "unused"):
        leader = made.comdat(".data", name.encode(), ANY, name)
        made.comdat(".CRT$XCU", bytes(8), ASSOCIATIVE, parent=leader)
        made.comdat(".xdata", name.encode(), ASSOCIATIVE, parent=leader)
    image = jitlink.link(made.write(), base=BASE, dead_strip=True, exports=["used"])
    live = [(each.section.name, each.content) for each in image.graph.blocks if each.live]
    assert live == [(".data", b"used"), (".CRT$XCU", bytes(8)), (".xdata", b"used")]


def test_an_associative_section_may_go_with_an_ordinary_one():
    """Also a section that is no COMDAT has others go with it."""
    made = Object()
    data = made.section(".data", b"data", DATA)
    made.symbol("kept", section=data)
    other = made.section(".data", b"lost", DATA)
    for parent in (data, other):
        made.comdat(".xdata", b"info", ASSOCIATIVE, parent=parent)
    image = jitlink.link(made.write(), base=BASE, dead_strip=True, exports=["kept"])
    assert [each.content for each in image.graph.blocks if each.live] == [b"data", b"info"]


@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_circles_of_associative_sections_are_refused(length):
    """Associative sections that go with each other have no section that they could follow."""
    made = Object()
    made.comdat(".data", b"abcd", ANY, "thing")
    for number in range(length):
        following = 2 + (number + 1) % length
        made.comdat(".xdata", b"info", ASSOCIATIVE, parent=following)
    with pytest.raises(MalformedInput, match="associative sections go with each other in a circle"):
        jitlink.read(made.write())


def test_a_long_chain_of_associative_sections_is_followed():
    """A chain of many sections ends in the one that all of them go with."""
    made = Object()
    number = made.comdat(".data", b"abcd", ANY, "thing")
    for _ in range(1000):
        number = made.comdat(".xdata", b"info", ASSOCIATIVE, parent=number)
    graph = jitlink.read(made.write())
    assert set(graph.blocks.group[1:].tolist()) == {1}


def test_a_comdat_section_of_a_static_symbol_is_always_kept():
    """Where only its own object sees the symbol behind the section's, nothing can replace the section."""
    objects = []
    for content in (b"one", b"two"):
        made = Object()
        section = made.comdat(".data", content, ANY)
        made.symbol("own", section=section, storage=STATIC)
        objects.append(made.write())
    image = jitlink.link(*objects, base=BASE)
    assert [each.content for each in image.graph.blocks if each.live] == [b"one", b"two"]


# What is refused


def test_a_comdat_section_without_its_symbol_is_refused():
    """How to choose stands with the symbol of the section, which must be there."""
    made = Object()
    section = made.section(".data", b"abcd", DATA | COMDAT)
    made.symbol("thing", section=section)
    with pytest.raises(MalformedInput, match="a COMDAT section has no symbol that says how to choose it"):
        jitlink.read(made.write())


@pytest.mark.parametrize("selection", [0, 8, 255])
def test_an_unknown_way_of_choosing_is_refused(selection):
    """There are seven ways of choosing, numbered from 1."""
    made = Object()
    made.comdat(".data", b"abcd", selection, "thing")
    with pytest.raises(MalformedInput, match="a COMDAT section is to be chosen in an unknown way"):
        jitlink.read(made.write())


@pytest.mark.parametrize("parent", [0, 3, 0xFFFF])
def test_an_associative_section_of_none_is_refused(parent):
    """What an associative section goes with must be a section of its object."""
    made = Object()
    made.comdat(".data", b"abcd", ANY, "thing")
    made.comdat(".xdata", b"info", ASSOCIATIVE, parent=parent)
    with pytest.raises(MalformedInput, match="an associative section goes with a section that is not there"):
        jitlink.read(made.write())


def gnu_function(content: bytes, *, partner: str = ".text$thing") -> bytes:
    """A COMDAT function as GCC writes it, whose unwind records have lost their symbol to strip."""
    made = Object()
    text = made.section(".text$thing", content, CODE | COMDAT)
    made.section_symbol(text, selection=ANY)
    function = made.symbol("thing", section=text)
    data = made.section(partner.replace(".text", ".rdata", 1), bytes(8), READ_ONLY | COMDAT)
    made.relocate(data, 0, function, 1)
    return made.write()


def test_a_section_that_strip_took_the_symbol_of_goes_with_the_function_of_its_name():
    """As in the libraries of GCC for Windows, `.pdata$f` belongs to `.text$f`: of both the same copy is kept."""
    image = jitlink.link(*[gnu_function(bytes([0xC3, number])) for number in range(3)], base=BASE)
    live = [each for each in image.graph.blocks if each.live and each.section.name.endswith("$thing")]
    assert sorted(each.section.name for each in live) == [".rdata$thing", ".text$thing"]
    address = image.address_of("thing")
    assert image.read(address, 2) == b"\xc3\0"
    pointer = next(each for each in live if each.section.name == ".rdata$thing")
    assert image.read(pointer.address, 8) == address.to_bytes(8, "little")


def test_a_comdat_section_without_a_symbol_or_a_function_of_its_name_is_refused():
    """Nothing says whether others replace it."""
    with pytest.raises(MalformedInput, match="no symbol that says how to choose it"):
        jitlink.link(gnu_function(b"\xc3", partner=".text$another"), base=BASE)

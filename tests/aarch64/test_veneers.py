"""Branches that do not reach their targets go through veneers, and get there.

The code of an image is followed as a processor would: a branch, and then whatever veneers and stubs lie
between, until an address that none of them is at. The lengths are decoded from the instructions.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from unicorn import arm64_const, unicorn_const
from unicorn.unicorn_py3 import Uc

import jitlink
from jitlink import Image, LinkGraph, OutOfRange, Protection
from jitlink.arches import architecture
from jitlink.arches.architecture import Architecture
from jitlink.graph import Definition, SymbolKind
from tests.aarch64.aaelf64 import adr, adrp, imm14, imm19, imm26
from tests.toolchain import assemble

BASE = 0x2345_6000
FAR = 0x7F00_1234_5678
CODE = Protection.READ | Protection.EXECUTE
MIB = 1 << 20
BL, B, B_EQ, TBZ, RET, NOP = 0x94000000, 0x14000000, 0x54000000, 0x36000000, 0xD65F03C0, 0xD503201F
AARCH64 = architecture("aarch64")
KIND_OF = {"bl": "R_AARCH64_CALL26", "b": "R_AARCH64_JUMP26", "b.eq": "R_AARCH64_CONDBR19", "tbz": "R_AARCH64_TSTBR14"}
WORD_OF = {"bl": BL, "b": B, "b.eq": B_EQ, "tbz": TBZ}
REACH_OF = {"bl": 128 * MIB, "b": 128 * MIB, "b.eq": MIB, "tbz": 32 << 10}


def words(*instructions: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in instructions)


def new_graph(target: Architecture = AARCH64) -> LinkGraph:
    return LinkGraph(target, name="code")


def add_code(graph: LinkGraph, content: bytes | int, *, alignment: int = 4) -> int:
    return graph.add_block(graph.add_section(".text", CODE), content, alignment=alignment)


def add_function(graph: LinkGraph, name: str, content: bytes = words(RET), *, alignment: int = 4) -> int:
    return graph.add_symbol(name, add_code(graph, content, alignment=alignment), kind=SymbolKind.FUNCTION)


def block_of(graph: LinkGraph, symbol: int) -> int:
    return int(graph.symbols.block[symbol])


def word_at(image: Image, address: int) -> int:
    return int.from_bytes(image.read(address, 4), "little")


def step(word: int) -> int | None:
    """How far the branch in a word goes, or None if it is none."""
    if word & 0x7C000000 == 0x14000000:
        return imm26(word)
    if word & 0xFF000010 == 0x54000000:
        return imm19(word)
    if word & 0x7E000000 == 0x36000000:
        return imm14(word)
    return None


def made_places(image: Image) -> set[int]:
    """Where the linker has put stubs, and the parts of its islands, by the address of their symbols."""
    names = (".veneers", ".stubs")
    blocks = {block.row for block in image.graph.blocks if block.section.name in names}
    symbols = image.graph.symbols
    return {symbol.address for symbol in symbols if symbols.block[symbol.row] in blocks}


def follow(image: Image, address: int) -> tuple[int, list[int]]:
    """Where the branch at an address ends up, and the stubs and veneers on its way."""
    made, way = made_places(image), list[int]()
    distance = step(word_at(image, address))
    assert distance is not None
    address += distance
    while address in made:
        way.append(address)
        assert len(way) < 10
        distance = step(word_at(image, address))
        address = address + distance if distance is not None else jump_of(image, address)
    return address, way


def jump_of(image: Image, address: int) -> int:
    """Where a sequence that ends in br x16 goes."""
    if word_at(image, address) == 0xD503245F:
        address += 4
    first, second, third = (word_at(image, address + offset) for offset in (0, 4, 8))
    assert third == 0xD61F0200
    if first == NOP:
        assert second & 0x9F00001F == 0x10000010
        return address + 4 + adr(second)
    assert first & 0x9F00001F == 0x90000010
    place = (address & ~0xFFF) + adrp(first)
    if second & 0xFFC003FF == 0x91000210:
        return place + (second >> 10 & 0xFFF)
    assert second & 0xFFC003FF == 0xF9400210
    return int.from_bytes(image.read(place + (second >> 10 & 0xFFF) * 8, 8), "little")


def small_reaches(reach: int) -> Architecture:
    """AArch64 whose branches of 26 bits are taken to reach no farther than this."""
    reaches = {
        name: min(span, reach) if name in (KIND_OF["bl"], KIND_OF["b"]) else span
        for name, span in AARCH64.reaches.items()
    }
    return replace(AARCH64, reaches=reaches)


# Inside an image


@pytest.mark.parametrize("mnemonic", ["bl", "b"])
@pytest.mark.parametrize("beyond", [0, 4])
def test_a_branch_within_128_mib_is_direct_and_one_beyond_has_a_veneer(mnemonic: str, beyond: int) -> None:
    """The last address that a B or BL reaches is 128 MiB less 4 away; what lies behind it has a veneer."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(WORD_OF[mnemonic]))
    distance = 128 * MIB - 4 + beyond
    rest = add_code(graph, 200 * MIB)
    target = graph.add_symbol("target", rest, distance - 4, kind=SymbolKind.FUNCTION)
    graph.add_edge(block_of(graph, caller), 0, KIND_OF[mnemonic], target)
    image = jitlink.link(graph, base=BASE)
    place, goal = image.address_of("caller"), image.address_of("target")
    end, way = follow(image, place)
    assert end == goal
    assert len(way) == (goal - place > 128 * MIB - 4)
    assert bool(way) == bool(beyond)


@pytest.mark.parametrize("mnemonic", ["b.eq", "tbz"])
@pytest.mark.parametrize("away", [-1, 1])
def test_a_short_branch_goes_on_by_a_branch_that_changes_no_register(mnemonic: str, away: int) -> None:
    """A conditional branch beyond its reach goes to a plain B in its reach, whichever way."""
    graph = new_graph()
    blocks = [add_code(graph, words(NOP) * 1024) for _ in range(2 * REACH_OF[mnemonic] // 4096)]
    source, destination = (0, -1) if away > 0 else (-1, 0)
    graph.blocks.content[blocks[source]] = graph.add_content(words(WORD_OF[mnemonic]) + words(NOP) * 1023)
    graph.add_symbol("caller", blocks[source])
    target = graph.add_symbol("target", blocks[destination], 8)
    graph.add_edge(blocks[source], 0, KIND_OF[mnemonic], target)
    image = jitlink.link(graph, base=BASE)
    end, way = follow(image, image.address_of("caller"))
    assert end == image.address_of("target")
    assert [word_at(image, each) >> 26 for each in way] == [B >> 26]
    # The instruction keeps its condition, or its register and bit.
    kept = 0xFF00001F if mnemonic == "b.eq" else 0xFFF8001F
    assert word_at(image, image.address_of("caller")) & kept == WORD_OF[mnemonic]


def test_a_short_branch_to_what_is_very_far_takes_two_steps() -> None:
    """From a TBZ to a target beyond 128 MiB: a B in its reach, and a veneer in the reach of that."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(TBZ))
    target = graph.add_symbol("target", add_code(graph, 200 * MIB), 150 * MIB, kind=SymbolKind.FUNCTION)
    graph.add_edge(block_of(graph, caller), 0, KIND_OF["tbz"], target)
    image = jitlink.link(graph, base=BASE)
    end, way = follow(image, image.address_of("caller"))
    assert end == image.address_of("target")
    assert len(way) == 2


def test_the_addend_of_a_branch_is_a_part_of_where_it_goes() -> None:
    """Compilers refer to local functions by their section and an offset: the veneer leads there."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(BL, BL))
    section = graph.add_symbol("", add_code(graph, 200 * MIB), kind=SymbolKind.SECTION)
    for offset, addend in ((0, 150 * MIB), (4, 160 * MIB)):
        graph.add_edge(block_of(graph, caller), offset, KIND_OF["bl"], section, addend)
    image = jitlink.link(graph, base=BASE)
    start = graph_start(image, 200 * MIB)
    assert follow(image, image.address_of("caller"))[0] == start + 150 * MIB
    assert follow(image, image.address_of("caller") + 4)[0] == start + 160 * MIB


def graph_start(image: Image, size: int) -> int:
    return next(block.address for block in image.graph.blocks if block.size == size)


def test_branches_near_each_other_share_a_veneer() -> None:
    """One veneer serves all branches of a stretch of code that go to one place."""
    graph = new_graph()
    target = graph.add_symbol("target", add_code(graph, 200 * MIB), 150 * MIB, kind=SymbolKind.FUNCTION)
    other = graph.add_symbol("other", add_code(graph, 16), 0, kind=SymbolKind.FUNCTION)
    for number in range(50):
        caller = add_function(graph, f"caller{number}", words(BL, B, BL))
        for offset, mnemonic, goal in ((0, "bl", target), (4, "b", target), (8, "bl", other)):
            graph.add_edge(block_of(graph, caller), offset, KIND_OF[mnemonic], goal)
    image = jitlink.link(graph, base=BASE)
    ways = set()
    for number in range(50):
        for offset, name in ((0, "target"), (4, "target"), (8, "other")):
            end, way = follow(image, image.address_of(f"caller{number}") + offset)
            assert end == image.address_of(name)
            ways.add(tuple(way))
    assert len(ways) == 2


def test_veneers_have_no_entry_in_the_got() -> None:
    """What is in the image is found by ADRP and ADD."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(BL))
    target = graph.add_symbol("target", add_code(graph, 200 * MIB), 150 * MIB, kind=SymbolKind.FUNCTION)
    graph.add_edge(block_of(graph, caller), 0, KIND_OF["bl"], target)
    image = jitlink.link(graph, base=BASE)
    assert not any(block.section.name in (".got", ".stubs") for block in image.graph.blocks)


def test_small_images_have_no_veneers() -> None:
    """Where everything reaches everything, nothing is added."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(BL, B_EQ, TBZ))
    target = add_function(graph, "target")
    for offset, mnemonic in ((0, "bl"), (4, "b.eq"), (8, "tbz")):
        graph.add_edge(block_of(graph, caller), offset, KIND_OF[mnemonic], target)
    image = jitlink.link(graph, base=BASE)
    assert image.size == 4096
    assert not made_places(image)


def test_a_short_branch_inside_a_section_may_take_a_step() -> None:
    """A plain B changes no register, so that it may carry on a branch to a label of the same section too."""
    graph = new_graph()
    code = bytearray(words(NOP) * (128 << 10 >> 2))
    code[4096:4100] = words(TBZ)
    section = add_code(graph, bytes(code))
    graph.add_symbol("section", section)
    graph.add_edge(section, 4096, KIND_OF["tbz"], graph.add_symbol("label", section, 100 << 10))
    image = jitlink.link(graph, base=BASE)
    end, way = follow(image, image.address_of("section") + 4096)
    assert (end, len(way)) == (image.address_of("label"), 1)


# Where no veneer may be


def test_a_branch_inside_a_section_to_no_function_is_refused() -> None:
    """AAELF64: to a label of its own section that is no function a linker must not put a veneer."""
    graph = new_graph()
    block = add_code(graph, words(B) + bytes(64))
    graph.add_symbol("caller", block)
    label = graph.add_symbol("label", block, 8)
    graph.add_edge(block, 0, KIND_OF["b"], label, 128 * MIB)
    add_code(graph, 200 * MIB)
    with pytest.raises(OutOfRange, match=r"label.*no veneer may stand between a branch and a label of its own section"):
        jitlink.link(graph, base=BASE)


def test_a_branch_with_no_gap_in_its_reach_is_refused() -> None:
    """In the middle of a section that is larger than the reach of a branch there is no place for a veneer."""
    graph = new_graph()
    section = add_code(graph, words(NOP) * (128 << 10 >> 2))
    graph.blocks.content[section] = graph.add_content(words(NOP) * (64 << 10 >> 2) + words(TBZ) * (64 << 10 >> 2))
    target = add_function(graph, "target")
    graph.add_edge(section, 64 << 10, KIND_OF["tbz"], target)
    with pytest.raises(OutOfRange, match=r"R_AARCH64_TSTBR14 to target.*-ffunction-sections"):
        jitlink.link(graph, base=BASE)


@pytest.mark.parametrize("at", [4096, (128 << 10) - 4096])
@pytest.mark.parametrize("alignment", [4, 64, 4096])
def test_both_ends_of_a_large_section_have_room(at: int, alignment: int) -> None:
    """A branch near an end of a section that is larger than its reach finds a veneer before or behind it."""
    graph = new_graph()
    code = bytearray(words(NOP) * (128 << 10 >> 2))
    code[at : at + 4] = words(TBZ)
    section = add_code(graph, bytes(code), alignment=alignment)
    graph.add_symbol("section", section)
    target = graph.add_symbol("target", add_code(graph, words(NOP) * (1 << 18)), (1 << 20) - 64)
    graph.add_edge(section, at, KIND_OF["tbz"], target)
    image = jitlink.link(graph, base=BASE)
    assert image.address_of("section") % alignment == 0
    end, way = follow(image, image.address_of("section") + at)
    assert end == image.address_of("target")
    assert len(way) == 1


def test_a_gap_that_is_shared_may_be_too_far_for_one() -> None:
    """Where the gap of a stretch of code is out of reach of a branch, the gap nearest to it is taken."""
    graph = new_graph()
    add_code(graph, words(NOP) * (8 << 10 >> 2))
    # The branch is at 32 KiB, where a stretch starts; the gap nearest to its middle is 31 KiB behind it.
    code = bytearray(words(NOP) * (55 << 10 >> 2))
    code[24 << 10 : (24 << 10) + 4] = words(TBZ)
    section = add_code(graph, bytes(code))
    graph.add_symbol("section", section)
    target = graph.add_symbol("target", add_code(graph, words(NOP) * (1 << 18)), (1 << 20) - 64)
    graph.add_edge(section, 24 << 10, KIND_OF["tbz"], target)
    image = jitlink.link(graph, base=BASE)
    place = image.address_of("section") + (24 << 10)
    end, way = follow(image, place)
    assert end == image.address_of("target")
    assert way == [BASE + (8 << 10)]


def test_padding_around_islands_has_room() -> None:
    """Islands between blocks that fill their alignment cost a whole alignment each, which is set aside."""
    graph = new_graph()
    for number in range(160):
        page = add_code(graph, words(TBZ) + words(NOP) * 1023, alignment=4096)
        graph.add_symbol(f"page{number}", page)
    target = add_function(graph, "target")
    for number in range(160):
        graph.add_edge(number + 1, 0, KIND_OF["tbz"], target)
    image = jitlink.link(graph, base=BASE)
    for number in range(160):
        assert image.address_of(f"page{number}") % 4096 == 0
        assert follow(image, image.address_of(f"page{number}"))[0] == image.address_of("target")


@pytest.mark.parametrize("reach", [16 << 10, 32 << 10])
def test_islands_that_push_each_other_out_of_reach_are_split(reach: int) -> None:
    """Where islands grow to more than the reach of a branch, branches get veneers nearer to them."""
    graph = new_graph(small_reaches(reach))
    blocks = [add_code(graph, words(BL) * 16) for _ in range(512)]
    section = graph.add_symbol("section", add_code(graph, words(NOP) * (1 << 18)))
    order = list(range(len(blocks) * 16))
    random.Random(reach).shuffle(order)
    for number, block in enumerate(blocks):
        graph.add_symbol(f"block{number}", block)
        for place in range(16):
            graph.add_edge(block, 4 * place, KIND_OF["bl"], section, (1 << 19) + 4 * order[16 * number + place])
    image = jitlink.link(graph, base=BASE)
    symbols = image.symbols()
    for number in range(len(blocks)):
        for place in range(16):
            at = symbols[f"block{number}"] + 4 * place
            distance = step(word_at(image, at))
            assert distance is not None
            assert -reach <= distance < reach
            wanted = symbols["section"] + (1 << 19) + 4 * order[16 * number + place]
            assert jump_of(image, at + distance) == wanted


# Functions outside


@pytest.mark.parametrize("distance", [129 * MIB, 3 << 30, FAR - BASE])
@pytest.mark.parametrize("mnemonic", KIND_OF)
def test_a_function_outside_has_a_stub(mnemonic: str, distance: int) -> None:
    """A function that is farther away than a branch reaches is reached through its GOT entry."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(WORD_OF[mnemonic]))
    graph.add_edge(block_of(graph, caller), 0, KIND_OF[mnemonic], graph.add_symbol("outside"))
    image = jitlink.link(graph, base=BASE, define={"outside": BASE + distance})
    end, way = follow(image, image.address_of("caller"))
    assert end == BASE + distance
    assert len(way) == 1
    assert word_at(image, way[0]) == 0xD503245F, "a stub starts with BTI c, since pointers may point at it"


@pytest.mark.parametrize("distance", [MIB, 127 * MIB, -127 * MIB])
def test_a_function_outside_that_a_branch_reaches_has_none(distance: int) -> None:
    """Within 128 MiB a BL goes there directly."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(BL))
    graph.add_edge(block_of(graph, caller), 0, KIND_OF["bl"], graph.add_symbol("outside"))
    image = jitlink.link(graph, base=BASE, define={"outside": BASE + distance})
    assert follow(image, image.address_of("caller")) == (BASE + distance, [])


def test_a_symbol_of_the_linker_has_no_stub() -> None:
    """What the layout decides is in the image, though it has no address when stubs are made."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(B, TBZ))
    for offset, kind in ((0, KIND_OF["b"]), (4, KIND_OF["tbz"])):
        graph.add_edge(block_of(graph, caller), offset, kind, graph.add_symbol("_etext"))
    image = jitlink.link(graph, base=BASE)
    assert follow(image, BASE) == follow(image, BASE + 4) == (BASE + 8, [])


def test_a_place_beside_a_function_outside_has_a_stub_of_its_own() -> None:
    """`bl outside+8` goes to outside + 8, not to the middle of a stub."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(BL, BL, B))
    outside = graph.add_symbol("outside")
    for offset, addend in ((0, 0), (4, 8), (8, 8)):
        graph.add_edge(block_of(graph, caller), offset, KIND_OF["bl"], outside, addend)
    image = jitlink.link(graph, base=BASE, define={"outside": FAR})
    ends = [follow(image, image.address_of("caller") + offset) for offset in (0, 4, 8)]
    assert [end for end, _ in ends] == [FAR, FAR + 8, FAR + 8]
    assert ends[1][1] == ends[2][1] != ends[0][1]


def test_a_stub_out_of_reach_is_made_once_more() -> None:
    """In an image of more than 128 MiB a call goes through one stub, and not through a veneer to another."""
    graph = new_graph()
    outside = graph.add_symbol("outside")
    # The stubs come behind all this, with the alignment of 16 that they have.
    first = add_function(graph, "first", words(BL), alignment=128 * MIB)
    last = add_function(graph, "last", words(BL), alignment=128 * MIB)
    for caller in (first, last):
        graph.add_edge(block_of(graph, caller), 0, KIND_OF["bl"], outside)
    image = jitlink.link(graph, base=0x4000_0000, define={"outside": FAR})
    ways = []
    for name in ("first", "last"):
        end, way = follow(image, image.address_of(name))
        assert end == FAR
        assert len(way) == 1
        ways += way
    assert len(set(ways)) == 2
    assert len([block for block in image.graph.blocks if block.section.name == ".got"]) == 1


# Any code at all


@pytest.mark.parametrize("seed", range(30))
def test_every_branch_of_random_code_gets_there(seed: int) -> None:
    """However blocks, alignments and branches lie, every branch ends at its target, by steps in its reach."""
    chance = random.Random(seed)
    reach = 256 << 10
    target = small_reaches(reach)
    graph = new_graph(target)
    sizes = [chance.choice((4, 64, 256, 4096, 20_000)) // 4 * 4 for _ in range(chance.randrange(40, 160))]
    alignments = [chance.choice((4, 4, 4, 16, 64, 1024, 4096)) for _ in sizes]
    functions = []
    for number, (size, alignment) in enumerate(zip(sizes, alignments, strict=True)):
        functions.append(add_function(graph, f"f{number}", words(NOP) * (size // 4), alignment=alignment))
        if chance.random() < 0.1:
            # Data in the code: whatever goes behind it starts at an instruction's alignment all the same.
            add_code(graph, bytes(chance.randrange(9)), alignment=1)
    functions.append(graph.add_symbol("outside"))
    planned = []
    for function in functions[:-1]:
        block = block_of(graph, function)
        size = int(graph.blocks.size[block])
        code = bytearray(graph.content_of(block))
        for offset in sorted({chance.randrange(size // 4) * 4 for _ in range(chance.randrange(6))}):
            mnemonic = chance.choice(list(KIND_OF))
            goal = chance.choice(functions)
            code[offset : offset + 4] = words(WORD_OF[mnemonic])
            inside = int(graph.blocks.size[block_of(graph, goal)]) or 64
            addend = chance.choice((0, 0, 0, chance.randrange(0, inside, 4)))
            graph.add_edge(block, offset, KIND_OF[mnemonic], goal, addend)
            planned.append((graph.symbols[function].name, offset, graph.symbols[goal].name, addend))
        graph.blocks.content[block] = graph.add_content(bytes(code))
    image = jitlink.link(graph, base=BASE, define={"outside": FAR})
    for name, offset, goal_name, addend in planned:
        place = image.address_of(name) + offset
        wanted = FAR if goal_name == "outside" else image.address_of(goal_name)
        end, way = follow(image, place)
        assert end == wanted + addend
        assert len(way) <= 2
        for hop in [place, *way]:
            word = word_at(image, hop)
            distance = step(word)
            # Only those of 26 bits are thought to be shorter than they are.
            assert distance is None or word & 0x7C000000 != B or -reach <= distance < reach


def test_far_code_runs() -> None:
    """A call over more than 128 MiB and back, in unicorn: the registers of the call survive."""
    source = """
    .text
    .globl entry
    .type entry, %function
    entry: stp x29, x30, [sp, #-16]!
           bl distant
           ldp x29, x30, [sp], #16
           ret
    .globl square
    .type square, %function
    square: mul x0, x0, x0
           ret
    .section .text.distant, "ax", %progbits
    .globl distant
    .type distant, %function
    distant: add x0, x0, #1
           b square
    """
    graph = jitlink.read(assemble(source, target="aarch64-linux-gnu"))
    rows = {block.section.name: block.row for block in graph.blocks}
    graph.blocks.alignment[rows[".text"]] = graph.blocks.alignment[rows[".text.distant"]] = 128 * MIB
    image = jitlink.link(graph, base=0x2000_0000)
    assert image.address_of("distant") - image.address_of("entry") == 128 * MIB
    machine = Uc(unicorn_const.UC_ARCH_ARM64, unicorn_const.UC_MODE_ARM)
    segment = image.segments[0]
    for address in (image.address_of("entry"), image.address_of("distant"), *made_places(image)):
        start = address & ~0xFFFF
        if start not in {region[0] for region in machine.mem_regions()}:
            machine.mem_map(start, 0x10000)
            content = segment.content[start - segment.address :][:0x10000]
            machine.mem_write(start, content)
    machine.mem_map(0x1000, 0x2000)
    machine.reg_write(arm64_const.UC_ARM64_REG_SP, 0x2000)
    machine.reg_write(arm64_const.UC_ARM64_REG_X0, 6)
    machine.reg_write(arm64_const.UC_ARM64_REG_LR, 0x1000)
    machine.emu_start(image.address_of("entry"), 0x1000, count=100)
    assert machine.reg_read(arm64_const.UC_ARM64_REG_X0) == 49


def test_a_definition_is_external_only_where_it_is() -> None:
    """The symbols that islands add are local, and the link exports what it did."""
    graph = new_graph()
    caller = add_function(graph, "caller", words(BL))
    target = graph.add_symbol("target", add_code(graph, 200 * MIB), 150 * MIB, kind=SymbolKind.FUNCTION)
    graph.add_edge(block_of(graph, caller), 0, KIND_OF["bl"], target)
    image = jitlink.link(graph, base=BASE)
    assert set(image.symbols()) == {"caller", "target"}
    assert all(symbol.definition == Definition.DEFINED for symbol in image.graph.symbols if symbol.block)

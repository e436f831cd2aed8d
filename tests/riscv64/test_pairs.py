"""Relocations of RISC-V that are a value only together: upper and lower parts, and ULEB128 distances."""

from __future__ import annotations

from pathlib import Path

import pytest

import jitlink
from jitlink import MalformedInput, OutOfRange, Protection
from jitlink.graph import Linkage
from tests.riscv64.objects import BASE, assembled, contents, link_with_lld, section_of, words

CODE = Protection.READ | Protection.EXECUTE
FAR = BASE + (1 << 40)


def instructions(image: jitlink.Image, section: str = ".text") -> list[str]:
    return words(contents(image)[section][1])


def test_several_lower_parts_go_with_one_upper_part(tmp_path: Path) -> None:
    """Loads and stores anywhere in the section, before and behind their label, have the value of the auipc."""
    source = """
        .text
        lw a1, %pcrel_lo(here)(a0)
    here:
        auipc a0, %pcrel_hi(datum + 0x7fc)
        addi a1, a0, %pcrel_lo(here)
        .zero 0x1234
        ld a1, %pcrel_lo(here)(a0)
        sd a1, %pcrel_lo(here)(a0)
        fsd fa0, %pcrel_lo(here)(a0)
        .data
    datum: .zero 4096
    """
    content = assembled(source)
    ours = contents(jitlink.link(content, base=BASE))
    sections = {name: address for name, (address, _) in ours.items()}
    linked = link_with_lld(tmp_path, [content], sections=sections)
    assert section_of(linked, ".text") == ours[".text"][1]
    assert instructions(jitlink.link(content, base=BASE))[0] == "lw a1, 0x7f8(a0)"


def test_an_upper_part_may_be_in_another_block() -> None:
    """Where a compiler has split a function, the lower part follows its label into the other section."""
    source = """
        .section .text.hot,"ax",@progbits
        .globl start
    start:
        nop
    here:
        auipc a0, %pcrel_hi(datum)
        ret
        .section .text.cold,"ax",@progbits
        .globl cold
    cold:
        ld a1, %pcrel_lo(here)(a0)
        .data
        .zero 0x123
    datum: .quad 0
    """
    image = jitlink.link(assembled(source), base=BASE)
    here = image.address_of("start") + 4
    upper = int.from_bytes(image.read(here, 4), "little") & ~0xFFF
    lower = int.from_bytes(image.read(image.address_of("cold"), 4), "little") >> 20
    signed_lower = lower - ((lower & 0x800) << 1)
    [data] = [block for block in image.graph.blocks if block.section.name == ".data"]
    assert here + upper + signed_lower == data.address + 0x123


def test_a_lower_part_whose_label_has_no_upper_part_is_refused() -> None:
    """The error names the label, and the place of the lower part."""
    source = ".text\nhere: nop\n .reloc ., R_RISCV_PCREL_LO12_I, here\n ld a1, 0(a0)"
    with pytest.raises(MalformedInput, match=r"R_RISCV_PCREL_LO12_I .* no upper part") as raised:
        jitlink.link(assembled(source), base=BASE)
    assert (raised.value.section, raised.value.offset, raised.value.symbol) == (".text", 4, "here")


@pytest.mark.parametrize("offset", [2, 3, 1 << 40, (1 << 64) - 4])
def test_a_label_beside_an_upper_part_is_not_at_it(offset: int) -> None:
    """A label anywhere else, also far outside of its block, is one without an upper part."""
    graph = jitlink.new_graph("pairs", "riscv64")
    block = graph.add_block(graph.add_section(".text", CODE), bytes(16))
    datum = graph.add_symbol("datum", block)
    graph.add_edge(block, 0, "R_RISCV_PCREL_HI20", datum)
    graph.add_edge(block, 4, "R_RISCV_PCREL_LO12_I", graph.add_symbol("label", block, offset))
    with pytest.raises(MalformedInput, match="no upper part"):
        jitlink.link(graph, base=BASE)


def test_a_label_that_is_not_in_the_image_is_refused() -> None:
    """A lower part may name a symbol of any sort; one outside is at no upper part."""
    source = ".text\n.reloc ., R_RISCV_PCREL_LO12_I, outside\n ld a1, 0(a0)"
    with pytest.raises(MalformedInput, match="no upper part"):
        jitlink.link(assembled(source), base=BASE, define={"outside": BASE})


GOT_LOAD = """
    .text
    .option {option}
here:
    auipc a0, %got_pcrel_hi(target)
    ld a0, %pcrel_lo(here)(a0)
    ret
"""


def test_a_got_load_of_something_near_computes_the_address() -> None:
    """Marked for relaxation and in reach of auipc, the ld becomes an addi, and there is no GOT."""
    image = jitlink.link(assembled(GOT_LOAD.format(option="relax")), base=BASE, define={"target": BASE + 0x1234})
    assert instructions(image) == ["auipc a0, 1", "addi a0, a0, 0x234", "ret"]
    assert ".got" not in contents(image)


@pytest.mark.parametrize(
    ("option", "address", "relax"), [("relax", FAR, True), ("norelax", BASE, True), ("relax", BASE, False)]
)
def test_a_got_load_stays_one(option: str, address: int, relax: bool) -> None:
    """Where the target is far, the code is not marked, or nobody wants relaxation, the entry is loaded."""
    content = assembled(GOT_LOAD.format(option=option))
    image = jitlink.link(content, base=BASE, define={"target": address}, relax=relax)
    assert [line.split()[0] for line in instructions(image)] == ["auipc", "ld", "ret"]
    entry, entry_content = contents(image)[".got"]
    assert int.from_bytes(entry_content, "little") == address
    code = contents(image)[".text"][1]
    upper, lower = (int.from_bytes(code[at : at + 4], "little") for at in (0, 4))
    assert BASE + (upper & ~0xFFF) + (lower >> 20) == entry


@pytest.mark.parametrize(
    "use",
    ["lw a0, %pcrel_lo(here)(a0)", "addi a0, a0, %pcrel_lo(here)", ".option norelax\nld a0, %pcrel_lo(here)(a0)"],
)
def test_a_got_load_with_another_use_stays_one(use: str) -> None:
    """If one of the uses of an auipc is no marked ld, all of them go on reading the GOT entry."""
    source = GOT_LOAD.format(option="relax").replace("ret", f"ld a1, %pcrel_lo(here)(a0)\n{use}")
    image = jitlink.link(assembled(source), base=BASE, define={"target": BASE})
    assert ".got" in contents(image)
    assert [line.split()[0] for line in instructions(image)].count("ld") >= 2


def test_a_got_entry_of_a_distance_is_relative_to_the_place() -> None:
    """R_RISCV_GOT32_PCREL is where the GOT entry is, from the place, plus the addend."""
    source = ".data\n.globl place\n.word 0\nplace: .reloc ., R_RISCV_GOT32_PCREL, target + 4\n.word 0"
    image = jitlink.link(assembled(source), base=BASE, define={"target": FAR})
    place = image.address_of("place")
    assert int.from_bytes(image.read(place, 4), "little", signed=True) + place == contents(image)[".got"][0] + 4


def test_a_weak_symbol_that_nothing_defines_has_the_address_zero_for_code_that_is_far_from_there() -> None:
    """auipc reaches no address 0 from above 2 GiB, and becomes lui; so its lower parts are absolute."""
    source = ".text\n.weak nothing\nhere: auipc a0, %pcrel_hi(nothing+8)\n addi a0, a0, %pcrel_lo(here)\n ret"
    for relax in (True, False):
        image = jitlink.link(assembled(source), base=1 << 40, relax=relax)
        assert instructions(image) == ["lui a0, 0", "addi a0, a0, 8", "ret"]


def test_calls_of_places_beside_a_far_function_go_there() -> None:
    """A stub for `call function + 4` jumps to function + 4, not into the middle of a stub for function."""
    source = "\n".join(
        [".text", ".globl start", "start:"]
        + [
            f".reloc ., R_RISCV_CALL_PLT, {target}\nauipc ra, 0\njalr ra"
            for target in ("outside+4", "outside", "outside+4")
        ]
    )
    image = jitlink.link(assembled(source), base=BASE, define={"outside": FAR})
    goals = []
    for number in range(3):
        call = image.read(image.address_of("start") + 8 * number, 8)
        upper, lower = (int.from_bytes(call[at : at + 4], "little") for at in (0, 4))
        stub = image.address_of("start") + 8 * number + _signed(upper & ~0xFFF, 32) + _signed(lower >> 20, 12)
        upper, lower = (int.from_bytes(image.read(stub + at, 4), "little") for at in (0, 4))
        entry = stub + _signed(upper & ~0xFFF, 32) + _signed(lower >> 20, 12)
        assert words(image.read(stub, 12))[2] == "jr t3"
        goals.append(int.from_bytes(image.read(entry, 8), "little"))
    assert goals == [FAR + 4, FAR, FAR + 4]


def _signed(value: int, bits: int) -> int:
    return value - (value >> bits - 1 << bits)


@pytest.mark.parametrize(("distance", "stubs"), [(0xF0000, 0), (1 << 21, 1), (1 << 40, 1)])
def test_a_jal_to_a_far_function_goes_through_a_stub(distance: int, stubs: int) -> None:
    """A jal that was written as such spans 1 MiB; a stub that is nearer carries it on."""
    image = jitlink.link(assembled(".text\njal outside"), base=BASE, define={"outside": BASE + distance})
    assert len([name for name in contents(image) if name == ".stubs"]) == stubs


# ULEB128 distances

ULEB128 = """
    .text
    .option relax
start:
    call start
    {gap}
end:
    .section .rodata
    .globl place
place:
    .reloc ., R_RISCV_SET_ULEB128, end + {addend}
    .reloc ., R_RISCV_SUB_ULEB128, start
    .byte {field}
    .byte 0x55
"""


@pytest.mark.parametrize(
    ("field", "gap", "addend", "expected"),
    [
        ("0", "", 0, "0455"),
        ("0", ".zero 123", 0, "7f55"),
        ("0x80, 0", "", 0, "840055"),
        ("0x80, 0x80, 0x80, 0", ".zero 123", 0, "ff80800055"),
        ("0x80, 0", ".zero 16379", 0, "ff7f55"),
        ("0", "", -4, "0055"),
        ("0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0", "", -5, "ffffffffffffffffff0155"),
    ],
)
def test_a_uleb128_distance_keeps_its_length(field: str, gap: str, addend: int, expected: str) -> None:
    """The number fills the bytes that are there, high bits included; a call between the labels has shrunk to 4."""
    image = jitlink.link(assembled(ULEB128.format(field=field, gap=gap, addend=addend)), base=BASE)
    assert contents(image)[".rodata"][1].hex() == expected


@pytest.mark.parametrize(
    ("field", "gap", "addend"), [("0", ".zero 124", 0), ("0x80, 0", ".zero 16380", 0), ("0x80, 0", "", -5)]
)
def test_a_uleb128_distance_that_needs_more_bytes_is_refused(field: str, gap: str, addend: int) -> None:
    """One past what the bytes can hold, and any negative distance, do not fit."""
    with pytest.raises(OutOfRange, match="R_RISCV_SET_ULEB128 to end"):
        jitlink.link(assembled(ULEB128.format(field=field, gap=gap, addend=addend)), base=BASE)


def test_a_uleb128_number_past_the_end_of_its_section_is_refused() -> None:
    """A last byte that says that there is another one is the fault of the object."""
    source = ULEB128.format(field="0x80", gap="", addend=0).replace(".byte 0x55", "")
    with pytest.raises(MalformedInput, match="no end within its section"):
        jitlink.link(assembled(source), base=BASE)


@pytest.mark.parametrize("missing", ["SET", "SUB"])
def test_half_a_uleb128_pair_is_refused(missing: str) -> None:
    """Either of the two alone means nothing."""
    lines = ULEB128.format(field="0", gap="", addend=0).splitlines()
    with pytest.raises(MalformedInput, match="come in pairs"):
        jitlink.link(assembled("\n".join(line for line in lines if missing not in line)), base=BASE)


def test_a_uleb128_pair_at_two_places_is_refused() -> None:
    """The two relocations of a pair stand one behind the other, at one place."""
    source = ULEB128.format(field="0", gap="", addend=0).replace(".reloc ., R_RISCV_SUB", ".reloc .+1, R_RISCV_SUB")
    with pytest.raises(MalformedInput, match="come in pairs"):
        jitlink.link(assembled(source), base=BASE)


def test_edges_built_by_hand_are_paired_as_well() -> None:
    """A graph needs no object: a label symbol at the upper part is enough."""
    graph = jitlink.new_graph("pairs", "riscv64")
    code = bytes.fromhex("1705000003350500")
    block = graph.add_block(graph.add_section(".text", CODE), code)
    graph.add_symbol("start", block)
    graph.add_edge(block, 0, "R_RISCV_PCREL_HI20", graph.add_symbol("datum", linkage=Linkage.STRONG), 0)
    graph.add_edge(block, 4, "R_RISCV_PCREL_LO12_I", graph.add_symbol("label", block, 0))
    image = jitlink.link(graph, base=BASE, define={"datum": BASE + 0x2FF8})
    assert instructions(image) == ["auipc a0, 3", "ld a0, -8(a0)"]

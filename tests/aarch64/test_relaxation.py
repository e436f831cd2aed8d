"""Pairs of instructions that find an address get the shorter forms that AAELF64 allows, and no others do.

The bytes are compared with those of ld.lld, which relaxes by the same rules; what the instructions then
compute is read back with capstone.
"""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import capstone
import pytest
from elftools.elf.elffile import ELFFile

import jitlink
from jitlink import Image, LinkGraph, Protection
from jitlink.graph import Linkage
from tests.toolchain import assemble, zig

BASE = 0x2345_6000
FAR = 0x7F00_1234_5678
CODE = Protection.READ | Protection.EXECUTE
TARGET = "aarch64-linux-gnu"


def instructions(image: Image, address: int, count: int) -> list[str]:
    """Some instructions at an address, as capstone writes them."""
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    code = image.read(address, 4 * count)
    return [f"{each.mnemonic} {each.op_str}".strip() for each in decoder.disasm(code, address)]


def at_start(source: str, **define: int) -> Image:
    """Link some instructions to be the first of the image, with `near` data beside them."""
    text = f".text\n.globl start\n.p2align 4\nstart: {source}\nret\n.data\n.globl near\n"
    content = assemble(f"{text}.p2align 4\n.quad 0\nnear: .quad 1, 2, 3\n", target=TARGET)
    return jitlink.link(content, base=BASE, define=define)


def has_got(image: Image) -> bool:
    return any(block.section.name == ".got" for block in image.graph.blocks)


def start_of(image: Image) -> int:
    return image.address_of("start")


# What is relaxed


@pytest.mark.parametrize("register", ["x0", "x15", "x30"])
def test_a_load_from_the_got_of_a_near_address_becomes_adr(register: str) -> None:
    """ADRP and LDR of a GOT entry become NOP and ADR within 1 MiB, and there is no entry."""
    image = at_start(f"adrp {register}, :got:near\nldr {register}, [{register}, :got_lo12:near]")
    near = image.address_of("near")
    assert instructions(image, start_of(image), 2) == ["nop", f"adr {register}, #{near:#x}"]
    assert not has_got(image)


def test_an_address_pair_becomes_adr() -> None:
    """ADRP and ADD become NOP and ADR within 1 MiB, addend included."""
    image = at_start("adrp x3, near+8\nadd x3, x3, :lo12:near+8")
    assert instructions(image, start_of(image), 2) == ["nop", f"adr x3, #{image.address_of('near') + 8:#x}"]


@pytest.mark.parametrize("distance", [1 << 21, -(1 << 21), (1 << 32) - (1 << 22), -(1 << 32) + (1 << 22)])
def test_a_load_from_the_got_becomes_adrp_and_add_within_4_gib(distance: int) -> None:
    """Beyond 1 MiB and within 4 GiB the pair computes the address, and there is no entry."""
    base, target = 0x3_2345_6000, 0x3_2345_6000 + distance + 0x678
    image = jitlink.link(
        assemble(".text\n.globl start\nstart: adrp x0, :got:far\nldr x0, [x0, :got_lo12:far]\n", target=TARGET),
        base=base,
        define={"far": target},
    )
    page, low = target & ~0xFFF, target & 0xFFF
    assert instructions(image, base, 2) == [f"adrp x0, #{page:#x}", f"add x0, x0, #{low:#x}"]
    assert not has_got(image)


@pytest.mark.parametrize("distance", [(1 << 20) - 0x1000, (1 << 20) + 0x1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_reach_of_adr_decides(distance: int, sign: int) -> None:
    """Within 1 MiB on either side the ADR is made, beyond it not."""
    target = BASE + sign * distance
    image = at_start("adrp x0, other\nadd x0, x0, :lo12:other", other=target)
    expected = "nop" if distance < 1 << 20 else f"adrp x0, #{target & ~0xFFF:#x}"
    assert instructions(image, start_of(image), 1) == [expected]


def test_the_last_byte_that_adr_reaches_is_used() -> None:
    """The ADR is 4 bytes behind the ADRP, and reaches 1 MiB less one byte forward and 1 MiB back from itself."""
    for target, relaxed in (
        (BASE + 4 + (1 << 20) - 1, True),
        (BASE + 4 + (1 << 20), False),
        (BASE + 4 - (1 << 20), True),
        (BASE + 4 - (1 << 20) - 1, False),
    ):
        image = at_start("adrp x0, other\nadd x0, x0, :lo12:other", other=target)
        first, second = instructions(image, start_of(image), 2)
        if relaxed:
            assert (first, second) == ("nop", f"adr x0, #{target:#x}")
        else:
            assert first.startswith("adrp")


# What is not


@pytest.mark.parametrize(
    "source",
    [
        "adrp x0, :got:near\nldr x1, [x0, :got_lo12:near]",
        "adrp x0, :got:near\nnop\nldr x0, [x0, :got_lo12:near]",
        "adrp x0, :got:near\nldr x0, [x1, :got_lo12:near]",
        "adrp x0, :got:near\nldr x0, [x0, :got_lo12:near]\nldr x2, [x2, :got_lo12:near]",
        "adrp x0, :got:near\nldr x0, [x0, :got_lo12:near]\nadrp x2, :got:near",
        "ldr x0, [x0, :got_lo12:near]\nadrp x0, :got:near",
    ],
    ids=["other result", "apart", "other base", "a load alone", "a page alone", "other order"],
)
def test_loads_that_do_not_come_in_pairs_stay(source: str) -> None:
    """Where an ADRP may serve another load, or is not the one of this load, the GOT entry is read."""
    image = at_start(source)
    assert has_got(image)
    entry = next(block.address for block in image.graph.blocks if block.section.name == ".got")
    assert int.from_bytes(image.read(entry, 8), "little") == image.address_of("near")
    for instruction in instructions(image, start_of(image), source.count("\n") + 1):
        if instruction.startswith("adrp"):
            assert instruction.endswith(f"#{entry & ~0xFFF:#x}")
        elif instruction.startswith("ldr"):
            assert instruction.endswith(f"#{entry & 0xFFF:#x}]" if entry & 0xFFF else "]")


def test_a_pair_with_an_addend_is_refused() -> None:
    """AAELF64 relaxes pairs without an addend only, and a GOT entry has none."""
    with pytest.raises(jitlink.LinkFailure, match="R_AARCH64_ADR_GOT_PAGE to near has the addend 0x8"):
        at_start("adrp x0, :got:near+8\nldr x0, [x0, :got_lo12:near+8]")


def test_two_symbols_in_a_pair_stay() -> None:
    """An ADRP of one symbol and a load of another are two references."""
    image = at_start("adrp x0, :got:near\nldr x0, [x0, :got_lo12:start]")
    assert len([block for block in image.graph.blocks if block.section.name == ".got"]) == 2


@pytest.mark.parametrize(
    "source",
    [
        "adrp x0, near\nadd x1, x0, :lo12:near",
        "adrp x0, near\nnop\nadd x0, x0, :lo12:near",
        "adrp x0, near\nadd w0, w0, :lo12:near",
        "adrp x0, near\nadd x0, x0, :lo12:near+4",
        "adrp x0, near\nldr x0, [x0, :lo12:near]",
        "adrp xzr, near\nadd sp, sp, :lo12:near",
    ],
    ids=["other result", "apart", "32 bits", "other addend", "load", "register 31"],
)
def test_other_address_pairs_stay(source: str) -> None:
    """Only ADRP and ADD of one 64-bit register, one behind the other, for one place, are an ADR."""
    image = at_start(source)
    assert instructions(image, start_of(image), 1)[0].startswith("adrp")


def test_a_far_address_is_loaded_from_the_got() -> None:
    """Beyond 4 GiB the pair stays, and reads an entry that holds the address."""
    image = at_start("adrp x0, :got:far\nldr x0, [x0, :got_lo12:far]", far=FAR)
    first, second = instructions(image, start_of(image), 2)
    entry = next(block.address for block in image.graph.blocks if block.section.name == ".got")
    assert first == f"adrp x0, #{entry & ~0xFFF:#x}"
    assert second.startswith("ldr x0, [x0")
    assert int.from_bytes(image.read(entry, 8), "little") == FAR


def test_the_address_of_an_indirect_function_stays_in_the_got() -> None:
    """AAELF64: a symbol of type STT_GNU_IFUNC is not relaxed, since its address is what the resolver says."""
    source = ".type chosen, %gnu_indirect_function\nchosen: ret"
    content = assemble(f".text\nstart: adrp x0, :got:chosen\nldr x0, [x0, :got_lo12:chosen]\n{source}\n", target=TARGET)
    with pytest.raises(jitlink.LinkFailure, match=r"^chosen: an indirect function"):
        jitlink.link(content, base=BASE)


def test_a_field_that_is_no_instruction_stays() -> None:
    """A relocation in front of other bytes rewrites nothing but its field."""
    graph: LinkGraph = jitlink.new_graph("code", "aarch64")
    block = graph.add_block(graph.add_section(".text", CODE), b"\xff" * 8)
    target = graph.add_symbol("target", block)
    graph.add_edge(block, 0, "R_AARCH64_ADR_GOT_PAGE", target)
    graph.add_edge(block, 4, "R_AARCH64_LD64_GOT_LO12_NC", target)
    image = jitlink.link(graph, base=BASE)
    assert has_got(image)


# Weak symbols that nothing defines


def test_a_call_of_nothing_does_nothing() -> None:
    """AAELF64: a BL to a weak symbol that nothing defines goes to the next instruction."""
    image = at_start(".weak nothing\nbl nothing\nadrp x0, nothing\nadd x0, x0, :lo12:nothing")
    assert instructions(image, start_of(image), 3) == ["nop", "mov x0, #0", "add x0, x0, #0"]


def test_a_jump_to_nothing_faults_at_address_zero() -> None:
    """AAELF64 leaves B open: it goes through a stub to 0, and not on into the function behind it."""
    image = at_start(".weak nothing\nb nothing")
    stub = int(instructions(image, start_of(image), 1)[0].split("#")[1], 16)
    assert instructions(image, stub, 4)[-1] == "br x16"
    entry = next(block.address for block in image.graph.blocks if block.section.name == ".got")
    assert image.read(entry, 8) == bytes(8)


def test_the_address_of_nothing_with_a_large_addend_is_refused() -> None:
    """The MOV that stands for the page of nothing can only be 0."""
    with pytest.raises(jitlink.OutOfRange, match="page of nothing, to mov"):
        at_start(".weak nothing\nadrp x0, nothing+4096\nadd x0, x0, :lo12:nothing+4096")


def test_a_weak_symbol_that_is_defined_is_an_ordinary_one() -> None:
    """Weakness alone changes no instruction."""
    graph = jitlink.new_graph("code", "aarch64")
    block = graph.add_block(graph.add_section(".text", CODE), (0x94000000).to_bytes(4, "little"))
    graph.add_edge(block, 0, "R_AARCH64_CALL26", graph.add_symbol("self", block, linkage=Linkage.WEAK))
    image = jitlink.link(graph, base=BASE)
    assert instructions(image, BASE, 1) == [f"bl #{BASE:#x}"]


# The same, by ld.lld

SAME_BYTES = """
    .text
    .globl start
start:
    adrp x0, :got:near
    ldr x0, [x0, :got_lo12:near]
    adrp x1, :got:distant
    ldr x1, [x1, :got_lo12:distant]
    adrp x2, near
    add x2, x2, :lo12:near
    adrp x3, distant
    add x3, x3, :lo12:distant
    adrp x4, near
    add x5, x4, :lo12:near
    adrp x6, near
    ldr x6, [x6, :lo12:near]
    adrp x7, near
    nop
    add x7, x7, :lo12:near
    bl near
    .globl near
    .p2align 3
near: .quad 0
    .section .text.mixed, "ax", %progbits
    .globl mixed
mixed:
    adrp x0, :got:distant
    ldr x0, [x0, :got_lo12:distant]
    adrp x1, :got:distant
    ldr x2, [x1, :got_lo12:distant]
    ldr x3, [x1, :got_lo12:distant]
    .reloc ., R_AARCH64_LD64_GOTPAGE_LO15, distant
    ldr x4, [x4]
    .section .rodata, "a", %progbits
    .space 0x200000, 0x5a
    // ld.lld makes an entry for near in any case.
    .reloc ., R_AARCH64_GOTPCREL32, near
    .word 0
    .reloc ., R_AARCH64_GOTPCREL32, distant-12
    .word 0
    .data
    .globl distant
    .space 40
distant: .quad start
"""


def addresses_of_sections(graph: LinkGraph) -> dict[str, int]:
    """Where the sections of the input, and the GOT, went."""
    placed = sorted((block.address, block.section.name) for block in graph.blocks if block.size and block.live)
    return {name: address for address, name in reversed(placed)}


def test_the_bytes_are_those_of_lld(tmp_path: Path) -> None:
    """Relaxed or not, code and data are byte for byte what ld.lld makes at the same addresses."""
    content = assemble(SAME_BYTES, target=TARGET)
    image = jitlink.link(content, base=BASE)
    sections = addresses_of_sections(image.graph)
    assert set(sections) == {".text", ".text.mixed", ".rodata", ".data", ".got"}
    lines = [f"{name} {at:#x} : {{ *({name}) }}" for name, at in sorted(sections.items(), key=lambda each: each[1])]
    (tmp_path / "layout.ld").write_text("SECTIONS {\n" + "\n".join(lines) + "\n/DISCARD/ : { *(.note*) }\n}\n")
    (tmp_path / "input.o").write_bytes(content)
    command = [*zig("ld.lld"), "-static", "-e", "start", "-T", "layout.ld", "-o", "linked", "input.o"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    theirs = ELFFile(BytesIO((tmp_path / "linked").read_bytes()))
    for name, address in sections.items():
        section = theirs.get_section_by_name(name)
        assert section is not None
        assert section["sh_addr"] == address
        size = section["sh_size"]
        assert image.read(address, size).hex(" ", -4) == section.data().hex(" ", -4), name

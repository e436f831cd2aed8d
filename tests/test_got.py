"""GOT entries, stubs and relaxation: what is far is reached, and what is near is reached directly.

The relaxed forms are those of x86-64 psABI B.2, read back with capstone. Links into this process, with
an indirect function and its resolver, are run.
"""

from __future__ import annotations

import platform
import sys

import capstone
import pytest

import jitlink
from jitlink import Image, LinkFailure, LinkGraph, OutOfRange, Protection
from jitlink.graph import Definition, Lifetime, SymbolKind
from jitlink.joining import join
from jitlink.linker import Options, link
from jitlink.passes.needs import Needs
from tests.toolchain import assemble

BASE = 0x2345_6000
NEAR = BASE + 0x1000_0000
FAR = 0x7F00_1234_5678
CODE = Protection.READ | Protection.EXECUTE
DATA = Protection.READ | Protection.WRITE
runs_here = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="x86-64 code runs on x86-64 Linux only"
)


def disassembled(image: Image, address: int) -> tuple[str, str, int]:
    """The instruction at an address: mnemonic, operands, and the address behind it."""
    segment = next(each for each in image.segments if each.address <= address < each.address + each.size)
    code = segment.content[address - segment.address :][:16]
    instruction = next(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, address))
    return instruction.mnemonic, instruction.op_str, address + instruction.size


def rip_target(operands: str, end: int) -> int:
    """Where [rip + n] points."""
    inside = operands[operands.index("[") + 1 : operands.index("]")]
    return int(eval(inside, {}, {"rip": end}))


def slot_of(image: Image, address: int) -> int:
    """What the memory operand of the instruction at an address holds."""
    _, operands, end = disassembled(image, address)
    return int.from_bytes(image.read(rip_target(operands, end), 8), "little")


def beside(source: str) -> bytes:
    """An object of some instructions, with a datum and a function beside them."""
    return assemble(f"""
        .text
        .p2align 4
        .globl start, function, datum
start:  {source}
        ret
function: ret
        .space 32, 0x90
        .data
datum:  .quad 1
    """)


def at_start(source: str, **define: int) -> Image:
    """Link some instructions to be the first of the image."""
    image = jitlink.link(beside(source), base=BASE, define=define)
    assert image.address_of("start") == BASE
    return image


# Relaxation


@pytest.mark.parametrize("register", ["rax", "r9", "rsp", "r13"])
def test_a_load_of_a_near_address_becomes_lea(register: str) -> None:
    """mov foo@GOTPCREL(%rip), %reg becomes lea foo(%rip), %reg, of the same length (psABI B.2)."""
    image = at_start(f"movq datum@GOTPCREL(%rip), %{register}")
    mnemonic, operands, end = disassembled(image, BASE)
    assert (mnemonic, operands.split(",")[0], end) == ("lea", register, BASE + 7)
    assert rip_target(operands, end) == image.address_of("datum")
    assert not any(block.section.name == ".got" for block in image.graph.blocks)


def test_a_32_bit_load_of_a_near_address_becomes_lea() -> None:
    """Without a REX prefix the kind is GOTPCRELX, and the low half of the address is computed."""
    image = at_start("movl datum@GOTPCREL(%rip), %ecx")
    mnemonic, operands, end = disassembled(image, BASE)
    assert (mnemonic, operands.split(",")[0], end) == ("lea", "ecx", BASE + 6)
    assert rip_target(operands, end) == image.address_of("datum")


def test_a_load_with_a_rex2_prefix_becomes_lea() -> None:
    """CODE_4_GOTPCRELX: mov datum@GOTPCREL(%rip), %r16 is d5 48 8b 05 and becomes d5 48 8d 05 (APX)."""
    graph = code_graph("d548 8b05 00000000", 4, "R_X86_64_CODE_4_GOTPCRELX")
    image = jitlink.link(graph, base=BASE)
    assert image.read(BASE, 4).hex() == "d5488d05"
    assert BASE + 8 + int.from_bytes(image.read(BASE + 4, 4), "little", signed=True) == image.address_of("target")


def test_an_indirect_call_of_a_near_function_becomes_direct() -> None:
    """call *foo@GOTPCREL(%rip) becomes addr32 call foo, so that its return address stays (psABI B.2)."""
    image = at_start("call *function@GOTPCREL(%rip)")
    mnemonic, operands, end = disassembled(image, BASE)
    assert (mnemonic, int(operands, 16), end) == ("call", image.address_of("function"), BASE + 6)
    assert image.read(BASE, 2).hex() == "67e8"


def test_an_indirect_jump_to_a_near_function_becomes_direct() -> None:
    """jmp *foo@GOTPCREL(%rip) becomes jmp foo; nop (psABI B.2)."""
    image = at_start("jmp *function@GOTPCREL(%rip)")
    mnemonic, operands, end = disassembled(image, BASE)
    assert (mnemonic, int(operands, 16), end) == ("jmp", image.address_of("function"), BASE + 5)
    assert disassembled(image, end)[0] == "nop"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("movq target@GOTPCREL(%rip), %rax", "mov"),
        ("call *target@GOTPCREL(%rip)", "call"),
        ("jmp *target@GOTPCREL(%rip)", "jmp"),
    ],
)
def test_a_far_target_is_left_in_the_got(source: str, expected: str) -> None:
    """The same instructions stay as they are when the target is out of reach, and read its GOT entry."""
    image = at_start(source, target=FAR)
    mnemonic, operands, end = disassembled(image, BASE)
    assert mnemonic == expected
    assert "rip" in operands
    assert end - BASE == len(bytes.fromhex("ff1500000000")) + (expected == "mov")
    assert slot_of(image, BASE) == FAR


def test_an_external_target_in_reach_is_relaxed() -> None:
    """Nearness is what counts, not whether the target is part of the link."""
    image = at_start("movq target@GOTPCREL(%rip), %rax", target=NEAR)
    mnemonic, operands, end = disassembled(image, BASE)
    assert mnemonic == "lea"
    assert rip_target(operands, end) == NEAR


@pytest.mark.parametrize("distance", [(1 << 31) - (1 << 20), (1 << 31) + (1 << 20)])
def test_the_reach_decides_on_either_side(distance: int) -> None:
    """Well inside 2 GiB a load is relaxed, outside it is not; either way it yields the address."""
    base = 0x1_2345_6000
    for target in (base + distance, base - distance):
        graph = code_graph("488b05 00000000", 3, "R_X86_64_REX_GOTPCRELX", address=target)
        image = jitlink.link(graph, base=base)
        mnemonic, operands, end = disassembled(image, base)
        near = distance < 1 << 31
        assert mnemonic == ("lea" if near else "mov")
        assert (rip_target(operands, end) if near else slot_of(image, base)) == target


def code_graph(code: str, field: int, kind: str, addend: int = -4, address: int | None = None) -> LinkGraph:
    """A function `start` of this code with one edge to `target`, near data or an absolute address."""
    graph = jitlink.new_graph("code", "x86_64")
    start = graph.add_block(graph.add_section(".text", CODE), bytes.fromhex(code) + b"\xc3")
    graph.add_symbol("start", start)
    if address is None:
        target = graph.add_symbol("target", graph.add_block(graph.add_section(".data", DATA), bytes(8)))
    else:
        target = graph.add_symbol("target", offset=address, definition=Definition.ABSOLUTE)
    graph.add_edge(start, field, kind, target, addend)
    return graph


@pytest.mark.parametrize(
    ("code", "field", "why"),
    [
        ("483b05 00000000", 3, "cmp has no form without the GOT that needs no 32-bit address"),
        ("480305 00000000", 3, "add as well"),
        ("8705 00000000", 2, "xchg writes its operand"),
        ("488b85 00000000", 3, "the operand is relative to %rbp"),
        ("488b04 00000000", 3, "the operand has a SIB byte"),
        ("ff35 00000000", 2, "push"),
        ("ff1d 00000000", 2, "a far call"),
        ("8a05 00000000", 2, "a load of one byte"),
    ],
)
def test_other_instructions_are_not_rewritten(code: str, field: int, why: str) -> None:
    """An opcode that psABI B.2 gives no relaxed form that we make stays a reference to the GOT entry."""
    image = jitlink.link(code_graph(code, field, "R_X86_64_REX_GOTPCRELX"), base=BASE)
    assert image.read(BASE, field).hex() == code.split()[0], why
    at = BASE + field
    slot = at + 4 + int.from_bytes(image.read(at, 4), "little", signed=True)
    assert int.from_bytes(image.read(slot, 8), "little") == image.address_of("target")


@pytest.mark.parametrize("addend", [-5, -8, 0, 4])
def test_another_addend_is_not_relaxed(addend: int) -> None:
    """The rewritten forms end with their field, so that an addend other than -4 means something else."""
    image = jitlink.link(code_graph("488b05 00000000", 3, "R_X86_64_REX_GOTPCRELX", addend), base=BASE)
    assert image.read(BASE, 3).hex() == "488b05"
    slot = BASE + 3 - addend + int.from_bytes(image.read(BASE + 3, 4), "little", signed=True)
    assert int.from_bytes(image.read(slot, 8), "little") == image.address_of("target")


def test_gotpcrel_without_x_is_never_relaxed() -> None:
    """The assembler says by the kind whether an instruction may be rewritten."""
    image = jitlink.link(code_graph("488b05 00000000", 3, "R_X86_64_GOTPCREL"), base=BASE)
    assert disassembled(image, BASE)[0] == "mov"
    assert slot_of(image, BASE) == image.address_of("target")


@pytest.mark.parametrize("field", [0, 1])
def test_a_field_without_room_for_an_opcode_is_not_rewritten(field: int) -> None:
    """A fixup at the start of its block has no instruction before it, and what lies before the block is not it."""
    graph = code_graph("90" * field + "00000000", field, "R_X86_64_GOTPCRELX")
    image = jitlink.link(graph, base=BASE)
    assert image.read(BASE, field) == b"\x90" * field
    slot = BASE + field + 4 + int.from_bytes(image.read(BASE + field, 4), "little", signed=True)
    assert int.from_bytes(image.read(slot, 8), "little") == image.address_of("target")


# Entries and stubs


def test_one_entry_serves_all_references_to_a_symbol() -> None:
    """However many loads and calls there are, a symbol has one GOT entry, which is read-only in the end."""
    source = "\n".join(["movq far@GOTPCREL(%rip), %rax", "call *far@GOTPCREL(%rip)", "call far@PLT"] * 5)
    image = at_start(source + "\nmovq other@GOTPCREL(%rip), %rax", far=FAR, other=FAR + 8)
    entries = [block for block in image.graph.blocks if block.section.name == ".got"]
    assert len(entries) == 2
    held = {int.from_bytes(image.read(entry.address, 8), "little") for entry in entries}
    assert held == {FAR, FAR + 8}
    assert {entry.section.protection for entry in entries} == {Protection.READ}


@pytest.mark.parametrize("source", ["call far@PLT", "jmp far@PLT", "jne far", "call far"])
def test_a_branch_to_a_far_function_goes_through_a_stub(source: str) -> None:
    """call, jmp and jcc reach a stub, which jumps through the GOT entry."""
    image = at_start(source, far=FAR)
    _, operands, _ = disassembled(image, BASE)
    stub = int(operands, 16)
    mnemonic, _, _ = disassembled(image, stub)
    assert mnemonic == "jmp"
    assert slot_of(image, stub) == FAR


def test_a_call_by_pc32_goes_through_a_stub_as_well() -> None:
    """Old assemblers mark calls with PC32: the opcode before the field tells that it is a branch."""
    image = jitlink.link(code_graph("e8 00000000", 1, "R_X86_64_PC32", address=FAR), base=BASE)
    assert slot_of(image, int(disassembled(image, BASE)[1], 16)) == FAR


def test_a_near_branch_has_no_stub() -> None:
    """A branch that reaches its target goes there directly, also to a function outside of the link."""
    image = at_start("call near@PLT", near=NEAR)
    assert int(disassembled(image, BASE)[1], 16) == NEAR
    assert not any(block.section.name in (".got", ".stubs") for block in image.graph.blocks)


def test_all_calls_of_a_function_share_a_stub() -> None:
    """A far function has one stub in a link."""
    image = at_start("\n".join(["call far@PLT"] * 100 + ["jne far", "jmp other@PLT"]), far=FAR, other=FAR + 1)
    assert len([block for block in image.graph.blocks if block.section.name == ".stubs"]) == 2


class FarFunction:
    """Surroundings in which there is one function, and it is far."""

    def address_of(self, name: str) -> int | None:
        return FAR if name == "far" else None

    def hidden_address_of(self, name: str) -> int | None:
        return None

    def own_address_of(self, name: str) -> int | None:
        return None

    def is_function(self, address: int) -> bool:
        return address == FAR

    def datum(self, address: int) -> bytes | None:
        return None


class FixedPlace:
    """An image at BASE."""

    page_size = 4096

    def choose(self, needs: Needs) -> int:
        return BASE


def test_the_address_of_a_far_function_is_one_address() -> None:
    """Where 32 bits have to hold it, a stub stands for the function in the whole link, so that pointers are equal."""
    source = "leaq far(%rip), %rax\nmovl $far, %edx\nmovq $far, %rdx\nmovabsq $far, %rcx\ncall far"
    image = Image(link(join([jitlink.read(beside(source))]), FarFunction(), FixedPlace(), Options()))
    at, seen = image.address_of("start"), []
    for _ in range(5):
        mnemonic, operands, end = disassembled(image, at)
        if mnemonic == "lea":
            seen.append(rip_target(operands, end))
        else:
            seen.append(int(operands.split(", ")[-1], 16))
        at = end
    assert len(set(seen)) == 1
    assert slot_of(image, seen[0]) == FAR


def test_far_data_cannot_be_stood_in_for() -> None:
    """A 32-bit distance to what may be data that is far is an error with advice, and never a wrong address."""
    with pytest.raises(OutOfRange, match=r"R_X86_64_PC32 to target.*GiB away") as caught:
        jitlink.link(code_graph("488d05 00000000", 3, "R_X86_64_PC32", address=FAR), base=BASE)
    assert caught.value.values == [FAR - 4 - (BASE + 3)]


def test_what_dead_blocks_refer_to_has_no_entries() -> None:
    """GOT entries are made for what is in the image; a debug section asks for none."""
    graph = code_graph("90", 0, "R_X86_64_NONE")
    debug = graph.add_block(graph.add_section(".debug_x", lifetime=Lifetime.NO_ALLOC), bytes(8))
    target = graph.add_symbol("target2", offset=FAR, definition=Definition.ABSOLUTE)
    graph.add_edge(debug, 0, "R_X86_64_GOTPCREL", target)
    image = jitlink.link(graph, base=BASE)
    assert not any(block.section.name == ".got" for block in image.graph.blocks)


# Indirect functions

IFUNC = """
    .text
    .globl chosen, direct, loaded, pointer
    .type chosen, @gnu_indirect_function
chosen: leaq answer(%rip), %rax
        ret
answer: movl $42, %eax
        ret
direct: subq $8, %rsp
        call chosen@PLT
        addq $8, %rsp
        ret
loaded: jmp *chosen@GOTPCREL(%rip)
pointer: leaq chosen(%rip), %rax
        ret
    .section .data.rel.ro,"aw"
    .globl table
table:  .quad chosen
"""


@runs_here
def test_an_indirect_function_is_what_its_resolver_returns() -> None:
    """Called directly, through the GOT and by name, the function that the resolver chose runs."""
    library = jitlink.load(assemble(IFUNC))
    try:
        for name in ("direct", "loaded", "chosen"):
            assert library.function(name)() == 42
    finally:
        library.close()


@runs_here
def test_pointers_to_an_indirect_function_are_equal() -> None:
    """Its address, from code, from data and by lookup, is one address: that of its stub."""
    import ctypes

    library = jitlink.load(assemble(IFUNC))
    try:
        taken = ctypes.CFUNCTYPE(ctypes.c_uint64)(library["pointer"].address)()
        in_table = ctypes.c_uint64.from_address(library["table"].address).value
        assert taken == in_table == library["chosen"].address
    finally:
        library.close()


def test_an_image_with_an_indirect_function_is_refused() -> None:
    """Nothing runs in an image, so nothing can choose; the error says so."""
    with pytest.raises(LinkFailure, match="STT_GNU_IFUNC"):
        jitlink.link(assemble(IFUNC), base=BASE)


def test_an_indirect_function_that_is_dropped_is_not_resolved() -> None:
    """A resolver runs only for a function that is part of the link."""
    source = IFUNC.replace(".text", '.section .text.chosen,"ax"')
    source += '.section .text.other,"ax"\n.globl other\nother: ret\n'
    image = jitlink.link(assemble(source), base=BASE, exports=["other"], dead_strip=True)
    indirect = [symbol for symbol in image.graph.symbols if symbol.kind == SymbolKind.IFUNC]
    assert indirect
    assert not any(symbol.block and symbol.block.live for symbol in indirect)

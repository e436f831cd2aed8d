"""What the headers of RISC-V objects say: float ABIs must agree, and other bases are refused."""

from __future__ import annotations

from io import BytesIO

import pytest
from elftools.elf.elffile import ELFFile

import jitlink
from jitlink import LinkFailure, Protection, UnsupportedInput
from jitlink.arches import architecture
from tests.riscv64.objects import BASE, Machine, assembled, contents, words

FLAGS_AT = 48
RVC, SOFT, SINGLE, DOUBLE, QUAD, RVE = 1, 0, 2, 4, 6, 8


def object_with(flags: int, source: str = ".text\nnop") -> bytes:
    content = bytearray(assembled(source))
    assert ELFFile(BytesIO(content))["e_flags"] == RVC | DOUBLE
    content[FLAGS_AT] = flags
    return bytes(content)


@pytest.mark.parametrize(("abi", "name"), [(SOFT, "soft"), (SINGLE, "single"), (QUAD, "quad")])
def test_objects_of_different_float_abis_are_not_linked(abi: int, name: str):
    """The error names both objects and what they are."""
    with pytest.raises(LinkFailure, match=rf"\(bytes\) is double-float, and \(bytes 2\) is {name}-float.*-mabi"):
        jitlink.link(object_with(DOUBLE), object_with(abi), base=BASE)


@pytest.mark.parametrize("abi", [SOFT, SINGLE, DOUBLE, QUAD])
def test_objects_of_one_float_abi_are_linked(abi: int):
    """Whichever it is, and whether they have compressed instructions or not."""
    jitlink.link(object_with(abi), object_with(abi | RVC), base=BASE)


def test_data_has_no_float_abi():
    """An object without code, as objcopy makes of a file, says soft-float and fits any code."""
    jitlink.link(object_with(DOUBLE), object_with(SOFT, ".data\n.quad 1"), base=BASE)


def test_code_for_half_the_registers_is_refused():
    """RVE has another calling convention."""
    with pytest.raises(UnsupportedInput, match="RVE"):
        jitlink.link(object_with(RVE), base=BASE)


def test_code_built_by_hand_fits_any_object():
    """It has no header."""
    graph = jitlink.new_graph("hand", "riscv64")
    text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
    graph.add_symbol("answer", graph.add_block(text, bytes.fromhex("1305a00267800000")))
    content = object_with(DOUBLE)
    for image in (jitlink.link(graph, content, base=BASE), jitlink.link(content, graph, base=BASE)):
        assert Machine(image).call("answer") == 42


def test_a_32_bit_object_is_refused():
    """RV32 objects are of ELF class 32."""
    content = bytearray(object_with(DOUBLE))
    content[4] = 1
    with pytest.raises(UnsupportedInput, match="32-bit"):
        jitlink.link(bytes(content), base=BASE)


def test_the_attributes_section_stays_out_of_the_image():
    """.riscv.attributes tells tools about the object, and is read by nobody at run time."""
    content = assembled('.attribute arch, "rv64gc"\n.text\n.globl start\nstart: ret')
    assert any(section.name == ".riscv.attributes" for section in jitlink.read(content).sections)
    assert list(contents(jitlink.link(content, base=BASE))) == [".text"]


# The stub, and the functions of the static part of C libraries


def test_a_far_function_is_called_through_a_stub():
    """auipc, ld and jr through a GOT entry, as the PLT entries of the psABI, with the link register left alone."""
    image = jitlink.link(assembled(".text\n.globl start\nstart: call far"), base=BASE, define={"far": 1 << 45})
    [stub] = [code for name, (_, code) in contents(image).items() if name == ".stubs"]
    assert [line.split()[0] for line in words(stub)] == ["auipc", "ld", "jr"]


CALLED = """
    .text
    .option norvc
    .globl {real}
{real}:
    slli a0, a0, 4
    add a0, a0, a1
    slli a0, a0, 4
    add a0, a0, a2
    slli a0, a0, 4
    add a0, a0, a3
    slli a0, a0, 4
    add a0, a0, a4
    ret
    .globl start
start:
    tail {name}
"""


REAL_NAMES = {"stat": "__xstat", "lstat": "__lxstat", "fstat": "__fxstat", "fstatat": "__fxstatat"}
REAL_NAMES |= {f"{name}64": f"{real}64" for name, real in REAL_NAMES.items()}


@pytest.mark.parametrize("name", REAL_NAMES)
def test_the_stat_family_passes_a_version_on(name: str):
    """Version 0 comes first, and every argument moves one register on (glibc before 2.33)."""
    source = CALLED.format(real=REAL_NAMES[name], name=name)
    result = Machine(jitlink.link(assembled(source), base=BASE)).call("start", 1, 2, 3, 4)
    assert f"{result:05x}".startswith("01234" if name.startswith("fstatat") else "012")


@pytest.mark.parametrize(("name", "spilt"), [("mknod", 3), ("mknodat", 4)])
def test_mknod_passes_its_device_by_address(name: str, spilt: int):
    """The device number is on the stack, and the real function gets a pointer to it."""
    source = CALLED.format(real=f"__x{name}", name=name)
    source = source.replace(f"add a0, a0, a{spilt}", f"ld a{spilt}, 0(a{spilt})\nadd a0, a0, a{spilt}")
    machine = Machine(jitlink.link(assembled(source), base=BASE))
    arguments = list(range(1, spilt + 1))
    assert f"{machine.call('start', *arguments):05x}".startswith("0" + "".join(map(str, arguments)))


@pytest.mark.parametrize(
    ("name", "real", "register"),
    [
        ("atexit", "__cxa_atexit", 2),
        ("at_quick_exit", "__cxa_at_quick_exit", 1),
        ("pthread_atfork", "__register_atfork", 3),
    ],
)
def test_handlers_are_registered_with_the_handle_of_their_dylib(name: str, real: str, register: int):
    """__dso_handle goes where the real function takes it, behind the arguments that were given."""
    source = (
        f".text\n.globl {real}, start\n{real}: mv a0, a{register}\nret\nstart: tail {name}\n.data\n.quad __dso_handle"
    )
    image = jitlink.link(assembled(source), base=BASE)
    handle = Machine(image).call("start", 5, 6, 7)
    assert int.from_bytes(image.read(handle, 8), "little") == handle


def test_the_architecture_is_found_by_name_and_by_machine():
    """As platform.machine() says it, and as the header of an object does."""
    assert architecture("riscv64").elf_machine == 243
    assert jitlink.read(assembled(".text\nnop")).target is architecture("riscv64")

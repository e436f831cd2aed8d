"""Symbols that the linker defines: bounds, the GOT, the handle of the dylib, and static C functions.

Each is defined only where something refers to it and no input does (GNU ld: PROVIDE).
"""

from __future__ import annotations

import struct

import pytest

import jitlink
from jitlink import Image, Protection, UndefinedSymbols
from jitlink.graph import LinkGraph, Scope
from tests.toolchain import assemble

BASE = 0x2345_6000
CODE = Protection.READ | Protection.EXECUTE
DATA = Protection.READ | Protection.WRITE


def pointers(*names: str, weak: bool = False) -> str:
    """Assembly of a table of pointers to names, with a symbol `to_NAME` for each."""
    declared = "".join(f".weak {name}\n" for name in names if weak)
    return (
        declared
        + '.section .data.pointers,"aw"\n'
        + "".join(f".globl to_{name}\nto_{name}: .quad {name}\n" for name in names)
    )


def address(image: Image, name: str) -> int:
    """What the pointer to a name holds."""
    return int.from_bytes(image.read(image.address_of(f"to_{name}"), 8), "little")


SETS = """
    .section plugins,"aw",@progbits
    .ascii "{0}"
    .section .rodata,"a"
    .byte 0
"""


def test_start_and_stop_enclose_the_sections_of_a_name() -> None:
    """__start_NAME and __stop_NAME bound all sections of that name, in input order and without others between."""
    parts = [assemble(SETS.format(word) + '.section more,"a"\n.byte 9\n') for word in ("one", "three", "x")]
    image = jitlink.link(*parts, assemble(pointers("__start_plugins", "__stop_plugins")), base=BASE)
    start, stop = address(image, "__start_plugins"), address(image, "__stop_plugins")
    assert image.read(start, stop - start) == b"onethreex"


def test_bounds_of_a_set_keep_the_alignment_of_its_sections() -> None:
    """Members are aligned as they ask, so that a table of structures has no holes of another size."""
    member = '.section table,"a",@progbits\n.p2align 4\n.quad {}, 0\n'
    parts = [assemble(member.format(number)) for number in (1, 2, 3)]
    image = jitlink.link(*parts, assemble(pointers("__start_table", "__stop_table")), base=BASE)
    start, stop = address(image, "__start_table"), address(image, "__stop_table")
    assert start % 16 == 0
    assert struct.unpack("<6Q", image.read(start, stop - start)) == (1, 0, 2, 0, 3, 0)


def test_bounds_of_a_set_that_is_not_there() -> None:
    """A weak reference to them is 0, as GNU ld has it, and a strong one is undefined."""
    image = jitlink.link(assemble(pointers("__start_nowhere", "__stop_nowhere", weak=True)), base=BASE)
    assert (address(image, "__start_nowhere"), address(image, "__stop_nowhere")) == (0, 0)
    with pytest.raises(UndefinedSymbols, match="__start_nowhere"):
        jitlink.link(assemble(pointers("__start_nowhere")), base=BASE)


def test_a_section_whose_name_is_no_c_identifier_has_no_bounds() -> None:
    """__start_.text cannot be written in C, and is not defined."""
    source = '.section .odd,"a"\n.byte 1\n.data\n.quad "__start_.odd"\n'
    with pytest.raises(UndefinedSymbols, match=r"__start_\.odd"):
        jitlink.link(assemble(source), base=BASE)


def test_an_input_may_define_a_linker_symbol_itself() -> None:
    """What an input defines is taken, as PROVIDE has it."""
    source = ".globl end, __start_plugins\nend = 0x11\n__start_plugins = 0x22\n" + SETS.format("one")
    image = jitlink.link(assemble(source), assemble(pointers("end", "__start_plugins")), base=BASE)
    assert (address(image, "end"), address(image, "__start_plugins")) == (0x11, 0x22)


def test_the_image_is_bounded() -> None:
    """__ehdr_start and __executable_start are its base; end is behind everything, zero-fill included."""
    names = ("__ehdr_start", "__executable_start", "end", "_end", "etext", "_etext", "edata", "_edata", "__bss_start")
    sections = ".text\n.space 33, 0x90\n.data\n.space 50, 1\n.bss\n.globl zeroes\nzeroes: .space 5000\n"
    image = jitlink.link(assemble(sections + pointers(*names)), base=BASE)
    found = {name: address(image, name) for name in names}
    assert found["__ehdr_start"] == found["__executable_start"] == BASE
    text, data = (next(each for each in image.segments if each.protection == wanted) for wanted in (CODE, DATA))
    assert found["etext"] == found["_etext"] == text.address + len(text.content) >= text.address + 33
    assert found["edata"] == found["_edata"] == found["__bss_start"] == data.address + len(data.content)
    assert found["__bss_start"] <= image.address_of("zeroes")
    assert found["end"] == found["_end"] == data.address + data.size
    assert found["end"] >= image.address_of("zeroes") + 5000


@pytest.mark.parametrize(
    ("section", "kind", "bound"),
    [
        (".init_array", "@init_array", "__init_array"),
        (".fini_array", "@fini_array", "__fini_array"),
        (".preinit_array", "@preinit_array", "__preinit_array"),
    ],
)
def test_arrays_of_initialisers_are_bounded(section: str, kind: str, bound: str) -> None:
    """__init_array_start and its like enclose all arrays of the kind (gABI, Initialization and Termination)."""
    array = f'.section {section},"aw",{kind}\n.quad {{}}\n'
    parts = [assemble(array.format(value)) for value in (0x111, 0x222)]
    image = jitlink.link(*parts, assemble(pointers(f"{bound}_start", f"{bound}_end")), base=BASE)
    start, end = address(image, f"{bound}_start"), address(image, f"{bound}_end")
    assert struct.unpack("<2Q", image.read(start, end - start)) == (0x111, 0x222)


def test_empty_arrays_have_equal_bounds() -> None:
    """A loop from __init_array_start to __init_array_end over no initialisers does nothing."""
    image = jitlink.link(assemble(pointers("__init_array_start", "__init_array_end")), base=BASE)
    assert address(image, "__init_array_start") == address(image, "__init_array_end")


def test_the_got_has_a_name() -> None:
    """GOTPC32 to _GLOBAL_OFFSET_TABLE_ and GOTOFF64 together give the address of a datum (psABI 4.4.1)."""
    source = """
        .data
        .globl datum, first, second
datum:  .quad 77
first:  .reloc ., R_X86_64_GOTPC32, _GLOBAL_OFFSET_TABLE_
        .long 0
second: .reloc ., R_X86_64_GOTOFF64, datum
        .quad 0
        .quad _GLOBAL_OFFSET_TABLE_
        .reloc ., R_X86_64_GOT64, datum
        .quad 0
    """
    image = jitlink.link(assemble(source), base=BASE)
    first = image.address_of("first")
    got = first + int.from_bytes(image.read(first, 4), "little", signed=True)
    offset, named, slot = struct.unpack("<qQq", image.read(image.address_of("second"), 24))
    assert named == got
    assert got + offset == image.address_of("datum")
    assert int.from_bytes(image.read(got + slot, 8), "little") == image.address_of("datum")


def test_the_handle_of_a_dylib_points_at_itself() -> None:
    """__dso_handle is an address inside the dylib (Itanium C++ ABI 3.3.6); here, a pointer to itself."""
    image = jitlink.link(assemble(pointers("__dso_handle")), base=BASE)
    handle = address(image, "__dso_handle")
    assert BASE <= handle < BASE + image.size
    assert int.from_bytes(image.read(handle, 8), "little") == handle
    assert "__dso_handle" not in image.symbols()


def handle_graph(name: str) -> LinkGraph:
    """A graph with a function that returns __dso_handle: mov handle@GOTPCREL(%rip), %rax; ret."""
    graph = jitlink.new_graph(name, "x86_64")
    block = graph.add_block(graph.add_section(".text", CODE), bytes.fromhex("488b0500000000c3"))
    graph.add_symbol(name, block)
    graph.add_edge(block, 3, "R_X86_64_REX_GOTPCRELX", graph.add_symbol("__dso_handle", scope=Scope.HIDDEN), -4)
    return graph


def test_a_dylib_has_one_handle_and_another_dylib_another() -> None:
    """All links of a dylib share its __dso_handle, so that closing it runs the handlers of all of them."""
    import ctypes

    def handle(dylib: jitlink.Dylib, name: str) -> int:
        dylib.add(handle_graph(name))
        function = ctypes.CFUNCTYPE(ctypes.c_uint64)(dylib[name].address)
        return int(function())

    with jitlink.Session() as session:
        first, second = session.dylib("first"), session.dylib("second")
        handles = [handle(first, "a"), handle(first, "b"), handle(second, "a")]
        assert handles[0] == handles[1]
        assert handles[0] != handles[2]


def test_static_c_functions_are_added_where_they_are_called() -> None:
    """atexit binds a handler to the dylib: it loads __dso_handle and goes on to __cxa_atexit."""
    source = ".text\n.globl register\nregister: jmp atexit@PLT\n"
    image = jitlink.link(assemble(source), base=BASE, define={"__cxa_atexit": BASE + 0x10_0000})
    at = image.address_of("register")
    routine = at + 5 + int.from_bytes(image.read(at + 1, 4), "little", signed=True)
    code = image.read(routine, 14)
    assert code[:3].hex() == "488d15"
    handle = routine + 7 + int.from_bytes(code[3:7], "little", signed=True)
    assert int.from_bytes(image.read(handle, 8), "little") == handle
    assert code[7:10].hex() == "31f6e9"
    assert routine + 14 + int.from_bytes(code[10:14], "little", signed=True) == BASE + 0x10_0000
    assert "atexit" not in image.symbols()


def test_linker_symbols_are_not_exported() -> None:
    """Every dylib has its own bounds and its own handle: another dylib is never given those of this one."""
    names = ("end", "_GLOBAL_OFFSET_TABLE_", "__start_plugins", "__dso_handle", "__init_array_start")
    image = jitlink.link(assemble(SETS.format("one") + pointers(*names)), base=BASE)
    assert sorted(image.symbols()) == sorted(f"to_{name}" for name in names)
    assert image.address_of("end") == address(image, "end")


def test_linker_symbols_that_nobody_asks_for_are_not_there() -> None:
    """Without a reference there is no handle, no GOT and no routine: the image holds its input alone."""
    image = jitlink.link(assemble(".data\n.globl datum\ndatum: .quad 1\n"), base=BASE)
    assert image.symbols() == {"datum": image.address_of("datum")}
    assert [block.section.name for block in image.graph.blocks if block.live and block.size] == [".data"]

"""Which functions run on load and on close, and in which order.

Sources: gABI, Initialization and Termination Functions; GNU ld, SORT_BY_INIT_PRIORITY; GCC, crtstuff.c.
"""

from __future__ import annotations

import platform
import sys

import pytest

import jitlink
from jitlink.layout import lay_out
from jitlink.passes.initialisers import LifeCycle, life_cycle
from tests.toolchain import assemble

BASE = 0x2345_6000


def array(name: str, *values: int) -> str:
    """Assembly of an array of initialisers or finalisers, whose "functions" are numbers."""
    kinds = {".init_array": "@init_array", ".fini_array": "@fini_array", ".preinit_array": "@preinit_array"}
    kind = next((kind for prefix, kind in kinds.items() if name.startswith(prefix)), "@progbits")
    return f'.section {name},"aw",{kind}\n' + "".join(f".quad {value}\n" for value in values)


def cycle_of(*sources: str) -> LifeCycle:
    """The life cycle of objects that hold these arrays."""
    graph = jitlink.link(*(assemble(source) for source in sources), base=BASE).graph
    layout = lay_out(graph, 4096)
    image = bytearray(layout.filled)
    for row in range(1, len(graph.blocks)):
        start = int(layout.position[row])
        image[start : start + int(graph.blocks.size[row])] = graph.content_of(row)
    return life_cycle(graph, layout, memoryview(bytes(image)))


def test_initialisers_run_by_priority_and_then_in_input_order() -> None:
    """.init_array.N by rising N, then plain .init_array, each in the order of the inputs (GNU ld)."""
    first = array(".init_array", 10, 11) + array(".init_array.00200", 5) + array(".init_array.65535", 8)
    second = array(".init_array.00100", 3) + array(".init_array", 12) + array(".init_array.00200", 6)
    assert cycle_of(first, second).initialisers == [3, 5, 6, 8, 10, 11, 12]


def test_preinit_arrays_come_before_all_others() -> None:
    """The functions of .preinit_array run before those of .init_array (gABI)."""
    source = array(".init_array.00001", 7) + array(".preinit_array", 1, 2) + array(".ctors.65535", 5)
    assert cycle_of(source).initialisers[:2] == [1, 2]


def test_finalisers_run_in_the_opposite_order() -> None:
    """.fini_array is run from its end, and the first to be initialised is the last to be finalised (gABI)."""
    first = array(".fini_array", 10, 11) + array(".fini_array.00200", 5)
    second = array(".fini_array.00100", 3) + array(".fini_array", 12)
    assert cycle_of(first, second).finalisers == [12, 11, 10, 5, 3]


def test_old_constructors_count_the_other_way_round() -> None:
    """.ctors.N has priority 65535 - N, and each .ctors is run from its end (crtstuff.c)."""
    source = array(".ctors", 21, 20) + array(".ctors.65435", 4) + array(".ctors.65433", 6)
    source += array(".init_array.00101", 5)
    assert cycle_of(source).initialisers == [4, 5, 6, 20, 21]


def test_old_destructors_run_from_the_start() -> None:
    """.dtors is run forwards: what was constructed last is destroyed first."""
    assert cycle_of(array(".dtors", 30, 31)).finalisers == [30, 31]


def test_the_brackets_of_start_files_are_no_functions() -> None:
    """crtbegin.o puts -1 before .ctors and crtend.o puts 0 behind it; neither is called."""
    source = array(".ctors", -1, 9, 8, 0) + array(".init_array", 0, 7, -1) + array(".dtors", -1, 1, 0)
    cycle = cycle_of(source)
    assert sorted(cycle.initialisers) == [7, 8, 9]
    assert cycle.finalisers == [1]


def test_a_name_without_a_number_has_no_priority() -> None:
    """.init_array.rest is an array like any other: what stands behind the point is no number."""
    source = array(".init_array.rest", 2) + array(".init_array.00009", 1)
    assert cycle_of(source).initialisers == [1, 2]


def test_a_section_whose_name_goes_on_is_no_array() -> None:
    """.ctorsomething is data, and so is .init_arrays."""
    source = array(".ctorsomething", 1) + '.section .init_arrays,"aw",@progbits\n.quad 2\n'
    assert cycle_of(source).initialisers == []


def test_an_array_of_broken_size_holds_its_whole_pointers() -> None:
    """Bytes at the end that make no pointer are not read as one."""
    assert cycle_of(array(".init_array", 3) + ".long 1\n").initialisers == [3]


def test_an_image_tells_its_initialisers() -> None:
    """The addresses in the arrays are those after fixups."""
    source = ".text\n.globl begin\nbegin: ret\n" + '.section .init_array,"aw",@init_array\n.quad begin\n'
    image = jitlink.link(assemble(source), base=BASE)
    assert image.initialisers == [image.address_of("begin")]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="x86-64 code runs on x86-64 Linux only"
)
def test_initialisers_run_on_load_and_finalisers_on_close() -> None:
    """Each once and in order: what ran is read from memory that outlives the dylib."""
    import ctypes

    outside = ctypes.create_string_buffer(64)
    count = ctypes.c_uint64(0)
    functions, arrays = "", ""
    for number, section in enumerate((".init_array", ".init_array.00005", ".fini_array", ".preinit_array")):
        functions += f"f{number}: movl ${ord('0') + number}, %edi\n jmp note\n"
        arrays += array(section) + f".quad f{number}\n"
    code = """
        .text
note:   movq count@GOTPCREL(%rip), %rdx
        movq log@GOTPCREL(%rip), %rcx
        movq (%rdx), %rax
        movb %dil, (%rcx,%rax)
        incq (%rdx)
        ret
    """
    define = {"log": ctypes.addressof(outside), "count": ctypes.addressof(count)}
    library = jitlink.load(assemble(code + functions + arrays), define=define)
    assert outside.value == b"310"
    library.close()
    assert outside.value == b"3102"
    assert count.value == 4

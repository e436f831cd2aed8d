"""Inputs of every sort, linked into the process and called."""

from __future__ import annotations

import ctypes

import pytest

import jitlink
from jitlink import Protection
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")


def test_a_graph_built_by_hand_is_callable():
    """Six bytes of machine code, put into a link graph, return 48."""
    graph = jitlink.new_graph("answer")
    text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
    graph.add_symbol("answer", graph.add_block(text, bytes.fromhex("b830000000c3")))  # mov $48, %eax; ret
    with jitlink.load(graph) as library:
        assert library.function("answer")() == 48


def test_a_graph_can_be_loaded_more_than_once():
    """Linking a graph that the caller holds leaves it as it was."""
    graph = jitlink.new_graph("twice")
    text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
    data = graph.add_section(".data", Protection.READ | Protection.WRITE)
    block = graph.add_block(text, bytes.fromhex("8b0500000000c3"))  # mov number(%rip), %eax; ret
    number = graph.add_symbol("number", graph.add_block(data, (7).to_bytes(4, "little")))
    graph.add_symbol("read_number", block)
    graph.add_edge(block, 2, "R_X86_64_PC32", number, -4)
    with jitlink.load(graph) as first, jitlink.load(graph) as second:
        ctypes.c_int.from_address(first["number"].address).value = 8
        assert (first.function("read_number")(), second.function("read_number")()) == (8, 7)


def test_inputs_may_be_paths_bytes_and_graphs_at_once(tmp_path):
    """A path, bytes and a link graph are linked into one library."""
    path = tmp_path / "first"  # without a suffix: content decides
    path.write_bytes(toolchain.zig_cc("int second(void); int first(void) { return second() + 1; }"))
    second = toolchain.zig_cc("int third(void); int second(void) { return third() * 2; }")
    third = jitlink.read(toolchain.zig_cc("int third(void) { return 20; }"))
    for source in (path, str(path)):
        with jitlink.load(source, second, third) as library:
            assert library.function("first")() == 41


def test_a_buffer_is_copied():
    """What happens to a bytearray after it was given does not reach the linked code."""
    content = bytearray(toolchain.zig_cc("int answer(void) { return 42; }"))
    with jitlink.Session() as session:
        dylib = session.dylib("main").add(memoryview(content))
        content[:] = bytes(len(content))
        assert dylib["answer"].ctypes(ctypes.c_int)() == 42

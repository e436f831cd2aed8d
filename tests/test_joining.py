"""Joining puts several graphs into one, and leaves each of them as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import jitlink
from jitlink import LinkGraph, Protection
from jitlink.arches import architecture
from jitlink.errors import UnsupportedInput
from jitlink.formats.batch import Batch
from jitlink.formats.elf import read_elf
from jitlink.graph import PADDING, TABLES, Definition, SymbolKind
from jitlink.joining import join
from tests.toolchain import assemble

CODE = Protection.READ | Protection.EXECUTE
CALL = bytes.fromhex("e800000000c3")
BASE = 0x2345_6000


def caller(name: str, callee: str) -> LinkGraph:
    """A graph with one function, which calls another one by name."""
    graph = jitlink.new_graph(f"{name}.graph", "x86_64")
    block = graph.add_block(graph.add_section(f".text.{name}", CODE), CALL)
    graph.add_symbol(name, block)
    graph.add_edge(block, 1, "R_X86_64_PLT32", graph.add_symbol(callee), -4)
    return graph


def described(graph: LinkGraph) -> list[tuple[object, ...]]:
    """What a graph says, in names and contents instead of rows and positions."""
    blocks = [(block.input, block.section.name, block.content, block.alignment) for block in graph.blocks]
    symbols = [
        (symbol.name, symbol.block.content if symbol.block else None, symbol.offset, symbol.definition, symbol.scope)
        for symbol in graph.symbols
    ]
    edges = [
        (edge.block.section.name, edge.block.input, edge.offset, edge.kind, edge.target.name, edge.addend)
        for edge in graph.edges
    ]
    groups = [(group.signature.name, group.read("comdat")) for group in graph.groups]
    return [*blocks, *symbols, *edges, *groups]


OBJECT = """
    .section .text.inline,"axG",@progbits,inline,comdat
    .weak inline
inline: jmp other@PLT
    .section .ordered,"ao",@progbits,.text.inline
    .quad inline
    .comm shared, 24, 8
    .globl number
    number = 0x1234
"""


def test_a_joined_graph_says_what_its_parts_say() -> None:
    """Every row of every part is there, in order, and still refers to what it referred to."""
    parts = [caller("a", "b"), jitlink.read(assemble(OBJECT)), caller("c", "inline"), caller("d", "a")]
    said = [described(part) for part in parts]
    joined = join(parts)
    rows = [row for part in said for row in part]
    assert sorted(map(repr, described(joined))) == sorted(map(repr, rows))
    for table in TABLES:
        assert len(getattr(joined, table)) == 1 + sum(len(getattr(part, table)) - 1 for part in parts)
    assert [described(part) for part in parts] == said


def test_references_between_rows_move_with_them() -> None:
    """Section groups and SHF_LINK_ORDER refer to rows, and still refer to the right ones behind other rows."""
    joined = join([caller("a", "b"), jitlink.read(assemble(OBJECT))])
    ordered = next(block for block in joined.blocks if block.section.name == ".ordered")
    assert joined.blocks[ordered.read("follows")].section.name == ".text.inline"
    inline = joined.symbols["inline"].block
    assert inline is not None
    assert joined.groups[inline.read("group")].signature.name == "inline"


def test_the_null_row_stays_the_null_row() -> None:
    """A reference to nothing is still one: it does not move with the other rows."""
    first, second = caller("a", "b"), caller("c", "d")
    second.edges.target[1] = 0
    joined = join([first, second])
    assert [edge.read("target") for edge in joined.edges] == [2, 0]
    assert joined.symbols["d"].block is None
    assert joined.blocks.group.tolist() == [0, 0, 0]


def test_joining_copies_a_single_graph() -> None:
    """The result shares no column with its part, so that a link may change it."""
    graph = caller("a", "b")
    joined = join([graph])
    assert described(joined) == described(graph)
    for table in TABLES:
        for name in getattr(graph, table).declarations:
            ours, theirs = getattr(getattr(joined, table), name), getattr(getattr(graph, table), name)
            assert not np.shares_memory(ours, theirs), f"{table}.{name}"


def test_graphs_of_one_pool_share_it() -> None:
    """Two graphs over one buffer put it into the joined graph once."""
    first = jitlink.read(assemble(OBJECT))
    second = LinkGraph(first.target, first.pool, ["again"])
    joined = join([first, second])
    assert len(joined.pool) == len(first.pool)
    assert joined.inputs == ["(linker)", *first.inputs[1:], "again"]


def test_names_are_found_in_whatever_order_graphs_share_a_pool() -> None:
    """Members of an archive are read round by round: graphs of one pool come in any order."""
    contents = [assemble("".join(f".globl {name}{row}\n.quad {name}{row}\n" for row in range(40))) for name in "abc"]
    pool = np.frombuffer(b"".join(contents) + bytes(PADDING), np.uint8)
    ends = np.cumsum([len(content) for content in contents])
    graphs = []
    for number in (2, 0, 1):
        size = len(contents[number])
        place = Batch(pool, ["abc"[number]], np.array([ends[number] - size]), np.array([size]))
        graphs.append(read_elf(place, architecture("x86_64")))
    joined = join(graphs)
    names = joined.names_at(joined.symbols.name)
    assert [name.decode() for name in names] == [joined.name_at(at) for at in joined.symbols.name.tolist()]
    assert {f"{name}{row}".encode() for name in "abc" for row in range(40)} <= set(names)


def test_a_graph_of_another_machine_is_refused() -> None:
    """One image has one machine: the error names the input and both machines."""
    other = LinkGraph(replace(architecture("x86_64"), name="another"), name="other.graph")
    with pytest.raises(UnsupportedInput, match=r"other\.graph: an object for another in a link for x86_64"):
        join([caller("a", "b"), other])


def test_graphs_and_objects_call_each_other() -> None:
    """A graph by hand, an object and another graph are one link: names mean the same in all of them."""
    image = jitlink.link(caller("a", "inline"), assemble(OBJECT), caller("other", "a"), base=BASE)
    for name, callee in (("a", "inline"), ("other", "a")):
        at = image.address_of(name)
        assert at + 5 + int.from_bytes(image.read(at + 1, 4), "little", signed=True) == image.address_of(callee)
    assert image.address_of("number") == 0x1234


def test_a_link_of_many_graphs_keeps_their_content_apart() -> None:
    """Content that was added by hand moves by its own graph's shift, whatever comes before it."""
    graphs = []
    for number in range(30):
        graph = jitlink.new_graph(f"g{number}", "x86_64")
        block = graph.add_block(graph.add_section(".rodata"), bytes([number]) * (number + 1), alignment=1)
        graph.add_symbol(f"s{number}", block, size=number + 1, kind=SymbolKind.OBJECT)
        graphs.append(graph)
    graphs.insert(7, jitlink.read(assemble(OBJECT)))
    graphs[7].symbols.definition[graphs[7].symbols["other"].row] = Definition.ABSOLUTE
    image = jitlink.link(*graphs, base=BASE)
    for number in range(30):
        assert image.read(image.address_of(f"s{number}"), number + 1) == bytes([number]) * (number + 1)

"""The link graph: built by hand, asked by row views, and changed by the passes of a caller."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitlink
from jitlink import LinkGraph, Protection
from jitlink.columns import starts_of
from jitlink.graph import NO_NAME, PADDING, Definition, Lifetime, Linkage, Purpose, Scope, SymbolKind
from jitlink.linker import STAGES

CODE = Protection.READ | Protection.EXECUTE
BASE = 0x2345_6000
CALL = bytes.fromhex("e800000000c3")
TEXTS = st.lists(st.binary(min_size=1, max_size=5).map(lambda raw: raw.replace(b"\0", b".")), min_size=1, max_size=8)


def caller_and_callees() -> LinkGraph:
    """main calls first; second is there too, and nothing calls it."""
    graph = jitlink.new_graph("example", "x86_64")
    text = graph.add_section(".text", CODE)
    main, first, second = (
        graph.add_block(text, CALL),
        graph.add_block(text, b"\xc3"),
        graph.add_block(text, b"\x90\xc3"),
    )
    graph.add_symbol("main", main, size=len(CALL), kind=SymbolKind.FUNCTION)
    target = graph.add_symbol("first", first)
    graph.add_symbol("second", second)
    graph.add_edge(main, 1, "R_X86_64_PLT32", target, -4)
    return graph


def called_address(image: jitlink.Image) -> int:
    """Where the call of main goes: rel32 counts from the end of the instruction."""
    at = image.address_of("main")
    return at + 5 + int.from_bytes(image.read(at + 1, 4), "little", signed=True)


def test_the_graph_is_walked_as_objects() -> None:
    """From a name to its block, the edges of that, their targets, and back to the section and input."""
    graph = caller_and_callees()
    main = graph.symbols["main"]
    assert main.block is not None
    assert main.block.edges[0].target.name == "first"
    assert main.block.edges[0].block == main.block
    assert (main.block.edges[0].offset, main.block.edges[0].addend) == (1, -4)
    assert [symbol.name for symbol in main.block.symbols] == ["main"]
    assert (main.block.section.name, main.block.section.protection) == (".text", CODE)
    assert main.block.section.blocks[0] == main.block
    assert (main.block.input, main.block.content, main.block.size, main.block.alignment) == ("example", CALL, 6, 16)
    assert (main.linkage, main.scope, main.definition) == (Linkage.STRONG, Scope.DEFAULT, Definition.DEFINED)
    assert (main.kind, main.size, main.offset) == (SymbolKind.FUNCTION, 6, 0)
    assert [symbol.name for symbol in graph.defined()] == ["main", "first", "second"]


def test_rows_print_as_a_linker_would_say_them() -> None:
    """The views and the graph name what they show."""
    graph = caller_and_callees()
    graph.add_symbol("memcpy", linkage=Linkage.WEAK)
    assert repr(graph.symbols["memcpy"]) == "<symbol 4 'memcpy' undefined weak default>"
    assert repr(graph.sections[1]) == "<section 1 '.text' r-x of example>"
    assert repr(graph.blocks[1]) == "<block 1 of '.text' 6 bytes>"
    assert "R_X86_64_PLT32" in repr(graph.edges[1])
    assert "first" in repr(graph.edges[1])
    assert repr(graph) == "<link graph for x86_64 of 1 inputs: 1 sections, 3 blocks, 4 symbols, 1 edges>"


def test_a_definition_is_found_before_a_reference() -> None:
    """A name that is referred to and defined is the definition; a name that is nowhere is a KeyError."""
    graph = jitlink.new_graph("g", "x86_64")
    graph.add_symbol("f")
    block = graph.add_block(graph.add_section(".text", CODE), b"\xc3")
    defined = graph.add_symbol("f", block)
    assert graph.symbols["f"].row == defined
    assert graph.symbols[1].block is None
    with pytest.raises(KeyError, match="nowhere"):
        graph.symbols["nowhere"]


def test_a_block_of_zeroes_needs_no_content() -> None:
    """A block that is given as a number is zero-fill of that size."""
    graph = jitlink.new_graph("g", "x86_64")
    block = graph.add_block(graph.add_section(".bss", Protection.READ | Protection.WRITE), 1000, alignment=64)
    assert graph.blocks[block].zero_fill
    assert (graph.blocks[block].size, graph.blocks[block].content) == (1000, bytes(1000))
    assert not graph.added


@pytest.mark.parametrize("alignment", [0, 3, -8, 24])
def test_an_alignment_is_a_power_of_two(alignment: int) -> None:
    """Any other alignment is refused where it is given."""
    graph = jitlink.new_graph("g", "x86_64")
    section = graph.add_section(".text", CODE)
    with pytest.raises(ValueError, match="not a power of two"):
        graph.add_block(section, b"", alignment=alignment)


def test_an_edge_needs_a_kind_that_the_machine_has() -> None:
    """Kinds are named as the ABI names them; another machine's kind is a KeyError."""
    graph = caller_and_callees()
    with pytest.raises(KeyError, match="R_AARCH64_CALL26"):
        graph.add_edge(1, 0, "R_AARCH64_CALL26", 1)


def test_names_keep_bytes_that_are_not_utf8() -> None:
    """A name comes back as it was given: surrogate escapes stand for bytes that are not UTF-8."""
    graph = jitlink.new_graph("g", "x86_64")
    position = graph.add_name(b"caf\xe9")
    assert graph.raw_name_at(position) == b"caf\xe9"
    assert graph.name_at(position) == "caf\udce9"
    block = graph.add_block(graph.add_section(".text", CODE), b"\xc3")
    graph.add_symbol("caf\udce9", block)
    assert graph.symbols["caf\udce9"].name.encode(errors="surrogateescape") == b"caf\xe9"


@given(TEXTS, TEXTS, st.data())
def test_many_names_are_read_as_each_would_be(first: list[bytes], second: list[bytes], data: st.DataObject) -> None:
    """Reading many positions in one step gives what reading each gives, also inside and behind a name.

    Assemblers let one name be the tail of another, so that any byte of a table may start a name.
    """
    tables = [b"\0".join((b"", *names, b"")) for names in (first, second)]
    gap = data.draw(st.integers(0, 3))
    pool = b"\xff" * 5 + tables[0] + b"\xff" * gap + tables[1] + bytes(PADDING)
    starts = [5, 5 + len(tables[0]) + gap]
    graph = LinkGraph(caller_and_callees().target, np.frombuffer(pool, np.uint8))
    graph.string_tables = (np.array(starts), np.array([len(table) for table in tables]))
    own = graph.add_name("own")
    inside = st.one_of(
        [st.integers(start, start + len(table) - 1) for start, table in zip(starts, tables, strict=True)]
        + [st.sampled_from([NO_NAME, own])]
    )
    positions = data.draw(st.lists(inside, min_size=0, max_size=60))
    expected = [b"" if at == NO_NAME else b"own" if at == own else pool[at : pool.index(b"\0", at)] for at in positions]
    assert graph.names_at(np.array(positions, np.int64)) == expected
    assert [graph.raw_name_at(position) for position in positions] == expected


def test_a_name_may_be_longer_than_any_first_look() -> None:
    """C++ names of tens of thousands of bytes are read whole."""
    long = b"_Z" + b"x" * 50_000
    graph = LinkGraph(caller_and_callees().target, np.frombuffer(long + b"\0", np.uint8))
    assert graph.raw_name_at(0) == long


def test_names_that_share_bytes_out_of_proportion_are_refused() -> None:
    """A small table in which every byte starts a name that is wanted must not become gigabytes of names."""
    size = 10_000
    graph = LinkGraph(caller_and_callees().target, np.frombuffer(b"x" * size + bytes(1 + PADDING), np.uint8))
    graph.string_tables = (np.array([0]), np.array([size + 1]))
    assert len(graph.names_at(np.arange(0, size, 100))) == size // 100
    with pytest.raises(jitlink.MalformedInput, match="share"):
        graph.names_at(np.arange(size))


def test_settling_moves_added_content_into_the_pool() -> None:
    """Positions stay what they were, and content that is added afterwards goes behind."""
    graph = caller_and_callees()
    before = [block.content for block in graph.blocks]
    graph.settle()
    later = graph.add_block(1, b"later")
    assert [block.content for block in graph.blocks] == [*before, b"later"]
    graph.settle()
    assert graph.blocks[later].content == b"later"


def test_edges_are_sorted_by_block_and_keep_their_order_inside_it() -> None:
    """sort_edges puts edges where the views of their blocks look for them, and keeps pairs in order."""
    graph = caller_and_callees()
    first, main = graph.symbols["first"], graph.symbols["main"]
    assert first.block is not None
    graph.add_edge(first.block.row, 0, "R_X86_64_NONE", main.row, 1)
    graph.add_edge(1, 2, "R_X86_64_NONE", main.row, 2)
    graph.add_edge(1, 1, "R_X86_64_NONE", main.row, 3)
    graph.sort_edges()
    assert all(before <= after for before, after in pairwise(graph.edges.block.tolist()))
    assert [edge.addend for edge in graph.blocks[1].edges] == [-4, 2, 3]
    assert [edge.addend for edge in graph.blocks[first.block.row].edges] == [1]


def test_a_view_of_an_edge_goes_stale_when_edges_are_sorted() -> None:
    """The message of a stale view names the pass that moved the rows."""
    graph = caller_and_callees()
    first = graph.symbols["first"]
    graph.add_edge(first.block.row if first.block else 0, 0, "R_X86_64_NONE", 1)
    graph.add_edge(1, 5, "R_X86_64_NONE", 1)
    view = graph.edges[3]
    graph.sort_edges()
    with pytest.raises(RuntimeError, match="sort_edges moved the rows"):
        view.target  # noqa: B018


def test_pieces_are_blocks_of_one_content_with_a_symbol_and_edges_each() -> None:
    """add_pieces makes what stubs and GOT entries are: equal content, own symbol, own target."""
    graph = caller_and_callees()
    section = graph.add_section(".got", lifetime=Lifetime.STANDARD, purpose=Purpose.ORDINARY)
    targets = np.array([graph.symbols["first"].row, graph.symbols["second"].row])
    made = graph.add_pieces(section, bytes(8), 2, [(0, "R_X86_64_64", targets, 5)], alignment=8)
    for symbol_row, target in zip(made.tolist(), targets.tolist(), strict=True):
        block = graph.symbols[symbol_row].block
        assert block is not None
        assert (block.content, block.alignment, graph.symbols[symbol_row].scope) == (bytes(8), 8, Scope.LOCAL)
        assert [(edge.target.row, edge.addend) for edge in block.edges] == [(target, 5)]


def test_a_graph_is_linked_as_it_is_and_stays_as_it_was() -> None:
    """Linking works on a copy: the caller's graph has no addresses afterwards and can be linked again."""
    graph = caller_and_callees()
    image = jitlink.link(graph, base=BASE)
    assert called_address(image) == image.address_of("first")
    assert not graph.blocks.address.any()
    assert jitlink.link(graph, base=BASE).to_bytes() == image.to_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_a_user_pass_runs_at_its_stage(stage: str) -> None:
    """Each stage calls its passes in order, once, with the graph of the link."""
    seen: list[tuple[int, LinkGraph]] = []
    passes = [lambda graph, number=number: seen.append((number, graph)) for number in (1, 2)]
    image = jitlink.link(caller_and_callees(), base=BASE, passes={stage: passes})
    assert seen == [(1, image.graph), (2, image.graph)]


def test_stages_come_in_the_order_of_their_names() -> None:
    """The passes run as the pipeline does: addresses are there from post_allocation on."""
    order: list[str] = []
    placed: dict[str, bool] = {}

    def note(stage: str) -> object:
        def user_pass(graph: LinkGraph) -> None:
            order.append(stage)
            placed[stage] = graph.symbols["main"].address == BASE

        return user_pass

    jitlink.link(caller_and_callees(), base=BASE, passes={stage: [note(stage)] for stage in reversed(STAGES)})  # type: ignore[list-item]
    assert order == ["pre_prune", "post_prune", "post_allocation", "pre_fixup", "post_fixup"]
    assert [placed[stage] for stage in order] == [False, False, True, True, True]


@pytest.mark.parametrize("stage", ["pre_prune", "post_prune", "post_allocation", "pre_fixup"])
def test_a_user_pass_replaces_the_target_of_a_call(stage: str) -> None:
    """A pass before the fixups aims the call at another function, and that is where it goes."""

    def aim_at_second(graph: LinkGraph) -> None:
        edge = graph.symbols["main"].block.edges[0]  # type: ignore[union-attr]
        graph.edges.target[edge.row] = graph.symbols["second"].row

    image = jitlink.link(caller_and_callees(), base=BASE, passes={stage: [aim_at_second]})
    assert called_address(image) == image.address_of("second")


def test_a_user_pass_adds_code_before_layout() -> None:
    """A block, symbol and edge that a pass adds at pre_prune are resolved, placed and fixed up like any other."""

    def add_detour(graph: LinkGraph) -> None:
        detour = graph.add_block(graph.add_section(".text.detour", CODE), bytes.fromhex("e900000000"))
        symbol = graph.add_symbol("detour", detour)
        call = graph.symbols["main"].block.edges[0]  # type: ignore[union-attr]
        graph.add_edge(detour, 1, "R_X86_64_PLT32", call.target.row, -4)
        graph.edges.target[call.row] = symbol

    image = jitlink.link(caller_and_callees(), base=BASE, passes={"pre_prune": [add_detour]})
    detour = image.address_of("detour")
    assert called_address(image) == detour
    assert detour + 5 + int.from_bytes(image.read(detour + 1, 4), "little", signed=True) == image.address_of("first")


def test_a_user_pass_sees_and_changes_the_bytes_of_a_block() -> None:
    """Before the fixups a block holds what its input has, after them what the image has; both can be changed."""
    found: list[bytes] = []

    def look(graph: LinkGraph) -> None:
        found.append(graph.symbols["main"].block.working.tobytes())  # type: ignore[union-attr]

    def end_in_a_trap(graph: LinkGraph) -> None:
        graph.symbols["main"].block.working[-1] = 0xCC  # type: ignore[union-attr]

    passes = {"pre_fixup": [look], "post_fixup": [look, end_in_a_trap]}
    image = jitlink.link(caller_and_callees(), base=BASE, passes=passes)
    assert found[0] == CALL
    linked = image.read(image.address_of("main"), len(CALL))
    assert (found[1][:-1], found[1][-1:]) == (linked[:-1], CALL[-1:])
    assert linked[-1] == 0xCC


@pytest.mark.parametrize("stage", ["pre_prune", "post_prune", "post_allocation"])
def test_there_is_no_working_memory_before_the_fixups(stage: str) -> None:
    """The bytes of a block cannot be asked for before they are copied into the image."""

    def look(graph: LinkGraph) -> None:
        with pytest.raises(ValueError, match="has no working memory"):
            _ = graph.symbols["main"].block.working  # type: ignore[union-attr]

    jitlink.link(caller_and_callees(), base=BASE, passes={stage: [look]})


@pytest.mark.parametrize("stage", ["post_allocation", "pre_fixup", "post_fixup"])
def test_a_user_pass_adds_nothing_after_layout(stage: str) -> None:
    """What is added when everything has its place would have none."""

    def add_block(graph: LinkGraph) -> None:
        graph.add_block(graph.add_section(".text.late", CODE), b"\xc3")

    with pytest.raises(jitlink.LinkFailure, match=f"a pass at {stage} has added blocks or symbols"):
        jitlink.link(caller_and_callees(), base=BASE, passes={stage: [add_block]})


def test_an_unknown_stage_is_refused() -> None:
    """A misspelt stage would never run; the error lists the stages that there are."""
    with pytest.raises(ValueError, match=r"no such stage: pre_fixups; there are pre_prune, .*, post_fixup"):
        jitlink.link(caller_and_callees(), base=BASE, passes={"pre_fixups": []})


def test_what_a_user_pass_raises_reaches_the_caller() -> None:
    """The linker neither swallows nor renames an exception of a user pass."""

    def fail(graph: LinkGraph) -> None:
        raise ZeroDivisionError(repr(graph.blocks[1]))

    with pytest.raises(ZeroDivisionError, match="block 1"):
        jitlink.link(caller_and_callees(), base=BASE, passes={"post_prune": [fail]})


def test_string_tables_are_cut_at_the_right_places() -> None:
    """Many names of one table, the first, the last and the empty one among them, are each found."""
    names = [b"", *(b"name%d" % number for number in range(100))]
    table = b"".join(name + b"\0" for name in names)
    graph = LinkGraph(caller_and_callees().target, np.frombuffer(table + bytes(PADDING), np.uint8))
    graph.string_tables = (np.array([0]), np.array([len(table)]))
    positions = starts_of(np.array([len(name) + 1 for name in names]))[:-1]
    assert graph.names_at(positions) == names

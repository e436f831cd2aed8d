"""Differences: what a link does between two stages, and what two objects do not have in common."""

from __future__ import annotations

import pytest

import jitlink
from jitlink.inspect.differences import stage_difference
from jitlink.inspect.object_differences import object_difference
from jitlink.inspect.reached import reached_from
from jitlink.inspect.stages import Watched, watch
from tests.toolchain import zig_cc

SOURCE = """
extern int outside(int);
static int deep(int x) { return outside(x) + 1; }
__attribute__((noinline)) static int middle(int x) { return deep(x) * 3; }
int table[4] = {1, 2, 3, 4};
int used(int x) { return middle(x) + table[x & 3]; }
int unused(int x) { return x - 1; }
"""
FLAGS = ("-O1", "-fPIC", "-ffunction-sections", "-fdata-sections")


@pytest.fixture(scope="module")
def link() -> Watched:
    """A link for one function, of one object that has another; the rest of the world is far away."""
    return watch(zig_cc(SOURCE, *FLAGS), exports=["used"], dead_strip=True, define={"outside": 0x7F00_0000_0000})


def text(link: Watched, before: str, after: str) -> str:
    """The difference between two stages."""
    return "\n".join(stage_difference(link.snapshot(before), link.snapshot(after), exports=["used"]))


def test_dead_strip_is_told_with_the_roots(link):
    """What was dropped, and what holds the rest."""
    shown = text(link, "pre_prune", "post_prune")
    assert "dropped: 1 block, " in shown
    assert "unused in .text.unused" in shown
    assert "from used in .text.used" in shown


def test_what_the_linker_made_and_relaxed_is_told(link):
    """A far function gets a GOT entry and a stub; a load through the GOT is rewritten (psABI B.2)."""
    shown = text(link, "post_prune", "fixed_up")
    assert ".got " in shown
    assert ".stubs " in shown
    assert "mov to lea" in shown
    assert "-> lea " in shown


def test_bytes_are_told_before_and_after(link):
    """The place of a fixup, and what its bytes became."""
    shown = text(link, "post_allocation", "fixed_up")
    graph = link.snapshot("fixed_up").graph
    [edge] = [edge for edge in graph.edges if edge.kind == "GOTPCRELX, mov to lea"]
    value = link.snapshot("fixed_up").bytes_of(edge.block.row)[edge.offset : edge.offset + 4]
    assert f"used in .text.used+{edge.offset:#x}" in shown
    assert value.hex(" ") in shown


def test_the_order_of_stages_does_not_matter(link):
    """A difference is told in the order of the link."""
    assert text(link, "fixed_up", "pre_prune") == text(link, "pre_prune", "fixed_up")
    assert "nothing changed" in text(link, "post_prune", "post_prune")


def test_chains_are_shortest_and_start_at_a_root(link):
    """A block that a root needs over two references has a chain of two."""
    graph = link.snapshot("post_prune").graph
    reached = reached_from(graph, ["used"])
    used, middle, table = (graph.symbols[name].block.row for name in ("used", "middle", "table"))
    assert reached.chain(used) == []
    assert [graph.edges[edge].target.name for edge in reached.chain(table)] == ["table"]
    assert len(reached.chain(middle)) == 1
    assert reached.root_of(middle) == used
    with pytest.raises(KeyError):
        reached.chain(graph.symbols["unused"].block.row)


def objects(*sources: str) -> str:
    """The difference between two objects, with -O1."""
    old, new = (jitlink.read(zig_cc(source, *FLAGS)) for source in sources)
    return "\n".join(object_difference(old, new))


def test_an_object_differs_from_another_by_name():
    """Symbols that came, went and changed; a name that is newly asked for."""
    shown = objects(
        SOURCE,
        SOURCE.replace("int unused(int x) { return x - 1; }", "int fresh(int x) { return puts(x); }")
        .replace("extern", "extern int puts(int); extern")
        .replace("{1, 2", "{9, 2"),
    )
    assert "symbols removed\n  unused  " in shown
    assert "symbols added\n  fresh  " in shown
    assert "newly asked for\n  puts" in shown
    assert "symbols changed\n  table  1 byte of 16" in shown


def test_equal_code_does_not_differ():
    """The same source twice, and the same functions in another order."""
    assert "no difference" in objects(SOURCE, SOURCE)

"""Watching a link: what each stage shows, and what a failed link leaves to look at."""

from __future__ import annotations

from typing import Any

import pytest

from jitlink.errors import DuplicateDefinitions, MalformedInput
from jitlink.inspect.stages import STAGES, Watched, watch
from tests.toolchain import zig_cc

USER = """
extern int far_away(int);
extern int table[];
static int helper(int x) { return far_away(x) + table[x & 3]; }
int used(int x) { return helper(x) * 2; }
int unused(int x) { return x - 1; }
"""
TABLE = "int table[4] = {1, 2, 3, 4};"
FLAGS = ("-O1", "-fPIC", "-ffunction-sections")


def watched(**options: Any) -> Watched:
    """A link of two objects, one of which refers to a name that nobody defines."""
    objects = [zig_cc(source, *FLAGS) for source in (USER, TABLE)]
    return watch(*objects, exports=["used"], dead_strip=True, **options)


def block_of(link: Watched, stage: str, name: str) -> int:
    """The block that defines a symbol, at a stage."""
    block = link.snapshot(stage).graph.symbols[name].block
    assert block is not None
    return block.row


def test_all_stages_are_seen_in_order() -> None:
    """A link that succeeds has been at every stage."""
    link = watched()
    assert link.error is None
    assert list(link.snapshots) == list(STAGES)
    assert link.image is not None


def test_dead_strip_is_seen_between_two_stages() -> None:
    """What no export needs is live before the prune and not after; rows keep their numbers."""
    link = watched()
    unused = block_of(link, "pre_prune", "unused")
    assert block_of(link, "fixed_up", "unused") == unused
    assert [bool(link.snapshot(stage).graph.blocks.live[unused]) for stage in STAGES] == [True, False, False, False]


def test_names_that_nobody_defines_get_placeholders() -> None:
    """An undefined symbol is an address that no other name has, and the link goes on."""
    link = watched()
    assert list(link.placeholders) == ["far_away"]
    assert link.snapshot("fixed_up").graph.symbols["far_away"].address == link.placeholders["far_away"]
    assert not watched(define={"far_away": 0x5000}).placeholders
    assert not watched(define={"far_away": 0x5000}.get).placeholders
    assert watched(define={"other": 0x5000}.get).placeholders == link.placeholders


def test_values_are_those_in_the_image() -> None:
    """S + A - P of a call, computed from a snapshot, is what its field holds in the fixed up bytes."""
    link = watched()
    snapshot = link.snapshot("fixed_up")
    graph = snapshot.graph
    edges = (
        (graph.edges.kind == graph.target.kind_number("R_X86_64_PLT32")) & graph.blocks.live[graph.edges.block]
    ).nonzero()[0]
    assert len(edges)
    for edge, value in zip(edges.tolist(), snapshot.values(edges).tolist(), strict=True):
        view = graph.edges[edge]
        field = snapshot.bytes_of(view.block.row)[view.offset : view.offset + 4]
        assert int.from_bytes(field, "little") == value & 0xFFFF_FFFF
        assert value == (view.target.address + view.addend - view.block.address - view.offset) % 2**64
    before = link.snapshot("post_allocation").bytes_of(int(graph.edges.block[edges[0]]))
    assert before != snapshot.bytes_of(int(graph.edges.block[edges[0]]))


def test_a_failed_link_can_be_watched_as_far_as_it_came() -> None:
    """Two definitions of a name end the link behind its first stage; the error is kept."""
    twice = zig_cc(TABLE, *FLAGS)
    link = watch(twice, twice)
    assert isinstance(link.error, DuplicateDefinitions)
    assert list(link.snapshots) == ["pre_prune"]
    with pytest.raises(DuplicateDefinitions):
        link.snapshot("fixed_up")
    with pytest.raises(KeyError):
        link.snapshot("no such stage")


def test_inputs_that_cannot_be_read_are_errors() -> None:
    """There is nothing to watch in a damaged object."""
    with pytest.raises(MalformedInput):
        watch(zig_cc(TABLE, *FLAGS)[:100])

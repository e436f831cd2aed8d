"""Thread-locals in what people look at: debug information, stages of a link, the image."""

from __future__ import annotations

import pytest

import jitlink
from jitlink.graph import LinkGraph
from tests import toolchain
from tests.thread_locals.programs import COUNTERS, compiled

BASE = 0x10000000
DEBUGGED = """
    __thread long first = 1; __thread long second = 2; __thread long dropped = 3;
    long kept(void) { return first + second; }
    long unused(void) { return dropped; }
"""


def offsets_in_debug_information(graph: LinkGraph, sections: dict[str, bytes]) -> list[int]:
    """What the debug information has in the place of each thread-local's offset, by the relocations there."""
    found = []
    for edge in graph.edges:
        if "DTPOFF" in edge.kind and edge.block.section.name == ".debug_info":
            size = 8 if edge.kind.endswith("64") else 4
            found.append(int.from_bytes(sections[".debug_info"][edge.offset : edge.offset + size], "little"))
    return found


@pytest.mark.parametrize(("exports", "wanted"), [(None, [16, 8, 0]), (["kept"], [0, 8, 0]), (["none"], [0, 0, 0])])
def test_debug_information_has_the_offset_in_the_block(exports: list[str] | None, wanted: list[int]) -> None:
    """DW_OP_form_tls_address takes an offset in the module's block; that of a dropped variable is 0."""
    code = compiled("gcc", DEBUGGED + "int none(void) { return 0; }", "-O2", "-g", "-fPIC", "-fdata-sections",
                    "-ffunction-sections")  # fmt: skip
    image = jitlink.link(code, base=BASE, debug=True, exports=exports, dead_strip=exports is not None)
    (sections,) = image.debug_sections.values()
    assert sorted(offsets_in_debug_information(image.graph, sections)) == sorted(wanted)


def test_an_image_says_where_its_thread_locals_are() -> None:
    """The template's place in the image, its size and alignment, and its distance from the thread pointer."""
    image = jitlink.link(toolchain.zig_cc(COUNTERS, "-O2"), base=BASE)
    block = image.thread_block
    assert block is not None
    template, start = block.template, block.block.from_thread_pointer
    assert template.alignment == 64
    assert start is not None
    # Variant II: the block ends at the thread pointer, rounded up to its alignment (Drepper, 3.4.2).
    assert start == -(-(-template.size // 64) * 64)
    assert image.read(block.address, len(template.content)) == template.content
    counter = image.address_of("counter") - block.address
    assert template.content[counter : counter + 4] == (40).to_bytes(4, "little")


def test_an_image_without_thread_locals_has_no_block() -> None:
    """Nothing is said where there is nothing."""
    assert jitlink.link(toolchain.zig_cc("int f(void) { return 0; }"), base=BASE).thread_block is None


@pytest.mark.parametrize("stage", ["pre_prune", "post_prune", "post_allocation", "fixed_up"])
def test_every_stage_of_a_link_can_be_shown(stage: str) -> None:
    """The views compute what they show, before and after the block of thread-locals is made."""
    from jitlink.inspect.stages import watch

    watched = watch(toolchain.zig_cc(COUNTERS, "-O2"), base=BASE)
    snapshot = watched.snapshot(stage)
    edges = snapshot.graph.edges
    if snapshot.allocated:
        assert len(snapshot.values((edges.kind > 0).nonzero()[0]))

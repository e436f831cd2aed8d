"""Initialisers and finalisers: which functions run when a dylib is loaded and closed, in which order.

Compilers put pointers to them into .init_array and .fini_array, older ones into .ctors and .dtors, and those
of Windows into parts of .CRT, which the layout has put in order. A
priority stands in the name: .init_array.00100 runs before .init_array.65535, and both before plain
.init_array. The old .ctors count the other way round (.ctors.N has priority 65535 - N), and each array
is run from its end; the start files of old compilers bracket it with -1 and 0, which are no functions.

Mach-O has the same pointers in sections of their own types, without priorities.

Sources: gABI, Initialization and Termination Functions; GCC, crtstuff.c; GNU ld, SORT_BY_INIT_PRIORITY.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from jitlink.graph import LinkGraph, Purpose
from jitlink.layout import Layout

HIGHEST_PRIORITY = 65535
NO_PRIORITY = HIGHEST_PRIORITY + 1
PRIORITY = re.compile(rb"\.([0-9]{1,5})$")
NO_FUNCTIONS = (0, (1 << 64) - 1)
POINTER_SIZE, OFFSET_SIZE = 8, 4


@dataclass
class LifeCycle:
    """Addresses of functions, in the order in which they are to be called."""

    initialisers: list[int] = field(default_factory=list)
    finalisers: list[int] = field(default_factory=list)


def life_cycle(graph: LinkGraph, layout: Layout, image: memoryview) -> LifeCycle:
    """Read the arrays of a finished image. image: its bytes, all fixups applied."""
    cycle = LifeCycle()
    for purpose in (Purpose.PREINIT_ARRAY, Purpose.INIT_ARRAY):
        arrays = _arrays(graph, layout, image, purpose)
        if purpose == Purpose.INIT_ARRAY:
            arrays += _arrays(graph, layout, image, Purpose.CTORS)
        cycle.initialisers += _in_order(arrays)
    cycle.initialisers += _at_offsets(graph, layout, image)
    arrays = _arrays(graph, layout, image, Purpose.FINI_ARRAY)
    if graph.format == "coff":
        # Terminators run from first to last, and all of these are turned around below.
        arrays = [(priority, functions[::-1]) for priority, functions in reversed(arrays)]
    arrays += _arrays(graph, layout, image, Purpose.DTORS)
    cycle.finalisers = _in_order(arrays)[::-1]
    return cycle


def _at_offsets(graph: LinkGraph, layout: Layout, image: memoryview) -> list[int]:
    """The initialisers that stand as 32-bit distances from the start of the image (Mach-O, S_INIT_FUNC_OFFSETS)."""
    found = []
    for block in layout.sets.get((Purpose.INIT_OFFSETS, b""), []):
        start = int(layout.position[block])
        base = int(graph.blocks.address[block]) - start
        offsets = image[start : start + int(graph.blocks.size[block]) // OFFSET_SIZE * OFFSET_SIZE].cast("I").tolist()
        found += [base + offset for offset in offsets]
    return found


def _in_order(arrays: list[tuple[int, list[int]]]) -> list[int]:
    """Concatenate arrays by rising priority, in input order among equals."""
    return [function for _, array in sorted(arrays, key=lambda array: array[0]) for function in array]


def _arrays(graph: LinkGraph, layout: Layout, image: memoryview, purpose: Purpose) -> list[tuple[int, list[int]]]:
    """The arrays of a purpose with their priorities, each in the order in which initialisers run."""
    found = []
    old = purpose in (Purpose.CTORS, Purpose.DTORS)
    for block in layout.sets.get((purpose, b""), []):
        start = int(layout.position[block])
        words = image[start : start + int(graph.blocks.size[block]) // POINTER_SIZE * POINTER_SIZE].cast("Q").tolist()
        functions = [word for word in words if word not in NO_FUNCTIONS]
        given = PRIORITY.search(graph.raw_name_at(int(graph.sections.name[graph.blocks.section[block]])))
        priority = int(given[1]) if given else NO_PRIORITY
        if old and given:
            priority = HIGHEST_PRIORITY - priority
        found.append((priority, functions[::-1] if old else functions))
    return found

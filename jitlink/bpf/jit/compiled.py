"""What a machine has made of a program: an image for each thing that its code may take for granted.

Mostly there is one image, made when the program is loaded. Others follow when they are needed: the program is
run on another sort of context, its r10 is not the end of the frame, a lookup has returned what it may not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jitlink.bpf.contexts import PacketContext
from jitlink.bpf.helpers.elements import map_lookup_elem
from jitlink.bpf.jit.compiler import Plan, compile_slots
from jitlink.bpf.jit.hardening import start_in_page
from jitlink.bpf.jit.images import Image, load_image
from jitlink.bpf.jit.program import Mask, slots_of
from jitlink.bpf.jit.proofs import MAP_LOOKUP, Granted, Lookups, prove
from jitlink.bpf.machine import Code
from jitlink.bpf.maps.arrays import ArrayMap, PerCpuArrayMap
from jitlink.bpf.native.helpers import NativeHelpers, native_helpers
from jitlink.bpf.semantics import Step
from jitlink.bpf.translation import steps_of
from jitlink.memory import page_size

if TYPE_CHECKING:
    from jitlink.bpf.jit.leaving import LeavingMachine

ARRAYS = (ArrayMap, PerCpuArrayMap)
"""The maps that may be looked up by code of their own; their subclasses may mean something else."""


class Variant(NamedTuple):
    """Which code of a program, by what it takes for granted.

    Attributes: frame (r10 is the end of the active frame when it is entered); context (of what sort the
    context is that r1 points to at the start, None where r1 may be anything); maps (what map_lookup_elem
    returns is a value of the map, or 0).
    """

    frame: bool = True
    context: type[PacketContext] | None = None
    maps: bool = True


PLAIN = Variant()


class CompiledCode:
    """What the machine has made of one program: images, and steps for what they leave to the interpreter.

    A program has an image for each variant that was asked for, mostly one. by_context: those of the usual
    variants, which differ in nothing but the context. natives: the helpers in machine code that its images call.
    counts_runs: `count` is to be told of runs.
    """

    counts_runs = False

    def __init__(self, machine: LeavingMachine, code: Code) -> None:
        self.machine = machine
        self.code = code
        self.images: dict[Variant, Image] = {}
        self.by_context: dict[type[PacketContext] | None, Image] = {}
        self.natives = NativeHelpers()
        self._step: Callable[[int], Step] | None = None

    def step(self, pc: int) -> Step:
        """Make the step of a slot."""
        if self._step is None:
            self._step = steps_of(self.code, self.machine)
        return self._step(pc)

    def image(self, variant: Variant, function: int = 0) -> Image:
        """The image of a variant. function: a slot where it can be entered by a call from outside, if not 0."""
        self.check_helpers()
        image = self.images.get(variant)
        if image is None or (function and function not in image.functions):
            entries = {*(image.functions if image else ()), *([function] if function else ())}
            image = self.images[variant] = self.make_image(variant, entries)
            if variant.frame and variant.maps:
                self.by_context[variant.context] = image
        return image

    def count(self, runs: int = 1) -> None:
        """Hear of runs. One-pass code does not change by being run."""

    def check_helpers(self) -> None:
        """Forget the images if somebody has replaced a helper that they have machine code for; else let that be run."""
        natives, helpers = self.natives, self.machine.helpers
        if any(helpers.get(number) is not helper for number, helper in natives.used.items()):
            self.images.clear()
            self.by_context.clear()
            natives.used.clear()
        elif natives.shown:
            self.machine.record.host = natives.shown

    def plan_for(self, numbers: list[int]) -> Plan:
        """What the code of an image is to be like. numbers: of the helpers that it calls."""
        machine = self.machine
        swapped = self.code.instructions.byteorder != machine.shapes.backend.byteorder
        plan = machine.plan if swapped == machine.plan.swapped else replace(machine.plan, swapped=swapped)
        if not numbers:
            return plan
        found = native_helpers(machine, numbers, swapped=swapped)
        self.natives.used.update(found.used)
        self.natives.shown = self.machine.record.host = found.shown
        return replace(plan, helpers={**found.addresses, **plan.helpers})

    def _inlines_lookups(self, plan: Plan) -> bool:
        """Whether lookups in arrays are to be code of their own: where the kernel's helper would do them, and where
        the sizes of a map, which whoever has made it chooses, may be in the code."""
        helper = self.machine.helpers.get(MAP_LOOKUP)
        own = getattr(helper, "func", None) is map_lookup_elem and MAP_LOOKUP not in self.machine.plan.helpers
        return own and plan.hardening is None and not plan.swapped

    def _arrays(self, found: Mapping[int, tuple[ArrayMap, bool]]) -> dict[int, ArrayMap]:
        """The arrays that are looked up by code of their own, by slot."""
        unchecked = not self.machine.plan.sandbox
        arrays = {
            slot: map
            for slot, (map, in_frame) in found.items()
            if (in_frame or unchecked) and type(map) in ARRAYS and map.cpus == 1
            if map.programs_may_read and map.is_little_endian
        }
        if arrays:
            self.natives.used[MAP_LOOKUP] = self.machine.helpers[MAP_LOOKUP]
        return arrays

    def make_image(self, variant: Variant, entries: set[int]) -> Image:
        """Compile the program. entries: slots where calls from outside enter it. Raises LinkError."""
        machine, code = self.machine, self.code
        backend = machine.shapes.backend
        slots = slots_of(code.instructions, np.array(sorted(entries), np.int64))
        numbers = slots.helpers_called()
        plan = self.plan_for(numbers)
        good: Mask | None = None
        lookups: Lookups = {}
        arrays: dict[int, ArrayMap] = {}
        inlines = MAP_LOOKUP in numbers and variant.maps and self._inlines_lookups(plan)
        if plan.sandbox or inlines:
            frame = variant.frame and not slots.moves_frame_pointer
            maps = machine.maps if variant.maps else {}
            good, lookups, found = prove(slots, Granted(frame, variant.context, maps))
            if inlines:
                arrays = self._arrays(found)
        start = start_in_page(plan.hardening.randomness(), page_size()) if plan.hardening else 0
        made = compile_slots(slots, machine.shapes, plan, good, arrays)
        return load_image(made, backend, code.name, lookups, start)

"""The machine of the optimising tier: that of the one-pass tier with images of another make.

A program that is too large for LLVM is compiled in one pass instead. The two sorts of images go on in other
programs in different ways: one in a C function, the other in the middle of its code. So a tail call out of
code of one pass leads to more of the same, and one into it goes through a C function made by ctypes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import partial
from threading import Thread
from typing import Any, cast

import numpy as np

from jitlink.bpf.helpers.elements import map_lookup_elem
from jitlink.bpf.isa import FRAME_POINTER
from jitlink.bpf.jit.compiled import CompiledCode, Variant
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.images import Image
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.jit.program import ACCESSES, Slots, slots_of
from jitlink.bpf.jit.proofs import MAP_LOOKUP, Granted, prove
from jitlink.bpf.llvm_tier.bodies import Body, Program, bodies_of
from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.bpf.llvm_tier.choices import Choices
from jitlink.bpf.llvm_tier.images import LlvmImage, load_object
from jitlink.bpf.llvm_tier.modules import module_of
from jitlink.bpf.llvm_tier.objects import object_of
from jitlink.bpf.machine import Code
from jitlink.bpf.native.lookups import Lookup, lookup_of
from jitlink.errors import LinkError

MOST_SLOTS = 16_384
"""Up to this size programs are given to LLVM, whose time for one function grows faster than its size."""
INLINED = 1024
"""Up to this size functions are inlined as LLVM likes, and all of them go through all of its passes."""
MOST_EXITS = 256
"""Functions that can be left from more places than this are not given to it either, for the same reason."""
BRIDGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_LOWEST_ADDRESS = 1 << 16


class LlvmCode(CompiledCode):
    """What the machine has made of one program.

    Attributes: in_one_pass (what it makes of it without LLVM); runs (how often it was run); optimised (whether
    images come from LLVM); optimising (the thread in which it is or was compiled by LLVM while it ran, or None).
    """

    machine: LlvmMachine

    def __init__(self, machine: LlvmMachine, code: Code) -> None:
        super().__init__(machine, code)
        self.in_one_pass = CompiledCode(machine, code)
        self.runs = 0
        self.optimised = machine.hot_after is None
        self.counts_runs = not self.optimised
        self.optimising: Thread | None = None

    def count(self, runs: int = 1) -> None:
        """Count runs of code of one pass; once it is hot, compile it anew beside the runs that go on."""
        self.runs += runs
        if self.runs >= (self.machine.hot_after or 0) and self.optimising is None:
            self.optimising = Thread(target=self._optimise, name=f"jitlink: LLVM for {self.code.name}", daemon=True)
            self.optimising.start()

    def _optimise(self) -> None:
        """Compile what there is by LLVM, and let the next run enter that. Where LLVM cannot, it stays in one pass."""
        # What is noted there of helpers is true of what is made here, whatever is replaced meanwhile.
        apart = LlvmCode(self.machine, self.code)
        try:
            made = {variant: apart._make(variant, image.functions) for variant, image in dict(self.images).items()}
        except LinkError:
            return
        self.natives.used.update(apart.natives.used)
        self.natives.shown = apart.natives.shown or self.natives.shown
        self.optimised, self.counts_runs = True, False
        for variant, image in made.items():
            self.images[variant] = image
            if variant.frame and variant.maps:
                self.by_context[variant.context] = image

    def make_image(self, variant: Variant, entries: set[int]) -> Image:
        if not self.optimised:
            return super().make_image(variant, entries)
        return self._make(variant, entries)

    def _make(self, variant: Variant, entries: set[int]) -> Image:
        machine = self.machine
        slots = slots_of(self.code.instructions, np.array(sorted(entries), np.int64))
        program = Program(slots)
        entered = sorted({0, *entries, *program.pointed_at()})
        bodies = bodies_of(program, entered, machine.most_slots)
        if bodies is None:
            return super().make_image(variant, entries)
        symbols, addresses = self._symbols(program)
        inlines = _size(bodies.values()) <= machine.most_inlined
        lookups = self._lookups(addresses, inlines)
        plan = self.plan_for(slots.helpers_called())
        choices = self._choices(variant, plan, slots, bodies, symbols, lookups)
        if _most_exits(slots, bodies, choices) > MOST_EXITS:
            return super().make_image(variant, entries)
        content = object_of(module_of(program, bodies, entered, choices), machine.kept, _thorough(bodies, choices))
        addresses |= {f"helper{number}": address for number, address in plan.helpers.items()}
        for lookup in lookups.values():
            addresses |= lookup.addresses
        return cast(Image, load_object(content, slots, entered, addresses))

    def _choices(
        self,
        variant: Variant,
        plan: Plan,
        slots: Slots,
        bodies: dict[int, Body],
        symbols: dict[int, str],
        lookups: dict[str, Lookup],
    ) -> Choices:
        """Say what the program is compiled for. Maps that machine code looks up give what proofs expect of them."""
        maps = {lookup.map.address: lookup.map for lookup in lookups.values()}
        frame = variant.frame and not slots.moves_frame_pointer
        proof = prove(slots, Granted(frame, variant.context, maps))
        symbol_of = {lookup.map.values_region.address: symbol for symbol, lookup in lookups.items()}
        return Choices(
            sandbox=plan.sandbox,
            metered=plan.metered,
            swapped=plan.swapped,
            frame_is_known=frame,
            good=proof.good.tolist(),
            symbols=symbols,
            helpers=frozenset(plan.helpers),
            lookups=lookups,
            looked_up={slot: symbol_of[first] for slot, (first, _) in proof.lookups.items()},
            inlines=_size(bodies.values()) <= self.machine.most_inlined,
        )

    def _lookups(self, addresses: dict[str, int], inlined: bool) -> dict[str, Lookup]:
        """The maps that are looked up in machine code, by their symbols; none where there is another helper for it."""
        machine = self.machine
        helper = machine.helpers.get(MAP_LOOKUP)
        if not isinstance(helper, partial) or helper.func is not map_lookup_elem:
            return {}
        found = {
            name: lookup_of(machine.maps.get(value), f"lookup.{name}", inlined=inlined)
            for name, value in addresses.items()
        }
        if any(found.values()):
            self.natives.used[MAP_LOOKUP] = helper
        return {name: lookup for name, lookup in found.items() if lookup is not None}

    def _symbols(self, program: Program) -> tuple[dict[int, str], dict[str, int]]:
        """Give each constant that is an address of the program's memory a symbol.

        So the object is the same wherever the memory lies, and what was kept of it on disk can be used
        again. Returns the symbol by slot, and the address of each symbol.
        """
        regions = self.machine.regions
        symbols: dict[int, str] = {}
        addresses: dict[str, int] = {}
        name_of: dict[int, str] = {}
        for slot in program.wide_constants():
            value = program.constant[slot]
            nearest = regions.nearest(value) if value >= _LOWEST_ADDRESS else None
            if nearest is None or not nearest.address <= value <= nearest.end:
                continue
            name = name_of.setdefault(value, f"memory{len(name_of)}")
            symbols[slot], addresses[name] = name, value
        return symbols, addresses


class LlvmMachine(NativeMachine):
    """Runs programs in machine code that LLVM has optimised.

    Attributes beyond NativeMachine's: kept (the cache of objects, None for none); most_slots (larger programs are
    compiled in one pass); most_inlined (in larger ones less is inlined, and most functions get the short list of
    passes); hot_after (so many runs of a program are in code of one pass, None for none).
    """

    code_class = LlvmCode

    def __init__(
        self, *arguments: Any, kept: ObjectCache | None = None, hot_after: int | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.kept = kept
        self.hot_after = hot_after
        self.most_slots = MOST_SLOTS
        self.most_inlined = INLINED
        self._bridges: list[Any] = []

    def continue_in(self, code: Code) -> None:
        """Let native code go on with another program, in the frame of the function that it leaves."""
        here: object = self.running[-1][1]
        super().continue_in(code)
        compiled, image = self.running[-1]
        from_llvm, to_llvm = _is_of_llvm(here), _is_of_llvm(image)
        if from_llvm and not to_llvm:
            self.record.target = self._bridge(image)
        elif to_llvm and not from_llvm:
            assert isinstance(compiled, LlvmCode)
            compiled = compiled.in_one_pass
            known = self.registers[FRAME_POINTER] == self.record.frame
            image = compiled.image(Variant(known, self.context_at(self.registers[1])))
            self.running[-1] = compiled, image
            self.record.target = image.start

    def _bridge(self, image: Image) -> int:
        """Make a C function that enters an image of one pass. It is kept until the run has ended."""
        made = BRIDGE(lambda record: image.enter(record, image.start))
        self._bridges.append(made)
        address = ctypes.cast(made, ctypes.c_void_p).value
        assert address
        return address

    def show_frames(self, depth: int) -> None:
        """Let the frames of the active functions be memory; with the last of them goes what was made for the run."""
        super().show_frames(depth)
        if not depth:
            self._bridges.clear()


def _size(bodies: Iterable[Body]) -> int:
    return sum(body.size for body in bodies)


def _thorough(bodies: dict[int, Body], choices: Choices) -> set[str] | None:
    """The functions that all of LLVM's passes are worth: in a large program those with loops, None for all."""
    loops = {entry: body for entry, body in bodies.items() if body.loops}
    if choices.inlines or 2 * _size(loops.values()) > _size(bodies.values()):
        return None
    return {f"f{entry}" for entry in loops}


def _most_exits(slots: Slots, bodies: dict[int, Body], choices: Choices) -> int:
    """How many places the function that has most of them can be left from, by a check or by the meter."""
    checked: list[bool] = (ACCESSES[slots.form] & ~np.array(choices.good)).tolist()
    return max(
        len(body.blocks) * choices.metered
        + sum(checked[slot] for block in body.blocks.values() for slot in block) * choices.sandbox
        for body in bodies.values()
    )


def _is_of_llvm(image: object) -> bool:
    """Whether an image is one that LLVM has made."""
    return isinstance(image, LlvmImage)

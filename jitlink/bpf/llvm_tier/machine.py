"""The machine of the optimising tier: that of the one-pass tier with images of another make.

A program that is too large for LLVM is compiled in one pass instead. The two sorts of images go on in other
programs in different ways: one in a C function, the other in the middle of its code. So a tail call out of
code of one pass leads to more of the same, and one into it goes through a C function made by ctypes.
"""

from __future__ import annotations

import ctypes
from threading import Thread
from typing import Any, cast

import numpy as np

from jitlink.bpf.helpers.elements import map_lookup_elem
from jitlink.bpf.isa import FRAME_POINTER
from jitlink.bpf.jit.images import Image
from jitlink.bpf.jit.machine import CompiledCode, NativeMachine, Variant
from jitlink.bpf.jit.program import ACCESSES, slots_of
from jitlink.bpf.jit.proofs import MAP_LOOKUP, Granted, prove
from jitlink.bpf.llvm_tier.bodies import Body, Program, bodies_of
from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.bpf.llvm_tier.functions import Choices
from jitlink.bpf.llvm_tier.images import LlvmImage, load_object
from jitlink.bpf.llvm_tier.modules import module_of
from jitlink.bpf.llvm_tier.objects import object_of
from jitlink.bpf.machine import Code
from jitlink.bpf.native.lookups import Lookup, lookup_of

MOST_SLOTS = 16_384
"""Up to this size programs are given to LLVM, whose time for one function grows faster than its size."""
MOST_EXITS = 256
"""Functions that can be left from more places than this are not given to it either, for the same reason."""
BRIDGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_LOWEST_ADDRESS = 1 << 16


class LlvmCode(CompiledCode):
    """What the machine has made of one program.

    Attributes: in_one_pass (what it makes of it without LLVM); runs (how often it was run); lookup_helper (what
    map_lookup_elem was when it was compiled); optimised (whether
    images come from LLVM).
    """

    machine: LlvmMachine

    def __init__(self, machine: LlvmMachine, code: Code) -> None:
        super().__init__(machine, code)
        self.in_one_pass = CompiledCode(machine, code)
        self.runs = 0
        self.lookup_helper = machine.helpers.get(MAP_LOOKUP)
        self.optimised = machine.hot_after is None
        self._optimising: Thread | None = None

    def count(self, runs: int = 1) -> None:
        """Count runs of code of one pass; once it is hot, compile it anew beside the runs that go on."""
        self.runs += runs
        if self.runs >= (self.machine.hot_after or 0) and self._optimising is None:
            self._optimising = Thread(target=self._optimise, name=f"jitlink: LLVM for {self.code.name}", daemon=True)
            self._optimising.start()

    def _optimise(self) -> None:
        """Compile what there is by LLVM, and let the next run enter that."""
        made = {variant: self._make(variant, image.functions) for variant, image in dict(self.images).items()}
        self.optimised = True
        for variant, image in made.items():
            self.images[variant] = image
            if variant.frame and variant.maps:
                self.by_context[variant.context] = image

    def _compile(self, variant: Variant, entries: set[int]) -> Image:
        if not self.optimised:
            return super()._compile(variant, entries)
        return self._make(variant, entries)

    def _make(self, variant: Variant, entries: set[int]) -> Image:
        machine, code, plan = self.machine, self.code, self.machine.plan
        slots = slots_of(code.instructions, np.array(sorted(entries), np.int64))
        program = Program(slots)
        entered = sorted({0, *entries, *program.pointed_at()})
        bodies = bodies_of(program, entered, machine.most_slots)
        if bodies is None:
            return super()._compile(variant, entries)
        frame = variant.frame and not slots.moves_frame_pointer
        good = prove(slots, Granted(frame, variant.context)).good
        if self._most_exits(bodies, (ACCESSES[slots.form] & ~good).tolist()) > MOST_EXITS:
            return super()._compile(variant, entries)
        symbols, addresses = self._symbols(program)
        lookups = self._lookups(addresses)
        choices = Choices(
            sandbox=plan.sandbox,
            metered=plan.metered,
            swapped=code.instructions.byteorder != machine.shapes.backend.byteorder,
            frame_is_known=frame,
            good=good.tolist(),
            symbols=symbols,
            helpers=frozenset(plan.helpers),
            lookups={f"ptrtoint (ptr @{symbol} to i64)": lookup for symbol, lookup in lookups.items()},
        )
        content = object_of(module_of(program, bodies, entered, choices), machine.kept)
        addresses |= {f"helper{number}": address for number, address in plan.helpers.items()}
        for lookup in lookups.values():
            addresses |= lookup.addresses
        return cast(Image, load_object(content, slots, entered, addresses))

    def _most_exits(self, bodies: dict[int, Body], checked: list[bool]) -> int:
        """How many places the function that has most of them can be left from, by a check or by the meter."""
        plan = self.machine.plan
        return max(
            len(body.blocks) * plan.metered
            + sum(checked[slot] for block in body.blocks.values() for slot in block) * plan.sandbox
            for body in bodies.values()
        )

    def _lookups(self, addresses: dict[str, int]) -> dict[str, Lookup]:
        """The maps that are looked up in machine code, by their symbols; none where there is another helper for it."""
        machine = self.machine
        self.lookup_helper = machine.helpers.get(MAP_LOOKUP)
        if getattr(self.lookup_helper, "func", None) is not map_lookup_elem:
            return {}
        found = {name: lookup_of(machine.maps.get(value), f"lookup.{name}") for name, value in addresses.items()}
        return {name: lookup for name, lookup in found.items() if lookup is not None}

    def check_helpers(self) -> None:
        """Forget images if somebody has replaced a helper that they do not call."""
        if self.machine.helpers.get(MAP_LOOKUP) is not self.lookup_helper:
            self.lookup_helper = self.machine.helpers.get(MAP_LOOKUP)
            self.images.clear()
            self.by_context.clear()

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
    compiled in one pass); hot_after (so many runs of a program are in code of one pass, None for none).
    """

    def __init__(
        self, *arguments: Any, kept: ObjectCache | None = None, hot_after: int | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.kept = kept
        self.hot_after = hot_after
        self.most_slots = MOST_SLOTS
        self._bridges: list[Any] = []

    def _compiled_code(self, code: Code) -> CompiledCode | None:
        compiled: CompiledCode | None = code.made.get(self)
        if compiled is None and len(code.instructions):
            compiled = code.made[self] = LlvmCode(self, code)
        return compiled

    def is_optimised(self, code: Code) -> bool:
        """Whether runs of a program are in code that LLVM has made."""
        compiled = self._compiled_code(code)
        return isinstance(compiled, LlvmCode) and compiled.optimised

    def _continue(self, code: Code) -> None:
        """Let native code go on with another program, in the frame of the function that it leaves."""
        here: object = self._running[-1][1]
        super()._continue(code)
        compiled, image = self._running[-1]
        from_llvm, to_llvm = _is_of_llvm(here), _is_of_llvm(image)
        if from_llvm and not to_llvm:
            self.record.target = self._bridge(image)
        elif to_llvm and not from_llvm:
            assert isinstance(compiled, LlvmCode)
            compiled = compiled.in_one_pass
            known = self.registers[FRAME_POINTER] == self.record.frame
            image = compiled.image(Variant(known, self._context_at(self.registers[1])))
            self._running[-1] = compiled, image
            self.record.target = image.start

    def _bridge(self, image: Image) -> int:
        """Make a C function that enters an image of one pass. It is kept until the next run."""
        made = BRIDGE(lambda record: image.enter(record, image.start))
        self._bridges.append(made)
        address = ctypes.cast(made, ctypes.c_void_p).value
        assert address
        return address

    def run(self, code: Code, *arguments: int, **options: Any) -> int:
        """Run a program; see Machine.run."""
        compiled = self._compiled_code(code)
        if isinstance(compiled, LlvmCode):
            compiled.check_helpers()
            if not compiled.optimised:
                compiled.count()
        if self._bridges and not self.depth:
            self._bridges.clear()
        return super().run(code, *arguments, **options)


def _is_of_llvm(image: object) -> bool:
    """Whether an image is one that LLVM has made."""
    return isinstance(image, LlvmImage)

"""Templates of load-store machines: all that is no arithmetic, no access and no comparison.

Scratch registers are named by their place in SCRATCH. The first ones hold an address, the last one an offset or
an immediate that no instruction has room for.
"""

from __future__ import annotations

from abc import abstractmethod

from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.jit.abi import FRAME_STRIDE
from jitlink.bpf.jit.backend import SAVES, Feature, Kind
from jitlink.bpf.jit.load_store import SLOT, STACK_UNIT, WORD, LoadStoreAssembler, Register, Skip
from jitlink.bpf.jit.templates import Operand, Reach
from jitlink.bpf.machine import FUNCTION_BASE, POISON

DST, SRC = Operand.DST, Operand.SRC
PADDING_BITS = int(Feature.OWN).bit_length() - 1
"""Where in the features of PADDING its size is."""
PADDINGS = (WORD, 2 * WORD, 3 * WORD, 4 * WORD)
NO_OFFSET = int(Feature.OWN) << 3
"""Of checks: the offset is 0."""


class Writer(LoadStoreAssembler):
    """Writes the template of one shape. LONG, in any shape: COLD and JUMP may be out of a branch's reach."""

    NOP: int

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def has(self, feature: int) -> bool:
        """Whether the shape has a feature."""
        return bool(self.features & feature)

    @property
    def hidden(self) -> bool:
        """Whether constants are hidden."""
        return self.has(Feature.HIDDEN)

    @property
    def far(self) -> bool:
        """Whether what branches lead to may be out of their reach."""
        return self.has(Feature.LONG)

    def write(self, kind: int) -> None:
        """Write the template of a kind."""
        if kind < len(FORMS):
            self._write_form(FORMS[kind])
        else:
            self._write_kind(Kind(kind))

    # What each machine writes

    @abstractmethod
    def arithmetic(self, form: Form, wide: bool) -> None:
        """Write an arithmetic instruction."""

    @abstractmethod
    def byte_order(self, form: Form) -> None:
        """Write a change of the byte order."""

    @abstractmethod
    def wide_constant(self) -> None:
        """dst = the immediate of 64 bits, which may be hidden."""

    @abstractmethod
    def access(self, form: Form) -> None:
        """Write a load or a store."""

    @abstractmethod
    def atomic(self, form: Form) -> None:
        """Write an atomic access, whose address is in the first scratch register and aligned."""

    @abstractmethod
    def conditional(self, form: Form, wide: bool) -> None:
        """Write a branch that compares."""

    @abstractmethod
    def meter(self) -> None:
        """Take IMM from the budget, and go to COLD where it becomes negative."""

    @abstractmethod
    def address(self, to: int, base: Register, hidden: Operand) -> None:
        """to = base + offset; hidden: what holds the offset in hardened code."""

    @abstractmethod
    def reveal(self, to: int, value: Operand) -> None:
        """to = a hidden constant, a signed number of 32 bits; changes no other register but the last of SCRATCH."""

    # What all have

    def _write_form(self, form: Form) -> None:
        wide = form.bits == 64
        match form.family:
            case Family.ARITHMETIC:
                self.arithmetic(form, wide)
            case Family.BYTE_ORDER:
                self.byte_order(form)
            case Family.CONSTANT:
                self.wide_constant()
            case Family.LOAD | Family.STORE:
                self.access(form)
            case Family.ATOMIC:
                self._atomic(form)
            case Family.BRANCH if form.operation == "may_goto":
                self._may_goto()
            case Family.BRANCH:
                self.conditional(form, wide)
            case Family.JUMP:
                self.jump(Reach.JUMP)
            case Family.CALL if form.operation == "local":
                self._call_local()
            case Family.CALL:
                self._call_register()
            case Family.EXIT:
                self.ret()
            case _:
                raise AssertionError(f"{form.name} has no machine code of its own")

    def _write_kind(self, kind: Kind) -> None:
        first, second = self.SCRATCH[:2]
        match kind:
            case Kind.METER:
                self.meter()
            case Kind.CHECK:
                self._check()
            case Kind.SEARCH:
                self._checked_address()
                self.number(second, Operand.IMM)
                self.routine("search")
                self.jump(Reach.JUMP)
            case Kind.NATIVE_HELPER:
                self.address_outside(first)
                self.routine("native_helper")
            case Kind.ARRAY_LOOKUP:
                self._look_up()
            case Kind.PADDING:
                for _ in range((self.features >> PADDING_BITS) // WORD):
                    self.put(self.NOP)
            case _:
                self.routine(kind.name.lower())

    def _look_up(self) -> None:
        index, bound, stride = self.SCRATCH[:3]
        found, poisoned, *others = self.BPF[:6]
        self.load_word(index, others[0])
        self.number(bound, Operand.IMM)
        self.number(stride, Operand.OFFSET)
        self.constant(found, 0)
        beyond = self.skip("hs", index, bound)
        self.multiply(index, index, stride)
        self.address_outside(bound)
        self.add(found, index, bound)
        self.land(beyond)
        self.constant(poisoned, POISON)
        for register in others:
            self.move(register, poisoned)

    def _checked_address(self) -> None:
        """First scratch register: the address of the access that a check or a search is for."""
        self.address(self.SCRATCH[0], SRC if self.has(Feature.FROM_SRC) else DST, Operand.HIDDEN)

    def _check(self) -> None:
        address, start, bound = self.SCRATCH[:3]
        base: Register = address
        if self.has(NO_OFFSET) and not self.hidden:
            base = SRC if self.has(Feature.FROM_SRC) else DST
        else:
            self._checked_address()
        self.load_field(start, Operand.IMM)
        self.load_field(bound, Operand.EXTRA)
        self.subtract(address, base, start)
        self.branch("hs", address, bound, Reach.COLD, self.far)

    def _atomic(self, form: Form) -> None:
        address, low = self.SCRATCH[:2]
        self.address(address, SRC if form.operation == "load_acquire" else DST, Operand.EXTRA)
        if self.has(Feature.ALIGNED) and form.bits > 8:
            self.low_bits(low, address, (form.bits // 8).bit_length() - 1)
            self.branch("ne", low, self.ZERO, Reach.COLD, self.far)
        self.atomic(form)

    def _may_goto(self) -> None:
        left = self.SCRATCH[0]
        self.load_record(left, "may_goto")
        self.add_number(left, left, -1)
        self.store_record(left, "may_goto")
        self.branch("lt", left, self.ZERO, Reach.JUMP, self.far)

    def _call_local(self) -> None:
        kept = self._enter_frame()
        self.call(Reach.JUMP)
        self._leave_frame(kept)

    def _call_register(self) -> None:
        """callx: a function that the table knows is called here, all else is given away."""
        index, other = self.SCRATCH[:2]
        self.constant(other, FUNCTION_BASE)
        self.subtract(index, DST, other)
        self.number(other, Operand.EXTRA)
        beyond = self.skip("hs", index, other)
        self.low_bits(other, index, 3)
        between = self.skip("ne", other, self.ZERO)
        self._call_from_table(index, beyond, between)

    def _call_from_table(self, index: int, *beyond: Skip) -> None:
        """Call the function that the table has at index; give the call away if there is none, and from beyond."""
        # What enters the frame needs the first two scratch registers.
        other, target = self.SCRATCH[1:3]
        self.address_of(other, "table")
        self.add(other, other, index)
        self.load(target, other)
        known = self.skip("ne", target, self.ZERO)
        self.land(*beyond)
        self.routine("outside")
        done = self.skip_always()
        self.land(known)
        kept = self._enter_frame()
        self.call_register(target)
        self._leave_frame(kept)
        self.land(done)

    def _enter_frame(self) -> list[int]:
        """Keep what the caller needs and move to the next frame. Returns the registers kept."""
        frame, other = self.SCRATCH[:2]
        r10 = self.BPF[10]
        self.load_record(frame, "frame")
        self.load_record(other, "last_frame")
        self.branch("eq", frame, other, Reach.COLD, self.far)
        saved = [register for feature, register in zip(SAVES, self.BPF[6:10], strict=True) if self.has(feature)]
        kept = [self.RETURN, r10, *saved]
        self.add_number(self.STACK, self.STACK, -self._room(kept))
        for number, register in enumerate(kept):
            self.store(register, self.STACK, SLOT * number)
        self._next_frame(frame, other)
        if self.has(Feature.CALL_COUNTS):
            self.load_record(other, "may_goto")
            self.store(other, self.STACK, SLOT * len(kept))
            self.load_record(other, "may_goto_limit")
            self.store_record(other, "may_goto")
        return kept

    def _next_frame(self, frame: int, other: int) -> None:
        """Move frame and r10 on. frame: the end of the active frame; other is free."""
        r10 = self.BPF[10]
        self.add_number(r10, frame, FRAME_STRIDE)
        self.store_record(r10, "frame")

    def _leave_frame(self, kept: list[int]) -> None:
        frame, other = self.SCRATCH[:2]
        if self.has(Feature.CALL_COUNTS):
            self.load(other, self.STACK, SLOT * len(kept))
            self.store_record(other, "may_goto")
        for number, register in enumerate(kept):
            self.load(register, self.STACK, SLOT * number)
        self.add_number(self.STACK, self.STACK, self._room(kept))
        self.load_record(frame, "frame")
        self._last_frame(frame, other)
        self.store_record(frame, "frame")
        if self.has(Feature.CALL_FORGETS):
            self.load_record(other, "stack_kept")
            clean = self.skip("eq", other, self.ZERO)
            self.routine("forget")
            self.land(clean)

    def _last_frame(self, frame: int, other: int) -> None:
        """Move the end of the active frame back; other is free."""
        self.add_number(frame, frame, -FRAME_STRIDE)

    def _room(self, kept: list[int]) -> int:
        """Bytes that a call takes of the host's stack, which stays at a multiple of STACK_UNIT."""
        return -(-SLOT * (len(kept) + self.has(Feature.CALL_COUNTS)) // STACK_UNIT) * STACK_UNIT

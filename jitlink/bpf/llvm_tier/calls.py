"""Calls in LLVM IR: of functions of the program, of helpers in machine code, and of all that is outside.

A function that calls another passes r0 to r9 and takes r0 to r5 back.
"""

from __future__ import annotations

from collections.abc import Callable

from jitlink.bpf.isa import REGISTERS, Form
from jitlink.bpf.jit.abi import FRAME_STRIDE, Status
from jitlink.bpf.jit.proofs import MAP_LOOKUP
from jitlink.bpf.llvm_tier.accesses import Accesses
from jitlink.bpf.llvm_tier.bodies import Body, Program, in_frame
from jitlink.bpf.llvm_tier.choices import LOCALS, RESULTS, Choices, record_field
from jitlink.bpf.llvm_tier.values import UNLIKELY
from jitlink.bpf.machine import FUNCTION_BASE, POISON
from jitlink.bpf.native.lookups import Lookup


class Calls(Accesses):
    """Calls of every sort. Attributes: outside (functions that give something to the outside, by entry)."""

    def __init__(self, program: Program, body: Body, choices: Choices, outside: set[int]) -> None:
        super().__init__(program, body, choices)
        self.outside = outside

    def _call(self, slot: int, shape: Form) -> bool:
        program = self.program
        if shape.operation == "local":
            if not program.stays[slot]:
                self._fault(slot)
                return False
            self._call_function(slot, program.target[slot])
            return True
        if shape.operation == "register":
            return self._call_register(slot)
        number = program.imm[slot] & 0xFFFF_FFFF
        if shape.operation == "helper" and number == MAP_LOOKUP:
            lookup = self._lookup(slot)
            if lookup is not None:
                self._look_up(slot, lookup)
                return True
        if shape.operation == "helper" and number in self.choices.helpers:
            self._call_native(slot, number)
            return True
        return self._give_away(slot)

    def _lookup(self, slot: int) -> Lookup | None:
        """How the map of a lookup is looked up in machine code: one that is known, or whose address is in r1 here."""
        symbol = self.choices.looked_up.get(slot) or self._symbol_of.get(self._get(1))
        return self.choices.lookups.get(symbol or "")

    def _call_function(self, slot: int, target: int) -> None:
        """Call a function of the program, unless too many are active."""
        number = self._new()
        last = self._set(record_field("last_frame"))
        self._add(f"%l{number} = load i64, ptr {last}, !invariant.load !2")
        self._add(f"%w{number} = icmp uge i64 %frame, %l{number}")
        self._add(f"br i1 %w{number}, label %x{number}, label %y{number}, {UNLIKELY}", f"x{number}:")
        self._in_cold_block(lambda: self._fault(slot))
        self._add(f"y{number}:", f"%f{number} = add i64 %frame, {FRAME_STRIDE}")
        self._add(f"%g{number} = inttoptr i64 %f{number} to ptr")
        limit = self._set(record_field("may_goto_limit"))
        rounds = self._set(f"load i64, ptr {limit}, !invariant.load !2")
        passed = [f"i64 {self._get(register)}" for register in range(LOCALS)]
        if not self.choices.frame_is_known:
            passed.append(f"i64 %f{number}")
        passed.append(f"i64 {rounds}")
        if self.choices.metered:
            passed.append(f"i64 {self._set('load i64, ptr %Budget')}")
        values = ", ".join(["ptr %record", f"i64 %f{number}", f"ptr %g{number}", *passed])
        self._add(f"%r{number}.all = call fastcc {self.choices.result} @f{target}({values})")
        self._take_results(number, target)

    def _take_results(self, number: int, target: int) -> None:
        """Leave if the callee has left, else take over what it gives back."""
        result = self.choices.result
        given = RESULTS + self.choices.metered
        self._add(f"%h{number} = extractvalue {result} %r{number}.all, {given}")
        self._add(f"br i1 %h{number}, label %left, label %o{number}, {UNLIKELY}", f"o{number}:")
        for register in range(RESULTS):
            self._put(register, self._set(f"extractvalue {result} %r{number}.all, {register}"))
        if self.choices.metered:
            budget = self._set(f"extractvalue {result} %r{number}.all, {RESULTS}")
            self._add(f"store i64 {budget}, ptr %Budget")
        if target in self.outside:
            self._forget()

    def _call_register(self, slot: int) -> bool:
        """callx: functions of the program are called at once, and anything else is given away."""
        program = self.program
        number = self._new()
        value = self._get(program.dst[slot])
        self._flush()
        known = sorted(set(program.pointed_at()))
        cases = " ".join(f"i64 {FUNCTION_BASE + 8 * each - (1 << 64)}, label %n{number}.{each}" for each in known)
        self._add(f"switch i64 {value}, label %n{number}.other [ {cases} ]")
        for each in known:
            self._reload()
            self._narrow.clear()
            self._add(f"n{number}.{each}:")
            self._call_function(slot, each)
            self._flush()
            self._add(f"br label %{self._way(program.following(slot))}")
        self._reload()
        self._narrow.clear()
        self._add(f"n{number}.other:")
        return self._give_away(slot)

    def _packet(self, slot: int, shape: Form) -> bool:
        return self._give_away(slot)

    def _look_up(self, slot: int, lookup: Lookup) -> None:
        """Look an element up in place. Where the key is not in memory of the program, Python finds the fault."""
        key = self._get(2)
        if self.choices.sandbox and not self._in_frame(key, lookup.key_size):
            number = self._new()
            found = f"@search(ptr %record, i64 %frame, i64 {key}, i64 {lookup.key_size}, i1 0)"
            size = self._set(f"extractvalue {{ i64, i64 }} {self._set(f'call {{ i64, i64 }} {found}')}, 1")
            self._add(f"%z{number} = icmp eq i64 {size}, 0")
            self._add(f"br i1 %z{number}, label %x{number}, label %y{number}, {UNLIKELY}", f"x{number}:")
            self._in_cold_block(lambda: self._leave(slot, Status.FAULT, list(range(REGISTERS))))
            self._add(f"y{number}:")
        pointer = self._set(f"getelementptr i8, ptr @zero, i64 {key}")
        stays = "" if lookup.is_short or self.choices.inlines else " noinline"
        self._put(0, self._set(f"call i64 @{lookup.name}(ptr {pointer}){stays}"))
        self._clobber()

    def _in_frame(self, address: str, size: int) -> bool:
        """Whether an address is known to lie in the frame, with so many bytes behind it."""
        offset = self._frame_offset.get(address)
        return offset is not None and self.choices.frame_is_known and in_frame(offset, size)

    def _call_native(self, slot: int, number: int) -> None:
        """Call a helper in machine code: it may read the record, and what it declines goes to the callback."""
        unique = self._new()
        self._store_state(self._place(slot))
        passed = ", ".join(f"i64 {self._get(register)}" for register in range(1, 6))
        result = self._set(f"call i64 @helper{number}({passed}, ptr %record)")
        status_at = self._set(record_field("status"))
        self._add(f"%h{unique} = icmp ne i64 {self._set(f'load i64, ptr {status_at}')}, 0")
        # Both ways put what they make of registers into their places.
        self._flush()
        self._add(f"br i1 %h{unique}, label %x{unique}, label %y{unique}, {UNLIKELY}", f"x{unique}:")
        self._add(f"store i64 {int(Status.RUNNING)}, ptr {status_at}")
        self._in_cold_block(lambda: self._flush_after(lambda: self._give_away(slot)))
        self._add(f"br label %z{unique}", f"y{unique}:")
        self._take_budget()
        self._put(0, result)
        self._clobber()
        self._flush()
        self._add(f"br label %z{unique}", f"z{unique}:")
        self._reload()

    def _flush_after(self, write: Callable[[], object]) -> None:
        write()
        self._flush()

    def _clobber(self) -> None:
        """What a call of a helper makes of r1 to r5."""
        for register in range(1, 6):
            self._put(register, str(POISON - (1 << 64) if POISON >> 63 else POISON))

"""Accesses of memory in LLVM IR, and their checks.

An address is a number, and accesses go to `getelementptr i8, ptr @zero, i64 address`: a symbol at address 0, which
is made null once LLVM has optimised. An inttoptr would hide from LLVM's analyses how the addresses of a loop hang
together. Where no address in the frame is anywhere but in r10, accesses of the frame go through a noalias pointer.

**Checks.** For each base register and way of access a function remembers a region: where it starts, and how
many start addresses in it are good for each size of access. What does not lie in it goes to @search. A call
that may change the regions makes a function forget them.

**The outside.** What machine code has no part for, here atomic operations of the other byte order, is given to the
callback of the record, with all registers stored; everything is read again behind it.
"""

from __future__ import annotations

from jitlink.bpf.isa import FRAME_POINTER, REGISTERS, Family, Form
from jitlink.bpf.jit.program import BASE_IS_SRC, SIZE
from jitlink.bpf.llvm_tier.bodies import Body, Program, in_frame
from jitlink.bpf.llvm_tier.choices import RESULTS, Choices
from jitlink.bpf.llvm_tier.control import Control
from jitlink.bpf.llvm_tier.operations import ATOMICS
from jitlink.bpf.llvm_tier.values import LIKELY, UNLIKELY

MEMORY = (Family.LOAD, Family.STORE, Family.ATOMIC)


class Accesses(Control):
    """Loads, stores, atomic operations, and what is given to the outside."""

    def __init__(self, program: Program, body: Body, choices: Choices) -> None:
        super().__init__(program, body, choices)
        self._frame_offset = {"%frame": 0}
        self._sites = self._find_sites()

    def _find_sites(self) -> dict[str, list[int]]:
        """The sites of the accesses that are checked, and the sizes of access of each."""
        sites: dict[str, set[int]] = {}
        for block in self.body.blocks.values():
            for slot in block:
                if self.program.shape(slot).family in MEMORY and self._is_checked(slot):
                    sites.setdefault(self._site(slot), set()).add(int(SIZE[self.program.form[slot]]))
        return {site: sorted(sizes) for site, sizes in sites.items()}

    def _base(self, slot: int) -> int:
        """The register whose value an access starts from."""
        program = self.program
        return program.src[slot] if BASE_IS_SRC[program.form[slot]] else program.dst[slot]

    def _site(self, slot: int) -> str:
        shape = self.program.shape(slot)
        writes = shape.family is not Family.LOAD and shape.operation != "load_acquire"
        return f"S{'w' if writes else 'r'}{self._base(slot)}"

    def _is_framed(self, slot: int) -> bool:
        """Whether an access is one of the frame, at a constant distance from its end."""
        size = int(SIZE[self.program.form[slot]])
        known = self.choices.frame_is_known and self._base(slot) == FRAME_POINTER
        return known and in_frame(self.program.offset[slot], size)

    def _is_checked(self, slot: int) -> bool:
        checks = self.choices.sandbox and self._fast is None
        return checks and not self.choices.good[slot] and not self._is_framed(slot)

    def _address(self, slot: int, *, aligned: bool = False) -> str:
        """A pointer to what an instruction accesses, checked."""
        offset = self.program.offset[slot]
        # Where one access of the frame goes through its pointer, which is noalias, all of them have to.
        through_stack = self._is_framed(slot) and self.body.keeps_frame
        if through_stack and not (aligned and self.choices.sandbox):
            return self._set(f"getelementptr i8, ptr %stack, i64 {offset}")
        address = self._get(self._base(slot))
        if offset:
            address = self._set(f"add i64 {address}, {offset}")
        if self.choices.sandbox and aligned:
            self._check_alignment(slot, address, int(SIZE[self.program.form[slot]]))
        if through_stack:
            return self._set(f"getelementptr i8, ptr %stack, i64 {offset}")
        if self._is_checked(slot):
            self._check(slot, address)
        return self._set(f"getelementptr i8, ptr @zero, i64 {address}")

    def _check_alignment(self, slot: int, address: str, size: int) -> None:
        number = self._new()
        low = self._set(f"and i64 {address}, {size - 1}")
        self._add(f"%a{number} = icmp ne i64 {low}, 0")
        self._add(f"br i1 %a{number}, label %x{number}, label %y{number}, {UNLIKELY}", f"x{number}:")
        self._in_cold_block(lambda: self._fault(slot))
        self._add(f"y{number}:")

    def _check(self, slot: int, address: str) -> None:
        """Go on if an access lies in memory of the program."""
        site, size = self._site(slot), int(SIZE[self.program.form[slot]])
        number, write = self._new(), int(site.startswith("Sw"))
        self._add(
            f"%s{number} = load i64, ptr %{site}",
            f"%c{number} = load i64, ptr %{site}n{size}",
            f"%d{number} = sub i64 {address}, %s{number}",
            f"%i{number} = icmp ult i64 %d{number}, %c{number}",
            f"br i1 %i{number}, label %y{number}, label %x{number}, {LIKELY}",
            f"x{number}:",
            f"%p{number} = call {{ i64, i64 }} @search(ptr %record, i64 %frame, i64 {address}, i64 {size}, i1 {write})",
            f"%e{number} = extractvalue {{ i64, i64 }} %p{number}, 1",
            f"%z{number} = icmp eq i64 %e{number}, 0",
            f"br i1 %z{number}, label %q{number}, label %k{number}, {UNLIKELY}",
            f"q{number}:",
        )
        self._in_cold_block(lambda: self._fault(slot))
        self._add(f"k{number}:")
        self._add(f"store i64 {self._set(f'extractvalue {{ i64, i64 }} %p{number}, 0')}, ptr %{site}")
        for each in self._sites[site]:
            good = self._set(f"call i64 @llvm.usub.sat.i64(i64 %e{number}, i64 {each - 1})")
            self._add(f"store i64 {good}, ptr %{site}n{each}")
        self._add(f"br label %y{number}", f"y{number}:")

    def _forget(self) -> None:
        """Remember no region any more."""
        for site, sizes in self._sites.items():
            self._add(*(f"store i64 0, ptr %{site}n{size}" for size in sizes))
        for loop in self._loops.values():
            self._add(*(f"store i64 0, ptr {places}" for _, places in loop.kept))

    def _give_away(self, slot: int) -> bool:
        """Give an instruction to the callback, and do as it says."""
        number = self._new()
        self._store_registers(list(range(REGISTERS)))
        self._store_state(self._place(slot))
        self._add(f"%h{number} = call i64 @give_away(ptr %record)")
        self._add(f"switch i64 %h{number}, label %left [ i64 0, label %y{number} i64 1, label %w{number} ]")
        self._add(f"w{number}:")
        self._take_budget()
        self._return(self._stored(RESULTS))
        self._add(f"y{number}:")
        self._take_budget()
        for register, value in zip(self._registers(), self._stored(len(self._registers())), strict=True):
            self._put(register, value)
        self._forget()
        return True

    def _load(self, slot: int, shape: Form) -> bool:
        program, bits = self.program, shape.bits
        pointer = self._address(slot)
        value = self._set(f"load i{bits}, ptr {pointer}, align 1")
        value = self._swapped(value, bits)
        if bits < 64:
            extend = "sext" if shape.operation == "load_signed" else "zext"
            value = self._set(f"{extend} i{bits} {value} to i64")
        self._put(program.dst[slot], value)
        return True

    def _store(self, slot: int, shape: Form) -> bool:
        program, bits = self.program, shape.bits
        pointer = self._address(slot)
        if shape.from_register:
            value = self._cut(program.src[slot], bits)
        else:
            value = str((program.imm[slot] & (1 << bits) - 1 ^ 1 << bits - 1) - (1 << bits - 1))
        self._add(f"store i{bits} {self._swapped(value, bits)}, ptr {pointer}, align 1")
        return True

    def _swapped(self, value: str, bits: int) -> str:
        """Turn a value between the program's byte order and the host's."""
        if not self.choices.swapped or bits == 8:
            return value
        return self._set(f"call i{bits} @llvm.bswap.i{bits}(i{bits} {value})")

    def _atomic(self, slot: int, shape: Form) -> bool:
        if self.choices.swapped:
            return self._give_away(slot)
        program, bits, operation = self.program, shape.bits, shape.operation
        dst, src, size = program.dst[slot], program.src[slot], shape.bits // 8
        pointer = self._address(slot, aligned=True)
        if operation == "store_release":
            self._add(f"store atomic i{bits} {self._cut(src, bits)}, ptr {pointer} release, align {size}")
            return True
        if operation == "load_acquire":
            old, gets = self._set(f"load atomic i{bits}, ptr {pointer} acquire, align {size}"), dst
        elif operation == "cmpxchg":
            expected, new = self._cut(0, bits), self._cut(src, bits)
            pair = self._set(f"cmpxchg ptr {pointer}, i{bits} {expected}, i{bits} {new} seq_cst seq_cst")
            old, gets = self._set(f"extractvalue {{ i{bits}, i1 }} {pair}, 0"), 0
        else:
            value = self._cut(src, bits)
            old, gets = self._set(f"atomicrmw {ATOMICS[operation]} ptr {pointer}, i{bits} {value} seq_cst"), src
            if operation != "xchg" and not operation.startswith("fetch_"):
                return True
        self._put(gets, old if bits == 64 else self._set(f"zext i{bits} {old} to i64"))
        return True

"""A function of a BPF program as LLVM IR.

It is an internal function that takes r0 to r9 and gives r0 to r5 back, since a callee sees what its caller
has left in registers and the other way round; what nobody reads LLVM drops. Inside, each register has a
place on LLVM's stack (alloca), read once in a block and written at its end, which LLVM turns into SSA values.

**Leaving.** The last element of the result says that the program has left (jitlink.bpf.jit.abi): then
everybody returns at once, and what matters is in the record. Before it leaves, code stores the registers
that the interpreter reads when it carries the instruction out. The place that it leaves from is a number: `@places`
plus the slot plus 1; which number `@places` is, the linker says.

**Memory.** An address is a number, and accesses go to `getelementptr i8, ptr @zero, i64 address`: a symbol at
address 0, which is made null once LLVM has optimised. An inttoptr would hide from LLVM's analyses how the
addresses of a loop hang together. Where no address in the frame is anywhere but in r10, accesses
of the frame go through a noalias pointer.

**Checks.** For each base register and way of access a function remembers a region: where it starts, and how
many start addresses in it are good for each size of access. What does not lie in it goes to @search. A call
that may change the regions makes a function forget them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jitlink.bpf.isa import FRAME_POINTER, REGISTERS, Family, Form
from jitlink.bpf.jit.abi import FRAME_STRIDE, OFFSET, Status
from jitlink.bpf.jit.program import BASE_IS_SRC, SIZE
from jitlink.bpf.jit.proofs import MAP_LOOKUP
from jitlink.bpf.llvm_tier.bodies import Body, Program, in_frame
from jitlink.bpf.llvm_tier.loops import Loop, Window, find_loop
from jitlink.bpf.llvm_tier.operations import ATOMICS, CONDITIONS, LINES
from jitlink.bpf.machine import FUNCTION_BASE, POISON
from jitlink.bpf.native.lookups import Lookup

RESULTS = 6
"""How many registers a function gives back: r0 to r5."""
NOWHERE = -2
"""In the place of the block that a function is entered from."""
LOCALS = 10
"""How many registers a function takes: r0 to r9."""
UNLIKELY, LIKELY = "!prof !0", "!prof !1"
MEMORY = (Family.LOAD, Family.STORE, Family.ATOMIC)


@dataclass(frozen=True)
class Choices:
    """What a program is compiled for.

    Attributes: sandbox; metered; swapped (its byte order is not the host's); frame_is_known (r10 is the
    end of the active frame); good (accesses that need no check, by slot); symbols (for slots with a constant
    that is an address: the symbol that stands for it); helpers (numbers of those in machine code); lookups
    (of maps in machine code, by the symbol of the map).
    """

    sandbox: bool
    metered: bool
    swapped: bool
    frame_is_known: bool
    good: list[bool]
    symbols: dict[int, str]
    helpers: frozenset[int]
    lookups: dict[str, Lookup]

    @property
    def result(self) -> str:
        """The type of what a function gives back."""
        return "{ " + ", ".join(["i64"] * (RESULTS + self.metered)) + ", i1 }"

    @property
    def parameters(self) -> list[str]:
        """The types and names of what a function takes."""
        registers = [f"i64 %r{number}" for number in range(LOCALS + (not self.frame_is_known))]
        budget = ["i64 %budget"] if self.metered else []
        return ["ptr noalias %record", "i64 %frame", "ptr noalias %stack", *registers, "i64 %rounds", *budget]


def record_field(name: str, within: int = 0) -> str:
    """The address of a field of the record, as an instruction's right side."""
    return f"getelementptr i8, ptr %record, i64 {OFFSET[name] + within}"


class FunctionWriter:
    """One function in the making. Attributes: lines (of its text); attributes (number of their group in the module)."""

    def __init__(self, program: Program, body: Body, choices: Choices, outside: set[int], attributes: int = 0) -> None:
        self.program = program
        self.body = body
        self.choices = choices
        self.outside = outside
        self.attributes = attributes
        self.lines: list[str] = []
        self._count = 0
        self._fast: Loop | None = None
        self._exits: list[tuple[str, int, int]] = []
        self._lead = body.entry
        self._loops = self._find_loops()
        self._sites = self._find_sites()
        self._value: dict[int, str] = {}
        self._narrow: dict[str, str] = {}
        self._dirty: set[int] = set()
        self._frame_offset = {"%frame": 0}
        self._left = f"ret {choices.result} {{ {'i64 poison, ' * (RESULTS + choices.metered)}i1 true }}"
        self._emit: dict[Family, Callable[[int, Form], bool]] = {
            Family.ARITHMETIC: self._arithmetic,
            Family.BYTE_ORDER: self._byte_order,
            Family.CONSTANT: self._constant,
            Family.LOAD: self._load,
            Family.STORE: self._store,
            Family.ATOMIC: self._atomic,
            Family.JUMP: self._jump,
            Family.BRANCH: self._branch,
            Family.CALL: self._call,
            Family.PACKET: self._packet,
            Family.EXIT: self._exit,
        }

    def write(self) -> str:
        """Write the function."""
        choices = self.choices
        for lead, block in self.body.blocks.items():
            self._block(lead, block)
            if lead in self._loops:
                self._loop(self._loops[lead], block)
        parameters = ", ".join(choices.parameters)
        head = [
            f"define internal fastcc {choices.result} @f{self.body.entry}({parameters}) #{self.attributes} {{",
            "start:",
        ]
        head += [f"%R{number} = alloca i64\nstore i64 %r{number}, ptr %R{number}" for number in self._registers()]
        head += ["%Rounds = alloca i64\nstore i64 %rounds, ptr %Rounds"]
        if choices.metered:
            head += ["%Budget = alloca i64\nstore i64 %budget, ptr %Budget"]
        for site, sizes in self._sites.items():
            head += [f"%{site} = alloca i64\nstore i64 0, ptr %{site}"]
            head += [f"%{site}n{size} = alloca i64\nstore i64 0, ptr %{site}n{size}" for size in sizes]
        for loop in self._loops.values():
            names = [f"%I{loop.lead}", *(name for site in self._loop_sites(loop) for name in site)]
            head += [f"{name} = alloca i64\nstore i64 0, ptr {name}" for name in names]
        head.append(f"br label %{self._way(self.body.entry, NOWHERE)}")
        return "\n".join([*head, *self.lines, "}"])

    def _find_sites(self) -> dict[str, list[int]]:
        """The sites of the accesses that are checked, and the sizes of access of each."""
        sites: dict[str, set[int]] = {}
        for block in self.body.blocks.values():
            for slot in block:
                if self.program.shape(slot).family in MEMORY and self._is_checked(slot):
                    sites.setdefault(self._site(slot), set()).add(int(SIZE[self.program.form[slot]]))
        return {site: sorted(sizes) for site, sizes in sites.items()}

    def _find_loops(self) -> dict[int, Loop]:
        """The loops that get a second version, by their blocks."""
        if not self.choices.sandbox and not self.choices.metered:
            return {}
        found = (find_loop(self.program, block, self._is_checked) for block in self.body.blocks.values())
        return {loop.lead: loop for loop in found if loop is not None}

    def _loop_sites(self, loop: Loop) -> list[tuple[str, str]]:
        """Where it is kept, for each window of a loop, which region it was in and how many places there are for it."""
        return [(f"%L{loop.lead}s{number}", f"%L{loop.lead}n{number}") for number in range(len(loop.windows))]

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

    def _registers(self) -> range:
        return range(LOCALS + (not self.choices.frame_is_known))

    # Text

    def _add(self, *lines: str) -> None:
        self.lines += lines

    def _new(self) -> int:
        self._count += 1
        return self._count

    def _set(self, line: str) -> str:
        """Add an instruction; returns the name of its result."""
        name = f"%t{self._new()}"
        self.lines.append(f"{name} = {line}")
        return name

    # Registers

    def _get(self, register: int) -> str:
        """The value of a register."""
        if register == FRAME_POINTER and self.choices.frame_is_known:
            return "%frame"
        value = self._value.get(register)
        if value is None:
            value = self._value[register] = self._set(f"load i64, ptr %R{register}")
        return value

    def _put(self, register: int, value: str) -> None:
        self._value[register] = value
        self._dirty.add(register)

    def _get_narrow(self, register: int) -> str:
        """The low 32 bits of a register."""
        value = self._get(register)
        narrow = self._narrow.get(value)
        if narrow is None:
            narrow = self._narrow[value] = self._set(f"trunc i64 {value} to i32")
        return narrow

    def _put_narrow(self, register: int, value: str) -> None:
        wide = self._set(f"zext i32 {value} to i64")
        self._narrow[wide] = value
        self._put(register, wide)

    def _operand(self, register: int, bits: int) -> str:
        return self._get(register) if bits == 64 else self._get_narrow(register)

    def _give(self, register: int, value: str, bits: int) -> None:
        if bits == 64:
            self._put(register, value)
        else:
            self._put_narrow(register, value)

    def _flush(self) -> None:
        """Write the registers that have changed to their places."""
        for register in sorted(self._dirty):
            self._add(f"store i64 {self._value[register]}, ptr %R{register}")
        self._dirty.clear()

    def _reload(self, first: int = 0) -> None:
        """Forget values of registers, which are in their places now."""
        for register in range(first, REGISTERS):
            self._value.pop(register, None)

    # Leaving

    def _store_registers(self, registers: list[int]) -> None:
        for register in registers:
            at = self._set(record_field("registers", 8 * register))
            self._add(f"store i64 {self._get(register)}, ptr {at}")

    def _store_state(self, slot: int) -> None:
        """Store what the machine looks at besides registers."""
        place = self._set(f"add i64 ptrtoint (ptr @places to i64), {slot + 1}")
        self._add(f"store i64 {place}, ptr {self._set(record_field('place'))}")
        self._add(f"store i64 %frame, ptr {self._set(record_field('frame'))}")
        if self.choices.metered:
            budget = self._set("load i64, ptr %Budget")
            self._add(f"store i64 {budget}, ptr {self._set(record_field('budget'))}")

    def _leave(self, slot: int, status: Status, registers: list[int]) -> None:
        """Leave at an instruction; the current block of IR ends."""
        self._store_registers(registers)
        self._store_state(slot)
        self._add(f"store i64 {int(status)}, ptr {self._set(record_field('status'))}", self._left)

    def _fault(self, slot: int) -> None:
        shape = self.program.shape(slot)
        fields = {"dst": self.program.dst[slot], "src": self.program.src[slot]}
        self._leave(slot, Status.FAULT, sorted({0} | {fields[name] for name in shape.reads}))

    # Blocks

    def _block(self, lead: int, block: list[int]) -> None:
        self._value.clear()
        self._narrow.clear()
        self._dirty.clear()
        self._lead = lead
        self._add(f"b{lead}:")
        if self.choices.metered:
            self._meter(lead, block)
        self._carry_out(block)

    def _carry_out(self, block: list[int]) -> None:
        """Write the instructions of a block, and where it leads."""
        for slot in block:
            shape = self.program.shape(slot)
            if shape.family is Family.NONE:
                self._fault(slot)
                return
            if not self._emit[shape.family](slot, shape):
                return
        self._flush()
        self._add(f"br label %{self._way(self.program.following(block[-1]))}")

    def _way(self, target: int, lead: int | None = None) -> str:
        """The label of a block, for a jump from the block at lead (by default the one being written)."""
        lead = self._lead if lead is None else lead
        if self._fast is not None:
            if target in (self._fast.lead, self._fast.latch):
                return f"L{lead}.next"
            self._exits.append((f"L{lead}.out{len(self._exits)}", target, lead))
            return self._exits[-1][0]
        loop = self._loops.get(target)
        return f"b{target}" if loop is None or lead in (loop.lead, loop.latch) else f"L{target}.enter"

    # Loops

    def _loop(self, loop: Loop, block: list[int]) -> None:
        """Write the second version of a loop, which has no checks and no meter."""
        lead = loop.lead
        self._value.clear()
        self._narrow.clear()
        self._add(f"L{lead}.enter:")
        rounds = self._rounds(loop)
        self._add(f"store i64 0, ptr %I{lead}", f"br label %L{lead}.again", f"L{lead}.again:")
        self._value.clear()
        self._narrow.clear()
        self._add(f"%L{lead}.i = load i64, ptr %I{lead}", f"%L{lead}.goes = icmp ult i64 %L{lead}.i, {rounds}")
        self._add(f"br i1 %L{lead}.goes, label %L{lead}.round, label %L{lead}.done", f"L{lead}.round:")
        self._fast, self._exits = loop, []
        self._carry_out(block)
        self._fast = None
        self._add(f"L{lead}.next:", f"%L{lead}.j = add i64 %L{lead}.i, 1", f"store i64 %L{lead}.j, ptr %I{lead}")
        self._add(f"br label %L{lead}.again", f"L{lead}.done:")
        self._account(loop, 0)
        self._add(f"br label %b{lead}")
        for label, target, _ in self._exits:
            self._add(f"{label}:")
            self._account(loop, self.program.counted[lead])
            self._add(f"br label %{self._way(target)}")

    def _account(self, loop: Loop, more: int) -> None:
        """Take what the second version has carried out from the budget: its rounds, and more instructions."""
        if self.choices.metered:
            used = self._set(f"mul i64 %L{loop.lead}.i, {loop.count}")
            left = self._set("load i64, ptr %Budget")
            left = self._set(f"sub i64 {left}, {used}")
            self._add(f"store i64 {self._set(f'sub i64 {left}, {more}')}, ptr %Budget")

    def _rounds(self, loop: Loop) -> str:
        """How many rounds need no check and no meter."""
        rounds = "-1"
        if self.choices.metered:
            rounds = self._set(f"udiv i64 {self._set('load i64, ptr %Budget')}, {loop.count}")
        for window, site in zip(loop.windows, self._loop_sites(loop), strict=True):
            room = self._room(window, *site)
            rounds = self._set(f"call i64 @llvm.umin.i64(i64 {rounds}, i64 {room})")
        return rounds

    def _room(self, window: Window, start: str, places: str) -> str:
        """For how many rounds a window stays in the region that it is in; 0 where it is in none."""
        first = str(window.low)
        for register, factor in window.terms:
            value = self._set(f"mul i64 {self._get(register)}, {factor}") if factor != 1 else self._get(register)
            first = self._set(f"add i64 {first}, {value}")
        number, size = self._new(), window.high - window.low
        distance = self._set(f"sub i64 {first}, {self._set(f'load i64, ptr {start}')}")
        known = self._set(f"icmp ult i64 {distance}, {self._set(f'load i64, ptr {places}')}")
        self._add(f"br i1 {known}, label %y{number}, label %x{number}, {LIKELY}", f"x{number}:")
        found = (
            f"call {{ i64, i64 }} @search(ptr %record, i64 %frame, i64 {first}, i64 {size}, i1 {int(window.writes)})"
        )
        pair = self._set(found)
        self._add(f"store i64 {self._set(f'extractvalue {{ i64, i64 }} {pair}, 0')}, ptr {start}")
        length = self._set(f"extractvalue {{ i64, i64 }} {pair}, 1")
        length = self._set(f"call i64 @llvm.usub.sat.i64(i64 {length}, i64 {size - 1})")
        self._add(f"store i64 {length}, ptr {places}", f"br label %y{number}", f"y{number}:")
        distance = self._set(f"sub i64 {first}, {self._set(f'load i64, ptr {start}')}")
        count = self._set(f"load i64, ptr {places}")
        inside = self._set(f"icmp ult i64 {distance}, {count}")
        if not window.step:
            return self._set(f"select i1 {inside}, i64 -1, i64 0")
        if window.step > 0:
            last = self._set(f"sub i64 {count}, 1")
            distance = self._set(f"sub i64 {last}, {distance}")
        more = self._set(f"udiv i64 {distance}, {abs(window.step)}")
        return self._set(f"select i1 {inside}, i64 {self._set(f'add i64 {more}, 1')}, i64 0")

    def _meter(self, lead: int, block: list[int]) -> None:
        """Take the block from the budget, or leave with what the interpreter reads to carry out a part of it."""
        number = self._new()
        left = self._set("load i64, ptr %Budget")
        self._add(f"%m{number} = sub i64 {left}, {self.program.counted[lead]}")
        self._add(f"store i64 %m{number}, ptr %Budget", f"%o{number} = icmp slt i64 %m{number}, 0")
        self._add(f"br i1 %o{number}, label %x{number}, label %y{number}, {UNLIKELY}", f"x{number}:")
        self._leave(lead, Status.OUT_OF_BUDGET, self._exposed(block[:-1]))
        self._value.clear()
        self._narrow.clear()
        self._add(f"y{number}:")

    def _exposed(self, block: list[int]) -> list[int]:
        """The registers that a block reads before it writes them; r0 counts as read."""
        read: set[int] = {0}
        written: set[int] = set()
        for slot in block:
            shape = self.program.shape(slot)
            fields = {"dst": self.program.dst[slot], "src": self.program.src[slot]}
            read |= {fields[name] for name in shape.reads} - written
            written |= {fields[name] for name in shape.writes}
        return sorted(read)

    # Arithmetic

    def _arithmetic(self, slot: int, shape: Form) -> bool:
        program, bits, operation = self.program, shape.bits, shape.operation
        dst, src, imm = program.dst[slot], program.src[slot], program.imm[slot]
        if operation.startswith("movsx"):
            narrow = self._set(f"trunc i64 {self._get(src)} to i{operation[5:]}")
            self._give(dst, self._set(f"sext i{operation[5:]} {narrow} to i{bits}"), bits)
            return True
        second = self._operand(src, bits) if shape.from_register else str(imm)
        if operation == "mov":
            if shape.from_register or bits == 64:
                self._give(dst, second, bits)
            else:
                self._put(dst, str(imm & 0xFFFF_FFFF))
            return True
        number = self._new()
        first = self._operand(dst, bits)
        words = {"a": first, "b": second, "t": f"i{bits}", "n": number, "mask": bits - 1}
        self._add(LINES[operation].format_map(words))
        self._give(dst, f"%v{number}", bits)
        if operation == "add" and bits == 64 and not shape.from_register and first in self._frame_offset:
            self._frame_offset[f"%v{number}"] = self._frame_offset[first] + imm
        return True

    def _byte_order(self, slot: int, shape: Form) -> bool:
        dst, bits = self.program.dst[slot], shape.bits
        order = self.program.slots.code.byteorder
        swaps = shape.operation == "bswap" or {"le": "little", "be": "big"}[shape.operation] != order
        value = self._get(dst)
        if bits < 64:
            value = self._set(f"trunc i64 {value} to i{bits}")
        if swaps:
            value = self._set(f"call i{bits} @llvm.bswap.i{bits}(i{bits} {value})")
        self._put(dst, value if bits == 64 else self._set(f"zext i{bits} {value} to i64"))
        return True

    def _constant(self, slot: int, shape: Form) -> bool:
        program = self.program
        symbol = self.choices.symbols.get(slot)
        value = program.constant[slot]
        if shape.operation == "code":
            value = FUNCTION_BASE + 8 * (slot + 1 + program.imm[slot])
        value = (value & (1 << 64) - 1 ^ 1 << 63) - (1 << 63)
        self._put(program.dst[slot], f"ptrtoint (ptr @{symbol} to i64)" if symbol else str(value))
        return True

    # Memory

    def _address(self, slot: int, *, aligned: bool = False) -> str:
        """A pointer to what an instruction accesses, checked."""
        offset, base = self.program.offset[slot], self._base(slot)
        if self._is_framed(slot) and self.body.keeps_frame and not aligned:
            return self._set(f"getelementptr i8, ptr %stack, i64 {offset}")
        address = self._get(base)
        if offset:
            address = self._set(f"add i64 {address}, {offset}")
        if self.choices.sandbox and aligned:
            self._check_alignment(slot, address, int(SIZE[self.program.form[slot]]))
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

    def _in_cold_block(self, write: Callable[[], None]) -> None:
        """Write a block that does not come back: what it has made of registers does not hold behind it."""
        value, narrow = self._value.copy(), self._narrow.copy()
        write()
        self._value, self._narrow = value, narrow

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
            self._add(*(f"store i64 0, ptr {places}" for _, places in self._loop_sites(loop)))

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

    def _cut(self, register: int, bits: int) -> str:
        """The low bits of a register."""
        if bits == 64:
            return self._get(register)
        return self._get_narrow(register) if bits == 32 else self._set(f"trunc i64 {self._get(register)} to i{bits}")

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

    # Control

    def _jump(self, slot: int, shape: Form) -> bool:
        if not self.program.stays[slot]:
            self._fault(slot)
            return False
        self._flush()
        self._add(f"br label %{self._way(self.program.target[slot])}")
        return False

    def _branch(self, slot: int, shape: Form) -> bool:
        program = self.program
        number = self._new()
        taken = f"%u{number}"
        if shape.operation == "may_goto":
            rounds = self._set("load i64, ptr %Rounds")
            left = self._set(f"sub i64 {rounds}, 1")
            self._add(f"store i64 {left}, ptr %Rounds", f"{taken} = icmp slt i64 {left}, 0")
        else:
            self._condition(slot, shape, taken)
        self._flush()
        following = self._way(program.following(slot))
        if program.stays[slot]:
            self._add(f"br i1 {taken}, label %{self._way(program.target[slot])}, label %{following}")
            return False
        self._add(f"br i1 {taken}, label %x{number}, label %{following}", f"x{number}:")
        self._fault(slot)
        return False

    def _condition(self, slot: int, shape: Form, name: str) -> None:
        bits, program = shape.bits, self.program
        first = self._operand(program.dst[slot], bits)
        second = self._operand(program.src[slot], bits) if shape.from_register else str(program.imm[slot])
        if shape.operation == "jset":
            self._add(f"{name} = icmp ne i{bits} {self._set(f'and i{bits} {first}, {second}')}, 0")
        else:
            self._add(f"{name} = icmp {CONDITIONS[shape.operation]} i{bits} {first}, {second}")

    def _exit(self, slot: int, shape: Form) -> bool:
        self._return([self._get(register) for register in range(RESULTS)])
        return False

    def _return(self, values: list[str]) -> None:
        """Give registers back, and the budget."""
        if self.choices.metered:
            values = [*values, self._set("load i64, ptr %Budget")]
        made = "poison"
        for position, value in enumerate(values):
            made = self._set(f"insertvalue {self.choices.result} {made}, i64 {value}, {position}")
        made = self._set(f"insertvalue {self.choices.result} {made}, i1 false, {len(values)}")
        self._add(f"ret {self.choices.result} {made}")

    def _packet(self, slot: int, shape: Form) -> bool:
        return self._give_away(slot)

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
            lookup = self.choices.lookups.get(self._get(1))
            if lookup is not None:
                self._look_up(slot, lookup)
                return True
        if shape.operation == "helper" and number in self.choices.helpers:
            self._call_native(slot, number)
            return True
        return self._give_away(slot)

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
        self._add(f"br i1 %h{number}, label %left{number}, label %o{number}, {UNLIKELY}")
        self._add(f"left{number}:", self._left, f"o{number}:")
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

    # The outside

    def _give_away(self, slot: int) -> bool:
        """Give an instruction to the callback, and do as it says."""
        number = self._new()
        self._store_registers(list(range(REGISTERS)))
        self._store_state(slot)
        self._add(f"%h{number} = call i64 @give_away(ptr %record)")
        self._add(f"switch i64 %h{number}, label %x{number} [ i64 0, label %y{number} i64 1, label %w{number} ]")
        self._add(f"x{number}:", self._left, f"w{number}:")
        self._take_budget()
        self._return(self._stored(RESULTS))
        self._add(f"y{number}:")
        self._take_budget()
        for register, value in zip(self._registers(), self._stored(len(self._registers())), strict=True):
            self._put(register, value)
        self._forget()
        return True

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
        self._put(0, self._set(f"call i64 @{lookup.name}(ptr {pointer})"))
        self._clobber()

    def _in_frame(self, address: str, size: int) -> bool:
        """Whether an address is known to lie in the frame, with so many bytes behind it."""
        offset = self._frame_offset.get(address)
        return offset is not None and self.choices.frame_is_known and in_frame(offset, size)

    def _call_native(self, slot: int, number: int) -> None:
        """Call a helper in machine code: it may read the record, and may stop the program."""
        unique = self._new()
        self._store_state(slot)
        passed = ", ".join(f"i64 {self._get(register)}" for register in range(1, 6))
        result = self._set(f"call i64 @helper{number}({passed}, ptr %record)")
        status = self._set(f"load i64, ptr {self._set(record_field('status'))}")
        self._add(f"%h{unique} = icmp ne i64 {status}, 0")
        self._add(f"br i1 %h{unique}, label %x{unique}, label %y{unique}, {UNLIKELY}", f"x{unique}:")
        self._in_cold_block(lambda: self._store_registers(list(range(REGISTERS))))
        self._add(self._left, f"y{unique}:")
        self._take_budget()
        self._put(0, result)
        self._clobber()

    def _clobber(self) -> None:
        """What a call of a helper makes of r1 to r5."""
        for register in range(1, 6):
            self._put(register, str(POISON - (1 << 64) if POISON >> 63 else POISON))

    def _stored(self, count: int) -> list[str]:
        """The first registers as they are in the record."""
        return [
            self._set(f"load i64, ptr {self._set(record_field('registers', 8 * register))}")
            for register in range(count)
        ]

    def _take_budget(self) -> None:
        if self.choices.metered:
            budget = self._set(f"load i64, ptr {self._set(record_field('budget'))}")
            self._add(f"store i64 {budget}, ptr %Budget")

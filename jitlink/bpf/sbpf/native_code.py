"""From an SBPF program to LLVM IR.

Each function of the program becomes a function of the host: `status f(Record *)`. It takes its registers from the
record, keeps them in registers of the host, and stores them where it calls or leaves. A status that is not 0
passes through all callers; the record then says where and why (jitlink.bpf.sbpf.abi).

A basic block takes its instructions from the budget before it runs. Where the budget does not suffice it leaves,
and the interpreter carries out what is left; a fault gives back what has not run. So native code counts as the
interpreter does.

Every access is translated and checked: the upper half of the address chooses a window of the record, the lower
half must lie in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jitlink.bpf.instructions import SLOT
from jitlink.bpf.sbpf.abi import OFFSET, Status, Window
from jitlink.bpf.sbpf.functions import Code, Instruction
from jitlink.bpf.sbpf.isa import FRAME_POINTER, REGISTERS, Extension, Family, Form, register_of_callx
from jitlink.bpf.sbpf.memory import CALL_DEPTH, FRAME_BITS, FRAME_SIZE, REGION_BITS, REGIONS, STACK_START
from jitlink.bpf.sbpf.semantics import constant_of
from jitlink.bpf.sbpf.versions import Version

# fmt: off
SIMPLE = {"add": "add", "sub": "sub", "mul": "mul", "or": "or", "and": "and", "xor": "xor", "hor": "or"}
SHIFTS = {"lsh": "shl", "rsh": "lshr", "arsh": "ashr"}
DIVISIONS = {"div": "udiv", "mod": "urem", "sdiv": "sdiv", "smod": "srem"}
CONDITIONS = {
    "jeq": "eq", "jne": "ne", "jgt": "ugt", "jge": "uge", "jlt": "ult", "jle": "ule",
    "jsgt": "sgt", "jsge": "sge", "jslt": "slt", "jsle": "sle",
}
# fmt: on
INLINE_AT_MOST = 128
"""Accesses of a program up to which the check of each is inline. LLVM takes more than linear time for the checks
of a long function; with more of them they are calls of one function."""
LONGEST_PART = 256
"""Instructions of a function of the host, since LLVM takes more than linear time for long ones. A longer function of
the program is several of the host, which go on in each other by tail calls with all registers in the record."""
CALLER_SAVED = range(6)
"""The registers that a called function leaves its own values in."""

_DECLARATIONS = "\n".join(f"declare i{bits} @llvm.bswap.i{bits}(i{bits})" for bits in (16, 32, 64))
_TRANSLATE = """
define internal i64 @translate(ptr %record, i64 %address, i64 %size, i64 %windows) {inlined} {{
  %number = lshr i64 %address, {bits}
  %known = icmp ult i64 %number, {regions}
  br i1 %known, label %look, label %bad
look:
  %row = mul i64 %number, {window}
  %at = add i64 %row, %windows
  %start_at = getelementptr i8, ptr %record, i64 %at
  %size_at = getelementptr i8, ptr %start_at, i64 {size}
  %host_at = getelementptr i8, ptr %start_at, i64 {host}
  %start = load i64, ptr %start_at
  %have = load i64, ptr %size_at
  %host = load i64, ptr %host_at
  %low = and i64 %address, {low}
  %distance = sub i64 %low, %start
{gaps}
  %begins = icmp ult i64 %offset, %have
  %end = add i64 %offset, %size
  %ends = icmp ule i64 %end, %have
  %good = and i1 %begins, %ends
  br i1 %good, label %found, label %bad
found:
  %place = add i64 %host, %offset
  ret i64 %place
bad:
  ret i64 0
}}
"""
_NO_GAPS = "  %offset = add i64 %distance, 0"
_GAPS = """
  %is_stack = icmp eq i64 %number, {stack}
  %frame = lshr i64 %distance, {frame_bits}
  %odd = trunc i64 %frame to i1
  %in_gap = and i1 %is_stack, %odd
  br i1 %in_gap, label %bad, label %in_frame
in_frame:
  %pair = lshr i64 %frame, 1
  %packed = shl i64 %pair, {frame_bits}
  %within = and i64 %distance, {within}
  %squeezed = or i64 %packed, %within
  %offset = select i1 %is_stack, i64 %squeezed, i64 %distance
"""


def module_of(code: Code, natives: Collection[int]) -> str:
    """Write the IR of a program. natives: the numbers of syscalls that are C functions, called syscall_N."""
    functions = code.functions()
    version = code.executable.version
    inlined = _accesses(functions) <= INLINE_AT_MOST
    parts = [_DECLARATIONS, _translate(version, inlined)]
    parts += [f"declare i64 @syscall_{number}(i64, i64, i64, i64, i64, ptr)" for number in sorted(natives)]
    for start, blocks in functions.items():
        parts += _Function.parts(code, start, blocks, functions, natives)
    parts.append(_dispatch(functions))
    entry = code.executable.entry
    parts.append(f"define i64 @enter(ptr %record) {{\n  %left = call i64 @f{entry}(ptr %record)\n  ret i64 %left\n}}")
    return "\n".join(parts)


def _accesses(functions: Mapping[int, list[list[Instruction]]]) -> int:
    """How many instructions of all functions access memory."""
    forms = (each.form for blocks in functions.values() for block in blocks for each in block)
    return sum(form is not None and form.family in (Family.LOAD, Family.STORE) for form in forms)


def _translate(version: Version, inlined: bool) -> str:
    gaps = _NO_GAPS
    if version.has_gaps:
        gaps = _GAPS.format(stack=STACK_START >> REGION_BITS, frame_bits=FRAME_BITS, within=FRAME_SIZE - 1)
    return _TRANSLATE.format(
        bits=REGION_BITS,
        regions=REGIONS,
        window=_size_of_window(),
        size=Window.size.offset,
        host=Window.host.offset,
        low=(1 << REGION_BITS) - 1,
        gaps=gaps,
        inlined="alwaysinline" if inlined else "noinline",
    )


def _size_of_window() -> int:
    return (OFFSET["writable"] - OFFSET["readable"]) // REGIONS


def _dispatch(functions: Collection[int]) -> str:
    """The function that calls another by its slot, in the record's target; one without native code is interpreted."""
    cases = " ".join(f"i64 {slot}, label %to{slot}" for slot in functions)
    lines = ["define internal i64 @dispatch(ptr %record, i64 %slot) {", f"  switch i64 %slot, label %other [{cases}]"]
    for slot in functions:
        lines += [f"to{slot}:", f"  %left{slot} = call i64 @f{slot}(ptr %record)", f"  ret i64 %left{slot}"]
    lines += [
        "other:",
        f"  %target_at = getelementptr i8, ptr %record, i64 {OFFSET['target']}",
        "  store i64 %slot, ptr %target_at",
        f"  %call_at = getelementptr i8, ptr %record, i64 {OFFSET['call_slot']}",
        "  %interpret = load ptr, ptr %call_at",
        "  call void %interpret(ptr %record)",
        f"  %status_at = getelementptr i8, ptr %record, i64 {OFFSET['status']}",
        "  %left = load i64, ptr %status_at",
        "  ret i64 %left",
        "}",
    ]
    return "\n".join(lines)


class _Function:
    """Writes one function."""

    def __init__(
        self,
        code: Code,
        start: int,
        blocks: list[list[Instruction]],
        functions: Collection[int],
        natives: Collection[int],
        part_of: Mapping[int, int],
    ) -> None:
        """blocks: of this part. part_of: the part of each block of a function of several, by its first slot."""
        self.code = code
        self.version = code.executable.version
        self.start = start
        self.blocks = blocks
        self.functions = functions
        self.natives = natives
        self.part_of = part_of
        self.inside = {block[0].pc for block in blocks}
        self.outside: set[int] = set()
        self.lines: list[str] = []
        self.names = 0
        self.rest = 0

    @classmethod
    def parts(
        cls,
        code: Code,
        start: int,
        blocks: list[list[Instruction]],
        functions: Collection[int],
        natives: Collection[int],
    ) -> list[str]:
        """Write a function, in parts if it is long."""
        parts: list[list[list[Instruction]]] = [[]]
        size = 0
        for block in blocks:
            if size + len(block) > LONGEST_PART and parts[-1]:
                parts.append([])
                size = 0
            parts[-1].append(block)
            size += len(block)
        if len(parts) == 1:
            return [cls(code, start, blocks, functions, natives, {}).text()]
        part_of = {block[0].pc: number for number, part in enumerate(parts) for block in part}
        first = f"  %left = call i64 @f{start}_0(ptr %record, i64 {start})\n  ret i64 %left\n}}"
        texts = [f"define internal i64 @f{start}(ptr %record) noinline {{\n{first}"]
        return texts + [cls(code, start, part, functions, natives, part_of).text() for part in parts]

    def text(self) -> str:
        """Write it."""
        lead = self.blocks[0][0].pc
        if self.part_of:
            name = f"@f{self.start}_{self.part_of[lead]}(ptr %record, i64 %slot)"
            cases = " ".join(f"i64 {pc}, label %b{pc}" for pc in sorted(self.inside))
            begin = f"switch i64 %slot, label %b{lead} [{cases}]"
        else:
            name, begin = f"@f{self.start}(ptr %record)", f"br label %b{lead}"
        self.lines = [f"define internal i64 {name} noinline {{"]
        for name in (*(f"r{number}" for number in range(REGISTERS)), "budget", "place", "status"):
            self.add(f"%{name} = alloca i64")
        self.load_registers(range(REGISTERS))
        self.add(begin)
        for block in self.blocks:
            self.block(block)
        for pc in sorted(self.outside):
            self.label(f"x{pc}")
            self.store_registers(range(REGISTERS))
            part = f"@f{self.start}_{self.part_of[pc]}"
            self.add(f"ret i64 {self.new(f'musttail call i64 {part}(ptr %record, i64 {pc})')}")
        self.label("leave")
        self.store_registers(range(REGISTERS))
        for name in ("place", "status"):
            self.put(name, self.load(f"%{name}"))
        self.add(f"ret i64 {self.load('%status')}")
        return "\n".join([*self.lines, "}"])

    def label_of(self, pc: int | None) -> str:
        """Where to branch to reach a block, which may lie in another part."""
        assert pc is not None
        if pc in self.inside:
            return f"%b{pc}"
        self.outside.add(pc)
        return f"%x{pc}"

    # Pieces of IR

    def add(self, line: str) -> None:
        """Write an instruction."""
        self.lines.append(f"  {line}")

    def label(self, name: str) -> None:
        """Begin a block."""
        self.lines.append(f"{name}:")

    def new(self, expression: str) -> str:
        """Write an instruction with a result, and return its name."""
        self.names += 1
        self.add(f"%t{self.names} = {expression}")
        return f"%t{self.names}"

    def fresh_label(self) -> str:
        """Make a name for a block."""
        self.names += 1
        return f"l{self.names}"

    def load(self, place: str) -> str:
        """Load 64 bits."""
        return self.new(f"load i64, ptr {place}")

    def at(self, name: str, within: int = 0) -> str:
        """The address of a field of the record."""
        return self.new(f"getelementptr i8, ptr %record, i64 {OFFSET[name] + within}")

    def get(self, name: str) -> str:
        """Load a field of the record."""
        return self.load(self.at(name))

    def put(self, name: str, value: str | int) -> None:
        """Store to a field of the record."""
        self.add(f"store i64 {value}, ptr {self.at(name)}")

    def load_registers(self, registers: range) -> None:
        """Take registers and the budget from the record."""
        for number in registers:
            self.add(f"store i64 {self.load(self.at('registers', 8 * number))}, ptr %r{number}")
        self.add(f"store i64 {self.get('budget')}, ptr %budget")

    def store_registers(self, registers: range) -> None:
        """Store registers and the budget to the record."""
        for number in registers:
            value = self.load(f"%r{number}")
            self.add(f"store i64 {value}, ptr {self.at('registers', 8 * number)}")
        self.put("budget", self.load("%budget"))

    def leave(self, pc: int, status: Status) -> None:
        """Leave."""
        self.add(f"store i64 {pc}, ptr %place")
        self.add(f"store i64 {int(status)}, ptr %status")
        self.add("br label %leave")

    def fault(self, pc: int) -> None:
        """Leave at an instruction that faults, and give back what follows it in its block."""
        if self.rest:
            left = self.new(f"add i64 {self.load('%budget')}, {self.rest}")
            self.add(f"store i64 {left}, ptr %budget")
        self.leave(pc, Status.FAULT)

    def fault_if(self, condition: str, pc: int) -> None:
        """Leave if a condition holds."""
        bad, good = self.fresh_label(), self.fresh_label()
        self.add(f"br i1 {condition}, label %{bad}, label %{good}")
        self.label(bad)
        self.fault(pc)
        self.label(good)

    # Instructions

    def block(self, block: list[Instruction]) -> None:
        """Write a basic block with its meter."""
        lead, last = block[0], block[-1]
        self.label(f"b{lead.pc}")
        count = len(block)
        short, runs = self.fresh_label(), self.fresh_label()
        left = self.load("%budget")
        self.add(f"br i1 {self.new(f'icmp slt i64 {left}, {count}')}, label %{short}, label %{runs}")
        self.label(short)
        self.leave(lead.pc, Status.OUT_OF_BUDGET)
        self.label(runs)
        self.add(f"store i64 {self.new(f'sub i64 {left}, {count}')}, ptr %budget")
        for done, each in enumerate(block, 1):
            self.rest = count - done
            self.instruction(each)
        if last.form is not None and last.form.family not in (Family.JUMP, Family.BRANCH, Family.EXIT):
            self.add(f"br label {self.label_of(last.following)}")

    def instruction(self, each: Instruction) -> None:
        """Write an instruction."""
        form = each.form
        if form is None:
            self.fault(each.pc)
            return
        match form.family:
            case Family.ARITHMETIC:
                self.arithmetic(each, form)
            case Family.BYTE_ORDER:
                self.byte_order(each, form)
            case Family.CONSTANT:
                self.add(f"store i64 {each.value}, ptr %r{each.dst}")
            case Family.LOAD:
                place = self.translated(each, each.src, form.bits, "readable")
                value = self.new(f"load i{form.bits}, ptr {place}, align 1")
                self.set(each.dst, value, form.bits, Extension.ZERO)
            case Family.STORE:
                place = self.translated(each, each.dst, form.bits, "writable")
                value = self.cut(self.load(f"%r{each.src}"), form.bits) if form.from_register else str(each.imm)
                self.add(f"store i{form.bits} {value}, ptr {place}, align 1")
            case Family.JUMP:
                self.add(f"br label {self.label_of(each.goes_to)}")
            case Family.BRANCH:
                self.branch(each, form)
            case Family.CALL:
                self.call(each)
            case Family.CALL_REGISTER:
                self.call_register(each)
            case Family.EXIT:
                self.store_registers(CALLER_SAVED)
                self.add("ret i64 0")

    def cut(self, value: str, bits: int) -> str:
        """The low bits of a value of 64."""
        return value if bits == 64 else self.new(f"trunc i64 {value} to i{bits}")

    def set(self, register: int, value: str, bits: int, extension: Extension) -> None:
        """Set a register to a value of some bits."""
        if bits < 64:
            value = self.new(f"{'s' if extension is Extension.SIGN else 'z'}ext i{bits} {value} to i64")
        self.add(f"store i64 {value}, ptr %r{register}")

    def operands(self, each: Instruction, form: Form) -> tuple[str, str]:
        """dst, and src or the immediate, cut to the width."""
        dst = self.cut(self.load(f"%r{each.dst}"), form.bits)
        if form.from_register:
            return dst, self.cut(self.load(f"%r{each.src}"), form.bits)
        return dst, str(constant_of(form, each.imm))

    def arithmetic(self, each: Instruction, form: Form) -> None:
        """Write an arithmetic instruction."""
        dst, src = self.operands(each, form)
        name, type = form.operation, f"i{form.bits}"
        if name == "mov":
            value = src
            if not form.from_register:
                self.add(f"store i64 {src}, ptr %r{each.dst}")
                return
        elif name == "neg":
            value = self.new(f"sub {type} 0, {dst}")
        elif name == "rsub":
            value = self.new(f"sub {type} {src}, {dst}")
        elif name in SHIFTS:
            value = self.new(f"{SHIFTS[name]} {type} {dst}, {self.new(f'and {type} {src}, {form.bits - 1}')}")
        elif name in DIVISIONS:
            value = self.divide(each.pc, form, dst, src)
        elif name in ("uhmul", "shmul"):
            value = self.high_product(name, dst, src)
        else:
            if name == "hor":
                src = str(int(src) << 32)
            value = self.new(f"{SIMPLE[name]} {type} {dst}, {src}")
        self.set(each.dst, value, form.bits, form.result)

    def divide(self, pc: int, form: Form, dst: str, src: str) -> str:
        """Write a division with its checks."""
        type = f"i{form.bits}"
        self.fault_if(self.new(f"icmp eq {type} {src}, 0"), pc)
        if form.operation in ("sdiv", "smod"):
            smallest = self.new(f"icmp eq {type} {dst}, {-(1 << (form.bits - 1))}")
            minus_one = self.new(f"icmp eq {type} {src}, -1")
            self.fault_if(self.new(f"and i1 {smallest}, {minus_one}"), pc)
        return self.new(f"{DIVISIONS[form.operation]} {type} {dst}, {src}")

    def high_product(self, name: str, dst: str, src: str) -> str:
        """Write a product of which the upper half is wanted."""
        extend = "zext" if name == "uhmul" else "sext"
        wide = [self.new(f"{extend} i64 {each} to i128") for each in (dst, src)]
        product = self.new(f"mul i128 {wide[0]}, {wide[1]}")
        return self.new(f"trunc i128 {self.new(f'lshr i128 {product}, 64')} to i64")

    def byte_order(self, each: Instruction, form: Form) -> None:
        """Write le or be."""
        value = self.cut(self.load(f"%r{each.dst}"), each.imm)
        if form.operation == "be":
            value = self.new(f"call i{each.imm} @llvm.bswap.i{each.imm}(i{each.imm} {value})")
        self.set(each.dst, value, each.imm, Extension.ZERO)

    def translated(self, each: Instruction, base: int, bits: int, windows: str) -> str:
        """Write the translation of an access; returns the address in the host."""
        address = self.new(f"add i64 {self.load(f'%r{base}')}, {each.offset}")
        arguments = f"ptr %record, i64 {address}, i64 {bits // 8}, i64 {OFFSET[windows]}"
        place = self.new(f"call i64 @translate({arguments})")
        self.fault_if(self.new(f"icmp eq i64 {place}, 0"), each.pc)
        return self.new(f"inttoptr i64 {place} to ptr")

    def branch(self, each: Instruction, form: Form) -> None:
        """Write a branch."""
        dst, src = self.operands(each, form)
        type = f"i{form.bits}"
        if form.operation == "jset":
            taken = self.new(f"icmp ne {type} {self.new(f'and {type} {dst}, {src}')}, 0")
        else:
            taken = self.new(f"icmp {CONDITIONS[form.operation]} {type} {dst}, {src}")
        self.add(f"br i1 {taken}, label {self.label_of(each.goes_to)}, label {self.label_of(each.following)}")

    def call(self, each: Instruction) -> None:
        """Write a call of a function or of a syscall."""
        target = each.goes_to
        if target is not None:
            depth = self.deeper(each.pc)
            call = f"@f{target}(ptr %record)" if target in self.functions else f"@dispatch(ptr %record, i64 {target})"
            self.call_function(call, depth)
            return
        number = each.imm & 0xFFFF_FFFF
        self.put("place", each.pc)
        if number in self.natives:
            self.call_native(each.pc, number)
            return
        self.store_registers(range(REGISTERS))
        callback = self.new(f"load ptr, ptr {self.at('callback')}")
        self.add(f"call void {callback}(ptr %record)")
        self.return_if_left(self.get("status"))
        self.load_registers(range(1))

    def call_native(self, pc: int, number: int) -> None:
        """Write a call of a syscall that is a C function."""
        self.put("budget", self.load("%budget"))
        arguments = ", ".join(f"i64 {self.load(f'%r{number}')}" for number in range(1, 6))
        result = self.new(f"call i64 @syscall_{number}({arguments}, ptr %record)")
        self.add(f"store i64 {self.get('budget')}, ptr %budget")
        overdrawn = self.new(f"icmp slt i64 {self.load('%budget')}, 0")
        failed = self.new(f"icmp ne i64 {self.get('status')}, 0")
        for condition, status in ((overdrawn, Status.OVERDRAWN), (failed, Status.SYSCALL_FAILED)):
            bad, good = self.fresh_label(), self.fresh_label()
            self.add(f"br i1 {condition}, label %{bad}, label %{good}")
            self.label(bad)
            self.leave(pc, status)
            self.label(good)
        self.add(f"store i64 {result}, ptr %r0")

    def call_register(self, each: Instruction) -> None:
        """Write a callx."""
        number = register_of_callx(self.version, each.dst, each.src, each.imm)
        if not 0 <= number < REGISTERS:
            self.fault(each.pc)
            self.label(self.fresh_label())
            return
        depth = self.deeper(each.pc)
        distance = self.new(f"sub i64 {self.load(f'%r{number}')}, {self.code.executable.text_address}")
        slot = self.new(f"udiv i64 {distance}, {SLOT}")
        self.fault_if(self.new(f"icmp uge i64 {slot}, {self.code.slots}"), each.pc)
        self.call_function(f"@dispatch(ptr %record, i64 {slot})", depth)

    def deeper(self, pc: int) -> str:
        """Fault where no function may be called any more; returns how many are active."""
        depth = self.get("depth")
        self.fault_if(self.new(f"icmp uge i64 {depth}, {CALL_DEPTH}"), pc)
        return depth

    def call_function(self, callee: str, depth: str) -> None:
        """Write the call of a function of the program."""
        self.put("depth", self.new(f"add i64 {depth}, 1"))
        self.store_registers(range(REGISTERS))
        if self.version.moves_frames:
            size = FRAME_SIZE * (1 + self.version.has_gaps)
            frame = self.new(f"add i64 {self.load(f'%r{FRAME_POINTER}')}, {size}")
            self.add(f"store i64 {frame}, ptr {self.at('registers', 8 * FRAME_POINTER)}")
        self.return_if_left(self.new(f"call i64 {callee}"))
        self.put("depth", depth)
        self.load_registers(CALLER_SAVED)

    def return_if_left(self, status: str) -> None:
        """Return a status that is not 0, which what was called has left with."""
        left, good = self.fresh_label(), self.fresh_label()
        self.add(f"br i1 {self.new(f'icmp ne i64 {status}, 0')}, label %{left}, label %{good}")
        self.label(left)
        self.add(f"ret i64 {status}")
        self.label(good)

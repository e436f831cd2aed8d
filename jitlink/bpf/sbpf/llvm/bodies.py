"""The IR of the functions of a program: each becomes `status f(Record *)`, or several of the host if it is long.

A status that is not 0 passes through all callers; the record then says where and why (jitlink.bpf.sbpf.abi).

A basic block takes its instructions from the budget before it runs. Where the budget does not suffice it leaves,
and the interpreter carries out what is left; a fault gives back what has not run. So native code counts as the
interpreter does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jitlink.bpf.instructions import SLOT
from jitlink.bpf.sbpf.abi import Status
from jitlink.bpf.sbpf.isa import FRAME_POINTER, REGISTERS, Family, register_of_callx
from jitlink.bpf.sbpf.llvm.arithmetic import Arithmetic
from jitlink.bpf.sbpf.llvm.functions import Code, Instruction
from jitlink.bpf.sbpf.memory import CALL_DEPTH, FRAME_SIZE

LONGEST_PART = 256
"""Instructions of a function of the host, since LLVM takes more than linear time for long ones. A longer function of
the program is several of the host, which go on in each other by tail calls with all registers in the record."""
CALLER_SAVED = range(6)
"""The registers that a called function leaves its own values in."""


class Body(Arithmetic):
    """Writes one function, or a part of one."""

    def __init__(
        self,
        code: Code,
        start: int,
        blocks: list[list[Instruction]],
        functions: Collection[int],
        natives: Collection[int],
        frame_is_known: bool,
        part_of: Mapping[int, int],
    ) -> None:
        """blocks: of this part. frame_is_known: r10 is the end of the frame, always. part_of: the part of each block
        of a function of several, by its first slot."""
        super().__init__()
        self.code = code
        self.version = code.executable.version
        self.start = start
        self.blocks = blocks
        self.functions = functions
        self.natives = natives
        self.frame_is_known = frame_is_known
        self.part_of = part_of
        self.inside = {block[0].pc for block in blocks}
        self.outside: set[int] = set()

    @classmethod
    def parts(
        cls,
        code: Code,
        start: int,
        blocks: list[list[Instruction]],
        functions: Collection[int],
        natives: Collection[int],
        frame_is_known: bool,
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
            return [cls(code, start, blocks, functions, natives, frame_is_known, {}).text()]
        part_of = {block[0].pc: number for number, part in enumerate(parts) for block in part}
        first = f"  %left = call i64 @f{start}_0(ptr %record, i64 {start})\n  ret i64 %left\n}}"
        texts = [f"define internal i64 @f{start}(ptr %record) noinline {{\n{first}"]
        return texts + [cls(code, start, part, functions, natives, frame_is_known, part_of).text() for part in parts]

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
        for name in (*(f"r{number}" for number in range(REGISTERS)), "budget", "place", "status", "frame"):
            self.add(f"%{name} = alloca i64")
        self.load_registers(range(REGISTERS))
        self.add(f"store i64 {self.get('frame')}, ptr %frame")
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
        self.store_variables("place", "status")
        self.add(f"ret i64 {self.load('%status')}")
        return "\n".join([*self.lines, "}"])

    def label_of(self, pc: int | None) -> str:
        """Where to branch to reach a block, which may lie in another part."""
        assert pc is not None
        if pc in self.inside:
            return f"%b{pc}"
        self.outside.add(pc)
        return f"%x{pc}"

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
                self.load_memory(each, form)
            case Family.STORE:
                self.store_memory(each, form)
            case Family.JUMP:
                self.add(f"br label {self.label_of(each.goes_to)}")
            case Family.BRANCH:
                taken = self.condition(each, form)
                self.add(f"br i1 {taken}, label {self.label_of(each.goes_to)}, label {self.label_of(each.following)}")
            case Family.CALL:
                self.call(each)
            case Family.CALL_REGISTER:
                self.call_register(each)
            case Family.EXIT:
                self.store_registers(CALLER_SAVED)
                self.add("ret i64 0")

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
        bad, good = self.fresh_label(), self.fresh_label()
        self.add(f"br i1 {self.new(f'or i1 {overdrawn}, {failed}')}, label %{bad}, label %{good}")
        self.label(bad)
        self.leave(pc, Status.SYSCALL_FAILED)
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
        self.put("frame", self.new(f"add i64 {self.load('%frame')}, {FRAME_SIZE}"))
        self.return_if_left(self.new(f"call i64 {callee}"))
        self.store_variables("frame")
        self.put("depth", depth)
        self.load_registers(CALLER_SAVED)

    def return_if_left(self, status: str) -> None:
        """Return a status that is not 0, which what was called has left with."""
        left, good = self.fresh_label(), self.fresh_label()
        self.add(f"br i1 {self.new(f'icmp ne i64 {status}, 0')}, label %{left}, label %{good}")
        self.label(left)
        self.add(f"ret i64 {status}")
        self.label(good)

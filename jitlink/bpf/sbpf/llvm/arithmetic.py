"""The IR of what an instruction does with registers and memory."""

from __future__ import annotations

from jitlink.bpf.sbpf.abi import OFFSET
from jitlink.bpf.sbpf.isa import FRAME_POINTER, Extension, Form
from jitlink.bpf.sbpf.llvm.functions import Instruction
from jitlink.bpf.sbpf.llvm.values import Values
from jitlink.bpf.sbpf.memory import FRAME_SIZE
from jitlink.bpf.sbpf.semantics import constant_of

# fmt: off
SIMPLE = {"add": "add", "sub": "sub", "mul": "mul", "or": "or", "and": "and", "xor": "xor", "hor": "or"}
SHIFTS = {"lsh": "shl", "rsh": "lshr", "arsh": "ashr"}
DIVISIONS = {"div": "udiv", "mod": "urem", "sdiv": "sdiv", "smod": "srem"}
CONDITIONS = {
    "jeq": "eq", "jne": "ne", "jgt": "ugt", "jge": "uge", "jlt": "ult", "jle": "ule",
    "jsgt": "sgt", "jsge": "sge", "jslt": "slt", "jsle": "sle",
}
# fmt: on


class Arithmetic(Values):
    """Writes instructions that neither jump nor call. Attributes: frame_is_known (r10 is the end of the frame)."""

    frame_is_known: bool

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

    def load_memory(self, each: Instruction, form: Form) -> None:
        """Write a load."""
        place = self.translated(each, each.src, form.bits, "readable")
        value = self.new(f"load i{form.bits}, ptr {place}, align 1")
        self.set(each.dst, value, form.bits, Extension.ZERO)

    def store_memory(self, each: Instruction, form: Form) -> None:
        """Write a store."""
        place = self.translated(each, each.dst, form.bits, "writable")
        value = self.cut(self.load(f"%r{each.src}"), form.bits) if form.from_register else str(each.imm)
        self.add(f"store i{form.bits} {value}, ptr {place}, align 1")

    def translated(self, each: Instruction, base: int, bits: int, windows: str) -> str:
        """Write the translation of an access; returns the address in the host."""
        if self.frame_is_known and base == FRAME_POINTER and -FRAME_SIZE <= each.offset <= -(bits // 8):
            place = self.new(f"add i64 {self.load('%frame')}, {each.offset}")
            return self.new(f"inttoptr i64 {place} to ptr")
        address = self.new(f"add i64 {self.load(f'%r{base}')}, {each.offset}")
        arguments = f"ptr %record, i64 {address}, i64 {bits // 8}, i64 {OFFSET[windows]}"
        place = self.new(f"call i64 @translate({arguments})")
        self.fault_if(self.new(f"icmp eq i64 {place}, 0"), each.pc)
        return self.new(f"inttoptr i64 {place} to ptr")

    def condition(self, each: Instruction, form: Form) -> str:
        """Write the comparison of a branch; returns what says whether it is taken."""
        dst, src = self.operands(each, form)
        type = f"i{form.bits}"
        if form.operation == "jset":
            return self.new(f"icmp ne {type} {self.new(f'and {type} {dst}, {src}')}, 0")
        return self.new(f"icmp {CONDITIONS[form.operation]} {type} {dst}, {src}")

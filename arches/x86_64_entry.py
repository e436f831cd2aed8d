"""x86-64 code by which CPython calls a function of plain numbers: no library in between.

CPython calls a function of C that has the flag METH_FASTCALL with an array of its arguments. For a C
function that takes and returns numbers and text only, such a function is short enough to be written here:
it looks that each argument is exactly an int, a float, a bool or bytes, that it is in range, and takes its
value; releases the interpreter lock, calls, takes the lock again, and makes the result. Where an argument
is anything else it returns NotImplemented, and the caller takes the longer way. So it never decides what is
an error.

The frame holds a slot of eight bytes for each argument, and one for what CPython's functions give back by
address. It has an unwind record, so that a debugger or a forced unwind finds the way through it.

Sources: CPython, C API (Concrete Objects Layer; Common Object Structures); x86-64 psABI, 3.2.3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jitlink.arches.architecture import Routine
from jitlink.arches.x86_64_calls import GENERAL_REGISTERS, VECTOR_REGISTERS, padded_record

Sort = Literal["signed", "unsigned", "bool", "float", "text", "void"]


@dataclass(frozen=True)
class Value:
    """A parameter or a result: what sort of value, and its width in bytes."""

    sort: Sort
    width: int


OBJECT_TYPE, FLOAT_VALUE = 8, 16
"""Where an object has its type, and a float its value: in builds of CPython whose object is 16 bytes."""

# mov (%rsp,n), register: for the registers of arguments in order.
LOAD_GENERAL = [
    bytes.fromhex(code) for code in ("488bbc24", "488bb424", "488b9424", "488b8c24", "4c8b8424", "4c8b8c24")
]
LOAD_VECTOR = [b"\xf2\x0f\x10" + bytes([0x84 | number << 3, 0x24]) for number in range(VECTOR_REGISTERS)]
# %rcx is %rax as a value of the width would be read: equal if it is in range.
AS_WIDTH = {
    ("signed", 1): "480fbec8", ("signed", 2): "480fbfc8", ("signed", 4): "4863c8",
    ("unsigned", 1): "0fb6c8", ("unsigned", 2): "0fb7c8", ("unsigned", 4): "89c1",
}  # fmt: skip
# The same from %rax into %rdi, for a result.
RESULT_OF_WIDTH = {
    ("signed", 1): "480fbef8", ("signed", 2): "480fbff8", ("signed", 4): "4863f8", ("signed", 8): "4889c7",
    ("unsigned", 1): "0fb6f8", ("unsigned", 2): "0fb7f8", ("unsigned", 4): "89c7", ("unsigned", 8): "4889c7",
}  # fmt: skip


def can_enter(parameters: Sequence[Value], result: Value) -> bool:
    """Whether a function of these values gets an entry: its arguments have room in the registers."""
    vector = sum(each.sort == "float" for each in parameters)
    return vector <= VECTOR_REGISTERS and len(parameters) - vector <= GENERAL_REGISTERS


def python_entry(parameters: Sequence[Value], result: Value) -> tuple[Routine, Routine]:
    """Write the entry of a function, and its unwind record.

    The entry refers to "inner", which is called, and to functions and objects of CPython by name; the
    record refers to "entry".
    """
    writer = _Writer(len(parameters))
    for number, each in enumerate(parameters):
        writer.take(number, each)
    writer.call_inner(parameters)
    writer.give(result)
    writer.leave_unfit()
    routine = Routine(bytes(writer.code), tuple(writer.edges), always=True)
    return routine, _unwind_record(len(writer.code))


class _Writer:
    """The code under way, and what it refers to."""

    def __init__(self, count: int) -> None:
        """Begin: push %rbp; mov %rsp, %rbp; push %rbx, %r12; sub $size, %rsp; mov %rsi, %rbx; count arguments?"""
        self.code = bytearray()
        self.edges: list[tuple[int, str, str, int]] = []
        self.jumps: list[int] = []
        self.spare = 8 * count
        self.add("55 4889e5 53 4154 4881ec")
        self.code += struct.pack("<I", -(-(self.spare + 8) // 16) * 16)
        self.add("4889f3 4881fa")
        self.code += struct.pack("<I", count)
        self.unfit_if("0f85")

    def add(self, code: str) -> None:
        self.code += bytes.fromhex(code)

    def at_slot(self, code: str, offset: int) -> None:
        """An instruction whose operand is in the frame: its code up to the displacement."""
        self.add(code)
        self.code += struct.pack("<I", offset)

    def call(self, name: str) -> None:
        self.code += b"\xe8"
        self.edges.append((len(self.code), "R_X86_64_PLT32", name, -4))
        self.code += bytes(4)

    def address(self, code: str, name: str) -> None:
        """movabs $name, register."""
        self.add(code)
        self.edges.append((len(self.code), "R_X86_64_64", name, 0))
        self.code += bytes(8)

    def unfit_if(self, jump: str) -> None:
        """A conditional jump to where NotImplemented is returned."""
        self.add(jump)
        self.jumps.append(len(self.code))
        self.code += bytes(4)

    def take(self, number: int, value: Value) -> None:
        """Check an argument, and put its value into its slot."""
        self.at_slot("488bbb", 8 * number)  # mov 8*number(%rbx), %rdi
        if value.sort == "bool":
            # True: %cl is 1; False: %dl is 1; neither: unfit.
            self.address("48b8", "_Py_TrueStruct")
            self.add("4839c7 0f94c1")
            self.address("48b8", "_Py_FalseStruct")
            self.add("4839c7 0f94c2 08ca")
            self.unfit_if("0f84")
            self.add("0fb6c9")
            self.at_slot("48898c24", 8 * number)
        elif value.sort == "float":
            self._check_type("PyFloat_Type")
            self.add("f20f104710" + ("f20f5ac0" if value.width == 4 else ""))
            self.at_slot("f20f118424", 8 * number)
        elif value.sort == "text":
            self._check_type("PyBytes_Type")
            self.at_slot("488db424", 8 * number)
            # Without a place for the length, bytes with a NUL inside are refused.
            self.add("31d2")
            self.call("PyBytes_AsStringAndSize")
            self.add("85c0")
            self.unfit_if("0f85")
        else:
            self._take_integer(number, value)

    def _check_type(self, name: str) -> None:
        self.address("48b8", name)
        self.add("48394708")  # cmp %rax, 8(%rdi)
        self.unfit_if("0f85")

    def _take_integer(self, number: int, value: Value) -> None:
        self._check_type("PyLong_Type")
        self.at_slot("488db424", self.spare)
        self.call("PyLong_AsLongAndOverflow")
        self.at_slot("83bc24", self.spare)  # cmpl $0, spare(%rsp)
        self.code += b"\0"
        self.unfit_if("0f85")
        if value.width < 8:
            self.add(AS_WIDTH[value.sort, value.width] + "4839c1")
            self.unfit_if("0f85")
        elif value.sort == "unsigned":
            self.add("4885c0")
            self.unfit_if("0f88")
        self.at_slot("48898424", 8 * number)

    def call_inner(self, parameters: Sequence[Value]) -> None:
        """Release the lock, load the registers, call, keep the result, take the lock."""
        self.call("PyEval_SaveThread")
        self.add("4989c4")
        general, vector = iter(LOAD_GENERAL), iter(LOAD_VECTOR)
        for number, each in enumerate(parameters):
            self.code += next(vector if each.sort == "float" else general)
            self.code += struct.pack("<I", 8 * number)
        self.call("inner")
        self.add("4889c3")
        self.at_slot("f20f118424", self.spare)
        self.add("4c89e7")
        self.call("PyEval_RestoreThread")
        self.add("4889d8")

    def give(self, value: Value) -> None:
        """Make the result from %rax, or from the spare slot, and return it."""
        if value.sort == "void":
            self._return_object("_Py_NoneStruct")
            return
        if value.sort == "float":
            self.at_slot("f30f5a8424" if value.width == 4 else "f20f108424", self.spare)
            self.call("PyFloat_FromDouble")
        elif value.sort == "bool":
            self.add("0fb6f8")
            self.call("PyBool_FromLong")
        elif value.sort == "text":
            self.add("4889c7 4885c0 740e")
            self.call("PyBytes_FromString")
            self._leave()
            self._return_object("_Py_NoneStruct")
            return
        else:
            self.add(RESULT_OF_WIDTH[value.sort, value.width])
            self.call("PyLong_FromLong" if value.sort == "signed" else "PyLong_FromUnsignedLong")
        self._leave()

    def leave_unfit(self) -> None:
        """Where all jumps go: forget what was found wrong, and return NotImplemented."""
        for jump in self.jumps:
            struct.pack_into("<i", self.code, jump, len(self.code) - jump - 4)
        self.call("PyErr_Clear")
        self._return_object("_Py_NotImplementedStruct")

    def _return_object(self, name: str) -> None:
        self.address("48bb", name)
        self.add("4889df")
        self.call("Py_IncRef")
        self.add("4889d8")
        self._leave()

    def _leave(self) -> None:
        """lea -16(%rbp), %rsp; pop %r12, %rbx, %rbp; ret."""
        self.add("488d65f0 415c 5b 5d c3")


def _unwind_record(size: int) -> Routine:
    """The .eh_frame of an entry: the CFA is 16 above %rbp from its fourth byte on."""
    cie = padded_record(bytes(4) + b"\x01zR\0\x01\x78\x10" + b"\x01\x1b" + b"\x0c\x07\x08\x90\x01")
    rules = b"\x41\x0e\x10\x86\x02" + b"\x43\x0d\x06" + b"\x43\x83\x03\x8c\x04"
    fde = padded_record(struct.pack("<IIIB", len(cie) + 4, 0, size, 0) + rules)
    return Routine(cie + fde, ((len(cie) + 8, "R_X86_64_PC32", "entry", 0),), always=True)

"""x86-64: operands as LLVM has them, from what capstone decodes.

Capstone gives operands as an assembler writes them. LLVM's differ in four ways: a memory operand is five
(base, scale, index, displacement, segment); a register that is read and written first is given twice;
registers that the opcode implies are none; conditions of jumps, moves and settings are one more at the end.
Immediates are as they are encoded, with their sign, and the target of a branch is a distance.

Source: LLVM, X86InstrFormats.td and X86DisassemblerDecoder.cpp.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jitlink.check.operands.instruction import Instruction

Operands = list[int | None]
REGISTER = None
TWO_BYTE = 0x0F
CONDITIONAL = (range(0x40, 0x50), range(0x80, 0xA0))
"""Second bytes of opcodes with a condition: CMOVcc; Jcc near and SETcc."""
WITH_CONDITION = ("cmov", "j", "set")
"""Capstone leaves out parts of opcodes of three bytes and of VEX and EVEX, so the name decides too."""
VECTOR_PREFIXES = (0xC4, 0xC5, 0x62)
"""Of VEX and EVEX, with which opcodes of vector operations come without their 0F."""
JUMP_SHORT = range(0x70, 0x80)
ACCUMULATOR_FORMS = {base + form for base in range(0x00, 0x40, 8) for form in (4, 5)} | {
    0xA8,
    0xA9,
    0xE4,
    0xE5,
    0xE6,
    0xE7,
}
"""ALU operations, TEST, IN and OUT of the accumulator with an immediate: the register is implied."""
MOVE_OFFSET = {0xA0, 0xA1, 0xA2, 0xA3}
SHIFTS_BY_ONE_OR_CL = {0xD0, 0xD1, 0xD2, 0xD3}
SHIFTS_DOUBLE_BY_CL = {0xA5, 0xAD}
"""Second bytes of SHLD and SHRD by cl."""
STRINGS = {*range(0xA4, 0xA8), *range(0xAA, 0xB0), *range(0x6C, 0x70)}
PORT_IN_DX = {0xEC, 0xED, 0xEE, 0xEF}
READ, WRITE = 1, 2
EXCHANGES = ("xchg", "xadd")
EXCHANGE_WITH_ACCUMULATOR = range(0x90, 0x98)
TIED = {
    f"cmov{condition}"
    for condition in ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"]
}
TIED |= {"bsf", "bsr", "cvtsi2ss", "cvtsi2sd", "cvtss2sd", "cvtsd2ss"}
TIED |= {"sqrtss", "sqrtsd", "rcpss", "rsqrtss", "roundss", "roundsd"}
"""What keeps its first operand in some cases, so that LLVM gives it twice; to capstone it is only written."""
UNSIGNED_BYTE = {0xC0, 0xC1, 0xCD, 0xE4, 0xE5, 0xE6, 0xE7}
"""Opcodes of shifts, INT, IN and OUT."""
COMPARE_VECTORS, ENTER = 0xC2, 0xC8
HALF = 2
X87, MODRM_OF_REGISTERS = range(0xD8, 0xE0), 0xC0
RETURNS = {0xC2, 0xCA}
BRANCH_RELATIVE = 7
"""Capstone's group of branches by a distance."""
UNNUMBERED = {"extrq", "insertq", "ud1"}


@cache
def _decoder() -> Any:
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    decoder = Cs(CS_ARCH_X86, CS_MODE_64)
    decoder.detail = True
    return decoder


@cache
def _kinds() -> tuple[int, int]:
    """Capstone's numbers for an immediate and a memory operand."""
    from capstone.x86 import X86_OP_IMM, X86_OP_MEM

    return X86_OP_IMM, X86_OP_MEM


def decode(code: bytes, address: int) -> Instruction | None:
    """Decode the instruction at the start of code; None for one that capstone does not know."""
    found = next(_decoder().disasm(code, address, 1), None)
    if found is None:
        return None
    text = f"{found.mnemonic} {found.op_str}".strip()
    opcode = found.opcode[0]
    if opcode in STRINGS or found.mnemonic in UNNUMBERED:
        return Instruction(found.size, text, None)
    return Instruction(found.size, text, tuple(_operands(found, code)))


def _operands(found: Any, code: bytes) -> Operands:
    """The operands of an instruction, in LLVM's order."""
    opcode, second = found.opcode[0], found.opcode[1] if found.opcode[0] == TWO_BYTE else 0
    if opcode == ENTER:
        return [_number(code, found.size - 3, HALF), _number(code, found.size - 1, 1)]
    if opcode in MOVE_OFFSET:
        return [_number(code, found.disp_offset, found.disp_size), REGISTER]
    given = list(found.operands)
    if opcode in ACCUMULATOR_FORMS:
        given = [operand for operand in given if operand.type == _kinds()[0]]
    elif opcode in SHIFTS_BY_ONE_OR_CL or second in SHIFTS_DOUBLE_BY_CL:
        given = given[: -1 if len(given) > 1 else None]
    elif opcode in PORT_IN_DX:
        given = []
    elif opcode in X87 and not found.modrm < MODRM_OF_REGISTERS:
        # The top of the stack is implied.
        given = given[-1:]
    operands: Operands = []
    mnemonic = found.mnemonic.split()[-1]
    if mnemonic in EXCHANGES:
        return _exchanged(found, given)
    for number, operand in enumerate(given):
        written = _written(operand, found, code)
        operands += written
        if number == 0 and len(written) == 1 and (mnemonic in TIED or _is_read_and_written(operand)):
            operands += written
    if second == COMPARE_VECTORS and all(operand.type != _kinds()[0] for operand in given):
        # The comparison is part of the name that capstone gives it.
        operands.append(code[found.size - 1])
    has_condition = opcode in JUMP_SHORT or any(second in some for some in CONDITIONAL)
    if has_condition and mnemonic.startswith(WITH_CONDITION):
        operands.append((second or opcode) & 0xF)
    return operands


def _exchanged(found: Any, given: list[Any]) -> Operands:
    """XCHG and XADD: the registers as results, then as sources, then the place in memory."""
    memory = [operand for operand in given if operand.type == _kinds()[1]]
    if memory:
        return [REGISTER, REGISTER, *_of_memory(memory[0])]
    implied = found.opcode[0] in EXCHANGE_WITH_ACCUMULATOR
    return [REGISTER] * (2 if implied else 4)


def _is_read_and_written(operand: Any) -> bool:
    return bool(operand.access & READ and operand.access & WRITE)


def _written(operand: Any, found: Any, code: bytes) -> Operands:
    """What one operand of the assembler's is for LLVM."""
    immediate, memory = _kinds()
    if operand.type == memory:
        return _of_memory(operand)
    if operand.type != immediate:
        return [REGISTER]
    if not found.imm_size:
        return [operand.imm]
    value = _number(code, found.imm_offset, found.imm_size)
    if _is_unsigned(found, operand, code):
        value %= 1 << 8 * found.imm_size
    return [value]


def _of_memory(operand: Any) -> Operands:
    return [REGISTER, operand.mem.scale, REGISTER, operand.mem.disp, REGISTER]


def _is_unsigned(found: Any, operand: Any, code: bytes) -> bool:
    """Whether an immediate has no sign: it is as wide as the operation, a count, a port, or for a vector operation.

    A byte that is added, compared and the like has a sign all the same.
    """
    if found.group(BRANCH_RELATIVE):
        return False
    if found.imm_size == 1:
        return bool(found.opcode[0] in UNSIGNED_BYTE or found.opcode[0] == TWO_BYTE or code[0] in VECTOR_PREFIXES)
    return found.opcode[0] not in RETURNS and bool(found.imm_size == operand.size or found.imm_size == HALF)


def _number(code: bytes, offset: int, size: int) -> int:
    """A number as it is encoded, with its sign."""
    return int.from_bytes(code[offset : offset + size], "little", signed=True)

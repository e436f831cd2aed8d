"""x86-64: code between the two calling conventions, that of System V and that of Microsoft.

                      System V                           Microsoft x64
    integers          rdi, rsi, rdx, rcx, r8, r9         rcx, rdx, r8, r9, by position
    floating point    xmm0 to xmm7                       xmm0 to xmm3, by position
    further ones      on the stack                       on the stack, behind 32 bytes for the callee
    kept by callees   rbx, rbp, r12 to r15               those, and rdi, rsi, xmm6 to xmm15

Integers and floating-point numbers are counted apart in the one and together in the other, so no code can
go between them that does not know the types: it would have to guess which register an argument is in. A
**bridge** is made for a signature. It is reached with the address of the function in r11, which neither
convention uses for arguments, so that all functions of a signature share one; an **entry** before it, one
for each function, puts the address there.

An `int` may have anything above its 32 bits in either convention. A `long` has 32 bits on Windows and 64
elsewhere, and so it is extended on the way.

Source: System V ABI, AMD64 supplement, 3.2; Microsoft, "x64 calling convention".
"""

from __future__ import annotations

from dataclasses import dataclass

FLOATING = "fd"
INTEGERS = "bBhHiIlLqQ"
VOID = "v"
VARIABLE = "."

ENTRY = bytes.fromhex("4c8b1d00000000 e900000000 cccccccc")
"""mov r11, [rip + pointer]; jmp bridge."""
POINTER_FIELD, BRIDGE_FIELD = 3, 8
FIELD = "R_X86_64_PC32"
ADDEND = -4

RAX, RCX, RDX, RSP, RSI, RDI, R8, R9 = 0, 1, 2, 4, 6, 7, 8, 9
SYSTEM_V_INTEGERS = (RDI, RSI, RDX, RCX, R8, R9)
SYSTEM_V_VECTORS = 8
MICROSOFT_INTEGERS = (RCX, RDX, R8, R9)
HOME = 32
"""Bytes above the return address that belong to a callee of Microsoft's convention: the home of its registers."""
WORD = 8
FIRST_KEPT_VECTOR, KEPT_VECTORS = 6, 10
VECTOR = 16

CALL_R11, RET = bytes.fromhex("41ffd3"), b"\xc3"
PUSH_RDI_RSI, POP_RSI_RDI = bytes.fromhex("5756"), bytes.fromhex("5e5f")
# Opcodes that read an integer of each type into a register of 64 bits, with REX.W or without.
LOAD = {
    "b": (1, b"\x0f\xbe"),
    "B": (0, b"\x0f\xb6"),
    "h": (1, b"\x0f\xbf"),
    "H": (0, b"\x0f\xb7"),
    "i": (1, b"\x63"),
    "I": (0, b"\x8b"),
    "l": (1, b"\x63"),
    "L": (0, b"\x8b"),
    "q": (1, b"\x8b"),
    "Q": (1, b"\x8b"),
}
# The same for a result, from rax to rax; what is not here stays as it is.
EXTEND_RESULT = {
    "b": bytes.fromhex("480fbec0"),
    "B": bytes.fromhex("0fb6c0"),
    "h": bytes.fromhex("480fbfc0"),
    "H": bytes.fromhex("0fb7c0"),
    "l": bytes.fromhex("4863c0"),
    "L": bytes.fromhex("89c0"),
}
LOAD_FLOAT = {"f": bytes.fromhex("f30f10"), "d": bytes.fromhex("f20f10")}


@dataclass(frozen=True)
class Signature:
    """The types of a function, a letter each.

    b B h H i I q Q are integers as in the module struct, pointers being Q; l L are the long of Windows, in
    32 bits, for the long of the host, in 64; f d floating-point numbers. parameters may end with a dot: a
    pointer to the arguments that follow, each in 8 bytes, which only callers of Microsoft's convention can
    give. result may be v for none.
    """

    result: str
    parameters: str

    def __post_init__(self) -> None:
        known = set(FLOATING + INTEGERS)
        if not set(self.parameters.removesuffix(VARIABLE)) <= known or self.result not in {*known, VOID}:
            raise ValueError(f"{self} has a type that no register holds")

    def __str__(self) -> str:
        return f"{self.parameters}->{self.result}"


def signature(text: str) -> Signature:
    """A signature from text such as "pi->d", where p is a pointer. Raises ValueError."""
    parameters, _, result = text.replace("p", "Q").partition("->")
    return Signature(result, parameters)


def bridge_to_microsoft(kind: Signature) -> bytes:
    """The code by which callers of System V's convention call functions of Microsoft's.

    Raises ValueError for a variable number of arguments.
    """
    if VARIABLE in kind.parameters:
        raise ValueError("System V does not tell the callee where its further arguments are")
    count = len(kind.parameters)
    frame = HOME + WORD * max(count - len(MICROSOFT_INTEGERS), 0)
    frame += WORD if frame % VECTOR == 0 else 0
    moves: list[bytes] = []
    integers = vectors = stacked = 0
    for position, letter in enumerate(kind.parameters):
        floating = letter in FLOATING
        inside = vectors < SYSTEM_V_VECTORS if floating else integers < len(SYSTEM_V_INTEGERS)
        out = HOME + WORD * (position - len(MICROSOFT_INTEGERS))
        if not inside:
            # Both kinds have used up their registers, or one of them its own: then the fifth word at least.
            moves.append(_load(RAX, frame + WORD + WORD * stacked) + _store(RAX, out))
            stacked += 1
        elif floating:
            moves.append(_copy_vector(position, vectors) if out < HOME else _store_vector(vectors, out))
            vectors += 1
        else:
            source = SYSTEM_V_INTEGERS[integers]
            moves.append(_copy(MICROSOFT_INTEGERS[position], source) if out < HOME else _store(source, out))
            integers += 1
    # From the last to the first: each goes to a register that no earlier argument comes from.
    code = [_lower_stack(frame), *reversed(moves), CALL_R11, EXTEND_RESULT.get(kind.result, b""), _raise_stack(frame)]
    return b"".join((*code, RET))


def bridge_from_microsoft(kind: Signature) -> bytes:
    """The code by which callers of Microsoft's convention call functions of System V's."""
    parameters = kind.parameters.removesuffix(VARIABLE)
    outgoing = _stacked(kind.parameters.replace(VARIABLE, "Q"))
    vectors_at = -(-WORD * outgoing // VECTOR) * VECTOR
    frame = vectors_at + VECTOR * KEPT_VECTORS + WORD
    # Above the frame are the two registers that were pushed and the return address.
    arguments_at = frame + 2 * WORD + WORD
    code = [PUSH_RDI_RSI, _lower_stack(frame)]
    kept = [(FIRST_KEPT_VECTOR + row, vectors_at + VECTOR * row) for row in range(KEPT_VECTORS)]
    code += [_move_whole_vector(register, at, store=True) for register, at in kept]
    for position, register in enumerate(MICROSOFT_INTEGERS):
        # Further arguments must be at home, one behind the other.
        if VARIABLE in kind.parameters or (position < len(parameters) and parameters[position] in INTEGERS):
            code.append(_store(register, arguments_at + WORD * position))
    integers = vectors = stacked = 0
    for position, letter in enumerate(parameters):
        at = arguments_at + WORD * position
        if letter in FLOATING and vectors < SYSTEM_V_VECTORS:
            in_register = position < len(MICROSOFT_INTEGERS)
            code.append(_copy_vector(vectors, position) if in_register else _load_vector(letter, vectors, at))
            vectors += 1
        elif letter in INTEGERS and integers < len(SYSTEM_V_INTEGERS):
            code.append(_load(SYSTEM_V_INTEGERS[integers], at, letter))
            integers += 1
        else:
            code.append(_load(RAX, at, letter if letter in INTEGERS else "Q") + _store(RAX, WORD * stacked))
            stacked += 1
    if VARIABLE in kind.parameters:
        code.append(_address(SYSTEM_V_INTEGERS[integers], arguments_at + WORD * len(parameters)))
    code.append(CALL_R11)
    code += [_move_whole_vector(register, at, store=False) for register, at in kept]
    return b"".join((*code, _raise_stack(frame), POP_RSI_RDI, RET))


def _stacked(parameters: str) -> int:
    """How many arguments System V puts on the stack."""
    floating = sum(letter in FLOATING for letter in parameters)
    integers = len(parameters) - floating
    return max(floating - SYSTEM_V_VECTORS, 0) + max(integers - len(SYSTEM_V_INTEGERS), 0)


def _rex(wide: int, register: int, base: int) -> bytes:
    prefix = 0x40 | wide << 3 | register >> 3 << 2 | base >> 3
    return bytes((prefix,)) if prefix != 0x40 else b""


def _at_stack(register: int, offset: int) -> bytes:
    """ModRM, SIB and displacement of [rsp + offset]."""
    return bytes((0x84 | (register & 7) << 3, 0x24)) + offset.to_bytes(4, "little")


def _load(register: int, offset: int, letter: str = "Q") -> bytes:
    wide, opcode = LOAD[letter]
    return _rex(wide, register, RSP) + opcode + _at_stack(register, offset)


def _store(register: int, offset: int) -> bytes:
    return _rex(1, register, RSP) + b"\x89" + _at_stack(register, offset)


def _address(register: int, offset: int) -> bytes:
    return _rex(1, register, RSP) + b"\x8d" + _at_stack(register, offset)


def _copy(to: int, source: int) -> bytes:
    return _rex(1, source, to) + bytes((0x89, 0xC0 | (source & 7) << 3 | (to & 7)))


def _copy_vector(to: int, source: int) -> bytes:
    return b"" if to == source else bytes((0x0F, 0x28, 0xC0 | to << 3 | source))


def _load_vector(letter: str, register: int, offset: int) -> bytes:
    return LOAD_FLOAT[letter] + _at_stack(register, offset)


def _store_vector(register: int, offset: int) -> bytes:
    # Of a float too all 64 bits: nobody looks at the upper half.
    return bytes.fromhex("f20f11") + _at_stack(register, offset)


def _move_whole_vector(register: int, offset: int, *, store: bool) -> bytes:
    opcode = b"\x0f\x29" if store else b"\x0f\x28"
    return _rex(0, register, RSP) + opcode + _at_stack(register, offset)


def _lower_stack(size: int) -> bytes:
    return bytes.fromhex("4881ec") + size.to_bytes(4, "little")


def _raise_stack(size: int) -> bytes:
    return bytes.fromhex("4881c4") + size.to_bytes(4, "little")

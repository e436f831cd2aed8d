"""CO-RE: fitting a compiled program to the types of the kernel that it meets.

"Compile once, run everywhere": where a program depends on the layout of a type, the compiler leaves a
relocation beside the instruction that holds an offset, a size, a shift or a yes-or-no. Before the
program is loaded the value is worked out again from the types of the target and written into the
instruction, as another field of it for each class of instruction. Without a target the program is
resolved against its own types, as if it met the kernel that it was compiled for.

When the target lacks what the program asks for, that is no error: programs guard such code with
"does this field exist?". The instruction is replaced by a call of a helper that nobody has (0xbad2310,
"bad relo"), so the program loads, and faults only if it comes there. Types of the target that give
different answers are an error, since nobody can say which is right.

Source: src/relo_core.c of libbpf and Documentation/bpf/llvm_reloc.rst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.bpf.btf_ext import INSTRUCTION_SIZE, CoreRecord
from jitlink.bpf.btf_types import INT_SIGNED, Btf, BtfType, Kind
from jitlink.bpf.core_matching import Access, Matcher, parse_enumerator, parse_field, parse_type
from jitlink.bpf.instructions import RECORD, WIDE
from jitlink.errors import InputError, LinkFailure, MalformedInput, OutOfRange, Place, UnsupportedInput

POISON = 0xBAD2310
"""The helper number that an instruction calls whose relocation could not be resolved."""

CALL = 0x85
LD, LDX, ST, STX, ALU, ALU64 = 0, 1, 2, 3, 4, 7
REGISTER_OPERAND = 0x08
SIZE_BITS = 0x18
SIZE_CODES = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}


class CoreKind(IntEnum):
    """What a relocation asks for, with the numbers of enum bpf_core_relo_kind."""

    FIELD_BYTE_OFFSET = 0
    FIELD_BYTE_SIZE = 1
    FIELD_EXISTS = 2
    FIELD_SIGNED = 3
    FIELD_LSHIFT_U64 = 4
    FIELD_RSHIFT_U64 = 5
    TYPE_ID_LOCAL = 6
    TYPE_ID_TARGET = 7
    TYPE_EXISTS = 8
    TYPE_SIZE = 9
    ENUMVAL_EXISTS = 10
    ENUMVAL_VALUE = 11
    TYPE_MATCHES = 12


FIELD_KINDS = tuple(kind for kind in CoreKind if kind.name.startswith("FIELD"))
ENUM_KINDS = (CoreKind.ENUMVAL_EXISTS, CoreKind.ENUMVAL_VALUE)


class AmbiguousTarget(LinkFailure):
    """Several types of the target answer a CO-RE relocation, and differently.

    Attributes: kind, access (what is asked for), answers (pairs of candidate and value), place.
    """

    def __init__(self, kind: CoreKind, access: str, answers: Sequence[tuple[str, str]], place: Place) -> None:
        super().__init__(kind, access, answers, place)
        self.kind = kind
        self.access = access
        self.answers = list(answers)
        self.place = place

    def __str__(self) -> str:
        answers = "; ".join(f"{candidate} says {answer}" for candidate, answer in self.answers)
        return f"{self.place}: {self.kind.name} of {self.access} is ambiguous in the target: {answers}"


@dataclass(frozen=True)
class Answer:
    """The value of a relocation by one set of types.

    value: None when the types do not have what is asked for and nothing stands for it. size: bytes of
    the field that a load or store may have (0: any). type: of that field. checked: whether compilers
    agree on the value, so that the instruction must hold the one of the local types.
    """

    value: int | None
    size: int = 0
    type: BtfType | None = None
    checked: bool = True


ABSENT = Answer(None)


@dataclass(frozen=True)
class Relocated:
    """What became of a relocation: the record, what it asks for in words, its value (None: poisoned)."""

    record: CoreRecord
    kind: CoreKind
    access: str
    value: int | None

    def __str__(self) -> str:
        answer = "not in the target" if self.value is None else f"{self.value:#x}"
        return f"{self.kind.name} of {self.access}: {answer}"


class CoreRelocator:
    """Applies CO-RE relocations of one object against one target."""

    def __init__(self, local: Btf, target: Btf | None = None) -> None:
        self.local = local
        self.matcher = None if target is None else Matcher(local, target)

    def apply(
        self, code: bytearray | npt.NDArray[np.uint8], records: Sequence[CoreRecord], *, section: str, input: str = ""
    ) -> list[Relocated]:
        """Patch the instructions of a section in place.

        code: the bytes of the section; records: offsets from its start. Returns what became of each
        relocation. Raises MalformedInput for a record that does not fit its types or instruction,
        UnsupportedInput for kinds that there are not, AmbiguousTarget, and OutOfRange for a value
        that the field of the instruction cannot hold.
        """
        slots = np.frombuffer(code, RECORD[self.local.byte_order])
        results = []
        for record in records:
            place = Place(input, section, record.offset)
            try:
                results.append(self._apply(slots, record, place))
            except InputError as error:
                error.input, error.section, error.offset = error.input or input or None, section, record.offset
                raise
        return results

    def _apply(self, slots: npt.NDArray[Any], record: CoreRecord, place: Place) -> Relocated:
        if record.kind not in tuple(CoreKind):
            raise UnsupportedInput(f"CO-RE relocation of the unknown kind {record.kind}")
        kind = CoreKind(record.kind)
        access = _parse(self.local, kind, record)
        old = _answer(kind, access)
        new = self._resolve(kind, access, old, place)
        poisoned = new.value is None or not _patch(slots, record.offset, old, new, _Field(kind, access, place))
        if poisoned:
            _poison(slots, record.offset)
        return Relocated(record, kind, str(access), None if poisoned else new.value)

    def _resolve(self, kind: CoreKind, access: Access, old: Answer, place: Place) -> Answer:
        if kind == CoreKind.TYPE_ID_LOCAL or self.matcher is None:
            return old
        if not self.local.name_of(access.root):
            raise UnsupportedInput(f"{kind.name} of {access}: a type without a name cannot be found in the target")
        answers: list[tuple[Access, Answer]] = []
        for candidate in self.matcher.candidates(access.root):
            found = _match(self.matcher, kind, access, candidate)
            if found is not None:
                answers.append((found, _answer(kind, found)))
        if not answers:
            return _absent(kind)
        first_access, first = answers[0]
        if any(found.offset_bits != first_access.offset_bits or one.value != first.value for found, one in answers):
            said = [(f"{found} (type {found.root})", f"{one.value}, bit {found.offset_bits}") for found, one in answers]
            raise AmbiguousTarget(kind, str(access), said, place)
        return first


def relocate(
    code: bytearray | npt.NDArray[np.uint8],
    records: Sequence[CoreRecord],
    local: Btf,
    target: Btf | None = None,
    *,
    section: str = "",
) -> list[Relocated]:
    """Patch the instructions of one section; see CoreRelocator for several sections of an object."""
    return CoreRelocator(local, target).apply(code, records, section=section)


def _parse(btf: Btf, kind: CoreKind, record: CoreRecord) -> Access:
    if kind in FIELD_KINDS:
        return parse_field(btf, record.type, record.access)
    if kind in ENUM_KINDS:
        return parse_enumerator(btf, record.type, record.access)
    return parse_type(btf, record.type, record.access)


def _match(matcher: Matcher, kind: CoreKind, access: Access, candidate: int) -> Access | None:
    if kind in FIELD_KINDS:
        return matcher.match_field(access, candidate)
    if kind in ENUM_KINDS:
        return matcher.match_enumerator(access, candidate)
    same = matcher.types_match if kind == CoreKind.TYPE_MATCHES else matcher.types_compatible
    return Access(matcher.target, candidate, ()) if same(access.root, candidate) else None


def _absent(kind: CoreKind) -> Answer:
    """What a relocation gives when the target has no such thing: 0, or nothing at all for a place."""
    asks_for_existence = kind in (CoreKind.FIELD_EXISTS, CoreKind.ENUMVAL_EXISTS)
    return Answer(0) if asks_for_existence or kind.name.startswith("TYPE") else ABSENT


def _answer(kind: CoreKind, access: Access) -> Answer:
    """Work out the value of a relocation from an access of the types it leads through."""
    if kind in (CoreKind.FIELD_EXISTS, CoreKind.ENUMVAL_EXISTS, CoreKind.TYPE_EXISTS, CoreKind.TYPE_MATCHES):
        return Answer(1)
    if kind in (CoreKind.TYPE_ID_LOCAL, CoreKind.TYPE_ID_TARGET):
        return Answer(access.root, checked=False)
    if kind == CoreKind.TYPE_SIZE:
        return Answer(access.btf.size_of(access.root))
    if kind == CoreKind.ENUMVAL_VALUE:
        return Answer(_enumerator_value(access))
    return _answer_of_field(kind, access)


def _enumerator_value(access: Access) -> int:
    step = access.steps[0]
    btf = access.btf
    value = int(btf.enumerators.value[btf.rows_under(step.type).start + step.index])
    return value if btf.types.flag[step.type] else value & 0xFFFF_FFFF_FFFF_FFFF


def _answer_of_field(kind: CoreKind, access: Access) -> Answer:
    member = access.member
    if member is not None and member.is_bitfield:
        return _answer_of_bitfield(kind, access, member.type.resolved, member.size_bits)
    btf = access.btf
    type = btf.types[access.steps[-1].type] if member is None else member.type
    size = btf.size_of(type.id)
    if kind == CoreKind.FIELD_BYTE_OFFSET:
        element = _innermost(type)
        return Answer(access.offset_bits // 8, element.size, type.resolved)
    if kind == CoreKind.FIELD_BYTE_SIZE:
        return Answer(size)
    if member is None:
        raise UnsupportedInput(f"{kind.name} of {access}: an array element has only an offset and a size")
    if kind == CoreKind.FIELD_SIGNED:
        return Answer(int(type.resolved.is_signed))
    if kind == CoreKind.FIELD_RSHIFT_U64:
        return Answer((64 - 8 * size) % 2**64)
    # The load is as wide as the field, so the field starts at the first bit of it.
    within = 64 - 8 * size if btf.byte_order == "little" else (8 - size) * 8
    return Answer(within % 2**64)


def _innermost(type: BtfType) -> BtfType:
    """The type of an element of an array of arrays; loads and stores handle one element."""
    real = type.resolved
    while real.kind == Kind.ARRAY and real.target is not None:
        real = real.target.resolved
    return real


def _answer_of_bitfield(kind: CoreKind, access: Access, type: BtfType, width: int) -> Answer:
    """Place a bitfield in the smallest aligned load that holds it. Compilers choose it differently."""
    at = access.offset_bits
    size = type.size
    start = at // 8 // size * size
    while at + width - start * 8 > size * 8:
        if size >= 8:
            raise UnsupportedInput(f"{access} is a bitfield that no load of 8 bytes holds")
        size *= 2
        start = at // 8 // size * size
    inside = at - start * 8
    little = access.btf.byte_order == "little"
    values = {
        CoreKind.FIELD_BYTE_OFFSET: Answer(start, checked=False),
        CoreKind.FIELD_BYTE_SIZE: Answer(size, checked=False),
        CoreKind.FIELD_SIGNED: Answer(int(type.is_signed)),
        CoreKind.FIELD_LSHIFT_U64: Answer(64 - inside - width if little else (8 - size) * 8 + inside, checked=False),
        CoreKind.FIELD_RSHIFT_U64: Answer(64 - width),
    }
    return values[kind]


@dataclass(frozen=True)
class _Field:
    """What is being patched, for messages."""

    kind: CoreKind
    access: Access
    place: Place

    def __str__(self) -> str:
        return f"{self.kind.name} of {self.access}"


def _patch(slots: npt.NDArray[Any], offset: int, old: Answer, new: Answer, field: _Field) -> bool:
    """Write a value into an instruction; false when the instruction cannot access the field rightly."""
    row = offset // INSTRUCTION_SIZE
    if row >= len(slots) or offset % INSTRUCTION_SIZE:
        raise MalformedInput(f"{field}: there is no instruction")
    assert old.value is not None
    assert new.value is not None
    slot = slots[row]
    opcode = int(slot["opcode"])
    sort = opcode & 7
    if sort in (ALU, ALU64) and not opcode & REGISTER_OPERAND:
        _expect(field, int(slot["imm"]), old, bits=32)
        slot["imm"] = _as_signed(_fitting(field, new.value, -(1 << 31), 1 << 32), 32)
        return True
    if sort in (LDX, ST, STX):
        _expect(field, int(slot["offset"]), old, bits=16)
        return _patch_access(slot, old, replace(new, value=_fitting(field, new.value, 0, 1 << 15)), field)
    if opcode == WIDE and row + 1 < len(slots) and _is_plain_constant(slot, slots[row + 1], field.access.btf):
        held = int(slot["imm"]) & 0xFFFF_FFFF | int(slots[row + 1]["imm"]) << 32
        _expect(field, held, old, bits=64)
        slot["imm"] = _as_signed(new.value, 32)
        slots[row + 1]["imm"] = _as_signed(new.value >> 32, 32)
        return True
    raise MalformedInput(f"{field}: the instruction with opcode {opcode:#04x} has no place for its value")


def _patch_access(slot: Any, old: Answer, new: Answer, field: _Field) -> bool:
    """Patch the offset of a load or store, and its width when the field has another one."""
    if new.size != old.size:
        if not _may_change_width(old, new):
            return False
        opcode = int(slot["opcode"])
        if SIZE_CODES.get(old.size) != opcode & SIZE_BITS or new.size not in SIZE_CODES:
            raise MalformedInput(
                f"{field}: a load or store with opcode {opcode:#04x} cannot become one of {new.size} bytes"
            )
        slot["opcode"] = opcode & ~SIZE_BITS | SIZE_CODES[new.size]
    slot["offset"] = new.value
    return True


def _may_change_width(old: Answer, new: Answer) -> bool:
    """Pointers and unsigned integers keep their value when they are read narrower and extended with zeros."""
    if old.type is None or new.type is None or old.type.kind != new.type.kind:
        return False
    if old.type.kind == Kind.INT:
        return not any(type.read("extra") >> 24 & INT_SIGNED for type in (old.type, new.type))
    return old.type.kind == Kind.PTR


def _is_plain_constant(first: Any, second: Any, btf: Btf) -> bool:
    """Whether a wide constant is just that, not the address of a map or function, whose src says so."""
    src = int(first["registers"]) & (0xF0 if btf.byte_order == "little" else 0x0F)
    return not (src or first["offset"] or second["opcode"] or second["registers"] or second["offset"])


def _expect(field: _Field, held: int, old: Answer, *, bits: int) -> None:
    """The instruction must hold the value of the local types, or the relocation is not meant for it."""
    assert old.value is not None
    if old.checked and (held - old.value) % (1 << bits):
        raise MalformedInput(f"{field}: the instruction holds {held:#x} where {old.value:#x} is expected")


def _fitting(field: _Field, value: int, low: int, high: int) -> int:
    if low <= value < high:
        return value
    raise OutOfRange(
        kind=field.kind.name,
        formula=str(field.access),
        rule=f"is outside [{low:#x}, {high:#x})",
        places=[field.place],
        targets=[field.access.btf.types[field.access.root].title],
        values=[value],
        hint="The field of the instruction is too narrow for the types of this target.",
    )


def _as_signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def _poison(slots: npt.NDArray[Any], offset: int) -> None:
    """Replace an instruction by a call that fails; of a wide constant both slots."""
    row = offset // INSTRUCTION_SIZE
    if row >= len(slots):
        raise MalformedInput("there is no instruction")
    count = 2 if slots["opcode"][row] == WIDE and row + 1 < len(slots) else 1
    slots[row : row + count] = (CALL, 0, 0, POISON)

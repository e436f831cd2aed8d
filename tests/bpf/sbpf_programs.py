"""SBPF programs made at random: some that the verifier lets pass, and some that break its rules.

Pointers to the heap, the input and the stack are kept in r6 to r8, so that programs get far: loads and stores of all
sizes at places in regions, at their ends and beyond, loops, calls by number, distance and address, and syscalls
in between.
"""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from jitlink.bpf import sbpf
from jitlink.bpf.sbpf.isa import Family, Form, forms_of
from jitlink.bpf.sbpf.memory import HEAP_BYTES, HEAP_START, INPUT_START, PROGRAM_START, STACK_START
from tests.bpf.sbpf_files import EXIT, NOTYPE, TEXT_AT, Lenient, Strict, lddw, op

MASK = (1 << 64) - 1
VERSIONS = range(4)
RODATA = bytes(range(64))
NUMBERS = [0, 1, 2, 31, 64, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0005, 1 << 63, MASK, 0x1122334455667788]
IMMEDIATES = [-1, 0, 1, 3, 16, 32, 64, 0x1234567, -(1 << 31), (1 << 31) - 1]
SYSCALLS = ("sol_log_64_", "sol_set_return_data", "sol_memcpy_", "sol_memset_", "sol_memcmp_", "abort")
BASES = (
    *(HEAP_START, HEAP_START + HEAP_BYTES - 8, HEAP_START - 4, INPUT_START, INPUT_START + 60, STACK_START),
    *(STACK_START + 4092, STACK_START + 8192, STACK_START + (1 << 18) - 4, STACK_START + (1 << 19) - 4096 - 8),
    *(PROGRAM_START, PROGRAM_START + TEXT_AT, 0, 5 << 32),
)
"""Where pointers begin: at, before and behind the ends of regions, of frames and of gaps."""
ADD_IMMEDIATE, MOVE = 0x07, 0xBF
UNKNOWN = 0x1234_5678


def constant(version: int, dst: int, value: int) -> bytes:
    """A 64-bit constant: lddw, or in version 2 mov and hor64; two slots."""
    if version != 2:
        return lddw(dst, value)
    return op(0xB4, dst, imm=value) + op(0xF7, dst, imm=value >> 32)


def syscall(name: str) -> bytes:
    """A call of a syscall, which `assembled` gives a relocation where the version has them."""
    return op(0x85, imm=sbpf.hash_of_name(name))


def assembled(version: int, text: bytes, entry: int = 0) -> bytes:
    """The file of a program, with some constants."""
    if version == 3:
        return Strict(text, RODATA, entry).build()
    named = {sbpf.hash_of_name(name): name for name in SYSCALLS}
    file = Lenient(text, version, entry, RODATA)
    code = bytearray(text)
    for at in range(0, len(text), 8):
        name = named.get(int.from_bytes(text[at + 4 : at + 8], "little"))
        if text[at] == 0x85 and name:
            file.symbols[name] = (0, NOTYPE)
            file.relocations.append((TEXT_AT + at, 10, name))
            code[at + 4 : at + 8] = b"\xff" * 4
    file.text = bytes(code)
    return file.build()


class _Maker:
    """Makes one program. wild: it may break the verifier's rules."""

    def __init__(self, version: int, source: Random, wild: bool) -> None:
        self.version = version
        self.source = source
        self.wild = wild
        self.forms = [form for form in forms_of(sbpf.Version(version)) if form is not None and form.name != "lddw"]
        self.count = source.randrange(2, 24)
        self.begin = b""
        self.code: list[bytes] = []

    def text(self) -> bytes:
        """Write the code."""
        choice = self.source.choice
        for number in (6, 7, 8):
            self.begin += constant(self.version, number, choice(BASES if self.source.random() < 0.5 else BASES[::3]))
        for number in (0, 2, 3, 4, 5, 9):
            self.begin += constant(self.version, number, choice(NUMBERS))
        for place in range(self.count):
            self.code.append(self._instruction(place))
        return self.begin + b"".join(self.code)

    def _slot(self) -> int:
        """How many slots there are so far."""
        return (len(self.begin) + sum(map(len, self.code))) // 8

    def _instruction(self, place: int) -> bytes:
        source, form = self.source, self.source.choice(self.forms)
        dst, src = source.choice([0, 2, 3, 4, 5, 9, 0, 2, 3, source.randrange(10)]), source.randrange(11)
        offset, imm = source.choice([-8, -1, 0, 1, 2, 3, 8, 4088, 4092, -4096]), source.choice(IMMEDIATES)
        if self.wild and source.random() < 0.02:
            return op(form.opcode, source.choice([10, 11, 12]), source.choice([3, 13]), offset, imm)
        match form.family:
            case Family.LOAD | Family.STORE:
                return self._access(form, dst, src, offset, imm)
            case Family.CALL:
                return self._call(place)
            case Family.CALL_REGISTER:
                return self._call_address(place)
            case Family.JUMP | Family.BRANCH:
                reach = self.count - place - 1 + self.wild
                offset = source.randrange(-min(place, 3), reach + 1) if reach > 0 else 0
        if not self.wild:
            dst, imm = self._lawful(form, dst, imm)
        return op(form.opcode, dst, src, offset, imm)

    def _lawful(self, form: Form, dst: int, imm: int) -> tuple[int, int]:
        """What the verifier lets pass."""
        source = self.source
        if form.family is Family.BYTE_ORDER:
            imm = source.choice([16, 32, 64])
        elif form.shifts and not form.from_register:
            imm = source.randrange(form.bits)
        elif form.divides and not form.from_register:
            imm = imm or 7
        elif form.opcode == ADD_IMMEDIATE and self.version in (1, 2) and source.random() < 0.5:
            return 10, source.choice([64, -64, -128, 4096])
        return dst, imm

    def _access(self, form: Form, dst: int, src: int, offset: int, imm: int) -> bytes:
        base = self.source.choice([6, 7, 8, 10, 10])
        if base == 10:
            offset = self.source.choice([-8, -16, -4096, -4, -1, 0, -64, 4])
        return (
            op(form.opcode, dst, base, offset)
            if form.family is Family.LOAD
            else op(form.opcode, base, src, offset, imm)
        )

    def _call(self, place: int) -> bytes:
        """Of a function, or of a syscall."""
        if self.source.random() < 0.5:
            return op(0x85, src=1, imm=self.source.randrange(-place - 1, self.count - place))
        if self.wild and self.source.random() < 0.1:
            return op(0x85, imm=UNKNOWN)
        return syscall(self.source.choice(SYSCALLS))

    def _call_address(self, place: int) -> bytes:
        """Of a place in the code, now and then of none, by an address in r4."""
        start = PROGRAM_START + (0 if self.version == 3 else TEXT_AT)
        target = self.source.choice([self._slot() + self.source.randrange(-3, 6), 0, -1, 1 << 20])
        address = start + 8 * target + self.source.choice([0, 0, 0, 3])
        return constant(self.version, 4, address) + op(
            0x8D, 4 if self.version == 3 else 0, 4 * (self.version == 2), imm=4
        )


@st.composite
def programs(draw: st.DrawFn, version: int, *, wild: bool = True, end: bytes = EXIT) -> bytes:
    """The files of programs. end: the code that comes last."""
    # What hypothesis would draw itself is mostly small, and then programs end early.
    source = draw(st.randoms(use_true_random=True))
    return assembled(version, _Maker(version, source, wild).text() + end)


inputs = st.sampled_from([0, 8, 64, 65]).flatmap(lambda size: st.binary(min_size=size, max_size=size))
arguments = st.lists(st.sampled_from([INPUT_START, *NUMBERS]), max_size=5)
budgets = st.sampled_from([10_000, 10_000, *range(30)])

"""Programs made at random that do nothing wrong: for code that checks nothing or counts nothing.

They compute, load and store in their memory, loop, jump forward, call helpers, and call a function of their own, by
its number and through a pointer. r6 and r7 keep the addresses that r1 and r2 come with, since a call makes r1 to r5
useless; r9 counts the rounds of loops. Nearly all of them run to their end. Whoever uses them looks at what
the interpreter says, and leaves the others out: code without checks may do anything with a program that faults.
"""

from __future__ import annotations

from hypothesis import strategies as st

from jitlink.bpf.instructions import ByteOrder, encode
from jitlink.bpf.isa import FORMS, STACK_SIZE, Family
from tests.bpf.differential import BUFFER, CONSTANTS, FORM, HELPERS, Slot, immediates, joined, programs, slot_of

SCRATCH = (0, 3, 4, 5, 8)
"""Registers that instructions may write."""
_ARITHMETIC = [form for form in FORMS if form.family in (Family.ARITHMETIC, Family.BYTE_ORDER) and not form.refused]
_MEMORY = [form for form in FORMS if form.family in (Family.LOAD, Family.STORE, Family.ATOMIC)]
_LOADS = [form for form in _MEMORY if form.family is Family.LOAD]
_BRANCHES = [form for form in FORMS if form.family is Family.BRANCH and not form.refused]
_EXIT = FORM["exit"]
_CALL, _POINTER = -1, -2
"""In the place of an opcode: a call of the function behind the program, a load of a pointer to it."""
_AGAIN = [slot_of(FORM["mov64_reg"], dst=1, src=6), slot_of(FORM["mov64_reg"], dst=2, src=7)]
"""What makes r1 and r2 good again behind a call."""
scratch = st.sampled_from(SCRATCH)


@st.composite
def _computing(draw: st.DrawFn) -> list[Slot]:
    return [slot_of(draw(st.sampled_from(_ARITHMETIC)), dst=draw(scratch), src=draw(scratch), imm=draw(immediates))]


@st.composite
def _accessing(draw: st.DrawFn) -> list[Slot]:
    """An access of the buffer, the frame or the constants, aligned as atomic operations want it."""
    base, start, end = draw(st.sampled_from([(1, 0, BUFFER), (10, -STACK_SIZE, 0), (10, -32, 0), (2, 0, CONSTANTS)]))
    form = draw(st.sampled_from(_LOADS if base == 2 else _MEMORY))
    size = form.bits // 8
    offset = draw(st.integers(start // size, end // size - 1)) * size
    other = draw(scratch)
    loads = form.family is Family.LOAD or form.operation == "load_acquire"
    dst, src = (other, base) if loads else (base, other)
    return [slot_of(form, dst=dst, src=src, offset=offset, imm=draw(immediates))]


@st.composite
def _jumping(draw: st.DrawFn) -> list[Slot]:
    """A branch forward, and what it may jump over."""
    over = joined(draw(st.lists(_computing() | _accessing(), max_size=3)))
    form = draw(st.sampled_from(_BRANCHES))
    return [slot_of(form, dst=draw(scratch), src=draw(scratch), offset=len(over), imm=draw(immediates)), *over]


@st.composite
def _helping(draw: st.DrawFn) -> list[Slot]:
    """A call of a helper (World.helper): r3 says what it does, and r4 with what."""
    does, number = draw(st.sampled_from([0, 3, 5, 6, 7])), draw(st.integers(0, 32))
    return [
        slot_of(FORM["mov64_imm"], dst=3, imm=does),
        slot_of(FORM["mov64_imm"], dst=4, imm=number),
        slot_of(FORM["call_helper"], imm=draw(st.sampled_from(HELPERS))),
        *_AGAIN,
    ]


_calling = st.sampled_from(
    [
        [(_CALL, 0, 0, 0, 0), *_AGAIN],
        [(_POINTER, 8, 0, 0, 0), (0, 0, 0, 0, 0), slot_of(FORM["callx"], dst=8), *_AGAIN],
    ]
)
_plain = _computing() | _accessing() | _accessing() | _jumping()


@st.composite
def _looping(draw: st.DrawFn) -> list[Slot]:
    """A loop of some rounds; one whose address moves through the buffer, now and then."""
    rounds = draw(st.integers(1, 9))
    body = joined(draw(st.lists(_plain, min_size=1, max_size=4)))
    first = [slot_of(FORM["mov64_imm"], dst=9, imm=rounds)]
    if draw(st.booleans()):
        first.append(slot_of(FORM["mov64_reg"], dst=1, src=6))
        body.append(slot_of(FORM["add64_imm"], dst=1, imm=draw(st.sampled_from([0, 1, 4, 8]))))
    body.append(slot_of(FORM["add64_imm"], dst=9, imm=-1))
    return [*first, *body, slot_of(FORM["jne_imm"], dst=9, offset=-len(body) - 1), *_AGAIN]


@st.composite
def _allowed(draw: st.DrawFn) -> list[Slot]:
    """A loop that runs for as long as may_goto allows."""
    body = joined(draw(st.lists(_plain, min_size=1, max_size=3)))
    end = slot_of(FORM["may_goto"], offset=len(body) + 1)
    return [end, *body, slot_of(FORM["ja"], offset=-len(body) - 2)]


_part = _plain | _plain | _looping() | _allowed() | _helping() | _calling
_leaf = _plain | _plain | _looping() | _allowed() | _helping()


def faultless_programs(byteorder: ByteOrder) -> st.SearchStrategy[bytes]:
    """Programs that nearly always run to their end, as bytes."""
    main = st.lists(_part, min_size=1, max_size=16).map(joined)
    function = st.lists(_leaf, min_size=1, max_size=4).map(joined)
    return st.tuples(main, function).map(lambda pair: encode(_laid_out(*pair), byteorder))


def any_programs(byteorder: ByteOrder) -> st.SearchStrategy[bytes]:
    """Programs that may do anything, and some that get far."""
    return programs(byteorder) | faultless_programs(byteorder)


def _laid_out(main: list[Slot], function: list[Slot]) -> list[Slot]:
    """Lay the function behind the program, and aim calls at it."""
    start = [slot_of(FORM["mov64_reg"], dst=6, src=1), slot_of(FORM["mov64_reg"], dst=7, src=2)]
    slots = [*start, *main, slot_of(_EXIT)]
    entry = len(slots)
    forms = {_CALL: FORM["call_local"], _POINTER: FORM["lddw_code"]}
    for index, (opcode, dst, *_) in enumerate(slots):
        if opcode in forms:
            form = forms[opcode]
            src = form.selector[1] if form.selector else 0
            slots[index] = form.opcode, dst, src, 0, entry - index - 1
    return [*slots, *function, slot_of(_EXIT)]

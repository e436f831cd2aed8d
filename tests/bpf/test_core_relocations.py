"""CO-RE: a program compiled for one layout of types runs on another.

The oracle is the compiler. The same function is compiled twice: with relocations, against the types of
the program, and without, against the types of the target. After relocation both must give the same
result on the same memory.
"""

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.btf import parse
from jitlink.bpf.btf_builder import Builder
from jitlink.bpf.btf_ext import CoreRecord
from jitlink.bpf.core_matching import Matcher, essential_name
from jitlink.bpf.core_relocations import POISON, AmbiguousTarget, CoreKind, CoreRelocator, relocate
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.instructions import decode
from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.machine import Code
from jitlink.errors import LinkError, MalformedInput, OutOfRange, UnsupportedInput
from tests.bpf.objects import compiled

TYPEDEFS = (
    "typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;\n"
)
LOCAL = """
struct point { int x, y; };
struct task {
    u32 pid;
    struct point at[4];
    union { u64 wide; u32 low; };
    u32 flags : 5;
    int level : 7;
    short table[6];
    struct task *parent;
    u8 tail[];
};
enum state { IDLE = 1, BUSY = 2 } state;
"""
TARGET = """
struct point { u64 stamp; int y; int z; int x; };
struct task {
    struct task *parent;
    u64 reserved[5];
    struct point at[8];
    struct { u32 unrelated; union { u32 low; u64 wide; }; };
    int before : 11;
    int level : 4;
    u32 gap;
    u32 flags : 9;
    u64 pid;
    short other;
    short table[12];
    u8 tail[];
};
enum state { STOPPED = 1, BUSY = 77, IDLE = 40 } state;
"""
PRESERVED = """
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
%s
#pragma clang attribute pop
#define INFO(field, kind) __builtin_preserve_field_info(field, kind)
"""
# How BPF_CORE_READ_BITFIELD of libbpf reads a bitfield, from its five relocatable properties.
BITFIELD = """
static inline __attribute__((always_inline))
u64 bitfield(const void *base, u64 offset, u64 size, u64 left, u64 right, int is_signed)
{
    const void *at = base + offset;
    u64 value = size == 1 ? *(u8 *)at : size == 2 ? *(u16 *)at : size == 4 ? *(u32 *)at : *(u64 *)at;
    value <<= left;
    return is_signed ? (u64)((long long)value >> right) : value >> right;
}
#define READ_BITFIELD(base, field) bitfield(base, INFO((base)->field, 0), INFO((base)->field, 1), \\
    INFO((base)->field, 4), INFO((base)->field, 5), INFO((base)->field, 3))
"""
# fmt: off
READS = {
    "moved member":       ("task->pid", "task->pid"),
    "element and member": ("task->at[2].y", "task->at[2].y"),
    "last element":       ("task->at[3].x", "task->at[3].x"),
    "through anonymous":  ("task->low", "task->low"),
    "wide of a union":    ("task->wide", "task->wide"),
    "array of shorts":    ("task->table[5]", "task->table[5]"),
    "flexible array":     ("task->tail[3]", "task->tail[3]"),
    "unsigned bitfield":  ("READ_BITFIELD(task, flags)", "task->flags"),
    "signed bitfield":    ("READ_BITFIELD(task, level)", "(u64)(long long)task->level"),
    "size of a member":   ("INFO(task->table, 1)", "sizeof(task->table)"),
    "offset of a member": ("INFO(task->parent, 0)", "__builtin_offsetof(struct task, parent)"),
    "size of a type":     ("__builtin_preserve_type_info(*(struct task *)0, 1)", "sizeof(struct task)"),
    "enumerator":         ("__builtin_preserve_enum_value(*(enum state *)BUSY, 1)", "BUSY"),
    "other enumerator":   ("__builtin_preserve_enum_value(*(enum state *)IDLE, 1)", "IDLE"),
    "existing type":      ("__builtin_preserve_type_info(*(struct task *)0, 0)", "1"),
    "existing value":     ("__builtin_preserve_enum_value(*(enum state *)BUSY, 0)", "1"),
    "existing member":    ("INFO(task->at[0].y, 2)", "1"),
}
# fmt: on


def with_relocations(types, expression, order="little"):
    """Compile a function that returns an expression over a struct task, with CO-RE relocations."""
    body = f'__attribute__((section("code"))) u64 program(struct task *task) {{ return {expression}; }}'
    return compiled(TYPEDEFS + PRESERVED % types + BITFIELD + body, order)


def without_relocations(types, expression, order="little"):
    """Compile the function against the types themselves."""
    use = f'__attribute__((section("code"))) u64 program(struct task *task) {{ return {expression}; }}'
    return compiled(TYPEDEFS + types + use, order)


def relocated(made, target=None):
    code = bytearray(made.section("code"))
    results = relocate(code, made.ext.core_relocations("code"), made.btf, target, section="code")
    return bytes(code), results


def run(code, memory, order="little"):
    machine = Interpreter()
    region = machine.regions.allocate(len(memory), "task")
    region.data[:] = memory
    try:
        return machine.run(Code(decode(code, order)), region.address)
    finally:
        machine.regions.close()


@pytest.fixture(params=["little", "big"])
def order(request):
    return request.param


@pytest.mark.parametrize(("relocatable", "plain"), READS.values(), ids=READS)
def test_a_relocated_program_reads_the_target_as_if_compiled_for_it(relocatable, plain, order):
    """Field offsets, sizes, shifts, signs and values are those that the compiler knows of the target."""
    target = without_relocations(TARGET, plain, order)
    code, results = relocated(with_relocations(LOCAL, relocatable, order), target.btf)
    assert results
    memory = random.Random(plain).randbytes(600)
    assert run(code, memory, order) == run(target.section("code"), memory, order)


@pytest.mark.parametrize(("relocatable", "plain"), READS.values(), ids=READS)
def test_without_a_target_the_own_types_count(relocatable, plain, order):
    """Against its own types a program does what it would do without relocations."""
    made = with_relocations(LOCAL, relocatable, order)
    own = without_relocations(LOCAL, plain, order)
    memory = random.Random(plain).randbytes(600)
    for target in (None, made.btf):
        code, _ = relocated(made, target)
        assert run(code, memory, order) == run(own.section("code"), memory, order)


GUARDED = "__builtin_preserve_field_info(task->pid, 2) ? task->pid : 99"
EMPTY_TASK = "struct task { u64 nothing; };"


def test_a_missing_member_does_not_exist_and_its_guarded_use_is_never_reached():
    """Existence gives 0, so that the program takes the other way around the poisoned instruction."""
    target = without_relocations(EMPTY_TASK, "task->nothing")
    code, results = relocated(with_relocations(LOCAL, GUARDED), target.btf)
    assert {(result.kind, result.value) for result in results} == {
        (CoreKind.FIELD_EXISTS, 0),
        (CoreKind.FIELD_BYTE_OFFSET, None),
    }
    assert run(code, bytes(64)) == 99


def test_an_unguarded_use_of_a_missing_member_faults_when_it_is_reached():
    """The program loads; the poisoned instruction calls helper 0xbad2310, which stops it."""
    target = without_relocations(EMPTY_TASK, "task->nothing")
    code, _ = relocated(with_relocations(LOCAL, "task->pid"), target.btf)
    assert POISON.to_bytes(4, "little") in code
    with pytest.raises(BpfFault) as caught:
        run(code, bytes(64))
    assert caught.value.kind in (FaultKind.UNRESOLVED, FaultKind.UNKNOWN_HELPER)


def test_both_slots_of_a_wide_constant_are_poisoned():
    """A missing enumerator leaves no half of its lddw behind."""
    made = with_relocations(LOCAL, "__builtin_preserve_enum_value(*(enum state *)BUSY, 1)")
    code, _ = relocated(made, without_relocations(EMPTY_TASK, "0").btf)
    (record,) = made.ext.core_relocations("code")
    assert code[record.offset : record.offset + 16] == bytes.fromhex("85000000" + "1023ad0b") * 2


def test_types_that_are_missing_have_size_and_number_zero():
    """Type relocations are never poisoned: existence, size, number and match of a missing type are 0."""
    texts = [f"__builtin_preserve_type_info(*(struct task *)0, {kind})" for kind in (0, 1, 2)]
    texts.append("__builtin_btf_type_id(*(struct task *)0, 1)")
    empty = Builder().build()
    for text in texts:
        code, (result,) = relocated(with_relocations(LOCAL, text), empty)
        assert result.value == 0
        assert run(code, bytes(8)) == 0


def test_type_numbers_are_those_of_program_and_target():
    """TYPE_ID_LOCAL gives the number in the object, TYPE_ID_TARGET that in the target."""
    target = without_relocations(TARGET, "task->pid").btf
    local = with_relocations(LOCAL, "__builtin_btf_type_id(*(struct task *)0, 0)")
    assert run(relocated(local, target)[0], bytes(8)) == local.btf["struct task"].id
    other = with_relocations(LOCAL, "__builtin_btf_type_id(*(struct task *)0, 1)")
    assert run(relocated(other, target)[0], bytes(8)) == target["struct task"].id


# Matching.


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("task", "task"),
        ("task___old", "task"),
        ("a___b___c", "a___b"),
        ("___x", "___x"),
        ("x___", "x___"),
        ("x____y", "x____y"),
    ],
)
def test_a_flavour_is_what_follows_the_last_triple_underscore(name, essential):
    """Three underscores between other characters begin a flavour, four do not (bpf_core_is_flavor_sep)."""
    assert essential_name(name) == essential


def test_flavours_of_the_program_and_of_the_target_match():
    """struct task___mine of the program finds struct task___theirs of the target."""
    mine = LOCAL.replace("struct task ", "struct task___mine ")
    theirs = "struct task { u32 a; };" + TARGET.replace("task", "task___theirs") + "struct task___theirs kept;"
    made = with_relocations(mine, "((struct task___mine *)task)->pid")
    target = without_relocations(theirs, "((struct task___theirs *)task)->pid")
    memory = bytes(range(256)) * 3
    assert run(relocated(made, target.btf)[0], memory) == run(target.section("code"), memory)


def candidates_with(*offsets):
    builder = Builder()
    integer = builder.integer("unsigned int", 4)
    for number, offset in enumerate(offsets):
        builder.struct(f"task___v{number}", 64, [("pid", integer, offset)])
    return builder.build()


def test_candidates_that_agree_are_one_answer():
    """Several types of the name are no ambiguity while they give the same answer."""
    made = with_relocations(LOCAL, "task->pid")
    _, (result,) = relocated(made, candidates_with(64, 64))
    assert result.value == 8


def test_candidates_that_disagree_are_an_error_that_names_them():
    """Types that place the member differently raise AmbiguousTarget with every candidate."""
    made = with_relocations(LOCAL, "task->pid")
    with pytest.raises(AmbiguousTarget) as caught:
        relocated(made, candidates_with(64, 96))
    assert "task___v0" in str(caught.value)
    assert "task___v1" in str(caught.value)
    assert "code+" in str(caught.value)


def local_and_target(build_local, build_target):
    builders = Builder(), Builder()
    build_local(builders[0])
    build_target(builders[1])
    return [builder.build() for builder in builders]


def holder(kind):
    """A struct `s` with one member `m` of a type that a function adds."""

    def build(builder):
        type = kind(builder)
        builder.struct("s", 64, [("m", type, 0)])

    return build


INT = holder(lambda b: b.integer("int", 4, signed=True))
LONG = holder(lambda b: b.integer("long", 8, signed=True))
POINTER = holder(lambda b: b.pointer())
FLOAT = holder(lambda b: b.floating("float", 4))
ARRAY = holder(lambda b: b.array(b.integer("int", 4, signed=True), 3))
ENUM = holder(lambda b: b.enum("e", {"A": 1}))
OTHER_ENUM = holder(lambda b: b.enum("f", {"A": 1}))
NAMELESS_ENUM = holder(lambda b: b.enum64("", {"A": 1}))
STRUCT = holder(lambda b: b.struct("x", 8, []))
UNION = holder(lambda b: b.union("y", 8, []))


@pytest.mark.parametrize(
    ("local", "target", "compatible"),
    [
        (INT, LONG, True),
        (INT, POINTER, False),
        (INT, FLOAT, False),
        (FLOAT, FLOAT, True),
        (POINTER, POINTER, True),
        (STRUCT, UNION, True),
        (STRUCT, INT, False),
        (ENUM, ENUM, True),
        (ENUM, OTHER_ENUM, False),
        (ENUM, NAMELESS_ENUM, True),
        (ENUM, INT, False),
        (ARRAY, INT, False),
        (ARRAY, ARRAY, True),
    ],
)
def test_members_match_when_their_types_are_compatible(local, target, compatible):
    """The rules of bpf_core_fields_are_compat: sizes do not count, kinds and names of enums do."""
    own, other = local_and_target(local, target)
    _, (result,) = relocated_record(own, other, CoreKind.FIELD_EXISTS, own["struct s"].id, "0:0", value=1)
    assert result.value == int(compatible)


def relocated_record(own, other, kind, type, access, value, opcode=0xB7):
    """Relocate one `mov` (or another instruction with an immediate) that holds value."""
    code = bytearray(bytes([opcode, 0, 0, 0]) + value.to_bytes(4, "little"))
    return code, relocate(code, [CoreRecord(0, type, access, kind)], own, other, section="text")


@pytest.mark.parametrize(
    ("local", "target", "matches"),
    [
        ("struct s { int a; };", "struct s { char z; int a; };", 1),
        ("struct s { int a; };", "struct s { long long a; };", 0),
        ("struct s { int a; };", "struct s { unsigned int a; };", 0),
        ("struct s { int a, b; };", "struct s { int a; };", 0),
        ("struct t { int x; }; struct s { struct t *t; };", "struct t { long y; }; struct s { struct t *t; };", 1),
        ("struct t; struct s { struct t *t; };", "struct t { long y; }; struct s { struct t *t; };", 1),
        ("struct t; struct s { struct t *t; };", "union t { long y; }; struct s { union t *t; };", 0),
        ("struct t { int x; }; struct s { struct t t; };", "struct t { long x; }; struct s { struct t t; };", 0),
        ("struct s { int a[3]; };", "struct s { int a[4]; };", 0),
        ("struct s { int (*f)(int); };", "struct s { int (*f)(int, int); };", 0),
        ("enum e { A = 1 }; struct s { enum e e; };", "enum e { B = 1, A = 2 }; struct s { enum e e; };", 1),
        ("enum e { C = 1 }; struct s { enum e e; };", "enum e { B = 1, A = 2 }; struct s { enum e e; };", 0),
    ],
)
def test_types_match_when_the_target_has_all_that_the_local_type_has(local, target, matches):
    """The rules of bpf_core_types_match, on types as the compiler writes them."""
    own, other = (compiled(text + " struct s *use; struct s used;").btf for text in (local, target))
    matcher = Matcher(own, other)
    assert matcher.types_match(own["struct s"].id, other["struct s"].id) == bool(matches)


# Patching.


def test_unsigned_loads_take_the_width_of_the_target():
    """A load of a 4-byte unsigned member becomes one of 8 bytes where the target's has 8, as libbpf does."""
    made = with_relocations(LOCAL, "task->pid")
    code, _ = relocated(made, without_relocations(TARGET, "task->pid").btf)
    (record,) = made.ext.core_relocations("code")
    assert (made.section("code")[record.offset], code[record.offset]) == (0x61, 0x79)


def test_signed_loads_of_another_width_are_poisoned():
    """A signed member that became wider cannot be read by the same load."""
    made = with_relocations(LOCAL, "task->at[1].x")
    wide = "struct point { long long y, x; }; struct task { struct point at[4]; };"
    _, results = relocated(made, without_relocations(wide, "task->at[1].x").btf)
    assert [result.value for result in results] == [None]


def test_an_offset_that_does_not_fit_the_instruction_is_an_error():
    """A load has 15 bits for its offset: a member further out raises OutOfRange."""
    made = with_relocations(LOCAL, "task->pid")
    with pytest.raises(OutOfRange, match=r"struct task\.pid"):
        relocated(made, without_relocations("struct task { char far[40000]; u32 pid; };", "task->pid").btf)


def test_an_instruction_that_holds_another_value_is_refused():
    """The instruction must hold what the local types say, or the relocation is not meant for it."""
    own, other = local_and_target(INT, INT)
    with pytest.raises(MalformedInput, match=r"text\+0x0"):
        relocated_record(own, other, CoreKind.FIELD_BYTE_SIZE, own["struct s"].id, "0:0", value=5)


@pytest.mark.parametrize("opcode", [0xBF, 0x05, 0x85, 0x95, 0x20])
def test_an_instruction_without_a_place_for_the_value_is_refused(opcode):
    """Register moves, jumps, calls and packet loads hold no relocatable value."""
    own, other = local_and_target(INT, INT)
    with pytest.raises(MalformedInput):
        relocated_record(own, other, CoreKind.FIELD_BYTE_SIZE, own["struct s"].id, "0:0", value=4, opcode=opcode)


@pytest.mark.parametrize("access", ["", "x", "0:", ":0", "0:9", "0:0:0", "0:0:0:0", "-1", "0" * 30, "0" + ":0" * 70])
def test_access_strings_that_fit_no_type_are_refused(access):
    """Access strings that are no numbers, or lead nowhere, raise MalformedInput."""
    own, other = local_and_target(INT, INT)
    with pytest.raises(MalformedInput):
        relocated_record(own, other, CoreKind.FIELD_EXISTS, own["struct s"].id, access, value=1)


def test_unknown_kinds_and_nameless_types_are_unsupported():
    """Kind 13 does not exist; a type without a name cannot be searched for."""
    own, other = local_and_target(lambda b: b.struct("", 4, []), INT)
    for kind in (13, CoreKind.TYPE_EXISTS):
        with pytest.raises(UnsupportedInput):
            relocated_record(own, other, kind, 1, "0", value=1)


@settings(settings.get_profile("mutations"))
@given(st.data())
def test_mutated_targets_and_records_are_relocated_or_refused(data):
    """Whatever target and records say: a LinkError, or a program."""
    made = with_relocations(LOCAL, "task->at[2].y + READ_BITFIELD(task, level) + task->tail[3]")
    target = bytearray(without_relocations(TARGET, "task->pid").btf_bytes)
    for _ in range(data.draw(st.integers(0, 6))):
        target[data.draw(st.integers(24, len(target) - 1))] = data.draw(st.integers(0, 255))
    records = [
        CoreRecord(
            data.draw(st.sampled_from([record.offset, record.offset + 8, 1 << 20])),
            data.draw(st.integers(0, len(made.btf) - 1)),
            data.draw(st.sampled_from([record.access, "0", "0:1", "0:1:2:3"])),
            data.draw(st.integers(0, 13)),
        )
        if data.draw(st.booleans())
        else record
        for record in made.ext.core_relocations("code")
    ]
    with contextlib.suppress(LinkError):
        CoreRelocator(made.btf, parse(target)).apply(bytearray(made.section("code")), records, section="code")

"""The loader: what objects declare, and what becomes of it."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from jitlink import bpf
from jitlink.bpf.sections import ContextKind, program_type
from jitlink.errors import (
    LinkError,
    MalformedInput,
    UndefinedSymbols,
    UnreadableInput,
    UnsupportedInput,
    UsageError,
)
from tests.bpf.sources import ORDERS, assembled, compiled
from tests.toolchain import archive_of

RETURNS_ONE = 'SEC("xdp") int one(void *context) { return 1; }\n'

# Program types


@pytest.mark.parametrize(
    ("section", "type", "context", "extra"),
    [
        ("xdp", "XDP", ContextKind.XDP, ""),
        ("xdp.frags/devmap", "XDP", ContextKind.XDP, ""),
        ("tc", "SCHED_CLS", ContextKind.SKB, ""),
        ("tcx/ingress", "SCHED_CLS", ContextKind.SKB, ""),
        ("classifier", "SCHED_CLS", ContextKind.SKB, ""),
        ("classifier/egress", "SCHED_CLS", ContextKind.SKB, "egress"),
        ("action", "SCHED_ACT", ContextKind.SKB, ""),
        ("socket", "SOCKET_FILTER", ContextKind.SKB, ""),
        ("cgroup_skb/ingress", "CGROUP_SKB", ContextKind.SKB, ""),
        ("cgroup/connect4", "CGROUP_SOCK_ADDR", ContextKind.FLAT, ""),
        ("kprobe/do_unlinkat", "KPROBE", ContextKind.FLAT, "do_unlinkat"),
        ("kprobe", "KPROBE", ContextKind.FLAT, ""),
        ("tracepoint/syscalls/sys_enter_open", "TRACEPOINT", ContextKind.FLAT, "syscalls/sys_enter_open"),
        ("tp/sched/sched_switch", "TRACEPOINT", ContextKind.FLAT, "sched/sched_switch"),
        ("raw_tp.w/event", "RAW_TRACEPOINT_WRITABLE", ContextKind.FLAT, "event"),
        ("fentry.s/vfs_read", "TRACING", ContextKind.FLAT, "vfs_read"),
        ("lsm/file_open", "LSM", ContextKind.FLAT, "file_open"),
        ("?xdp", "XDP", ContextKind.XDP, ""),
        ("struct_ops/init", "STRUCT_OPS", ContextKind.FLAT, "init"),
        (".text", "UNSPEC", ContextKind.FLAT, ""),
        ("mine", "UNSPEC", ContextKind.FLAT, ""),
        ("xdpish", "UNSPEC", ContextKind.FLAT, ""),
    ],
)
def test_a_section_name_says_the_program_type(section, type, context, extra):
    """Names are read as libbpf's table has them, and unknown ones are plain programs."""
    found = program_type(section)
    assert (found.name, found.context, found.extra) == (type, context, extra)
    assert found.known == (type != "UNSPEC")


def test_an_object_lists_its_programs():
    """Programs are the functions of named sections that others may see; helpers of them are none."""
    loaded = bpf.load_object(
        compiled("""
        NOINLINE u64 helper(u64 x) { return x + 1; }
        static SEC("tc") NOINLINE u64 hidden(u64 x) { return helper(x); }
        SEC("tc") u64 first(u64 x) { return hidden(x); }
        SEC("xdp/devmap") u64 second(u64 x) { return x; }
        """)
    )
    assert list(loaded) == ["first", "second"]
    assert (loaded["first"].type.name, loaded["second"].section) == ("SCHED_CLS", "xdp/devmap")
    with pytest.raises(UsageError, match="say which program to load; the object has first, second"):
        loaded.only_program()
    assert loaded["helper"].call(1) == 2


def test_plain_functions_are_programs_where_there_is_nothing_else():
    """The global functions of .text are plain programs in an object without program sections."""
    loaded = bpf.load_object(compiled("u64 f(u64 a, u64 b) { return a * b; } static u64 g(u64 x) { return x; }"))
    assert list(loaded) == ["f"]
    assert loaded["f"].call(6, 7) == 42


def test_a_program_of_another_name_is_not_found():
    """The error lists the programs that there are."""
    with pytest.raises(UsageError, match="there is no program 'two'; the object has one"):
        bpf.load(compiled(RETURNS_ONE), program="two")


@pytest.mark.parametrize("order", ORDERS)
def test_license_and_version_are_read(order):
    """The license is text, the version a number in the object's byte order."""
    loaded = bpf.load_object(
        compiled(
            RETURNS_ONE
            + 'char _license[] SEC("license") = "Dual BSD/GPL"; u32 _version SEC("version") = 6 << 16 | 12 << 8;',
            order=order,
        )
    )
    assert (loaded.license, loaded.version) == ("Dual BSD/GPL", 6 << 16 | 12 << 8)
    assert loaded.only_program().license == "Dual BSD/GPL"


# Maps


@pytest.mark.parametrize("order", ORDERS)
def test_btf_says_what_a_map_is(order):
    """Type, sizes, entries, flags and pinning come from the types of the variable."""
    loaded = bpf.load_object(
        compiled(
            """
            struct key { u32 a; u16 b; };
            struct value { u64 hits; u8 mac[6]; };
            struct { __uint(type, 1); __uint(max_entries, 16); __uint(map_flags, 1); __uint(pinning, 1);
                     __type(key, struct key); __type(value, struct value); } typed SEC(".maps");
            struct { __uint(type, 2); __uint(max_entries, 3); __uint(key_size, 4); __uint(value_size, 12); }
                sized SEC(".maps");
            struct { __uint(type, 30); __uint(max_entries, 100); __uint(map_extra, 5); __type(value, u32); }
                bloom SEC(".maps");
            struct { __uint(type, 4); __uint(key_size, 4); __uint(value_size, 4); } events SEC(".maps");
            """
            + RETURNS_ONE,
            order=order,
        ),
        cpus=3,
    )
    typed, sized, bloom, events = (loaded.maps[name] for name in ("typed", "sized", "bloom", "events"))
    assert (typed.type, typed.key_size, typed.value_size, typed.max_entries) == (bpf.MapType.HASH, 8, 16, 16)
    assert (typed.flags, typed.definition.pinning) == (bpf.MapFlag.NO_PREALLOC, 1)
    assert (sized.type, sized.value_size, len(sized)) == (bpf.MapType.ARRAY, 12, 3)
    assert (bloom.definition.extra, bloom.key_size) == (5, 0)
    assert events.max_entries == 3, "one for each CPU"
    typed[{"a": 1, "b": 2}] = {"hits": 3, "mac": b"\1\2\3\4\5\6"}
    assert typed[1, 2].mac == b"\1\2\3\4\5\6"


NUMBERS = "__uint(type, 2); __uint(max_entries, 1); __type(key, u32); __type(value, u32);"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("__uint(type, 2); __uint(max_entries, 1); __uint(key_size, 4); __type(key, u64);", "its key has 4 bytes"),
        (f"{NUMBERS} __uint(value_size, 8);", "its value has 8 bytes, and u32 has 4"),
        (NUMBERS.replace("entries, 1", "entries, 0"), "no entries"),
        (NUMBERS.replace("type, 2", "type, 99"), "map type 99 is unknown"),
        (NUMBERS.replace("type, 2", "type, 15"), "SOCKMAP.*no sockets"),
        (NUMBERS.replace("type, 2", "type, 19"), "CGROUP_STORAGE"),
        (f"{NUMBERS} __uint(zap, 1);", "the unknown field 'zap'"),
        (f"{NUMBERS} __uint(pinning, 7);", "its pinning is 7"),
        ("u32 type;", "is no number"),
        ("__uint(type, 1); __uint(max_entries, 1 << 20); __type(key, u32); __type(value, u64[512]);", "bytes are more"),
    ],
)
def test_a_map_that_cannot_be_is_refused_by_name(fields, message):
    """Contradictions, unknown types and fields, and sizes out of proportion name the map."""
    with pytest.raises(LinkError, match=message) as caught:
        bpf.load(compiled(f'struct {{ {fields} }} broken SEC(".maps");' + RETURNS_ONE))
    assert isinstance(caught.value, MalformedInput | UnsupportedInput)
    assert caught.value.symbol == "broken"


def test_static_maps_are_told_apart():
    """A reference through the symbol of the section means the map at that place of it."""
    program = bpf.load(
        compiled("""
        static struct { __uint(type, 2); __uint(max_entries, 1); __type(key, u32); __type(value, u64); }
            first SEC(".maps"), second SEC(".maps"), third SEC(".maps");
        SEC("xdp") u64 run(void *context) {
            u32 key = 0;
            u64 *a = map_lookup(&first, &key), *b = map_lookup(&second, &key), *c = map_lookup(&third, &key);
            return a && b && c ? *a + *b * 10 + *c * 100 : 0;
        }
        """)
    )
    for value, name in enumerate(("first", "second", "third"), 1):
        program.maps[name][0] = value
    assert program.run(bytes(14)).r0 == 321


def test_a_weak_map_of_two_objects_is_one_map():
    """Of a map that both objects define weakly the first is the one that both use and Python sees."""
    one, two = (
        compiled(f"""
        struct {{ __uint(type, 2); __uint(max_entries, 1); __type(key, u32); __type(value, u64); }}
            counts SEC(".maps") WEAK;
        SEC("xdp") u64 {name}(void *context) {{
            u32 key = 0; u64 *value = map_lookup(&counts, &key);
            return value ? *value += {step} : 0;
        }}
        """)
        for name, step in (("one", 1), ("two", 10))
    )
    loaded = bpf.load_object(one, two)
    assert [loaded[name].run(bytes(14)).r0 for name in ("one", "two", "one")] == [1, 11, 12]
    assert loaded.maps["counts"][0] == 12


def test_maps_need_types():
    """Maps in .maps without BTF are refused with what to do."""
    from tests.bpf.sources import MACROS
    from tests.toolchain import zig_cc

    source = MACROS + 'struct { __uint(type, 1); } counts SEC(".maps");' + RETURNS_ONE
    with pytest.raises(MalformedInput, match="compile with -g"):
        bpf.load(zig_cc(source, "-O2", target="bpfel-freestanding"))


MAPS_OF_MAPS = """
struct inner { __uint(type, 2); __uint(max_entries, 2); __type(key, u32); __type(value, u64); };
struct inner one SEC(".maps"), two SEC(".maps");
struct { __uint(type, 12); __uint(max_entries, 4); __type(key, u32); __array(values, struct inner); }
    outer SEC(".maps") = {.values = {[1] = &one, [3] = &two}};
struct { __uint(type, 13); __uint(max_entries, 4); __type(key, u64); __array(values, struct inner); }
    by_name SEC(".maps");
SEC("xdp") u64 read(void *context)
{
    u32 index = 3, first = 1;
    void *map = map_lookup(&outer, &index);
    u64 *value = map ? map_lookup(map, &first) : 0;
    return value ? *value : 0;
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_initial_values_of_a_map_of_maps(order):
    """Inner maps named in the initialiser are in their places before the first run, and others are empty."""
    program = bpf.load(compiled(MAPS_OF_MAPS, order=order))
    maps = program.maps
    assert dict(maps["outer"]) == {1: maps["one"], 3: maps["two"]}
    maps["two"][1] = 77
    assert program.run(bytes(14)).r0 == 77
    maps["by_name"][5] = maps.inner("by_name")
    assert maps["by_name"][5].value_size == 8
    del maps["outer"][3]
    assert program.run(bytes(14)).r0 == 0


def test_initial_values_of_a_prog_array():
    """A prog array that is filled in its initialiser takes a tail call to that program."""
    loaded = bpf.load_object(
        compiled("""
        int last(void *context);
        struct { __uint(type, 3); __uint(max_entries, 2); __type(key, u32); __array(values, int(void *)); }
            jumps SEC(".maps") = {.values = {[1] = &last}};
        SEC("xdp") int last(void *context) { return 7; }
        SEC("xdp") int entry(void *context) { tail_call(context, &jumps, 1); return 1; }
        """)
    )
    assert int(loaded["entry"].run(bytes(14))) == 7
    assert loaded.maps["jumps"][1] is loaded["last"]


LEGACY = """
    .section xdp,"ax",@progbits
    .globl main
    .type main,@function
main:
    r1 = 7
    *(u32 *)(r10 - 4) = r1
    r2 = r10
    r2 += -4
    r1 = second ll
    call 1
    if r0 == 0 goto end
    r0 = *(u64 *)(r0 + 0)
end:
    exit
    .section maps,"aw",@progbits
    .globl first, second
first:
    .long 2, 4, 8, 1, 0 {more}
second:
    .long 1, 4, 8, 16, 1 {more}
"""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("more", ["", ", 0, 0"])
def test_legacy_maps(order, more):
    """Maps of the section maps are structs of five numbers, with zeroes behind."""
    program = bpf.load(assembled(LEGACY.format(more=more), order))
    second = program.maps["second"]
    assert (second.type, second.max_entries, second.flags) == (bpf.MapType.HASH, 16, bpf.MapFlag.NO_PREALLOC)
    second[7] = 1234
    assert program.run(bytes(14)).r0 == 1234


def test_a_map_reference_may_be_marked_by_the_assembler():
    """A wide constant whose src says already that it is a map (1, map by descriptor) is resolved like a plain one."""
    plain, marked = (bytes([0x18, registers]) + bytes(6) for registers in (0x01, 0x11))
    machine_code = assembled(LEGACY.format(more=""))
    assert machine_code.count(plain) == 1
    program = bpf.load(machine_code.replace(plain, marked))
    program.maps["second"][7] = 5
    assert program.run(bytes(14)).r0 == 5


@pytest.mark.parametrize("more", [", 1", ", 0, 1"])
def test_legacy_maps_of_another_loader_are_refused(more):
    """A field that we do not know must be zero."""
    with pytest.raises(UnsupportedInput, match="fields of another loader") as caught:
        bpf.load(assembled(LEGACY.format(more=more)))
    assert caught.value.symbol == "first"


# Variables


@pytest.mark.parametrize("order", ORDERS)
def test_variables_are_shared_by_name(order):
    """Python and the program see the same variables, with their types, in every data section."""
    loaded = bpf.load_object(
        compiled(
            """
            struct point { int x, y; };
            struct point place = {3, -4};
            u64 zeroes[3];
            static u16 own = 7;
            const volatile char name[8] = "abc";
            int special SEC(".data.special") = 5;
            const volatile u8 fixed SEC(".rodata.more") = 1;
            SEC("xdp") u64 run(void *context) {
                zeroes[1] += place.x + own++ + special + fixed + name[1];
                place.y--;
                return zeroes[1];
            }
            """,
            order=order,
        )
    )
    program, variables = loaded.only_program(), loaded.globals
    assert {".data", ".bss", ".rodata", ".data.special", ".rodata.more"} <= set(loaded.maps)
    assert (variables["place"], variables["own"], variables["name"]) == ({"x": 3, "y": -4}, 7, b"abc")
    assert program.run(bytes(14)).r0 == 3 + 7 + 5 + 1 + ord("b")
    assert (variables["place"].y, variables["own"], variables["zeroes"][1]) == (-5, 8, 114)
    variables["place"] = {"x": 100}
    variables["fixed"] = 50
    variables.view("zeroes")[1] = 1000
    assert program.run(bytes(14)).r0 == 1000 + 100 + 8 + 5 + 50 + ord("b")


def test_read_only_data_is_read_only_to_programs():
    """A write to .rodata is a fault that names the section, while Python may set it."""
    program = bpf.load(
        compiled("""
        const volatile u64 constant = 1;
        SEC("xdp") u64 run(void *context) {
            u64 *place = (u64 *)&constant;
            asm volatile("" : "+r"(place));
            *place = 2;
            return constant;
        }
        """)
    )
    with pytest.raises(bpf.BpfFault, match=r"\.rodata.*read-only"):
        program.run(bytes(14))


@pytest.mark.parametrize("order", ORDERS)
def test_pointers_in_data_point_at_their_targets(order):
    """Relocations in data are applied: a pointer variable leads to the variable that it was set to."""
    program = bpf.load(
        compiled(
            """
            static u64 table[3] = {10, 20, 30};
            u64 *pointer = &table[2];
            const char *const volatile text = "hello";
            SEC("xdp") u64 run(void *context) { return *pointer + text[1]; }
            """,
            order=order,
        )
    )
    assert program.run(bytes(14)).r0 == 30 + ord("e")


def test_data_of_several_objects_lies_behind_each_other():
    """Sections of one name from two objects are one map, and variables of one name stay apart."""
    one = compiled("static u32 own = 1; int a = 2; u64 one(void) { return own++ + a; }")
    two = compiled("static u32 own = 100; u64 b = 200; u64 two(void) { return own++ + b; }")
    loaded = bpf.load_object(one, two)
    assert [loaded[name].call() for name in ("one", "two", "one", "two")] == [3, 300, 4, 301]
    assert [name for name in loaded.maps if name == ".data"] == [".data"]


# Externs

KCONFIG = """
enum libbpf_tristate { TRI_NO = 0, TRI_YES = 1, TRI_MODULE = 2 };
extern int CONFIG_HZ __kconfig;
extern _Bool CONFIG_SMP __kconfig;
extern char CONFIG_LETTER __kconfig;
extern enum libbpf_tristate CONFIG_MODULE __kconfig;
extern const char CONFIG_NAME[16] __kconfig;
extern u64 CONFIG_ABSENT __kconfig WEAK;
SEC("xdp") u64 run(void *context) {
    return CONFIG_HZ + CONFIG_SMP * 10000 + CONFIG_MODULE * 100000 + CONFIG_ABSENT
        + (CONFIG_LETTER == 'm' ? 1000000 : 0) + (CONFIG_NAME[3] == 'e' ? 10000000 : 0);
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_settings_of_the_kernel_come_from_a_dictionary(order):
    """Values of .kconfig are written in their types; y, n and m mean what they mean in .config."""
    given = {"CONFIG_HZ": 250, "CONFIG_SMP": "y", "CONFIG_LETTER": "m", "CONFIG_MODULE": "m", "CONFIG_NAME": "some"}
    given["CONFIG_LETTER"] = ord("m")
    given["CONFIG_ABSENT"] = 0
    program = bpf.load(compiled(KCONFIG, order=order), kconfig=given)
    assert program.run(bytes(14)).r0 == 250 + 10000 + 200000 + 1000000 + 10000000
    assert (program.globals["CONFIG_HZ"], program.globals["CONFIG_NAME"]) == (250, b"some")


def test_settings_that_nobody_gives_are_reported_at_once():
    """Strong externs without a value are all named; weak ones are no error."""
    with pytest.raises(UndefinedSymbols, match="kconfig=") as caught:
        bpf.load(compiled(KCONFIG))
    assert set(caught.value.names) == {"CONFIG_HZ", "CONFIG_SMP", "CONFIG_LETTER", "CONFIG_MODULE", "CONFIG_NAME"}


def test_a_setting_must_fit_its_type():
    """A value that its type cannot hold names the setting."""
    source = 'extern int CONFIG_HZ __kconfig; SEC("xdp") int run(void *c) { return CONFIG_HZ; }'
    with pytest.raises(UsageError, match="CONFIG_HZ cannot be 1099511627776"):
        bpf.load(compiled(source), kconfig={"CONFIG_HZ": 1 << 40})


KSYMS = """
extern const u64 jiffies __ksym;
extern const void missing __ksym WEAK;
extern u64 kernel_sum(u64 a, u64 b) __ksym;
extern void absent(void) __ksym WEAK;
SEC("xdp") u64 run(void *context) {
    if (absent)
        absent();
    return jiffies + kernel_sum(3, 4) + (&missing ? 1000 : 0);
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_variables_and_functions_of_the_kernel(order):
    """ksyms gives bytes or addresses, kfuncs functions, and what is weak and absent is 0."""
    program = bpf.load(
        compiled(KSYMS, order=order),
        ksyms={"jiffies": (500).to_bytes(8, order)},
        kfuncs={"kernel_sum": lambda machine, a, b: a + b},
    )
    assert program.run(bytes(14)).r0 == 507

    @program.kfunc("kernel_sum")
    def difference(machine, a, b):
        return b - a

    assert program.run(bytes(14)).r0 == 501


def test_functions_of_the_kernel_that_nobody_gives():
    """Missing names are reported together, with their places."""
    with pytest.raises(UndefinedSymbols, match=r"kernel_sum, referred to by .*xdp\+0x") as caught:
        bpf.load(compiled(KSYMS))
    assert sorted(caught.value.names) == ["jiffies", "kernel_sum"]


# Helpers


def test_missing_helpers_are_refused_by_name_with_their_line():
    """All helpers that there are not are named when the program is loaded, with source lines."""
    source = """
    static long (*const mine)(u64) = (void *)5000;
    static long (*const get_stack)(void *, void *, u32, u64) = (void *)67;
    SEC("xdp") u64 run(void *context)
    {
        return mine(1) + get_stack(context, 0, 0, 0);
    }
    """
    with pytest.raises(bpf.MissingHelpers) as caught:
        bpf.load(compiled(source))
    assert caught.value.names == ["helper #5000", "bpf_get_stack"]
    assert all(re.search(r"source\.c:\d+", place) for place in caught.value.places)
    given = {5000: lambda machine, x: x + 41, "get_stack": lambda machine: 0}
    assert bpf.load(compiled(source), helpers=given).run(bytes(14)).r0 == 42


# CO-RE

CORE = """
struct task { int pid; u64 start; } __attribute__((preserve_access_index));
SEC("kprobe/x") u64 run(struct task *task) { return task->start; }
"""


def test_core_relocations_follow_the_target():
    """Against other types the program reads the field where they have it; by default, where its own do."""
    target = compiled("struct task { u64 more[4]; u64 start; int pid; } task; u64 f(void) { return task.start; }")
    memory = struct.pack("<8Q", *range(8))
    assert bpf.load(compiled(CORE)).run(memory).r0 == 1
    assert bpf.load(compiled(CORE), target_btf=target).run(memory).r0 == 4
    types = bpf.link(target).types[1].btf
    assert bpf.load(compiled(CORE), target_btf=types).run(memory).r0 == 4


def test_a_field_that_the_target_lacks_is_a_fault_when_it_is_reached():
    """The program loads, since such code may be guarded, and stops at the instruction, which says why."""
    target = compiled("struct task { int pid; } task; u64 f(void) { return task.pid; }")
    program = bpf.load(compiled(CORE), target_btf=target)
    with pytest.raises(bpf.BpfFault, match="CO-RE relocation"):
        program.run(bytes(64))


# Code without an object


def test_bytes_of_code_are_a_program():
    """Assembled code loads as a plain program with the address of its data in r1 and the length in r2."""
    program = bpf.load(bpf.assemble("r0 = *(u16 *)(r1 + 2)\nr0 += r2\nexit"))
    result = program.run(b"\1\2\3\4")
    assert (result.retval, result.r0, result.data) == (0x0403 + 4, 0x0403 + 4, b"\1\2\3\4")
    assert program.type.name == "UNSPEC"


def test_big_endian_code():
    """Code of the other byte order reads memory in that order."""
    code = bpf.assemble("r0 = *(u16 *)(r1 + 0)\nexit", byteorder="big")
    assert int(bpf.load(code, byteorder="big").run(b"\1\2")) == 0x0102


@pytest.mark.parametrize("code", [b"", b"\x95", bytes(7), bytes(8), b"\x95" + bytes(7) + b"\0" * 8])
def test_code_that_is_none_is_refused(code):
    """No bytes, half instructions and unknown opcodes are refused when they are loaded."""
    with pytest.raises(LinkError):
        bpf.load(code)


# Verification


def test_a_program_that_the_verifier_refuses_is_not_loaded():
    """All its faults are in the error, with instruction and source line; verify=False loads it all the same."""
    code = bpf.assemble("r10 = 1\nr0 = *(u64 *)(r10 + 8)\nexit")
    with pytest.raises(bpf.VerificationFailed) as caught:
        bpf.load(code)
    assert len(caught.value.report.errors) == 2
    assert len(bpf.load(code, verify=False).instructions) == 3


def test_the_kernels_own_rules_count_for_the_kernels_programs():
    """Unreachable code is refused in an XDP program and a warning in a plain one."""
    text = '.section {section},"ax",@progbits\n.globl f\n.type f,@function\nf:\nr0 = 0\nexit\nr0 = 1\nexit'
    with pytest.raises(bpf.VerificationFailed, match="cannot be reached"):
        bpf.load(assembled(text.format(section="xdp")))
    assert bpf.load(assembled(text.format(section="mine"))).call() == 0
    assert bpf.load(assembled(text.format(section="xdp")), kernel_rules=False).call() == 0


def test_faults_name_the_source_line():
    """A report names file and line of the instruction, where the object has them."""
    source = """
    SEC("xdp") u64 run(u64 *context)
    {
        asm volatile("*(u64 *)(r10 - 600) = r1" ::: "memory");
        return 0;
    }
    """
    with pytest.raises(bpf.VerificationFailed, match=r"source\.c:\d+\): 8 bytes at r10-\d+ are outside of the stack"):
        bpf.load(compiled(source))


# Inputs and options


def test_an_archive_of_objects():
    """All members of an archive are linked."""
    parts = {"a.o": compiled("u64 part(u64 x);" + 'SEC("xdp") u64 f(u64 x) { return part(x); }')}
    parts["b.o"] = compiled("u64 part(u64 x) { return x + 1; }")
    assert bpf.load_object(archive_of(parts))["f"].call(1) == 2


def test_paths_are_read(tmp_path):
    """A path of text or of Path is a file; one that is not there is named."""
    path = tmp_path / "one.o"
    path.write_bytes(compiled(RETURNS_ONE))
    assert int(bpf.load(path).run(bytes(14))) == int(bpf.load(str(path)).run(bytes(14))) == 1
    with pytest.raises(UnreadableInput, match=r"none\.o"):
        bpf.load(tmp_path / "none.o")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tier": "magic"}, "there is no tier 'magic'"),
        ({"context": "socket"}, "there is no context 'socket'; there are xdp, skb, flat"),
    ],
)
def test_options_that_there_are_not(options, message):
    """A tier or context that there is not is an error of usage, which says what there is."""
    with pytest.raises(UsageError, match=message):
        bpf.load(compiled(RETURNS_ONE), **options)


def test_every_object_of_the_examples_is_sound():
    """The compiled objects in examples/ load with the kernel's rules, and hold no path of the machine they are from."""
    objects = sorted((Path(__file__).parents[2] / "examples").glob("bpf_*/*.o"))
    assert len(objects) == 3
    for path in objects:
        assert bpf.load(path, kernel_rules=True).verify().ok
        files = {line.file for line in bpf.load(path).linked.lines.lines(8) if line}
        assert all(not Path(file).is_absolute() for file in files)

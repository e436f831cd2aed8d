"""BTF: the bytes of Documentation/bpf/btf.rst as tables, declarations and typed values."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.btf import Kind, parse
from jitlink.bpf.btf_builder import Builder, merge, records_of
from jitlink.bpf.btf_declarations import declare
from jitlink.bpf.btf_types import Btf, every_member
from jitlink.bpf.btf_values import codec, decode, encode, numpy_dtype
from jitlink.errors import InputError, LinkError, MalformedInput, UnsupportedInput, UsageError
from tests.bpf.objects import compiled

TYPES = """
typedef unsigned int u32;
typedef unsigned long long u64;
enum color { RED = 1, GREEN = 2, MINUS = -3 };
enum big { HUGE = 0x123456789abcdef0ULL };
struct empty { };
struct forward;
struct inner { char tag; short half; };
struct packed { char one; u64 eight; u32 four; } __attribute__((packed));
struct sample {
    char name[12];
    unsigned char mac[6];
    u32 numbers[3][2];
    struct inner nested[2];
    union { u64 wide; struct { u32 low, high; }; };
    struct forward *opaque;
    int (*callback)(struct sample *self, const char *text, ...);
    enum color color;
    enum big big;
    _Bool flag;
    double ratio;
    float small;
    int bits : 3;
    u32 more : 13;
    long long far : 40;
    const volatile u32 *restrict quick;
    u64 tail[];
};
"""
SOURCE = (
    TYPES
    + """
#define OFFSET(member) __builtin_offsetof(struct sample, member)
__attribute__((section(".rodata.facts"))) const u64 facts[] = {
    sizeof(struct sample), _Alignof(struct sample), sizeof(struct packed), _Alignof(struct packed),
    sizeof(struct inner), _Alignof(struct inner), OFFSET(mac), OFFSET(numbers), OFFSET(nested), OFFSET(high),
    OFFSET(callback), OFFSET(color), OFFSET(big), OFFSET(flag), OFFSET(ratio), OFFSET(small), OFFSET(quick),
    OFFSET(tail) };
__attribute__((section(".rodata.bytes"))) const struct sample value = {
    .name = "eth0", .mac = {1, 2, 3, 4, 5, 6}, .numbers = {{1, 2}, {3, 4}, {5, 6}},
    .nested = {{'a', -5}, {'b', 300}}, .low = 7, .high = 8, .color = MINUS, .big = HUGE, .flag = 1,
    .ratio = 2.5, .small = -0.25, .bits = -4, .more = 8191, .far = -2 };
struct packed packed;
struct empty empty;
__attribute__((btf_decl_tag("marked"))) int counter;
int twice(int x) { return x * 2 + counter; }
"""
)


def btf_bytes(source, order="little"):
    return compiled(source, order).btf_bytes


@pytest.fixture(params=["little", "big"])
def order(request):
    return request.param


@pytest.fixture
def made(order):
    return compiled(SOURCE, order)


@pytest.fixture
def btf(made):
    return made.btf


def sample_builder():
    builder = Builder()
    builder.integer("int", 4, signed=True)
    return builder


# Layout.


def test_sizes_alignments_and_offsets_are_those_of_the_compiler(made, btf, order):
    """Sizes, alignments and member offsets agree with what the compiler wrote into a table itself."""
    mark = "<" if order == "little" else ">"
    facts = list(struct.unpack(f"{mark}18Q", made.section(".rodata.facts")))
    sample, packed, inner = btf["struct sample"], btf["struct packed"], btf["struct inner"]
    offsets = {member.name: bits // 8 for member, bits in every_member(sample)}
    names = ["mac", "numbers", "nested", "high", "callback", "color", "big", "flag", "ratio", "small", "quick", "tail"]
    found = [sample.size, sample.alignment, packed.size, packed.alignment, inner.size, inner.alignment]
    assert found + [offsets[name] for name in names] == facts


def test_values_are_read_as_the_compiler_wrote_them(made, btf):
    """An initialised struct is decoded to the values of its initialiser, in both byte orders."""
    value = decode(btf["struct sample"], made.section(".rodata.bytes")[: btf["struct sample"].size])
    assert value.name == b"eth0"
    assert value.mac == bytes([1, 2, 3, 4, 5, 6])
    assert value.numbers == [[1, 2], [3, 4], [5, 6]]
    assert [(each.tag, each.half) for each in value.nested] == [(ord("a"), -5), (ord("b"), 300)]
    assert (value.low, value.high) == (7, 8)
    assert (value.color, value.color.name) == (-3, "MINUS")
    assert (value.big, value.big.name) == (0x123456789ABCDEF0, "HUGE")
    assert value.flag is True
    assert (value.ratio, value.small) == (2.5, -0.25)
    assert (value.bits, value.more, value.far) == (-4, 8191, -2)


def test_encoding_a_decoded_value_gives_its_bytes(made, btf):
    """Encode inverts decode on a struct with nested parts, a union and bitfields."""
    data = made.section(".rodata.bytes")[: btf["struct sample"].size]
    assert encode(btf["struct sample"], decode(btf["struct sample"], data)) == data


def test_a_declaration_compiles_to_the_same_type(btf):
    """The C text of a struct, given to the compiler again, makes a struct with the same members."""
    names = ["inner", "packed"]
    attribute = {"packed": " __attribute__((packed))"}
    text = "\n".join(f"{btf[f'struct {name}']}{attribute.get(name, '')} v_{name};" for name in names)
    again = parse(btf_bytes("typedef unsigned int u32; typedef unsigned long long u64;\n" + text, btf.byte_order))
    for name in names:
        one, other = btf[f"struct {name}"], again[f"struct {name}"]
        assert str(one) == str(other)
        assert [(m.name, m.offset_bits) for m in one.members] == [(m.name, m.offset_bits) for m in other.members]


def test_declarators_are_written_as_c_writes_them(btf):
    """Pointers, arrays, functions and qualifiers stand where C has them around the name."""
    members = {member.name: member for member in btf["struct sample"].members}
    texts = {name: declare(members[name].type, name) for name in ("callback", "numbers", "quick", "opaque", "name")}
    assert texts == {
        "callback": "int (*callback)(struct sample *, const char *, ...)",
        "numbers": "u32 numbers[3][2]",
        "quick": "const volatile u32 *restrict quick",
        "opaque": "struct forward *opaque",
        "name": "char name[12]",
    }
    assert str(btf["twice"]) == "int twice(int x)"
    assert str(btf["enum color"]) == "enum color {\n    RED = 1,\n    GREEN = 2,\n    MINUS = -3,\n}"


def test_every_kind_of_a_compiled_object_is_known(btf):
    """Types of each kind that clang emits are read with their kind."""
    kinds = set(btf.types.kind[1:].tolist())
    assert kinds >= set(Kind) - {Kind.VOID, Kind.TYPE_TAG}


def test_sections_list_their_variables(btf):
    """A DATASEC lists its variables; the linker's offsets are put in by name."""
    btf.place_section(".bss", 64, {"counter": 8})
    section = btf[".bss"]
    assert section.size == 64
    assert {variable.name: offset for variable, offset, _ in section.variables}["counter"] == 8


def test_a_32_bit_kernel_has_pointers_of_4_bytes():
    """The size of `long` tells the size of a pointer, as libbpf guesses it."""
    builder = sample_builder()
    builder.integer("long unsigned int", 4)
    pointer = builder.pointer()
    assert builder.build().types[pointer].size == 4


@pytest.mark.skipif(not Path("/sys/kernel/btf/vmlinux").exists(), reason="this kernel has no BTF")
def test_the_types_of_the_running_kernel():
    """The BTF of a whole kernel is read, and has the layouts of the network headers that never change."""
    btf = parse(Path("/sys/kernel/btf/vmlinux").read_bytes())
    assert [btf[f"struct {name}"].size for name in ("ethhdr", "iphdr", "udphdr", "list_head")] == [14, 20, 8, 16]
    assert {member.name: bits for member, bits in every_member(btf["struct iphdr"])}["saddr"] == 12 * 8


# Typed values.


def test_numpy_sees_a_struct_as_the_codec_does():
    """A NumPy dtype made from BTF reads the same numbers as the codec."""
    btf = parse(btf_bytes(TYPES + "struct plain { u32 a; short b[2]; union { u64 c; float d; }; } p;"))
    plain = btf["struct plain"]
    data = bytes(range(plain.size))
    seen, value = np.frombuffer(data, numpy_dtype(plain))[0], decode(plain, data)
    assert seen["a"] == value.a
    assert seen["b"].tolist() == value.b
    assert seen["c"] == value.c
    assert seen["d"] == np.float32(value.d)
    assert numpy_dtype(parse(btf_bytes(SOURCE))["struct sample"]) is None


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"tag": 1, "wrong": 2}, ValueError),
        ({"half": 40000}, ValueError),
        ({"half": "x"}, TypeError),
        (b"\0", ValueError),
        ([1, 2, 3], ValueError),
        (7, TypeError),
    ],
)
def test_values_that_do_not_fit_are_refused(value, error):
    """Unknown members, numbers out of range, other types and wrong lengths raise ValueError or TypeError."""
    with pytest.raises(error):
        encode(parse(btf_bytes(SOURCE))["struct inner"], value)


def test_members_of_a_union_must_agree():
    """Two members of a union that say different bytes are refused; one is enough."""
    btf = parse(btf_bytes(TYPES + "union both { u32 number; unsigned char bytes[4]; } u;"))
    assert encode(btf["union both"], {"number": 0x04030201}) == bytes([1, 2, 3, 4])
    assert encode(btf["union both"], {"number": 0x04030201, "bytes": [1, 2, 3, 4]}) == bytes([1, 2, 3, 4])
    with pytest.raises(ValueError, match="disagrees"):
        encode(btf["union both"], {"number": 0x04030201, "bytes": [9, 2, 3, 4]})


def test_a_record_is_a_dict_with_attributes():
    """Members are read and set as attributes; one that there is not is refused."""
    record = decode(parse(btf_bytes(SOURCE))["struct inner"], bytes(4))
    record.half = 5
    assert record == {"tag": 0, "half": 5}
    with pytest.raises(AttributeError):
        record.quarter = 1


def test_the_globals_of_a_section_are_a_record():
    """A placed section is read and written by the names of its variables; one that ends outside is refused."""
    source = "int count = 5; struct pair { short a, b; } pair = {1, 2}; int use(void) { return count + pair.a; }"
    btf = compiled(source).btf
    btf.place_section(".data", 8, {"count": 4, "pair": 0})
    value = decode(btf[".data"], bytes([1, 0, 2, 0, 5, 0, 0, 0]))
    assert value == {"count": 5, "pair": {"a": 1, "b": 2}}
    value.count = -1
    assert encode(btf[".data"], value) == bytes([1, 0, 2, 0, 255, 255, 255, 255])
    other = compiled(source).btf
    other.place_section(".data", 8, {"count": 6})
    with pytest.raises(MalformedInput, match="count"):
        codec(other[".data"])


@given(st.integers(-(2**40), 2**40), st.integers(1, 40), st.booleans())
def test_bitfields_hold_exactly_their_range(value, width, signed):
    """A bitfield of n bits takes the integers of n bits, signed or not, and gives them back."""
    builder = Builder()
    integer = builder.integer("long", 8, signed=signed)
    builder.struct("s", 16, [("before", integer, 0, 3), ("field", integer, 3, width)])
    struct_type = builder.build()["struct s"]
    low, high = (-(1 << width - 1), 1 << width - 1) if signed else (0, 1 << width)
    if low <= value < high:
        data = encode(struct_type, {"field": value})
        assert decode(struct_type, data).field == value
        assert int.from_bytes(data, "little") == (value & (1 << width) - 1) << 3
    else:
        with pytest.raises(ValueError, match="does not fit"):
            encode(struct_type, {"field": value})


def test_a_bitfield_far_out_has_24_bits_for_its_place():
    """With the kind flag a member's word is a width of 8 bits and an offset of 24."""
    builder = Builder()
    integer = builder.integer("unsigned int", 4)
    builder.struct("far", 1 << 20, [("field", integer, 0x7ABCDE, 7)])
    (member,) = builder.build()["far"].members
    assert (member.offset_bits, member.size_bits) == (0x7ABCDE, 7)


# Writing and merging.


def test_written_types_are_read_back_the_same(btf, order):
    """Writing every record of a compiled object and reading it again gives the same types."""
    builder = Builder()
    builder.records = records_of(btf)
    again = builder.build(order)
    assert [str(type) for type in again.types] == [str(type) for type in btf.types]
    assert records_of(again) == records_of(btf)


def test_merging_an_object_with_itself_doubles_only_what_symbols_decide(btf):
    """Equal types are kept once, circles of pointers too; functions and variables stay one an input."""
    merged, maps = merge([btf, btf])
    own = [Kind.FUNC, Kind.VAR, Kind.DECL_TAG]
    twice = sum(btf.types.kind == kind for kind in own).sum()
    assert len(merged) == len(btf) + twice
    assert [str(merged.types[new]) for new in maps[1].tolist()[1:] if merged.kind_of(new) not in (*own, Kind.DATASEC)]
    for new_type in maps:
        for old in range(1, len(btf)):
            if btf.kind_of(old) != Kind.DATASEC:
                assert str(merged.types[int(new_type[old])]) == str(btf.types[old])


def test_merging_joins_sections_and_completes_forward_declarations():
    """A section lists the variables of all inputs; a forward declaration becomes the struct of its name."""
    one, other = Builder(), Builder()
    forward = one.forward("node")
    one.section(".bss", 8, [(one.variable("a", one.pointer(forward)), 0, 8)])
    other.section(".bss", 8, [(other.variable("b", other.struct("node", 8, [])), 0, 8)])
    merged, maps = merge([one.build(), other.build()])
    assert [variable.name for variable, _, _ in merged[".bss"].variables] == ["a", "b"]
    assert merged.types[int(maps[0][forward])] == merged["struct node"]
    assert not merged.find("node", Kind.FWD)


def test_types_that_differ_deep_inside_are_not_merged():
    """Two structs of one name that differ only in what a member of a member points at both stay."""
    built = []
    for size in (4, 8):
        builder = Builder()
        pointer = builder.pointer(builder.integer("number", size))
        middle = builder.struct("middle", 8, [("deep", pointer, 0)])
        builder.struct("outer", 8, [("middle", middle, 0)])
        built.append(builder.build())
    merged, maps = merge(built)
    assert len(merged.find("struct outer")) == 2
    assert maps[0][4] != maps[1][4]


def test_byte_orders_are_not_mixed():
    """Little-endian and big-endian types cannot be one BTF."""
    with pytest.raises(UsageError):
        merge([sample_builder().build("little"), sample_builder().build("big")])


# Hostile input.


def raw(records, strings=b"\0a\0", order="<"):
    """Write a BTF by hand from words, as btf.rst lays it out."""
    types = struct.pack(f"{order}{len(records)}I", *records)
    return struct.pack(f"{order}HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def info(kind, count=0, flag=0):
    return flag << 31 | kind << 24 | count


INT_RECORD = [1, info(1), 4, 32]

# fmt: off
BROKEN = {
    "typedef of itself":       [1, info(8), 1],
    "typedef circle":          [1, info(8), 2, 0, info(10), 1],
    "struct in itself":        [1, info(4, 1), 8, 1, 1, 0],
    "array of itself":         [0, info(3), 0, 1, 1, 2],
    "struct through an array": [1, info(4, 1), 8, 1, 2, 0, 0, info(3), 0, 1, 1, 1],
    "type out of range":       [0, info(2), 9],
    "member out of range":     [1, info(4, 1), 4, 1, 7, 0],
    "name out of range":       [99, info(1), 4, 32],
    "member behind the end":   [*INT_RECORD, 1, info(4, 1), 4, 1, 1, 8],
    "lying count":             [1, info(4, 1000), 4, 1, 1, 0],
    "cut record":              [1, info(3), 0, 1],
    "integer of 5 bytes":      [1, info(1), 5, 32],
    "integer of 99 bits":      [1, info(1), 4, 99],
    "array beyond 4 GiB":      [*INT_RECORD, 0, info(3), 0, 1, 1, 0x40000000],
    "function without type":   [*INT_RECORD, 1, info(12), 1],
    "section of an integer":   [*INT_RECORD, 1, info(15, 1), 4, 1, 0, 4],
}
# fmt: on


@pytest.mark.parametrize("words", BROKEN.values(), ids=BROKEN)
def test_types_that_contradict_the_format_are_refused(words):
    """Loops, numbers and offsets out of range and counts that lie raise MalformedInput."""
    with pytest.raises(MalformedInput):
        parse(raw(words))


def test_unknown_kinds_and_versions_are_unsupported():
    """Kind 20 and version 2 may come some day: UnsupportedInput says so."""
    with pytest.raises(UnsupportedInput, match="kind 20"):
        parse(raw([1, info(20), 0]))
    data = bytearray(raw(INT_RECORD))
    data[2] = 2
    with pytest.raises(UnsupportedInput, match="version 2"):
        parse(data)


def test_a_type_that_explodes_is_refused():
    """Twenty structs, each with a hundred of the one before, unfold into too many members."""
    words = []
    for level in range(20):
        words += [1, info(4, 100), 0, *([0, level, 0] * 100 if level else [1, 21, 0] * 100)]
    words += [0, info(2), 0]
    with pytest.raises(MalformedInput):
        parse(raw(words))


def test_a_long_chain_of_typedefs_takes_no_long_time():
    """A hundred thousand typedefs of each other resolve to the integer at their end."""
    count = 100_000
    words = [word for number in range(1, count) for word in (1, info(8), number + 1)] + INT_RECORD
    btf = parse(raw(words))
    assert btf.resolve(1) == count
    assert str(btf.types[1]) == "typedef a a"


def test_a_long_chain_of_pointers_is_shown_in_short():
    """The text of a pointer to a pointer to ... is cut, so that showing all types of a file stays cheap."""
    words = [word for number in range(20_000) for word in (0, info(2), number)]
    btf = parse(raw(words))
    assert str(btf.types[3]) == "void ***"
    assert len(str(btf.types[20_000])) < 400


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(data):
    """Random bytes, with a header or without, are a LinkError or types."""
    for each in (data, raw([], b"\0") + data, raw(list(data), b"\0a\0")):
        with contextlib.suppress(LinkError):
            parse(each)


@settings(settings.get_profile("mutations"))
@given(st.data())
def test_mutated_types_are_read_or_refused(data):
    """A compiled BTF with some bytes changed is refused, or can be shown, measured and decoded."""
    good = bytearray(btf_bytes(SOURCE))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LinkError):
        use_everything(parse(good))


def use_everything(btf: Btf):
    for type in btf.types:
        str(type)
        if btf.types.kind[btf.resolve(type.id)] in (Kind.STRUCT, Kind.ARRAY, Kind.INT, Kind.ENUM, Kind.DATASEC):
            numpy_dtype(type)
            if type.size < 1 << 16:
                with contextlib.suppress(InputError):
                    codec(type).decode(bytes(type.size))
    merge([btf, btf])

"""Typed calls: arguments and results of every sort, compared with the same source as a shared library."""

from __future__ import annotations

import ctypes
import enum
import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jitlink
from tests import toolchain
from tests.calls import sources

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

INTEGERS = {f"{'u' if unsigned else 'i'}{bits}": (bits, unsigned) for bits in (8, 16, 32, 64) for unsigned in (0, 1)}


@pytest.fixture(params=sources.WAYS)
def library(request) -> Iterator[jitlink.Library]:
    """The source, compiled in each of the ways."""
    compile, *flags = request.param
    with jitlink.load(compile(*flags)) as library:
        yield library


@pytest.fixture
def one() -> Iterator[jitlink.Library]:
    """The source, compiled in one way."""
    with jitlink.load(sources.zig("-g", "-O1")) as library:
        yield library


@cache
def oracle() -> ctypes.CDLL:
    """The same source as a shared library, called by ctypes."""
    return ctypes.CDLL(str(toolchain.link_shared([sources.zig("-O1")])))


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_all_sizes_go_from_end_to_end_of_their_range(one, name):
    """The lowest and the highest value pass; one step beyond is an OverflowError."""
    bits, unsigned = INTEGERS[name]
    low, high = (0, (1 << bits) - 1) if unsigned else (-(1 << bits - 1), (1 << bits - 1) - 1)
    function = getattr(one, name)
    assert [function(value) for value in (low, high, 0, low + 1, high - 1)] == [low, high, 0, low + 1, high - 1]
    for beyond in (low - 1, high + 1, 1 << 64, -(1 << 70)):
        with pytest.raises(OverflowError):
            function(beyond)


def test_integers_come_as_anything_that_is_one(one):
    """IntEnum, bool, NumPy integers and __index__ serve; floats and text do not, not even whole ones."""

    class Five(enum.IntEnum):
        FIVE = 5

    class Index:
        def __index__(self) -> int:
            return 7

    assert [one.i32(value) for value in (Five.FIVE, True, np.int64(6), np.uint8(8), Index())] == [5, 1, 6, 8, 7]
    for wrong in (1.0, np.float32(1), np.float64(1), "1", b"1", None, 1j, np.array([1])):
        with pytest.raises(TypeError, match=r"i32\(\) argument 'x' \(int32_t\)"):
            one.i32(wrong)


def test_floating_point_numbers_come_as_anything_that_is_one(library):
    """float, int, NumPy numbers: what float() takes, but no text."""
    for value in (1.5, 3, np.float32(1.5), np.float64(2.5), np.int32(4), True):
        assert library.f64(value) == float(value) * 2
        assert library.f32(value) == float(value) * 2
        assert library.f80(value) == float(value) * 2
    assert math.isnan(library.f64(math.nan))
    assert library.f32(0.1) == ctypes.c_float(ctypes.c_float(0.1).value * 2).value
    for wrong in ("1", b"1", None, 1j, np.array([1.0])):
        for name in ("f64", "f32", "f80"):
            with pytest.raises(TypeError):
                getattr(library, name)(wrong)


def test_complex_numbers_are_passed_and_returned(library):
    """complex, float and int for double _Complex and float _Complex."""
    assert library.conjugate(3 + 4j) == 3 - 4j
    assert library.conjugate_small(1.5 - 2j) == 1.5 + 2j
    assert library.conjugate(2) == 2
    with pytest.raises(TypeError):
        library.conjugate("1j")


def test_truth_values_are_bools(library):
    """_Bool takes bools, 0 and 1, and comes back as bool."""
    assert library.negation(True) is False
    assert library.negation(np.False_) is True
    assert library.negation(0) is True
    for wrong in (2, 1.0, "x", None):
        with pytest.raises(TypeError):
            library.negation(wrong)


def test_a_char_is_one_byte(library):
    """char takes a byte, an ASCII character or a number, and comes back as a byte."""
    assert [library.next_char(value) for value in (b"a", "b", 99, -1)] == [b"b", b"c", b"d", b"\0"]
    for wrong in (b"ab", "", "é", 1.0, None):
        with pytest.raises(TypeError):
            library.next_char(wrong)
    with pytest.raises(OverflowError):
        library.next_char(256)


def test_enumerations_are_numbers(library):
    """An enumeration takes an int or an IntEnum, and comes back as int; a negative one keeps its sign."""
    colour = enum.IntEnum("colour", {"RED": 0, "GREEN": 5, "BLUE": 6})
    assert library.next_colour(colour.RED) == colour.GREEN
    assert library.next_colour(5) == 6
    assert library.opposite(-1) == 1
    assert library.opposite(1) == -1


def test_text_is_str_or_bytes_without_nul(library):
    """const char * takes both, str as UTF-8; a NUL inside is refused; the result is bytes, or None for NULL."""
    assert [library.length(text) for text in ("hello", b"hello", "é", "", None)] == [5, 5, 2, 0, -1]
    for text in ("a\0b", b"a\0b", "\0", b"\0"):
        with pytest.raises(ValueError, match="NUL"):
            library.length(text)
    assert library.greeting(1) == b"hello"
    assert library.greeting(0) is None
    for wrong in (5, 1.5, ["a"]):
        with pytest.raises(TypeError):
            library.length(wrong)


def test_text_that_may_be_written_is_no_bytes(library):
    """char * takes what can be written to, and comes back as a pointer, which may have to be freed."""
    text = bytearray(b"hello\0")
    library.upper(text)
    assert text == b"HELLO\0"
    buffer = ctypes.create_string_buffer(b"more")
    library.upper(buffer)
    assert buffer.value == b"MORE"
    for wrong in ("hello", b"hello"):
        with pytest.raises(TypeError):
            library.upper(wrong)
    assert library.ffi.string(library.writable()) == b"mine"


def test_arrays_are_checked_for_what_they_hold(library):
    """dtype and contiguity, and that they can be written to where the parameter is not const."""
    values = np.arange(6.0)
    assert library.total(values, 6) == 15
    library.scale(values, 6, 2.0)
    assert values.tolist() == [0, 2, 4, 6, 8, 10]
    assert library.total(values.reshape(2, 3), 6) == 30
    assert library.total(np.empty(0), 0) == 0
    read_only = values.copy()
    read_only.flags.writeable = False
    assert library.total(read_only, 6) == 30
    for wrong, why in (
        (np.arange(6), "int64"),
        (values.astype(np.float32), "float32"),
        (values.astype(">f8"), ">f8"),
        (values[::2], "not contiguous"),
        (np.asfortranarray(values.reshape(2, 3)), "not contiguous"),
    ):
        with pytest.raises(TypeError, match=rf"total\(\) argument 'values' \(const double \*\).*{why}"):
            library.total(wrong, 3)
    with pytest.raises(TypeError, match="read-only"):
        library.scale(read_only, 6, 2.0)
    assert read_only.tolist() == [0, 2, 4, 6, 8, 10]


def test_other_buffers_stand_for_arrays(library):
    """array.array, memoryview, ctypes arrays and byref, data of cffi, and symbols."""
    import array

    assert library.total(array.array("d", [1, 2, 3]), 3) == 6
    assert library.total(memoryview(array.array("d", [1, 2, 3])), 3) == 6
    assert library.total((ctypes.c_double * 3)(1, 2, 3), 3) == 6
    assert library.total(ctypes.byref(ctypes.c_double(2.5)), 1) == 2.5
    assert library.total(ctypes.pointer(ctypes.c_double(2.5)), 1) == 2.5
    assert library.total(library.ffi.new("double[]", [1, 2, 3]), 3) == 6
    assert library.total(library.table, 4) == 10
    assert library.total(library["table"], 4) == 10
    assert library.bytes_sum(b"\x01\0\x02", 3) == 3
    assert library.bytes_sum(bytearray(b"\x01\x02"), 2) == 3
    assert library.bytes_sum(np.array([1, 255], np.uint8), 2) == 256
    for wrong in (
        array.array("f", [1]),
        (ctypes.c_float * 2)(),
        ctypes.byref(ctypes.c_int()),
        ctypes.pointer(ctypes.c_int()),
        library.ffi.new("float[2]"),
        library.ffi.cast("int", 5),
        b"12345678",
        "text",
        5,
        1.5,
    ):
        with pytest.raises(TypeError):
            library.total(wrong, 1)


def test_what_is_only_read_may_be_copied(library):
    """A list is copied for const double *; for double * it is refused, since what is written would be lost."""
    assert library.total([1, 2, 3.5], 3) == 6.5
    assert library.total((), 0) == 0
    with pytest.raises(TypeError, match="may write"):
        library.scale([1.0, 2.0], 2, 2.0)
    with pytest.raises(TypeError):
        library.total(["a"], 1)


def test_an_array_parameter_knows_its_row(library):
    """double m[3][3] takes an array of that many elements, and refuses fewer."""
    assert library.trace(np.diag([1.0, 2.0, 3.0])) == 6
    assert library.trace(np.arange(9.0)) == 12
    with pytest.raises(TypeError, match="2 elements, and 3 are wanted"):
        library.trace(np.arange(2.0))


def test_complex_arrays_are_passed(library):
    """A pointer to double _Complex takes arrays of complex128."""
    assert library.norm(np.array([3 + 4j])) == 5
    with pytest.raises(TypeError):
        library.norm(np.array([3 + 4j], np.complex64))


def test_void_pointers_take_any_memory_and_addresses(library):
    """Arrays, buffers, data, symbols, numbers as addresses, and None."""
    values = np.arange(3)
    assert library.address_of(values) == values.ctypes.data
    data = library.ffi.new("int *")
    assert library.address_of(data) == int(library.ffi.cast("long", data))
    assert [library.address_of(value) for value in (None, 0x1234)] == [0, 0x1234]
    assert library.address_of(library["table"]) == library["table"].address
    assert library.address_of(library.add) == library["add"].address
    with pytest.raises(OverflowError):
        library.address_of(-1)
    for wrong in (1.5, "text"):
        with pytest.raises(TypeError):
            library.address_of(wrong)
    with pytest.raises(TypeError):
        library.address_of(np.array([object()]))


def test_structures_are_passed_and_returned_by_value(library):
    """As cffi data, a dict or a sequence; what comes back has its members as attributes."""
    made = library.make_pair(3)
    assert (made.x, made.y) == (3, 1.5)
    assert library.weigh(made, 2) == 9
    assert library.weigh({"x": 1, "y": 2.5}, 2) == library.weigh((1, 2.5), 2.0) == 7
    swapped = library.swap({"a": b"\x05", "b": 7})
    assert (swapped.a, swapped.b) == (b"\x07", 5)
    assert list(library.shifted({"part": [1, 2, 3, 4, 5]}, 10).part) == [11, 12, 13, 14, 15]
    floats = library.doubled((1, 2, 3.5))
    assert (floats.a, floats.b, floats.c) == (2, 4, 7)
    mixed = library.changed({"inner": {"x": 1, "y": 2}, "tail": [1, 2, 3]})
    assert (mixed.inner.x, mixed.inner.y, list(mixed.tail)) == (2, 2, [1, 2, 7])
    for wrong in ({"z": 1}, (1, 2, 3), 5, None, "ab", library.doubled((1, 2, 3)), ("a", 1)):
        with pytest.raises(TypeError):
            library.weigh(wrong, 1)


def test_unions_and_bit_fields_are_passed_by_value(library):
    """What cffi itself cannot pass goes through a carrier of the same classes."""
    assert library.as_float({"i": 3}).f == 3.0
    halved = library.halved({"parts": [1 << 40, 10]})
    assert list(halved.parts) == [1 << 40, 5]
    bits = library.count({"a": 2, "b": -5, "c": 1})
    assert (bits.a, bits.b, bits.c) == (3, -6, (1 << 32) + 1)


AGGREGATES = {
    "anonymous": "int a; union { int i; float f; }; struct { short p, q; };",
    "three_bytes": "union { unsigned char a, b; }; unsigned char c[2];",
    "two_floats": "union { float a, b; }; float c;",
    "three_floats": "union { float a, b; }; float c, d;",
    "float_and_int": "union { double a, b; }; union { float c; int d; };",
    "doubles": "union { double a, b; }; double c;",
    "complex_parts": "float _Complex a; int b;",
    "in_memory": "union { int a; float b; }; int c[6];",
    "bits": "int a : 3; unsigned b : 9; long c;",
    "bits_in_one": "unsigned char a : 3, b : 5;",
    "large_bits": "int a : 3; long b; int c : 20; int d;",
    "wide": "union { long double a; int b; }; long c;",
    "packed_tail": "int a; char b;",
}


@pytest.mark.parametrize("compiler", ["zig", "gcc", "clang"])
@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_of_every_class_go_there_and_back(name, compiler):
    """What is passed after an int, and returned, has the bytes that were given, and so does what follows it."""
    attribute = "__attribute__((packed))" if name.startswith("packed") else ""
    source = f"""
        struct {attribute} s {{ {AGGREGATES[name]} }};
        struct s same(int before, struct s x, double after) {{
            if (before != 7 || after != 2.5) x = (struct s){{0}};
            return x;
        }}
        int equal(struct s x, const struct s *y) {{ return __builtin_memcmp(&x, y, sizeof x) == 0; }}
    """
    compile = (
        toolchain.zig_cc if compiler == "zig" else lambda *given: toolchain.compile_with(*given, compiler=compiler)
    )
    with jitlink.load(compile(source, "-g", "-O1")) as library:
        value = library.new("struct s")
        view = library.ffi.buffer(value)
        # Bits of a float that mean the same in all its readings; the rest of an x87 number is padding.
        used = 10 if name == "wide" else len(view)
        view[:used] = (bytes([0, 0, 0x20, 0x40, 5, 6, 0x10, 0x40]) * 16)[:used]
        if name == "wide":
            value.a = 3.0
            value.c = 77
        returned = library.same(7, value[0], 2.5)
        assert bytes(library.ffi.buffer(library.ffi.addressof(returned)))[:used] == bytes(view)[:used]
        assert library.equal(value[0], value) == 1 or name in ("wide", "complex_parts", "large_bits", "bits")


def test_structures_are_passed_by_pointer(library):
    """Data that library.new has made is changed in place; a dict is copied for const; packed members are read."""
    made = library.new("pair", {"x": 1, "y": 2.5})
    library.move(made, 10)
    assert made.x == 11
    library.move(made[0], 1)
    assert made.x == 12
    assert library.weigh_at(made) == 14.5
    assert library.weigh_at({"x": 1, "y": 2}) == 3
    with pytest.raises(TypeError, match="may write"):
        library.move({"x": 1, "y": 2}, 1)
    with pytest.raises(TypeError):
        library.move(library.new("struct floats"), 1)
    packed = library.new("struct packed", {"a": b"\x05", "b": 6})
    assert library.packed_sum_at(packed) == 11
    with pytest.raises(jitlink.UntypedSymbol, match=r"no object .* describes a type 'struct nothing'"):
        library.new("struct nothing")


def test_structured_arrays_stand_for_arrays_of_structures(library):
    """A structured dtype with the same members at the same places is the structure."""
    dtype = np.dtype([("x", "i4"), ("y", "f8")], align=True)
    values = np.array([(1, 2.5)], dtype)
    library.move(values, 5)
    assert values["x"].tolist() == [6]
    with pytest.raises(TypeError):
        library.move(np.zeros(1, [("x", "f4"), ("y", "f8")]), 5)


def test_structures_that_refer_to_themselves_are_read(library):
    """A linked list is made and walked, and read back through its pointers."""
    last = library.new("node", {"value": 3})
    first = library.new("node", {"value": 4, "next": last})
    assert library.list_sum(first) == 7
    assert library.list_sum(None) == 0
    assert first.next.value == 3


def test_opaque_pointers_are_passed_on(library):
    """A pointer to a structure that is only declared comes back and goes in again."""
    assert library.look_into(library.open_it(42)) == 42


def test_functions_are_passed_as_pointers(library):
    """Python callables, typed functions, symbols, functions of ctypes and cffi, and None."""
    assert library.apply(lambda x, data: x * 2, 20, None) == 41
    assert library.apply_unary(math.sqrt, 16.0) == 4.0
    assert library.apply_unary(library.f64, 4.0) == 8.0
    assert library.apply_unary(library["f64"], 4.0) == 8.0
    assert library.apply_unary(ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(lambda x: x + 1), 4.0) == 5.0
    assert library.apply_unary(library.ffi.callback("double(double)", lambda x: x - 1), 4.0) == 3.0
    assert library.apply_unary(None, 4.0) == -1
    assert library.chosen(1)(2.0) == 4.0
    assert not library.chosen(0)
    assert library.apply_unary(library.chosen(1), 2.0) == 4.0
    for wrong in (5, "f", 1.5):
        with pytest.raises(TypeError):
            library.apply_unary(wrong, 1.0)


def test_a_callback_gets_what_a_typed_function_would_return(library):
    """Structures, text and data pointers arrive as Python values."""
    seen = []

    def note(pair, text):
        seen.append((pair.x, text))
        return pair.y

    assert library.on_pair(note, (4, 2.5)) == 2.5
    assert seen == [(4, b"text")]
    values = np.array([7], np.int32)
    read = library.apply(lambda x, data: library.ffi.cast("int *", data)[0] + x, 1, values)
    assert read == 9


def test_a_callback_lives_as_long_as_the_library(library):
    """C code may keep the pointer; a callable that is passed again has one callback."""
    import gc

    library.keep(lambda x: x * 3)
    gc.collect()
    assert library.call_kept(5) == 15

    def by_four(x: int) -> int:
        return x * 4

    for _ in range(3):
        library.keep(by_four)
    assert library.call_kept(5) == 20


def test_many_arguments_are_passed_in_registers_and_on_the_stack(library):
    """More than the registers hold, with a large structure and a long double among them."""
    numbers = [float(number) if number % 2 else number for number in range(16)]
    values = [*numbers[:11], *map(float, numbers[11:]), {"part": [0, 0, 0, 0, 3]}, 2.5, 4.0, 9]
    expected = sum((place + 1) * number for place, number in enumerate(numbers))
    assert library.many(*values) == expected + 17 * 3 + 18 * 2.5 + 19 * 4 + 20 * 9


def test_a_wrong_number_of_arguments_is_refused_before_the_call(library):
    """Too few, too many, unknown and repeated names are TypeErrors, and nothing is called."""
    for arguments, named in (((1,), {}), ((1, 2, 3), {}), ((1,), {"c": 2}), ((1, 2), {"a": 1})):
        with pytest.raises(TypeError):
            library.add(*arguments, **named)
    with pytest.raises(TypeError):
        library.count_calls(1)
    assert library.counted == 0
    library.count_calls()
    assert library.counted == 1
    assert library.add(b=40, a=2) == 42


def test_parameters_may_have_the_names_of_builtins(library):
    """A parameter that is called str or NotImplemented is a parameter like any other."""
    assert library.shadow(1, 2, 3, 4, 5, 6) == 21
    assert library.shadow(True, 2, 3, 4, 5, isinstance=6) == 21


def test_variables_are_read_and_set(library):
    """Numbers, structures, arrays and text, where the code sees them; constants cannot be set."""
    assert library.counter == 3
    library.counter = 9
    assert ctypes.c_int.from_address(library["counter"].address).value == 9
    with pytest.raises(TypeError):
        library.counter = 1.5
    with pytest.raises(OverflowError):
        library.counter = 1 << 40
    assert library.constant == 7
    with pytest.raises(AttributeError, match="constant"):
        library.constant = 8
    assert list(library.table) == [1, 2, 3, 4]
    library.table[1] = 20
    assert library.total(library.table, 4) == 28
    library.shared = {"x": 5, "y": 6}
    assert (library.shared.x, library.shared.y) == (5, 6)
    library.shared.y = 7
    assert library.weigh_at(library["shared"]) == 12
    library.name = b"longer"
    assert library.ffi.string(library.name) == b"longer"
    assert library.ffi.string(library.label) == b"a label"
    with pytest.raises(AttributeError, match="add is a function"):
        library.add = 1
    with pytest.raises(AttributeError, match="no symbol 'nowhere'"):
        library.nowhere = 1


def test_handles_raise_after_the_close():
    """Functions, variables and symbols know that their code is gone."""
    library = jitlink.load(sources.zig("-g"))
    add, symbol = library.add, library["add"]
    assert add(1, 2) == symbol(1, 2) == 3
    library.close()
    for use in (lambda: add(1, 2), lambda: symbol(1, 2), lambda: library.counter, lambda: library.weigh):
        with pytest.raises(jitlink.ClosedError):
            use()
    with pytest.raises(jitlink.ClosedError):
        library.counter = 1


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_scalars_agree_with_a_shared_library_called_by_ctypes(data):
    """Whatever numbers go in, the linked code and the same code in a shared library give the same."""
    library, native = _shared_library(), oracle()
    name, kind = data.draw(
        st.sampled_from(
            [(name, getattr(ctypes, f"c_{'u' if unsigned else ''}int{bits}")) for name, (bits, unsigned) in
             INTEGERS.items()] + [("f32", ctypes.c_float), ("f64", ctypes.c_double)]
        )
    )  # fmt: skip
    function = getattr(native, name)
    function.restype, function.argtypes = kind, [kind]
    if name.startswith("f"):
        value = data.draw(st.floats(width=32, allow_nan=False))
    else:
        bits, unsigned = INTEGERS[name]
        low = 0 if unsigned else -(1 << bits - 1)
        value = data.draw(st.integers(low, low + (1 << bits) - 1))
    assert getattr(library, name)(value) == function(value)


@cache
def _shared_library() -> jitlink.Library:
    return jitlink.load(sources.zig("-g", "-O1"))


def test_functions_are_asked_for_by_eight_threads_at_once():
    """The first question about each function may come from any thread; all get the same answer."""
    from concurrent.futures import ThreadPoolExecutor

    with jitlink.load(sources.zig("-g", "-O1")) as library, ThreadPoolExecutor(8) as pool:
        names = [name for name in library.dylib.symbols() if name not in ("packed_sum", "variadic", "huge")]
        found = list(pool.map(lambda thread: [str(getattr(library, name)) for name in names if callable(
            getattr(library, name))], range(8)))  # fmt: skip
        assert len(found[0]) > 50
        assert all(each == found[0] for each in found)


def test_calls_of_eight_threads_do_not_disturb_each_other(one):
    """Each thread gets its own results, also while the interpreter lock is released."""
    from concurrent.futures import ThreadPoolExecutor

    def work(thread: int) -> bool:
        values = np.full(16, float(thread))
        return all(one.total(values, 16) == 16 * thread and one.add(thread, n) == thread + n for n in range(2000))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))

"""Values that cross the edge of the machine: buffers, pointers, callbacks, variables, and what is refused."""

from __future__ import annotations

import ctypes
import enum

import numpy as np
import pytest

from jitlink import MemoryRefused, UsageError
from jitlink.execution.borrowed import Buffer, _merged
from jitlink.execution.values import Pointer
from tests.execution.platforms import emulated

pytest.importorskip("unicorn")

SOURCE = """
struct pair { int a; double b; };
enum colour { RED, GREEN = 5 };
int counter = 3; const char *text = "hello"; struct pair both = {1, 2.5}; int numbers[3] = {7, 8, 9};
long sum(const int *p, long n) { long s = 0; while (n--) s += *p++; return s; }
void scale(double *p, long n, double by) { while (n--) *p++ *= by; }
void shift(char *to, const char *from, long n) { while (n--) *to++ = *from++; }
long distance(const char *a, const char *b) { return b - a; }
int first(const char *s) { return s ? s[0] : -1; }
void touch(struct pair *p) { p->a += 1; p->b *= 2; }
struct pair made(int a, double b) { struct pair p = {a, b}; return p; }
const char *name(int which) { return which ? text : 0; }
int *where(void) { return numbers; }
int apply(int (*f)(int, void *), int x, void *data) { return f(x, data); }
int twice(int x) { return 2 * x; }
int (*chosen(void))(int) { return twice; }
enum colour next(enum colour c) { return c == RED ? GREEN : RED; }
_Bool is_odd(unsigned char x) { return x & 1; }
int fetch(int **p) { return **p; }
float half(float x) { return x / 2; }
int misaligned(const void *p) { return (int)((unsigned long)p & 63); }
"""
DECLARATIONS = """
struct pair { int a; double b; };
enum colour { RED, GREEN = 5 };
extern int counter; extern const char *text; extern struct pair both; extern int numbers[3];
int64_t sum(const int *p, int64_t n); void scale(double *p, int64_t n, double by);
void shift(char *to, const char *from, int64_t n); int first(const char *s); void touch(struct pair *p);
struct pair made(int a, double b); const char *name(int which); int *where(void);
int apply(int (*f)(int, void *), int x, void *data); int (*chosen(void))(int);
enum colour next(enum colour c); _Bool is_odd(unsigned char x); int fetch(int **p); float half(float x);
"""


class Pair(ctypes.Structure):
    _fields_ = (("a", ctypes.c_int), ("b", ctypes.c_double))


@pytest.fixture(scope="module")
def library():
    with emulated(SOURCE, "aarch64-linux-gnu") as library:
        library.cdef(DECLARATIONS)
        yield library


@pytest.mark.parametrize(
    "buffer",
    [
        np.arange(1, 5, dtype=np.int32),
        (ctypes.c_int * 4)(1, 2, 3, 4),
        np.arange(1, 5, dtype=np.int32).data,
        bytes(np.arange(1, 5, dtype=np.int32)),
        bytearray(np.arange(1, 5, dtype=np.int32)),
        [1, 2, 3, 4],
    ],
    ids=lambda buffer: type(buffer).__name__,
)
def test_every_sort_of_buffer_can_be_passed_as_a_pointer(library, buffer):
    """Arrays of NumPy and ctypes, views, bytes, and lists are copied in."""
    assert library.sum(buffer, 4) == 10
    if not isinstance(buffer, list):
        assert library.function("sum", ctypes.c_long, [ctypes.c_void_p, ctypes.c_long])(buffer, 4) == 10


def test_arrays_of_cffi_are_passed_as_pointers(library):
    """What ffi.new() has made is copied in, and what was written is copied back."""
    array = library.ffi.new("double[3]", [1, 2, 3])
    library.scale(array, 3, 10)
    assert list(array) == [10, 20, 30]
    pair = library.ffi.new("struct pair *", [1, 1.5])
    library.touch(pair)
    assert (pair.a, pair.b) == (2, 3.0)


def test_writable_buffers_are_copied_back(library):
    """What the code has written is seen in the buffer after the call, in place."""
    array = np.arange(6.0)
    inside = array[2:4]
    library.scale(inside, 2, -1)
    assert array.tolist() == [0, 1, -2, -3, 4, 5]
    pair = Pair(1, 2.0)
    touch = library.function("touch", None, [ctypes.POINTER(Pair)])
    touch(ctypes.byref(pair))
    touch(ctypes.pointer(pair))
    assert (pair.a, pair.b) == (3, 8.0)


def test_read_only_buffers_stay_as_they_were(library):
    """bytes and read-only arrays are passed, and nothing is written to them."""
    array = np.arange(3.0)
    array.flags.writeable = False
    library.scale(array, 3, 5)
    assert array.tolist() == [0, 1, 2]
    text = b"abc"
    library.shift(text, b"xyz", 3)
    assert text == b"abc"


def test_buffers_that_overlap_overlap_for_the_code(library):
    """Two views of one array are one piece of memory to the code, as they are to Python."""
    array = np.arange(10, dtype=np.uint8)
    library.shift(array[1:], array[:9], 9)
    assert array.tolist() == [0] * 10
    distance = library.function("distance", ctypes.c_long, [ctypes.c_void_p] * 2)
    assert distance(array[2:], array[5:]) == 3


def test_alignment_of_a_buffer_is_kept(library):
    """A buffer lies within 64 bytes where it lies in Python's memory, so that aligned loads stay aligned."""
    array = np.zeros(256, np.uint8)
    misaligned = library.function("misaligned", ctypes.c_int, [ctypes.c_void_p])
    for start in range(0, 70, 7):
        view = array[start:]
        assert misaligned(view) == view.__array_interface__["data"][0] % 64


def test_strings_end_in_a_nul(library):
    """bytes are passed with the NUL behind them, and come out of const char * without."""
    assert library.first(b"abc") == ord("a")
    assert library.first(b"") == 0
    assert library.first(None) == -1
    name = library.function("name", ctypes.c_char_p, [ctypes.c_int])
    assert name(1) == b"hello"
    assert name(0) is None


def test_pointers_come_out_as_integers_that_read_and_write(library):
    """A pointer is an address of the machine; with its type known, items are read and set by index."""
    where = library.where()
    assert isinstance(where, Pointer)
    assert (where[0], where[2]) == (7, 9)
    assert where.array(np.int32, 3).tolist() == [7, 8, 9]
    where[1] = 80
    assert library.sum(where, 3) == 96
    where[1] = 8
    assert library.name(1).string() == b"hello"
    assert library.name(0) == 0
    where.write(where.read(4))
    with pytest.raises(UsageError, match="not declared"):
        library.function("where", ctypes.c_void_p)()[0]
    typed = library.function("where", ctypes.POINTER(ctypes.c_int))()
    assert typed[2] == 9


def test_structures_pass_by_value(library):
    """A structure is taken from an initialiser or an instance, and comes out as its own copy."""
    made = library.made(4, 0.5)
    assert (made.a, made.b) == (4, 0.5)
    result = library.function("made", Pair, [ctypes.c_int, ctypes.c_double])(5, 1.5)
    assert (result.a, result.b) == (5, 1.5)


def test_variables_are_read_and_set_by_declaration(library):
    """Integers, pointers, structures and arrays are read as copies; what is set is seen by the code."""
    assert library.counter == 3
    library.counter = 11
    assert library.counter == 11
    assert library.text.string() == b"hello"
    assert library.both.b == 2.5
    library.both = {"a": 9, "b": 0.25}
    assert (library.both.a, library.both.b) == (9, 0.25)
    assert list(library.numbers) == [7, 8, 9]
    with pytest.raises(TypeError, match="Python's memory"):
        library.text = b"gone"
    with pytest.raises(AttributeError, match="is a function"):
        library.sum = 3
    with pytest.raises(AttributeError, match="no symbol"):
        library.nowhere = 3


def test_callbacks_are_python_functions_with_the_declared_type(library):
    """A function pointer takes a Python function, or a function of the library; void * is passed through."""
    seen = []

    def f(x, data):
        seen.append((x, data))
        return x + 1

    assert library.apply(f, 5, 0x1234) == 6
    assert seen == [(5, 0x1234)]
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    apply = library.function("apply", ctypes.c_int, [kind, ctypes.c_int, ctypes.c_void_p])
    assert apply(f, 6, None) == 7
    assert apply(kind(f), 7, None) == 8
    assert apply(library["twice"], 8, None) == 16
    assert apply(library.function("twice", ctypes.c_int, [ctypes.c_int]), 9, None) == 18


def test_the_same_callback_has_one_address(library):
    """Passing one function again does not use up addresses; a new one each time does, and ends in an error."""
    functions = library.dylib.residence.machine._functions
    before = len(functions)
    for _ in range(100):
        library.apply(_identity, 1, 0)
    assert len(functions) == before + 1


def _identity(x, data):
    return x


def test_callbacks_run_out_with_a_clear_error(library, monkeypatch):
    """When all addresses for Python functions are taken, the error says what to do."""
    monkeypatch.setattr("jitlink.execution.machine.LOWEST", 0)
    with pytest.raises(MemoryRefused, match="same one again"):
        library.apply(lambda x, data: x, 1, 0)


def test_a_function_pointer_that_comes_out_can_be_called(library):
    """A result of a function type is a callable."""
    assert library.chosen()(21) == 42
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    assert library.function("chosen", kind)()(4) == 8


def test_enumerations_and_truth_values_cross(library):
    """Enumerations are integers, also of Python's IntEnum; _Bool is a bool."""
    colour = enum.IntEnum("colour", {"RED": 0, "GREEN": 5})
    assert library.next(colour.RED) == 5
    assert library.is_odd(3) is True
    assert library.half(np.float32(3)) == 1.5


def test_pointers_to_pointers_hold_addresses_of_the_machine(library):
    """What a pointer in a buffer points at has to be in the machine; memory.allocate() makes it."""
    number = library.memory.allocate(4)
    library.memory.write(number, (99).to_bytes(4, "little"))
    assert library.fetch(np.array([number], np.uint64)) == 99


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda library: library.sum(np.arange(10)[::2], 5), TypeError),
        (lambda library: library.scale(np.arange(10, dtype=np.int16), 5, 1.0), TypeError),
        (lambda library: library.sum("text", 4), TypeError),
        (lambda library: library.sum(3.5, 4), TypeError),
        (lambda library: library.sum([1, 2]), TypeError),
        (lambda library: library.first(library.ffi.cast("char *", 1)), TypeError),
        (lambda library: library.function("first", ctypes.c_int, [ctypes.c_char_p])(ctypes.c_char_p(b"x")), TypeError),
        (lambda library: library.function("twice", ctypes.c_int, [ctypes.c_int])("2"), TypeError),
        (lambda library: library.function("touch", None, [Pair])((1, 2)), TypeError),
        (lambda library: library.apply(7.5, 1, 0), TypeError),
        (lambda library: library.made(1 << 40, 1.0), OverflowError),
        (lambda library: library.function("twice", ctypes.c_longdouble), UsageError),
        (lambda library: library.function("twice", ctypes.c_int, [int]), UsageError),
        (lambda library: library["twice"].cffi("int"), UsageError),
        (lambda library: library["twice"].cffi("long double(*)(int)"), UsageError),
        (lambda library: library["twice"].add_to_llvmlite(), UsageError),
        (lambda library: library.new("int"), UsageError),
    ],
)
def test_what_cannot_cross_is_refused_before_anything_runs(library, call, error):
    """A wrong argument or type is an error of its own kind, and not a crash of the code."""
    with pytest.raises(error):
        call(library)


def test_a_callback_that_returns_a_buffer_is_refused(library):
    """A buffer would be gone when the code looks at it."""
    kind = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p)
    apply = library.function("apply", ctypes.c_int, [kind, ctypes.c_int, ctypes.c_void_p])
    with pytest.raises(TypeError, match="cannot see"):
        apply(lambda x, data: b"gone", 1, None)


def test_long_has_the_size_of_the_platform():
    """cffi's long is 8 bytes here and 4 on Windows; in a structure, which cffi has laid out, it is refused."""
    source = "long long widen(long x, unsigned long y) { return (long long)x + y; }"
    for platform, high in (("x86_64-windows-gnu", 1 << 31), ("x86_64-linux-gnu", 1 << 63)):
        with emulated(source, platform) as library:
            library.cdef("long long widen(long x, unsigned long y);")
            assert library.widen(-5, 7) == 2
            with pytest.raises(OverflowError):
                library.widen(high, 0)
            library.cdef("struct s { long a; }; int other(struct s *); struct s third(void);")
    with emulated(source + "int third(void) { return 0; }", "x86_64-windows-gnu") as library:
        library.cdef("struct s { long a; }; struct s third(void);")
        with pytest.raises(UsageError, match="int32_t"):
            library.third()


class Big(ctypes.BigEndianStructure):
    _fields_ = (("a", ctypes.c_int),)


def test_big_endian_structures_are_refused(library):
    """All emulated machines are little-endian."""
    with pytest.raises(UsageError, match="big-endian"):
        library.function("made", Big, [])


def test_buffers_that_overlap_are_one_copy():
    """Ranges that share bytes become one; those that only touch, and the same one twice, do not grow."""
    buffers = [Buffer(start, size, True, None) for start, size in ((100, 10), (105, 20), (125, 5), (300, 4), (300, 4))]
    assert _merged(buffers) == [range(100, 125), range(125, 130), range(300, 304)]

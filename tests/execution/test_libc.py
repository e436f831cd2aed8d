"""The C library of the emulated CPU does what the host's does.

The oracle is the C library of this process, called through ctypes with the same arguments.
"""

from __future__ import annotations

import ctypes
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitlink
from jitlink import EmulationFault, ProgramExit
from jitlink.execution.c_types import CType
from jitlink.execution.handles import EmulatedLibrary
from jitlink.execution.libc.formatting import Source, formatted
from jitlink.execution.libc.provided import FUNCTIONS, packed
from tests.execution.platforms import MACHINES, PLATFORMS, emulated, load
from tests.toolchain import zig_cc

pytest.importorskip("unicorn")

HOST = ctypes.CDLL(None)
FLAGS = st.text("-+ #0", max_size=3)
WIDTH = st.sampled_from(["", "1", "5", "12", "*"])
PRECISION = st.sampled_from(["", ".", ".0", ".3", ".17", ".*"])


class Arguments:
    """Values as the arguments behind an ellipsis."""

    def __init__(self, values: list[int | float]) -> None:
        self.values = values

    def next(self, c_type: CType) -> bytes:
        value = self.values.pop(0)
        if isinstance(value, float):
            return struct.pack("<d", value)
        return packed(c_type, value)


def ours(text: str, *values: int | float | bytes) -> bytes:
    strings = {row: value for row, value in enumerate(values, 1) if isinstance(value, bytes)}
    passed = [row if isinstance(value, bytes) else value for row, value in enumerate(values, 1)]
    source = Source(Arguments(passed), 8, lambda at, limit: strings[at][:limit], lambda at, data: None)
    return formatted(text.encode(), source)


def the_hosts(text: str, *values: int | float | bytes) -> bytes:
    buffer = ctypes.create_string_buffer(4096)
    kinds: dict[type, Any] = {float: ctypes.c_double, int: ctypes.c_int64, bytes: ctypes.c_char_p}
    HOST.snprintf(buffer, ctypes.c_size_t(4096), text.encode(), *(kinds[type(value)](value) for value in values))
    return buffer.value


def stars(width: str, precision: str, values: list[int]) -> list[int]:
    return [value for field, value in zip((width, precision), values, strict=True) if field.endswith("*")]


@given(
    FLAGS,
    WIDTH,
    PRECISION,
    st.sampled_from("diuoxX"),
    st.sampled_from(["", "hh", "h", "l", "ll", "z", "j"]),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.integers(-15, 15), min_size=2, max_size=2),
)
def test_integers_are_formatted_as_the_host_does(flags, width, precision, conversion, length, value, asked):
    """Every flag, width, precision and length of an integer gives the host's text."""
    text = f"<%{flags}{width}{precision}{length}{conversion}>"
    values = (*stars(width, precision, asked), value)
    assert ours(text, *values) == the_hosts(text, *values)


@given(
    FLAGS,
    WIDTH,
    PRECISION,
    st.sampled_from("eEfFgGaA"),
    st.floats(),
    st.lists(st.integers(-15, 15), min_size=2, max_size=2),
)
def test_floating_point_numbers_are_formatted_as_the_host_does(flags, width, precision, conversion, value, asked):
    """Every flag, width and precision of a floating-point number gives the host's text."""
    if math.isnan(value):
        value = math.nan
    if conversion in "aA" and value and abs(value) < 2.3e-308:
        return  # C leaves open how a subnormal number is written in hexadecimal.
    if "0" in flags and width == "*" and asked[0] < 0:
        return  # A negative width takes the 0 away (C11 7.21.6.1); glibc fills up with zeroes behind the number.
    text = f"<%{flags}{width}{precision}{conversion}>"
    values = (*stars(width, precision, asked), value)
    assert ours(text, *values) == the_hosts(text, *values)


@given(st.sampled_from(["", "-"]), WIDTH, PRECISION, st.binary(max_size=20).map(lambda text: text.replace(b"\0", b".")))
def test_strings_are_formatted_as_the_host_does(flags, width, precision, value):
    """A width and a precision of a string count bytes."""
    text = f"<%{flags}{width}{precision}s>"
    values = (*stars(width, precision, [7, 3]), value)
    assert ours(text, *values) == the_hosts(text, *values)


PRINTING = """
typedef __builtin_va_list va_list;
int printf(const char *, ...);
int snprintf(char *, __SIZE_TYPE__, const char *, ...);
int vsnprintf(char *, __SIZE_TYPE__, const char *, va_list);
int through_list(char *to, __SIZE_TYPE__ size, const char *format, ...) {
    va_list list; __builtin_va_start(list, format);
    int written = vsnprintf(to, size, format, list);
    __builtin_va_end(list);
    return written;
}
char text[256];
int show(int direct) {
    const char *format = "%d %s %.3f %c %lld %5.1f %x %u %g %g %g %g %g %g %g %hhd %p|";
    return (direct ? snprintf : through_list)(text, sizeof text, format, -1, "abc", 2.5, 'x', -5000000000ll, 3.25,
        255u, 4000000000u, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 300, (void *)0x1234);
}
int hello(void) { return printf("hello %d, %s\\n", 42, "world"); }
"""
SHOWN = b"-1 abc 2.500 x -5000000000   3.2 ff 4000000000 1 2 3 4 5 6 7 44 0x1234|"


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("direct", [1, 0], ids=["ellipsis", "va_list"])
def test_the_printf_family_finds_its_arguments(platform, direct):
    """Seventeen arguments of all sorts arrive, in registers and on the stack, also through a va_list."""
    with emulated(PRINTING, platform) as library:
        assert library.function("show", ctypes.c_int, [ctypes.c_int])(direct) == len(SHOWN)
        assert library.memory.read_string(library["text"].address) == SHOWN


@pytest.mark.parametrize("platform", MACHINES)
def test_output_goes_where_the_caller_says(platform):
    """printf writes to the stdout that Emulation names."""
    written = bytearray()

    class Sink:
        def write(self, data: bytes) -> None:
            written.extend(data)

    with emulated(PRINTING, platform, emulate=jitlink.Emulation(stdout=Sink())) as library:
        assert library.function("hello")() == 16
    assert written == b"hello 42, world\n"


def test_output_goes_to_pythons_stdout(capfdbinary):
    """Without a sink, printf writes where print does, in order."""
    with emulated(PRINTING, MACHINES[0]) as library:
        print("before")
        library.function("hello")()
    assert capfdbinary.readouterr().out == b"before\nhello 42, world\n"


STRING_FUNCTIONS = """
typedef __SIZE_TYPE__ size_t;
size_t strlen(const char *); int strcmp(const char *, const char *); int strncmp(const char *, const char *, size_t);
char *strchr(const char *, int); char *strrchr(const char *, int); char *strstr(const char *, const char *);
size_t strspn(const char *, const char *); size_t strcspn(const char *, const char *);
char *strcpy(char *, const char *); char *strcat(char *, const char *); char *strncpy(char *, const char *, size_t);
char *strtok(char *, const char *); char *strdup(const char *); char *strpbrk(const char *, const char *);
void *memmove(void *, const void *, size_t); void *memchr(const void *, int, size_t);
int memcmp(const void *, const void *, size_t); void *memset(void *, int, size_t);
static int sign(int x) { return (x > 0) - (x < 0); }
static long at(const char *base, const char *found) { return found ? found - base : -1; }
long volatile out[32];
int strings(const char *one, const char *other) {
    char buffer[256] = {0}; int n = 0;
    out[n++] = strlen(one); out[n++] = sign(strcmp(one, other)); out[n++] = sign(strncmp(one, other, 3));
    out[n++] = at(one, strchr(one, 'b')); out[n++] = at(one, strrchr(one, 'b')); out[n++] = at(one, strstr(one, other));
    out[n++] = strspn(one, other); out[n++] = strcspn(one, other); out[n++] = at(one, strpbrk(one, other));
    strcpy(buffer, one); strcat(buffer, other); out[n++] = strlen(buffer); out[n++] = (signed char)buffer[1];
    memmove(buffer + 2, buffer, 20); out[n++] = (signed char)buffer[5];
    strncpy(buffer, other, 12); out[n++] = (signed char)buffer[11]; out[n++] = sign(memcmp(buffer, one, 4));
    memset(buffer, 'z', 4); out[n++] = (signed char)buffer[3]; out[n++] = at(one, memchr(one, 'a', strlen(one)));
    strcpy(buffer, one); char *token = strtok(buffer, "b,");
    while (token && n < 30) { out[n++] = token - buffer; token = strtok(0, "b,"); }
    out[n++] = strlen(strdup(one));
    return n;
}
"""
PAIRS = [
    (b"", b""),
    (b"abcb,x,,abc", b"bc"),
    (b"bbb", b"b"),
    (b"abc", b"abcd"),
    (b"\xff\x80a", b"a\xff"),
    (b",,", b","),
]


@pytest.mark.parametrize("platform", ["x86_64-linux-gnu", "aarch64-macos", "riscv64-linux-gnu"])
def test_strings_behave_as_in_this_process(platform):
    """String functions give the results of the host's, for ordinary and odd strings."""
    host = jitlink.load(compile_for_host())
    with emulated(STRING_FUNCTIONS, platform, "-O1", "-fno-builtin") as library, host:
        for pair in PAIRS:
            results = []
            for each in (host, library):
                count = each.function("strings", ctypes.c_int, [ctypes.c_char_p] * 2)(*pair)
                results.append((count, out_of(each, count)))
            assert results[0] == results[1], pair


def compile_for_host() -> bytes:
    from tests.toolchain import NATIVE_TARGET, zig_cc

    return zig_cc(STRING_FUNCTIONS, "-O1", "-fno-builtin", "-fPIC", target=NATIVE_TARGET)


def out_of(library: jitlink.Library, count: int) -> list[int]:
    address = library["out"].address
    if isinstance(library, EmulatedLibrary):
        content = library.memory.read(address, 8 * count)
    else:
        content = ctypes.string_at(address, 8 * count)
    return list(np.frombuffer(content, np.int64))


TEXTS = [
    "0",
    "42",
    "-17",
    "  +99x",
    "0x1fZ",
    "0777",
    "zz",
    "",
    "-",
    "99999999999999999999999",
    "-99999999999999999999",
    "0x",
    "0b1",
    "18446744073709551615",
    "-1",
    "\t\n12",
]


@pytest.mark.parametrize("name", ["strtol", "strtoul", "strtoll", "strtoull"])
@pytest.mark.parametrize("base", [0, 8, 10, 16, 36])
def test_numbers_in_strings_are_read_as_the_host_does(name, base, machine_calls):
    """strtol and its kin give the host's value and the host's end, also at the ends of the range."""
    for text in map(str.encode, TEXTS):
        native = getattr(HOST, name)
        native.restype, native.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
        buffer, end = ctypes.create_string_buffer(text), ctypes.c_void_p()
        value = native(buffer, ctypes.byref(end), base)
        found, size = machine_calls(name, ctypes.c_int64, text, base)
        assert (found, size) == (value, (end.value or 0) - ctypes.addressof(buffer)), text


@pytest.mark.parametrize("text", ["1.5", "-2e3x", ".5", "1e", "0x1.8p3", "inf", "nan", "", "  7", "1e999", "+.e"])
def test_reals_in_strings_are_read_as_the_host_does(text, machine_calls):
    """strtod gives the host's value and the host's end."""
    native = HOST.strtod
    native.restype, native.argtypes = ctypes.c_double, (ctypes.c_void_p, ctypes.c_void_p)
    buffer, end = ctypes.create_string_buffer(text.encode()), ctypes.c_void_p()
    value = native(buffer, ctypes.byref(end))
    found, size = machine_calls("strtod", ctypes.c_double, text.encode())
    assert (repr(found), size) == (repr(value), (end.value or 0) - ctypes.addressof(buffer))


@pytest.fixture(scope="module")
def library_of_nothing():
    with emulated("int nothing;", MACHINES[0]) as library:
        yield library


@pytest.fixture
def machine_calls(library_of_nothing):
    """Calls a function of the emulated C library on a string, and says where it ended."""
    home = library_of_nothing.dylib.residence

    def run(name, restype, text, *more):
        from jitlink.execution.ctypes_values import signature_of

        memory = library_of_nothing.memory
        at, end = memory.allocate(len(text) + 1), memory.allocate(8)
        memory.write(at, text + b"\0")
        kinds = [ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int for _ in more)]
        function = home.function_at(home.outside().address_of(name), signature_of(restype, kinds))
        value = function(at, end, *more)
        return value, int.from_bytes(memory.read(end, 8), "little") - at

    return run


ONE = [
    "sin",
    "cos",
    "tan",
    "atan",
    "sinh",
    "tanh",
    "exp",
    "exp2",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "cbrt",
    "floor",
    "ceil",
    "trunc",
    "rint",
    "round",
    "fabs",
    "asin",
    "acos",
    "atanh",
    "tgamma",
    "lgamma",
    "erf",
]
TWO = ["pow", "fmod", "remainder", "atan2", "hypot", "copysign", "fmin", "fmax", "fdim", "nextafter"]
NUMBERS = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.0,
    -1.0,
    2.5,
    -2.5,
    3.5,
    1e300,
    -1e300,
    1e-300,
    700.0,
    1000.0,
    math.inf,
    -math.inf,
    math.nan,
]


def near(one: float, other: float) -> bool:
    """Equal but for the last bits, with the signs of zeroes and infinities."""
    if math.isnan(one) or math.isnan(other) or not (math.isfinite(one) and math.isfinite(other)):
        return repr(one) == repr(other)
    return math.isclose(one, other, rel_tol=1e-14) and (one != 0 or math.copysign(1, one) == math.copysign(1, other))


@pytest.mark.parametrize("name", ONE + TWO)
def test_mathematics_gives_the_hosts_results(name):
    """Functions of <math.h> give the host's results to the last bits, also at poles and outside of their domain."""
    count = 1 if name in ONE else 2
    native = getattr(ctypes.CDLL("libm.so.6"), name)
    native.restype, native.argtypes = ctypes.c_double, [ctypes.c_double] * count
    run = FUNCTIONS[name].run
    for x in NUMBERS:
        for values in [(x,)] if count == 1 else [(x, y) for y in NUMBERS]:
            if name in ("fmin", "fmax") and not any(values):
                continue  # C leaves open which of two zeroes it is.
            assert near(run(None, *values), native(*values)), (values, run(None, *values), native(*values))


HEAP = """
typedef __SIZE_TYPE__ size_t;
void *malloc(size_t); void *calloc(size_t, size_t); void *realloc(void *, size_t); void free(void *);
void qsort(void *, size_t, size_t, int (*)(const void *, const void *));
void *bsearch(const void *, const void *, size_t, size_t, int (*)(const void *, const void *));
static int order(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
int heap(int n) {
    int *numbers = calloc(n, sizeof *numbers), sum = 0;
    for (int i = 0; i < n; i++) { sum += numbers[i]; numbers[i] = (i * 7919) % n; }
    numbers = realloc(numbers, 2 * n * sizeof *numbers);
    qsort(numbers, n, sizeof *numbers, order);
    for (int i = 1; i < n; i++) if (numbers[i - 1] > numbers[i]) return -1;
    int key = n / 2, *found = bsearch(&key, numbers, n, sizeof *numbers, order);
    sum += found ? *found : -2;
    free(numbers);
    return sum;
}
void twice(void) { char *p = malloc(3); free(p); free(p); }
void wild(void) { int x; free(&x); }
void *too_much(void) { return malloc((size_t)1 << 50); }
void exit(int); void abort(void);
void leave(void) { exit(3); }
void give_up(void) { abort(); }
__int128 divide(__int128 a, __int128 b) { return a / b; }
long long high(long long a, long long b) { return divide((__int128)a << 64, b) >> 32; }
"""


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_heap_and_sorting_work(platform):
    """calloc, realloc, qsort and bsearch with the program's own function, and free."""
    with emulated(HEAP, platform) as library:
        assert library.function("heap", ctypes.c_int, [ctypes.c_int])(50) == 25


@pytest.mark.parametrize(("name", "fault"), [("twice", "freed before"), ("wild", "is not allocated")])
def test_wrong_frees_are_faults(name, fault):
    """A second free of memory, and one of what was never allocated, are refused and say where."""
    with emulated(HEAP, "aarch64-linux-gnu", "-O0") as library, pytest.raises(EmulationFault, match=fault) as caught:
        library.function(name, None)()
    assert f"{name}+" in str(caught.value)


def test_malloc_returns_null_where_there_is_no_memory():
    """A request for more than the machine has is refused as C does it."""
    with emulated(HEAP, "riscv64-linux-gnu") as library:
        assert library.function("too_much", ctypes.c_void_p)() is None


def test_exit_ends_the_call_with_its_status():
    """exit raises ProgramExit, and the library can be used afterwards."""
    with emulated(HEAP, "x86_64-linux-gnu") as library:
        with pytest.raises(ProgramExit) as caught:
            library.function("leave", None)()
        assert caught.value.status == 3
        with pytest.raises(EmulationFault, match="given up"):
            library.function("give_up", None)()
        assert library.function("heap", ctypes.c_int, [ctypes.c_int])(4) == 2


@pytest.mark.parametrize("platform", PLATFORMS)
def test_arithmetic_that_compilers_call_for_is_there(platform):
    """Division of 128-bit integers is a call of __divti3."""
    with emulated(HEAP, platform) as library:
        high = library.function("high", ctypes.c_int64, [ctypes.c_int64] * 2)
        assert high(-7, 3) == -((7 << 64) // 3 >> 32) - 1
        assert high(1 << 40, 1 << 50) == 1 << 22


ATOMICS = """
int counter;
int add(int by) { return __atomic_fetch_add(&counter, by, __ATOMIC_SEQ_CST); }
int swap(int was, int now) {
    __atomic_compare_exchange_n(&counter, &was, now, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    return was;
}
"""


def test_outlined_atomics_are_there():
    """What a compiler calls where it does not know of atomic instructions changes memory as they would."""
    with emulated(ATOMICS, "aarch64-linux-gnu", "-O1", "-moutline-atomics") as library:
        add = library.function("add", ctypes.c_int, [ctypes.c_int])
        swap = library.function("swap", ctypes.c_int, [ctypes.c_int] * 2)
        assert [add(5), add(-2), swap(3, 10), swap(3, 11), add(0)] == [0, 5, 3, 10, 10]


EXIT_HANDLERS = """
int atexit(void (*)(void));
extern void note(int);
static void first(void) { note(1); }
static void second(void) { note(2); }
__attribute__((constructor)) static void begin(void) { note(0); }
void hook(void) { atexit(first); atexit(second); }
"""


@pytest.mark.parametrize("platform", PLATFORMS)
def test_exit_handlers_run_at_close_last_one_first(platform):
    """Constructors run at the load, handlers of atexit at the close."""
    notes: list[int] = []

    def note(number: int) -> None:
        notes.append(number)

    library = emulated(EXIT_HANDLERS, platform, define={"note": note})
    library.function("hook", None)()
    assert notes == [0]
    library.close()
    assert notes == [0, 2, 1]


STACK_PROTECTED = "void fill(int n) { char room[16]; for (int i = 0; i < n; i++) ((volatile char *)room)[i] = 1; }"


@pytest.mark.parametrize("platform", ["x86_64-macos", "aarch64-linux-gnu", "riscv64-linux-gnu"])
def test_the_stack_protector_has_its_guard(platform):
    """Code that is compiled with a stack protector runs, and is stopped where it writes too far."""
    with emulated(STACK_PROTECTED, platform, "-O1", "-fstack-protector-all") as library:
        fill = library.function("fill", None, [ctypes.c_int])
        fill(16)
        with pytest.raises(EmulationFault, match="end of its stack frame"):
            fill(40)


CPLUSPLUS = """
struct Shape { virtual int area() const = 0; virtual ~Shape() {} };
struct Square : Shape { int side; Square(int s) : side(s) {} int area() const override { return side * side; } };
struct Oops { int code; };
static Shape *made(int side) { static Square unit(1); return side ? new Square(side) : &unit; }
extern "C" int area(int side) {
    Shape *shape = made(side);
    int area = shape->area();
    if (side) delete shape;
    if (area > 1000) throw Oops{area};
    return area;
}
"""


@pytest.mark.parametrize("platform", ["aarch64-linux-gnu", "x86_64-macos", "aarch64-macos", "riscv64-linux-gnu"])
def test_cplusplus_without_its_library_runs(platform):
    """Virtual functions, new, delete and static variables work; an exception ends the call and is named."""
    content = zig_cc(CPLUSPLUS, "-O1", target=platform, language="c++")
    with load(content, platform) as library:
        area = library.function("area", ctypes.c_int, [ctypes.c_int])
        assert [area(3), area(0), area(0)] == [9, 1, 1]
        with pytest.raises(EmulationFault, match="exception of the type 4Oops"):
            area(100)
        assert area(4) == 16

"""Calls across conventions: code of COFF objects, which follows Microsoft's, in a process that follows System V's.

Functions of random signatures are compiled for both conventions. Each adds its arguments up, with a weight
for the place of each, so that two arguments that change places, or one that is lost, change the sum.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

import jitlink
from jitlink import LinkFailure, UnsupportedInput, UntypedSymbol, UsageError
from jitlink.arches.x86_64_conventions import bridge_from_microsoft, bridge_to_microsoft, signature
from jitlink.runtime.c_signatures import declared_signatures, signature_of_ctypes
from jitlink.runtime.libc_signatures import RENAMED, signatures
from jitlink.runtime.windows_formats import printing, scanning
from tests import toolchain

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or os.name == "nt", reason="the process must follow System V's convention on x86-64"
)

WINDOWS, LINUX = "x86_64-windows-gnu", "x86_64-linux-gnu"
TYPES: dict[str, Any] = {
    "signed char": ctypes.c_byte,
    "unsigned char": ctypes.c_ubyte,
    "short": ctypes.c_short,
    "unsigned short": ctypes.c_ushort,
    "int": ctypes.c_int,
    "unsigned": ctypes.c_uint,
    "long long": ctypes.c_longlong,
    "unsigned long long": ctypes.c_ulonglong,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
SIGNED = [name for name in TYPES if not name.startswith("unsigned")]
COUNT = 80


@dataclass(frozen=True)
class Function:
    """A function of a random signature, with arguments to call it with."""

    name: str
    result: str
    types: tuple[str, ...]
    values: tuple[int, ...]

    @property
    def parameters(self) -> str:
        return ", ".join(f"{kind} a{row}" for row, kind in enumerate(self.types)) or "void"

    def prototype(self, name: str) -> str:
        return f"{self.result} {name}({self.parameters})"

    @property
    def body(self) -> str:
        terms = " + ".join(f"{row + 1} * (long long)a{row}" for row in range(len(self.types))) or "0"
        return f"{{ return ({self.result})({terms} + 7); }}"

    @property
    def expected(self) -> int:
        total = sum((row + 1) * value for row, value in enumerate(self.values)) + 7
        return int(TYPES[self.result](total).value)


@cache
def functions() -> tuple[Function, ...]:
    """Functions of up to 14 parameters, the same in every run."""
    choices = random.Random(7)
    made = []
    for number in range(COUNT):
        count = number % 15
        kinds = ("float", "double") if number % 7 == 3 else ("int", "long long") if number % 7 == 5 else tuple(TYPES)
        types = tuple(choices.choice(kinds) for _ in range(count))
        values = tuple(choices.randint(-100 if kind in SIGNED else 0, 100) for kind in types)
        made.append(Function(f"f{number}", choices.choice(list(TYPES)), types, values))
    return tuple(made)


def windows(source: str, *flags: str) -> bytes:
    return toolchain.zig_cc(source, "-O1", *flags, target=WINDOWS)


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_python_calls_functions_of_all_signatures(level):
    """Arguments and results of any types and number are passed to code of Microsoft's convention."""
    source = "\n".join(f"{each.prototype(each.name)} {each.body}" for each in functions())
    with jitlink.load(toolchain.zig_cc(source, level, target=WINDOWS)) as library:
        for each in functions():
            function = library.function(each.name, TYPES[each.result], [TYPES[kind] for kind in each.types])
            assert function(*each.values) == each.expected, each
        library.cdef("".join(f"{each.prototype(each.name)};" for each in functions()))
        for each in functions():
            assert getattr(library, each.name)(*each.values) == each.expected, each


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_code_calls_functions_of_all_signatures(level):
    """Code of Microsoft's convention calls functions of System V's, with any types and number of arguments."""
    host = "\n".join(f"{each.prototype(each.name)} {each.body}" for each in functions())
    callers = "\n".join(
        f"{each.prototype(each.name)}; {each.result} call_{each.name}(void) "
        f"{{ return {each.name}({', '.join(map(str, each.values))}); }}"
        for each in functions()
    )
    declarations = "".join(f"{each.prototype(each.name)};" for each in functions())
    with jitlink.Session() as session:
        native = session.dylib("host").add(toolchain.zig_cc(host, level, target=LINUX))
        code = session.dylib("code").add(toolchain.zig_cc(callers, level, target=WINDOWS))
        code.link_against(jitlink.typed(native, declarations))
        for each in functions():
            assert code[f"call_{each.name}"].ctypes(TYPES[each.result])() == each.expected, each


def test_callees_keep_the_registers_of_their_callers():
    """rsi, rdi and xmm6 to xmm15, which Microsoft's callees keep, survive a call of a function of the process."""
    source = r"""
    void outside(void);
    double f(double a, double b, double c, double d, long long i, long long j, long long k, long long l) {
        double s[12]; long long t[8];
        for (int n = 0; n < 12; n++) s[n] = a * n + b * (n + 1) + c * (n + 2) + d;
        for (int n = 0; n < 8; n++) t[n] = i * n + j + k * (n + 3) + l;
        double p = s[0], q = s[1], r = s[2], u = s[3], v = s[4], w = s[5], x = s[6], y = s[7], z = s[8];
        long long e = t[0], g = t[1], h = t[2], m = t[3], o = t[4], qq = t[5];
        outside();
        return p + 2 * q + 3 * r + 4 * u + 5 * v + 6 * w + 7 * x + 8 * y + 9 * z + e + g + h + m + o + qq;
    }
    double g(double a, double b, double c, double d, long long i, long long j, long long k, long long l) {
        double s[12]; long long t[8];
        for (int n = 0; n < 12; n++) s[n] = a * n + b * (n + 1) + c * (n + 2) + d;
        for (int n = 0; n < 8; n++) t[n] = i * n + j + k * (n + 3) + l;
        return s[0] + 2 * s[1] + 3 * s[2] + 4 * s[3] + 5 * s[4] + 6 * s[5] + 7 * s[6] + 8 * s[7] + 9 * s[8]
            + t[0] + t[1] + t[2] + t[3] + t[4] + t[5];
    }
    """
    registers = [f"xmm{number}" for number in range(6, 16)]
    cleared = " ".join(f"xorps %%{name}, %%{name};" for name in registers)
    clobbered = ", ".join(f'"{name}"' for name in ["rsi", "rdi", *registers])
    clobber = f'void outside(void) {{ __asm__ volatile("mov $-1, %%rsi; mov $-1, %%rdi; {cleared}" ::: {clobbered}); }}'
    arguments = (1.5, 2.5, -3.25, 4.0, 5, -6, 7, 8)
    types = [ctypes.c_double] * 4 + [ctypes.c_longlong] * 4
    with jitlink.Session() as session:
        native = session.dylib("host").add(toolchain.zig_cc(clobber, "-O1", target=LINUX))
        code = session.dylib("code").add(toolchain.zig_cc(source, "-O2", target=WINDOWS))
        code.link_against(jitlink.typed(native, "void outside(void);"))
        f, g = (code[name].ctypes(ctypes.c_double, *types) for name in "fg")
        assert f(*arguments) == g(*arguments)


def test_the_stack_is_aligned_on_both_sides():
    """Code on either side of a bridge may use instructions that need a stack that is aligned to 16 bytes."""
    naked = '__attribute__((naked)) int NAME(void) { __asm__("mov %rsp, %rax; and $15, %eax; ret"); }'
    with jitlink.Session() as session:
        native = session.dylib("host").add(toolchain.zig_cc(naked.replace("NAME", "outside"), target=LINUX))
        source = naked.replace("NAME", "inside") + "int outside(void); int call(int a, int b, int c, int d, int e) {"
        code = session.dylib("code").add(windows(source + " return outside() + 0 * (a + b + c + d + e); }"))
        code.link_against(jitlink.typed(native, "int outside(void);"))
        assert code["inside"].ctypes()() == 8
        assert code["call"].ctypes(ctypes.c_int, *[ctypes.c_int] * 5)(1, 2, 3, 4, 5) == 8


# The C library


def test_the_c_library_is_called_by_its_known_types():
    """Functions of the C standard need no declaration: memory, strings, mathematics, numbers."""
    source = r"""
    typedef unsigned long long size_t;
    void *malloc(size_t); void free(void *); void *memset(void *, int, size_t); size_t strlen(const char *);
    double ldexp(double, int), pow(double, double), fabs(double); float sqrtf(float);
    long strtol(const char *, char **, int);
    long lround(double); int *_errno(void); char *_strdup(const char *); int _stricmp(const char *, const char *);
    double all(const char *text) {
        char *copy = malloc(100);
        memset(copy, 0, 100);
        for (size_t i = 0; i < strlen(text); i++) copy[i] = text[i];
        char *end;
        double sum = strtol(copy, &end, 10) + ldexp(1.5, 4) + pow(2, 10) + sqrtf(16);
        sum += (double)(end - copy) + lround(-2.6);
        free(copy);
        char *other = _strdup(text);
        sum += _stricmp(other, text) + (_errno() != 0);
        free(other);
        return sum;
    }
    """
    with jitlink.load(windows(source)) as library:
        all_of_it = library.function("all", ctypes.c_double, [ctypes.c_char_p])
        assert all_of_it(b"-123abc") == -123 + 24 + 1024 + 4 + 4 - 3 + 0 + 1


def test_every_known_function_is_in_the_process():
    """The table of known functions holds names that a process with a C library has, and their renamings."""
    process = jitlink.process()
    missing = [name for name in signatures() if process.address_of(name) is None]
    assert missing == []
    assert {*RENAMED.values()} <= signatures().keys()


PRINTED = r"""
int snprintf(char *, unsigned long long, const char *, ...);
int sprintf(char *, const char *, ...);
int vsnprintf(char *, unsigned long long, const char *, __builtin_va_list);
int _snprintf(char *, unsigned long long, const char *, ...);
int sscanf(const char *, const char *, ...);
int print(char *out, long number, unsigned long long large, double real, const char *text) {
    return snprintf(out, 200, "%d|%5ld|%lu|%I64u|%-8.3f|%s|%c|%%|%*d|%hhd|%ls|%S|%x",
                    -1, number, 7ul, large, real, text, 'c', 4, 42, 300, L"w\u00efde", L"S", 255);
}
int many(char *out, double a, int b, double c, int d, double e, int f) {
    return sprintf(out, "%g %d %g %d %g %d", a, b, c, d, e, f);
}
static int forward(char *out, const char *format, ...) {
    __builtin_va_list list;
    __builtin_va_start(list, format);
    int count = vsnprintf(out, 100, format, list);
    __builtin_va_end(list);
    return count;
}
int through_list(char *out, double real) { return forward(out, "%.2f %ld %s", real, -5l, "end"); }
int cut(char *out) { return _snprintf(out, 4, "%d", 123456); }
int scan(const char *text, long *number, double *real, float *small, char *word, long long *large) {
    return sscanf(text, "%ld %lf %f %5s %I64d", number, real, small, word, large);
}
"""


def test_printf_and_scanf_follow_windows_types():
    """long has 32 bits and I64 is a length; wide strings are UTF-16; va_list is a pointer to the arguments."""
    with jitlink.load(windows(PRINTED)) as library:
        out = ctypes.create_string_buffer(200)
        types = [ctypes.c_char_p, ctypes.c_int32, ctypes.c_uint64, ctypes.c_double, ctypes.c_char_p]
        count = library.function("print", ctypes.c_int, types)(out, -70000, 2**63, 3.14159, b"text")
        expected = f"-1|-70000|7|{2**63}|3.142   |text|c|%|  42|44|w\u00efde|S|ff".encode()
        assert (out.value, count) == (expected, len(expected))
        many = library.function("many", ctypes.c_int, [ctypes.c_char_p, *[ctypes.c_double, ctypes.c_int] * 3])
        many(out, 1.5, 2, 3.5, 4, 5.5, 6)
        assert out.value == b"1.5 2 3.5 4 5.5 6"
        library.function("through_list", ctypes.c_int, [ctypes.c_char_p, ctypes.c_double])(out, 2.5)
        assert out.value == b"2.50 -5 end"
        out.raw = b"........" + bytes(192)
        assert library.function("cut", ctypes.c_int, [ctypes.c_char_p])(out) == -1
        assert out.value == b"1234...."
        # What lies behind a long of 32 bits must stay.
        number, real, small, large = (ctypes.c_int32 * 2)(0, 99), ctypes.c_double(), ctypes.c_float(), ctypes.c_int64()
        pointers = [ctypes.c_char_p, *[ctypes.c_void_p] * 5]
        scan = library.function("scan", ctypes.c_int, pointers)
        refs = [ctypes.addressof(each) for each in (number, real, small, out, large)]
        assert scan(b"-7 2.5 0.5 word 5000000000", *refs) == 5
        assert (list(number), real.value, small.value, out.value) == ([-7, 99], 2.5, 0.5, b"word")
        assert large.value == 5000000000


def test_formats_are_translated():
    """Each length of Microsoft's becomes the one of this process that has as many bits."""
    assert (
        printing(b"%ld %lld %I64d %I32u %Iu %zu %hd %lf %Lf %s %%l").text == b"%d %lld %lld %u %zu %zu %hd %f %f %s %%l"
    )
    assert printing(b"%ls %S %hs %C %*.*ls").wide == ((0, True), (1, True), (3, False), (6, True))
    assert scanning(b"%ld %lf %Lf %I64x %[a-z] %hs") == b"%d %lf %lf %llx %[a-z] %s"
    assert scanning(b"%ls") is None


def test_sorting_calls_back_into_the_code():
    """qsort and bsearch get a function of the code that they can call."""
    source = r"""
    typedef unsigned long long size_t;
    void qsort(void *, size_t, size_t, int (*)(const void *, const void *));
    void *bsearch(const void *, const void *, size_t, size_t, int (*)(const void *, const void *));
    static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
    void sort(int *values, int count) { qsort(values, count, sizeof *values, compare); }
    int place(int *values, int count, int key) {
        int *found = bsearch(&key, values, count, sizeof *values, compare);
        return found ? (int)(found - values) : -1;
    }
    """
    with jitlink.load(windows(source)) as library:
        library.cdef("void sort(int *values, int count); int place(int *values, int count, int key);")
        values = library.ffi.new("int[]", [5, 3, 9, -2, 7])
        library.sort(values, 5)
        assert list(values) == [-2, 3, 5, 7, 9]
        assert [library.place(values, 5, key) for key in (7, 4)] == [3, -1]


def test_exit_handlers_run_when_the_code_is_closed():
    """Functions that the code has registered with atexit run once, the last one first."""
    source = r"""
    int atexit(void (*)(void)); void note(int);
    static void one(void) { note(1); } static void two(void) { note(2); }
    void start(void) { atexit(one); atexit(two); }
    """
    noted: list[int] = []
    note = ctypes.CFUNCTYPE(None, ctypes.c_int)(noted.append)
    library = jitlink.load(windows(source), define={"note": note})
    library.function("start", None)()
    assert noted == []
    library.close()
    assert noted == [2, 1]


# Function pointers

CALLBACKS = r"""
typedef double (*function)(int, double, float, long long, int);
double apply(function f, int n) { return f ? f(n, n + 0.5, n + 0.25f, n + 1, n + 2) : -1; }
static double own(int a, double b, float c, long long d, int e) { return a + b + c + d + e; }
function give(int which) { return which ? own : 0; }
"""


def noted_calls() -> tuple[list[tuple[float, ...]], Callable[..., float]]:
    """A function that gives 2.5, and the list of the arguments of its calls."""
    got: list[tuple[float, ...]] = []

    def noting(*arguments: float) -> float:
        got.append(arguments)
        return 2.5

    return got, noting


def test_functions_of_ctypes_are_passed_and_returned():
    """A callback that ctypes has made is called by the code, and a function that the code returns by Python."""
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_double, ctypes.c_int, ctypes.c_double, ctypes.c_float, ctypes.c_longlong, ctypes.c_int
    )
    with jitlink.load(windows(CALLBACKS)) as library:
        apply = library.function("apply", ctypes.c_double, [prototype, ctypes.c_int])
        got, noting = noted_calls()
        callback = prototype(noting)
        assert apply(callback, 3) == 2.5
        assert got == [(3, 3.5, 3.25, 4, 5)]
        own = library.function("give", prototype, [ctypes.c_int])(1)
        assert own(1, 2.0, 3.0, 4, 5) == 15
        # A function of the code comes back as itself, and not through two bridges.
        assert apply(own, 1) == 1 + 1.5 + 1.25 + 2 + 3
        assert not library.function("give", prototype, [ctypes.c_int])(0)


def test_functions_of_cffi_are_passed_and_returned():
    """The same with callbacks and function pointers of cffi."""
    with jitlink.load(windows(CALLBACKS)) as library:
        library.cdef(
            "typedef double (*function)(int, double, float, long long, int);"
            "double apply(function f, int n); function give(int which);"
        )
        got, noting = noted_calls()
        callback = library.ffi.callback("double(int, double, float, long long, int)", noting)
        assert library.apply(callback, 3) == 2.5
        assert got == [(3, 3.5, 3.25, 4, 5)]
        assert library.give(1)(1, 2.0, 3.0, 4, 5) == 15
        assert library.apply(library.give(1), 1) == 8.75
        assert library.apply(library.ffi.NULL, 1) == -1
        with pytest.raises(TypeError):
            library.apply(library.ffi.callback("int(int)", lambda x: x), 1)
        assert library["apply"].cffi("double(*)(void *, int)")(library.ffi.NULL, 1) == -1


def test_more_callbacks_than_fit_a_page_are_served():
    """Entries are made in pages, and another page is made when one is full."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    with jitlink.load(windows("int apply(int (*f)(int), int x) { return f(x); }")) as library:
        apply = library.function("apply", ctypes.c_int, [prototype, ctypes.c_int])
        callbacks = [prototype(lambda x, n=number: x + n) for number in range(200)]
        assert [apply(each, 1000) for each in callbacks] == [1000 + number for number in range(200)]


# Both directions between linked code


def test_elf_code_calls_coff_code_by_declared_types():
    """Other linked code reaches functions of Microsoft's convention through entries too."""
    with jitlink.Session() as session:
        code = session.dylib("coff").add(windows("double mixed(int a, double b, long long c) { return a + b * c; }"))
        caller = toolchain.zig_cc(
            "double mixed(int, double, long long); double call(void) { return mixed(1, 2.5, 4); }", "-O1", target=LINUX
        )
        native = session.dylib("elf").add(caller).link_against(code)
        with pytest.raises(LinkFailure, match="whose types must be known: mixed"):
            native.link()
        native.link_against(jitlink.typed(code, "double mixed(int, double, long long);"))
        assert native["call"].ctypes(ctypes.c_double)() == 11


def test_code_of_one_convention_needs_no_bridge():
    """COFF code calls COFF code of another dylib as it is, with nothing declared, and reads its data."""
    with jitlink.Session() as session:
        first = session.dylib("a").add(windows("int value = 5; int twice(int x) { return 2 * x; }"))
        second = session.dylib("b").add(
            windows("extern __declspec(dllimport) int value; int twice(int); int f(void) { return twice(value); }")
        )
        second.link_against(first)
        assert second["f"].ctypes()() == 10


def test_data_of_libraries_is_reached_as_it_is():
    """Variables of other dylibs and of the process have no convention."""
    with jitlink.Session() as session:
        native = session.dylib("a").add(toolchain.zig_cc("int value = 5;", target=LINUX))
        code = session.dylib("b").add(windows("extern __declspec(dllimport) int value; int f(void) { return value; }"))
        code.link_against(native)
        assert code["f"].ctypes()() == 5


def test_links_of_both_conventions_share_a_dylib():
    """A later link of the other convention sees the data of an earlier one, and is refused its functions."""
    with jitlink.Session() as session:
        dylib = session.dylib("a").add(windows("int value = 5; int twice(int x) { return 2 * x; }"))
        dylib.link()
        dylib.add(toolchain.zig_cc("extern int value; int *f(void) { return &value; }", "-fPIC", target=LINUX))
        assert dylib["f"].ctypes(ctypes.c_void_p)() == dylib["value"].address
        dylib.add(toolchain.zig_cc("int twice(int); int g(void) { return twice(2); }", "-fPIC", target=LINUX))
        with pytest.raises(LinkFailure, match="whose types must be known: twice"):
            dylib.link()
    with jitlink.Session() as session:
        dylib = session.dylib("a").add(
            toolchain.zig_cc("int value = 5; int twice(int x) { return 2 * x; }", target=LINUX)
        )
        dylib.link()
        dylib.add(windows("extern int value; int f(void) { return value; }"))
        assert dylib["f"].ctypes()() == 5
        dylib.add(windows("int twice(int); int g(void) { return twice(2); }"))
        with pytest.raises(LinkFailure, match="whose types must be known: twice"):
            dylib.link()


# What is refused


def test_functions_of_unknown_types_are_refused_by_name():
    """A function of which nothing says how it is called is refused when the code is linked, all of them at once."""
    source = (
        "double lgamma_r(double, int *); int ffs(int); int f(void) { int s; return (int)lgamma_r(3, &s) + ffs(8); }"
    )
    with pytest.raises(
        LinkFailure, match=r"whose types must be known: (ffs, lgamma_r|lgamma_r, ffs)\. Declare them in C"
    ):
        jitlink.load(windows(source))
    declared = jitlink.typed(jitlink.process(), "double lgamma_r(double, int *); int ffs(int);")
    with jitlink.load(windows(source), link_against=[declared]) as library:
        assert library.function("f")() == int(math.lgamma(3)) + 4


def test_a_number_is_taken_as_it_is():
    """An address that the caller gives as a number is code of the same convention, or data."""
    with jitlink.load(windows("int twice(int x) { return 2 * x; }")) as first:
        address = first["twice"].address
        second = jitlink.load(windows("int twice(int); int f(void) { return twice(21); }"), define={"twice": address})
        assert second.function("f")() == 42
        second.close()


@pytest.mark.parametrize(
    ("declaration", "refused"),
    [
        ("struct pair { int a, b; }; int f(struct pair p);", "struct pair"),
        ("struct pair { int a, b; }; struct pair f(void);", "struct pair"),
        ("int f(int n, ...);", "needs all types"),
        ("long double f(void);", "long double"),
    ],
)
def test_types_that_no_bridge_carries_are_refused(declaration, refused):
    """Structures by value, variable arguments and long double are refused by name, before any call."""
    with jitlink.load(windows("int f(void) { return 1; }")) as library:
        library.cdef(declaration)
        with pytest.raises(UnsupportedInput, match=refused):
            library.f  # noqa: B018 - looking the function up is what is refused
    with pytest.raises(UnsupportedInput, match=refused):
        jitlink.typed(jitlink.process(), declaration)


def test_structures_of_ctypes_are_refused_by_value():
    """A structure by value is refused by its name; a pointer to it is passed."""

    class Pair(ctypes.Structure):
        _fields_ = (("a", ctypes.c_int), ("b", ctypes.c_int))

    with jitlink.load(windows("struct pair { int a, b; }; int f(struct pair *p) { return p->a - p->b; }")) as library:
        with pytest.raises(UnsupportedInput, match="Pair cannot be passed by value"):
            library.function("f", ctypes.c_int, [Pair])
        assert library.function("f", ctypes.c_int, [ctypes.POINTER(Pair)])(Pair(5, 3)) == 2


def test_undeclared_arguments_are_refused():
    """ctypes passes further arguments by guess; a bridge has no place for them."""
    with (
        jitlink.load(windows("int f(int x) { return x; }")) as library,
        pytest.raises(TypeError, match="takes 0 arguments"),
    ):
        library.function("f")(1)


def test_declarations_that_cannot_be_read_are_refused():
    """What cffi cannot read is a UsageError."""
    with pytest.raises(UsageError, match="the declarations cannot be read"):
        jitlink.typed(jitlink.process(), "this is no C")


def test_closed_code_is_not_called():
    """After the close, functions that go in through entries raise ClosedError like others."""
    library = jitlink.load(windows("int f(int x) { return x; }"))
    library.cdef("int f(int);")
    by_ctypes, by_cffi = library.function("f", ctypes.c_int, [ctypes.c_int]), library.f
    assert by_ctypes(3) == by_cffi(3) == 3
    library.close()
    for function in (by_ctypes, by_cffi):
        with pytest.raises(jitlink.ClosedError):
            function(3)


def test_typed_calls_by_debug_information_go_in_through_entries():
    """A function whose types DWARF gives is called like others; one that takes functions asks for a declaration."""
    source = "double f(int a, double b, long c) { return a + b + c; } int g(int (*h)(int)) { return h(1); }"
    with jitlink.load(windows(source, "-gdwarf-4")) as library:
        assert library.f(1, 2.5, -3) == 0.5
        with pytest.raises(UntypedSymbol, match="another calling convention"):
            library.g(lambda x: x)


# The bridges themselves


def test_variable_arguments_go_one_way_only():
    """Only callers of Microsoft's convention leave their further arguments where a callee finds them."""
    assert bridge_from_microsoft(signature("p.->i"))
    with pytest.raises(ValueError, match="further arguments"):
        bridge_to_microsoft(signature("p.->i"))


def test_signatures_are_read_from_types():
    """A long of C is that of Windows in declarations, and what its size says in ctypes, which has no other."""
    declared = declared_signatures("long f(unsigned long, size_t, char, _Bool, enum { A } e, double *);")
    assert str(declared["f"]) == "LQbBIQ->l"
    kind = signature_of_ctypes(None, (ctypes.c_bool, ctypes.c_char_p, ctypes.c_uint16, ctypes.c_size_t, ctypes.c_float))
    assert str(kind) == "BQHQf->v"
    with pytest.raises(ValueError, match="no register holds"):
        signature("x->i")

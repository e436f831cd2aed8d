"""Calls follow the conventions of each platform, as clang follows them.

Functions of many signatures, chosen at random but the same in every run, are compiled for each platform.
Each stores what it is given as bytes and returns bytes that it was given before; so both directions are
compared with what the compiler has made of the signature.
"""

from __future__ import annotations

import ctypes
import random
from functools import cache
from typing import Any

import pytest

from jitlink.errors import UnsupportedInput
from jitlink.execution.c_types import DOUBLE, FLOAT, INT, CType, Kind
from jitlink.execution.conventions.aarch64 import AAPCS64
from jitlink.execution.conventions.riscv64 import LP64, LP64D
from jitlink.execution.conventions.x86_64 import SYSTEM_V_X64
from jitlink.execution.handles import EmulatedLibrary
from jitlink.execution.in_process import refuse_other_convention
from tests.execution.platforms import PLATFORMS, emulated

pytest.importorskip("unicorn")

SIGNATURES = 60
MOST_ARGUMENTS = 12
SMALL = 4
ROOM = 1024


def structure(name: str, *fields: tuple[str, Any]) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def union(name: str, *fields: tuple[str, Any]) -> Any:
    return type(name, (ctypes.Union,), {"_fields_": fields})


SCALARS = {
    "signed char": ctypes.c_int8,
    "unsigned char": ctypes.c_uint8,
    "short": ctypes.c_int16,
    "unsigned short": ctypes.c_uint16,
    "int": ctypes.c_int32,
    "unsigned": ctypes.c_uint32,
    "long long": ctypes.c_int64,
    "unsigned long long": ctypes.c_uint64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
AGGREGATES = {
    "struct { char a; }": structure("OneChar", ("a", ctypes.c_char)),
    "struct { short a; char b; }": structure("ShortChar", ("a", ctypes.c_int16), ("b", ctypes.c_int8)),
    "struct { char a[3]; }": structure("ThreeChars", ("a", ctypes.c_int8 * 3)),
    "struct { int a, b; }": structure("TwoInts", ("a", ctypes.c_int), ("b", ctypes.c_int)),
    "struct { char a[12]; }": structure("TwelveChars", ("a", ctypes.c_int8 * 12)),
    "struct { long long a, b; }": structure("TwoLongs", ("a", ctypes.c_int64), ("b", ctypes.c_int64)),
    "struct { long long a[3]; }": structure("ThreeLongs", ("a", ctypes.c_int64 * 3)),
    "struct { float a; }": structure("OneFloat", ("a", ctypes.c_float)),
    "struct { float a, b; }": structure("TwoFloats", ("a", ctypes.c_float), ("b", ctypes.c_float)),
    "struct { float a[3]; }": structure("ThreeFloats", ("a", ctypes.c_float * 3)),
    "struct { float a[4]; }": structure("FourFloats", ("a", ctypes.c_float * 4)),
    "struct { float a[5]; }": structure("FiveFloats", ("a", ctypes.c_float * 5)),
    "struct { double a; }": structure("OneDouble", ("a", ctypes.c_double)),
    "struct { double a, b; }": structure("TwoDoubles", ("a", ctypes.c_double), ("b", ctypes.c_double)),
    "struct { double a[4]; }": structure("FourDoubles", ("a", ctypes.c_double * 4)),
    "struct { int a; float b; }": structure("IntFloat", ("a", ctypes.c_int), ("b", ctypes.c_float)),
    "struct { double a; int b; }": structure("DoubleInt", ("a", ctypes.c_double), ("b", ctypes.c_int)),
    "struct { float a; double b; }": structure("FloatDouble", ("a", ctypes.c_float), ("b", ctypes.c_double)),
    "struct { char *a; double b; char c; }": structure(
        "Mixed", ("a", ctypes.c_void_p), ("b", ctypes.c_double), ("c", ctypes.c_int8)
    ),
    "union { int a; float b; }": union("IntOrFloat", ("a", ctypes.c_int), ("b", ctypes.c_float)),
    "union { double a; float b[2]; }": union("DoubleOrFloats", ("a", ctypes.c_double), ("b", ctypes.c_float * 2)),
}
TYPES = SCALARS | AGGREGATES
NAME_OF = {c: c if c in SCALARS else f"A{number}" for number, c in enumerate(TYPES)}
PROMOTED = ("int", "unsigned", "long long", "double", "struct { int a, b; }", "struct { double a, b; }")


@cache
def signatures() -> list[tuple[str, list[str]]]:
    """The result and the arguments of each function, as C types."""
    choose = random.Random(1)
    every = [(c, [c, "int", c, "double", c]) for c in TYPES]
    chosen = [
        (choose.choice(list(TYPES)), choose.choices(list(TYPES), k=choose.randint(0, MOST_ARGUMENTS)))
        for _ in range(SIGNATURES)
    ]
    # Many small arguments fill the registers and then the stack, side by side.
    small = [c for c in TYPES if ctypes.sizeof(TYPES[c]) <= SMALL]
    crowded = [
        (choose.choice(small), choose.choices(small, k=choose.randint(MOST_ARGUMENTS, 2 * MOST_ARGUMENTS)))
        for _ in range(SIGNATURES // 2)
    ]
    return every + chosen + crowded


@cache
def variadic_signatures() -> list[list[str]]:
    choose = random.Random(2)
    return [choose.choices(PROMOTED, k=choose.randint(1, MOST_ARGUMENTS)) for _ in range(SIGNATURES // 2)]


def value_of(c: str, choose: random.Random) -> Any:
    """A value of a type, without bytes of padding or payloads of NaN that a copy may change."""
    return filled(TYPES[c], choose)


def filled(kind: Any, choose: random.Random) -> Any:
    if issubclass(kind, ctypes.Union):
        value = kind()
        setattr(value, kind._fields_[0][0], filled(kind._fields_[0][1], choose))
        return value
    if issubclass(kind, ctypes.Structure):
        return kind(*(filled(field[1], choose) for field in kind._fields_))
    if issubclass(kind, ctypes.Array):
        return kind(*(filled(kind._type_, choose) for _ in range(kind._length_)))
    if kind in (ctypes.c_float, ctypes.c_double):
        return kind(choose.randint(-1000, 1000) / 4)
    if kind is ctypes.c_char:
        return kind(choose.randint(0, 255))
    return kind(choose.getrandbits(64))


def meaning(kind: Any, content: bytes) -> bytes:
    """The bytes of a value with its padding cleared, which nobody has to pass."""
    mask = spans(kind)
    return bytes(byte if at in mask else 0 for at, byte in enumerate(content))


@cache
def spans(kind: Any) -> frozenset[int]:
    """The offsets of the bytes that belong to members."""
    if not issubclass(kind, ctypes.Structure | ctypes.Union):
        return frozenset(range(ctypes.sizeof(kind)))
    starts = [(getattr(kind, name).offset, member) for name, member in kind._fields_]
    return frozenset(start + at for start, member in starts for at in spans(member))


def meanings(kinds: list[Any], content: bytes) -> list[bytes]:
    """Values one behind the other, each with its padding cleared."""
    found = []
    for kind in kinds:
        found.append(meaning(kind, content[: ctypes.sizeof(kind)]))
        content = content[ctypes.sizeof(kind) :]
    return found


def source() -> str:
    lines = ["typedef __builtin_va_list va_list;", "char seen[1024], give[1024];"]
    lines += [f"typedef {c} {NAME_OF[c]};" for c in AGGREGATES]
    lines.append("static void put(int at, const void *from, int size) { __builtin_memcpy(seen + at, from, size); }")
    for number, (result, arguments) in enumerate(signatures()):
        kinds = [NAME_OF[c] for c in arguments]
        declared = ", ".join(f"{kind} a{row}" for row, kind in enumerate(kinds)) or "void"
        lines.append(f"{NAME_OF[result]} take{number}({declared}) {{ int at = 0;")
        lines += [f"put(at, &a{row}, sizeof a{row}); at += sizeof a{row};" for row in range(len(kinds))]
        lines.append(f"{NAME_OF[result]} r; __builtin_memcpy(&r, give, sizeof r); return r; }}")
        lines.append(f"void make{number}({NAME_OF[result]} (*f)({', '.join(kinds) or 'void'})) {{ int at = 0;")
        for row, kind in enumerate(kinds):
            lines.append(f"{kind} a{row}; __builtin_memcpy(&a{row}, give + at, sizeof a{row}); at += sizeof a{row};")
        lines.append(f"{NAME_OF[result]} r = f({', '.join(f'a{row}' for row in range(len(kinds)))});")
        lines.append("__builtin_memcpy(seen, &r, sizeof r); }")
    for number, arguments in enumerate(variadic_signatures()):
        lines.append(
            f"int rest{number}(double first, ...) {{ va_list list; __builtin_va_start(list, first); int at = 0;"
        )
        lines.append("put(at, &first, 8); at += 8;")
        for row, c in enumerate(arguments):
            lines.append(f"{NAME_OF[c]} a{row} = __builtin_va_arg(list, {NAME_OF[c]});")
            lines.append(f"put(at, &a{row}, sizeof a{row}); at += sizeof a{row};")
        lines.append("__builtin_va_end(list); return at; }")
    return "\n".join(lines)


@pytest.fixture(scope="module", params=PLATFORMS)
def library(request):
    # memcpy is the compiler's own, not a call.
    with emulated(source(), request.param, "-O2", "-w") as library:
        yield library


def same(kind: Any, found: Any, wanted: Any) -> bool:
    """Whether what Python was given is a value: a number, or a structure apart from its padding."""
    if issubclass(kind, ctypes.Structure | ctypes.Union):
        return meaning(kind, bytes(found)) == meaning(kind, bytes(wanted))
    return bool(found == wanted.value)


def seen(library: EmulatedLibrary, size: int) -> bytes:
    return library.memory.read(library["seen"].address, size)


def give(library: EmulatedLibrary, content: bytes) -> None:
    library.memory.write(library["give"].address, content.ljust(ROOM, b"\0"))


def test_arguments_and_results_are_where_the_compiler_expects_them(library):
    """A function of any signature gets the bytes of every argument, and its result comes back whole."""
    choose = random.Random(3)
    for number, (result, arguments) in enumerate(signatures()):
        values = [value_of(c, choose) for c in arguments]
        wanted = value_of(result, choose)
        give(library, bytes(wanted))
        function = library.function(f"take{number}", TYPES[result], [TYPES[c] for c in arguments])
        returned = function(*values)
        content = b"".join(map(bytes, values))
        kinds = [TYPES[c] for c in arguments]
        assert meanings(kinds, seen(library, len(content))) == meanings(kinds, content), (number, result, arguments)
        assert same(TYPES[result], returned, wanted), (number, result, arguments)


def test_python_functions_get_what_the_compiler_passes(library):
    """A Python function that code calls through a pointer gets every argument, and its result arrives."""
    choose = random.Random(4)
    for number, (result, arguments) in enumerate(signatures()):
        values = [value_of(c, choose) for c in arguments]
        wanted = value_of(result, choose)
        give(library, b"".join(map(bytes, values)))
        got: list[Any] = []

        def answer(*given: Any, got: list[Any] = got, wanted: Any = wanted) -> Any:
            got.extend(given)
            return getattr(wanted, "value", wanted)

        kind = ctypes.CFUNCTYPE(TYPES[result], *(TYPES[c] for c in arguments))
        library.function(f"make{number}", None, [kind])(answer)
        for c, given, value in zip(arguments, got, values, strict=True):
            assert same(TYPES[c], given, value), (number, result, arguments)
        [returned] = meanings([TYPES[result]], seen(library, ctypes.sizeof(wanted)))
        assert returned == meaning(TYPES[result], bytes(wanted)), (number, result, arguments)


def test_arguments_behind_an_ellipsis_are_where_va_arg_looks(library):
    """Further arguments than the declared ones are passed as variadic ones, after C's promotions."""
    choose = random.Random(5)
    for number, arguments in enumerate(variadic_signatures()):
        values = [value_of(c, choose) for c in arguments]
        library.function(f"rest{number}", ctypes.c_int, [ctypes.c_double])(0.25, *values)
        content = b"".join(map(bytes, values))
        kinds = [TYPES[c] for c in arguments]
        assert meanings(kinds, seen(library, 8 + len(content))[8:]) == meanings(kinds, content), (number, arguments)


WIDENING = """
long long widened(int a, short b, signed char c, unsigned d, unsigned short e, unsigned char f, _Bool g) {
    return (long long)a + b + c + d + e + f + g;
}
long long results(int (*i)(void), short (*s)(void), unsigned char (*b)(void), unsigned (*u)(void)) {
    return (long long)i() + s() + b() + u();
}
"""


@pytest.mark.parametrize("platform", PLATFORMS)
def test_small_integers_are_extended_where_code_relies_on_it(platform):
    """Code that widens its arguments, or results of Python, without an instruction gets the right number."""
    kinds = [ctypes.c_int, ctypes.c_short, ctypes.c_int8, ctypes.c_uint, ctypes.c_ushort, ctypes.c_uint8, ctypes.c_bool]
    with emulated(WIDENING, platform, "-O2") as library:
        widened = library.function("widened", ctypes.c_int64, kinds)
        for values in ((-5, -6, -7, 1, 2, 3, True), (-(1 << 31), -(1 << 15), -128, (1 << 32) - 1, 65535, 255, False)):
            assert widened(*values) == sum(values)
        types = [ctypes.c_int, ctypes.c_short, ctypes.c_uint8, ctypes.c_uint]
        results = library.function("results", ctypes.c_int64, [ctypes.CFUNCTYPE(kind) for kind in types])
        assert results(lambda: -5, lambda: -6, lambda: 200, lambda: 1 << 31) == 189 + (1 << 31)


def test_values_of_sixteen_bytes_go_into_even_pairs_where_the_abi_says_so():
    """AAPCS64 6.8.2 C.10 aligns them always; the RISC-V psABI only behind an ellipsis; System V never."""
    pair = CType(Kind.INTEGER, 16, 16, signed=True)

    def registers(convention, *, named):
        cursor = convention.cursor(variadic=not named)
        cursor.place(INT)
        return [piece.register for piece in cursor.place(pair, named=named).pieces]

    assert registers(AAPCS64, named=True) == ["x2", "x3"]
    assert registers(LP64D, named=True) == ["a1", "a2"]
    assert registers(LP64D, named=False) == ["a2", "a3"]
    assert registers(SYSTEM_V_X64, named=True) == ["rsi", "rdx"]


def test_without_floating_point_registers_numbers_go_into_general_ones():
    """LP64 passes a double, and a structure of one, as integers of their size."""
    cursor = LP64.cursor()
    assert [cursor.place(kind).pieces[0].register for kind in (DOUBLE, FLOAT, INT)] == ["a0", "a1", "a2"]
    result = LP64.result(DOUBLE)
    assert result is not None
    assert result.pieces[0].register == "a0"


@pytest.mark.parametrize(
    ("machine", "format", "system", "allowed"),
    [
        ("aarch64", "elf", "linux", True),
        ("aarch64", "macho", "darwin", True),
        ("aarch64", "coff", "win32", True),
        ("aarch64", "macho", "linux", False),
        ("aarch64", "coff", "linux", False),
        ("aarch64", "coff", "darwin", False),
        ("x86_64", "macho", "linux", True),
        ("x86_64", "coff", "linux", True),
    ],
)
def test_code_of_another_convention_does_not_run_in_the_process(
    machine: str, format: str, system: str, allowed: bool
) -> None:
    """On AArch64 Apple and Microsoft pass variable arguments in ways of their own; on x86-64 Apple follows System V."""
    if allowed:
        refuse_other_convention(machine, format, system)
        return
    with pytest.raises(UnsupportedInput, match=r"calling convention for AArch64.*emulate=True"):
        refuse_other_convention(machine, format, system)

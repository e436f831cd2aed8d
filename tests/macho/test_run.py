"""x86-64 Mach-O objects run in this process: System V is their convention too."""

from __future__ import annotations

import ctypes
import platform

import pytest

import jitlink
from jitlink import UndefinedSymbols, UnsupportedInput
from tests import programs
from tests.macho.objects import Built, Section, Symbol, assembled, compiled, relocation, undefined
from tests.macho.universal_files import universal
from tests.toolchain import archive_of, zig_cc

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is for x86-64")

LEVELS = ("-O0", "-O2", "-Os")
INT, DOUBLE, POINTER = ctypes.c_int, ctypes.c_double, ctypes.c_void_p

PROGRAM = """
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>

extern int outside;
int common[10];
static int state = 3;
int exported = 5;
__attribute__((weak)) int weak(int x) { return x + 1; }
__attribute__((visibility("hidden"))) int hidden = 7;
int *const pointers[] = { &exported, &state, common, &outside, &hidden };
static const char *const words[] = { "zero", "one", "two" };
static int last(int x) { return x - 1; }
int (*function)(int) = last;

int reach(int i) { return *pointers[i]; }
const char *word(int i) { return words[i]; }
int choose(int x) {
    switch (x) { case 0: return 10; case 1: return 25; case 2: return 37; case 3: return 41; case 4: return 59;
                 case 5: return weak(x); case 6: return function(x); default: return -1; }
}
double polynomial(double x) { return (x * 3.25 + 1.5) * x - 0.125; }
int sum(int count, ...) {
    va_list list; int total = 0;
    va_start(list, count);
    for (int i = 0; i < count; i++) total += va_arg(list, int);
    va_end(list);
    return total;
}
int variadic(void) { return sum(8, 1, 2, 3, 4, 5, 6, 7, 8); }
int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
int formatted(char *text, int x) { return sprintf(text, "%d and %s", x, words[x]); }
int text_length(const char *text) { return (int)strlen(text); }
void fill(int *numbers, long count) { for (long i = 0; i < count; i++) numbers[i] = 0x01020304; }
int set_error(void) { errno = 42; return errno; }
void use(char *);
int large_frame(int n) { volatile char room[100000]; room[n] = 3; return room[n]; }
"""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("guard", ["-fno-stack-protector", "-fstack-protector-all"])
def test_a_c_program_computes_what_it_should(level, guard):
    """Pointers, tables, switches, floating point, varargs, recursion, commons, weak symbols, calls of libc."""
    outside = ctypes.c_int(100)
    with jitlink.load(compiled(PROGRAM, level, guard), define={"outside": outside}) as library:
        call = lambda name, *arguments: library.function(name, INT, [INT] * len(arguments))(*arguments)  # noqa: E731
        assert [call("reach", i) for i in range(5)] == [5, 3, 0, 100, 7]
        assert library.function("word", ctypes.c_char_p, [INT])(2) == b"two"
        assert [call("choose", x) for x in range(8)] == [10, 25, 37, 41, 59, 6, 5, -1]
        assert library.function("polynomial", DOUBLE, [DOUBLE])(2.0) == (2.0 * 3.25 + 1.5) * 2.0 - 0.125
        assert call("variadic") == 36
        assert call("fibonacci", 15) == 610
        text = ctypes.create_string_buffer(64)
        assert library.function("formatted", INT, [POINTER, INT])(text, 1) == len("1 and one")
        assert text.value == b"1 and one"
        assert library.function("text_length", INT, [ctypes.c_char_p])(b"12345") == 5
        numbers = (INT * 104)()
        library.function("fill", None, [POINTER, ctypes.c_long])(numbers, 103)
        assert set(numbers[:103]) == {0x01020304}
        assert numbers[103] == 0
        assert call("set_error") == 42
        assert call("large_frame", 99_999) == 3


@pytest.mark.parametrize("level", LEVELS)
def test_objects_see_each_other(level):
    """Two objects of one dylib: calls, data and weak symbols across them."""
    sources = [programs.source(f"linkage_{letter}.c") for letter in "ab"]
    elf = jitlink.load(*(zig_cc(source, level) for source in sources))
    macho = jitlink.load(*(compiled(source, level) for source in sources))
    with elf, macho:
        assert sorted(macho.dylib.symbols()) == sorted(elf.dylib.symbols())


def test_dylibs_of_two_formats_are_linked_against_each_other():
    """Between dylibs names are C names: ELF calls Mach-O, and Mach-O calls ELF."""
    with jitlink.Session() as session:
        elf, macho = session.dylib("elf"), session.dylib("macho")
        elf.add(zig_cc("int twice(int x) { return 2 * x; }", "-O2"))
        macho.add(compiled("int twice(int); int four(int x) { return 2 * twice(x); }", "-O2"))
        macho.link_against(elf)
        user = session.dylib("user")
        user.add(zig_cc("int four(int); int answer(void) { return four(10) + 2; }", "-O2"))
        user.link_against(macho)
        assert user["answer"].ctypes(INT)() == 42


def test_graphs_of_two_formats_do_not_become_one_dylib():
    """The error says what to do instead."""
    elf, macho = zig_cc("int one(void) { return 1; }"), compiled("int two(void) { return 2; }")
    with jitlink.Session() as session:
        with pytest.raises(UnsupportedInput, match="Give each format a dylib of its own"):
            session.dylib("at once").add(elf, macho)
        later = session.dylib("later").add(elf).add(macho)
        with pytest.raises(UnsupportedInput, match="Give each format a dylib of its own"):
            later.link()


# Life


LIFE = """
extern void note(int);
__attribute__((constructor)) static void first(void) { note(1); }
__attribute__((constructor)) static void second(void) { note(2); }
__attribute__((destructor)) static void last(void) { note(4); }
int atexit(void (*)(void));
static void handler(void) { note(3); }
int entry(void) { return atexit(handler); }
"""


def test_initialisers_run_on_load_and_handlers_on_close():
    """Constructors in their order; destructors, which are handlers on macOS, and atexit handlers, last first."""
    seen: list[int] = []
    note = ctypes.CFUNCTYPE(None, INT)(seen.append)
    library = jitlink.load(compiled(LIFE, "-O1"), define={"note": note})
    assert seen == [1, 2]
    assert library.function("entry", INT)() == 0
    library.close()
    assert seen == [1, 2, 3, 4]


def test_terminators_run_on_close():
    """Pointers in a section of type mod_term_funcs, as old compilers have them."""
    seen: list[int] = []
    note = ctypes.CFUNCTYPE(None)(lambda: seen.append(1))
    source = """
    .globl _entry
_entry: jmp _note
    .section __DATA,__mod_term_func,mod_term_funcs
    .p2align 3
    .quad _entry
    """
    library = jitlink.load(assembled(source), define={"note": note})
    assert seen == []
    library.close()
    assert seen == [1]


def test_initialisers_as_offsets():
    """A section of type init_func_offsets holds 32-bit distances from the Mach header, the start of the image."""
    seen: list[int] = []
    note = ctypes.CFUNCTYPE(None)(lambda: seen.append(1))
    jump = Section(content=b"\xe9" + bytes(4), relocations=[relocation(1, 2, symbol=1, relative=True, length=2)])
    offsets = Section(
        "__TEXT",
        "__init_offsets",
        bytes(4),
        [relocation(0, 5, symbol=2, length=2), relocation(0, 0, symbol=0, length=2)],
        flags=0x16,
    )
    symbols = [Symbol("_entry", 1, 0), undefined("_note"), undefined("__mh_dylib_header")]
    with jitlink.load(bytes(Built([jump, offsets], symbols)), define={"note": note}):
        assert seen == [1]


# Names


def test_names_without_an_underscore_have_the_byte_one_before_them():
    """_main is main in C; a raw name without the prefix is written as LLVM IR writes it."""
    source = """
    .globl _plain, verbatim, __under
_plain: movl $1, %eax
    ret
verbatim: movl $2, %eax
    ret
__under: movl $3, %eax
    ret
    """
    with jitlink.load(assembled(source)) as library:
        assert sorted(library.dylib.symbols()) == ["\x01verbatim", "_under", "plain"]
        assert [library.function(name, INT)() for name in ("plain", "\x01verbatim", "_under")] == [1, 2, 3]
        assert "verbatim" not in library
        location = library.dylib.session.symbolize(library["_under"].address)
        assert location is not None
        assert location.symbol == "_under"


def test_undefined_names_are_c_names():
    """What is missing is said as define= takes it."""
    with pytest.raises(UndefinedSymbols) as caught:
        jitlink.load(compiled("int nowhere_at_all(void); int f(void) { return nowhere_at_all(); }"))
    assert caught.value.names == ["nowhere_at_all"]


def test_variants_of_functions_of_macos_are_not_mistaken():
    """stat$INODE64 is not the stat of this system, and the error says why nobody has it."""
    source = ".globl _f\n_f: jmp _stat$INODE64\n"
    with pytest.raises(UndefinedSymbols) as caught:
        jitlink.load(assembled(source))
    assert caught.value.names == ["stat$INODE64"]
    assert "macOS" in str(caught.value)


def test_exports_are_c_names():
    """exports= names what is kept, and the raw names decide."""
    source = "int kept(void) { return 1; } int dropped(void) { return 2; }"
    with jitlink.load(compiled(source, "-O2"), exports=["kept"], dead_strip=True) as library:
        assert list(library.dylib.symbols()) == ["kept"]
        assert library.function("kept", INT)() == 1


# Symbols of the linker's


def test_bounds_of_sections_and_segments():
    """section$start$SEG$sect and its kin enclose the section, whose blocks lie side by side."""
    source = """
    extern int start __asm("section$start$__DATA$__set"), end __asm("section$end$__DATA$__set");
    extern char text __asm("segment$start$__TEXT"), text_end __asm("segment$end$__TEXT");
    extern char header __asm("__mh_dylib_header");
    extern char nothing __asm("section$start$__DATA$__none"), nothing_end __asm("section$end$__DATA$__none");
    __attribute__((used, section("__DATA,__set"))) static int one = 1;
    __attribute__((used, section("__DATA,__set"))) static int two = 2, three = 3;
    int other = 9;
    int total(void) { int sum = 0; for (int *p = &start; p < &end; p++) sum += *p; return sum + 0 * other; }
    int inside(void) { return &text <= (char *)total && (char *)total < &text_end && &header <= &text; }
    char *none(void) { return &nothing; } char *none_end(void) { return &nothing_end; }
    """
    for strip in (False, True):
        with jitlink.load(compiled(source, "-O1"), dead_strip=strip) as library:
            assert [library.function(name, INT)() for name in ("total", "inside")] == [6, 1]
            assert library.function("none", POINTER)() == library.function("none_end", POINTER)()


def test_second_names_mean_what_the_first_ones_mean():
    """N_INDR: a name for a function of another object, and one for a function of the process."""
    aliases = assembled(".globl _again, _length\n.set _again, _twice\n.set _length, _strlen\n")
    twice = compiled("int twice(int x) { return 2 * x; }")
    user = compiled(
        'int again(int); unsigned long length(const char *); int f(void) { return again(20) + length("ab"); }'
    )
    with jitlink.load(aliases, twice, user) as library:
        assert library.function("f", INT)() == 42
        assert library.function("again", INT, [INT])(4) == 8
        assert library["again"].address == library["twice"].address
        assert library.function("length", ctypes.c_size_t, [ctypes.c_char_p])(b"abc") == 3


def test_a_resolver_chooses_the_function():
    """.symbol_resolver (N_SYMBOL_RESOLVER) marks a function that returns the one that is meant."""
    source = """
    .globl _chosen
    .symbol_resolver _chosen
_chosen: leaq _real(%rip), %rax
    ret
_real: movl $42, %eax
    ret
    .globl _caller
_caller: jmp _chosen
    """
    with jitlink.load(assembled(source)) as library:
        assert library.function("chosen", INT)() == 42
        assert library.function("caller", INT)() == 42


# Archives and universal files


def test_members_of_archives_are_taken_by_c_names():
    """A static library in Apple's form: members that nothing asks for are left out."""
    members = {
        "one.o": compiled("int two(void); int one(void) { return two() + 1; }"),
        "two.o": compiled("int two(void) { return 41; }"),
        "bad.o": compiled("int nobody(void); int bad(void) { return nobody(); }"),
    }
    for form in ("darwin", "bsd", "gnu"):
        with jitlink.load(archive_of(members, form)) as library:
            assert library.function("one", INT)() == 42
            assert "nothing" not in library


def test_the_slice_of_this_machine_is_taken():
    """A universal file of objects, and one of archives."""
    source = "int answer(void) { return 42; }"
    slices = {"arm64": compiled(source, machine="aarch64"), "x86_64": compiled(source)}
    for wide in (False, True):
        with jitlink.load(universal(slices, wide=wide)) as library:
            assert library.function("answer", INT)() == 42
    archives = {machine: archive_of({"member.o": content}, "darwin") for machine, content in slices.items()}
    with jitlink.load(universal(archives)) as library:
        assert library.function("answer", INT)() == 42


# What is known of code


def test_debug_sections_serve_lines_and_types():
    """DWARF of Mach-O objects gives source lines to addresses, and prototypes to calls."""
    source = "int twice(int x) { return 2 * x; }\ndouble area(double r) {\n  return r * r * 3.0;\n}\n"
    content = compiled(source, "-O0", "-g")
    with jitlink.Session() as session:
        dylib = session.dylib().add(content, debug=True)
        location = session.symbolize(dylib["area"].address + 8)
        assert location is not None
        assert location.symbol == "area"
        assert location.line in (2, 3)
    with jitlink.load(content) as library:
        assert library.twice(21) == 42
        assert library.area(2.0) == 12.0

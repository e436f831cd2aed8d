"""Prototypes: what debug information says of a function is what its source says, and what GDB reads."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess

import pytest

import jitlink
from jitlink.calls import typed
from jitlink.calls.debug_info import DebugInfo, debug_info_of
from jitlink.graph import LinkGraph
from tests import toolchain
from tests.calls import sources

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

SOURCE = """
typedef unsigned long size;
struct point { int x, y; };
enum colour { RED };
typedef int (*callback)(const struct point *, void *);
const char *first(const char *const *list, size count) { return count ? *list : 0; }
struct point moved(struct point p, int by[2]) { p.x += by[0]; return p; }
void visit(callback f, volatile int *flag, enum colour c, unsigned char byte) { *flag = f(0, 0) + c + byte; }
int (*choose(int which))(int) { (void)which; return 0; }
double nothing(void) { return 0; }
int old_style() { return 1; }
"""
EXPECTED = {
    "first": "const char *first(const char *const *list, size count)",
    "moved": "struct point moved(struct point p, int *by)",
    "visit": "void visit(callback f, volatile int *flag, enum colour c, unsigned char byte)",
    "choose": "int (*choose(int which))(int)",
    "nothing": "double nothing(void)",
}


def compiled(*flags: str) -> bytes:
    return toolchain.zig_cc(SOURCE, "-g", *flags)


def first_line(function) -> str:
    return str(function.__doc__).partition("\n")[0]


@pytest.mark.parametrize("version", [4, 5])
def test_a_prototype_reads_as_it_was_written(version):
    """The first line of the documentation is the declaration in C, with typedefs and qualifiers."""
    with jitlink.load(compiled(f"-gdwarf-{version}")) as library:
        assert {name: first_line(getattr(library, name)) for name in EXPECTED} == EXPECTED


def test_a_prototype_is_what_gdb_reads(tmp_path):
    """GDB's ptype of each function gives the same result and parameter types."""
    toolchain.needs("gdb")
    path = tmp_path / "source.o"
    path.write_bytes(compiled())
    with jitlink.load(path) as library:
        for name in EXPECTED:
            command = ["gdb", "-batch", "-nx", "-ex", f"whatis {name}", str(path)]
            said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
            signature = inspect.signature(getattr(library, name))
            types = [each.annotation for each in signature.parameters.values()]
            expected = re.sub(r"^type = ", "", said.strip())
            if "(*(" in expected:
                continue
            written = f"{signature.return_annotation} ({', '.join(types) or 'void'})"
            assert written.replace(" ", "") == expected.replace(" ", "")


def test_signature_and_help_show_the_prototype():
    """inspect.signature has names and C types; help() has the prototype and the object."""
    with jitlink.load(compiled()) as library:
        signature = inspect.signature(library.first)
        assert list(signature.parameters) == ["list", "count"]
        assert signature.parameters["count"].annotation == "size"
        assert signature.return_annotation == "const char *"
        text = pydoc.plain(pydoc.render_doc(library.first))
        assert EXPECTED["first"] in text
        assert "(bytes)" in text


def test_a_function_without_a_parameter_list_takes_no_arguments():
    """int f() of old C is called without arguments, and takes none."""
    with jitlink.load(compiled()) as library:
        assert library.old_style() == 1
        with pytest.raises(TypeError, match="takes 0 positional arguments"):
            library.old_style(1)


@pytest.mark.parametrize("way", sources.WAYS)
def test_every_function_has_a_type_or_a_reason(way):
    """Of all functions of the source only those that no Python value fits are refused, each with the reason."""
    reasons = {
        "packed_sum": "packed",
        "variadic": "variable arguments.*cdef",
        "huge": "16 bytes",
    }
    compile, *flags = way
    with jitlink.load(compile(*flags)) as library:
        for name in set(library.dylib.symbols()):
            if name in reasons:
                with pytest.raises(jitlink.UntypedSymbol, match=f"{name}.*{reasons[name]}"):
                    getattr(library, name)
            else:
                getattr(library, name)


def test_names_that_python_cannot_have_are_replaced():
    """Keywords, underscores and names that are not ASCII become argument_N; names of builtins stay."""
    source = "int f(int class, int _x, int äh, int str, int lambda) { return class + _x + äh + str + lambda; }"
    with jitlink.load(toolchain.zig_cc(source, "-g")) as library:
        names = list(inspect.signature(library.f).parameters)
        assert names == ["argument_1", "argument_2", "argument_3", "str", "argument_5"]
        assert library.f(1, 2, 3, str=4, argument_5=5) == 15


def test_without_debug_information_a_function_says_what_to_do():
    """Nothing is guessed: the error says that the type is not known and how to give it."""
    with jitlink.load(toolchain.zig_cc(SOURCE)) as library:
        with pytest.raises(jitlink.UntypedSymbol, match=r"nothing is linked, but its type is not known: declare it"):
            library.nothing()
        with pytest.raises(jitlink.UntypedSymbol, match="declare it with cdef"):
            library["nothing"]()
        library.cdef("double nothing(void);")
        assert library.nothing() == 0


def test_a_declaration_goes_before_debug_information():
    """What cdef says holds, also where the function was called before by its debug information."""
    with jitlink.load(toolchain.zig_cc("int f(int x) { return x; }", "-g")) as library:
        assert library.f(-1) == -1
        library.cdef("unsigned f(unsigned);")
        assert library.f(0xFFFFFFFF) == 0xFFFFFFFF


def test_debug_information_is_read_when_somebody_asks(monkeypatch):
    """Loading reads none; a typed call reads that of its own object, and of no other."""
    read: list[int] = []

    def noted(graph: LinkGraph, input: int) -> DebugInfo:
        read.append(input)
        return debug_info_of(graph, input)

    monkeypatch.setattr(typed, "debug_info_of", noted)
    objects = [toolchain.zig_cc(f"int {name}(int x) {{ return x; }}", "-g") for name in ("one", "two", "three")]
    with jitlink.load(*objects) as library:
        assert library["one"].address
        assert read == []
        assert library.two(5) == 5
        assert library.two(6) == 6
        assert read == [2]


def test_objects_of_archives_and_of_later_links_are_found():
    """The debug information of an archive member, and of an object that is added later, is that object's own."""
    members = {f"{name}.o": toolchain.zig_cc(f"long {name}(long x) {{ return x * {n}; }}", "-g") for n, name in
               enumerate(("none", "once", "twice"))}  # fmt: skip
    with jitlink.load(toolchain.archive_of(members)) as library:
        assert library.twice(21) == 42
        assert library.once(42) == 42
        library.dylib.add(toolchain.zig_cc("double half(double x) { return x / 2; }", "-g"))
        assert library.half(3) == 1.5
        assert "(none.o)" not in library.twice.__doc__
        assert "(twice.o)" in library.twice.__doc__


def test_functions_beside_thread_locals_have_types():
    """Debug information that refers to thread-locals is read; these themselves are declared, one for each thread."""
    source = "_Thread_local int local = 5; int *where(void) { return &local; } int add(int x) { return x + 1; }"
    with jitlink.load(toolchain.zig_cc(source, "-g")) as library:
        assert library.add(1) == 2
        assert library.where()[0] == 5
        with pytest.raises(jitlink.UntypedSymbol, match="local is linked, but its type is not known"):
            library.local  # noqa: B018
        library.cdef("extern int local;")
        library.local = 9
        assert library.where()[0] == 9


def test_debug_information_that_is_compressed_is_read():
    """Objects of gcc -gz have compressed debug sections."""
    with jitlink.load(toolchain.compile_with(SOURCE, "-g", "-gz=zlib", compiler="gcc")) as library:
        assert first_line(library.moved) == EXPECTED["moved"]

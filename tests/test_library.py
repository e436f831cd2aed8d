"""Libraries: linked functions and variables under their names, by C declarations or by ctypes types."""

from __future__ import annotations

import ctypes

import pytest

import jitlink
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

SOURCE = """
    typedef struct { int x; double y; } pair;
    int add(int a, int b) { return a + b; }
    double scale(pair p, double by) { return (p.x + p.y) * by; }
    pair made(int x) { pair p = {x, x * 0.5}; return p; }
    const char *greeting(void) { return "hello"; }
    int counter = 3;
    pair shared = {1, 2.5};
    int table[4] = {10, 20, 30, 40};
    int apply(int (*f)(int), int x) { return f(x) + 1; }
    int close(int x) { return x * 100; }
    void undeclared(void) {}
"""
DECLARATIONS = """
    typedef struct { int x; double y; } pair;
    int add(int, int);
    double scale(pair, double);
    pair made(int);
    const char *greeting(void);
    extern int counter;
    extern pair shared;
    extern int table[4];
    int apply(int (*)(int), int);
    int absent(int);
"""


@pytest.fixture
def library():
    with jitlink.load(toolchain.zig_cc(SOURCE)) as library:
        library.cdef(DECLARATIONS)
        yield library


def test_declared_functions_are_called_by_name(library):
    """Arguments and results are converted as the declaration says: numbers, structures, strings, callbacks."""
    ffi = library.ffi
    assert library.add(2, 40) == 42
    assert library.scale(ffi.new("pair *", {"x": 1, "y": 0.5})[0], 4.0) == 6.0
    made = library.made(3)
    assert (made.x, made.y) == (3, 1.5)
    assert ffi.string(library.greeting()) == b"hello"
    assert library.apply(ffi.callback("int(int)", lambda x: x * 2), 20) == 41
    with pytest.raises(TypeError):
        library.add(1)
    with pytest.raises(OverflowError):
        library.add(1, 1 << 40)


def test_declared_variables_are_read_and_set(library):
    """A variable is what the code sees at this moment; assignment changes it for the code."""
    assert library.counter == 3
    library.counter = 9
    assert ctypes.c_int.from_address(library["counter"].address).value == 9
    assert library.counter == 9
    library.shared.x = 5
    assert (library.shared.x, library.shared.y) == (5, 2.5)
    assert list(library.table) == [10, 20, 30, 40]
    library.table[2] = 31
    assert library.table[2] == 31


def test_a_function_cannot_be_assigned(library):
    """Assigning to a name that is declared as a function is refused."""
    with pytest.raises(AttributeError, match="add is a function"):
        library.add = 1
    assert library.add(1, 1) == 2


def test_names_without_a_type_or_a_definition_say_so(library):
    """A linked name without a declaration asks for one; a declared name that is not linked is not found."""
    with pytest.raises(AttributeError, match=r"undeclared.*declare it with cdef"):
        library.undeclared()
    with pytest.raises(AttributeError, match="no symbol 'nowhere'"):
        library.nowhere()
    with pytest.raises(jitlink.SymbolNotFound, match="absent"):
        library.absent(1)
    with pytest.raises(AttributeError):
        library.nowhere = 1


def test_own_attributes_go_before_symbols_and_items_are_always_symbols(library):
    """library.close closes; library["close"] is the C function of that name."""
    assert library["close"].ctypes(ctypes.c_int, ctypes.c_int)(2) == 200
    assert library.function("close", ctypes.c_int, [ctypes.c_int])(3) == 300


def test_function_gives_ctypes_functions(library):
    """Types are those of ctypes; the function can be passed on as a callback."""
    negate = jitlink.load(toolchain.zig_cc("int negate(int x) { return -x; }"))
    with negate:
        callback = negate.function("negate", ctypes.c_int, [ctypes.c_int])
        apply = library.function("apply", ctypes.c_int, [type(callback), ctypes.c_int])
        assert apply(callback, 5) == -4


def test_a_symbol_knows_its_name_size_and_address(library):
    """A symbol has what its object says; as an int it is its address."""
    symbol = library["table"]
    assert (symbol.name, symbol.size) == ("table", 16)
    assert int(symbol) == symbol.address
    assert (ctypes.c_int * 4).from_address(symbol.address)[3] == 40
    assert f"at {symbol.address:#x}" in repr(symbol)


def test_a_cffi_function_of_a_symbol_has_its_own_type(library):
    """symbol.cffi takes a C type; no declaration of the library is needed."""
    assert library["add"].cffi("int(*)(int, int)")(20, 22) == 42
    assert "add" in repr(library["add"].cffi("int(*)(int, int)"))


def test_dir_lists_the_linked_names(library):
    """dir(library) has the symbols, for completion, and the library's own attributes."""
    names = set(dir(library))
    assert {"add", "counter", "table", "cdef", "function"} <= names


def test_a_library_is_a_context_and_closes_once():
    """Leaving the context closes the library, which cannot be entered again."""
    library = jitlink.load(toolchain.zig_cc("int f(void) { return 1; }"))
    with library as entered:
        assert entered is library
    assert library.dylib.closed
    assert library.dylib.session.closed
    with pytest.raises(jitlink.ClosedError):
        library.__enter__()
    library.close()


def test_the_library_of_a_dylib_closes_that_dylib_only():
    """Closing a library that a session's dylib gave leaves the session open."""
    with jitlink.Session() as session:
        one, two = (session.dylib(name).add(toolchain.zig_cc("int f(void) { return 1; }")) for name in ("one", "two"))
        one.library.close()
        assert one.closed
        assert two.library.function("f")() == 1


def test_linked_symbols_serve_as_definitions_of_other_links():
    """define takes addresses, symbols, ctypes functions and arrays, and cffi pointers."""
    source = """
        int by_symbol(int); int by_callback(int); int by_address(int);
        extern int in_array[2], in_cffi;
        int sum(void) { return by_symbol(1) + by_callback(2) + in_array[1] + in_cffi + by_address(3); }
    """
    with jitlink.load(toolchain.zig_cc("int f(int x) { return x * 10; }")) as first:
        first.cdef("int f(int);")
        variable = first.ffi.new("int *", 1000)
        define = {
            "by_symbol": first["f"],
            "by_callback": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x * 100),
            "in_array": (ctypes.c_int * 2)(7, 8),
            "in_cffi": variable,
            "by_address": first["f"].address,
        }
        with jitlink.load(toolchain.zig_cc(source, "-fPIC"), define=define) as library:
            assert library.function("sum")() == 10 + 200 + 8 + 1000 + 30


def test_something_without_an_address_cannot_define_a_name():
    """A definition that is neither an address nor has one is a TypeError that shows it."""
    with pytest.raises(TypeError, match="'nothing' has no address"):
        jitlink.load(toolchain.zig_cc("void f(void); void g(void) { f(); }"), define={"f": "nothing"})

"""C++, Rust and Fortran: names, overloads, and what their conventions make of a prototype."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import jitlink
from jitlink.calls.demangling import base_of, means
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

CXX = """
namespace ns {
    int twice(int x) { return 2 * x; }
    double twice(double x) { return 2 * x + 0.5; }
    const char *twice(const char *x) { return x; }
    template <class T> T next(T x) { return x + 1; }
    template int next<int>(int);
    template double next<double>(double);
    struct Counter {
        int count;
        int add(int by);
        int get() const;
        static int made(Counter &c);
    };
    int Counter::add(int by) { return count += by; }
    int Counter::get() const { return count; }
    int Counter::made(Counter &c) { return c.count = 1; }
}
namespace other { int only_here(int x) { return x; } }
int both(int *values, long n) { return values[n - 1]; }
int both(double *values, long n) { return -(int)values[n - 1]; }
int either(short x) { return 16; }
int either(unsigned char x) { return 8; }
int by_reference(const int &x, int &y) { return y += x; }
bool flag(bool x) { return !x; }
struct Owner { int *p; ~Owner(); };
Owner::~Owner() {}
int takes_owner(Owner o) { return *o.p; }
int takes_owner_at(const Owner &o) { return *o.p; }
struct Base { int a; };
struct Derived : Base { int b; };
int derived_sum(Derived d) { return d.a + d.b; }
enum class Sized : unsigned char { ONE = 1, MANY = 200 };
Sized larger(Sized x) { return Sized::MANY; }
int operator+(Base a, Base b) { return a.a + b.a; }
extern "C" int plain(int x) { return x; }
namespace { int hidden() { return 1; } }
int uses_hidden() { return hidden(); }
"""

RUST = """
#[repr(C)] pub struct Pair { pub x: i32, pub y: f64 }
#[repr(C)] pub enum Colour { Red, Green = 5 }
#[no_mangle] pub extern "C" fn add(a: u8, b: i64) -> i64 { a as i64 + b }
#[no_mangle] pub extern "C" fn weigh(p: Pair, by: f64) -> f64 { (p.x as f64 + p.y) * by }
#[no_mangle] pub extern "C" fn shift(p: &mut Pair, by: i32) { p.x += by; }
#[no_mangle] pub unsafe extern "C" fn total(v: *const f64, n: usize) -> f64 {
    let mut s = 0.0; for i in 0..n { s += *v.add(i); } s }
#[no_mangle] pub unsafe extern "C" fn clear(v: *mut f64, n: usize) { for i in 0..n { *v.add(i) = 0.0; } }
#[no_mangle] pub extern "C" fn apply(f: Option<extern "C" fn(i32) -> i32>, x: i32) -> i32 {
    match f { Some(f) => f(x), None => -1 } }
#[no_mangle] pub extern "C" fn opposite(x: bool) -> bool { !x }
#[no_mangle] pub extern "C" fn green(c: Colour) -> bool { matches!(c, Colour::Green) }
pub fn rust_only(x: i32) -> i32 { x + 1 }
"""

FORTRAN = """
module numbers
  use iso_c_binding
contains
  subroutine axpy(n, a, x, y) bind(c, name="axpy")
    integer(c_int), value :: n
    real(c_double), value :: a
    real(c_double), intent(in) :: x(n)
    real(c_double), intent(inout) :: y(*)
    y(1:n) = y(1:n) + a * x(1:n)
  end subroutine
  function trace(matrix, n) bind(c)
    integer(c_int), intent(in) :: n
    real(c_double), intent(in) :: matrix(n, n)
    real(c_double) :: trace
    integer :: i
    trace = 0
    do i = 1, n
      trace = trace + matrix(i, i) * i
    end do
  end function
  function first_column(matrix, n) bind(c)
    integer(c_int), intent(in) :: n
    real(c_double), intent(in) :: matrix(n, n)
    real(c_double) :: first_column
    first_column = sum(matrix(:, 1))
  end function
  subroutine advance(counter) bind(c)
    integer(c_int64_t), intent(inout) :: counter
    counter = counter + 1
  end subroutine
  function both(a, b) bind(c)
    logical(c_bool), value :: a, b
    logical(c_bool) :: both
    both = a .and. b
  end function
  subroutine shaped(values) bind(c)
    real(c_double), intent(inout) :: values(:)
    values = 1
  end subroutine
end module
subroutine old_style(x, y)
  real :: x
  real, intent(out) :: y
  y = x * 2
end subroutine
"""


def zig(*flags: str) -> bytes:
    return toolchain.zig_cc(CXX, *flags, language="c++")


def gcc(*flags: str) -> bytes:
    return toolchain.compile_with(CXX, *flags, compiler="g++")


@pytest.fixture(
    params=[(zig, "-O0"), (zig, "-O2"), (gcc, "-O0"), (gcc, "-O2")], ids=lambda way: way[0].__name__ + way[1]
)
def cxx(request) -> Iterator[jitlink.Library]:
    """The source in C++, by several compilers."""
    compile, optimise = request.param
    with jitlink.load(compile("-g", optimise), link_against=[jitlink.process(), libstdcxx()]) as library:
        yield library


def libstdcxx() -> jitlink.Resolver:
    """The C++ library of GCC."""
    try:
        return jitlink.shared_library("libstdc++.so.6")
    except jitlink.UnreadableInput:
        pytest.skip("there is no libstdc++.so.6")


def test_overloads_are_chosen_by_the_types_of_arguments(cxx):
    """int, float and text each go to their own function; NumPy arrays by dtype."""
    twice = cxx["ns::twice"]
    assert (twice(4), twice(1.5), twice("text")) == (8, 3.5, b"text")
    assert cxx["both"](np.array([1, 2], np.int32), 2) == 2
    assert cxx.both(np.array([1.0, 2.0]), 2) == -2
    assert "int ns::twice(int x)" in repr(twice)
    with pytest.raises(TypeError, match=r"no ns::twice takes \(complex\)(.|\n)*double ns::twice\(double x\)"):
        twice(1j)
    with pytest.raises(TypeError, match="no ns::twice"):
        twice(1, 2)


def test_overloads_that_fit_equally_have_to_be_named(cxx):
    """Where an int would have to be narrowed for each, nobody can know which was meant."""
    with pytest.raises(TypeError, match="may be any of these"):
        cxx.either(5)
    assert cxx["either(short)"](5) == 16
    assert cxx["either(unsigned char)"](5) == 8


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("ns::twice(int)", 3, 6),
        ("ns::twice(double)", 3, 6.5),
        ("ns::next<int>", 3, 4),
        ("ns::next<double>", 3, 4.0),
        ("ns::next<int>(int)", 3, 4),
        ("plain", 3, 3),
    ],
)
def test_a_full_name_means_one_function(cxx, name, argument, expected):
    """With parameter types or template arguments a name means one function, which is a symbol."""
    symbol = cxx[name]
    assert symbol.address
    result = symbol(argument)
    assert (result, type(result)) == (expected, type(expected))


def test_unqualified_names_serve_where_they_are_unambiguous(cxx):
    """library.f means ns::f if all functions called f are in one scope."""
    assert cxx.only_here(5) == 5
    assert cxx.twice(5) == 10
    assert cxx.next(1.5) == 2.5
    with pytest.raises(AttributeError, match="no symbol 'nowhere'"):
        cxx.nowhere()
    with pytest.raises(jitlink.SymbolNotFound):
        cxx["ns::nowhere"]


def test_methods_take_their_object_first(cxx):
    """this is the first argument; a reference is a pointer that is never None."""
    counter = cxx.new("Counter", {"count": 5})
    assert cxx["ns::Counter::add"](counter, 3) == 8
    assert cxx["ns::Counter::get"](counter) == 8
    assert cxx["ns::Counter::made"](counter) == 1
    assert counter.count == 1
    with pytest.raises(TypeError, match="None"):
        cxx["ns::Counter::made"](None)


def test_references_take_memory_and_constant_ones_values(cxx):
    """const int & takes a number; int & takes what can be written to."""
    value = np.array([10], np.int32)
    assert cxx.by_reference(5, value) == 15
    assert value.tolist() == [15]
    with pytest.raises(TypeError, match="may write"):
        cxx.by_reference(5, [5])
    with pytest.raises(TypeError):
        cxx.by_reference(5, 5)


def test_objects_that_copy_themselves_are_not_passed_by_value(cxx):
    """A class with a destructor goes through a hidden pointer: it is refused by value, and served by reference."""
    with pytest.raises(jitlink.UntypedSymbol, match=r"takes_owner.*by value.*code of its own"):
        cxx.takes_owner(None)
    held = cxx.ffi.new("int *", 7)
    assert cxx.takes_owner_at(cxx.new("Owner", {"p": held})) == 7


def test_bases_and_enumerations_of_a_size_are_passed(cxx):
    """A derived class holds its base; an enum class has the size that it says."""
    assert cxx.derived_sum(((1,), 2)) == 3
    assert cxx.larger(1) == 200
    with pytest.raises(OverflowError):
        cxx.larger(256)
    assert cxx.flag(False) is True
    assert cxx["operator+(Base, Base)"]((1,), (2,)) == 3


def test_names_of_archive_members_are_found():
    """A function of C++ in an archive is linked when its name is asked for."""
    archive = toolchain.archive_of({"one.o": zig("-g", "-O1")})
    with jitlink.load(archive, link_against=[jitlink.process(), libstdcxx()]) as library:
        assert library["ns::next<int>"](41) == 42


@pytest.mark.parametrize(
    ("demangled", "base"),
    [
        ("f", "f"),
        ("f()", "f"),
        ("ns::f(int, char const*)", "ns::f"),
        ("int ns::twice<int>(int)", "ns::twice<int>"),
        ("ns::K::get(int) const", "ns::K::get"),
        (
            "ns::map<int, std::pair<int, int> >::at(std::pair<int, int> const&)",
            "ns::map<int, std::pair<int, int> >::at",
        ),
        ("(anonymous namespace)::f(int)", "(anonymous namespace)::f"),
        ("operator+(Base, Base)", "operator+"),
        ("ns::K::operator()(int)", "ns::K::operator()"),
        ("ns::K::operator bool() const", "ns::K::operator bool"),
        ("typeinfo for ns::K", "ns::K"),
    ],
)
def test_the_base_of_a_name_has_no_parameters_and_no_result(demangled, base):
    """What __cxa_demangle gives is cut where the name starts and ends."""
    assert base_of(demangled) == base


def test_a_name_means_all_its_overloads_and_instances():
    """Spaces do not count, and template arguments may be left out."""
    assert means("ns::f", "ns::f(int)")
    assert means("ns::f(char const*)", "ns::f(char const *)")
    assert means("ns::g", "int ns::g<int>(int)")
    assert means("ns::g<int>(int)", "int ns::g<int>(int)")
    assert not means("f", "ns::f(int)")
    assert not means("ns::f(int)", "ns::f(long)")
    assert not means("g<int>(int)", "int ns::g<int>(int)")


def rust_library() -> Path:
    """Rust's shared standard library."""
    toolchain.needs("rustc")
    sysroot = subprocess.run(["rustc", "--print=sysroot"], capture_output=True, text=True, timeout=60, check=True)
    found = list(Path(sysroot.stdout.strip()).rglob("rustlib/x86_64-unknown-linux-gnu/lib/libstd-*.so"))
    if len(found) != 1:
        pytest.skip("rustc has no shared standard library")
    return found[0]


@pytest.mark.parametrize("flags", [["-O"], ["-Copt-level=0"]], ids=["-O", "-O0"])
def test_rust_functions_for_c_are_called(flags):
    """Numbers, structures, references, raw pointers and optional callbacks of extern "C" functions."""
    shared = jitlink.shared_library(rust_library())
    compiled = toolchain.compile_with(RUST, "-g", *flags, "-Cprefer-dynamic", compiler="rustc")
    with jitlink.load(compiled, link_against=[jitlink.process(), shared]) as library:
        assert library.add(200, 5) == 205
        assert library.weigh((1, 2.5), 2) == 7
        pair = library.new("Pair", (1, 2.5))
        library.shift(pair, 4)
        assert pair.x == 5
        values = np.arange(4.0)
        assert library.total(values, 4) == 6
        assert library.total([1.5, 2.5], 2) == 4
        library.clear(values, 4)
        assert not values.any()
        with pytest.raises(TypeError, match="may write"):
            library.clear([1.0], 1)
        assert library.apply(lambda x: x * 2, 4) == 8
        assert library.apply(None, 4) == -1
        assert library.opposite(True) is False
        assert [library.green(value) for value in (0, 5)] == [False, True]


def test_rust_functions_with_the_convention_of_rust_are_refused():
    """A mangled name means that nobody promised the calling convention of C."""
    shared = jitlink.shared_library(rust_library())
    compiled = toolchain.compile_with(RUST, "-g", "-Copt-level=0", "-Cprefer-dynamic", compiler="rustc")
    with jitlink.load(compiled, link_against=[jitlink.process(), shared]) as library:
        mangled = [name for name in library.dylib.symbols() if "rust_only" in name]
        if not mangled:
            pytest.skip("this rustc does not emit it")
        with pytest.raises(jitlink.UntypedSymbol, match='extern "C"'):
            library[mangled[0]](1)


@pytest.fixture(params=["-O0", "-O2"])
def fortran(request) -> Iterator[jitlink.Library]:
    """The source in Fortran."""
    compiled = toolchain.compile_with(FORTRAN, "-g", request.param, compiler="gfortran")
    with jitlink.load(
        compiled, link_against=[jitlink.process(), jitlink.shared_library("libgfortran.so.5")]
    ) as library:
        yield library


def test_fortran_routines_work_on_numpy_arrays(fortran):
    """Explicit-shape and assumed-size arrays take contiguous arrays, matrices in Fortran's order."""
    y = np.ones(4)
    fortran.axpy(4, 2.0, np.arange(4.0), y)
    assert y.tolist() == [1, 3, 5, 7]
    matrix = np.asfortranarray(np.arange(9.0).reshape(3, 3))
    assert fortran.trace(matrix, 3) == 0 + 4 * 2 + 8 * 3
    assert fortran.first_column(matrix, 3) == matrix[:, 0].sum()
    with pytest.raises(TypeError, match=r"Fortran's order"):
        fortran.trace(np.arange(9.0).reshape(3, 3), 3)
    with pytest.raises(TypeError, match="float32"):
        fortran.axpy(4, 2.0, np.zeros(4, np.float32), y)


def test_fortran_arguments_are_passed_by_value_or_by_reference(fortran):
    """A dummy with VALUE takes the number; one without takes memory, or a number of which a copy is passed."""
    counter = np.array([41], np.int64)
    fortran.advance(counter)
    assert counter.tolist() == [42]
    fortran.advance(5)
    assert "integer(kind=8) &counter" in fortran.advance.__doc__
    assert fortran.both(True, False) is False
    assert fortran.both(True, True) is True
    result = np.zeros(1, np.float32)
    fortran.old_style_(21.0, result)
    assert result.tolist() == [42]


def test_fortran_array_descriptors_are_refused_by_name(fortran):
    """An assumed-shape dummy is not a pointer to its elements."""
    with pytest.raises(jitlink.UntypedSymbol, match=r"shaped.*descriptor.*assumed shape"):
        fortran.shaped(np.zeros(3))

"""Programs for Windows run in this process: C++ of both ABIs, and lines of source for their addresses."""

from __future__ import annotations

import ctypes
import os
import platform

import pytest

import jitlink
from tests import toolchain

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or os.name == "nt", reason="the process must follow System V's convention on x86-64"
)

CXX_FLAGS = ("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics")
SHARED = r"""
template<class T> struct Box { T value; virtual T get() const { return value; } virtual ~Box() {} };
struct Counter { static int count; Counter() { count += 5; } ~Counter() { count -= 1; } };
inline int calls(int x) { static int count = 0; return ++count + x; }
"""
FIRST = (
    SHARED
    + r"""
int Counter::count = 2;
static Counter counter;
extern "C" int first(int x) {
    Box<int> box; box.value = x; Box<int> *p = &box;
    return p->get() + Counter::count + calls(x);
}
void operator delete(void *) noexcept {}
void operator delete(void *, unsigned long long) noexcept {}
"""
)
SECOND = (
    SHARED
    + r"""
extern "C" int second(int x) { Box<int> box; box.value = x; Box<int> *p = &box; return p->get() * 100 + calls(x); }
"""
)


@pytest.mark.parametrize("target", ["x86_64-windows-gnu", "x86_64-windows-msvc"])
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_cxx_shares_its_inline_functions_and_runs_its_constructors(target, level):
    """Inline functions, their static variables and vtables are there once; constructors run when the code is loaded."""
    objects = [toolchain.zig_cc(source, level, *CXX_FLAGS, target=target, language="c++") for source in (FIRST, SECOND)]
    with jitlink.load(*objects) as library:
        first, second = (library.function(name, ctypes.c_int, [ctypes.c_int]) for name in ("first", "second"))
        # Seven is what the constructor has made of the count; both see how often calls() was called.
        assert first(3) == 3 + 7 + (1 + 3)
        assert second(3) == 300 + (2 + 3)
        assert first(0) == 0 + 7 + 3


def test_addresses_have_lines_of_source():
    """DWARF of a COFF object, whose sections refer to each other by SECREL, gives file and line."""
    source = "int f(int x)\n{\n  return x / 2;\n}\n"
    content = toolchain.zig_cc(source, "-O0", "-gdwarf-4", target="x86_64-windows-gnu")
    with jitlink.Session() as session:
        dylib = session.dylib("a").add(content, debug=True)
        location = session.symbolize(dylib["f"].address)
        assert location is not None
        assert (location.symbol, location.line) == ("f", 2)


@pytest.mark.parametrize("target", ["x86_64-windows-gnu", "aarch64-windows-gnu"])
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_images_for_windows_are_linked_on_any_host(target, level):
    """An image needs no convention: names outside are taken as they are given, and nothing is mapped."""
    source = (
        "int outside(int); static int (*const table[])(int) = { outside }; int f(int x) { return table[0](x) + 1; }"
    )
    content = toolchain.zig_cc(source, level, target=target)
    image = jitlink.link(content, base=0x1_4000_0000, define={"outside": 0x1_4100_0000})
    assert image.address_of("f") >= image.base


def test_thread_local_variables_are_refused_by_name():
    """Code that reaches for the thread environment block of Windows is refused, with what to do instead."""
    content = toolchain.zig_cc("_Thread_local int t; int f(void) { return ++t; }", target="x86_64-windows-gnu")
    with pytest.raises(jitlink.LinkError, match="emulated-tls"):
        jitlink.load(content)

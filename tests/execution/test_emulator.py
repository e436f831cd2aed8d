"""Loading for another machine gives the same face as loading into this process."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

import jitlink
from jitlink import (
    ClosedError,
    LinkError,
    LinkFailure,
    MemoryRefused,
    MissingExtra,
    SymbolNotFound,
    UndefinedSymbols,
    UnsupportedInput,
    UsageError,
)
from jitlink.execution.emulator import EmulatedHome
from jitlink.execution.handles import EmulatedLibrary
from tests.execution.platforms import MACHINES, PLATFORMS, emulated, load
from tests.toolchain import assemble, zig_cc

pytest.importorskip("unicorn")

ADD = "int add(int a, int b) { return a + b; }"
HOOKED = "extern int hook(int); int call(int x) { return hook(x) + 1; } int (*pointer)(int) = hook;"
ARM = "aarch64-linux-gnu"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_function_of_another_machine_is_called_like_any(platform):
    """function() and cdef() call emulated code; a symbol has its address and size."""
    with emulated(ADD, platform) as library:
        assert library.function("add", ctypes.c_int, [ctypes.c_int] * 2)(2, 40) == 42
        library.cdef("int add(int, int);")
        assert library.add(-3, 1) == -2
        assert library["add"].cffi("int(*)(int, int)")(1, 1) == 2
        assert library["add"].address == library.add.address
        assert "add" in library
        with pytest.raises(SymbolNotFound):
            library["sub"]
        with pytest.raises(AttributeError, match="no symbol"):
            library.sub(1)


def test_the_hosts_own_code_runs_emulated_when_asked():
    """emulate=True runs in the CPU of unicorn what this process could run, without access to the process."""
    content = zig_cc(ADD + "int getpid(void); int id(void) { return getpid(); }", "-fPIC")
    with pytest.raises(UndefinedSymbols, match="getpid"):
        jitlink.load(content, emulate=True)
    library = jitlink.load(content, emulate=True, define={"getpid": 0x1000})
    with library:
        assert library.function("add", ctypes.c_int, [ctypes.c_int] * 2)(1, 2) == 3


def test_an_object_for_another_machine_than_the_target_is_refused():
    """A session links for one machine."""
    with pytest.raises(UnsupportedInput):
        load(zig_cc(ADD, target=MACHINES[2]), ARM)


@pytest.mark.parametrize("target", ["sparc", "bpf", ""])
def test_a_target_without_a_cpu_is_refused(target):
    """What cannot be emulated says so when the session opens."""
    with pytest.raises(UnsupportedInput, match="There are"):
        jitlink.Session(target=target)


def test_without_unicorn_the_error_names_the_extra(monkeypatch):
    """A session for another machine says what to install."""
    monkeypatch.setitem(sys.modules, "unicorn", None)
    with pytest.raises(MissingExtra, match=r"jitlink\[emulator\]"):
        jitlink.Session(target="aarch64")


# Names from outside


def test_python_functions_are_defined_by_name():
    """A Python function with annotations is called by emulated code, also through a pointer to it."""

    def hook(x: int) -> int:
        return x * 10

    with emulated(HOOKED, ARM, define={"hook": hook}) as library:
        assert library.function("call", ctypes.c_int, [ctypes.c_int])(4) == 41
        library.cdef("extern int (*pointer)(int);")
        assert library.pointer(-2) == -20


def test_functions_of_ctypes_and_cffi_are_defined_with_their_types():
    """What code of this process could call, emulated code can call too."""
    import cffi

    ffi = cffi.FFI()
    callback = ffi.callback("int(int)", lambda x: x + 5)
    wrapped = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 7)
    for given, answer in ((callback, 9), (wrapped, 11)):
        with emulated(HOOKED, ARM, define=lambda name, given=given: given if name == "hook" else None) as library:
            assert library.function("call", ctypes.c_int, [ctypes.c_int])(3) == answer


def test_a_python_function_without_types_is_refused():
    """A function that does not say what it takes cannot be called; the error says how to declare it."""
    with pytest.raises(UsageError, match="annotate"):
        emulated(HOOKED, ARM, define={"hook": lambda x: x})


def test_memory_of_this_process_is_no_definition():
    """An array of ctypes is in memory that emulated code does not have."""
    with pytest.raises(UsageError, match="allocate"):
        emulated("extern int hook[2]; int get(void) { return hook[0]; }", ARM, define={"hook": (ctypes.c_int * 2)()})


def test_the_process_and_its_libraries_are_no_definitions():
    """Functions of this machine cannot be linked against."""
    with pytest.raises(UsageError, match="Python functions"):
        emulated(HOOKED, ARM, link_against=[jitlink.process()])


def test_an_exception_of_a_python_function_passes_through_emulated_frames():
    """What a callback raises comes out of the call, and the machine is sound afterwards."""

    def hook(x: int) -> int:
        if x == 0:
            raise RuntimeError("from Python")
        return x

    with emulated(HOOKED, ARM, define={"hook": hook}) as library:
        call = library.function("call", ctypes.c_int, [ctypes.c_int])
        with pytest.raises(RuntimeError, match="from Python"):
            call(0)
        assert call(1) == 2


RECURSIVE = """
extern int down(int);
int up(int x) { volatile int keep = x * 3; return x ? down(x - 1) + keep : 0; }
"""


@pytest.mark.parametrize("platform", PLATFORMS)
def test_calls_nest_in_both_directions(platform):
    """Code calls Python, which calls code, thirty deep; an exception in the middle leaves the outer frames whole."""
    held: list[EmulatedLibrary] = []

    def down(x: int) -> Annotated[Any, ctypes.c_int]:
        up = held[0].function("up", ctypes.c_int, [ctypes.c_int])
        try:
            held[0].function("up", ctypes.c_int, [ctypes.c_void_p])("no pointer")
        except TypeError:
            return up(x)
        return -1

    with emulated(RECURSIVE, platform, define={"down": down}) as library:
        held.append(library)
        assert library.function("up", ctypes.c_int, [ctypes.c_int])(30) == 3 * sum(range(31))


def test_a_fault_inside_of_a_callback_leaves_the_outer_code_as_it_was():
    """The registers of code that has called Python are restored when an inner call faults."""
    source = """
    extern int inner(int);
    extern void note(void);
    int crash(int *p, int a, int b) { int x = a * 5, y = b * 7; note(); int z = x * y; note(); return x + y + z + *p; }
    int outer(int a, int b, int c) { int x = a * 2, y = b * 3, z = c * 4; int r = inner(a); return r + x + y + z; }
    """
    held: list[EmulatedLibrary] = []

    def inner(x: int) -> int:
        with pytest.raises(jitlink.EmulationFault):
            held[0].function("crash", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int])(None, 8, 9)
        return x

    def note() -> None:
        """Nothing: what lives across the call is in registers that calls preserve."""

    for platform in MACHINES:
        with emulated(source, platform, "-O2", define={"inner": inner, "note": note}) as library:
            held[:] = [library]
            assert library.function("outer", ctypes.c_int, [ctypes.c_int] * 3)(1, 2, 3) == 1 + 2 + 6 + 12


# Sessions and dylibs


def test_dylibs_of_a_session_see_each_other():
    """A dylib that is linked against another calls its functions; closing it takes its code away."""
    with jitlink.Session(target="aarch64") as session:
        base = session.dylib("base").add(zig_cc("int hook(int x) { return x * x; }", target=ARM))
        user = session.dylib("user").link_against(base, base.outside).add(zig_cc(HOOKED, target=ARM))
        assert user.library.function("call", ctypes.c_int, [ctypes.c_int])(5) == 26


def test_dylibs_of_another_session_are_refused():
    """Each session has a machine of its own, whose addresses mean nothing to others."""
    with jitlink.Session(target="aarch64") as session:
        for other in (jitlink.Session(target="aarch64"), jitlink.Session()):
            with other, pytest.raises(UsageError, match="same session"):
                session.dylib().link_against(other.dylib())


def test_formats_do_not_mix_in_a_dylib_but_in_a_session():
    """Two conventions can live in two dylibs of one session."""
    with jitlink.Session(target="aarch64") as session:
        elf = session.dylib("elf").add(zig_cc(ADD, target=ARM))
        darwin = session.dylib("darwin").add(zig_cc(ADD, target="aarch64-macos"))
        for dylib in (elf, darwin):
            assert dylib.library.function("add", ctypes.c_int, [ctypes.c_int] * 2)(1, 2) == 3
        elf.add(zig_cc("int more;", target="aarch64-macos"))
        with pytest.raises(LinkError):
            elf.link()


def test_everything_raises_closed_error_after_the_close():
    """Functions, symbols, memory and pointers know that their machine is gone."""
    library = emulated(ADD + "int *where(void) { static int x = 7; return &x; }", ARM)
    library.cdef("int add(int, int); int *where(void);")
    add, symbol, memory, pointer = library.add, library["add"], library.memory, library.where()
    assert pointer[0] == 7
    library.close()
    for use in (
        lambda: add(1, 2),
        lambda: symbol.address,
        lambda: library.memory,
        lambda: library.where(),
        lambda: memory.read(pointer, 4),
        lambda: memory.allocate(4),
        lambda: pointer[0],
        lambda: add.address,
    ):
        with pytest.raises(ClosedError):
            use()


def test_a_closed_machine_is_let_go():
    """Nothing keeps the engine, and with it its memory, after the close."""
    library = emulated(ADD, ARM)
    engine = weakref.ref(library.memory._engine)
    library.close()
    gc.collect()
    assert engine() is None


def test_a_failed_link_leaves_nothing_mapped():
    """Addresses that a link had taken are free again when it fails."""

    def fail(graph: jitlink.LinkGraph) -> None:
        raise LinkFailure("at the last moment")

    content = zig_cc(HOOKED, target=ARM)
    with load(content, ARM, define={"hook": 0x1234}) as library:
        first = library["pointer"].address
    with jitlink.Session(target="aarch64") as session:
        dylib = session.dylib()
        home = dylib.residence
        assert isinstance(home, EmulatedHome)
        before = repr(home.memory)
        dylib.add(content)
        with pytest.raises(UndefinedSymbols):
            dylib.link()
        dylib.link_against({"hook": 0x1234}).add(passes={"post_fixup": [fail]})
        with pytest.raises(LinkFailure, match="last moment"):
            dylib.link()
        assert repr(home.memory) == before
        dylib.add(passes={"post_fixup": []})
        dylib.link()
        assert dylib["pointer"].address == first


def test_closing_a_dylib_gives_its_addresses_back():
    """A hundred dylibs, one after the other, find room where the ones before were."""
    content = zig_cc(ADD, target=ARM)
    addresses = set()
    with jitlink.Session(target="aarch64") as session:
        for _ in range(100):
            dylib = session.dylib().add(content)
            addresses.add(dylib["add"].address)
            dylib.close()
    assert len(addresses) == 1


def test_an_image_larger_than_the_machine_is_refused():
    """Zero-fill of eight gigabytes is a clear error, and costs no memory."""
    content = assemble(".bss\n.globl room\nroom: .zero 0x200000000\n", target=ARM)
    with pytest.raises(MemoryRefused, match="bytes of memory"):
        load(content, ARM)


# Initialisers, IFUNC, protections


@pytest.mark.parametrize("platform", PLATFORMS)
def test_initialisers_and_finalisers_run(platform):
    """Constructors run at the load, destructors at the close."""
    source = """
    extern void note(int);
    int ready;
    __attribute__((constructor)) static void begin(void) { ready = 1; note(1); }
    __attribute__((destructor)) static void end(void) { note(2); }
    """
    notes = []

    def note(x: int) -> None:
        notes.append(x)

    library = emulated(source, platform, define={"note": note})
    library.cdef("extern int ready;")
    assert library.ready == 1
    library.close()
    assert notes == [1, 2]


def test_a_finaliser_that_faults_does_not_keep_the_session_open():
    """The fault is raised by close, and everything is closed all the same."""
    source = "__attribute__((destructor)) static void end(void) { *(volatile int *)8 = 1; }"
    with jitlink.Session(target="aarch64") as session:
        first = session.dylib("first").add(zig_cc(ADD, target=ARM))
        second = session.dylib("second").add(zig_cc(source, target=ARM))
        first.link()
        second.link()
        with pytest.raises(jitlink.EmulationFault, match="write of 4 bytes at 0x8"):
            session.close()
        assert first.closed
        assert second.closed
        assert session.closed


@pytest.mark.parametrize("platform", MACHINES)
def test_an_indirect_function_is_chosen_by_emulated_code(platform):
    """The resolver of an IFUNC runs in the machine, and calls reach what it returns."""
    source = """
    static int one(void) { return 1; }
    static int two(void) { return 2; }
    int want_two = 1;
    static void *choose(void) { return want_two ? two : one; }
    int chosen(void) __attribute__((ifunc("choose")));
    int call(void) { return chosen() * 10; }
    """
    with emulated(source, platform) as library:
        assert library.function("call")() == 20
        assert library.function("chosen")() == 2


@pytest.mark.parametrize("platform", PLATFORMS)
def test_thread_locals_have_one_copy_in_the_one_thread(platform):
    """Thread-local variables keep their values between calls; those of COFF are refused."""
    source = """
    __thread int count = 40; static __thread char zeroes[100]; __thread long long other = 7;
    int step(void) { zeroes[99]++; return ++count + zeroes[99]; }
    long long get(void) { return other; }
    """
    if "windows" in platform:
        with pytest.raises((LinkFailure, UnsupportedInput)):
            emulated(source, platform, "-O1", "-fPIC")
        return
    with emulated(source, platform, "-O1", "-fPIC") as library:
        assert [library.function("step")() for _ in range(3)] == [42, 44, 46]
        assert library.function("get", ctypes.c_int64)() == 7


@pytest.mark.parametrize("platform", PLATFORMS)
def test_segments_have_their_protections(platform):
    """Code is not written, constants are not written, data is not executed: each is a fault."""
    source = """
    const int constant[4] = {1, 2, 3, 4}; int data[4] = {5, 6, 7, 8};
    void write(int *p) { *p = 9; }
    int run(int (*f)(void)) { return f() + 1; }
    """
    with emulated(source, platform, "-O1", "-fno-function-sections") as library:
        write = library.function("write", None, [ctypes.c_void_p])
        write(library["data"])
        for name in ("write", "constant"):
            with pytest.raises(jitlink.EmulationFault, match="a write of 4 bytes"):
                write(library[name])
        run = library.function("run", ctypes.c_int, [ctypes.c_void_p])
        with pytest.raises(jitlink.EmulationFault, match="no code"):
            run(library["data"])


def test_debug_information_gives_files_and_lines_of_a_fault():
    """With debug=True a fault names the line of the source."""
    content = zig_cc("int f(int *p) {\n    return *p;\n}\n", "-g", "-O1", target=ARM)
    with jitlink.Session(target="aarch64") as session:
        dylib = session.dylib().add(content, debug=True)
        with pytest.raises(jitlink.EmulationFault, match=r"source\.c:2"):
            dylib["f"].ctypes(ctypes.c_int, ctypes.c_void_p)(None)


def test_emulated_code_is_not_shown_to_the_debugger_and_the_unwinder(monkeypatch):
    """Addresses of the machine are not registered as addresses of this process."""
    monkeypatch.setenv("JITLINK_DEBUG", "1")
    with jitlink.Session(target="aarch64") as session:
        assert session.observers == []
        session.dylib().add(zig_cc(ADD, target=ARM)).link()
        found = session.symbolize(session.dylib()["add"].address)
        assert found is not None
        assert found.symbol == "add"


def test_many_threads_take_turns():
    """Calls from several threads run one after the other, and none disturbs another's stack."""
    from concurrent.futures import ThreadPoolExecutor

    source = "long work(long n) { volatile long a[64]; for (int i = 0; i < 64; i++) a[i] = n + i; long s = 0;"
    source += "for (int i = 0; i < 64; i++) s += a[i]; return s; }"
    with emulated(source, ARM) as library:
        work = library.function("work", ctypes.c_long, [ctypes.c_long])
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(work, range(200)))
    assert found == [64 * n + 2016 for n in range(200)]


def test_memory_is_read_and_written_through_the_handle():
    """The handle reads, writes and allocates; arrays are copied in and out."""
    with emulated(
        "int table[4] = {1, 2, 3, 4}; int sum(int *p, int n) { int s = 0; while (n--) s += *p++; return s; }", ARM
    ) as library:
        memory, table = library.memory, library["table"].address
        assert memory.array(table, np.int32, 4).tolist() == [1, 2, 3, 4]
        memory.write(table + 4, (20).to_bytes(4, "little"))
        assert memory.read(table, 8) == bytes([1, 0, 0, 0, 20, 0, 0, 0])
        own = memory.allocate(400, 64)
        assert own % 64 == 0
        assert memory.read(own, 400) == bytes(400)
        memory.store_array(own, np.arange(100, dtype=np.int32))
        assert library.function("sum", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int])(own, 100) == 4950
        memory.free(own)
        for use in (lambda: memory.read(0, 4), lambda: memory.write(8, b"x"), lambda: memory.free(own)):
            with pytest.raises(jitlink.EmulationFault):
                use()


INTERRUPTED = """
import ctypes, os, signal, sys, threading
import jitlink
# A process that was started in the background may have been told to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
library = jitlink.load(sys.argv[1], target="aarch64")
forever = library.function("forever", None)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    forever()
except KeyboardInterrupt:
    print("interrupted", library.function("add", ctypes.c_int, [ctypes.c_int] * 2)(1, 2))
"""


def test_code_that_does_not_end_can_be_interrupted(tmp_path):
    """Ctrl-C reaches Python while emulated code runs, and the machine is sound afterwards."""
    (tmp_path / "a.o").write_bytes(zig_cc(ADD + 'void forever(void) { for (;;) __asm__ volatile(""); }', target=ARM))
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.o")],
        env={**os.environ, "PYTHONPATH": str(Path(jitlink.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout == "interrupted 3\n", result.stderr


def test_code_that_runs_for_long_goes_on_where_python_had_its_turn():
    """A loop of a second gives the right sum although the CPU was stopped in between."""
    source = 'long spin(long n) { long s = 0; while (n--) { __asm__ volatile("" : "+r"(s)); s += n; } return s; }'
    for platform in MACHINES:
        with emulated(source, platform, "-O1", emulate=True) as library:
            spin = library.function("spin", ctypes.c_long, [ctypes.c_long])
            n = 100_000_000
            assert spin(n) == n * (n - 1) // 2


@pytest.mark.parametrize("platform", MACHINES)
def test_code_that_python_changes_is_run_as_changed(platform):
    """What the CPU has translated is forgotten when Python writes to code."""
    source = "int five(void) { return 5; } int six(void) { return 6; }"
    with emulated(source, platform) as library:
        five = library.function("five")
        assert five() == 5
        size = library["six"].size
        library.memory.write(library["five"].address, library.memory.read(library["six"].address, size))
        assert five() == 6

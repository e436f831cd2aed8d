"""Initialisers, finalisers and exit handlers run when they should, in order, and once.

Each object writes a letter into a trace that the test gives it; what the trace then says is the claim.
The orders are those of the gABI (Initialization and Termination Functions) and of GNU ld, which sorts
numbered sections before plain ones.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

import jitlink
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

TRACE = """
    extern char trace[];
    extern int traced;
    static void note(char letter) { trace[traced++] = letter; }
"""


class Trace:
    """The memory that the objects write into: it outlives them."""

    def __init__(self) -> None:
        self.letters = ctypes.create_string_buffer(256)
        self.count = ctypes.c_int()

    @property
    def names(self) -> dict[str, int]:
        """What the objects call it."""
        return {"trace": ctypes.addressof(self.letters), "traced": ctypes.addressof(self.count)}

    @property
    def text(self) -> str:
        """All letters until now."""
        return self.letters.raw[: self.count.value].decode()


@pytest.fixture
def trace() -> Trace:
    return Trace()


def notes(letter: str, sections: str) -> bytes:
    """An object with a function that notes a letter, and pointers to it in the given sections."""
    return toolchain.assemble(
        f"""
        .text
        .type function, @function
    function:
        movq traced@GOTPCREL(%rip), %rax
        movslq (%rax), %rcx
        movq trace@GOTPCREL(%rip), %rdx
        movb ${ord(letter)}, (%rdx,%rcx)
        incl (%rax)
        ret
        {sections}
        """
    )


def pointer_in(section: str, type: str = "progbits") -> str:
    return f'.section {section},"aw",@{type}\n .quad function\n'


# Order


def test_constructors_run_at_load_and_destructors_at_close(trace):
    """A constructor runs before load returns, a destructor when the library is closed."""
    source = f"""{TRACE}
        __attribute__((constructor)) static void begin(void) {{ note('b'); }}
        __attribute__((destructor)) static void end(void) {{ note('e'); }}
    """
    library = jitlink.load(toolchain.zig_cc(source), define=trace.names)
    assert trace.text == "b"
    library.close()
    assert trace.text == "be"
    library.close()
    assert trace.text == "be"


def test_priorities_order_constructors_and_reverse_destructors(trace):
    """Constructors run by rising priority, those without one last; destructors the other way round."""
    source = TRACE + "".join(
        f"__attribute__(({sort}{priority})) static void {sort}_{letter}(void) {{ note('{letter}'); }}\n"
        for sort, letters in (("constructor", "abc"), ("destructor", "xyz"))
        for letter, priority in zip(letters, ("(300)", "(200)", ""), strict=True)
    )
    with jitlink.load(toolchain.zig_cc(source), define=trace.names):
        assert trace.text == "bac"
    assert trace.text == "bac" + "zxy"


def test_priorities_order_the_initialisers_of_all_objects(trace):
    """A priority counts across the inputs, whatever their order."""
    sections = {"a": ".init_array.00101", "b": ".init_array.05000", "c": ".init_array.65535", "d": ".init_array"}
    objects = [notes(letter, pointer_in(section, "init_array")) for letter, section in sections.items()]
    for order in permutations(objects):
        trace.count.value = 0
        jitlink.load(*order, define=trace.names).close()
        assert trace.text == "abcd"


def test_preinit_comes_first_and_equals_keep_the_input_order(trace):
    """.preinit_array runs before every initialiser; plain .init_array in the order of the inputs."""
    objects = [
        notes("b", pointer_in(".init_array", "init_array")),
        notes("c", pointer_in(".init_array", "init_array")),
        notes("a", pointer_in(".preinit_array", "preinit_array")),
    ]
    jitlink.load(*objects, define=trace.names).close()
    assert trace.text == "abc"


def test_fini_arrays_run_in_reverse(trace):
    """Within .fini_array the last one runs first, and low priorities run at the end."""
    sections = {"a": ".fini_array.00101", "b": ".fini_array.00200", "c": ".fini_array", "d": ".fini_array"}
    objects = [notes(letter, pointer_in(section, "fini_array")) for letter, section in sections.items()]
    jitlink.load(*objects, define=trace.names).close()
    assert trace.text == "dcba"


def test_ctors_count_the_other_way_round(trace):
    """.ctors.N has the priority 65535 - N (GCC, crtstuff.c), together with .init_array."""
    sections = {"a": ".ctors.65434", "b": ".init_array.00200", "c": ".ctors.65035", "d": ".ctors"}
    objects = [notes(letter, pointer_in(section)) for letter, section in reversed(sections.items())]
    jitlink.load(*objects, define=trace.names).close()
    assert trace.text == "abcd"


@pytest.mark.needs("gcc", "ld")
def test_the_order_is_that_of_gnu_ld(trace):
    """A shared library that GNU ld made of the same objects runs its initialisers in the same order."""
    sections = [".init_array", ".ctors.65434", ".init_array.00102", ".init_array", ".ctors.65530", ".init_array.60000"]
    objects = [
        notes(letter, pointer_in(section, "init_array" if "init" in section else "progbits"))
        for letter, section in zip("abcdef", sections, strict=True)
    ]
    place = toolchain.zig_cc("char trace[256]; int traced;")
    native = ctypes.CDLL(str(toolchain.link_shared([place, *objects], linker="gcc")))
    jitlink.load(*objects, define=trace.names).close()
    assert trace.text == ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(native, "trace"))).decode()
    assert len(trace.text) == len(sections)


def test_ctors_run_from_the_end_without_their_sentinels(trace):
    """The -1 that starts .ctors and the 0 that ends it are no functions; the last entry runs first."""
    bracketed = '.section .ctors,"aw",@progbits\n .quad -1\n .quad 0\n'
    two = '.section .ctors,"aw",@progbits\n .quad function\n .quad other\n .text\nother: jmp note_other@PLT\n'
    seen = []
    note_other = ctypes.CFUNCTYPE(None)(lambda: seen.append(trace.text))
    define = {**trace.names, "note_other": note_other}
    jitlink.load(notes("a", bracketed), notes("b", two), define=define).close()
    assert trace.text == "b"
    assert seen == [""]  # before b


def test_dtors_run_after_the_close_began(trace):
    """.dtors run at close."""
    with jitlink.load(notes("a", pointer_in(".dtors")), define=trace.names):
        assert trace.text == ""
    assert trace.text == "a"


def test_initialisers_are_given_the_arguments_of_main():
    """An initialiser gets argc, argv and envp, as glibc passes them."""
    source = """
        int count; char **arguments, **environment;
        __attribute__((constructor)) static void begin(int argc, char **argv, char **envp) {
            count = argc; arguments = argv; environment = envp;
        }
    """
    with jitlink.load(toolchain.zig_cc(source)) as library:
        library.cdef("extern int count; extern char **arguments, **environment;")
        assert library.count == len(sys.argv)
        assert library.arguments[library.count] == library.ffi.NULL
        assert library.environment != library.ffi.NULL


def test_constructors_of_dropped_code_still_run(trace):
    """Dead strip keeps initialisers, and what they need (gABI: they are never unreferenced)."""
    with jitlink.load(
        notes("a", pointer_in(".init_array", "init_array")), define=trace.names, dead_strip=True, exports=[]
    ):
        assert trace.text == "a"


def test_initialisers_of_a_member_run_when_the_member_is_linked(trace):
    """An archive member brings its initialisers at the lookup that links it, and its finalisers to the close."""
    used = TRACE + "int used(void) { return 1; } __attribute__((constructor)) static void begin(void) { note('u'); }"
    used += "__attribute__((destructor)) static void end(void) { note('v'); }"
    unused = (
        TRACE + "int unused(void) { return 1; } __attribute__((constructor)) static void begin(void) { note('n'); }"
    )
    archive = toolchain.archive_of({"used.o": toolchain.zig_cc(used), "unused.o": toolchain.zig_cc(unused)})
    with jitlink.load(archive, define=trace.names) as library:
        assert trace.text == ""
        assert library.function("used")() == 1
        assert trace.text == "u"
    assert trace.text == "uv"


# Handlers of exit


ATEXIT = (
    TRACE
    + """
    int atexit(void (*)(void));
    static void a(void) { note('a'); }
    static void b(void) { note('b'); }
    int set_up(void) { return atexit(a) | atexit(b); }
    __attribute__((destructor)) static void end(void) { note('e'); }
"""
)


def test_exit_handlers_run_at_close_last_one_first(trace):
    """Handlers of atexit run once, at close, in reverse order and before the finalisers."""
    library = jitlink.load(toolchain.zig_cc(ATEXIT), define=trace.names)
    assert library.function("set_up")() == 0
    assert trace.text == ""
    library.close()
    assert trace.text == "bae"


def test_exit_handlers_of_one_dylib_leave_those_of_another(trace):
    """Closing a dylib runs its own handlers only: each has a __dso_handle of its own."""
    other = Trace()
    with jitlink.Session() as session:
        first = session.dylib("first").link_against(trace.names, jitlink.process()).add(toolchain.zig_cc(ATEXIT))
        second = session.dylib("second").link_against(other.names, jitlink.process()).add(toolchain.zig_cc(ATEXIT))
        for dylib in (first, second):
            assert dylib.library.function("set_up")() == 0
        first.close()
        assert (trace.text, other.text) == ("bae", "")
    assert other.text == "bae"


def test_handlers_of_objects_linked_later_run_at_the_same_close(trace):
    """All links of one dylib share one __dso_handle."""
    with jitlink.Session() as session:
        dylib = session.dylib("main").link_against(trace.names, jitlink.process())
        assert dylib.add(toolchain.zig_cc(ATEXIT)).library.function("set_up")() == 0
        later = (
            ATEXIT.replace("set_up", "set_up_later").replace("note('a')", "note('A')").replace("note('b')", "note('B')")
        )
        assert dylib.add(toolchain.zig_cc(later)).library.function("set_up_later")() == 0
    assert trace.text[:4] == "BAba"
    assert sorted(trace.text[4:]) == ["e", "e"]


def test_a_session_that_is_never_closed_finalises_when_python_exits(tmp_path):
    """Without a close, handlers and finalisers run at the end of Python, once."""
    source = """
        int puts(const char *); int fflush(void *); int atexit(void (*)(void));
        static void handler(void) { puts("handler"); fflush(0); }
        int set_up(void) { return atexit(handler); }
        __attribute__((destructor)) static void end(void) { puts("finaliser"); fflush(0); }
    """
    path = tmp_path / "exits.o"
    path.write_bytes(toolchain.zig_cc(source))
    program = f"import jitlink; library = jitlink.load({str(path)!r}); library.function('set_up')()"
    assert in_python(program).splitlines() == ["handler", "finaliser"]


def test_handlers_of_quick_exit_run_at_quick_exit(tmp_path):
    """What at_quick_exit registered runs when the process calls quick_exit, and not at close."""
    source = """
        int puts(const char *); int fflush(void *); int at_quick_exit(void (*)(void)); void quick_exit(int);
        static void handler(void) { puts("handler"); fflush(0); }
        int set_up(void) { return at_quick_exit(handler); }
        void leave(void) { quick_exit(0); }
    """
    path = tmp_path / "exits.o"
    path.write_bytes(toolchain.zig_cc(source))
    start = f"import jitlink; library = jitlink.load({str(path)!r}); library.function('set_up')(); "
    assert in_python(start + "library.function('leave')()").splitlines() == ["handler"]
    assert in_python(start).splitlines() == []


def in_python(program: str) -> str:
    """Run a program in another Python, and return what it printed."""
    root = str(Path(jitlink.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


def test_fork_handlers_run_around_a_fork_and_vanish_at_close(trace):
    """pthread_atfork handlers run in parent and child while the dylib is open, and not after its close."""
    source = (
        TRACE
        + """
        int pthread_atfork(void (*)(void), void (*)(void), void (*)(void));
        static void prepare(void) { note('p'); }
        static void parent(void) { note('f'); }
        static void child(void) { note('c'); }
        int set_up(void) { return pthread_atfork(prepare, parent, child); }
    """
    )
    library = jitlink.load(toolchain.zig_cc(source), define=trace.names)
    assert library.function("set_up")() == 0
    assert text_in_child(trace) == "pc"
    assert trace.text == "pf"
    library.close()
    assert text_in_child(trace) == "pf"
    assert trace.text == "pf"


def text_in_child(trace: Trace) -> str:
    """What the trace says in a child made by fork."""
    reading, writing = os.pipe()
    child = ctypes.CDLL(None).fork()
    if child == 0:
        os.write(writing, trace.text.encode() + b"\n")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.readline().strip()
    os.waitpid(child, 0)
    return text


# Functions that libc has only statically


def test_the_stat_family_of_old_headers_reaches_libc(tmp_path):
    """stat, lstat, fstat and fstatat tell the size of a file, called by names that dlsym may not know."""
    source = """
        struct status { char before[48]; long size; char after[88]; };
        int stat(const char *, struct status *); int lstat(const char *, struct status *);
        int fstat(int, struct status *); int fstatat(int, const char *, struct status *, int);
        int stat64(const char *, struct status *); int fstatat64(int, const char *, struct status *, int);
        long size_by(int way, const char *path, int file) {
            struct status found = {.size = -1};
            int failed = way == 0 ? stat(path, &found) : way == 1 ? lstat(path, &found) : way == 2 ? fstat(file, &found)
                : way == 3 ? fstatat(-100, path, &found, 0) : way == 4 ? stat64(path, &found)
                : fstatat64(-100, path, &found, 0);
            return failed ? -2 : found.size;
        }
    """
    path = tmp_path / "measured"
    path.write_bytes(bytes(12345))

    def only_the_versioned_ones(name: str) -> int | None:
        return None if name in STAT_FAMILY else jitlink.process().address_of(name)

    for resolver in (jitlink.process(), only_the_versioned_ones):
        with (
            jitlink.load(toolchain.zig_cc(source, "-fno-builtin"), link_against=[resolver]) as library,
            path.open() as file,
        ):
            size_by = library.function("size_by", ctypes.c_long, [ctypes.c_int, ctypes.c_char_p, ctypes.c_int])
            assert [size_by(way, os.fsencode(path), file.fileno()) for way in range(6)] == [12345] * 6
            assert size_by(0, os.fsencode(tmp_path / "absent"), -1) == -2


STAT_FAMILY = [f"{prefix}stat{suffix}" for prefix in ("", "l", "f") for suffix in ("", "64")] + ["fstatat", "fstatat64"]


def test_mknod_of_old_headers_reaches_libc(tmp_path):
    """mknod and mknodat make a named pipe through the versioned functions of libc."""
    source = """
        int mknod(const char *, unsigned, unsigned long); int mknodat(int, const char *, unsigned, unsigned long);
        int make(const char *one, const char *other) { return mknod(one, 010600, 0) | mknodat(-100, other, 010600, 0); }
    """

    def only_the_versioned_ones(name: str) -> int | None:
        return None if name in ("mknod", "mknodat") else jitlink.process().address_of(name)

    with jitlink.load(toolchain.zig_cc(source), link_against=[only_the_versioned_ones]) as library:
        make = library.function("make", ctypes.c_int, [ctypes.c_char_p, ctypes.c_char_p])
        assert make(os.fsencode(tmp_path / "one"), os.fsencode(tmp_path / "other")) == 0
    assert (tmp_path / "one").is_fifo()
    assert (tmp_path / "other").is_fifo()

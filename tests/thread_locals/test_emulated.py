"""Thread-locals of every machine and format in the emulated CPU, which has one thread."""

from __future__ import annotations

import pytest

import jitlink
from tests import toolchain
from tests.thread_locals.programs import MODELS

pytest.importorskip("unicorn")

SOURCE = """
    __thread int counter = 40;
    __thread long zero;
    static __thread int hidden_in_file = 7;
    static __thread signed char large[5000];
    int target_of_pointer = 5;
    __thread int *pointer = &target_of_pointer;
    int bump(int by) { counter += by; return counter + hidden_in_file++; }
    long count(void) { return zero++; }
    int touched(int index) { large[index] += index % 100; return large[index]; }
    int through_pointer(void) { return ++*pointer; }
    int *where(void) { return &counter; }
"""
PROTOTYPES = "int bump(int); long count(void); int touched(int); int through_pointer(void); int *where(void);"
ELF = [
    (f"{machine}-linux-gnu", f"-ftls-model={model}") for machine in ("x86_64", "aarch64", "riscv64") for model in MODELS
]
ELF += [("riscv64-linux-gnu", f"-mtls-dialect={dialect}") for dialect in ("trad", "desc")]
VARIANTS: list[tuple[str, ...]] = [(target, "-O2", "-fPIC", flag) for target, flag in ELF]
VARIANTS += [(f"{machine}-macos", level) for machine in ("x86_64", "aarch64") for level in ("-O0", "-O2")]


@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_variables_hold_their_values_in_the_emulated_thread(variant: tuple[str, ...]) -> None:
    """Initialised, zeroed, large and static variables, and a pointer that a relocation fills."""
    target, *flags = variant
    with jitlink.Session(target=target.partition("-")[0], emulate=True) as session:
        dylib = session.dylib().add(toolchain.zig_cc(SOURCE, *flags, target=target))
        library = dylib.library
        library.cdef(PROTOTYPES)
        assert [library.bump(3), library.bump(1)] == [50, 52]
        assert [library.count(), library.count()] == [0, 1]
        assert [library.touched(4999), library.touched(4999), library.touched(3)] == [99, -58, 3]
        assert library.through_pointer() == 6


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_dylibs_of_an_emulated_session_share_a_variable(machine: str) -> None:
    """Code of one dylib sees the variable of another one; each has blocks of its own beside that."""
    target = f"{machine}-linux-gnu"
    with jitlink.Session(target=machine, emulate=True) as session:
        owner = session.dylib("owner").add(toolchain.zig_cc("__thread long shared = 100;", target=target))
        user = session.dylib("user")
        user.link_against(owner, user.outside)
        source = """
            extern __thread long shared;
            static __thread long own = 1;
            long add(long by) { return shared += by + own++; }
        """
        library = user.add(toolchain.zig_cc(source, "-O2", target=target)).library
        library.cdef("long add(long);")
        assert [library.add(1), library.add(10)] == [102, 114]


def test_room_of_closed_dylibs_is_given_out_again() -> None:
    """A dylib that is opened and closed over and over uses no more than once."""
    code = toolchain.zig_cc(f"__thread char large[{1 << 20}]; char *f(int i) {{ return &large[i]; }}", "-O2")
    with jitlink.Session(target="x86_64", emulate=True) as session:
        for _ in range(40):
            dylib = session.dylib().add(code)
            dylib.link()
            dylib.close()


def test_more_than_the_emulated_thread_has_is_refused() -> None:
    """The room about the thread pointer is bounded."""
    code = toolchain.zig_cc(f"__thread char large[{1 << 26}]; char *f(int i) {{ return &large[i]; }}", "-O2")
    with jitlink.Session(target="x86_64", emulate=True) as session:
        dylib = session.dylib().add(code)
        with pytest.raises(jitlink.MemoryRefused, match="0x4000000 bytes of thread-locals do not fit"):
            dylib.link()

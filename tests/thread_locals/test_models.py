"""Every access model gives each thread its own copy, as the same source in a shared library does."""

from __future__ import annotations

import ctypes

import pytest

import jitlink
from tests import toolchain
from tests.thread_locals.programs import (
    COUNTERS,
    MODELS,
    NATIVE,
    THREADS,
    compiled,
    functions_at,
    on_threads,
    transcript,
)

pytestmark = NATIVE

VARIANTS: list[tuple[str, ...]] = [("zig", "-O2"), ("zig", "-O0")]
VARIANTS += [(compiler, "-O2", "-fPIC", f"-ftls-model={model}") for compiler in ("gcc", "clang") for model in MODELS]
VARIANTS += [(compiler, "-O2", "-fno-pic") for compiler in ("gcc", "clang")]
VARIANTS += [
    (compiler, "-O2", "-fPIC", code, f"-ftls-model={model}")
    for compiler in ("gcc", "clang")
    for code in ("-fno-plt", "-mcmodel=large")
    for model in MODELS[:2]
]
VARIANTS += [("gcc", "-O2", "-fPIC", "-mtls-dialect=gnu2", f"-ftls-model={model}") for model in MODELS[:2]]

MEGABYTES = """
    __thread long block[1 << 18] = {48};
    long sum(void) { long all = 0; for (int i = 0; i < 1 << 18; i++) all += block[i]++; return all; }
"""


@pytest.fixture(scope="module")
def expected() -> list[int]:
    """What a thread gets from a shared library of the same source."""
    library = ctypes.CDLL(str(toolchain.link_shared([toolchain.zig_cc(COUNTERS, "-O2")])))
    functions = functions_at(lambda name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
    result: list[int] = on_threads(1, lambda: transcript(functions))[0]
    return result


@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_each_thread_has_its_own_copy(variant: tuple[str, ...], expected: list[int]) -> None:
    """Eight threads at once count what one thread counts in a shared library, with copies at eight addresses."""
    compiler, *flags = variant
    with jitlink.Session() as session:
        dylib = session.dylib()
        dylib.add(compiled(compiler, COUNTERS, *flags))
        functions = functions_at(lambda name: dylib[name].address)
        where = ctypes.CFUNCTYPE(ctypes.c_void_p)(dylib["where"].address)
        results = on_threads(THREADS, lambda: (transcript(functions), where()))
    assert [counts for counts, _ in results] == [expected] * THREADS
    assert len({address for _, address in results}) == THREADS


@pytest.mark.parametrize("model", MODELS[:2])
@pytest.mark.parametrize("dialect", ["gnu", "gnu2"])
def test_dynamic_blocks_may_have_any_size(model: str, dialect: str) -> None:
    """Two MiB for each thread, far more than static TLS has, by __tls_get_addr and by descriptors."""
    # glibc before 2.39 does not keep vector registers when a descriptor makes a block (its bug 31372).
    flags = "-O2", "-fno-tree-vectorize", "-fPIC", f"-ftls-model={model}", f"-mtls-dialect={dialect}"
    with jitlink.Session() as session:
        dylib = session.dylib().add(compiled("gcc", MEGABYTES, *flags))
        total = ctypes.CFUNCTYPE(ctypes.c_long)(dylib["sum"].address)
        assert on_threads(3, lambda: [total(), total()]) == [[48, 48 + (1 << 18)]] * 3


def test_an_object_may_have_variables_that_nothing_initialises() -> None:
    """A template without content: only zeroes."""
    source = "__thread int only; int next(void) { return ++only; }"
    with jitlink.Session() as session:
        following = ctypes.CFUNCTYPE(ctypes.c_int)(session.dylib().add(toolchain.zig_cc(source))["next"].address)
        assert on_threads(2, lambda: [following(), following()]) == [[1, 2]] * 2


def test_templates_of_several_objects_become_one() -> None:
    """Initialised and zeroed variables of three objects lie in one block, each aligned as it asks."""
    objects = [
        toolchain.zig_cc(
            f"__thread char small{n} = {n}; __thread __attribute__((aligned({16 << n}))) int wide{n};"
            f"__thread long given{n} = {n * 100}; long sum{n}(void)"
            f" {{ return (unsigned long)&wide{n} % {16 << n} ? -1 : small{n} + wide{n}++ + given{n}; }}"
        )
        for n in range(3)
    ]
    with jitlink.Session() as session:
        dylib = session.dylib().add(*objects)
        sums = [ctypes.CFUNCTYPE(ctypes.c_long)(dylib[f"sum{n}"].address) for n in range(3)]
        wanted = [0, 101, 202, 1, 102, 203]
        assert on_threads(4, lambda: [each() for each in (*sums, *sums)]) == [wanted] * 4


def test_a_common_thread_local_is_one_variable() -> None:
    """Tentative definitions of .tls_common in two objects are one variable, which is thread-local."""
    text = """
        .tls_common shared, 4, 4
        .text
        .globl {name}
        {name}:
            subq $8, %rsp
            .byte 0x66
            leaq shared@tlsgd(%rip), %rdi
            .word 0x6666
            rex64
            call __tls_get_addr@PLT
            incl (%rax)
            movl (%rax), %eax
            addq $8, %rsp
            ret
    """
    toolchain.needs("gcc")
    objects = [
        toolchain.compile_with(text.format(name=name), compiler="gcc", language="assembler")
        for name in ("first", "second")
    ]
    with jitlink.Session() as session:
        dylib = session.dylib().add(*objects)
        calls = [ctypes.CFUNCTYPE(ctypes.c_int)(dylib[name].address) for name in ("first", "second", "first")]
        assert on_threads(2, lambda: [call() for call in calls]) == [[1, 2, 3]] * 2


def test_a_symbol_stands_for_the_copy_of_the_thread_that_looks_it_up() -> None:
    """As dlsym has it: the address of a thread-local is that of the calling thread's copy."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(toolchain.zig_cc(COUNTERS, "-O2"))
        where = ctypes.CFUNCTYPE(ctypes.c_void_p)(dylib["where"].address)
        for counter, own in on_threads(2, lambda: (dylib["counter"].address, where())):
            assert counter == own


def test_linking_without_thread_locals_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that has no thread-locals asks the dynamic loader for none."""
    import jitlink.runtime.thread_locals as runtime

    monkeypatch.setattr(runtime, "_Library", None)
    with jitlink.Session() as session:
        assert session.dylib().add(toolchain.zig_cc("int plain(void) { return 1; }"))["plain"].address

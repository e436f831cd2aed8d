"""The language of native helpers: what a function does in Python is what its machine code does."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.native.dialect import MASK
from jitlink.bpf.native.translator import exported_names, translate
from tests.bpf import native_samples
from tests.bpf.machines import needs_native_code

pytest.importorskip("llvmlite")
pytestmark = needs_native_code

BYTES = 96
words = st.integers(0, MASK) | st.integers(0, 70) | st.sampled_from([MASK, 1 << 63, 1 << 32, native_samples.LIMIT])


@cache
def compiled() -> dict[str, Any]:
    """The samples as C functions of two numbers."""
    from jitlink.bpf.llvm_tier.images import load_functions
    from jitlink.llvm import compile_ir

    names = exported_names(native_samples)
    content = compile_ir(translate([native_samples], platform.machine()).encode(), "samples")
    addresses, pages = load_functions(content, dict(zip(names, names, strict=True)), {})
    functions: dict[str, Any] = {"pages": pages}
    for name in names:
        result = None if name == "nothing" else ctypes.c_uint64
        functions[name] = ctypes.CFUNCTYPE(result, ctypes.c_uint64, ctypes.c_uint64)(addresses[name])
    return functions


@pytest.mark.parametrize("name", ["arithmetic", "conditions", "loops", "early"])
def test_machine_code_computes_what_python_computes(name):
    """Operators, conditions and loops have the same results for any numbers."""

    @settings(max_examples=300, deadline=None)
    @given(words, words)
    def check(one, other):
        assert compiled()[name](one, other) == getattr(native_samples, name)(one, other)

    check()


def test_machine_code_does_with_memory_what_python_does():
    """Accesses of all sizes, aligned or not, and single steps have the same results and leave the same bytes."""

    @settings(max_examples=200, deadline=None)
    @given(words, st.binary(min_size=BYTES, max_size=BYTES), st.sampled_from([7, 8, 9]))
    def check(one, content, expected):
        outcomes = []
        for function in (native_samples.memory, compiled()["memory"]):
            buffer = (ctypes.c_uint64 * (BYTES // 8))()
            ctypes.memmove(buffer, content, BYTES)
            buffer[8] = expected
            outcomes.append((function(one, ctypes.addressof(buffer)), bytes(buffer)))
        assert outcomes[0] == outcomes[1]

    check()


def test_a_function_may_return_nothing():
    """A function without a result ends where it returns, or at its end."""
    place = ctypes.c_uint64(9)
    compiled()["nothing"](ctypes.addressof(place), 1)
    assert place.value == 9
    compiled()["nothing"](ctypes.addressof(place), 5)
    assert place.value == 5


def module_of(tmp_path: Any, body: str) -> ModuleType:
    """A module with a function in it."""
    import importlib.util

    path = tmp_path / "sample.py"
    path.write_text(f"from jitlink.bpf.native.dialect import *\n\ndef f(a: int, b: int) -> int:\n    {body}\n")
    specification = importlib.util.spec_from_file_location("sample", path)
    assert specification is not None
    assert specification.loader is not None
    made = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    "body",
    [
        "return a / b",
        "return a ** b",
        "return a < b < 5",
        "return a is b",
        "return [a][0]",
        "return unknown",
        "return len('x')",
        "a, b = b, a",
        "a = b = 5",
        "return f(a, b=b)",
        "return 1.5",
        "with a: return b",
        "for a in b: pass",
        "while a: pass\n    else: return 1",
        "return unknown[a]",
    ],
)
def test_what_is_not_in_the_language_is_refused(tmp_path, body):
    """Nothing is translated into something else than what it says."""
    with pytest.raises(AssertionError, match="not in the language of native helpers"):
        translate([module_of(tmp_path, body)], "x86_64")


@pytest.mark.parametrize(
    ("machine", "hint"), [("x86_64", "sse2.pause"), ("aarch64", "aarch64.hint(i32)"), ("riscv64", "")]
)
def test_the_library_is_for_every_machine(machine, hint):
    """LLVM makes an object of the library for each machine with a back end."""
    from llvmlite import binding

    from jitlink.bpf.native.library import SOURCES
    from jitlink.llvm import compile_ir

    text = translate(SOURCES, machine)
    assert hint in text
    triple = f"{machine}-unknown-linux-gnu"
    made = compile_ir(text.encode(), "library", triple=triple)
    assert made[:4] == b"\x7fELF"
    assert b"__atomic" not in made, "atomic operations are instructions, not calls of a library that we do not have"
    assert binding.parse_assembly(text).get_function("map_lookup_elem").linkage.name == "external"

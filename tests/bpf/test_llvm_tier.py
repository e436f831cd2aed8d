"""The optimising tier: loops that run without checks, its cache, and its bounds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.instructions import decode
from jitlink.bpf.jit.images import Image
from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.bpf.llvm_tier.loops import Sum
from jitlink.bpf.llvm_tier.machine import LlvmMachine
from jitlink.bpf.machine import Code
from jitlink.errors import UsageError
from tests.bpf.differential import BUFFER, World
from tests.bpf.machines import llvm_machine, needs_native_code

pytest.importorskip("llvmlite")
pytestmark = needs_native_code

SUM = "r0 = 0\nagain:\nr0 += r1\nr1 += -1\nif r1 != 0 goto again\nexit"


def machine(**options: Any) -> LlvmMachine:
    """A machine of the tier."""
    made = llvm_machine(**options)
    assert isinstance(made, LlvmMachine)
    return made


def code(text: str) -> Code:
    """A program from assembly."""
    return Code(decode(bpf.assemble(text)), "program")


sizes = st.sampled_from([("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)])


@st.composite
def loops(draw: st.DrawFn) -> str:
    """A program with one loop that walks the buffer, and mostly leaves it sooner or later."""
    lines = [f"r3 = {draw(st.integers(0, BUFFER))}", "r4 = r1", "r4 += r3", f"r5 = {draw(st.integers(-4, 20))}"]
    lines += ["r6 = 0", "r7 = 0", f"r8 = {draw(st.integers(0, 3))}", "again:"]
    for _ in range(draw(st.integers(1, 3))):
        name, _ = draw(sizes)
        offset = draw(st.integers(-4, 8))
        shift = draw(st.sampled_from([None, None, 0, 1, 3]))
        base = "r4"
        if shift is not None:
            lines += ["r2 = r6", f"r2 <<= {shift}", "r2 += r1"]
            base = "r2"
        place = f"*({name} *)({base} {'-' if offset < 0 else '+'} {abs(offset)})"
        lines += draw(
            st.sampled_from([[f"r9 = {place}", "r7 += r9"], [f"{place} = r7"], [f"{place} = r6", "r7 ^= r6"]])
        )
    lines += [f"r4 += {draw(st.integers(-9, 9))}", "r6 += 1", "r5 += -1"]
    jump = draw(st.sampled_from(["if r5 != 0 goto again", "if r5 s> r8 goto again", "if r6 < r3 goto again"]))
    turned = ["if r5 == 0 goto end", "goto again", "end:"]
    lines += draw(st.sampled_from([[jump], turned]))
    return "\n".join([*lines, "r0 = r7", "r0 ^= r6", "r0 ^= r5", "exit"])


@pytest.mark.parametrize("metered", [True, False], ids=["metered", "unmetered"])
def test_loops_do_what_the_interpreter_does(metered):
    """A loop that runs without checks faults in the same round, and ends its budget at the same instruction."""

    @settings(settings.get_profile("mutations"))
    @given(loops(), st.integers(0, 300))
    def check(text, budget):
        world = World(machine(metered=metered))
        program = code(text)
        budget = budget if metered else 1 << 20
        expected = world.interpreted(program, (), budget)
        if metered or expected[1][1]:
            found = world.outcome(program, (), budget)
            assert found[0] == expected[0]
            assert found[2] == expected[2]
            assert not metered or found[1] == expected[1]
        world.close()

    check()


def test_sums_are_added_and_multiplied_as_numbers_are():
    """A symbolic sum follows the arithmetic of what it stands for."""
    first, second = Sum(((1, 2), (3, 1)), 5), Sum(((1, -2),), 7)

    def value(sum: Sum) -> int:
        return sum.constant + sum_of(sum.terms)

    def sum_of(terms: tuple[tuple[int, int], ...]) -> int:
        return sum(factor * (10**register) for register, factor in terms)

    assert value(first.plus(second)) == value(first) + value(second)
    assert value(first.plus(second, -1)) == value(first) - value(second)
    assert value(first.times(6)) == 6 * value(first)
    assert first.plus(second).terms == ((3, 1),)


def test_large_programs_stay_in_the_one_pass_tier():
    """Past its bound a program is not given to LLVM, and comes to the same."""
    made = machine()
    made.most_slots = 3
    assert made.run(code(SUM), 10) == 55


def test_functions_with_many_checks_stay_in_the_one_pass_tier():
    """LLVM's time for a function that can be left from many places has no bound in its size, so it does not get it."""
    lines = [f"r3 = *(u64 *)(r1 + {8 * (number % 8)})\nr0 += r3\nif r0 == {number} goto end" for number in range(200)]
    world = World(machine())
    program = code("\n".join(["r0 = 0", *lines, "end:", "exit"]))
    assert world.outcome(program, (), 10_000) == world.interpreted(program, (), 10_000)
    (image,) = program.made[world.machine].images.values()
    assert isinstance(image, Image)
    world.close()


def test_what_is_kept_on_disk_is_used_again_and_checked(tmp_path):
    """An object is written once, is private to its owner, and is not used once a byte of it has changed."""
    directory = tmp_path / "kept"
    assert machine(kept=ObjectCache(directory)).run(code(SUM), 10) == 55
    (kept,) = directory.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    cache = ObjectCache(directory)
    content = cache.get(kept.name)
    assert content is not None
    assert content.startswith(b"\x7fELF")
    assert machine(kept=cache).run(code(SUM), 10) == 55
    assert len(list(directory.iterdir())) == 1
    damaged = bytearray(kept.read_bytes())
    damaged[-1] ^= 1
    kept.write_bytes(damaged)
    assert cache.get(kept.name) is None
    assert machine(kept=cache).run(code(SUM), 10) == 55


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_directory_that_others_can_write_to_is_not_used(tmp_path):
    """Whoever can write to the cache chooses code that we run, so such a directory holds nothing for us."""
    cache = ObjectCache(tmp_path)
    cache.put("name", b"content")
    assert cache.get("name") == b"content"
    tmp_path.chmod(0o777)
    assert cache.get("name") is None


def test_a_directory_that_cannot_be_made_is_no_error(tmp_path):
    """A cache that cannot be written is none."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    cache = ObjectCache(Path(file, "below"))
    cache.put("name", b"content")
    assert cache.get("name") is None


def test_the_tier_is_chosen_by_its_name(monkeypatch, tmp_path):
    """bpf.load(..., tier="llvm") runs what LLVM has made; it is kept unless cache=False."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = bpf.load(bpf.assemble(SUM), tier="llvm", cache=False)
    assert isinstance(program.object.machine, LlvmMachine)
    assert program.call(10) == 55
    assert not list(tmp_path.iterdir())
    assert bpf.load(bpf.assemble(SUM), tier="llvm").call(10) == 55
    assert list(tmp_path.glob("jitlink/bpf/*"))


def test_hardened_code_is_that_of_the_one_pass_tier():
    """LLVM's code is not hardened, and asking for both is refused."""
    with pytest.raises(UsageError, match="hardened"):
        bpf.load(bpf.assemble(SUM), tier="llvm", hardened=True)


def test_auto_moves_to_llvm_when_it_is_hot(monkeypatch, tmp_path):
    """A program that is called again and again is compiled by LLVM meanwhile, and its results stay the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = bpf.load(bpf.assemble(SUM), tier="auto")
    warm = program.object.machine
    assert isinstance(warm, LlvmMachine)
    assert not warm.is_optimised(program.code)
    while not warm.is_optimised(program.code):
        assert program.call(1000) == 500500
    assert program.call(1000) == 500500

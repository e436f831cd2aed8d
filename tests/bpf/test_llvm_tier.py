"""The optimising tier: loops that run without checks, its cache, and its bounds."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.helpers import HelperTable, Host
from jitlink.bpf.instructions import ByteOrder, decode
from jitlink.bpf.jit.images import Image
from jitlink.bpf.llvm_tier import objects
from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.bpf.llvm_tier.images import LlvmImage
from jitlink.bpf.llvm_tier.loops import Sum
from jitlink.bpf.llvm_tier.machine import LlvmCode, LlvmMachine
from jitlink.bpf.machine import Code
from jitlink.bpf.many import CHUNK
from jitlink.bpf.maps import MapDefinition, Maps, MapType
from jitlink.bpf.tiers import AutoTier
from jitlink.errors import MissingExtra, UsageError
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
def test_loops_come_to_the_same(metered):
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


@pytest.mark.parametrize("sandbox", [True, False], ids=["sandboxed", "trusted"])
def test_atomic_operations_on_the_frame_stay_in_order_with_loads(sandbox):
    """A load behind an atomic operation on the same bytes of the frame gives what the operation has left there."""
    text = """
        r9 = 3
    again:
        r0 = *(s16 *)(r10 - 8)
        w3 += 1
        lock *(u64 *)(r10 - 8) += r3
        r9 += -1
        if r9 != 0 goto again
        exit
    """
    assert machine(sandbox=sandbox, metered=False).run(code(text)) == 1 + 2


def test_an_atomic_operation_of_the_other_byte_order_finds_what_the_frame_holds():
    """Python carries it out, on the bytes that were stored before, and loads behind it see what it has left."""
    text = "*(u64 *)(r10 - 8) = r1\nlock *(u64 *)(r10 - 8) += r2\nr0 = *(u64 *)(r10 - 8)\nexit"
    order: ByteOrder = "big" if sys.byteorder == "little" else "little"
    program = Code(decode(bpf.assemble(text, byteorder=order), order), "program")
    assert machine().run(program, 5, 6) == 11


def test_a_tail_call_leaves_the_frame_as_it_is():
    """The program that goes on reads what the one before has stored, also if that would have stored something else."""
    other = code("r0 = *(u64 *)(r10 - 8)\nexit")

    def go_on(machine: Any, *registers: int) -> int:
        machine.tail_call(other)
        return 0

    first = code("*(u64 *)(r10 - 8) = r1\ncall 1\n*(u64 *)(r10 - 8) = r2\nr0 = 0\nexit")
    assert machine(helpers={1: go_on}).run(first, 5, 6) == 5


def test_a_tail_call_leads_from_either_sort_of_code_to_the_other():
    """A program that LLVM has optimised goes on in one of one pass, and the other way round, any number of times."""
    small, large = code("r6 = r1\ncall 1\nexit"), code("r6 = r1\nr6 += 1\nr6 += 1\nr1 = r6\ncall 1\nexit")
    chain: list[Code] = []
    seen: list[int] = []

    def go_on(machine: Any, first: int, *registers: int) -> int:
        seen.append(first)
        if chain:
            machine.tail_call(chain.pop())
        return 77

    made = machine(helpers={1: go_on})
    made.most_slots = 4
    for _ in range(20):
        for first, others, numbers in (
            (small, [large, small, large], [1, 3, 3, 5]),
            (large, [large, small], [3, 3, 5]),
        ):
            chain[:], seen[:] = others, []
            assert (made.run(first, 1), seen) == (77, numbers)
    (kept,) = small.made[made].images.values()
    assert not isinstance(kept, Image)


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


STRAIGHT = """
define i64 @straight(i64 %x) nounwind {
  %place = alloca i64
  store i64 %x, ptr %place
  %again = load i64, ptr %place
  %sum = add i64 %again, %x
  ret i64 %sum
}
"""


def test_functions_that_are_passed_over_are_optimised_too():
    """What of a large module does not go through all passes has gone through some, and its code is no other's."""
    assert objects.object_of(STRAIGHT, None, {"another"}) == objects.object_of(STRAIGHT, None)


def test_which_functions_get_all_passes_is_part_of_what_an_object_is_kept_under(tmp_path):
    """An object is not taken for one that was made of the same text in another way."""
    kept = ObjectCache(tmp_path / "kept")
    for thorough in (None, (), {"straight"}, {"straight"}):
        objects.object_of(STRAIGHT, kept, thorough)
    assert len(list(kept.directory.iterdir())) == 3


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


@pytest.fixture
def no_llvm(monkeypatch):
    """Let there be no llvmlite."""

    def missing() -> NoReturn:
        raise MissingExtra("llvmlite", "llvm", "the llvm tier of BPF programs")

    monkeypatch.setattr(objects, "_binding", missing)


def auto(text: str, **options: Any) -> tuple[bpf.Program, LlvmCode]:
    """A program in the tier auto, and what there is of it in native code."""
    program = bpf.load(bpf.assemble(text), tier="auto", cache=False, **options)
    machine = program.object.machine
    assert isinstance(machine, LlvmMachine)
    compiled = machine.compiled(program.code)
    assert isinstance(compiled, LlvmCode)
    return program, compiled


def image_of(compiled: LlvmCode) -> Any:
    """The image that runs enter."""
    (image,) = set(compiled.by_context.values())
    return image


def wait_for(compiled: LlvmCode) -> None:
    """Wait until the thread that compiles by LLVM has ended."""
    assert compiled.optimising is not None
    compiled.optimising.join()


def test_auto_moves_to_llvm_when_it_is_hot():
    """A program that is called again and again is compiled by LLVM meanwhile, and its results stay the same."""
    program, compiled = auto(SUM)
    for _ in range(AutoTier.hot_after):
        assert compiled.optimising is None
        assert isinstance(image_of(compiled), Image)
        assert program.call(1000) == 500500
    wait_for(compiled)
    assert isinstance(image_of(compiled), LlvmImage)
    assert program.call(1000) == 500500


def test_a_long_run_of_packets_moves_to_llvm_in_its_midst():
    """What runs many packets enters the new code from its next part on, and every packet has the result of its own."""
    program, compiled = auto("r0 = r1\nr0 = *(u8 *)(r0 + 0)\nr0 *= 3\nexit", context="flat")
    entered = []

    def progress(done: int, total: int) -> None:
        entered.append(type(image_of(compiled)))
        wait_for(compiled)

    packets = np.arange(2 * CHUNK + 5, dtype=np.uint64).astype(np.uint8).reshape(-1, 1)
    results = program.run_many(packets, progress=progress)
    assert entered[1:] == [LlvmImage, LlvmImage]
    assert (results.r0 == packets[:, 0] * np.uint64(3)).all()
    assert set(results.instructions.tolist()) == {4}


def test_without_llvm_auto_stays_in_one_pass(no_llvm, monkeypatch):
    """Where LLVM is not there programs run as they did, and nobody hears of it."""
    heard: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    program, compiled = auto(SUM)
    for _ in range(AutoTier.hot_after + 1):
        assert program.call(1000) == 500500
    wait_for(compiled)
    assert program.call(1000) == 500500
    assert isinstance(image_of(compiled), Image)
    assert not heard


def test_without_llvm_its_tier_says_what_is_missing(no_llvm):
    """Who asks for the tier itself hears what to install."""
    with pytest.raises(MissingExtra, match="llvmlite"):
        bpf.load(bpf.assemble(SUM), tier="llvm", cache=False)


def test_a_helper_that_is_replaced_while_llvm_is_at_work_is_called(monkeypatch):
    """Code that was begun with the old helper inside does not come into use with it."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> bytes:
        begun.set()
        go_on.wait()
        return objects.object_of(*arguments)

    monkeypatch.setattr("jitlink.bpf.llvm_tier.machine.object_of", slow)
    machine = llvm_machine(hot_after=3)
    maps = Maps(machine.regions)
    values: Any = maps.create(MapDefinition("values", MapType.ARRAY, 4, 8, 4))
    machine.maps = maps.by_address
    machine.helpers.update(HelperTable(Host(maps)).by_number)
    lookup = f"*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = {values.address:#x} ll\ncall 1\nexit"
    program = code(lookup)
    for _ in range(3):
        assert machine.run(program) == values.base
    compiled = program.made[machine]
    begun.wait()
    machine.helpers[1] = lambda machine, *registers: 5
    assert machine.run(program) == 5
    go_on.set()
    wait_for(compiled)
    assert machine.run(program) == 5

"""Memory is where it was asked for, what it was asked to be, never writable and executable, and goes away.

The oracle is the kernel's own account: /proc/self/maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

import jitlink
import jitlink.memory
from jitlink.errors import MemoryRefused, UsageError
from jitlink.memory import Policy, Protection, Reservation, page_size, plan_gap, reserve
from jitlink.memory.gaps import free_gaps

if sys.platform != "linux":
    pytest.skip("these tests read /proc/self/maps", allow_module_level=True)

from jitlink.memory import linux

READ, READ_WRITE = Protection.READ, Protection.READ | Protection.WRITE
READ_EXECUTE = Protection.READ | Protection.EXECUTE
PAGE = page_size()
RETURN_48 = bytes.fromhex("b830000000 c3")  # mov $48, %eax; ret
TWO_GIB = 1 << 31

BOTH: tuple[Policy, Policy] = ("mprotect", "dual")
both_policies = pytest.mark.parametrize("policy", BOTH)
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the machine code in this test is x86-64")


def mappings() -> list[tuple[int, int, str, str]]:
    """The kernel's account: start, end, permissions such as 'rw-p', and what is mapped."""
    lines = (line.split(None, 5) for line in Path("/proc/self/maps").read_text().splitlines())
    return [
        (*(int(end, 16) for end in line[0].split("-")), line[1], line[5] if len(line) > 5 else "")  # type: ignore[misc]
        for line in lines
    ]


def permissions(address: int, size: int) -> set[str]:
    """What the kernel permits anywhere in a range."""
    return {allowed[:3] for start, end, allowed, _ in mappings() if start < address + size and address < end}


def bytes_at(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def code_mappings() -> list[tuple[int, int, str, str]]:
    """What is mapped of our memory files; the templates of thread-locals are the loader's, and may outlive a test."""
    return [mapping for mapping in mappings() if "memfd:jitlink" in mapping[3] and "thread-locals" not in mapping[3]]


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def in_subprocess(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(jitlink.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# Reservations


def test_reservation_is_addresses_only() -> None:
    """A reservation permits no access, has whole pages, and takes no memory."""
    with reserve(10 * PAGE + 1) as reservation:
        assert reservation.base % PAGE == 0
        assert reservation.size == 11 * PAGE
        assert permissions(reservation.base, reservation.size) == {"---"}


def test_a_large_reservation_costs_nothing() -> None:
    """64 GiB of addresses do not show in the memory of the process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with reserve(64 << 30) as reservation:
        assert reservation.size == 64 << 30
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, 64 << 20])
def test_reservation_lies_below_2_gib_when_asked(size: int) -> None:
    """Absolute 32-bit signed references need addresses below 2 GiB, and page 0 stays free."""
    with reserve(size, high=TWO_GIB) as reservation:
        assert reservation.base >= 0x10000
        assert reservation.base + reservation.size <= TWO_GIB


def test_reservation_is_near_libc_when_asked() -> None:
    """References of 32 bits reach from everywhere in the range to the function it was placed near."""
    address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
    assert address is not None
    with reserve(64 << 20, near=address) as reservation:
        assert max(abs(reservation.base - address), abs(reservation.base + reservation.size - address)) < TWO_GIB


@pytest.mark.parametrize("size", [PAGE, 16 << 20])
def test_no_free_place_is_closer_than_the_one_taken(size: int) -> None:
    """The range lies in the gap of /proc/self/maps that is closest, or as close as a huge page allows."""
    address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
    assert address is not None
    taken = list(linux._taken_ranges())
    closest = plan_gap(taken, size, low=0x10000, high=1 << 47, near=address, alignment=PAGE)
    assert closest is not None
    with reserve(size, near=address) as reservation:
        assert abs(reservation.base + size // 2 - address) - abs(closest + size // 2 - address) < 64 << 20


def test_two_reservations_do_not_meet() -> None:
    """A second reservation near the same address goes beside the first."""
    with reserve(1 << 20, high=TWO_GIB, near=1 << 30) as one, reserve(1 << 20, high=TWO_GIB, near=1 << 30) as two:
        assert one.base + one.size <= two.base or two.base + two.size <= one.base


def test_window_without_room_is_refused() -> None:
    """The error names the size, the window and the room that there is."""
    with reserve(16 * PAGE, high=TWO_GIB) as reservation:
        low, high = reservation.base, reservation.base + reservation.size
        with pytest.raises(MemoryRefused) as refused:
            reserve(4 * PAGE, low=low, high=high)
        for fact in (4 * PAGE, low, high):
            assert f"{fact:#x}" in str(refused.value)
        assert "largest free range there has 0x0 bytes" in str(refused.value)


@pytest.mark.parametrize(("low", "high"), [(TWO_GIB, 0), (0, 0x10000), (0, 0), (-5, -1), (1 << 60, 1 << 61)])
def test_impossible_windows_are_refused(low: int, high: int) -> None:
    """An empty window, the lowest 64 KiB and addresses that no process has are refused, not crashed on."""
    with pytest.raises(MemoryRefused):
        reserve(PAGE, low=low, high=high)
    with pytest.raises(MemoryRefused):
        reserve(PAGE, low=low, high=high, near=low)


def test_more_than_the_address_space_is_refused() -> None:
    """A size beyond all addresses is MemoryRefused from the kernel's own answer."""
    with pytest.raises(MemoryRefused, match="0x4000000000000000 bytes"):
        reserve(1 << 62)


def test_place_that_another_thread_takes_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that is taken between looking and mapping is left alone, and another one is found."""
    with reserve(PAGE, high=TWO_GIB) as theirs:
        honest = linux._taken_ranges
        blind = [[span for span in honest() if span[0] != theirs.base]]
        monkeypatch.setattr(linux, "_taken_ranges", lambda: blind.pop() if blind else honest())
        with reserve(PAGE, high=theirs.base + 2 * PAGE, near=theirs.base) as ours:
            assert not blind
            assert ours.base != theirs.base


def test_kernel_that_takes_the_place_as_a_hint_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux before 4.17 ignores MAP_FIXED_NOREPLACE and maps elsewhere: that mapping is undone."""
    monkeypatch.setattr(linux, "MAP_FIXED_NOREPLACE", 0)
    with reserve(PAGE, high=TWO_GIB) as theirs:
        before = [mapping for mapping in mappings() if mapping[2] == "---p"]
        assert not linux._claimed(theirs.base, PAGE)
        assert [mapping for mapping in mappings() if mapping[2] == "---p"] == before


def test_search_for_a_place_ends() -> None:
    """A place that is never free although it looks so is refused after a bounded number of tries."""
    with reserve(PAGE, high=TWO_GIB) as theirs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(linux, "_taken_ranges", lambda: [(1 << 40, 1 << 41)])
        with pytest.raises(MemoryRefused, match="other threads"):
            reserve(PAGE, low=theirs.base, high=theirs.base + PAGE)


def test_stack_and_heap_keep_room_to_grow() -> None:
    """The place below the main stack and above the heap is not given away."""
    for start, end, _, name in mappings():
        if name == "[stack]":
            assert any(low <= start - (100 << 20) and end <= high for low, high in linux._taken_ranges())
        if name == "[heap]":
            assert any(low <= start and end + (100 << 20) <= high for low, high in linux._taken_ranges())


# Segments


@both_policies
@pytest.mark.parametrize("protection", [READ, READ_WRITE, READ_EXECUTE], ids=str)
def test_pages_are_zero_and_keep_what_was_written(policy: Policy, protection: Protection) -> None:
    """Pages start as zeros, and what the working view wrote is at the address after seal."""
    with reserve(8 * PAGE, policy=policy) as reservation:
        segment = reservation.commit(2 * PAGE, 3 * PAGE, protection)
        assert (segment.address, segment.size) == (reservation.base + 2 * PAGE, 3 * PAGE)
        assert segment.working.dtype == np.uint8
        assert segment.working.shape == (3 * PAGE,)
        assert not segment.working.any()
        segment.working[:] = np.arange(3 * PAGE, dtype=np.uint8)
        segment.seal()
        assert bytes_at(segment.address, segment.size) == np.arange(3 * PAGE, dtype=np.uint8).tobytes()
        assert permissions(segment.address, segment.size) == {
            "".join(letter if bit & protection else "-" for letter, bit in zip("rwx", (1, 2, 4), strict=True))
        }
        assert permissions(reservation.base, 2 * PAGE) == {"---"}
        assert permissions(segment.address + segment.size, 3 * PAGE) == {"---"}


@both_policies
def test_pages_are_never_writable_and_executable(policy: Policy) -> None:
    """At no step is there a page with both rights, or executable before seal, or writable after it."""
    before = [mapping for mapping in mappings() if "wx" in mapping[2]]
    with reserve(4 * PAGE, policy=policy) as reservation:
        segment = reservation.commit(0, 2 * PAGE, READ_EXECUTE)
        assert "x" not in "".join(permissions(segment.address, segment.size))
        assert [mapping for mapping in mappings() if "wx" in mapping[2]] == before
        assert not any("x" in mapping[2] for mapping in code_mappings())
        segment.working[:6] = list(RETURN_48)
        assert "x" not in "".join(permissions(segment.address, segment.size))
        segment.seal()
        assert permissions(segment.address, segment.size) == {"r-x"}
        assert [mapping for mapping in mappings() if "wx" in mapping[2]] == before
        assert not any("w" in mapping[2] for mapping in code_mappings())


def test_dual_mapping_does_not_copy() -> None:
    """The file that was written is the file that is executed: same inode before and after seal."""

    def inodes() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return [line.split()[4] for line in lines if "memfd:jitlink " in line]

    with reserve(PAGE, policy="dual") as reservation:
        segment = reservation.commit(0, PAGE, READ_EXECUTE)
        written = inodes()
        segment.seal()
        assert len(written) == 1
        assert inodes() == written


def test_sealed_file_can_never_be_mapped_writable_again() -> None:
    """Dual mapping: not even through /proc can the memory of sealed code be had writable."""
    with reserve(PAGE, policy="dual") as reservation:
        segment = reservation.commit(0, PAGE, READ_EXECUTE)
        files = open_files()
        segment.seal()
        assert len(open_files()) < len(files)
        path = f"/proc/self/map_files/{segment.address:x}-{segment.address + PAGE:x}"
        try:
            file = os.open(path, os.O_RDWR)
        except PermissionError:
            return
        try:
            with pytest.raises(PermissionError):
                os.pwrite(file, b"\xcc", 0)
            with pytest.raises(MemoryRefused):
                linux._mapped(None, PAGE, READ_WRITE, linux.MAP_SHARED, file)
        finally:
            os.close(file)


@x86_64
@both_policies
def test_code_runs_after_seal(policy: Policy) -> None:
    """Machine code written through the working view is callable at the address."""
    with reserve(PAGE, policy=policy) as reservation:
        segment = reservation.commit(0, PAGE, READ_EXECUTE)
        segment.working[:6] = list(RETURN_48)
        segment.seal()
        assert ctypes.CFUNCTYPE(ctypes.c_int)(segment.address)() == 48


@both_policies
def test_writing_to_sealed_code_faults(policy: Policy) -> None:
    """A write to sealed code, also through a view kept from before, ends the process with SIGSEGV."""
    source = f"""
from jitlink.memory import *
segment = reserve(page_size(), policy={policy!r}).commit(0, page_size(), Protection.READ | Protection.EXECUTE)
kept = segment.working
kept[0] = 0xC3
segment.seal()
print("sealed", flush=True)
"""
    through_view = in_subprocess(source + "kept[0] = 0x90")
    at_address = in_subprocess(source + "import ctypes; ctypes.memset(segment.address, 0x90, 1)")
    for result in (through_view, at_address):
        assert result.stdout == "sealed\n", result.stderr
        assert result.returncode == -11


def test_read_write_segment_stays_writable_at_its_address() -> None:
    """Data that the program changes is sealed without losing the right to be written."""
    with reserve(PAGE) as reservation:
        segment = reservation.commit(0, PAGE, READ_WRITE)
        segment.seal()
        ctypes.memset(segment.address, 0x5A, PAGE)
        assert bytes_at(segment.address, PAGE) == b"\x5a" * PAGE


@pytest.mark.parametrize(("protection", "advised"), [(READ_EXECUTE, True), (READ, True), (READ_WRITE, False)], ids=str)
def test_huge_pages_are_for_what_is_filled(protection: Protection, advised: bool) -> None:
    """Large segments written from end to end may have huge pages (VmFlags hg); sparse data may not."""
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    with reserve(8 << 20, policy="mprotect") as reservation:
        segment = reservation.commit(0, 4 << 20, protection)
        segment.seal()
        entry = Path("/proc/self/smaps").read_text().split(f"\n{segment.address:x}-")[1]
        flags = next(line for line in entry.splitlines() if line.startswith("VmFlags"))
        assert (" hg" in flags) == advised


@both_policies
def test_working_view_goes_with_seal(policy: Policy) -> None:
    """A sealed segment has no working view and cannot be sealed again."""
    with reserve(PAGE, policy=policy) as reservation:
        segment = reservation.commit(0, PAGE, READ_EXECUTE)
        segment.seal()
        with pytest.raises(ValueError, match="sealed"):
            _ = segment.working
        with pytest.raises(ValueError, match="sealed"):
            segment.seal()


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 0),
        (0, -PAGE),
        (-PAGE, PAGE),
        (1, PAGE),
        (0, PAGE + 1),
        (8 * PAGE, PAGE),
        (0, 9 * PAGE),
        (7 * PAGE, 2 * PAGE),
    ],
)
def test_pages_outside_the_range_are_refused(offset: int, size: int) -> None:
    """Part pages, no pages and pages outside the reservation are a bug of the caller."""
    with reserve(8 * PAGE) as reservation:
        with pytest.raises(ValueError, match="whole pages"):
            reservation.commit(offset, size, READ)
        with pytest.raises(ValueError, match="whole pages"):
            reservation.decommit(offset, size)


@pytest.mark.parametrize(("offset", "size"), [(2, 1), (3, 1), (4, 1), (2, 3), (1, 2), (4, 2), (1, 5), (0, 8)])
def test_pages_cannot_be_committed_twice(offset: int, size: int) -> None:
    """Committing what is committed, or part of it, is a bug of the caller; beside it is free."""
    with reserve(8 * PAGE) as reservation:
        reservation.commit(2 * PAGE, 3 * PAGE, READ)
        with pytest.raises(ValueError, match="committed already"):
            reservation.commit(offset * PAGE, size * PAGE, READ)
        reservation.commit(PAGE, PAGE, READ)
        reservation.commit(5 * PAGE, PAGE, READ)


@pytest.mark.parametrize(
    "protection", [Protection(0), Protection.WRITE, Protection.EXECUTE, Protection(6), Protection(7)]
)
def test_writable_and_executable_cannot_be_asked_for(protection: Protection) -> None:
    """The protections of a segment are READ, READ | WRITE and READ | EXECUTE."""
    with reserve(PAGE) as reservation, pytest.raises(ValueError, match="protection"):
        reservation.commit(0, PAGE, protection)


# Giving back


@both_policies
def test_decommitted_pages_are_free_and_come_back_as_zeros(policy: Policy) -> None:
    """Decommit frees whole segments; their addresses stay reserved and can be committed again."""
    with reserve(8 * PAGE, policy=policy) as reservation:
        code = reservation.commit(0, 2 * PAGE, READ_EXECUTE)
        code.working[:] = 0xCC
        code.seal()
        unsealed = reservation.commit(3 * PAGE, PAGE, READ_EXECUTE)
        kept = reservation.commit(4 * PAGE, PAGE, READ_WRITE)
        kept.working[:] = 7
        reservation.decommit(0, 4 * PAGE)
        assert permissions(reservation.base, 4 * PAGE) == {"---"}
        assert not code_mappings()
        with pytest.raises(ValueError, match="given back"):
            _ = unsealed.working
        assert (kept.working == 7).all()
        again = reservation.commit(PAGE, 2 * PAGE, READ)
        assert not again.working.any()


def test_segment_cannot_be_cut_in_two() -> None:
    """Decommit takes segments wholly or not at all, and a refused call changes nothing."""
    with reserve(8 * PAGE) as reservation:
        segment = reservation.commit(2 * PAGE, 3 * PAGE, READ_WRITE)
        for offset, size in [(2, 1), (4, 1), (3, 1), (0, 3), (4, 4)]:
            with pytest.raises(ValueError, match="in two"):
                reservation.decommit(offset * PAGE, size * PAGE)
        segment.working[:] = 1
        reservation.decommit(0, 8 * PAGE)


@both_policies
def test_release_unmaps_everything(policy: Policy) -> None:
    """After release nothing of it is mapped or open, sealed or not; a second release does nothing."""
    files = open_files()
    reservation = reserve(8 * PAGE, policy=policy)
    sealed = reservation.commit(0, PAGE, READ_EXECUTE)
    sealed.seal()
    unsealed = reservation.commit(PAGE, PAGE, READ_EXECUTE)
    reservation.commit(3 * PAGE, PAGE, READ)
    reservation.release()
    assert not permissions(reservation.base, reservation.size)
    assert not code_mappings()
    assert open_files() == files
    assert reservation.released
    reservation.release()
    with pytest.raises(ValueError, match="given back"):
        _ = unsealed.working
    with pytest.raises(ValueError, match="released"):
        reservation.commit(0, PAGE, READ)


def test_failure_inside_the_block_releases() -> None:
    """A link that fails inside `with` leaves nothing mapped."""

    def link(reservation: Reservation) -> None:
        with reservation:
            reservation.commit(0, PAGE, READ_EXECUTE)
            raise MemoryRefused

    reservation = reserve(4 * PAGE)
    with pytest.raises(MemoryRefused):
        link(reservation)
    assert reservation.released
    assert not permissions(reservation.base, reservation.size)


@both_policies
def test_nothing_leaks_over_many_rounds(policy: Policy) -> None:
    """Three hundred reservations with sealed and unsealed segments leave as many mappings and files as one."""

    def one_round() -> None:
        with reserve(4 * PAGE, policy=policy) as reservation:
            reservation.commit(0, PAGE, READ_EXECUTE).seal()
            reservation.commit(PAGE, PAGE, READ_EXECUTE)
            reservation.decommit(0, PAGE)

    one_round()
    before, files = len(mappings()), len(open_files())
    for _ in range(300):
        one_round()
    assert len(mappings()) <= before + 2  # the interpreter's own arenas come and go
    assert len(open_files()) == files


def test_refused_commit_leaves_the_pages_free() -> None:
    """Where the host has no more memory, commit is MemoryRefused and the reservation goes on working."""
    source = """
import resource
from jitlink.errors import MemoryRefused
from jitlink.memory import *
page, code = page_size(), Protection.READ | Protection.EXECUTE
reservation = reserve(4 * page, policy="dual")
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    reservation.commit(0, page, code)
except MemoryRefused as refused:
    print("refused:", refused)
reservation.commit(0, page, Protection.READ).seal()
"""
    result = in_subprocess(source)
    assert result.returncode == 0, result.stderr
    assert "refused: making a file in memory for code: 0x1000 bytes" in result.stdout


# Policies


@pytest.fixture
def fresh_policy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Forget what was found out about this host."""
    monkeypatch.delenv("JITLINK_MEMORY", raising=False)
    monkeypatch.setattr(jitlink.memory, "_host", jitlink.memory._host.__wrapped__)
    return monkeypatch


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_host_that_refuses_is_served_by_dual_mapping(fresh_policy: pytest.MonkeyPatch, number: int) -> None:
    """When mprotect may not make memory executable, "auto" maps a file twice."""
    honest = linux._mprotect

    def refusing(address: int, size: int, protection: int) -> int:
        if protection & Protection.EXECUTE:
            ctypes.set_errno(number)
            return -1
        return int(honest(address, size, protection))

    fresh_policy.setattr(linux, "_mprotect", refusing)
    with reserve(PAGE) as reservation:
        reservation.commit(0, PAGE, READ_EXECUTE).seal()
        assert [mapping[0] for mapping in code_mappings()] == [reservation.base]
    with reserve(PAGE, policy="mprotect") as reservation:
        segment = reservation.commit(0, PAGE, READ_EXECUTE)
        with pytest.raises(MemoryRefused, match="JITLINK_MEMORY=dual"):
            segment.seal()
        assert permissions(segment.address, PAGE) == {"rw-"}


@x86_64
def test_kernel_that_denies_write_execute_is_served() -> None:
    """Under PR_SET_MDWE (Linux 6.3) no mapping gains PROT_EXEC: "auto" finds the other way by itself."""
    source = f"""
import ctypes
from jitlink.memory import *
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    raise SystemExit(77)
segment = reserve(page_size()).commit(0, page_size(), Protection.READ | Protection.EXECUTE)
segment.working[:6] = list({RETURN_48!r})
segment.seal()
print(ctypes.CFUNCTYPE(ctypes.c_int)(segment.address)())
"""
    result = in_subprocess(source, JITLINK_MEMORY="auto")
    if result.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert result.stdout == "48\n", result.stderr


@pytest.mark.parametrize(("chosen", "files"), [("mprotect", 0), ("dual", 1)])
def test_environment_decides_for_auto(fresh_policy: pytest.MonkeyPatch, chosen: str, files: int) -> None:
    """JITLINK_MEMORY names the policy of whoever did not choose one."""
    fresh_policy.setenv("JITLINK_MEMORY", chosen)
    with reserve(PAGE) as reservation:
        reservation.commit(0, PAGE, READ_EXECUTE).seal()
        assert len(code_mappings()) == files


def test_unknown_policies_are_refused(fresh_policy: pytest.MonkeyPatch) -> None:
    """A policy that does not exist is UsageError, from the caller and from the environment."""
    with pytest.raises(UsageError, match="'rwx' is not one of mprotect, dual"):
        reserve(PAGE, policy="rwx")  # type: ignore[arg-type]
    fresh_policy.setenv("JITLINK_MEMORY", "rwx")
    with pytest.raises(UsageError, match="JITLINK_MEMORY=rwx"):
        reserve(PAGE)


def test_fork_between_commit_and_seal_is_harmless() -> None:
    """Dual mapping: a child that can still write the file does not keep the parent from sealing its code."""
    with reserve(PAGE, policy="dual") as reservation:
        segment = reservation.commit(0, PAGE, READ_EXECUTE)
        segment.working[:6] = list(RETURN_48)
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.read(go[0], 1)
            segment.working[0] = 0xCC
            os.write(ready[1], b"w")
            os._exit(0)
        segment.seal()
        os.write(go[1], b"g")
        assert os.read(ready[0], 1) == b"w"
        assert os.waitpid(child, 0)[1] == 0
        assert bytes_at(segment.address, 6) == RETURN_48
        for end in (*ready, *go):
            os.close(end)


def test_instruction_cache_is_flushed_where_the_machine_needs_it() -> None:
    """x86 needs no flush; AArch64 gets __clear_cache, which the GCC run time has on every machine."""
    assert linux._instruction_cache_flush("x86_64") is None
    flush = linux._instruction_cache_flush("aarch64")
    assert flush is not None
    with reserve(PAGE) as reservation:
        segment = reservation.commit(0, PAGE, READ_EXECUTE)
        segment.seal()
        flush(segment.address, segment.address + segment.size)


def test_seal_flushes_exactly_the_sealed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing code makes its whole range visible to instruction fetch; sealing data flushes nothing."""
    flushed: list[tuple[int, int]] = []
    monkeypatch.setattr(linux, "_instruction_cache_flush", lambda _machine: lambda *span: flushed.append(span))
    for policy in BOTH:
        with reserve(4 * PAGE, policy=policy) as reservation:
            reservation.commit(0, PAGE, READ).seal()
            reservation.commit(PAGE, PAGE, READ_WRITE).seal()
            reservation.commit(2 * PAGE, 2 * PAGE, READ_EXECUTE).seal()
            assert flushed.pop() == (reservation.base + 2 * PAGE, reservation.base + 4 * PAGE)
            assert not flushed


# Planning

spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda span: (span[0], span[0] + span[1])))


@settings(max_examples=300, deadline=None)
@example(taken=[], size=1, low=0, high=70, near=7, alignment=8)  # the nearest multiple lies above
@example(taken=[(8, 16)], size=4, low=0, high=24, near=12, alignment=4)  # two gaps are as close
@given(
    spans,
    st.integers(1, 8),
    st.integers(0, 70),
    st.integers(0, 70),
    st.none() | st.integers(-20, 90),
    st.sampled_from([1, 2, 4, 8]),
)
def test_planned_gap_is_the_best_of_all_places(
    taken: list[tuple[int, int]], size: int, low: int, high: int, near: int | None, alignment: int
) -> None:
    """The plan is free, aligned, inside, and no place tried one by one is better."""
    occupied = {address for start, end in taken for address in range(start, end)}
    places = [
        base
        for base in range(low, high - size + 1)
        if base % alignment == 0 and occupied.isdisjoint(range(base, base + size))
    ]
    planned = plan_gap(taken, size, low=low, high=high, near=near, alignment=alignment)
    if not places:
        assert planned is None
    elif near is None:
        assert planned == max(places)
    else:
        assert planned in places
        wanted = near - size // 2
        assert abs(planned - wanted) == min(abs(base - wanted) for base in places)


@settings(deadline=None)
@given(spans, st.integers(0, 70), st.integers(0, 70))
def test_free_gaps_are_what_is_not_taken(taken: list[tuple[int, int]], low: int, high: int) -> None:
    """The gaps are the complement of what is taken, ascending, none empty."""
    gaps = list(free_gaps(taken, low, high))
    occupied = {address for start, end in taken for address in range(start, end)}
    assert [address for start, end in gaps for address in range(start, end)] == [
        address for address in range(low, high) if address not in occupied
    ]
    assert all(start < end for start, end in gaps)

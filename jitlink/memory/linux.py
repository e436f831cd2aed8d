"""Executable memory on Linux: two policies, and the search for a place in /proc/self/maps.

A reservation is anonymous private memory without access (PROT_NONE, MAP_NORESERVE): addresses only.

**mprotect.** Commit makes pages readable and writable, seal gives them their final protection: one
system call each. Some hosts refuse to make memory executable that could be written: SELinux asks
for the permission execmem (a changed private file mapping: execmod), PaX MPROTECT and
prctl(PR_SET_MDWE) let no mapping gain PROT_EXEC, and systemd's MemoryDenyWriteExecute= uses the
latter or a seccomp filter. All of them answer mprotect with EACCES or EPERM.

**dual.** What they all allow is a *new* mapping of a file that is executable and not writable from
its first moment (SELinux: file_map_prot_check in security/selinux/hooks.c asks for execute on the
file only; the same way is taken by libffi, DynamoRIO and llvm/llvm-project pull request 98538). So
an executable segment is a file in memory (memfd_create), mapped twice: first somewhere else to be
written, and at seal, when that mapping has gone, at its address to be executed. In between the file
is sealed (F_SEAL_WRITE): no mapping, file descriptor or child of fork can ever write it again. The
second mapping is private, since before Linux 6.7 a file so sealed could not be mapped shared; no
page of it is ever copied, as it cannot be written. Other segments are as under mprotect.

A child of fork shares the pages of such a file, which is safe since neither side can write them. A
child that is made *between* commit and seal holds the writable mapping; then the file cannot be
sealed, and its content moves to a file of its own at seal.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from functools import cache

from jitlink.errors import MemoryRefused
from jitlink.memory.gaps import Span, no_gap, plan_gap
from jitlink.memory.segments import HUGE_PAGE, READ_EXECUTE, READ_WRITE, Host, Policy, Segment
from jitlink.protection import Protection

PAGE = os.sysconf("SC_PAGE_SIZE")
MACHINE = os.uname().machine

# Values of linux/mman.h and asm-generic/mman-common.h, which x86-64, AArch64 and RISC-V share.
PROT_NONE = 0
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x4000, 0x100000
MADV_HUGEPAGE = 14
# Of linux/memfd.h and linux/fcntl.h, for a Python that was built where these were not known.
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL = 0x1, 0x2, 0x8
F_ADD_SEALS, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1033, 0x2, 0x4, 0x8
ADDRESSES_ONLY = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE

LOWEST = 0x10000
"""Nothing is placed below 64 KiB, whatever vm.mmap_min_addr is: a null pointer must fault."""

ROOM_TO_GROW = 128 << 20
"""Left free below the main stack (mm/util.c keeps as much: MIN_GAP) and above the heap of brk."""

ATTEMPTS = 16
"""How often a place is looked for again when another thread took the one found."""

_libc = ctypes.CDLL(None, use_errno=True)
_mmap, _munmap, _mprotect, _madvise = _libc.mmap, _libc.munmap, _libc.mprotect, _libc.madvise
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_mmap.restype = ctypes.c_void_p
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_mprotect.argtypes = _madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value


class WrittenThenProtected(Segment):
    """Pages that are written where they will be used, and change their protection at seal."""

    __slots__ = ()

    def _protect(self) -> None:
        if self.protection == READ_WRITE:
            return
        if _mprotect(self.address, self.size, self.protection):
            raise _refused(f"changing written pages to {self.protection!r}", self.size, "Set JITLINK_MEMORY=dual")
        if self.protection == READ_EXECUTE:
            _flush_instructions(self.address, self.size)


class MappedTwice(Segment):
    """Pages of a file in memory, written elsewhere, and mapped at their address at seal."""

    __slots__ = ("_alias", "_file")

    def __init__(self, address: int, size: int) -> None:
        self._file = _memory_file(size)
        try:
            self._alias = _mapped(None, size, READ_WRITE, MAP_SHARED, self._file)
        except MemoryRefused:
            os.close(self._file)
            raise
        super().__init__(address, size, READ_EXECUTE, self._alias)

    def _protect(self) -> None:
        try:
            self._unmap_alias()
            self._file = _frozen(self._file, self.size)
            _mapped(self.address, self.size, READ_EXECUTE, MAP_PRIVATE | MAP_FIXED, self._file)
        finally:
            self.abandon()
        _flush_instructions(self.address, self.size)

    def abandon(self) -> None:
        super().abandon()
        self._unmap_alias()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _unmap_alias(self) -> None:
        if self._alias:
            _munmap(self._alias, self.size)
            self._alias = 0


class MprotectHost:
    """A host that lets written pages become executable."""

    page = PAGE

    def reserve(self, size: int, low: int, high: int, near: int | None) -> int:
        """Take the kernel's choice where it will do, and look for a place where it will not."""
        if near is None:
            base = _mapped(None, size, PROT_NONE, ADDRESSES_ONLY)
            if low <= base and base + size <= high:
                return base
            _munmap(base, size)
        return _reserve_in_window(size, low, high, near)

    def commit(self, address: int, size: int, protection: Protection) -> Segment:
        if _mprotect(address, size, READ_WRITE):
            raise _refused("committing pages", size)
        if size >= HUGE_PAGE and protection != READ_WRITE:
            # Content is written from end to end, so that huge pages cost no memory, and filling
            # them is four times as fast (one fault each). It is advice: a refusal does not matter.
            _madvise(address, size, MADV_HUGEPAGE)
        return WrittenThenProtected(address, size, protection, address)

    def decommit(self, address: int, size: int) -> None:
        _mapped(address, size, PROT_NONE, ADDRESSES_ONLY | MAP_FIXED)

    def release(self, base: int, size: int) -> None:
        if _munmap(base, size):
            raise _refused("unmapping", size)


class DualHost(MprotectHost):
    """A host where only a file that is no longer written may be executed."""

    def commit(self, address: int, size: int, protection: Protection) -> Segment:
        if protection == READ_EXECUTE:
            return MappedTwice(address, size)
        return super().commit(address, size, protection)


HOSTS: dict[Policy, Callable[[], Host]] = {"mprotect": MprotectHost, "dual": DualHost}


def best_policy() -> Policy:
    """Try on one page whether this host lets written memory become executable."""
    page = _mapped(None, PAGE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
    try:
        ctypes.memset(page, 0, 1)
        refused = _mprotect(page, PAGE, READ_EXECUTE) and ctypes.get_errno() in (errno.EACCES, errno.EPERM)
    finally:
        _munmap(page, PAGE)
    return "dual" if refused else "mprotect"


def _reserve_in_window(size: int, low: int, high: int, near: int | None) -> int:
    low = max(low, LOWEST, _lowest_mappable())
    for _ in range(ATTEMPTS):
        taken = list(_taken_ranges())
        # The top of user space differs between kernels and machines. The stack is close to it.
        top = min(high, max(end for _, end in taken))
        base = _planned(taken, size, low, top, near)
        if base is None:
            raise no_gap(taken, size, low, top)
        if _claimed(base, size):
            return base
    raise MemoryRefused(f"{ATTEMPTS} free ranges of {size:#x} bytes were found, and other threads took each first")


def _planned(taken: list[Span], size: int, low: int, high: int, near: int | None) -> int | None:
    if size >= HUGE_PAGE:
        aligned = plan_gap(taken, size, low=low, high=high, near=near, alignment=HUGE_PAGE)
        if aligned is not None:
            return aligned
    return plan_gap(taken, size, low=low, high=high, near=near, alignment=PAGE)


def _claimed(base: int, size: int) -> bool:
    """Reserve exactly this range, or say that somebody else has come first."""
    address = _mmap(base, size, PROT_NONE, ADDRESSES_ONLY | MAP_FIXED_NOREPLACE, -1, 0)
    if address == base:
        return True
    if address == _MAP_FAILED:
        if ctypes.get_errno() == errno.EEXIST:
            return False
        raise _refused(f"reserving addresses at {base:#x}", size)
    # Linux before 4.17 does not know the flag, and takes the address as a mere hint.
    _munmap(address, size)
    return False


def _taken_ranges() -> Iterator[Span]:
    """List the mappings of this process, with room for those that the kernel makes grow."""
    with open("/proc/self/maps", "rb") as maps:
        lines = maps.read().splitlines()
    for line in lines:
        span, _, rest = line.partition(b" ")
        start, end = (int(address, 16) for address in span.split(b"-"))
        if start >= 1 << 63:
            continue  # the vsyscall page lies in the kernel's half
        if rest.endswith(b"[stack]"):
            start = max(start - ROOM_TO_GROW, 0)
        elif rest.endswith(b"[heap]"):
            end += ROOM_TO_GROW
        yield start, end


@cache
def _lowest_mappable() -> int:
    try:
        with open("/proc/sys/vm/mmap_min_addr", "rb") as setting:
            return -(-int(setting.read()) // PAGE) * PAGE
    except (OSError, ValueError):
        return LOWEST


def _mapped(address: int | None, size: int, protection: int, flags: int, file: int = -1) -> int:
    mapped: int = _mmap(address, size, protection, flags, file, 0)
    if mapped == _MAP_FAILED:
        raise _refused("mapping", size)
    return mapped


def _memory_file(size: int) -> int:
    """Open a file in memory of size zero bytes, all of them allocated.

    Allocated, since a page that the host cannot give later would be a SIGBUS, not an error. Nobody
    can execve it: MFD_NOEXEC_SEAL (Linux 6.3) forbids that and nothing else, and is the one flag
    that every setting of vm.memfd_noexec accepts.
    """
    file: int = _libc.memfd_create(b"jitlink", MFD_CLOEXEC | MFD_NOEXEC_SEAL)
    if file < 0 and ctypes.get_errno() == errno.EINVAL:
        file = _libc.memfd_create(b"jitlink", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    if file < 0:
        raise _refused("making a file in memory for code", size)
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        os.close(file)
        raise MemoryRefused(f"no memory for {size:#x} bytes of code: {error.strerror}") from error
    return file


def _frozen(file: int, size: int) -> int:
    """Make a file in memory unwritable for ever, and return it, or its copy if it is held writable."""
    seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK
    try:
        fcntl.fcntl(file, F_ADD_SEALS, seals)
        return file
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise MemoryRefused(f"the code cannot be made read-only: {error.strerror}") from error
    copy = _memory_file(size)
    try:
        done = 0
        while done < size:
            done += os.sendfile(copy, file, done, size - done)
        fcntl.fcntl(copy, F_ADD_SEALS, seals)
    except OSError as error:
        os.close(copy)
        raise MemoryRefused(f"the code cannot be made read-only: {error.strerror}") from error
    os.close(file)
    return copy


def _refused(action: str, size: int, advice: str = "Look at SELinux, seccomp and vm.mmap_min_addr") -> MemoryRefused:
    """Make the error of a system call that has just failed; advice: for a host that forbids it."""
    number = ctypes.get_errno()
    if number == errno.ENOMEM:
        advice = "Memory, addresses (ulimit -v) or mappings (sysctl vm.max_map_count) have run out"
    return MemoryRefused(f"{action}: {size:#x} bytes refused: {os.strerror(number)}. {advice}")


def _flush_instructions(address: int, size: int) -> None:
    flush = _instruction_cache_flush(MACHINE)
    if flush is not None:
        flush(address, address + size)


@cache
def _instruction_cache_flush(machine: str) -> Callable[[int, int], object] | None:
    """Find what makes newly written instructions visible; x86 needs nothing (Intel SDM 3A, 12.6).

    RISC-V: the system call riscv_flush_icache, which reaches every hart that runs this process (a
    FENCE.I of our own would reach only one). Elsewhere: __clear_cache of the GCC run time.
    """
    if machine in ("x86_64", "i686", "i386"):
        return None
    if machine == "riscv64":
        return lambda start, end: _libc.syscall(
            ctypes.c_long(259), ctypes.c_void_p(start), ctypes.c_void_p(end), ctypes.c_ulong(0)
        )
    for library in (None, "libgcc_s.so.1"):
        try:
            clear = ctypes.CDLL(library)["__clear_cache"]
        except (OSError, AttributeError):
            continue
        clear.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        clear.restype = None
        return clear
    raise MemoryRefused("the instruction cache cannot be flushed: __clear_cache is in no library. Install libgcc_s")

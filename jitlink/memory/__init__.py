"""Executable memory: reserve addresses, fill pages, give them their final protection, release them.

Code that a linker lays out in one piece must also stay in one piece: a call on x86-64 reaches 2 GiB
either way, and code of the small model finds its data at 32-bit distances. So a dylib first
*reserves* a range of addresses, which costs no memory, and then *commits* pages in it as objects
arrive. Committed pages are a segment. It is written through its working view and then *sealed*:
that gives it its final protection and takes the view away.

    with reserve(1 << 20) as reservation:
        segment = reservation.commit(0, page_size(), Protection.READ | Protection.EXECUTE)
        segment.working[:6] = list(b"\\xb8\\x30\\x00\\x00\\x00\\xc3")  # mov $48, %eax; ret
        segment.seal()
        ctypes.CFUNCTYPE(ctypes.c_int)(segment.address)()  # 48

Three rules hold at every moment:

- No page is writable and executable at once, neither at one address nor through a second mapping
  of the same memory. Until seal, nothing at a segment's address can be executed.
- Nothing outside the reservation is touched: a place that somebody has mapped is never taken.
- release unmaps everything, also what was never sealed. Dropping a Reservation does not: pointers
  into its code may be anywhere, and only the owner knows when the last one is gone.

There is one file for each platform (linux, macos, windows), which says how that host makes written
memory executable; gaps plans where a range goes. Policy "mprotect" is the plain way everywhere,
"dual" the way of Linux hosts that refuse it (see jitlink.memory.linux), and "auto" finds out which
is needed, once in a process. The environment variable JITLINK_MEMORY decides for "auto".

A child made by fork has its own copy of everything sealed: data is copied when either side writes,
and code can be written by neither. Calls on one Reservation are for one thread at a time.
"""

from __future__ import annotations

import os
import sys
from functools import cache

from jitlink.errors import UsageError
from jitlink.memory.gaps import plan_gap
from jitlink.memory.segments import Host, Policy, Reservation, Segment, align_up
from jitlink.protection import Protection

__all__ = ["ANYWHERE", "Policy", "Protection", "Reservation", "Segment", "page_size", "plan_gap", "reserve"]

if sys.platform == "win32":
    from jitlink.memory import windows as native
elif sys.platform == "darwin":
    from jitlink.memory import macos as native
else:
    from jitlink.memory import linux as native

ANYWHERE = 1 << 64
"""End of all addresses. How many of them a process can have is the platform's business."""


def reserve(
    size: int, *, low: int = 0, high: int = ANYWHERE, near: int | None = None, policy: Policy = "auto"
) -> Reservation:
    """Reserve a range of addresses wholly inside [low, high), without memory behind it.

    size: bytes, rounded up to whole pages. near: an address; of all free places the one is chosen
    whose centre is closest to it, for which all mappings are looked at. A window around the address
    is the cheaper question, as the kernel's own choice is mostly inside. policy: how written memory
    becomes executable.

    Raises MemoryRefused where the host has no such range, and UsageError where the policy is not
    one of this host.
    """
    if size <= 0:
        raise ValueError(f"a reservation of {size} bytes")
    host = _host(policy)
    size = align_up(size, host.page)
    return Reservation(host, host.reserve(size, low, high, near), size)


def page_size() -> int:
    """Say how many bytes a page has: the unit of commit, decommit and protection."""
    return native.PAGE


@cache
def _host(policy: Policy) -> Host:
    if policy == "auto":
        policy = _policy_from_environment() or native.best_policy()
    if policy not in native.HOSTS:
        raise UsageError(f"memory policy {policy!r} is not one of {', '.join(native.HOSTS)} on this host")
    return native.HOSTS[policy]()


def _policy_from_environment() -> Policy | None:
    match os.environ.get("JITLINK_MEMORY", "auto"):
        case "mprotect":
            return "mprotect"
        case "dual":
            return "dual"
        case "auto" | "":
            return None
        case other:
            raise UsageError(f"JITLINK_MEMORY={other} in the environment: write mprotect, dual or auto")

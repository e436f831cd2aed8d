"""Helpers that ask about the world: time, chance, CPU and process. Source: kernel/bpf/helpers.c."""

from __future__ import annotations

from jitlink.bpf.helpers.host import Host
from jitlink.bpf.helpers.numbers import u32
from jitlink.bpf.machine import Machine


def ktime_get_ns(host: Host, machine: Machine, *_: int) -> int:
    """Nanoseconds since the machine was started, without the time that it slept."""
    return host.ktime_ns()


def ktime_get_boot_ns(host: Host, machine: Machine, *_: int) -> int:
    """Nanoseconds since the machine was started."""
    return host.boot_ns()


def ktime_get_tai_ns(host: Host, machine: Machine, *_: int) -> int:
    """Nanoseconds of International Atomic Time since 1970."""
    return host.tai_ns()


def jiffies64(host: Host, machine: Machine, *_: int) -> int:
    """Ticks of the kernel's timer."""
    return host.jiffies()


def get_prandom_u32(host: Host, machine: Machine, *_: int) -> int:
    """A random number of 32 bits."""
    return host.random.getrandbits(32)


def get_smp_processor_id(host: Host, machine: Machine, *_: int) -> int:
    """The number of this CPU."""
    return host.cpu


def get_numa_node_id(host: Host, machine: Machine, *_: int) -> int:
    """The number of this NUMA node."""
    return host.numa_node


def get_current_pid_tgid(host: Host, machine: Machine, *_: int) -> int:
    """The process in the upper 32 bits, the thread in the lower ones."""
    return u32(host.pid) << 32 | u32(host.pid if host.tid is None else host.tid)


def get_current_uid_gid(host: Host, machine: Machine, *_: int) -> int:
    """The group in the upper 32 bits, the user in the lower ones."""
    return u32(host.gid) << 32 | u32(host.uid)


def get_current_comm(host: Host, machine: Machine, buffer: int, size: int, *_: int) -> int:
    """Write the name of the process, cut to size and filled up with zero bytes."""
    size = u32(size)
    if size:
        # The buffer is looked up before it is filled, so that its size is not believed.
        machine.regions.find(buffer, size, True)
        machine.write(buffer, host.comm[: size - 1].ljust(size, b"\0"))
    return 0

"""The world around a program: what helpers ask, and where they leave what a program does to it.

In the kernel a helper reads the clock, asks which process is running, sends a packet to a device. Here
all of that is one object that a test can fix beforehand and look into afterwards. A Host lives as long
as its program; what it has collected stays until it is cleared.

Helpers in machine code look at the words that a host shows them: which CPU it is, the system's clocks, the state
of the generator. Where a host was given another clock or generator, its word is 0, and the helper is called in
Python.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from jitlink.bpf.contexts import PacketContext
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.helpers.randomness import SharedRandom
from jitlink.bpf.machine import VALUE_MASK, Machine
from jitlink.bpf.maps import Map, Maps

TRACE_LINES = 1 << 14
"""How many lines and redirects are kept; a program in a loop must not fill the memory of its host."""

trace_log = logging.getLogger("jitlink.bpf.trace")


@dataclass(frozen=True)
class Redirect:
    """A packet that a program sent elsewhere.

    ifindex: the device, or the value found in the map; flags: as the program passed them; map, key: for
    bpf_redirect_map; packet: of a clone, the bytes at that moment (the packet of other redirects is
    what the run leaves).
    """

    ifindex: int
    flags: int = 0
    map: str | None = None
    key: int | None = None
    packet: bytes | None = None


@dataclass(frozen=True)
class Route:
    """An entry of the table that bpf_fib_lookup looks into.

    result: 0 to forward, or one of the BPF_FIB_LKUP_RET_ numbers, such as 1 for a blackhole. Without
    destination_mac the neighbour is unknown (BPF_FIB_LKUP_RET_NO_NEIGH).
    """

    prefix: IPv4Network | IPv6Network
    ifindex: int
    gateway: IPv4Address | IPv6Address | None = None
    source_mac: bytes = bytes(6)
    destination_mac: bytes | None = None
    mtu: int = 1500
    metric: int = 0
    result: int = 0


class SystemClock:
    """A clock of the system, in nanoseconds. Attributes: number (0 where the system has none of this name)."""

    def __init__(self, name: str) -> None:
        self.number: int = getattr(time, name, 0)

    def __call__(self) -> int:
        return time.clock_gettime_ns(self.number) if self.number else time.monotonic_ns()


SHOWN = {name: 8 * number for number, name in enumerate(("maps", "cpu", "random", "ktime_ns", "boot_ns", "tai_ns"))}
"""Where each word lies that a host shows to machine code, in bytes from the first one.

maps: the address of a table of maps (jitlink.bpf.maps.known), or 0; cpu; random: the address of the generator's
state, or 0; ktime_ns, boot_ns, tai_ns: the number of the system's clock, or 0.
"""


@dataclass
class Host:
    """What helpers know and remember. Every attribute may be set; the clocks are callables."""

    maps: Maps
    cpu: int = 0
    numa_node: int = 0
    ktime_ns: Callable[[], int] = field(default_factory=lambda: SystemClock("CLOCK_MONOTONIC"))
    boot_ns: Callable[[], int] = field(default_factory=lambda: SystemClock("CLOCK_BOOTTIME"))
    tai_ns: Callable[[], int] = field(default_factory=lambda: SystemClock("CLOCK_TAI"))
    jiffies: Callable[[], int] = lambda: time.monotonic_ns() // 4_000_000
    random: random.Random = field(default_factory=SharedRandom)
    pid: int = field(default_factory=os.getpid)
    tid: int | None = None
    uid: int = field(default_factory=lambda: getattr(os, "getuid", lambda: 0)())
    gid: int = field(default_factory=lambda: getattr(os, "getgid", lambda: 0)())
    comm: bytes = b"python"
    routes: list[Route] = field(default_factory=list)
    trace: deque[str] = field(default_factory=lambda: deque(maxlen=TRACE_LINES))
    redirects: deque[Redirect] = field(default_factory=lambda: deque(maxlen=TRACE_LINES))
    _shown: array[int] | None = field(default=None, init=False, repr=False)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in SHOWN and self._shown is not None:
            self._shown[SHOWN[name] // 8] = _word_for(value)

    def show(self, table: int) -> int:
        """Show machine code what it looks at from here on, and a table of maps by its address.

        Returns the address of the words, which is the same every time.
        """
        if self._shown is None:
            self._shown = array("Q", [_word_for(getattr(self, name)) for name in SHOWN])
        self._shown[SHOWN["maps"] // 8] = table
        return self._shown.buffer_info()[0]

    def map_at(self, address: int) -> Map:
        """Find a map by the address that a program passed. Raises BpfFault when there is none."""
        found = self.maps.by_address.get(address)
        if found is None:
            raise BpfFault(FaultKind.OUT_OF_BOUNDS, f"{address:#x} is passed as a map, and is none", address=address)
        return found

    def say(self, line: str) -> None:
        """Take a line that a program printed: into trace, and to the logger jitlink.bpf.trace."""
        self.trace.append(line)
        trace_log.info("%s", line.rstrip("\n"))


def _word_for(value: Any) -> int:
    """What machine code sees of an attribute."""
    if isinstance(value, SharedRandom):
        return value.address
    if isinstance(value, SystemClock):
        # Elsewhere clocks have other numbers for C than for Python, or none.
        return value.number if sys.platform == "linux" else 0
    return value & VALUE_MASK if isinstance(value, int) else 0


def packet_of(machine: Machine, address: int) -> PacketContext:
    """Give the packet that a program passed by its context. Raises BpfFault when it is none."""
    context = machine.context
    if not isinstance(context, PacketContext) or context.address != address:
        raise BpfFault(
            FaultKind.NO_PACKET, f"{address:#x} is passed as the context of a packet, and is none", address=address
        )
    return context

"""Helpers that steer a program: tail calls, loops, and spin locks. Source: kernel/bpf/."""

from __future__ import annotations

from errno import E2BIG, EINVAL, ENOENT

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.helpers.host import Host
from jitlink.bpf.helpers.numbers import u32
from jitlink.bpf.machine import Machine
from jitlink.bpf.maps.references import ProgArrayMap

MOST_LOOPS = 1 << 23
LOCKED = (1).to_bytes(4, "little")
FREE = bytes(4)


def tail_call(host: Host, machine: Machine, context: int, map: int, index: int, *_: int) -> int:
    """Go on with another program and not return; or return when there is none, or after 33 times."""
    found = host.map_at(map)
    if not isinstance(found, ProgArrayMap):
        raise BpfFault(FaultKind.OUT_OF_BOUNDS, f"map {found.name} is no prog array", address=map)
    program = found.at(u32(index))
    if program is None:
        return -ENOENT
    machine.tail_call(getattr(program, "code", program))
    return -E2BIG


def loop(host: Host, machine: Machine, count: int, callback: int, context: int, flags: int, *_: int) -> int:
    """Call callback(index, context) up to count times until it returns other than 0; count the calls."""
    count = u32(count)
    if flags:
        return -EINVAL
    if count > MOST_LOOPS:
        return -E2BIG
    for index in range(count):
        if machine.call_function(callback, index, context):
            return index + 1
    return count


def spin_lock(host: Host, machine: Machine, lock: int, *_: int) -> int:
    """Take a lock. Programs run one at a time, so one that is taken already will never be free."""
    if machine.read(lock, 4) != FREE:
        raise BpfFault(FaultKind.BAD_CALL, f"the spin lock at {lock:#x} is taken twice", address=lock, size=4)
    machine.write(lock, LOCKED)
    return 0


def spin_unlock(host: Host, machine: Machine, lock: int, *_: int) -> int:
    """Give a lock back."""
    if machine.read(lock, 4) == FREE:
        raise BpfFault(FaultKind.BAD_CALL, f"the spin lock at {lock:#x} was not taken", address=lock, size=4)
    machine.write(lock, FREE)
    return 0

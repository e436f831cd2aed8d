"""Helpers that read memory which may not be there. Source: kernel/trace/bpf_trace.c and mm/maccess.c.

In the kernel they read any address and survive a bad one. Here there is only the memory of the program,
so "any address" means any region; a bad one is answered as the kernel does, with -EFAULT and zeros.
"""

from __future__ import annotations

from errno import EFAULT

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.helpers.host import Host
from jitlink.bpf.helpers.numbers import u32
from jitlink.bpf.machine import Machine


def probe_read(host: Host, machine: Machine, destination: int, size: int, source: int, *_: int) -> int:
    """Copy size bytes from anywhere."""
    size = u32(size)
    if not size:
        return 0
    machine.regions.find(destination, size, True)
    try:
        data = machine.read(source, size)
    except BpfFault:
        machine.write(destination, bytes(size))
        return -EFAULT
    machine.write(destination, data)
    return 0


def probe_read_str(host: Host, machine: Machine, destination: int, size: int, source: int, *_: int) -> int:
    """Copy a string from anywhere, cut to size with its zero byte; returns its length with that byte."""
    size = u32(size)
    if not size:
        return 0
    machine.regions.find(destination, size, True)
    try:
        data = string_at(machine, source, size - 1)
    except BpfFault:
        machine.write(destination, bytes(size))
        return -EFAULT
    machine.write(destination, data + b"\0")
    return len(data) + 1


def string_at(machine: Machine, address: int, most: int) -> bytes:
    """Read a string of at most so many bytes before its zero byte.

    Raises BpfFault when memory ends before the string does.
    """
    region = machine.regions.find(address, 1)
    at = address - region.address
    data = bytes(region.data[at : at + most])
    end = data.find(b"\0")
    if end < 0 and at + len(data) == region.size and len(data) < most:
        detail = f"the string at {address:#x} has no end within {region.name}"
        raise BpfFault(FaultKind.OUT_OF_BOUNDS, detail, address=address, size=len(data), nearest=region.name)
    return data if end < 0 else data[:end]

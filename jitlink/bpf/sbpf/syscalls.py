"""Syscalls that every program may need: memory, messages, and giving up.

They do and cost what Solana's do (agave, the structure of costs for programs): 100 units for a message or one for
each of its bytes, 10 for work on memory or one for each 250 bytes. What a chain alone has (accounts, hashes,
other programs, clocks) is for the caller to give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitlink.bpf.faults import BpfFault, FaultKind

if TYPE_CHECKING:
    from jitlink.bpf.sbpf.machine import SbpfMachine, Syscall

BASE_COST = 100
MEMORY_COST = 10
BYTES_PER_UNIT = 250


class ProgramAborted(Exception):
    """A program has given up by itself, or a syscall cannot do what it is asked for. Attributes: message."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def abort(machine: SbpfMachine, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    """abort(): stop the program."""
    raise ProgramAborted("the program has called abort")


def sol_panic(machine: SbpfMachine, file: int, size: int, line: int, column: int, r5: int) -> int:
    """sol_panic_(file, length, line, column): stop the program, and say where in its source."""
    machine.consume(size)
    name = _text(machine, file, size)
    raise ProgramAborted(f"the program has panicked in {name} at line {line}, column {column}")


def sol_log(machine: SbpfMachine, message: int, size: int, r3: int, r4: int, r5: int) -> int:
    """sol_log_(message, length): write a text to the log."""
    machine.consume(max(BASE_COST, size))
    machine.log.append(_text(machine, message, size))
    return 0


def sol_log_64(machine: SbpfMachine, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    """sol_log_64_(r1, ..., r5): write five numbers to the log."""
    machine.consume(BASE_COST)
    machine.log.append(", ".join(f"{number:#x}" for number in (r1, r2, r3, r4, r5)))
    return 0


def sol_memcpy(machine: SbpfMachine, to: int, source: int, size: int, r4: int, r5: int) -> int:
    """sol_memcpy_(to, from, size): copy bytes between places that do not overlap."""
    _charge(machine, size)
    if source < to + size and to < source + size:
        raise BpfFault(FaultKind.OUT_OF_BOUNDS, f"a copy of {size} bytes to {to:#x} overlaps its source", address=to)
    return _move(machine, to, source, size)


def sol_memmove(machine: SbpfMachine, to: int, source: int, size: int, r4: int, r5: int) -> int:
    """sol_memmove_(to, from, size): copy bytes between places that may overlap."""
    _charge(machine, size)
    return _move(machine, to, source, size)


def sol_memset(machine: SbpfMachine, to: int, value: int, size: int, r4: int, r5: int) -> int:
    """sol_memset_(to, byte, size): fill memory."""
    _charge(machine, size)
    if size:
        region, at = machine.memory.translate(to, size, True)
        region.array[at : at + size] = value & 0xFF
    return 0


def sol_memcmp(machine: SbpfMachine, left: int, right: int, size: int, result: int, r5: int) -> int:
    """sol_memcmp_(left, right, size, result): write the difference of the first bytes that differ, 32 bits, or 0."""
    _charge(machine, size)
    pairs = zip(machine.read(left, size), machine.read(right, size), strict=True)
    difference = next((one - other for one, other in pairs if one != other), 0)
    machine.write(result, difference.to_bytes(4, "little", signed=True))
    return 0


def _text(machine: SbpfMachine, address: int, size: int) -> str:
    try:
        return machine.read(address, size).decode()
    except UnicodeDecodeError as error:
        raise ProgramAborted(f"the text of {size} bytes at {address:#x} is not UTF-8: {error.reason}") from None


def _move(machine: SbpfMachine, to: int, source: int, size: int) -> int:
    if size:
        # Where both places are bad, the fault is of the first.
        machine.memory.translate(to, size, True)
        machine.write(to, machine.read(source, size))
    return 0


def _charge(machine: SbpfMachine, size: int) -> None:
    machine.consume(max(MEMORY_COST, size // BYTES_PER_UNIT))


SYSCALLS: dict[str, Syscall] = {
    "abort": abort,
    "sol_panic_": sol_panic,
    "sol_log_": sol_log,
    "sol_log_64_": sol_log_64,
    "sol_memcpy_": sol_memcpy,
    "sol_memmove_": sol_memmove,
    "sol_memset_": sol_memset,
    "sol_memcmp_": sol_memcmp,
}
"""By name."""

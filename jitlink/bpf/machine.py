"""The machine that a BPF program runs on, as helpers see it.

A helper is a Python function `helper(machine, r1, r2, r3, r4, r5) -> int`. Its arguments are
unsigned 64-bit numbers; what it returns becomes r0 modulo 2**64. Through the machine it reads and
writes the program's memory, calls back into the program (bpf_loop), or leaves for another program
(bpf_tail_call). Which tier runs the program, interpreter or native code, is not its concern: each
tier is a subclass of Machine.

Where the ABI leaves a value open we fix it, so that a run can be repeated: after a call of a helper
r1 to r5 hold POISON, which no program can take for a pointer or a small number by accident; the
stack is zeroed once when a run starts.

A pointer to a function of the program is FUNCTION_BASE + 8 * index of its first instruction. No
host maps memory there, so a program that reads through it faults.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.instructions import SLOT, Instructions, decode
from jitlink.bpf.isa import REGISTERS
from jitlink.bpf.regions import Regions

VALUE_MASK = 0xFFFF_FFFF_FFFF_FFFF
POISON = 0xDEAD_BEEF_DEAD_BEEF
FUNCTION_BASE = 0xBF00_0000_0000_0000

DEFAULT_BUDGET = 1 << 24
"""How many instructions a run may take unless it is told otherwise."""
LONGEST_STRING = 4096
"""How many bytes read_string looks at unless it is told otherwise (PATH_MAX of Linux)."""

Helper = Callable[["Machine", int, int, int, int, int], int]


@dataclass(eq=False)
class Code:
    """A program that is ready to run: its instructions, all references in them resolved.

    Attributes: instructions; name (for messages); lines (says the source line of an instruction by
    its index, or None); made (what a machine has made of it to run it, by machine); holds (what it keeps alive for
    as long as it can be run).
    """

    instructions: Instructions
    name: str = ""
    lines: Callable[[int], str | None] | None = field(default=None, repr=False)
    made: MutableMapping[Machine, Any] = field(default_factory=WeakKeyDictionary, repr=False)
    holds: tuple[object, ...] = field(default=(), repr=False)

    def line(self, pc: int) -> str | None:
        """The source line of an instruction, as "file:line", where it is known."""
        return self.lines(pc) if self.lines else None


IDLE = Code(decode(b""), "no program")
"""What a machine runs while it runs nothing."""


class Machine(ABC):
    """Registers, memory and helpers of a program, and the run that is under way.

    Attributes, for helpers:
    registers (r0 to r10, unsigned); regions (the memory); helpers, kfuncs (by number, by BTF id;
    looked up at every call, so that they can be replaced at any time); code and pc (the program
    that runs, and the index of its instruction that called the helper); depth (active functions,
    1 in the first); context (whatever the caller of the run attached: the packet's object, say);
    packet_bounds (from the context address in r6 to the start and end address of the packet, for
    the legacy packet loads; None where there is no packet).
    """

    def __init__(
        self,
        *,
        regions: Regions | None = None,
        helpers: MutableMapping[int, Helper] | None = None,
        kfuncs: MutableMapping[int, Helper] | None = None,
    ) -> None:
        self.regions = Regions() if regions is None else regions
        self.helpers: MutableMapping[int, Helper] = {} if helpers is None else helpers
        self.kfuncs: MutableMapping[int, Helper] = {} if kfuncs is None else kfuncs
        self.registers = [0] * REGISTERS
        self.code = IDLE
        self.pc = 0
        self.depth = 0
        self.context: Any = None
        self.packet_bounds: Callable[[int], tuple[int, int]] | None = None

    @property
    @abstractmethod
    def budget_left(self) -> int:
        """How many instructions the run may still take."""

    @property
    @abstractmethod
    def instructions(self) -> int:
        """How many instructions the run has taken, or took, the one that runs included."""

    @abstractmethod
    def run(self, code: Code, *arguments: int, budget: int = DEFAULT_BUDGET) -> int:
        """Run a program and return r0.

        arguments: r1 and on, at most 5, taken modulo 2**64; budget: how many instructions it may
        take. Raises BpfFault where the program breaks a rule, what a helper raises, and UsageError
        when a run is under way: a helper calls back with call_function.
        """

    @abstractmethod
    def call_function(self, function: int, *arguments: int) -> int:
        """Call a function of the running program from a helper and return its r0.

        function: the pointer as the program passed it; arguments: r1 and on, at most 5. The call
        shares budget and call depth with the run. Raises BpfFault as run does, and UsageError when
        no run is under way.
        """

    @abstractmethod
    def tail_call(self, code: Code) -> bool:
        """Leave the running function for another program, which gets r1 as it is; does not return.

        Returns False, and does nothing, when the run has made all the tail calls that it may. Raises
        UsageError when no run is under way.
        """

    def read(self, address: int, size: int) -> bytes:
        """Copy size bytes out of the program's memory. Raises BpfFault outside of it."""
        if not size:
            return b""
        region = self.regions.find(address, size)
        at = (address & VALUE_MASK) - region.address
        return bytes(region.data[at : at + size])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes into the program's memory. Raises BpfFault outside of it or if it is read-only."""
        if not len(data):
            return
        region = self.regions.find(address, len(data), True)
        at = (address & VALUE_MASK) - region.address
        region.data[at : at + len(data)] = data

    def read_string(self, address: int, limit: int = LONGEST_STRING) -> bytes:
        """Read bytes up to a NUL, which is left out, or limit bytes, or to the end of the region.

        Raises BpfFault when there is no memory at address.
        """
        region = self.regions.find(address, 1)
        at = (address & VALUE_MASK) - region.address
        return bytes(region.data[at : at + limit]).split(b"\0", 1)[0]

    def function_at(self, function: int) -> int:
        """The index of the first instruction of a function of the running program, by its pointer.

        Raises BpfFault when the pointer is none.
        """
        index, within = divmod(function - FUNCTION_BASE, SLOT)
        if within or not 0 <= index < len(self.code.instructions):
            raise BpfFault(FaultKind.BAD_CALL, f"call of {function:#x}, which is not a function of this program")
        return index

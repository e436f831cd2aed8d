"""An emulated machine: a CPU, its memory, and Python functions that its code can call.

Emulated code calls Python by jumping to an address at which nothing is mapped: the CPU stops there, the
function runs, and the CPU goes on at the return address. So Python never runs inside of the CPU, calls
nest as deep as Python's do, and an exception passes through emulated frames as through any others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from jitlink.errors import EmulationFault, InstructionLimit, MemoryRefused
from jitlink.execution.address_space import LOWEST, PAGE, PYTHON_FUNCTIONS
from jitlink.execution.conventions import Location
from jitlink.execution.cpus import CPUS, SYSTEM_CALL, cpu_of
from jitlink.execution.excerpt import excerpt
from jitlink.execution.instruction_count import InstructionCount
from jitlink.execution.interruption import Interruption
from jitlink.execution.memory import DATA, Memory
from jitlink.execution.options import Emulation
from jitlink.execution.residence import Locate
from jitlink.protection import Protection

RETURN = PYTHON_FUNCTIONS
"""Where calls from Python return to."""
BETWEEN_FUNCTIONS = 16
"""Bytes between the addresses of two Python functions, aligned as code is: tagged pointers use the low bits."""
WORD = 8
ABOVE_STACK = 1024
"""Bytes above the first frame, where programs have their arguments: what writes past it is noticed by its caller."""
DENIALS = {19: "read", 20: "write", 22: "write", 23: "read"}
"""unicorn's UC_MEM_READ_UNMAPPED, WRITE_UNMAPPED, WRITE_PROT and READ_PROT."""


class PythonFunction(NamedTuple):
    """A function at an address of the machine: its name for messages, and what runs when it is called."""

    name: str
    run: Callable[[], None]


class Machine:
    """A CPU with memory, for one thread at a time.

    Attributes: cpu; memory; depth (how many calls from Python are under way, one inside of the other);
    lock (to be held by who changes or runs the machine).
    """

    def __init__(self, target: str, options: Emulation, locate: Locate) -> None:
        """Make a machine that runs code of a target. locate: what an address belongs to, for errors.

        Raises UnsupportedInput, MissingExtra, MemoryRefused.
        """
        self.cpu = cpu_of(target)
        self._engine, self._registers = self.cpu.open()
        self.memory = Memory(self._engine)
        self.depth = 0
        self.lock = threading.RLock()
        self._locate = locate
        self._functions: dict[int, PythonFunction] = {}
        # Why the CPU has stopped, and by how many bytes its counter is past the instruction.
        self._stops: list[tuple[str, int]] = []
        self._stack = self._make_stack(options.stack_size)
        self._add_hooks()
        self._interruption = Interruption(self._engine)
        self._count = InstructionCount(self._engine, self.memory, self.cpu, options.instruction_limit)

    def _make_stack(self, size: int) -> range:
        """Map the stack, with a page below it that is not mapped: what runs over its end faults."""
        size = -(-size // PAGE) * PAGE
        start = self.memory.take(PAGE + size) + PAGE
        self.memory.map(start, size, DATA)
        self.write_register(self.cpu.stack, start + size - ABOVE_STACK)
        return range(start, start + size)

    def _add_hooks(self) -> None:
        import unicorn

        kinds = unicorn.UC_HOOK_MEM_READ_UNMAPPED | unicorn.UC_HOOK_MEM_WRITE_UNMAPPED
        kinds |= unicorn.UC_HOOK_MEM_READ_PROT | unicorn.UC_HOOK_MEM_WRITE_PROT
        self._engine.hook_add(kinds, self._on_denial)
        self._engine.hook_add(unicorn.UC_HOOK_INTR, self._on_trap)
        if self.cpu is CPUS["x86_64"]:
            from unicorn import x86_const

            self._engine.hook_add(unicorn.UC_HOOK_INSN, self._on_system_call, None, 1, 0, x86_const.UC_X86_INS_SYSCALL)

    def _on_denial(self, engine: Any, access: int, address: int, size: int, value: int, user: Any) -> bool:
        self._stops.append((self._denied(DENIALS[access], address, size), 0))
        return False

    def _on_trap(self, engine: Any, number: int, user: Any) -> None:
        self._stops.append(self.cpu.traps.get(number, (f"the processor's exception {number}", 0)))
        engine.emu_stop()

    def _on_system_call(self, engine: Any, user: Any) -> None:
        self._stops.append((SYSTEM_CALL, 2))
        engine.emu_stop()

    # Registers, and values in them and on the stack

    def read_register(self, name: str) -> int:
        """The value of a register, as an unsigned integer of its width."""
        value: int = self._engine.reg_read(self._registers[name])
        return value

    def write_register(self, name: str, value: int) -> None:
        """Set a register."""
        self._engine.reg_write(self._registers[name], value)

    def load(self, location: Location, size: int, area: int) -> bytes:
        """Put a value together. size: its bytes; area: where the arguments on the stack begin."""
        value = bytearray(size)
        for piece in location.pieces:
            if piece.register is None:
                part = self.memory.read(area + piece.stack, piece.size)
            else:
                part = self.read_register(piece.register).to_bytes(16, "little")[: piece.size]
            # An extended integer is larger in its register than by itself.
            wanted = max(min(piece.size, size - piece.offset), 0)
            value[piece.offset : piece.offset + wanted] = part[:wanted]
        return bytes(value)

    def store(self, location: Location, value: bytes, area: int) -> None:
        """Put a value into its place; the opposite of load."""
        for piece in location.pieces:
            part = value[piece.offset : piece.offset + piece.size]
            if piece.register is None:
                self.memory.write(area + piece.stack, part)
            else:
                boxed = part.ljust(WORD, b"\xff") if piece.boxed else part
                self.write_register(piece.register, int.from_bytes(boxed, "little"))

    # Running

    @contextmanager
    def entered(self) -> Iterator[int]:
        """Enter the machine from Python; gives the stack pointer. Afterwards it is as it was.

        What an exception leaves behind is undone: the code that has called Python finds its registers again.
        """
        outer = self._engine.context_save() if self.depth else None
        stack = self.read_register(self.cpu.stack)
        self.depth += 1
        try:
            yield stack
        except BaseException:
            if outer is not None:
                self._engine.context_restore(outer)
            raise
        finally:
            self.depth -= 1
            self.write_register(self.cpu.stack, stack)
            if not self.depth:
                self._count.reset()

    def run(self, address: int, stack: int) -> None:
        """Call the function at an address, whose arguments are in place; stack: the stack pointer at its entry.

        Raises EmulationFault, and whatever the Python functions raise that it calls.
        """
        if not self._stack.start <= stack <= self._stack.stop:
            raise EmulationFault(f"the stack of {len(self._stack):#x} bytes is used up", address=address)
        if self.cpu.link:
            self.write_register(self.cpu.link, RETURN)
        else:
            self.memory.write(stack, RETURN.to_bytes(WORD, "little"))
        self.write_register(self.cpu.stack, stack)
        while address != RETURN:
            address = self._run_cpu(address)
            if address != RETURN:
                if address not in self._functions:
                    raise self._wild_jump(address)
                address = self._call_python(self._functions[address])

    def _run_cpu(self, address: int) -> int:
        """Run the CPU until it leaves all code; returns the address it went to. Raises EmulationFault."""
        self._stops.clear()
        refused = self._start_cpu(address)
        counter = self.read_register(self.cpu.counter)
        while self._interruption.happened and not (refused or self._stops or self._count.spent) and counter != RETURN:
            refused = self._start_cpu(counter)
            counter = self.read_register(self.cpu.counter)
        if self._count.spent:
            raise self._fault(self._count.message, counter, InstructionLimit)
        if self._stops:
            reason, past = self._stops[0]
            raise self._fault(reason, counter - past)
        if refused and self.memory.protection_of(counter):
            code = self.memory.protection_of(counter) & Protection.EXECUTE
            raise self._fault(
                "an instruction that the emulated CPU does not have" if code else "this is no code", counter
            )
        if not refused and counter != RETURN:
            raise self._fault("the processor has halted", counter)
        return counter

    def _start_cpu(self, address: int) -> int:
        """Run the CPU until it stops; returns unicorn's error, or 0 if it has none."""
        self._interruption.begin()
        try:
            self._engine.emu_start(address, RETURN)
        except self.memory.error as error:
            refused: int = error.errno
            return refused
        finally:
            self._interruption.end()
        return 0

    def _call_python(self, function: PythonFunction) -> int:
        """Run a Python function that was called; returns the address at which to go on."""
        stack = self.read_register(self.cpu.stack)
        return_address = self.return_address()
        try:
            function.run()
        except EmulationFault as fault:
            if fault.address is not None:
                raise
            # Python reached for memory on behalf of the code, as memcpy does.
            raise self._fault(f"{function.name}: {fault.reason}", return_address - 1) from fault
        if not self.cpu.link:
            self.write_register(self.cpu.stack, stack + WORD)
        return return_address

    def return_address(self) -> int:
        """Where the function returns to that was entered just now."""
        if self.cpu.link:
            return self.read_register(self.cpu.link)
        return int.from_bytes(self.memory.read(self.read_register(self.cpu.stack), WORD), "little")

    # Functions that are Python

    def add_function(self, name: str, run: Callable[[], None]) -> int:
        """Give a Python function an address, for as long as the machine is there. name: for messages.

        Raises MemoryRefused where there is none left.
        """
        address = RETURN + BETWEEN_FUNCTIONS * (len(self._functions) + 1)
        if address >= LOWEST:
            raise MemoryRefused(
                f"emulated code was given {len(self._functions)} Python functions, and has no room for more: "
                "give it the same one again instead of a new one for each call"
            )
        self._functions[address] = PythonFunction(name, run)
        return address

    def is_function(self, address: int) -> bool:
        """Whether a Python function has this address."""
        return address in self._functions

    # Faults

    def _denied(self, verb: str, address: int, size: int) -> str:
        """Say why memory was refused."""
        text = f"a {verb} of {size} bytes at {address:#x}"
        if self._stack.start - PAGE <= address < self._stack.start:
            return f"{text}: the stack of {len(self._stack):#x} bytes is used up"
        protection = self.memory.protection_of(address)
        return f"{text}, which is {protection.letters}" if protection else f"{text}, which is not mapped"

    def _fault(self, reason: str, address: int, kind: type[EmulationFault] = EmulationFault) -> EmulationFault:
        location = self._locate(address)
        start = address - location.offset if location is not None else address
        listing = excerpt(self.memory, self.cpu, start, address)
        return kind(reason, address=address, location=str(location) if location is not None else None, listing=listing)

    def _wild_jump(self, to: int) -> EmulationFault:
        """Make the error for a jump to where no code is; the return address may say who has jumped."""
        reason = f"a jump to {to:#x}, where there is no code"
        try:
            # Inside of the call, whose return address is that of the next instruction.
            caller = self.return_address() - 1
        except EmulationFault:
            caller = 0
        if self.memory.protection_of(caller) & Protection.EXECUTE:
            return self._fault(f"{reason}, from here", caller)
        return EmulationFault(reason, address=to)

    def close(self) -> None:
        """Let go of the CPU and its memory."""
        self._interruption.close()
        self._functions.clear()
        self.memory.close()
        self._engine = None

    def __repr__(self) -> str:
        return f"<emulated machine with {len(self._functions)} Python functions>"

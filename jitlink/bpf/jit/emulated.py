"""Running programs in an emulated CPU: machine code of another machine than the host.

The pages of a program (code, memory, record, the stack of calls) are mapped into the emulator at the addresses
that they have in this process, so that everything that holds an address, the record above all, means the
same to native code, to emulated code and to Python. What is not mapped there the code cannot reach: an access
that a check should have caught is an EmulationFault, and so is a write to code.

The machine is the one of native code, with another way to enter an image. The callback is an address where
nothing is mapped: reaching it stops the CPU, Python runs, and the CPU goes on at the return address. So
Python never runs inside of the emulator, and runs may nest.

The emulator is stricter than a processor. At every basic block the stack pointer has to be a multiple of 16;
a C function that the code calls leaves nothing in the registers that it need not keep; and what `enter` has
to keep for its caller is looked at when it returns.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import ref

import numpy as np

from jitlink.bpf.jit.abi import RECORD_SIZE, STACK_BYTES
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiled import CompiledCode, Variant
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.images import Image
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.regions import TABLE_COLUMNS
from jitlink.errors import EmulationFault
from jitlink.execution.cpus import cpu_of, unicorn_module
from jitlink.protection import Protection

PAGE = 4096
CALLBACK, RETURN, FIRST_FUNCTION = 0x1000, 0x2000, 0x3000
"""Addresses that stop the CPU; below what any host maps."""
BETWEEN_FUNCTIONS = 16
STACK_SIZE = 1 << 18
STACK_ALIGNMENT = 16
LEFT_BEHIND = 0x5CA1_AB1E_5CA1_AB1E
"""What is in a register that a C function need not keep, after a call."""
DATA = Protection.READ | Protection.WRITE


@dataclass(frozen=True)
class Registers:
    """What a C function of a machine does with registers, by unicorn's names.

    arguments; result; changed (those that it need not keep); kept (those that it has to).
    """

    arguments: tuple[str, ...]
    result: str
    changed: tuple[str, ...]
    kept: tuple[str, ...]


def _numbered(prefix: str, *numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for each in numbers for number in each)


REGISTERS = {
    # AAPCS64, 6.1.1. x18 belongs to the platform: nobody may change it.
    "aarch64": Registers(
        _numbered("x", range(6)), "x0", _numbered("x", range(18)), _numbered("x", (18,), range(19, 30))
    ),
    # RISC-V psABI, Integer Register Convention. gp and tp: nobody may change them.
    "riscv64": Registers(
        _numbered("a", range(6)),
        "a0",
        (*_numbered("t", range(7)), *_numbered("a", range(8))),
        (*_numbered("s", range(12)), "gp", "tp"),
    ),
}
Function = Callable[[list[int]], int]


class Processor:
    """An emulated CPU that sees chosen pages of this process.

    Attributes: functions (Python functions by the address at which emulated code calls them; they get the first
    six arguments of a C function and return its result).
    """

    def __init__(self, target: str) -> None:
        """Make a CPU. Raises UnsupportedInput where there is none for a target, and MissingExtra."""
        self.functions: dict[int, Function] = {}
        self._cpu = cpu_of(target)
        self._engine, self._numbers = self._cpu.open()
        self._convention = REGISTERS[target]
        self._pages: dict[int, Protection] = {}
        self._stops: list[str] = []
        self._stack = mmap.mmap(-1, STACK_SIZE)
        start = _address_of(self._stack)
        self._own = {(start, STACK_SIZE, DATA)}
        self._top = start + STACK_SIZE
        self._write(self._cpu.stack, self._top)
        self._add_hooks()

    def _add_hooks(self) -> None:
        unicorn = unicorn_module()
        self._error = unicorn.UcError
        denied = unicorn.UC_HOOK_MEM_READ_UNMAPPED | unicorn.UC_HOOK_MEM_WRITE_UNMAPPED
        denied |= unicorn.UC_HOOK_MEM_READ_PROT | unicorn.UC_HOOK_MEM_WRITE_PROT
        self._engine.hook_add(denied, self._on_denial)
        self._engine.hook_add(unicorn.UC_HOOK_INTR, self._on_trap)
        self._engine.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)

    def _on_denial(self, engine: Any, access: int, address: int, size: int, value: int, user: Any) -> bool:
        self._stops.append(f"an access of {size} bytes at {address:#x}, which is not mapped, or not like that")
        return False

    def _on_trap(self, engine: Any, number: int, user: Any) -> None:
        self._stops.append(self._cpu.traps.get(number, (f"the processor's exception {number}", 0))[0])
        engine.emu_stop()

    def _on_block(self, engine: Any, address: int, size: int, user: Any) -> None:
        if self._read(self._cpu.stack) % STACK_ALIGNMENT:
            self._stops.append("the stack pointer is no multiple of 16")
            engine.emu_stop()

    def _read(self, name: str) -> int:
        value: int = self._engine.reg_read(self._numbers[name])
        return value

    def _write(self, name: str, value: int) -> None:
        self._engine.reg_write(self._numbers[name], value)

    def show(self, memory: Iterable[tuple[int, int, Protection]]) -> None:
        """Let emulated code see these ranges of memory, and no others: address, size and protection of each.

        What shares a page with a range is seen as well.
        """
        pages: dict[int, Protection] = {}
        for address, size, protection in (*memory, *self._own):
            for page in range(address - address % PAGE, address + size, PAGE):
                pages[page] = pages.get(page, Protection(0)) | protection
        gone = {page: each for page, each in self._pages.items() if pages.get(page) != each}
        new = {page: each for page, each in pages.items() if self._pages.get(page) != each}
        for start, size, _ in _runs(gone):
            self._engine.mem_unmap(start, size)
        for start, size, protection in _runs(new):
            # The bits of unicorn's protections are those of ours.
            self._engine.mem_map_ptr(start, size, int(protection), start)
        self._pages = pages
        if any(Protection.EXECUTE & each for each in (*gone.values(), *new.values())):
            self._engine.ctl_flush_tb()

    def call(self, function: int, *arguments: int) -> int:
        """Call a C function. Raises EmulationFault, and whatever the Python functions raise that it calls."""
        convention = self._convention
        stack = self._read(self._cpu.stack)
        kept = [self._read(name) for name in convention.kept]
        for name, value in zip(convention.arguments, arguments, strict=False):
            self._write(name, value)
        self._write(self._cpu.link, RETURN)
        counter = function
        while counter != RETURN:
            counter = self._run(counter)
            if counter != RETURN:
                counter = self._call_python(counter)
        if [self._read(name) for name in convention.kept] != kept or self._read(self._cpu.stack) != stack:
            raise EmulationFault("a register that belongs to the caller was changed", address=function)
        return self._read(convention.result)

    def _run(self, address: int) -> int:
        """Run until the code leaves what is mapped. Returns the address that it went to."""
        self._stops.clear()
        try:
            self._engine.emu_start(address, RETURN)
        except self._error as error:
            counter = self._read(self._cpu.counter)
            if not self._stops and counter not in self._pages and counter in (CALLBACK, RETURN, *self.functions):
                return counter
            raise EmulationFault(self._stops[0] if self._stops else str(error), address=counter) from None
        counter = self._read(self._cpu.counter)
        if self._stops:
            raise EmulationFault(self._stops[0], address=counter)
        return counter

    def _call_python(self, address: int) -> int:
        """Carry out a function that is Python's. Returns the address at which the code goes on."""
        convention, stack, link = self._convention, self._read(self._cpu.stack), self._read(self._cpu.link)
        kept = [self._read(name) for name in convention.kept]
        result = self.functions[address]([self._read(name) for name in convention.arguments])
        for name in (*convention.changed, self._cpu.link):
            self._write(name, LEFT_BEHIND)
        for name, value in zip(convention.kept, kept, strict=True):
            self._write(name, value)
        self._write(self._cpu.stack, stack)
        self._write(convention.result, result)
        return link


class EmulatedCode(CompiledCode):
    """What an emulated machine has made of a program."""

    machine: EmulatedMachine

    def make_image(self, variant: Variant, entries: set[int]) -> Image:
        image = super().make_image(variant, entries)
        return self.machine.adopt(image)


class EmulatedMachine(NativeMachine):
    """Runs programs in the machine code of a back end, in an emulated CPU.

    Attributes beyond NativeMachine's: processor.
    """

    code_class = EmulatedCode
    calls_host_code = False

    def __init__(self, shapes: Shapes, plan: Plan, **options: Any) -> None:
        """Make a machine. options: those of NativeMachine. Raises MissingExtra without unicorn."""
        self.processor = Processor(shapes.backend.target)
        self._images: list[ref[Image]] = []
        super().__init__(shapes, plan, **options)
        self.record.callback = CALLBACK
        self.processor.functions[CALLBACK] = self._serve

    def _serve(self, arguments: list[int]) -> int:
        """The callback of the record."""
        try:
            self.outside()
        except BaseException as error:
            self.give_up(error)
        self._show_memory()
        return 0

    def adopt(self, image: Image) -> Image:
        """Let an image be entered in the emulated CPU."""
        native: Any = image.enter
        function = ctypes.cast(native, ctypes.c_void_p).value or 0

        def enter(record: int, target: int) -> None:
            self._show_memory()
            self.processor.call(function, record, target)

        image.enter = enter
        self._images.append(ref(image))
        return image

    def _show_memory(self) -> None:
        """Let emulated code see what native code sees."""
        self.processor.show(self._memory_ranges())

    def _memory_ranges(self) -> Iterator[tuple[int, int, Protection]]:
        record, table = self.record, self.regions.table
        yield self.record_address, RECORD_SIZE, DATA
        yield record.stack, STACK_BYTES, DATA
        start, length = table.buffer_info()
        yield start, length * table.itemsize, Protection.READ
        for address, size, writable in zip(
            *(table[column::TABLE_COLUMNS] for column in range(TABLE_COLUMNS)), strict=True
        ):
            yield address, size, DATA if writable else Protection.READ
        self._images = [reference for reference in self._images if reference() is not None]
        for image in filter(None, (reference() for reference in self._images)):
            yield from image.segments


def _address_of(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def _runs(pages: dict[int, Protection]) -> Iterator[tuple[int, int, Protection]]:
    """Put pages side by side with the same protection together: address, size and protection of each run."""
    start = end = 0
    protection = Protection(0)
    for page in sorted(pages):
        if page != end or pages[page] != protection:
            if end > start:
                yield start, end - start, protection
            start, protection = page, pages[page]
        end = page + PAGE
    if end > start:
        yield start, end - start, protection

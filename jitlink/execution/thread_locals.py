"""Thread-local variables in the emulated CPU: it has one thread, so every variable has one copy.

The copies of all links lie about the thread pointer as a static linker puts them (see FixedStorage), in one
piece of memory that is mapped when the first link asks for it. All code is then of the local-exec model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitlink.arches.thread_locals import ThreadLocalRules
from jitlink.execution.address_space import PAGE
from jitlink.execution.machine import Machine
from jitlink.execution.memory import DATA
from jitlink.passes.thread_locals import ThreadBlock
from jitlink.passes.thread_storage import Block, FixedStorage, Template, Variable

CAPACITY = 1 << 24
"""Bytes for the variables of all dylibs of a session."""
FindVariable = Callable[[str, bool], Variable | None]


class EmulatedThread:
    """The one thread of a machine, and the room about its thread pointer.

    Attributes: rules; pointer (what the thread pointer register holds); used (bytes from there that blocks
    reach to).
    """

    def __init__(self, machine: Machine, rules: ThreadLocalRules) -> None:
        """Choose where the blocks go. Raises MemoryRefused."""
        self._machine = machine
        self._start = machine.memory.take(CAPACITY + PAGE)
        self._mapped = False
        self._reach_of: dict[Block, int] = {}
        self.rules = rules
        self.pointer = self._start + (CAPACITY if rules.below else 0)
        # Set before any code runs: what runs inside of other code may find itself undone.
        machine.write_register(machine.cpu.thread_pointer, self.pointer)

    @property
    def used(self) -> int:
        """Bytes from the thread pointer that blocks reach to; those of closed dylibs count up to the last open one."""
        return max(self._reach_of.values(), default=0 if self.rules.below else self.rules.reserved)

    def take(self, block: Block, reach: int) -> None:
        """Note a block and how far it reaches from the thread pointer, and map the room for blocks."""
        self._reach_of[block] = reach
        if not self._mapped:
            self._machine.memory.map(self._start, CAPACITY + PAGE, DATA)
            if self.rules.below:
                # Code reads the thread pointer there, since it cannot read the register (Drepper, 3.4.2).
                self._machine.memory.write(self.pointer, self.pointer.to_bytes(8, "little"))
            self._mapped = True

    def give_back(self, block: Block) -> None:
        """Forget a block."""
        self._reach_of.pop(block, None)

    def fill(self, thread_block: ThreadBlock) -> None:
        """Give the variables of a link their initial values."""
        template = thread_block.template
        start = self.pointer + (thread_block.block.from_thread_pointer or 0)
        self._machine.memory.write(start, template.content.ljust(template.size, b"\0"))


class EmulatedStorage:
    """The blocks of a dylib in the emulated thread."""

    fixed = True

    def __init__(self, thread: EmulatedThread, find: FindVariable) -> None:
        self._thread = thread
        self._find = find
        self._blocks: list[Block] = []
        self._kept = 0

    def find(self, name: str, *, inside: bool) -> Variable | None:
        """Find a variable that a link does not define, or None. Raises LinkFailure."""
        return self._find(name, inside)

    def allocate(self, template: Template, *, fixed: bool, descriptors: Sequence[int]) -> Block:
        """Place a block behind all others. Raises MemoryRefused."""
        placer = FixedStorage(self._thread.rules, CAPACITY)
        placer.used = self._thread.used
        block = placer.allocate(template, fixed=fixed, descriptors=descriptors)
        self._thread.take(block, placer.used)
        self._blocks.append(block)
        return block

    def descriptor_function(self) -> int:
        """Nothing needs one: every block has one distance from the thread pointer."""
        return 0

    def keep(self, thread_block: ThreadBlock | None) -> None:
        """Keep the blocks of a link that has succeeded, and fill that of the link."""
        if thread_block is not None and thread_block.template.size:
            self._thread.fill(thread_block)
        self._kept = len(self._blocks)

    def give_up(self) -> None:
        """Give back the blocks of a link that has failed."""
        while len(self._blocks) > self._kept:
            self._thread.give_back(self._blocks.pop())

    def release(self) -> None:
        """Give back all blocks."""
        self._kept = 0
        self.give_up()

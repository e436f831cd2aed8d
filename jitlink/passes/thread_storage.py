"""Threads' storage: who gives the thread-local variables of a link a block in every thread.

A link has one **template**: what a thread's copy of its variables holds at first. Whoever runs the code
makes a **block** of it in every thread, and says how code finds the block: by the number of a module, or
by one distance from the thread pointer in all threads, or both.

In a running process that is the dynamic loader (jitlink.runtime.thread_locals). Where there is but one
thread, or the image is for somebody else to run, blocks lie about the thread pointer as a static linker
puts them, one after the other: FixedStorage.

Source: U. Drepper, ELF Handling For Thread-Local Storage, chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from jitlink.arches.thread_locals import ThreadLocalRules
from jitlink.errors import MemoryRefused

LARGEST_TEMPLATE = 1 << 30
"""Bytes of one thread's copy: C libraries end the process when a thread asks for a block that they cannot make."""


@dataclass(frozen=True)
class Template:
    """What a thread's copy of a link's variables holds at first.

    Attributes: content (behind it come zeroes), size and alignment (of a copy, bytes).
    """

    content: bytes
    size: int
    alignment: int


@dataclass(frozen=True)
class Variable:
    """A thread-local variable that is outside of a link.

    Attributes: module, offset (in the module's block), from_thread_pointer (its distance from there in
    all threads, or None where there is no such distance).
    """

    module: int
    offset: int
    from_thread_pointer: int | None = None


@dataclass(frozen=True)
class Block:
    """What code has to know to find the block that threads have for a template.

    Attributes: module, from_thread_pointer (distance to its start in all threads, or None), descriptors
    (the two words of each TLS descriptor that was asked for).
    """

    module: int
    from_thread_pointer: int | None = None
    descriptors: Sequence[tuple[int, int]] = field(default=(), hash=False)

    def variable(self, offset: int) -> Variable:
        """The variable at an offset of the block, as other links see it."""
        start = self.from_thread_pointer
        return Variable(self.module, offset, None if start is None else start + offset)


class ThreadStorage(Protocol):
    """Whoever makes the blocks.

    Attributes: fixed (every block has one distance from the thread pointer in all threads, and there are
    no descriptors).
    """

    fixed: bool

    def find(self, name: str, *, inside: bool) -> Variable | None:
        """Find a variable that the link does not define, or None.

        inside: no other dylib may define it. Raises LinkFailure where the name is no thread-local.
        """

    def allocate(self, template: Template, *, fixed: bool, descriptors: Sequence[int]) -> Block:
        """Make a block in every thread.

        fixed: it must have one distance from the thread pointer. descriptors: offsets to make TLS
        descriptors for. Raises MemoryRefused.
        """

    def descriptor_function(self) -> int:
        """The address of the function in a TLS descriptor whose argument points at a module and an offset."""


class FixedStorage:
    """Blocks about the thread pointer, one after the other, as in a program that is linked statically.

    Below it the first block ends at the thread pointer, above it the first starts behind what belongs to
    the C library. capacity: bytes that there are for all of them.
    """

    fixed = True

    def __init__(self, rules: ThreadLocalRules, capacity: int = LARGEST_TEMPLATE) -> None:
        self.rules = rules
        self.capacity = capacity
        self.used = 0 if rules.below else rules.reserved

    def find(self, name: str, *, inside: bool) -> Variable | None:
        """There are no variables but those of the links."""
        return None

    def allocate(self, template: Template, *, fixed: bool, descriptors: Sequence[int]) -> Block:
        """Place a block. Raises MemoryRefused where there is no room."""
        alignment = template.alignment
        if self.rules.below:
            end = -(-(self.used + template.size) // alignment) * alignment
            start = -end
        else:
            start = -(-self.used // alignment) * alignment
            end = start + template.size
        if end > self.capacity:
            raise MemoryRefused(
                f"{template.size:#x} bytes of thread-locals do not fit into the {self.capacity:#x} bytes for all"
            )
        self.used = end
        # Nobody numbers modules here. Code that calls __tls_get_addr all the same finds the distance in the
        # place of the number, and our own function of that name (see the support code of a machine) adds it.
        return Block(start % (1 << 64), start)

    def descriptor_function(self) -> int:
        """Nothing needs one: every block has one distance from the thread pointer."""
        return 0

"""What the linker has to know of a machine's thread-local storage, as data for jitlink.passes.thread_locals.

The ABIs of thread-local storage differ in their instructions and agree in all else: four access models, a
thread pointer, GOT entries of one word or two. So a machine says which kinds fill the words of an entry,
where its blocks lie about the thread pointer, and which code sequences have a shorter form.

A **code sequence** is what the ABI tells compilers to emit, to the byte, so that linkers can recognise it.
Where the block of a variable has one distance from the thread pointer in all threads, the sequence becomes
a local-exec access of the same length, and its relocation one that the ABI has for such code.

Sources: U. Drepper, ELF Handling For Thread-Local Storage, chapters 3 to 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Rows
from jitlink.fields import WORD64
from jitlink.formulas import ARGUMENT, MODULE, RESOLVER, TLS, TP, A, Access, Kind, S, constant

if TYPE_CHECKING:
    from jitlink.arches.architecture import Routine
    from jitlink.graph import LinkGraph

Codes = npt.NDArray[np.uint8]
"""uint8[sequences, bytes]."""

MODULE_WORD, OFFSET_WORD, DISTANCE_WORD = "TLS module", "TLS offset", "TLS distance"
RESOLVER_WORD, ARGUMENT_WORD = "TLS descriptor function", "TLS descriptor argument"

AT_THREAD_EXIT, RUN_EXIT, FINISH_THREAD = "__jitlink_at_thread_exit", "__jitlink_run_exit", "__jitlink_finish_thread"
NEWEST_EXIT, COUNTER = "__jitlink_newest_exit", "__jitlink_exit_counter"
"""Names in the code that registers destructors of thread-local objects (arches/x86_64_thread_exit.py)."""


def entry_words(bias: int = 0) -> list[Kind]:
    """The kinds that fill the words of GOT entries for thread-locals.

    bias: what __tls_get_addr adds to an offset, so that code reaches further with signed immediates.
    """
    word = Access.ENTRY_WORD
    offset = S + A - TLS - constant(bias) if bias else S + A - TLS
    return [
        Kind(MODULE_WORD, -1, MODULE, WORD64, access=word),
        Kind(OFFSET_WORD, -1, offset, WORD64, access=word),
        Kind(DISTANCE_WORD, -1, S + A - TP, WORD64, access=word),
        Kind(RESOLVER_WORD, -1, RESOLVER, WORD64, access=word),
        Kind(ARGUMENT_WORD, -1, ARGUMENT, WORD64, access=word),
    ]


@dataclass(frozen=True)
class LoaderKinds:
    """Numbers of the dynamic relocations with which the loader is asked for what it knows of a module.

    Attributes: module (its number), from_thread_pointer (distance of its block), descriptor (the two
    words of a TLS descriptor).
    """

    module: int
    from_thread_pointer: int
    descriptor: int


@dataclass(frozen=True)
class Relaxation:
    """A code sequence and its local-exec form of the same length.

    Attributes:
        kind: of the relocation in it.
        field: where that stands, in bytes from the start of the sequence.
        code, mask: its bytes, and which bits of them are fixed.
        rewrite: makes the local-exec form of sequences.
        becomes: the kind of the relocation that is in it then; empty for none.
        new_field: where that stands.
        addend: what is added to the addend.
        call: where the relocation of the call to __tls_get_addr stands, which goes; or None.
    """

    kind: str
    field: int
    code: bytes
    mask: bytes
    rewrite: Callable[[Codes], Codes]
    becomes: str = ""
    new_field: int = 0
    addend: int = 0
    call: int | None = None

    def matches(self, codes: Codes) -> npt.NDArray[np.bool_]:
        """Which of some sequences are this one: bool[sequences]."""
        mask = np.frombuffer(self.mask, np.uint8)
        matching: npt.NDArray[np.bool_] = ((codes & mask) == np.frombuffer(self.code, np.uint8)).all(axis=1)
        return matching


def always(code: bytes) -> Callable[[Codes], Codes]:
    """Make the rewriting into one code for all registers."""

    def rewrite(codes: Codes) -> Codes:
        return np.tile(np.frombuffer(code, np.uint8), (len(codes), 1))

    return rewrite


@dataclass(frozen=True)
class ThreadLocalRules:
    """Thread-local storage on a machine.

    Attributes:
        below: whether blocks lie below the thread pointer (variant II), or above (variant I).
        reserved: bytes at the thread pointer that belong to the C library, in variant I.
        loader: how the loader is asked.
        relaxations: code sequences that have a local-exec form.
        bias: what __tls_get_addr adds to the offset that it is given.
        relax_by_label: rewrites TLS descriptor sequences whose parts find each other by labels, or None. It is
            given the edges to variables that have one distance from the thread pointer, gives the edges
            that it rewrites their new kinds, and returns them with their new instructions.
        exit_code: functions that register and run destructors of thread-local objects, by name.
    """

    below: bool
    reserved: int
    loader: LoaderKinds
    relaxations: tuple[Relaxation, ...]
    bias: int = 0
    relax_by_label: Callable[[LinkGraph, Rows], tuple[Rows, Codes]] | None = None
    exit_code: Mapping[str, Routine] = field(default_factory=dict)


def windows_at(pool: Buffer, places: npt.NDArray[np.int64], size: int) -> Codes:
    """Gather size bytes from each place of a pool: uint8[places, size]."""
    codes: Codes = pool[places[:, None] + np.arange(size)]
    return codes

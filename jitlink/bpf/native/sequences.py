"""The sequence of a map or ring buffer in machine code: a lock and a version in one (jitlink.bpf.maps.hashes).

The functions are in the language of dialect.py.
"""

from __future__ import annotations

from jitlink.bpf.native.dialect import fence_release, inlined, pause, release, sched_yield, swap_if, u64

SPINS = 64
"""How often a thread looks at a sequence before it lets others run, one of whom it may be waiting for."""


def wait(tries: int) -> None:
    """Let time pass between two looks at a sequence."""
    pause()
    if tries % SPINS == 0:
        sched_yield()


def lock(sequence: int) -> None:
    """Make a sequence odd, when nobody else has."""
    tries = 1
    while True:
        version = u64[sequence]
        if version % 2 == 0 and swap_if(sequence, version, version + 1):
            # Whoever sees a change sees that the sequence is odd.
            fence_release()
            return
        wait(tries)
        tries += 1


@inlined
def unlock(sequence: int) -> None:
    """Make it even again."""
    release(sequence, u64[sequence] + 1)

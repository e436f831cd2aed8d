"""No damaged object for AArch64 crashes the linker, hangs it or eats memory: see tests/test_mutations.py."""

from __future__ import annotations

import random
import sys
from functools import cache

import pytest

from tests import programs, toolchain
from tests.mutations import DAMAGES, damaged, is_linkable, limited_memory, link_or_refuse, run_campaign

TARGET = "aarch64-linux-gnu"
ASSEMBLY = """
    .section .text.once, "axG", %progbits, once, comdat
    .weak once
    .type once, %function
once:
    b entry
    .text
    .globl entry, choose
    .type entry, %function
    .type choose, %gnu_indirect_function
entry:
    .cfi_startproc
    adrp x0, :got:shared
    ldr x0, [x0, :got_lo12:shared]
    adrp x1, table
    add x1, x1, :lo12:table
    adrp x2, shared
    ldr x3, [x2, :lo12:shared]
    bl outside
    bl outside+8
    .weak nothing
    bl nothing
    b.eq late
    tbz x4, #3, once
    movz x5, #:abs_g0_nc:table
    movk x5, #:abs_g1:table
    movn x6, #:prel_g1:table
    ldr x7, literal
    adr x8, table
    ret
literal:
    .quad outside
    .word outside - .
    .cfi_endproc
choose:
    adr x0, entry
    ret
    .section .init_array.200, "aw", %init_array
    .quad entry
    .section my_set, "aw", %progbits
    .quad __start_my_set, entry, once
    .data
    .hidden table
    .globl table
table:
    .quad table+8, entry, choose
    .weak late
    .quad late
    .comm shared, 64, 32
"""


@cache
def seeds() -> dict[str, bytes]:
    """Sound objects, by name."""
    source = programs.source("linkage_a.c")
    without_resolver = ASSEMBLY.replace(".type choose, %gnu_indirect_function", "")
    return {
        "assembly": toolchain.assemble(without_resolver, target=TARGET),
        "assembly with a resolver": toolchain.assemble(ASSEMBLY, target=TARGET),
        "C": toolchain.zig_cc(source, "-O2", "-fPIC", target=TARGET),
        "C in sections": toolchain.zig_cc(source, "-O0", "-g", "-ffunction-sections", target=TARGET),
        "C with branch protection": toolchain.zig_cc(source, "-O1", "-mbranch-protection=standard", target=TARGET),
        "C without a GOT": toolchain.zig_cc(source, "-O1", "-fno-pic", target="aarch64-freestanding"),
    }


@pytest.mark.parametrize("name", sorted({damage.__name__ for damage in DAMAGES}))
def test_each_sort_of_damage_is_linked_or_refused(name: str) -> None:
    """Each sort of damage alone, done to every sound object, ends in an image or in a LinkError."""
    damage = next(damage for damage in DAMAGES if damage.__name__ == name)
    choices = random.Random(name)
    with limited_memory():
        for content in seeds().values():
            for _ in range(3):
                buffer = bytearray(content)
                damage(buffer, choices)
                link_or_refuse(bytes(buffer), choices)


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_object_is_linked_or_refused(seed: int) -> None:
    """Several faults at once end in an image or in a LinkError as well."""
    choices = random.Random(seed)
    with limited_memory():
        link_or_refuse(damaged(seeds()[choices.choice(sorted(seeds()))], choices), choices)


def test_the_sound_objects_are_linked() -> None:
    """Undamaged, every seed goes through the whole link: else the damage would be tested on nothing."""
    assert [name for name, content in seeds().items() if not is_linkable(content)] == []


if __name__ == "__main__":
    count, seed = (int(argument) for argument in (*sys.argv[1:], "0")[:2])
    sys.exit(
        run_campaign(
            count, seed, seeds(), lambda number, content, choices: link_or_refuse(damaged(content, choices), choices)
        )
    )

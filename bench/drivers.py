"""Drivers: how a lazy linker is made to link everything.

The linkers of LLVM's ORC (llvm-jitlink, LLJIT) link an object only once one of its symbols is looked
up. To compare them at a whole library they are given its members and a driver: an object with a table
of addresses of symbols in the members, whose own symbol is then looked up. ORC's time depends a good deal on
how many symbols the driver waits for, and not every version likes the same. So there are two, and
each linker is measured with the one it is faster with:

- `each`: the table names one symbol of each member;
- `few`: it names only members from which references lead to all others.

Members without a strong global symbol (empty ones, chiefly) cannot be looked up and are left out by
ORC; everybody else links them too.

Some names that libraries refer to are exported by no shared library (`atexit`, which libc has only
statically). A further object, `stand-ins`, defines them as functions that do nothing, for those
linkers that do not define them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

DRIVER = "bench_driver"
ORCJIT_PREFIX = "__tvm_ffi_"
"""apache-tvm-ffi-orcjit looks up functions under this prefix and no others."""

WAYS = ("each", "few")
PROCESS_LIBRARIES = ("libm.so.6", "libdl.so.2", "libpthread.so.0")
"""Loaded for everybody, so that what the libraries need is found in the process."""


@dataclass(frozen=True)
class Names:
    """The global symbols of an object: what it defines (strong: neither weak nor common), and what it needs."""

    strong: tuple[str, ...]
    defined: frozenset[str]
    needed: frozenset[str]


def driver_sources(objects: Iterable[Path]) -> dict[str, str]:
    """Write the drivers and the stand-ins of a library as assembly, by the name of the object."""
    members = [names_of(path) for path in objects]
    roots = reaching_all(references(members))
    return {
        "each": driver_source([names.strong[0] for names in members if names.strong]),
        "few": driver_source([members[root].strong[0] for root in roots if members[root].strong]),
        "stand-ins": _function(missing_everywhere(members), "\tret"),
    }


def driver_source(pulled: Iterable[str]) -> str:
    """Write a driver as assembly: a table of addresses, and a function that returns 0."""
    table = "".join(f"\t.quad {name}\n" for name in pulled)
    body = "\tleaq bench_table(%rip), %rax\n\txorl %eax, %eax\n\tret"
    return f"\t.data\nbench_table:\n{table}" + _function([DRIVER, ORCJIT_PREFIX + DRIVER], body)


def _function(names: Iterable[str], body: str) -> str:
    labels = "".join(f"\t.globl {name}\n\t.type {name}, @function\n{name}:\n" for name in names)
    return f'\t.text\n{labels}{body}\n\t.section .note.GNU-stack,"",@progbits\n'


def names_of(path: Path) -> Names:
    """Read the global and weak symbols of an object."""
    strong, defined, needed = [], set(), set()
    file = ELFFile(BytesIO(path.read_bytes()))
    for table in file.iter_sections():
        for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
            binding, section = symbol["st_info"]["bind"], symbol["st_shndx"]
            if binding == "STB_LOCAL":
                continue
            if section != "SHN_UNDEF":
                defined.add(symbol.name)
            elif binding == "STB_GLOBAL":
                needed.add(symbol.name)
            if binding == "STB_GLOBAL" and isinstance(section, int):
                strong.append(symbol.name)
    return Names(tuple(strong), frozenset(defined), frozenset(needed))


def references(members: Sequence[Names]) -> list[list[int]]:
    """Say for each member which members define what it needs."""
    owner = {name: number for number, names in reversed(list(enumerate(members))) for name in names.defined}
    return [sorted({owner[name] for name in names.needed if name in owner}) for names in members]


def reaching_all(refers: Sequence[Sequence[int]]) -> list[int]:
    """Pick members from which references lead to all others.

    A depth-first walk leaves a member after all it leads to. Taken from the last one left to the first,
    a member that nothing picked so far leads to is needed as a root (as in Kosaraju's algorithm).
    """
    left: list[int] = []
    walk(refers, range(len(refers)), set(), left)
    reached: set[int] = set()
    roots = []
    for member in reversed(left):
        if member not in reached:
            roots.append(member)
            walk(refers, [member], reached, [])
    return roots


def walk(refers: Sequence[Sequence[int]], starts: Iterable[int], seen: set[int], left: list[int]) -> None:
    """Walk depth-first from the starts over what is not in seen; append members in the order they are left."""
    for start in starts:
        if start in seen:
            continue
        seen.add(start)
        path = [(start, iter(refers[start]))]
        while path:
            member, following = path[-1]
            step = next((other for other in following if other not in seen), None)
            if step is None:
                left.append(member)
                path.pop()
            else:
                seen.add(step)
                path.append((step, iter(refers[step])))


def missing_everywhere(members: Iterable[Names]) -> list[str]:
    """List the names that members need, and that neither a member nor this process defines."""
    load_process_libraries()
    process = ctypes.CDLL(None)
    needed: set[str] = set()
    defined = {"_GLOBAL_OFFSET_TABLE_"}
    for names in members:
        needed |= names.needed
        defined |= names.defined
    return sorted(name for name in needed - defined if not hasattr(process, name))


def load_process_libraries() -> None:
    """Make libm and its like part of the process, so that what they export is found in it."""
    for name in PROCESS_LIBRARIES:
        ctypes.CDLL(name, ctypes.RTLD_GLOBAL)

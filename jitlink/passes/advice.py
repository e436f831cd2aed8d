"""What a person can do about a fixup that does not fit: the last part of an OutOfRange error."""

from __future__ import annotations

from jitlink.arches.architecture import Architecture
from jitlink.escaping import escaped
from jitlink.fields import Addresses
from jitlink.formulas import Kind
from jitlink.graph import Definition, LinkGraph, SymbolKind

GIB, MIB, KIB = 1 << 30, 1 << 20, 1 << 10
FUNCTIONS = (SymbolKind.FUNCTION, SymbolKind.IFUNC)


def advise(graph: LinkGraph, kind: Kind, edge: int, base: int, addresses: Addresses) -> str:
    """Say how far away the target of an edge is, and how it could be reached.

    base: address of the image. addresses: uint64[symbols].
    """
    machine = graph.target
    assert isinstance(machine, Architecture)
    target = graph.edges[edge].target
    raw = graph.raw_name_at(int(graph.symbols.name[target.row]))
    name = escaped(target.name if target.kind == SymbolKind.SECTION else graph.c_name(raw)) or "the target"
    if target.definition == Definition.EXTERNAL and not target.address:
        return f"{name} is a weak symbol that nothing defines, so its address is 0: define it, or compile with -fPIC"
    address = int(addresses[graph.edges.target[edge]])
    goal = address + int(graph.edges.addend[edge])
    if goal % kind.check.align:
        return f"{goal:#x} is not aligned to {kind.check.align} bytes, as the instruction needs it: align {name}"
    if kind.name in machine.veneers and target.definition != Definition.EXTERNAL:
        return _advise_branch(graph, edge, name)
    far = f"{name} is {_size(abs(address - base))} away from the image at {base:#x}"
    if target.definition == Definition.EXTERNAL:
        if target.kind == SymbolKind.TLS:
            return far
        return (
            f"{far}. Compile with -fPIC, so that it is reached through a GOT entry; "
            f"or, if it is data that nothing else changes, let it be copied: copy_data=[{name!r}]"
        )
    if kind.field.size < 4:
        return f"{far}. A field of {8 * kind.field.size} bits holds no address here: widen it in the source"
    if kind.name in machine.reaches:
        return f"{far}. This sort of relocation spans {_size(machine.reaches[kind.name])}: compile with -mcmodel=small"
    return f"{far}. Choose another base address, or compile with -fPIC or -mcmodel=large"


def _advise_branch(graph: LinkGraph, edge: int, name: str) -> str:
    """Say why a branch inside of the image has no veneer, and what would give it one."""
    row = graph.edges[edge]
    if row.target.block == row.block and row.target.kind not in FUNCTIONS:
        return (
            "By the ABI no veneer may stand between a branch and a label of its own section that is no function: "
            f"give {name} the type of a function, or split the section"
        )
    return (
        f"The section of the branch has {_size(row.block.size)}, and a veneer can only lie at its ends, which are out "
        "of reach: compile with -ffunction-sections"
    )


def _size(count: int) -> str:
    """A number of bytes as people say it."""
    if count >= GIB // 10:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.1f} MiB" if count >= MIB // 10 else f"{count / KIB:.1f} KiB"

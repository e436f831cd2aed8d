"""What a person can do about a fixup that does not fit: the last part of an OutOfRange error."""

from __future__ import annotations

from jitlink.escaping import escaped
from jitlink.fields import Addresses
from jitlink.formulas import Kind
from jitlink.graph import Definition, LinkGraph, SymbolKind

GIB = 1 << 30


def advise(graph: LinkGraph, kind: Kind, edge: int, base: int, addresses: Addresses) -> str:
    """Say how far away the target of an edge is, and how it could be reached.

    base: address of the image. addresses: uint64[symbols].
    """
    target = graph.edges[edge].target
    name = escaped(target.name) or "the target"
    if target.definition == Definition.EXTERNAL and not target.address:
        return f"{name} is a weak symbol that nothing defines, so its address is 0: define it, or compile with -fPIC"
    distance = abs(int(addresses[graph.edges.target[edge]]) - base)
    far = f"{name} is {distance / GIB:.1f} GiB away from the image at {base:#x}"
    if target.definition == Definition.EXTERNAL:
        if target.kind == SymbolKind.TLS:
            return far
        return (
            f"{far}. Compile with -fPIC, so that it is reached through a GOT entry; "
            f"or, if it is data that nothing else changes, let it be copied: copy_data=[{name!r}]"
        )
    if kind.field.size < 4:
        return f"{far}. A field of {8 * kind.field.size} bits holds no address here: widen it in the source"
    return f"{far}. Choose another base address, or compile with -fPIC or -mcmodel=large"

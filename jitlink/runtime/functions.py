"""The functions of a linked graph: where each one is, how long, and what it is called.

Debuggers, profilers and people ask for the name of an address; so this is a table by address. It holds
every named place in code that is part of the link, local ones too. An assembler label may have no size:
it then reaches to the next name, or to the end of its block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows
from jitlink.graph import Definition, LinkGraph, SymbolKind
from jitlink.graph.naming import to_c_name
from jitlink.protection import Protection

EXECUTE = int(Protection.EXECUTE)
MAPPING_SYMBOL = re.compile(rb"\$(x|d|xrv\w+)(\.|\Z)|\.L")
"""Marks where code or data starts (AAELF64 and RISC-V psABI, Mapping symbols), and names nothing.

Nor does a label of the compiler's own, which assemblers keep where the linker may make code shorter.
"""
NOT_PLACES = (int(SymbolKind.SECTION), int(SymbolKind.FILE), int(SymbolKind.TLS))


@dataclass(frozen=True)
class NamedPlaces:
    """Named places of a link by rising address, one at each.

    Attributes: address and end (uint64[n]); name (list of n bytes); block (int64[n]); input (int64[n],
    numbers in LinkGraph.inputs).
    """

    address: npt.NDArray[np.uint64]
    end: npt.NDArray[np.uint64]
    name: list[bytes]
    block: Rows
    input: Rows

    def find(self, address: int) -> int | None:
        """The row of the place that an address is in, or None."""
        row = int(self.address.searchsorted(np.uint64(address), "right")) - 1
        return row if row >= 0 and address < int(self.end[row]) else None


def named_places(graph: LinkGraph, *, code: bool) -> NamedPlaces:
    """Find the functions of a linked graph, or its variables. Needs final addresses."""
    symbols, blocks, sections = graph.symbols, graph.blocks, graph.sections
    block = symbols.block
    wanted = (symbols.definition == Definition.DEFINED) & blocks.live[block] & (block > 0)
    wanted &= ~np.isin(symbols.kind, NOT_PLACES)
    wanted &= ((sections.protection[blocks.section[block]] & EXECUTE) > 0) == code
    rows = wanted.nonzero()[0]
    names = [to_c_name(name, graph.symbol_prefix) for name in graph.names_at(symbols.name[rows])]
    named = np.array([bool(name) and not MAPPING_SYMBOL.match(name) for name in names], np.bool_)
    rows = rows[named]
    names = [name for name, is_named in zip(names, named.tolist(), strict=True) if is_named]
    address = symbols.addresses()[rows]
    # Of the names of one place: a function before a label, the one with a size, the one that all can see.
    order = np.lexsort((symbols.scope[rows], symbols.size[rows] == 0, symbols.kind[rows] == 0, address))
    first = np.ones(len(order), np.bool_)
    first[1:] = address[order[1:]] != address[order[:-1]]
    order = order[first]
    rows, address = rows[order], address[order]
    size, owner = symbols.size[rows], block[rows]
    behind = blocks.address[owner] + blocks.size[owner].astype(np.uint64)
    following = np.append(address[1:], behind[-1:])
    end = np.minimum(np.where(size > 0, address + size, following), behind)
    return NamedPlaces(address, end, [names[row] for row in order.tolist()], owner, symbols.input[rows])

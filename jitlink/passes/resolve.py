"""Symbol resolution: one definition for each name, and every edge aimed at it.

Within a batch of inputs, a name means the same thing everywhere. Of its definitions a strong one wins,
then a common symbol, then a weak one (gABI, Symbol Table: "the link editor honors the common definition
and ignores the weak ones"), among equals the first. Two strong definitions are an error, unless both are
the same absolute number. Before that, of all COMDAT groups with one signature one is kept (jitlink.passes.comdat).

Local symbols take no part: their edges already point at the right row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitlink.columns import NO_ROWS, Rows, lowest_by, rows_by
from jitlink.errors import DuplicateDefinitions, Place
from jitlink.graph import NO_NAME, Definition, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.passes.comdat import drop_losing_groups
from jitlink.protection import Protection

STRONG, COMMON, WEAK, NOT_DEFINED = range(4)
"""How good a definition is; the lowest wins."""
RANK_OF_DEFINITION = np.array([NOT_DEFINED, STRONG, STRONG, COMMON, NOT_DEFINED, STRONG])
"""By Definition, for symbols that are not weak."""
RANK_SHIFT = 40
ROW_MASK = (1 << RANK_SHIFT) - 1

UNDEFINED, DEFINED, ABSOLUTE, IS_COMMON, EXTERNAL = map(int, tuple(Definition)[:5])
HIDDEN, LOCAL = int(Scope.HIDDEN), int(Scope.LOCAL)


@dataclass
class Resolution:
    """What the names of a graph mean.

    Attributes:
        number_of: the number of each global name; numbers are below len(winner), but not dense.
        winner: int64[names], the symbol that a name stands for; where nobody defines it, its first reference.
        hidden: bool[names], whether some input keeps the name inside the dylib.
        undefined: the name of each winner that nobody defines, by its symbol.
        weak: those of undefined that only weak references ask for.
        second_names: numbers of the names that mean what another name means (see jitlink.passes.aliases).
    """

    number_of: dict[bytes, int]
    winner: Rows
    hidden: npt.NDArray[np.bool_]
    undefined: dict[int, bytes] = field(default_factory=dict)
    weak: set[int] = field(default_factory=set)
    second_names: Rows = field(default_factory=lambda: NO_ROWS)

    def symbol(self, name: bytes) -> int:
        """The symbol that a name stands for, or 0."""
        number = self.number_of.get(name)
        return 0 if number is None else int(self.winner[number])

    def add_reference(self, name: bytes, symbol: int) -> None:
        """Take in an undefined symbol that a pass has added, for a name that was not known."""
        self.number_of[name] = len(self.winner)
        self.winner = np.append(self.winner, symbol)
        self.hidden = np.append(self.hidden, False)
        self.undefined[symbol] = name


def resolve(graph: LinkGraph) -> Resolution:
    """Decide what each global name stands for, and aim all edges accordingly.

    Drops the blocks of COMDAT groups that lost. Raises DuplicateDefinitions with all of them at once.
    """
    symbols = graph.symbols
    rows = ((symbols.scope != LOCAL) & (symbols.name != NO_NAME)).nonzero()[0]
    # In the order in which names lie in memory: what follows reads each of them several times.
    rows = rows[symbols.name[rows].argsort(kind="stable")]
    names = graph.names_at(symbols.name[rows])
    number_of: dict[bytes, int] = {}
    # A name's number is the place of its first occurrence, which setdefault hands out by itself.
    number = np.fromiter(map(number_of.setdefault, names, range(len(names))), np.int64, len(names))
    if len(graph.groups) > 1:
        drop_losing_groups(graph, rows, number)
    return _choose(graph, rows, number, names, number_of)


def _choose(graph: LinkGraph, rows: Rows, number: Rows, names: list[bytes], number_of: dict[bytes, int]) -> Resolution:
    """Choose the winner of each name and aim the edges.

    rows: int64[n], the global symbols in any order; number: int64[n], the number of the name of each;
    names: of each.
    """
    symbols = graph.symbols
    definition = symbols.definition[rows]
    strong = symbols.linkage[rows] == STRONG
    rank = RANK_OF_DEFINITION[definition]
    rank[~strong & (rank == STRONG)] = WEAK
    hidden = np.zeros(len(rows), np.bool_)
    hidden[number[symbols.scope[rows] == HIDDEN]] = True
    if len(number_of) == len(rows):
        # Every name occurs once, so every symbol wins.
        result = Resolution(number_of, rows, hidden)
        unmet = (rank == NOT_DEFINED).nonzero()[0]
        required = strong
    else:
        _refuse_duplicates(graph, rows, number, rank)
        if np.count_nonzero(rank == COMMON):
            _grow_commons(graph, rows, number, rank == COMMON)
        # The lowest rank wins, and among equals the first symbol.
        best = lowest_by(number, (rank << RANK_SHIFT) + rows, len(rows), 0)
        result = Resolution(number_of, best & ROW_MASK, hidden)
        resolved = np.arange(len(symbols))
        resolved[rows] = result.winner[number]
        graph.edges.target = resolved[graph.edges.target]
        unmet = (best >> RANK_SHIFT == NOT_DEFINED).nonzero()[0]
        required = np.zeros(len(rows), np.bool_)
        required[number[strong]] = True
    unmet = unmet[result.winner[unmet].argsort()]
    for name, symbol, needed in zip(
        unmet.tolist(), result.winner[unmet].tolist(), required[unmet].tolist(), strict=True
    ):
        result.undefined[symbol] = names[name]
        if not needed:
            result.weak.add(symbol)
    return result


def _grow_commons(graph: LinkGraph, rows: Rows, number: Rows, common: npt.NDArray[np.bool_]) -> None:
    """Give all commons of a name the largest size and alignment among them (gABI, SHN_COMMON)."""
    symbols = graph.symbols
    for column in (symbols.size, symbols.offset):
        largest = np.zeros(len(rows), column.dtype)
        np.maximum.at(largest, number[common], column[rows[common]])
        column[rows[common]] = largest[number[common]]


def _refuse_duplicates(graph: LinkGraph, rows: Rows, number: Rows, rank: Rows) -> None:
    """Raise DuplicateDefinitions for the names with several strong definitions."""
    strong = (rank == STRONG).nonzero()[0]
    rows, number = rows[strong], number[strong]
    times = np.bincount(number, minlength=len(rank))
    if not np.count_nonzero(times > 1):
        return
    by_name, first = rows_by(number, len(rank))
    twice = (times > 1).nonzero()[0].tolist()
    of_each = [rows[by_name[first[name] : first[name + 1]]] for name in twice]
    definers = sorted(sorted(several.tolist()) for several in of_each if not _is_one_number(graph, several))
    if not definers:
        return
    raise DuplicateDefinitions(
        [graph.c_name(graph.raw_name_at(int(graph.symbols.name[several[0]]))) for several in definers],
        [[_definition_place(graph, row) for row in several] for several in definers],
    )


def _is_one_number(graph: LinkGraph, rows: Rows) -> bool:
    """Whether symbols are all the same number, and no place in a section: as linkers do, we take that for one."""
    symbols = graph.symbols
    return bool(
        (symbols.definition[rows] == ABSOLUTE).all() and (symbols.offset[rows] == symbols.offset[rows[0]]).all()
    )


def _definition_place(graph: LinkGraph, row: int) -> Place:
    symbol = graph.symbols[row]
    section = symbol.block.section.name if symbol.block else ""
    return Place(graph.inputs[int(graph.symbols.input[row])], section, symbol.offset if section else None)


def place_commons(graph: LinkGraph, resolution: Resolution) -> None:
    """Give every common symbol that won its name a zero-fill block of its own. Needs aimed edges."""
    symbols = graph.symbols
    rows = (symbols.definition == IS_COMMON).nonzero()[0]
    if not len(rows):
        return
    won = resolution.winner[list(resolution.number_of.values())]
    rows = rows[np.isin(rows, won) | (symbols.scope[rows] == LOCAL)]
    thread_local = symbols.kind[rows] == SymbolKind.TLS
    section = graph.add_section("COMMON", Protection.READ | Protection.WRITE)
    _place_commons_in(graph, section, rows[~thread_local], SymbolKind.OBJECT)
    if thread_local.any():
        section = graph.add_section(".tcommon", Protection.READ | Protection.WRITE, purpose=Purpose.TLS)
        _place_commons_in(graph, section, rows[thread_local], SymbolKind.TLS)


def _place_commons_in(graph: LinkGraph, section: int, rows: Rows, kind: SymbolKind) -> None:
    """Give each common symbol at rows a block in a section."""
    symbols = graph.symbols
    blocks = graph.blocks.append(
        len(rows),
        section=section,
        size=symbols.size[rows],
        alignment=np.maximum(symbols.offset[rows], 1),
        zero_fill=True,
        live=True,
    )
    symbols.block[rows] = blocks
    symbols.offset[rows] = 0
    symbols.definition[rows] = DEFINED
    symbols.kind[rows] = kind

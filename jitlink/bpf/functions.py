"""Functions: the code sections of a link graph, cut into one block for each function.

A section of code holds many functions, and the reader makes one block of it. A program takes along the
functions that it calls and no others, so every function has to be a block: then what a program needs is
what its block reaches, as in any dead strip, and functions can be put one behind the other in any order.

A call inside a section is finished by the assembler, which leaves no relocation. Such calls become edges
here, since the distance changes when the functions move apart.

A function begins at a symbol of type STT_FUNC. Code in front of the first one, or of a section without
any, is a function too: assemblers do not ask for types. In a section without any it also begins at each symbol
that other objects may see, since LLVM before 8 gave functions no type. A jump never leaves its function; one that does
is found by the verifier, after the functions have moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.bpf.instructions import SLOT, ByteOrder, Instructions, decode
from jitlink.bpf.isa import FORMS, Family
from jitlink.columns import Rows, rows_by, rows_of, starts_of
from jitlink.columns.reach import reachable
from jitlink.errors import MalformedInput
from jitlink.graph import Definition, LinkGraph, Scope, SymbolKind
from jitlink.protection import Protection

CALL = "R_BPF_64_32"
LOCAL_CALL, HELPER_CALL, FUNCTION_ADDRESS = 1, 0, 4
"""Values of src: of a call to a function of the program or to a helper; of lddw with a function's address."""
LARGEST_SECTION = 1 << 32
FUNCTION, LOCAL, DEFINED = int(SymbolKind.FUNCTION), int(Scope.LOCAL), int(Definition.DEFINED)

_LOCAL_CALLS = np.array([form.family is Family.CALL and form.operation == "local" for form in FORMS])


@dataclass(frozen=True)
class Functions:
    """The functions of a graph, a row each, in order of input, section and place.

    Columns, all int64[functions]: block; entry (a local symbol at its start); home (the block that it was
    cut out of); start (where it begins there, in bytes); size (bytes). code: all of them decoded, one
    behind the other; first_slot (int64[functions + 1], where each begins in code). names: of each.
    """

    block: Rows
    entry: Rows
    home: Rows
    start: Rows
    size: Rows
    code: Instructions
    first_slot: Rows
    names: list[str]

    def row_of_block(self, blocks: int) -> Rows:
        """For each block of the graph its row here, -1 for what is no function: int64[blocks]."""
        row = np.full(blocks, -1, np.int64)
        row[self.block] = np.arange(len(self.block))
        return row

    def beginning_at(self, home: Rows, offset: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Find the function that begins at each place of the uncut blocks. Returns (row, whether there is one)."""
        places = self.home << 32 | self.start
        wanted = home << 32 | np.clip(offset, 0, LARGEST_SECTION - 1)
        row = np.minimum(places.searchsorted(wanted), len(places) - 1)
        return row, places[row] == wanted


def split_functions(graph: LinkGraph) -> Functions:
    """Make a block of every function. Needs aimed edges and settled content; leaves sorted edges.

    An edge to code points at the entry of a function afterwards, with addend 0. Raises MalformedInput
    for code that is not whole instructions, and for edges and calls that lead into a function's middle.
    """
    blocks = code_blocks(graph)
    cutter = _Cutter(graph, blocks)
    cutter.cut()
    cutter.move_symbols()
    cutter.move_edges()
    functions = cutter.functions()
    _aim_at_entries(graph, functions)
    _add_local_calls(graph, functions)
    graph.sort_edges()
    return functions


def code_blocks(graph: LinkGraph) -> Rows:
    """Find the blocks of code that are part of the image and not empty: int64[n]."""
    blocks = graph.blocks
    executable = graph.sections.protection[blocks.section] & int(Protection.EXECUTE) != 0
    rows: Rows = (executable & blocks.live & (blocks.size > 0)).nonzero()[0]
    return rows[rows > 0]


class _Cutter:
    """Cuts blocks at the starts of functions. A place is a block and an offset in it, as one number."""

    def __init__(self, graph: LinkGraph, blocks: Rows) -> None:
        self.graph = graph
        assert isinstance(graph.target, Architecture)
        self.order: ByteOrder = graph.target.byte_order
        self.is_code = np.zeros(len(graph.blocks), np.bool_)
        self.is_code[blocks] = True
        size, zero_fill = graph.blocks.size[blocks], graph.blocks.zero_fill[blocks]
        _refuse(graph, blocks[(size % SLOT != 0) | zero_fill], "code that is not whole instructions of 8 bytes")
        _refuse(graph, blocks[size >= LARGEST_SECTION], "more code than a BPF program can have")
        symbols = graph.symbols
        starts = self.is_code[symbols.block] & (symbols.definition == DEFINED)
        typed = np.zeros(len(graph.blocks), np.bool_)
        typed[symbols.block[starts & (symbols.kind == FUNCTION)]] = True
        starts &= (symbols.kind == FUNCTION) | (~typed[symbols.block] & (symbols.scope != LOCAL))
        offset = symbols.offset[starts]
        outside = (offset >= graph.blocks.size[symbols.block[starts]].view(np.uint64)) | (offset % SLOT != 0)
        _refuse(graph, symbols.block[starts][outside], "a function that does not begin at an instruction")
        places = np.concatenate((blocks << 32, symbols.block[starts] << 32 | offset.view(np.int64)))
        self.places = np.unique(places)
        self.old_block, self.start = self.places >> 32, self.places & LARGEST_SECTION - 1

    def cut(self) -> None:
        """Add a block for each function but the first of a section, which keeps the section's."""
        blocks, old = self.graph.blocks, self.old_block
        is_first = self.start == 0
        whole = blocks.size[old]
        ends = np.where(np.concatenate((is_first[1:], [True]))[: len(old)], whole, np.roll(self.start, -1))
        self.size = ends - self.start
        self.block = old.copy()
        rest = (~is_first).nonzero()[0]
        self.block[rest] = blocks.append(
            len(rest),
            section=blocks.section[old[rest]],
            content=blocks.content[old[rest]] + self.start[rest],
            size=self.size[rest],
            alignment=SLOT,
            live=True,
        )
        first = is_first.nonzero()[0]
        blocks.size[self.block[first]] = self.size[first]
        blocks.alignment[self.block[first]] = SLOT

    def _function_at(self, block: Rows, offset: Rows) -> Rows:
        """The function that each place lies in; a place behind a section's end is in its last one."""
        place = block << 32 | np.clip(offset, 0, LARGEST_SECTION - 1)
        return self.places.searchsorted(place, "right") - 1

    def move_symbols(self) -> None:
        """Let symbols of code say their place in the new blocks."""
        symbols = self.graph.symbols
        rows = self.is_code[symbols.block].nonzero()[0]
        offset = np.minimum(symbols.offset[rows], np.uint64(LARGEST_SECTION - 1)).view(np.int64)
        function = self._function_at(symbols.block[rows], offset)
        symbols.block[rows] = self.block[function]
        symbols.offset[rows] -= self.start[function].view(np.uint64)

    def move_edges(self) -> None:
        """Let edges of code say their place in the new blocks."""
        edges = self.graph.edges
        rows = self.is_code[edges.block].nonzero()[0]
        function = self._function_at(edges.block[rows], edges.offset[rows])
        edges.block[rows] = self.block[function]
        edges.offset[rows] -= self.start[function]
        odd = (edges.offset[rows] % SLOT != 0) | (edges.offset[rows] < 0) | (edges.offset[rows] >= self.size[function])
        _refuse(self.graph, edges.block[rows[odd]], "a relocation that is not at an instruction")

    def functions(self) -> Functions:
        """Make the table, with a local symbol at the start of each function."""
        graph = self.graph
        blocks = graph.blocks
        names = self._names()
        entry = graph.symbols.append(
            len(self.block),
            name=np.array([graph.add_name(name) for name in names], np.int64),
            block=self.block,
            size=self.size,
            scope=LOCAL,
            definition=DEFINED,
            kind=FUNCTION,
            input=graph.sections.input[blocks.section[self.block]],
        )
        content = graph.pool[rows_of(blocks.content[self.block], self.size)]
        code = decode(content, self.order)
        first_slot = starts_of(self.size // SLOT)
        # A wide constant that runs over the end of its function would take the next one's first slot.
        _refuse(
            graph,
            self.block[code.is_second[first_slot[:-1]]] if len(self.block) else self.block,
            "a wide constant in front of this code runs over the end of its function",
        )
        return Functions(self.block, entry, self.old_block, self.start, self.size, code, first_slot, names)

    def _names(self) -> list[str]:
        """The name of each function: of a function symbol, a global one first; else that of another global
        symbol at its start; else of its section."""
        graph, symbols = self.graph, self.graph.symbols
        named: dict[int, tuple[int, str]] = {}
        at_start = (self.is_code_now()[symbols.block] & (symbols.offset == 0)).nonzero()[0]
        for row, name in zip(at_start.tolist(), graph.names_at(symbols.name[at_start]), strict=True):
            is_function, is_local = symbols.kind[row] == FUNCTION, symbols.scope[row] == LOCAL
            if name and (is_function or not is_local):
                rank = (0 if is_function else 2) + int(is_local)
                block = int(symbols.block[row])
                if block not in named or rank < named[block][0]:
                    named[block] = (rank, name.decode(errors="surrogateescape"))
        return [
            named[block][1] if block in named else graph.name_at(int(graph.sections.name[graph.blocks.section[block]]))
            for block in self.block.tolist()
        ]

    def is_code_now(self) -> npt.NDArray[np.bool_]:
        """Mark the blocks of functions: bool[blocks]."""
        is_code = np.zeros(len(self.graph.blocks), np.bool_)
        is_code[self.block] = True
        return is_code


def _aim_at_entries(graph: LinkGraph, functions: Functions) -> None:
    """Aim edges that lead to code at entries, with addend 0.

    The addend of a reference through the symbol of a section says which function of it is meant.
    """
    edges, symbols = graph.edges, graph.symbols
    row_of_block = functions.row_of_block(len(graph.blocks))
    rows = (row_of_block[symbols.block[edges.target]] >= 0).nonzero()[0]
    # Debug sections and line tables point anywhere into code, and are not applied.
    rows = rows[graph.blocks.live[edges.block[rows]]]
    target = edges.target[rows]
    base = row_of_block[symbols.block[target]]
    place = functions.start[base] + symbols.offset[target].view(np.int64) + edges.addend[rows]
    found, begins = functions.beginning_at(functions.home[base], place)
    astray = ~begins & (row_of_block[edges.block[rows]] >= 0)
    _refuse(graph, edges.block[rows[astray]], "a reference to code that is not the start of a function")
    edges.target[rows[begins]] = functions.entry[found[begins]]
    edges.addend[rows[begins]] = 0


def _add_local_calls(graph: LinkGraph, functions: Functions) -> None:
    """Make edges of the calls that the assembler has finished, where they leave their function."""
    code, first = functions.code, functions.first_slot
    slots = (_LOCAL_CALLS[code.form]).nonzero()[0]
    if not len(slots):
        return
    caller = first.searchsorted(slots, "right") - 1
    offset = (slots - first[caller]) * SLOT
    edges = graph.edges
    in_code = (functions.row_of_block(len(graph.blocks))[edges.block] >= 0).nonzero()[0]
    relocated = edges.block[in_code] << 32 | edges.offset[in_code]
    taken = np.isin(functions.block[caller] << 32 | offset, relocated)
    slots, caller, offset = slots[~taken], caller[~taken], offset[~taken]
    place = functions.start[caller] + offset + (1 + code.imm[slots]) * SLOT
    found, is_entry = functions.beginning_at(functions.home[caller], place)
    own = (place >= functions.start[caller]) & (place < functions.start[caller] + functions.size[caller])
    # A call inside of its own function needs no edge: both ends move together.
    bad = functions.block[caller[~is_entry & ~own]]
    _refuse(graph, bad, "a call that does not lead to the start of a function")
    leaving = is_entry & ~(own & (found == caller))
    edges.append(
        int(np.count_nonzero(leaving)),
        block=functions.block[caller[leaving]],
        offset=offset[leaving],
        kind=graph.target.kind_number(CALL),
        target=functions.entry[found[leaving]],
    )


def needed_functions(graph: LinkGraph, functions: Functions, first: int) -> Rows:
    """Find the functions that one needs, itself first and the others in order: int64[n], rows of functions.

    The same question as dead strip asks of the whole graph (jitlink.passes.dead_strip), for one program.
    """
    edges = graph.edges
    row_of_block = functions.row_of_block(len(graph.blocks))
    caller, callee = row_of_block[edges.block], row_of_block[graph.symbols.block[edges.target]]
    calls = (caller >= 0) & (callee >= 0)
    order, starts = rows_by(caller[calls], len(functions.block))
    needed = reachable(starts, callee[calls][order], np.array([first]))
    needed[first] = False
    return np.concatenate(([first], needed.nonzero()[0]))


def _refuse(graph: LinkGraph, blocks: Rows, fault: str) -> None:
    """Raise MalformedInput, naming input and section, if there is any faulty block."""
    if len(blocks):
        block = int(blocks[0])
        section = graph.name_at(int(graph.sections.name[graph.blocks.section[block]]))
        raise MalformedInput(fault, input=graph.input_of_block(block), section=section)

"""Thread-local variables: every thread has a copy, and code has to find that of the thread it runs in.

The variables of a link lie side by side in a **template**, the image of a thread's copy: first those with
initial values, then the zeroes. In the image the template is only read; whoever runs the code makes a
block of it for each thread (jitlink.passes.thread_storage). Code finds a variable in one of four ways,
which the compiler has chosen:

    general dynamic   call __tls_get_addr with a module and an offset; or call a TLS descriptor
    local dynamic     call it once for the start of the own block, and add offsets
    initial exec      read the distance from the thread pointer in a GOT entry
    local exec        know that distance

The last two need a block that has one distance from the thread pointer in all threads. The C library
keeps a little room for such blocks in every thread that exists already; it is asked for only where code
needs it. Then, and for variables of libraries whose block is such a one, the first two are rewritten into
the last (jitlink.passes.thread_relaxation).

Everything but the block itself is decided before layout. The block is made when the template is final,
which is after all fixups that do not depend on it.

Source: U. Drepper, ELF Handling For Thread-Local Storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.arches.thread_locals import (
    ARGUMENT_WORD,
    DISTANCE_WORD,
    MODULE_WORD,
    OFFSET_WORD,
    RESOLVER_WORD,
    ThreadLocalRules,
)
from jitlink.columns import Buffer, Rows, as_signed, distinct
from jitlink.errors import LinkFailure, MemoryRefused, UnsupportedInput
from jitlink.escaping import escaped
from jitlink.fixups import place_of
from jitlink.formulas import Access
from jitlink.graph import Definition, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.layout import Layout
from jitlink.passes.resolve import Resolution
from jitlink.passes.thread_descriptors import fill_descriptors
from jitlink.passes.thread_relaxation import relax_accesses
from jitlink.passes.thread_storage import LARGEST_TEMPLATE, Block, Template, ThreadStorage, Variable
from jitlink.protection import Protection

GET_ADDRESS = b"__tls_get_addr"
MODULE_BASE = b"_TLS_MODULE_BASE_"
"""A variable at the start of the own block, which descriptors of the local dynamic model refer to."""

TLS = int(SymbolKind.TLS)
STORAGE = int(Purpose.TLS)
READ = int(Protection.READ)
UNDEFINED, EXTERNAL, DEFINED = int(Definition.UNDEFINED), int(Definition.EXTERNAL), int(Definition.DEFINED)
EXEC = (int(Access.INITIAL_EXEC), int(Access.LOCAL_EXEC))
THROUGH_ENTRIES = (Access.INITIAL_EXEC, Access.GENERAL_DYNAMIC, Access.LOCAL_DYNAMIC, Access.DESCRIPTOR)
OF_OWN_BLOCK = (int(Access.LOCAL_DYNAMIC), int(Access.BLOCK_OFFSET))
RELAXABLE = (*map(int, (Access.GENERAL_DYNAMIC, Access.LOCAL_DYNAMIC, Access.BLOCK_OFFSET, Access.DESCRIPTOR)),)
RELAXABLE += (int(Access.DESCRIPTOR_CALL), int(Access.INITIAL_EXEC))
WORD = 8
ANY_GENERATION = b"\xff" * WORD
"""
The argument of a dynamic TLS descriptor is a module, an offset and, in glibc, the generation of the list of
modules from which on a thread's table is known to hold the module; with the highest one it always looks.
"""
ENTRY = bytes(2 * WORD)
ADDRESS_LETTERS = frozenset("SLGB")
"""Of formulas that depend on the address of the symbol."""
DESCRIPTOR_LETTERS = ("RESOLVER", "ARGUMENT")
LARGEST_WORD = (1 << 64) - 1


@dataclass
class ThreadLocals:
    """The thread-local variables of a link and those that it refers to.

    Attributes: storage; outside (those that other links or libraries have, by symbol); fixed (whether the
    own block must have one distance from the thread pointer); demand (who asks for that, in the words of
    an error); template (once it has been read).
    """

    graph: LinkGraph
    storage: ThreadStorage
    outside: dict[int, Variable] = field(default_factory=dict)
    fixed: bool = False
    demand: str = ""
    template: Template | None = None

    def allocate(self, layout: Layout, base: int, image: Buffer) -> ThreadBlock:
        """Make the block, for a template that is final, and give formulas their letters.

        Raises MemoryRefused where there is no room for it.
        """
        graph = self.graph
        members = layout.sets.get((STORAGE, b""), [])
        start, template = _read_template(graph, layout, members, image)
        self.template = template
        address = base + start
        arguments = _live_edges_of(graph, ARGUMENT_WORD)
        offsets = as_signed(graph.symbols.addresses()[graph.edges.target[arguments]] - np.uint64(address))
        block = Block(0)
        if template.size:
            try:
                block = self.storage.allocate(template, fixed=self.fixed, descriptors=offsets.tolist())
            except MemoryRefused as error:
                raise MemoryRefused(f"{self.demand}: {error}" if self.demand else str(error)) from error
        entries = graph.edges.block[arguments].tolist()
        graph.storage_letters = _Letters(self, block, address, dict(zip(entries, block.descriptors, strict=True)))
        return ThreadBlock(block, address, template)

    def refuse_changes(self, layout: Layout, image: Buffer) -> None:
        """Refuse a template that has changed since threads were given blocks of it."""
        members = layout.sets.get((STORAGE, b""), [])
        if _read_template(self.graph, layout, members, image)[1] != self.template:
            raise LinkFailure(
                "a pass at post_fixup has changed the initial values of thread-local variables, "
                "which threads have by then: do it at pre_fixup"
            )


@dataclass(frozen=True)
class ThreadBlock:
    """The block of a link: what storage made of its template, and the template's address in the image."""

    block: Block
    address: int
    template: Template

    def variable(self, address: int) -> Variable:
        """The variable at an address of the template."""
        return self.block.variable(address - self.address)


@dataclass
class _Letters:
    """The letters of formulas over storage.

    Attributes: descriptors (the words of the TLS descriptor in each block that is one for an own variable).
    """

    thread_locals: ThreadLocals
    block: Block
    address: int
    descriptors: dict[int, tuple[int, int]]

    def column(self, letter: str, graph: LinkGraph, edges: Rows) -> npt.NDArray[np.uint64]:
        """The letter for some edges of the graph, or of a copy: uint64[n] of int64[n]."""
        table = graph.edges
        if letter in DESCRIPTOR_LETTERS:
            words = [self._descriptor(entry)[DESCRIPTOR_LETTERS.index(letter)] for entry in table.block[edges].tolist()]
            return np.array(words, np.uint64)
        own = {
            "MODULE": self.block.module,
            "TLS": self.address,
            "TP": self.address - (self.block.from_thread_pointer or 0),
        }
        targets = table.target[edges]
        values = np.full(len(edges), own[letter] & LARGEST_WORD, np.uint64)
        # The address of a symbol outside is 0, and what it is counted from lies before that.
        for symbol, variable in self.thread_locals.outside.items():
            other = {
                "MODULE": variable.module,
                "TLS": -variable.offset,
                "TP": -(variable.from_thread_pointer or 0),
            }
            values[targets == symbol] = np.uint64(other[letter] & LARGEST_WORD)
        return values

    def _descriptor(self, entry: int) -> tuple[int, int]:
        """The words of the descriptor in a block; one for a variable outside gets its argument by an ordinary edge."""
        own = self.descriptors.get(entry)
        return own if own is not None else (self.thread_locals.storage.descriptor_function(), 0)


def bind_thread_locals(graph: LinkGraph, resolution: Resolution, storage: ThreadStorage | None) -> ThreadLocals | None:
    """Decide how each access to a thread-local variable is served, and make the GOT entries that it takes.

    Needs aimed edges, content in the pool and edges sorted by block; leaves that, with the undefined
    symbols that are thread-local in the external ones, as far as storage knows them. Returns None where a
    link has nothing to do with thread-locals. Raises LinkFailure for an access that does not fit what it
    goes to, and where storage is None.
    """
    target, edges = graph.target, graph.edges
    assert isinstance(target, Architecture)
    in_template = graph.sections.purpose == STORAGE
    access = target.kinds.access[edges.kind]
    if not (np.count_nonzero(access) or np.count_nonzero(in_template) or (graph.symbols.kind == TLS).any()):
        return None
    fill_descriptors(graph)
    binder = _Binder(graph, resolution)
    if not len(binder.accesses()) and not binder.has_template():
        return None
    if storage is None or target.thread_locals is None:
        raise UnsupportedInput(f"thread-local variables are not linked for {target.name} here")
    if graph.format == "coff":
        raise UnsupportedInput(
            "thread-local variables of Windows are found through its thread environment block, which no other "
            "system has",
            hint="Compile with -femulated-tls, or keep them out of this code",
        )
    binder.refuse_mismatches()
    binder.prepare_template()
    thread_locals = ThreadLocals(graph, storage)
    if not binder.find_outside(thread_locals):
        # The link ends where undefined symbols are told of, each with the code that refers to it.
        return thread_locals
    binder.choose_block(thread_locals)
    binder.relax(thread_locals, target.thread_locals)
    binder.make_entries(thread_locals)
    graph.settle()
    graph.sort_edges()
    return thread_locals


class _Binder:
    """The steps of the pass, over the live edges."""

    def __init__(self, graph: LinkGraph, resolution: Resolution) -> None:
        assert isinstance(graph.target, Architecture)
        self.graph = graph
        self.target = graph.target
        self.resolution = resolution
        self.live = graph.blocks.live[graph.edges.block]
        symbols, sections = graph.symbols, graph.sections
        self.in_template = (sections.purpose[graph.blocks.section] == STORAGE) & graph.blocks.live
        self.is_variable = (symbols.kind == TLS) | self.in_template[symbols.block]
        self.base_symbol = 0

    def access(self) -> npt.NDArray[np.uint8]:
        """How each edge accesses a thread-local, 0 for dead edges: uint8[edges]."""
        access: npt.NDArray[np.uint8] = self.target.kinds.access[self.graph.edges.kind] * self.live
        return access

    def accesses(self) -> Rows:
        """The live edges that access thread-locals: int64[n]."""
        rows: Rows = self.access().nonzero()[0]
        return rows

    def has_template(self) -> bool:
        """Whether the link has variables of its own."""
        return bool(self.in_template.any())

    def refuse_mismatches(self) -> None:
        """Refuse ordinary access to a thread-local, thread-local access to anything else, and both in a template."""
        graph, edges = self.graph, self.graph.edges
        rows = self.accesses()
        # Nothing says of what sort an undefined symbol is but those who refer to it.
        targets = edges.target[rows]
        self.is_variable[targets[graph.symbols.definition[targets] == UNDEFINED]] = True
        for bad, fault in (
            (
                rows[~self.is_variable[edges.target[rows]]],
                "is a thread-local access, and the symbol is not thread-local",
            ),
            (self._ordinary_references(), "is no thread-local access, and the symbol is thread-local"),
            (
                rows[self.in_template[edges.block[rows]]],
                "is a thread-local access in an initial value, which must be the same in all threads",
            ),
        ):
            if len(bad):
                more = f"; {len(bad) - 1} more like it" if len(bad) > 1 else ""
                raise LinkFailure(f"{self._described(int(bad[0]))}: the relocation {fault}{more}")

    def _ordinary_references(self) -> Rows:
        """The live edges to variables whose kind is made for addresses: int64[n]."""
        edges, kinds = self.graph.edges, self.target.kinds
        rows = (self.is_variable[edges.target] & self.live & (kinds.access[edges.kind] == 0)).nonzero()[0]
        refers = [not ADDRESS_LETTERS.isdisjoint(kinds[kind].value.letters) for kind in edges.kind[rows].tolist()]
        ordinary: Rows = rows[np.array(refers, np.bool_)]
        return ordinary

    def _described(self, edge: int) -> str:
        """An edge in the words of an error."""
        row = self.graph.edges[edge]
        return f"{place_of(self.graph, edge)}: {row.kind} to {escaped(row.target.name) or 'a symbol'}"

    def prepare_template(self) -> None:
        """Make the sections of variables read-only, and define the symbol for the start of the template."""
        graph = self.graph
        graph.sections.protection[np.unique(graph.blocks.section[self.in_template])] = READ
        self.base_symbol = self.resolution.symbol(MODULE_BASE)
        if not self.base_symbol or graph.symbols.definition[self.base_symbol] != UNDEFINED:
            self.base_symbol = 0
            return
        # Blocks without bytes come first where they lie: see jitlink.layout.
        section = graph.add_section(".tdata", Protection.READ, purpose=Purpose.TLS)
        block = graph.add_block(section, b"", alignment=1)
        symbols = graph.symbols
        symbols.block[self.base_symbol], symbols.definition[self.base_symbol] = block, DEFINED
        symbols.scope[self.base_symbol], symbols.kind[self.base_symbol] = Scope.HIDDEN, TLS
        number = self.resolution.number_of[MODULE_BASE]
        self.resolution.hidden[number] = True
        self.resolution.undefined.pop(self.base_symbol)

    def find_outside(self, thread_locals: ThreadLocals) -> bool:
        """Find the variables that the link refers to and does not define; what is nowhere stays undefined.

        Returns whether all of them are somewhere.
        """
        symbols = self.graph.symbols
        complete = True
        rows = self.accesses()
        for row in np.unique(self.graph.edges.target[rows]).tolist():
            if symbols.definition[row] != UNDEFINED or row not in self.resolution.undefined:
                continue
            symbols.kind[row] = TLS
            raw = self.resolution.undefined[row]
            inside = bool(self.resolution.hidden[self.resolution.number_of[raw]])
            first = int(rows[(self.graph.edges.target[rows] == row).argmax()])
            try:
                variable = thread_locals.storage.find(self.graph.c_name(raw), inside=inside)
            except LinkFailure as error:
                raise LinkFailure(f"{self._described(first)}: {error}") from error
            if variable is not None:
                thread_locals.outside[row] = variable
                symbols.definition[row], symbols.offset[row] = EXTERNAL, 0
            elif row in self.resolution.weak:
                raise LinkFailure(
                    f"{self._described(first)}: nothing defines this weak symbol, and a thread-local cannot be "
                    "at address 0 in all threads: define it"
                )
            else:
                complete = False
        return complete

    def choose_block(self, thread_locals: ThreadLocals) -> None:
        """Decide whether the own block must have one distance from the thread pointer, and refuse what cannot be."""
        edges, symbols = self.graph.edges, self.graph.symbols
        rows = self.accesses()
        target = edges.target[rows]
        access = self.access()[rows]
        own = symbols.block[target] > 0
        demands = rows[own & np.isin(access, EXEC)]
        thread_locals.fixed = thread_locals.storage.fixed or len(demands) > 0
        if len(demands):
            thread_locals.demand = self._described(int(demands[0]))
        movable = [symbol for symbol, each in thread_locals.outside.items() if each.from_thread_pointer is None]
        bad = rows[np.isin(access, EXEC) & np.isin(target, movable)]
        if len(bad):
            raise LinkFailure(
                f"{self._described(int(bad[0]))}: the variable has no fixed distance from the thread pointer, since "
                "its library was loaded by the running process. Compile with -fPIC -ftls-model=global-dynamic"
            )
        bad = rows[np.isin(access, OF_OWN_BLOCK) & np.isin(target, list(thread_locals.outside))]
        if len(bad):
            raise LinkFailure(
                f"{self._described(int(bad[0]))}: local dynamic code reaches what is linked together with it, and "
                "this variable is not: add the objects at once, or compile with -ftls-model=global-dynamic"
            )

    def relax(self, thread_locals: ThreadLocals, rules: ThreadLocalRules) -> None:
        """Rewrite accesses to blocks that have one distance from the thread pointer."""
        symbols = self.graph.symbols
        at_fixed = (symbols.block > 0) & thread_locals.fixed
        at_fixed[[row for row, each in thread_locals.outside.items() if each.from_thread_pointer is not None]] = True
        rows = self.accesses()
        access = self.access()[rows]
        rows = rows[at_fixed[self.graph.edges.target[rows]] & np.isin(access, RELAXABLE)]
        get_address = self.resolution.symbol(GET_ADDRESS)
        relax_accesses(self.graph, rules, rows, get_address, local_dynamic=not self.base_symbol)

    def make_entries(self, thread_locals: ThreadLocals) -> None:
        """Make the GOT entries that accesses go through, and aim them at these."""
        edges, symbols = self.graph.edges, self.graph.symbols
        access = self.access()
        of_access = {each: (access == each).nonzero()[0] for each in map(int, Access)}
        descriptors = of_access[Access.DESCRIPTOR]
        if len(descriptors) and thread_locals.storage.fixed:
            raise LinkFailure(
                f"{self._described(int(descriptors[0]))}: the code around it is not as the ABI prescribes, so that it "
                "cannot be rewritten for a block at a fixed distance from the thread pointer, and there are no "
                "TLS descriptors here"
            )
        self._refuse_addends(np.concatenate([of_access[each] for each in THROUGH_ENTRIES]))
        entries = _Entries(self.graph)
        entries.make(of_access[Access.INITIAL_EXEC], ((0, DISTANCE_WORD),))
        entries.make(of_access[Access.GENERAL_DYNAMIC], ((0, MODULE_WORD), (WORD, OFFSET_WORD)))
        # One entry for the start of the block serves all local dynamic code.
        entries.make(of_access[Access.LOCAL_DYNAMIC], ((0, MODULE_WORD),), shared=True)
        own = symbols.block[edges.target[descriptors]] > 0
        entries.make(descriptors[own], ((0, RESOLVER_WORD), (WORD, ARGUMENT_WORD)))
        entries.make_for_outside(descriptors[~own])

    def _refuse_addends(self, rows: Rows) -> None:
        """Refuse an entry for a place beside a variable, of a kind that has no addend: there are none such."""
        edges, kinds = self.graph.edges, self.target.kinds
        for row in rows[edges.addend[rows] != 0].tolist():
            if "A" not in kinds[int(edges.kind[row])].value.letters:
                raise LinkFailure(
                    f"{self._described(row)}: the relocation has the addend {edges.addend[row]:#x}, and must have "
                    "none: a GOT entry is for a variable"
                )


class _Entries:
    """Makes GOT entries, one for each distinct variable."""

    def __init__(self, graph: LinkGraph) -> None:
        assert isinstance(graph.target, Architecture)
        self.graph = graph
        self.target = graph.target
        self.section = 0

    def make(self, rows: Rows, words: Sequence[tuple[int, str]], *, shared: bool = False) -> None:
        """Make entries of two words, some of them filled by kinds, and aim edges at them. shared: one for all."""
        if not len(rows):
            return
        edges = self.graph.edges
        targets, which = distinct(edges.target[rows], len(self.graph.symbols))
        if shared:
            targets, which = targets[:1], np.zeros(len(rows), np.int64)
        entries = self._add(ENTRY, [(at, kind, targets, 0) for at, kind in words])
        self.graph.edges.target[rows] = entries[which]

    def make_for_outside(self, rows: Rows) -> None:
        """Make TLS descriptors for variables outside: their arguments are made here."""
        if not len(rows):
            return
        targets, which = distinct(self.graph.edges.target[rows], len(self.graph.symbols))
        arguments = self._add(ENTRY + ANY_GENERATION, [(0, MODULE_WORD, targets, 0), (WORD, OFFSET_WORD, targets, 0)])
        words = [(0, RESOLVER_WORD, targets, 0), (WORD, self.target.pointer, arguments, 0)]
        self.graph.edges.target[rows] = self._add(ENTRY, words)[which]

    def _add(self, content: bytes, edges: list[tuple[int, str, Rows, int]]) -> Rows:
        if not self.section:
            self.section = self.graph.add_section(".got", Protection.READ)
        return self.graph.add_pieces(self.section, content, len(edges[0][2]), edges, alignment=WORD)


def _live_edges_of(graph: LinkGraph, kind: str) -> Rows:
    """The live edges of a kind: int64[n]."""
    rows = (graph.edges.kind == graph.target.kind_number(kind)).nonzero()[0]
    live: Rows = rows[graph.blocks.live[graph.edges.block[rows]]]
    return live


def _read_template(graph: LinkGraph, layout: Layout, members: Sequence[int], image: Buffer) -> tuple[int, Template]:
    """Read the template of a link: where it starts in the image, and what it holds."""
    blocks = graph.blocks
    if not members:
        return 0, Template(b"", 0, 1)
    start = int(layout.position[members[0]])
    ends = layout.position[members] + blocks.size[members]
    filled = ends[~blocks.zero_fill[members]]
    content = image[start : int(filled.max())].tobytes() if len(filled) else b""
    # A block that nobody has bytes in is still one that code may ask for the start of.
    size = max(int(ends.max()) - start, 1)
    if size > LARGEST_TEMPLATE:
        raise LinkFailure(
            f"the thread-local variables have {size:#x} bytes, more than {LARGEST_TEMPLATE:#x} in a thread"
        )
    return start, Template(content, size, int(blocks.alignment[members].max()))

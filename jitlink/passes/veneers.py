"""Veneers: letting a branch reach code of the same image that is too far for it.

On a machine with short branches, code of more than a few megabytes may not reach itself: an AArch64 BL
spans 128 MiB either way, a conditional branch 1 MiB, one that tests a bit 32 KiB. Such a branch is aimed at
a **veneer**, a short sequence in its reach that jumps on. Which sequence serves which branch, the
architecture says: one that finds the address of the target takes a register, which the ABI lets a linker
change at a call; a mere branch of longer reach takes none.

Veneers go between the blocks of the code, in groups that we call islands: one lies in the room that the
layout leaves behind a block, or before the first one. Branches that are near each other share the veneers
of their targets: every half of a reach has one gap between two blocks that is used. So there is one veneer
for a target and for each such stretch of code, however many branches go there. Only where islands have
grown so large that this does not do, a branch gets a veneer in the gap nearest to it.

All starts from the layout. Where a branch does not reach its target, islands are added and the layout is
made again. What they move apart may take others out of reach, so this is done until nothing changes.
A block is never split, since nothing in an ELF object says where: a branch in the middle of a block that
is larger than its reach finds no gap, and is reported when fixups are applied.

Source: AAELF64, "Call and jump relocations", for when a veneer may stand between a branch and its target.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.columns import NO_ROWS, Rows, as_address, as_signed, starts_of
from jitlink.errors import LinkFailure
from jitlink.graph import Definition, LinkGraph, Scope, SymbolKind
from jitlink.layout import IN_SETS, Layout, Room, lay_out
from jitlink.protection import Protection

ROUNDS = 16
"""How often the layout is made again; each round moves less than the one before, and two are common."""
STRETCHES = 2
"""Stretches of code, each with one gap that is used, in the reach of a branch."""
SPARE = 16
"""The part of a reach that is left to the islands themselves."""
INSTRUCTION = 4
"""Bytes of an instruction, and its alignment, on all machines that have veneers."""
FIRST = 0
"""Stands for the place before all code where the block is named that an island is behind."""
CODE = int(Protection.READ | Protection.EXECUTE)
FUNCTIONS = (int(SymbolKind.FUNCTION), int(SymbolKind.IFUNC))

Mask = npt.NDArray[np.bool_]


def extend_branches(graph: LinkGraph, layout: Layout, base: int, page_size: int, stubs: int, room: int) -> Layout:
    """Aim branches that do not reach their targets at veneers, and make room for these in the layout.

    layout: of the graph, for an image at base. stubs: the section of the stubs, or 0. room: bytes that the
    image may have in the end. Needs edges sorted by block and addresses of externals; leaves edges so, and
    returns the layout to be used. Raises LinkFailure where the veneers do not fit into the room.
    """
    target = graph.target
    assert isinstance(target, Architecture)
    if not target.veneers:
        return layout
    occurring = np.bincount(graph.edges.kind, minlength=len(target.kinds)).nonzero()[0]
    reach = target.reach_of_kind[occurring[target.has_veneer[occurring]]]
    # What is outside of the image has a stub in it by now.
    if not len(reach) or layout.size <= int(reach.min()):
        return layout
    extended = _Extender(graph, target, layout, base, page_size, stubs).run()
    if extended.size > room:
        raise LinkFailure(f"an image of {extended.size:#x} bytes with its veneers, where {room:#x} were set aside")
    return extended


class _Extender:
    """Adds islands of veneers, round by round.

    Attributes: islands (the block of each, and the block of code that it is behind; FIRST for the one that
    is before all code); goal and goal_addend (int64[symbols], where a branch to a symbol goes in the end:
    to itself, or, for a veneer, to what it leads to).
    """

    def __init__(
        self, graph: LinkGraph, target: Architecture, layout: Layout, base: int, page_size: int, stubs: int
    ) -> None:
        self.graph = graph
        self.target = target
        self.layout = layout
        self.base = base
        self.page_size = page_size
        self.stubs = stubs
        self.section = 0
        self.islands: list[tuple[int, int]] = []
        self.goal = np.arange(len(graph.symbols))
        self.goal_addend = np.zeros(len(graph.symbols), np.int64)
        self.forms = [*dict.fromkeys(target.veneers.values()), target.stub]
        self.form_of_kind = np.zeros(len(target.kinds), np.int64)
        for name, form in target.veneers.items():
            self.form_of_kind[target.kind_number(name)] = self.forms.index(form)

    def run(self) -> Layout:
        """Add islands until every branch that can be helped is."""
        for _ in range(ROUNDS):
            rows, again = self._out_of_reach()
            gaps, hosts = self._gaps()
            rows, gap = self._choose_gaps(rows, again, gaps)
            if not len(rows):
                break
            self._add_veneers(rows, gap, hosts)
            self._lay_out()
        return self.layout

    def _lay_out(self) -> None:
        """Make the layout with room for the islands, and place them there."""
        blocks = self.graph.blocks
        before, behind = np.zeros(len(blocks), np.int64), np.zeros(len(blocks), np.int64)
        first = self._code()[0]
        room = Room(before, behind, np.array([island for island, _ in self.islands]))
        offsets = []
        for island, host in self.islands:
            # Instructions are aligned, and what goes before them may end anywhere.
            room_of = before if host == FIRST else behind
            host = int(first) if host == FIRST else host
            blocks.alignment[host] = max(blocks.alignment[host], INSTRUCTION)
            if room_of is behind and not behind[host]:
                behind[host] = -blocks.size[host] % INSTRUCTION
            offsets.append(int(room_of[host]))
            room_of[host] += blocks.size[island]
        before[first] += -before[first] % blocks.alignment[first]
        layout = lay_out(self.graph, self.page_size, room)
        position = layout.position
        for (island, host), offset in zip(self.islands, offsets, strict=True):
            start = position[first] - before[first] if host == FIRST else position[host] + blocks.size[host]
            position[island] = start + offset
        order = np.concatenate((layout.order, room.guests))
        layout.order = order[position[order].argsort(kind="stable")]
        self.layout = layout

    def _places(self, rows: Rows) -> Rows:
        """Where fixups are, from the start of the image: int64[rows]."""
        places: Rows = self.layout.position[self.graph.edges.block[rows]] + self.graph.edges.offset[rows]
        return places

    def _targets(self, symbols: Rows) -> Rows:
        """Where symbols are, from the start of the image, modulo 2**64: int64[symbols]."""
        block, offset = self.graph.symbols.block[symbols], self.graph.symbols.offset[symbols]
        inside = self.layout.position[block] + as_signed(offset)
        targets: Rows = np.where(block > 0, inside, as_signed(offset - np.uint64(self.base)))
        return targets

    def _out_of_reach(self) -> tuple[Rows, Mask]:
        """The branches that do not reach their targets, and that a veneer may help.

        Returns the edges, int64[n], and whether they have a veneer that has been moved away: bool[n].
        """
        graph, edges = self.graph, self.graph.edges
        rows = (self.target.has_veneer[edges.kind] & graph.blocks.live[edges.block]).nonzero()[0]
        reach = self.target.reach_of_kind[edges.kind[rows]]
        distance = self._targets(edges.target[rows]) + edges.addend[rows] - self._places(rows)
        far = (distance < -reach) | (distance >= reach)
        rows, distance = rows[far], distance[far]
        target = edges.target[rows]
        edges.target[rows] = self.goal[target]
        edges.addend[rows] += self.goal_addend[target]
        helped = self._may_be_helped(rows, distance)
        return rows[helped], (edges.target[rows] != target)[helped]

    def _may_be_helped(self, rows: Rows, distance: Rows) -> Mask:
        """Whether a veneer may stand between branches and their targets: bool[rows].

        One that changes registers may if the target is a function, or elsewhere than in the block of the
        branch (AAELF64). One that does not always may, if it leads to the target without another one.
        """
        graph, edges = self.graph, self.graph.edges
        target = edges.target[rows]
        free: Mask = np.isin(graph.symbols.kind[target], FUNCTIONS)
        free |= graph.symbols.block[target] != edges.block[rows]
        for form in self.forms:
            if not form.changes_registers:
                step = self.target.reach_of_kind[self.target.kind_number(form.edges[0][1])]
                one_step = np.abs(distance) < step - step // SPARE
                free |= (self.form_of_kind[edges.kind[rows]] == self.forms.index(form)) & one_step
        return free

    def _code(self) -> Rows:
        """The blocks that an island can be beside, by position: int64[n]."""
        blocks, sections = self.graph.blocks, self.graph.sections
        order = self.layout.order
        section = blocks.section[order]
        usable = (sections.protection[section] == CODE) & ~blocks.zero_fill[order] & ~sections.large[section]
        usable &= ~IN_SETS[sections.purpose[section]] & (section != self.section)
        code: Rows = order[usable]
        return code

    def _gaps(self) -> tuple[Rows, Rows]:
        """The places where an island can be: before all code, and behind each block of it.

        Returns, int64[gaps] each: where it is, from the start of the image, ascending; and its host, as
        islands has it.
        """
        code = self._code()
        if not len(code):
            return NO_ROWS, NO_ROWS
        starts = self.layout.position[code]
        # A new island goes behind those that are there.
        taken = np.zeros(len(self.graph.blocks), np.int64)
        for island, host in self.islands:
            taken[host] += self.graph.blocks.size[island]
        gaps = np.concatenate((starts[:1], starts + self.graph.blocks.size[code] + taken[code]))
        return gaps, np.concatenate(([FIRST], code))

    def _choose_gaps(self, rows: Rows, again: Mask, gaps: Rows) -> tuple[Rows, Rows]:
        """Choose a gap for each branch: one for all near each other, but the nearest where that did not do.

        gaps: int64[gaps], ascending. Returns the branches that reach one, and the number of their gaps.
        """
        if not len(rows) or not len(gaps):
            return NO_ROWS, NO_ROWS
        place, reach = self._places(rows), self.target.reach_of_kind[self.graph.edges.kind[rows]]
        stretch = reach // STRETCHES
        gap = _nearest(gaps, place // stretch * stretch + stretch // 2)
        strained = again | (np.abs(gaps[gap] - place) > reach - reach // SPARE)
        gap[strained] = _nearest(gaps, place[strained])
        reached = np.abs(gaps[gap] - place) < reach
        return rows[reached], gap[reached]

    def _add_veneers(self, rows: Rows, gap: Rows, hosts: Rows) -> None:
        """Make one veneer for each distinct target and gap of some branches, and aim the branches at them."""
        graph, edges = self.graph, self.graph.edges
        form = self.form_of_kind[edges.kind[rows]]
        changes_registers = np.array([each.changes_registers for each in self.forms])
        to_stub = (graph.blocks.section[graph.symbols.block[edges.target[rows]]] == self.stubs) & (self.stubs > 0)
        # A stub out of reach is not jumped to but made once more.
        form[to_stub & changes_registers[form]] = len(self.forms) - 1
        wanted = np.stack((gap, form, edges.target[rows], edges.addend[rows]))
        (gap, form, target, addend), which = np.unique(wanted, axis=1, return_inverse=True)
        blocks, offset = self._add_islands(gap, form, hosts)
        sizes = np.array([len(each.content) for each in self.forms])
        veneers = graph.symbols.append(
            len(gap),
            name=graph.symbols.name[0],
            block=blocks,
            offset=as_address(offset),
            size=as_address(sizes[form]),
            scope=Scope.LOCAL,
            definition=Definition.DEFINED,
            kind=SymbolKind.FUNCTION,
        )
        self.goal, self.goal_addend = np.append(self.goal, target), np.append(self.goal_addend, addend)
        aim, beside = self._aims(form, target, addend)
        edges.target[rows], edges.addend[rows] = veneers[which.reshape(-1)], 0
        for number, each in enumerate(self.forms):
            of_form = (form == number).nonzero()[0]
            for at, kind, constant in each.edges if len(of_form) else ():
                edges.append(
                    len(of_form),
                    block=blocks[of_form],
                    offset=offset[of_form] + at,
                    kind=self.target.kind_number(kind),
                    target=aim[of_form],
                    addend=beside[of_form] + constant,
                )
        graph.sort_edges()

    def _aims(self, form: Rows, target: Rows, addend: Rows) -> tuple[Rows, Rows]:
        """What the edges of veneers point at: their targets, and for copies of stubs the GOT entries of those."""
        edges = self.graph.edges
        copies = (form == len(self.forms) - 1).nonzero()[0]
        if len(copies):
            target, addend = target.copy(), addend.copy()
            stub = self.graph.symbols.block[target[copies]]
            target[copies], addend[copies] = edges.target[edges.block.searchsorted(stub)], 0
        return target, addend

    def _add_islands(self, gap: Rows, form: Rows, hosts: Rows) -> tuple[Rows, Rows]:
        """Make a block for each gap that is used, which holds the veneers there side by side.

        gap: int64[veneers], ascending. Returns, int64[veneers] each: the block of a veneer and its offset.
        """
        graph = self.graph
        if not self.section:
            self.section = graph.add_section(".veneers", Protection.READ | Protection.EXECUTE)
        contents = [each.content for each in self.forms]
        sizes = np.array([len(content) for content in contents])[form]
        position = graph.add_content(b"".join(contents[number] for number in form.tolist()))
        used, first = np.unique(gap, return_index=True)
        starts = starts_of(sizes)
        bounds = np.append(starts[first], starts[-1])
        added = graph.blocks.append(
            len(used),
            section=self.section,
            content=position + bounds[:-1],
            size=bounds[1:] - bounds[:-1],
            alignment=INSTRUCTION,
            live=True,
        )
        self.islands += zip(added.tolist(), hosts[used].tolist(), strict=True)
        island = used.searchsorted(gap)
        return added[island], starts[:-1] - bounds[island]


def _nearest(places: Rows, wanted: Rows) -> Rows:
    """Number the place nearest to each wanted one. places: int64[n], ascending, at least one."""
    behind = np.minimum(places.searchsorted(wanted), len(places) - 1)
    before = np.maximum(behind - 1, 0)
    nearest: Rows = np.where(wanted - places[before] < places[behind] - wanted, before, behind)
    return nearest

"""Reading what can be read: for looking at damaged inputs, which a link refuses.

An archive is read member by member, and what is wrong with one does not hide the others. Of a damaged
ELF object the sound part is read: first without the relocation sections that cannot be read, then
without its symbols. Each fault is kept with the words of the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jitlink.arches import host_architecture
from jitlink.arches.architecture import Architecture
from jitlink.columns import Buffer, rows_of
from jitlink.errors import InputError, LinkError
from jitlink.formats import elf_layout as elf
from jitlink.formats.batch import Batch
from jitlink.formats.objects import FORMATS
from jitlink.graph import PADDING, LinkGraph
from jitlink.image import target_of
from jitlink.inputs import Inputs, Member, Source, collect
from jitlink.joining import join

RELOCATIONS = (elf.SHT_RELA, elf.SHT_REL, elf.SHT_CREL)
MOST_ATTEMPTS = 64
"""Relocation sections that are tried one by one; where there are more, the first fault ends it."""


@dataclass(frozen=True)
class Fault:
    """What could not be read: input, and the error in words."""

    input: str
    error: str


@dataclass
class Found:
    """What could be read: a graph, or None where nothing could, and the faults."""

    graph: LinkGraph | None = None
    faults: list[Fault] = field(default_factory=list)


def read_what_is_sound(*sources: Source, target: str | None = None) -> Found:
    """Read inputs as jitlink.read does, and keep going behind faults."""
    found = Found()
    graphs: list[LinkGraph] = []
    for source in sources:
        try:
            inputs = collect([source], whole_archive=True)
            graphs += inputs.graphs
            if inputs.objects:
                graphs += _read(inputs, target_of(inputs, target), found.faults)
        except LinkError as error:
            found.faults.append(_fault(error, str(source) if isinstance(source, str) else "(bytes)"))
    sound = [graph for graph in graphs if graph.target is graphs[0].target]
    for graph in graphs:
        if graph.target is not graphs[0].target:
            words = f"an object for {graph.target.name} beside one for {graphs[0].target.name}"
            found.faults.append(Fault(graph.inputs[-1], words))
    if sound:
        found.graph = sound[0] if len(sound) == 1 else join(sound)
    elif not found.faults:
        host = host_architecture()
        found.graph = LinkGraph(host) if host else None
    return found


def _fault(error: LinkError, input: str) -> Fault:
    return Fault(getattr(error, "input", None) or input, str(error))


def _read(inputs: Inputs, target: Architecture, faults: list[Fault]) -> list[LinkGraph]:
    """Read all objects together, or one by one where that fails."""
    try:
        return [inputs.read(inputs.objects, target, everything=True)]
    except LinkError:
        graphs = [_read_one(inputs, member, target, faults) for member in inputs.objects]
        return [graph for graph in graphs if graph is not None]


def _read_one(inputs: Inputs, member: Member, target: Architecture, faults: list[Fault]) -> LinkGraph | None:
    try:
        return inputs.read([member], target, everything=True)
    except LinkError as error:
        whole = _fault(error, member.name)
    content = inputs.pool[member.start : member.start + member.size].tobytes()
    if member.format == "elf" and (headers := _section_headers(content)) is not None:
        graph = _Repair(content, member.name, target, headers).read(faults)
        if graph is not None:
            return graph
    faults.append(whole)
    return None


def _section_headers(content: bytes) -> np.ndarray[tuple[int], np.dtype[np.void]] | None:
    """The section headers of an object, as far as they can be found."""
    if len(content) < elf.EHDR.itemsize:
        return None
    header = np.frombuffer(content, elf.EHDR, 1)[0]
    start, count = int(header["shoff"]), int(header["shnum"])
    if not count or start + count * elf.SHDR.itemsize > len(content):
        return None
    return np.frombuffer(content, elf.SHDR, count, start)


class _Repair:
    """Reads an object with some of its sections struck out."""

    def __init__(
        self, content: bytes, name: str, target: Architecture, headers: np.ndarray[tuple[int], np.dtype[np.void]]
    ) -> None:
        self.content = content
        self.name = name
        self.target = target
        self.types = headers["type"].astype(np.int64)
        start = int(np.frombuffer(content, elf.EHDR, 1)[0]["shoff"])
        self.type_places = start + np.arange(len(headers)) * elf.SHDR.itemsize + elf.SHDR.fields["type"][1]  # type: ignore[index]

    def read(self, faults: list[Fault]) -> LinkGraph | None:
        """Read as much as can be read; adds what is wrong with the rest to faults, if anything is sound."""
        tables = np.isin(self.types, RELOCATIONS).nonzero()[0].tolist()
        graph = self._try(tables)
        if isinstance(graph, LinkGraph):
            return self._with_sound_tables(graph, tables, faults)
        without_symbols = [
            *tables,
            *np.isin(self.types, (elf.SHT_SYMTAB, elf.SHT_SYMTAB_SHNDX, elf.SHT_GROUP)).nonzero()[0].tolist(),
        ]
        bare = self._try(without_symbols)
        if isinstance(bare, LinkGraph):
            faults.append(_fault(graph, self.name))
            return bare
        return None

    def _with_sound_tables(self, graph: LinkGraph, tables: Sequence[int], faults: list[Fault]) -> LinkGraph:
        """Put the relocation sections back that can be read."""
        struck: list[int] = []
        if len(tables) > MOST_ATTEMPTS:
            everything = self._try([])
            assert isinstance(everything, InputError)
            faults.append(_fault(everything, self.name))
            return graph
        for table in tables:
            tried = self._try([other for other in tables if other != table])
            if not isinstance(tried, LinkGraph):
                struck.append(table)
                faults.append(_fault(tried, self.name))
        best = self._try(struck)
        return best if isinstance(best, LinkGraph) else graph

    def _try(self, struck: Sequence[int]) -> LinkGraph | InputError | LinkError:
        """Read without some sections; the error where that fails."""
        pool: Buffer = np.zeros(len(self.content) + PADDING, np.uint8)
        pool[: len(self.content)] = np.frombuffer(self.content, np.uint8)
        places = self.type_places[list(struck)]
        pool[rows_of(places, np.full(len(places), 4))] = 0
        batch = Batch(pool, [self.name], np.zeros(1, np.int64), np.array([len(self.content)]))
        try:
            return FORMATS["elf"].read(batch, self.target, everything=True)
        except LinkError as error:
            return error

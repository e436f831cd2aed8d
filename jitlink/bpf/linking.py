"""Linking BPF objects: several of them into one graph, cut into functions, with nothing loaded yet.

This is what `bpftool gen object` does, with the linker of all other objects: the names of all inputs are
resolved together (a strong definition over a weak one, an extern by the definition of another input), and
two strong definitions of a name are an error. CO-RE relocations are applied first, to each input with its
own types. What is left to the loader are addresses: of maps, variables and externs, which differ from
load to load.

A program of the object is the function that it begins with and those that this one needs, see
jitlink.bpf.functions; it is put together when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jitlink.arches.architecture import Architecture
from jitlink.bpf import btf as btf_reader
from jitlink.bpf.btf_ext import BtfExt, LineTable, parse_ext
from jitlink.bpf.btf_types import Btf
from jitlink.bpf.core_relocations import CoreRelocator, Relocated
from jitlink.bpf.functions import Functions, split_functions
from jitlink.bpf.gnu_objects import take_off_symbol_values
from jitlink.bpf.instructions import SLOT, ByteOrder
from jitlink.bpf.map_declarations import Declaration, btf_declarations, legacy_declarations
from jitlink.bpf.sections import BTF, BTF_EXT, BTF_MAPS, LEGACY_MAPS, LICENSE, TEXT, VERSION
from jitlink.errors import MalformedInput, UnsupportedInput, reading
from jitlink.graph import Definition, LinkGraph, Scope, SymbolKind
from jitlink.image import target_of
from jitlink.inputs import Source, collect
from jitlink.joining import join
from jitlink.passes.resolve import Resolution, place_commons, resolve

LARGEST = 0xFFFF_FFFF
"""The size of the largest section that BTF can speak of."""
DEFINED, UNDEFINED = int(Definition.DEFINED), int(Definition.UNDEFINED)
LOCAL, FUNCTION, SECTION = int(Scope.LOCAL), int(SymbolKind.FUNCTION), int(SymbolKind.SECTION)


@dataclass
class Types:
    """What one input says of its types and of its instructions; either may be missing."""

    btf: Btf | None = None
    ext: BtfExt | None = None


@dataclass(frozen=True)
class LinkedMap:
    """A map of the linked object: its declaration, and the symbol that stands for its address."""

    declaration: Declaration
    block: int
    offset: int
    symbol: int


@dataclass
class LinkedObject:
    """Linked BPF objects.

    Attributes: graph; resolution; functions; types (by number of the input); maps; programs (the row in
    functions of each program, by name); license; version; relocated (what became of CO-RE relocations).
    """

    graph: LinkGraph
    resolution: Resolution
    functions: Functions
    types: dict[int, Types]
    maps: list[LinkedMap]
    programs: dict[str, int]
    license: str
    version: int | None
    relocated: list[Relocated]

    @property
    def target(self) -> Architecture:
        """BPF, of one byte order or the other."""
        assert isinstance(self.graph.target, Architecture)
        return self.graph.target

    @property
    def byte_order(self) -> ByteOrder:
        """Of the programs and their data."""
        return self.target.byte_order

    def section_of(self, function: int) -> str:
        """The name of the section that a function came from."""
        return section_name(self.graph, int(self.functions.block[function]))

    def input_of(self, function: int) -> int:
        """The number of the input that a function came from."""
        return int(self.graph.sections.input[self.graph.blocks.section[self.functions.block[function]]])

    def lines_of(self, function: int) -> LineTable:
        """The source lines of a function, counted from its first instruction."""
        ext = self.types[self.input_of(function)].ext
        if ext is None:
            return LineTable.empty()
        table = ext.line_table(self.section_of(function))
        start, size = int(self.functions.start[function]), int(self.functions.size[function])
        return table.part(start // SLOT, size // SLOT)


def link(*sources: Source, target_btf: Btf | None = None) -> LinkedObject:
    """Link BPF objects into one; archives are taken whole.

    target_btf: the types that CO-RE relocations are resolved against, by default each object's own.
    Raises LinkError.
    """
    inputs = collect(sources, whole_archive=True)
    target = target_of(inputs, None)
    graphs = list(inputs.graphs)
    if inputs.objects:
        graphs.append(inputs.read(inputs.objects, target, everything=True))
    graph = _joined(graphs, target)
    take_off_symbol_values(graph)
    types = _read_types(graph)
    relocated = _apply_core(graph, types, target_btf)
    resolution = resolve(graph)
    place_commons(graph, resolution)
    functions = split_functions(graph)
    maps = _find_maps(graph, types, resolution)
    _aim_at_maps(graph, maps)
    license, version = _license(graph), _version(graph, target)
    programs = _find_programs(graph, functions)
    return LinkedObject(graph, resolution, functions, types, maps, programs, license, version, relocated)


def _joined(graphs: Sequence[LinkGraph], target: Architecture) -> LinkGraph:
    """One graph with a pool of its own, which CO-RE may write to."""
    if target.name not in ("bpf", "bpfeb"):
        raise UnsupportedInput(f"an object for {target.name}; a BPF program is expected")
    if not graphs:
        raise UnsupportedInput("there is no object to load")
    graph = join(graphs)
    graph.pool = graph.pool.copy()
    graph.settle()
    graph.sort_edges()
    return graph


def section_name(graph: LinkGraph, block: int) -> str:
    """The name of the section of a block."""
    return graph.name_at(int(graph.sections.name[graph.blocks.section[block]]))


def blocks_named(graph: LinkGraph, name: str) -> list[int]:
    """The blocks of all sections of a name, in order of input."""
    wanted = name.encode()
    sections = [row for row, found in enumerate(graph.names_at(graph.sections.name)) if found == wanted]
    return np.isin(graph.blocks.section, sections).nonzero()[0].tolist() if sections else []


def content_of(graph: LinkGraph, block: int) -> bytes:
    """The content of a block. Raises MalformedInput where the object has none: zeroes may claim any size."""
    if graph.blocks.zero_fill[block]:
        name = section_name(graph, block)
        raise MalformedInput("a section without content", input=graph.input_of_block(block), section=name)
    return graph.content_of(block)


def _parsed_btf(graph: LinkGraph, block: int) -> Btf:
    btf = btf_reader.parse(content_of(graph, block))
    target = graph.target
    assert isinstance(target, Architecture)
    if btf.byte_order != target.byte_order:
        raise MalformedInput(f"{btf.byte_order}-endian types in a {target.byte_order}-endian object", section=BTF)
    return btf


def _input_of(graph: LinkGraph, block: int) -> int:
    return int(graph.sections.input[graph.blocks.section[block]])


def _read_types(graph: LinkGraph) -> dict[int, Types]:
    """Read .BTF and .BTF.ext of every input."""
    types = {number: Types() for number in range(len(graph.inputs))}
    for block in blocks_named(graph, BTF):
        with reading(graph.input_of_block(block)):
            types[_input_of(graph, block)].btf = _parsed_btf(graph, block)
    for block in blocks_named(graph, BTF_EXT):
        of_input = types[_input_of(graph, block)]
        with reading(graph.input_of_block(block)):
            if of_input.btf is None:
                raise MalformedInput("there is .BTF.ext without .BTF", section=BTF_EXT)
            of_input.ext = parse_ext(content_of(graph, block), of_input.btf)
    return types


def _apply_core(graph: LinkGraph, types: dict[int, Types], target_btf: Btf | None) -> list[Relocated]:
    """Apply the CO-RE relocations of every input, in the pool."""
    relocated: list[Relocated] = []
    for number, of_input in types.items():
        if of_input.btf is None or of_input.ext is None:
            continue
        relocator = CoreRelocator(of_input.btf, target_btf)
        name = graph.inputs[number]
        for section in of_input.ext.sections:
            records = of_input.ext.core_relocations(section)
            blocks = [block for block in blocks_named(graph, section) if _input_of(graph, block) == number]
            if records and not blocks:
                raise MalformedInput("CO-RE relocations of a section that is not there", input=name, section=section)
            if records:
                start, size = int(graph.blocks.content[blocks[0]]), int(graph.blocks.size[blocks[0]])
                if graph.blocks.zero_fill[blocks[0]] or size % SLOT:
                    raise MalformedInput("CO-RE relocations of what is no code", input=name, section=section)
                relocated += relocator.apply(graph.pool[start : start + size], records, section=section, input=name)
    return relocated


def _find_maps(graph: LinkGraph, types: dict[int, Types], resolution: Resolution) -> list[LinkedMap]:
    """Find the maps that are declared, each with a symbol of its own, whose address the loader fills in."""
    found: list[tuple[Declaration, int, int]] = []
    for block in blocks_named(graph, BTF_MAPS):
        with reading(graph.input_of_block(block)):
            found += _maps_of_types(graph, block, types[_input_of(graph, block)].btf, resolution)
    for block in blocks_named(graph, LEGACY_MAPS):
        names = {offset: name for name, offset in _variables(graph, block, resolution).items()}
        target = graph.target
        assert isinstance(target, Architecture)
        with reading(graph.input_of_block(block)):
            legacy = legacy_declarations(content_of(graph, block), names, target.byte_order)
            found += [(declaration, block, offset) for offset, declaration in legacy]
    maps = []
    for declaration, block, offset in found:
        symbol = graph.add_symbol(declaration.definition.name, scope=Scope.LOCAL, definition=Definition.ABSOLUTE)
        maps.append(LinkedMap(declaration, block, offset, symbol))
    return maps


def _maps_of_types(
    graph: LinkGraph, block: int, btf: Btf | None, resolution: Resolution
) -> list[tuple[Declaration, int, int]]:
    places = _variables(graph, block, resolution)
    size = int(graph.blocks.size[block])
    for name, offset in places.items():
        if not offset < size <= LARGEST:
            raise MalformedInput("a map that lies outside of its section", section=BTF_MAPS, symbol=name)
    if btf is None:
        raise MalformedInput("maps are declared without types (BTF); compile with -g", section=BTF_MAPS)
    found = [
        (declaration, block, places.pop(declaration.definition.name))
        for declaration in btf_declarations(btf)
        if declaration.definition.name in places
    ]
    if places:
        raise MalformedInput("a map that the types do not describe", section=BTF_MAPS, symbol=next(iter(places)))
    btf.place_section(BTF_MAPS, size, {d.definition.name: offset for d, _, offset in found})
    return found


def _variables(graph: LinkGraph, block: int, resolution: Resolution) -> dict[str, int]:
    """The offset of each variable of a block by its name; weak ones that lost to another input are left out."""
    symbols = graph.symbols
    rows = ((symbols.block == block) & (symbols.kind != SECTION) & (symbols.definition == DEFINED)).nonzero()[0]
    found = {}
    for row, raw_name in zip(rows.tolist(), graph.names_at(symbols.name[rows]), strict=True):
        lost = symbols.scope[row] != LOCAL and resolution.symbol(raw_name) != row
        if raw_name and not lost:
            found[raw_name.decode(errors="surrogateescape")] = min(int(symbols.offset[row]), 1 << 62)
    return found


def _aim_at_maps(graph: LinkGraph, maps: Sequence[LinkedMap]) -> None:
    """Aim every edge to a map at the map's own symbol, with addend 0.

    Raises MalformedInput for an edge to another place of a section of maps.
    """
    blocks = [*blocks_named(graph, BTF_MAPS), *blocks_named(graph, LEGACY_MAPS)]
    edges, symbols = graph.edges, graph.symbols
    rows = (np.isin(symbols.block[edges.target], blocks) & graph.blocks.live[edges.block]).nonzero()[0]
    symbol_at = {(linked.block, linked.offset): linked.symbol for linked in maps}
    for row in rows.tolist():
        target = int(edges.target[row])
        block = int(symbols.block[target])
        place = int(symbols.offset[target]) + int(edges.addend[row])
        if (block, place) not in symbol_at:
            raise MalformedInput(
                f"a reference to {section_name(graph, block)}+{place:#x}, where no map begins",
                input=graph.input_of_block(int(edges.block[row])),
                section=section_name(graph, int(edges.block[row])),
                offset=int(edges.offset[row]),
            )
        edges.target[row], edges.addend[row] = symbol_at[block, place], 0


def _find_programs(graph: LinkGraph, functions: Functions) -> dict[str, int]:
    """Find the programs: functions of named sections that others may see; of .text, where there is nothing else."""
    symbols = graph.symbols
    visible = np.zeros(len(graph.blocks), np.bool_)
    typed = (symbols.kind == FUNCTION) & (symbols.offset == 0)
    visible[symbols.block[typed & (symbols.scope != LOCAL)]] = True
    # The entries that we have added are functions as well; the assembler's own are those before them.
    own = np.zeros(len(graph.blocks), np.bool_)
    before = np.arange(len(symbols)) < (int(functions.entry[0]) if len(functions.entry) else 0)
    own[symbols.block[typed & before]] = True
    named: dict[str, int] = {}
    in_text: dict[str, int] = {}
    for row, block in enumerate(functions.block.tolist()):
        if visible[block] or not own[block]:
            programs = in_text if section_name(graph, block) == TEXT else named
            programs.setdefault(functions.names[row], row)
    return named or in_text


def _license(graph: LinkGraph) -> str:
    """The license of the first input that states one, as the kernel asks for it."""
    for block in blocks_named(graph, LICENSE):
        return content_of(graph, block).split(b"\0", 1)[0].decode(errors="backslashreplace")
    return ""


def _version(graph: LinkGraph, target: Architecture) -> int | None:
    """The kernel version of an object that was made for one, which old kernels asked for."""
    for block in blocks_named(graph, VERSION):
        content = content_of(graph, block)
        if len(content) != 4:
            fault = f"the version has {len(content)} bytes, not 4"
            raise MalformedInput(fault, input=graph.input_of_block(block), section=VERSION)
        return int.from_bytes(content, target.byte_order)
    return None

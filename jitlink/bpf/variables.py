"""Variables: the data sections of a program as maps, and what is in them by name.

The kernel keeps the global variables of a program in array maps with one value, the whole section. So do
we: program and Python share the memory, `program.globals["seen"]` reads and writes it, and the map is
among the others under the name of its section. Sections of one name from several objects lie one behind
the other in one map.

Read-only data is read-only to programs. Python may change it before a run, as user space does with
`const volatile` settings before it loads a program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.bpf.btf_types import Btf, BtfType, Kind
from jitlink.bpf.btf_values import codec, numpy_dtype
from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.linking import LinkedObject, section_name
from jitlink.bpf.maps import Map, MapDefinition, MapFlag, MapType, ValueMap
from jitlink.bpf.sections import holds_variables, is_read_only
from jitlink.errors import MalformedInput, UnsupportedInput, UsageError
from jitlink.fixups import EdgeLetters, apply_kind
from jitlink.formulas import Kind as RelocationKind
from jitlink.graph import Definition, Scope, SymbolKind
from jitlink.protection import Protection

INTEGER_SIZES = (1, 2, 4, 8)
ADVICE = "Addresses have 64 bits here: let the variable hold as many."
DEFINED = int(Definition.DEFINED)


@dataclass(frozen=True)
class Variable:
    """A variable: its map, its place and size there in bytes, its type where it is known, its byte order."""

    name: str
    map: ValueMap
    offset: int
    size: int
    type: BtfType | None
    byte_order: ByteOrder

    @property
    def address(self) -> int:
        """Where programs find it."""
        return self.map.base + self.offset

    @property
    def data(self) -> memoryview:
        """Its bytes, shared with programs."""
        return self.map.value_bytes(0)[self.offset : self.offset + self.size]

    def get(self) -> Any:
        """Read the value: by its type, else an unsigned integer where its size is one's, else bytes."""
        if self.type is not None:
            return codec(self.type).decode(bytes(self.data))
        if self.size in INTEGER_SIZES:
            return int.from_bytes(self.data, self.byte_order)
        return bytes(self.data)

    def set(self, value: Any) -> None:
        """Write a value. Raises ValueError or TypeError for one that does not fit."""
        if self.type is not None:
            data = codec(self.type).encode(value)
        elif isinstance(value, int):
            data = (value % (1 << 8 * self.size)).to_bytes(self.size, self.byte_order)
        else:
            data = bytes(value)
        if len(data) != self.size:
            raise ValueError(f"{len(data)} bytes for the variable {self.name}, which has {self.size}")
        self.data[:] = data

    def view(self) -> npt.NDArray[Any]:
        """See the variable as a NumPy array or scalar array that shares its memory."""
        dtype = numpy_dtype(self.type) if self.type is not None else None
        if dtype is None:
            return np.frombuffer(self.data, np.uint8)
        if dtype.subdtype is not None:
            element, shape = dtype.subdtype
            return np.frombuffer(self.data, element).reshape(shape)
        return np.frombuffer(self.data, dtype).reshape(())


class Globals(MutableMapping[str, Any]):
    """The variables of an object by name. Of one name the one that others may see comes first."""

    def __init__(self, variables: Sequence[Variable]) -> None:
        self._variables: dict[str, Variable] = {}
        for variable in variables:
            self._variables.setdefault(variable.name, variable)

    def variable(self, name: str) -> Variable:
        """Get a variable itself: its address, type and bytes. Raises KeyError."""
        return self._variables[name]

    def view(self, name: str) -> npt.NDArray[Any]:
        """See a variable as a NumPy array that shares its memory. Raises KeyError."""
        return self._variables[name].view()

    def add(self, variables: Sequence[Variable]) -> None:
        """Take in more variables, whose names go behind those that there are."""
        for variable in variables:
            self._variables.setdefault(variable.name, variable)

    def joined(self, variables: Sequence[Variable]) -> Globals:
        """These and more variables, whose names go behind those that there are."""
        return Globals([*self._variables.values(), *variables]) if variables else self

    def __getitem__(self, name: str) -> Any:
        return self._variables[name].get()

    def __setitem__(self, name: str, value: Any) -> None:
        self._variables[name].set(value)

    def __delitem__(self, name: str) -> None:
        raise UsageError(f"the variable {name} is part of the program and cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return f"<globals: {', '.join(self._variables) or 'none'}>"


def data_blocks(linked: LinkedObject) -> dict[str, list[int]]:
    """Find the blocks of data, by the name of their section, in order."""
    graph = linked.graph
    executable = graph.sections.protection[graph.blocks.section] & int(Protection.EXECUTE) != 0
    rows = (graph.blocks.live & ~executable & (graph.blocks.size > 0)).nonzero()[0]
    found: dict[str, list[int]] = {}
    for block in rows[rows > 0].tolist():
        name = section_name(graph, block)
        if holds_variables(name):
            found.setdefault(name, []).append(block)
    return found


def load_data(
    linked: LinkedObject, sections: Mapping[str, list[int]], create: Callable[[MapDefinition], Map]
) -> list[Variable]:
    """Make a map of every data section and fill it. Leaves the addresses of its blocks final.

    sections: the blocks of each, as data_blocks finds them. create: makes a map. Returns the variables, those that
    other objects may see first. Relocations in data are not applied yet, see relocate_data. Raises MalformedInput
    for sections that no map can hold, MemoryRefused.
    """
    found: list[tuple[bool, Variable]] = []
    for name, blocks in sections.items():
        offsets, size = _places(linked, blocks)
        flags = MapFlag.MMAPABLE | (MapFlag.RDONLY_PROG if is_read_only(name) else MapFlag(0))
        definition = MapDefinition(name, MapType.ARRAY, 4, size, 1, flags, byte_order=linked.byte_order)
        definition.require_memory(size)
        made = create(definition)
        assert isinstance(made, ValueMap)
        for block, offset in zip(blocks, offsets, strict=True):
            if not linked.graph.blocks.zero_fill[block]:
                content = linked.graph.content_of(block)
                made.value_bytes(0)[offset : offset + len(content)] = content
            linked.graph.blocks.address[block] = made.base + offset
            found += _variables(linked, block, made, offset)
    return [variable for _, variable in sorted(found, key=lambda pair: pair[0])]


def _places(linked: LinkedObject, blocks: Sequence[int]) -> tuple[list[int], int]:
    """Where each block starts, one behind the other at its alignment, and how many bytes they take."""
    offsets, end = [], 0
    for block in blocks:
        alignment = int(linked.graph.blocks.alignment[block])
        offsets.append(-(-end // alignment) * alignment)
        end = offsets[-1] + int(linked.graph.blocks.size[block])
    return offsets, end


def _variables(linked: LinkedObject, block: int, map: ValueMap, offset: int) -> Iterator[tuple[bool, Variable]]:
    """The variables of a block, each with whether only its own input sees it."""
    symbols = linked.graph.symbols
    for row, name, size, type in _typed_symbols(linked, block):
        at, is_local = int(symbols.offset[row]), bool(symbols.scope[row] == Scope.LOCAL)
        yield is_local, Variable(name, map, offset + at, size, type, linked.byte_order)


def declared_variables(linked: LinkedObject, block: int) -> Iterator[tuple[str, int, BtfType | None]]:
    """Go over the variables of a block of data: name, size in bytes, and type where it is known."""
    return ((name, size, type) for _, name, size, type in _typed_symbols(linked, block))


def _typed_symbols(linked: LinkedObject, block: int) -> Iterator[tuple[int, str, int, BtfType | None]]:
    """The symbols of a block that name bytes of it: row, name, size, type. Raises MalformedInput."""
    graph = linked.graph
    symbols = graph.symbols
    named = (symbols.block == block) & (symbols.kind != SymbolKind.SECTION) & (symbols.definition == DEFINED)
    rows = named.nonzero()[0]
    types = _types_of_section(linked, block)
    block_size = int(graph.blocks.size[block])
    columns = (symbols.offset[rows].tolist(), symbols.size[rows].tolist())
    for row, raw_name, at, size in zip(rows.tolist(), graph.names_at(symbols.name[rows]), *columns, strict=True):
        name = raw_name.decode(errors="surrogateescape")
        if not name or not size or at + size > block_size:
            continue
        type = types.get(name)
        if type is not None and type.size != size:
            fault = f"the symbol has {size} bytes, and its type {type.title} has {type.size}"
            where = section_name(graph, block)
            raise MalformedInput(fault, input=graph.input_of_block(block), section=where, symbol=name)
        yield row, name, size, type


def _types_of_section(linked: LinkedObject, block: int) -> dict[str, BtfType]:
    """The type of each variable of a section, as the input says in its BTF; a flexible array says no size."""
    btf: Btf | None = linked.types[int(linked.graph.sections.input[linked.graph.blocks.section[block]])].btf
    if btf is None:
        return {}
    section = section_name(linked.graph, block)
    found = {}
    for row in btf.find(section, Kind.DATASEC):
        for variable, _, _ in btf[row].variables:
            if variable.kind == Kind.VAR and variable.target is not None and is_value(variable.target):
                found[variable.name] = variable.target
    return found


def is_value(type: BtfType) -> bool:
    """Whether a type has values with a size of their own."""
    real = type.resolved
    if real.kind in (Kind.VOID, Kind.FWD, Kind.FUNC, Kind.FUNC_PROTO):
        return False
    return real.size > 0 and not _is_open(real)


def _is_open(real: BtfType) -> bool:
    """Whether a struct ends in an array without a length, which its variable may give one."""
    members = real.members
    last = members[-1].type.resolved if members else None
    return last is not None and last.kind == Kind.ARRAY and last.length == 0


def relocate_data(linked: LinkedObject, blocks: Sequence[int], map: ValueMap) -> None:
    """Apply the relocations in the blocks of one data section. Needs final addresses.

    Raises UnsupportedInput for the address of a function, which each program would have at another
    place, and for kinds that belong into code; OutOfRange for 32 bits that hold no address.
    """
    graph = linked.graph
    edges = graph.edges
    rows = np.isin(edges.block, list(blocks)).nonzero()[0]
    if not len(rows):
        return
    is_function = linked.functions.row_of_block(len(graph.blocks)) >= 0
    for row in rows[is_function[graph.symbols.block[edges.target[rows]]]].tolist():
        raise _in_data(linked, row, "the address of a function in data, where programs have it in different places")
    content = np.frombuffer(map.values_region.data, np.uint8)
    positions = (graph.blocks.address - np.uint64(map.base)).view(np.int64)
    addresses = graph.symbols.addresses()
    for number in np.unique(edges.kind[rows]).tolist():
        kind: RelocationKind = linked.target.kinds[number]
        of_kind = rows[edges.kind[rows] == number]
        if kind.name in ("R_BPF_64_64", "R_BPF_64_32"):
            raise _in_data(linked, int(of_kind[0]), f"{kind.name} in data; it belongs into an instruction")
        if kind.applied:
            letters = EdgeLetters(graph, of_kind, addresses, np.uint64(0))
            apply_kind(graph, content, positions, kind, letters, lambda kind, row: ADVICE)


def _in_data(linked: LinkedObject, edge: int, fault: str) -> UnsupportedInput:
    graph = linked.graph
    block = int(graph.edges.block[edge])
    return UnsupportedInput(
        fault,
        input=graph.input_of_block(block),
        section=section_name(graph, block),
        offset=int(graph.edges.offset[edge]),
        symbol=graph.edges[edge].target.name or None,
    )

"""The debug information of one object: read again from its bytes when the first question is asked.

A link does not read debug sections. The bytes of its objects stay where they are as long as the link
graph does, so that one object can be read again, with its debug sections and nothing else relocated. Of
these, an index from symbol to entry is made in one walk, and the entries that somebody asks about are
decoded by pyelftools.

Broken debug information keeps nothing from being linked or called. What cannot be read is refused with
the section and the offset, as MalformedInput, whatever pyelftools ran into.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jitlink.calls.scanning import SYMBOLS, TYPES, described_places
from jitlink.errors import InputError, LinkError, MalformedInput
from jitlink.formats.batch import Batch
from jitlink.formats.objects import LONGEST_HEAD, format_of
from jitlink.formulas import LETTERS_OF_STORAGE, Kind
from jitlink.graph import LinkGraph
from jitlink.passes.debug import relocate_debug_sections

INFO = ".debug_info"
# fmt: off
SECTIONS = (
    "info", "aranges", "abbrev", "frame", "str", "loc", "ranges", "line", "pubtypes", "pubnames", "addr",
    "str_offsets", "line_str", "loclists", "rnglists", "sup", "types",
)
# fmt: on
LINKAGE_NAMES = ("DW_AT_linkage_name", "DW_AT_MIPS_linkage_name")
DEFINITIONS = ("DW_AT_specification", "DW_AT_abstract_origin")
"""Attributes by which an entry leaves what it does not say to another one."""
TAGS_OF = {
    word: frozenset({f"DW_TAG_{tag}_type"})
    for word, tag in (("struct", "structure"), ("union", "union"), ("class", "class"), ("enum", "enumeration"))
}
LONGEST_CHAIN = 8
"""Entries that leave their names to each other; compilers stay at 2."""


def debug_info_of(graph: LinkGraph, input: int) -> DebugInfo:
    """Read the debug information of an input of a linked graph. Raises InputError."""
    name = graph.inputs[input]
    start, size = graph.place_of_input(input)
    head = graph.pool[start : start + min(size, LONGEST_HEAD)].tobytes()
    format = format_of(head)
    if format is None:
        return DebugInfo({}, name, little_endian=True)
    batch = Batch(graph.pool, [name], np.array([start], np.int64), np.array([size], np.int64))
    target: Any = graph.target
    whole = format.read(batch, target, everything=True)
    leave_out_thread_locals(whole)
    # Nothing is laid out: what refers to code gets an offset in its section, which is all we need.
    sections = relocate_debug_sections(whole, whole.symbols.addresses(), 0)
    return DebugInfo(sections.get(name, {}), name, little_endian=target.byte_order == "little")


def leave_out_thread_locals(graph: LinkGraph) -> None:
    """Drop references to thread-locals, whose places only a link decides. Changes a graph that is not linked."""
    edges = graph.edges
    for number in np.unique(edges.kind).tolist():
        kind: Kind = graph.target.kinds[number]
        if kind.applied and kind.value.letters & LETTERS_OF_STORAGE:
            edges.kind[edges.kind == number] = 0


class DebugInfo:
    """The entries of one object. Attributes: input (its name), dwarf (pyelftools' DWARFInfo)."""

    def __init__(self, sections: dict[str, bytes], input: str, *, little_endian: bool) -> None:
        """Take relocated debug sections by name."""
        self.input = input
        self._content = sections.get(INFO, b"")
        self.dwarf = _dwarf_of(sections, little_endian)
        self._index: dict[str, int] | None = None
        # What stopped the walk, and the units that stand before that are in the index.
        self.fault: InputError | None = None

    def entry_of(self, symbol: str) -> Any:
        """The entry (a DIE of pyelftools) that describes a symbol; None if there is none.

        Raises MalformedInput where the debug information broke off before it.
        """
        if self._index is None:
            self._index = {}
            try:
                self._fill(self._index)
            except InputError as error:
                self.fault = error
        offset = self._index.get(symbol)
        if offset is None:
            if self.fault is not None:
                raise self.fault
            return None
        return self.entry_at(offset)

    def entry_at(self, offset: int) -> Any:
        """Decode the entry at an offset of .debug_info. Raises MalformedInput."""
        with self.reading(offset):
            return self.dwarf.get_DIE_from_refaddr(offset)

    def referred(self, entry: Any, attribute: str) -> Any:
        """The entry that a reference of an entry points at; None if it has no such attribute."""
        if attribute not in entry.attributes:
            return None
        with self.reading(entry.offset):
            found = entry.get_DIE_from_attribute(attribute)
            if found is None or found.tag is None:
                raise MalformedInput(f"{attribute} refers to no entry")
            return found

    def chain(self, entry: Any) -> list[Any]:
        """An entry, and those to which it leaves what it does not say itself."""
        found = [entry]
        while len(found) < LONGEST_CHAIN:
            following = next(
                (self.referred(found[-1], each) for each in DEFINITIONS if each in found[-1].attributes), None
            )
            if following is None:
                return found
            found.append(following)
        raise self.malformed("entries that complete each other in a circle", entry)

    def children(self, entry: Any) -> Iterator[Any]:
        """The entries directly below one, in order."""
        at, end = entry.offset + entry.size, entry.cu.cu_offset + entry.cu.size
        if not entry.has_children:
            return
        depth = 0
        while at < end:
            child = self.entry_at(at)
            if child.tag is None:
                if not depth:
                    return
                depth -= 1
            else:
                if not depth:
                    yield child
                depth += bool(child.has_children)
            at += child.size
        raise self.malformed("children that go past the end of their unit", entry)

    def attribute(self, entry: Any, name: str) -> Any:
        """The value of an attribute, of the entry itself or of those that complete it; None if there is none."""
        for each in self.chain(entry):
            if name in each.attributes:
                return each.attributes[name].value
        return None

    def name_of(self, entry: Any) -> str:
        """DW_AT_name as text for people; empty if there is none."""
        name = self.attribute(entry, "DW_AT_name")
        return name.decode(errors="backslashreplace") if isinstance(name, bytes) else ""

    def malformed(self, fault: str, entry: Any) -> MalformedInput:
        """Make the error for a fault of an entry."""
        return MalformedInput(fault, input=self.input, section=INFO, offset=entry.offset)

    @contextmanager
    def reading(self, offset: int) -> Iterator[None]:
        """Turn whatever pyelftools runs into at an offset into MalformedInput, which names the place."""
        try:
            yield
        except InputError as error:
            error.input = error.input or self.input
            if error.section is None:
                error.section, error.offset = INFO, offset
            raise
        except (LinkError, MemoryError):
            raise
        except Exception as error:
            fault = f"debug information that cannot be read ({type(error).__name__}: {error})"
            raise MalformedInput(fault, input=self.input, section=INFO, offset=offset) from error

    def type_entry(self, name: str) -> Any:
        """The entry of a type by its name, which may have struct, union, class or enum before it; None if none.

        Raises MalformedInput.
        """
        word, _, rest = name.rpartition(" ")
        tags = TAGS_OF.get(word, TYPES)
        found = None
        for unit, offset in self._described(tags):
            entry = self._decoded(unit, offset)
            if self.name_of(entry) == rest:
                if "DW_AT_declaration" not in entry.attributes:
                    return entry
                found = found or entry
        return found

    def _fill(self, index: dict[str, int]) -> None:
        """Walk all units. A definition goes before a declaration."""
        declared: dict[str, int] = {}
        for unit, offset in self._described(SYMBOLS):
            symbol, is_declaration = self._symbol_of(self._decoded(unit, offset))
            if symbol:
                (declared if is_declaration else index).setdefault(symbol, offset)
        for symbol, offset in declared.items():
            index.setdefault(symbol, offset)

    def _described(self, tags: frozenset[str]) -> Iterator[tuple[Any, int]]:
        """Walk all units: the unit and the offset of each entry with one of the tags."""
        at = 0
        while self.dwarf.debug_info_sec is not None and at < len(self._content):
            with self.reading(at):
                unit = self.dwarf.get_CU_at(at)
                # Indexed forms need the bases in the top entry.
                unit.get_top_DIE()
                places = list(described_places(self._content, unit, tags))
            for offset in places:
                yield unit, offset
            at = unit.cu_offset + unit.size

    def _decoded(self, unit: Any, offset: int) -> Any:
        """Decode an entry without keeping it."""
        from elftools.dwarf.die import DIE

        with self.reading(offset):
            return DIE(unit, self.dwarf.debug_info_sec.stream, offset)

    def _symbol_of(self, entry: Any) -> tuple[str, bool]:
        """The symbol that an entry describes, and whether it only declares it."""
        is_declaration = "DW_AT_declaration" in entry.attributes
        name = ""
        for each in self.chain(entry):
            linkage = next((each.attributes[key].value for key in LINKAGE_NAMES if key in each.attributes), None)
            if linkage is not None:
                return _symbol(linkage), is_declaration
            if not name and "DW_AT_name" in each.attributes:
                name = _symbol(each.attributes["DW_AT_name"].value)
        return name, is_declaration


def _symbol(value: Any) -> str:
    """A name as symbols have it."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else ""


def _dwarf_of(sections: dict[str, bytes], little_endian: bool) -> Any:
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

    def section(name: str) -> Any:
        content = sections.get(f".debug_{name}")
        return content and DebugSectionDescriptor(io.BytesIO(content), f".debug_{name}", 0, len(content), 0)

    config = DwarfConfig(little_endian=little_endian, machine_arch="x64", default_address_size=8)
    parts = {f"debug_{name}_sec": section(name) for name in SECTIONS}
    return DWARFInfo(config, eh_frame_sec=None, gnu_debugaltlink_sec=None, **parts)

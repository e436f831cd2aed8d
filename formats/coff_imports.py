"""Import libraries: archives whose members say which DLL has a function, 20 bytes and two names each.

Windows code reaches what a DLL exports through a pointer, `__imp_NAME`, that the loader fills. A member of an
import library becomes that pointer, with a reference to the name under which the DLL exports it. There is
no loader and no DLL here: like other names that nobody defines, that name is looked up in what the link is
linked against. A function that the DLL exports by number alone is looked up as `NAME.dll#NUMBER`.

The symbol of a function itself, without `__imp_`, stands for what the pointer points at.

Source: Microsoft PE Format specification, "Import Library Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jitlink.columns import Rows
from jitlink.errors import MalformedInput
from jitlink.formats import coff_layout as coff
from jitlink.graph import Definition, Linkage, LinkGraph, Scope, SymbolKind
from jitlink.protection import Protection

if TYPE_CHECKING:
    from jitlink.formats.coff import CoffReader

IMP = b"__imp_"
POINTER_SECTION = b".idata$5"
"""Where import libraries in the long form have these pointers."""
TYPE_BITS, NAME_BITS = 2, 3


@dataclass(frozen=True)
class Import:
    """A member of an import library.

    Attributes: input (its number, from 1), symbol (the name that objects use), exported (the name to look
    up), sort (code, data or constant).
    """

    input: int
    symbol: bytes
    exported: bytes
    sort: int


def add_imports(reader: CoffReader, graph: LinkGraph) -> None:
    """Add what the members of import libraries define. Raises MalformedInput."""
    members = reader.is_import.nonzero()[0]
    if not len(members):
        return
    headers = reader.load(reader.batch.starts[members], coff.IMPORT_HEADER)
    fields = (headers["data_size"].tolist(), headers["ordinal_or_hint"].tolist(), headers["type"].tolist())
    found = [_read(reader, *member) for member in zip(members.tolist(), *fields, strict=True)]
    pointers = _add_pointers(graph, found)
    exported = _add_references(graph, found)
    graph.edges.append(
        len(found), block=pointers, kind=graph.target.kind_number(reader.target.pointer), target=exported
    )
    graph.sort_edges()


def _read(reader: CoffReader, member: int, size: int, ordinal: int, kind: int) -> Import:
    """Read one member: two names, or three, each with a NUL byte behind it."""
    batch, header = reader.batch, coff.IMPORT_HEADER.itemsize
    start, end = int(batch.starts[member]) + header, int(batch.starts[member] + batch.sizes[member])
    if start + size > end:
        raise MalformedInput("the names of an import go past the end of the file", input=batch.names[member])
    names = batch.pool[start : start + size].tobytes().split(b"\0")
    sort, name_type = kind & ((1 << TYPE_BITS) - 1), kind >> TYPE_BITS & ((1 << NAME_BITS) - 1)
    if len(names) < (4 if name_type == coff.IMPORT_NAME_EXPORTAS else 3) or not names[0]:
        raise MalformedInput("the names of an import do not end with NUL bytes", input=batch.names[member])
    if sort > coff.IMPORT_CONST or name_type > coff.IMPORT_NAME_EXPORTAS:
        raise MalformedInput("an import of an unknown type", input=batch.names[member])
    return Import(member + 1, names[0], _exported_name(names, name_type, ordinal), sort)


def _exported_name(names: list[bytes], name_type: int, ordinal: int) -> bytes:
    """The name under which a DLL exports a symbol. names: of the symbol, of the DLL, and its own."""
    symbol, library = names[:2]
    if name_type == coff.IMPORT_ORDINAL:
        return library + b"#%d" % ordinal
    if name_type == coff.IMPORT_NAME_EXPORTAS:
        return names[2]
    if name_type == coff.IMPORT_NAME:
        return symbol
    # Only the first letter is left out, and only one of these.
    symbol = symbol[1:] if symbol[:1] in (b"?", b"@", b"_") else symbol
    return symbol.partition(b"@")[0] if name_type == coff.IMPORT_NAME_UNDECORATE else symbol


def _add_pointers(graph: LinkGraph, found: list[Import]) -> Rows:
    """Add the pointers, each in a section of its own input, under their names: int64[n], blocks."""
    count, input = len(found), np.array([each.input for each in found])
    size = 8
    sections = graph.sections.append(
        count, name=graph.add_name(POINTER_SECTION), input=input, protection=int(Protection.READ)
    )
    content = graph.add_content(bytes(size))
    blocks = graph.blocks.append(count, section=sections, content=content, size=size, alignment=size, live=True)
    constants = np.array([each.sort == coff.IMPORT_CONST for each in found])
    names = [IMP + each.symbol for each in found]
    names += [each.symbol for each in found if each.sort == coff.IMPORT_CONST]
    # Weak, since several libraries may import one name.
    graph.symbols.append(
        len(names),
        name=np.array([graph.add_name(name) for name in names]),
        block=np.concatenate((blocks, blocks[constants])),
        size=np.uint64(size),
        linkage=Linkage.WEAK,
        definition=Definition.DEFINED,
        kind=SymbolKind.OBJECT,
        input=np.concatenate((input, input[constants])),
    )
    return blocks


def _add_references(graph: LinkGraph, found: list[Import]) -> Rows:
    """Refer to the names that the DLLs export: int64[n], symbols; the symbols of functions stand for those."""
    exported = graph.symbols.append(
        len(found),
        name=np.array([graph.add_name(each.exported) for each in found]),
        definition=Definition.UNDEFINED,
        scope=Scope.DEFAULT,
        input=np.array([each.input for each in found]),
    )
    renamed = [row for row, each in enumerate(found) if each.sort == coff.IMPORT_CODE and each.symbol != each.exported]
    graph.symbols.append(
        len(renamed),
        name=np.array([graph.add_name(found[row].symbol) for row in renamed], np.int64),
        definition=Definition.UNDEFINED,
        linkage=Linkage.WEAK,
        alias=exported[renamed],
        input=np.array([found[row].input for row in renamed], np.int64),
    )
    return exported

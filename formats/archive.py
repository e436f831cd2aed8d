"""Reading archives: many files in one, as `ar` and `lib` write them.

An archive is a magic string and then its members, each a header of 60 characters and its content. The
header holds a name of at most 16 characters and the size as a decimal number; the next header follows
at the next even offset. All else came later, and each family of tools added it in its own way, as
members with special names:

    family          symbol index                    longer names
    System V, GNU   /   or, with 64 bits, /SYM64/   /123: at offset 123 of the member //
    BSD, Darwin     __.SYMDEF, __.SYMDEF_64         #1/20: the first 20 bytes of the content
    COFF            / and once more / (sorted)      /123, as GNU, with another terminator

A reader need not know the family: the name of each member says what it is. A thin archive (GNU) holds
headers only, and the name of a member is the path of a file, from the directory of the archive.

The size in a header is the only way to the next one, so the walk over the headers is a loop. What members
hold is not looked at: one that is itself an archive is a member like others.

Source: ar(5) of FreeBSD and of Solaris; PE/COFF specification, "Archive (Library) File Format"; for thin
archives, which have no document, the behaviour of GNU ar.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import accumulate
from struct import Struct
from typing import NamedTuple

import numpy as np

from jitlink.columns import Buffer, Rows
from jitlink.errors import MalformedInput, UnsupportedInput, reading
from jitlink.formats.archive_index import IndexLayout, SymbolIndex

MAGIC = b"!<arch>\n"
THIN_MAGIC = b"!<thin>\n"
AIX_MAGICS = (b"<bigaf>\n", b"<aiaff>\n")

HEADER = Struct("16s 32x 10s 2s")
"""Name; date, owner, group and mode, which a linker has no use for; size; end mark."""
END_MARK = b"`\n"

SLASH = ord("/")
GNU_INDEX = b"/".ljust(16)
GNU_INDEX_64 = b"/SYM64/".ljust(16)
NAME_TABLE = b"//".ljust(16)
STORED_IN_THIN = frozenset((GNU_INDEX, GNU_INDEX_64, NAME_TABLE))
LAYOUT_BY_FIELD = {GNU_INDEX: IndexLayout.GNU, GNU_INDEX_64: IndexLayout.GNU_64}
LAYOUT_BY_NAME = {
    b"__.SYMDEF": IndexLayout.BSD,
    b"__.SYMDEF SORTED": IndexLayout.BSD,
    b"__.SYMDEF_64": IndexLayout.BSD_64,
    b"__.SYMDEF_64 SORTED": IndexLayout.BSD_64,
}


@dataclass(eq=False)
class Archive:
    """An archive and its members; the index and the name table are not among them.

    Attributes: name (of the archive), thin, member_names (as linkers print them; bytes that are not
    UTF-8 are kept as surrogate escapes), starts (int64[members], position of the content in the buffer;
    -1 in a thin archive), sizes (int64[members], bytes of content; in a thin archive as recorded when it
    was made), header_offsets (int64[members], ascending, of each header from the start of the archive),
    symbol_index (as stored; None where the archive has none).
    """

    name: str
    thin: bool
    member_names: list[str]
    starts: Rows
    sizes: Rows
    header_offsets: Rows
    symbol_index: SymbolIndex | None

    def index(self) -> dict[bytes, int] | None:
        """The symbol index: from the name of a symbol to the row of the first member that defines it.

        None where the archive has no index, which is not an index without symbols. It is parsed at the
        first call. Raises MalformedInput.
        """
        return self._parsed_index

    @cached_property
    def _parsed_index(self) -> dict[bytes, int] | None:
        if self.symbol_index is None:
            return None
        with reading(self.name):
            return self.symbol_index.member_rows(self.header_offsets)


def is_archive(buffer: Buffer, start: int, size: int) -> bool:
    """Whether these bytes start as an archive does, also one that read_archive refuses by its sort."""
    return _magic(buffer, start, size) in (MAGIC, THIN_MAGIC, *AIX_MAGICS)


def read_archive(buffer: Buffer, start: int, size: int, name: str) -> Archive:
    """Find the members of the archive that lies in buffer[start : start + size].

    name: of the archive, for errors. Raises MalformedInput, with the offset from the start of the
    archive; UnsupportedInput for an archive of AIX, and for a thin archive that refers to members of
    other archives.
    """
    with reading(name):
        magic = _magic(buffer, start, size)
        if magic in AIX_MAGICS:
            raise UnsupportedInput("an archive of AIX, which can only hold XCOFF objects")
        if magic not in (MAGIC, THIN_MAGIC):
            raise MalformedInput("not an archive: it does not start with !<arch> or !<thin>", offset=0)
        thin = magic == THIN_MAGIC
        data = buffer[start : start + size].data
        headers = _walk(data, thin)
        members = _Members(data, thin, headers)
        members.name_all()
    header_offsets = np.array(headers.offsets, np.int64)[members.rows]
    name_lengths = np.array(members.name_lengths, np.int64)[members.rows]
    return Archive(
        name,
        thin,
        members.names,
        np.full(len(header_offsets), -1) if thin else start + header_offsets + HEADER.size + name_lengths,
        np.array(headers.sizes, np.int64)[members.rows] - name_lengths,
        header_offsets,
        members.index,
    )


def _magic(buffer: Buffer, start: int, size: int) -> bytes:
    return buffer[start : start + min(size, len(MAGIC))].tobytes()


class _Headers(NamedTuple):
    """All headers of an archive: the name field, the offset and the recorded size of each."""

    fields: list[bytes]
    offsets: list[int]
    sizes: list[int]


def _walk(data: memoryview, thin: bool) -> _Headers:
    """Go from header to header."""
    fields: list[bytes] = []
    offsets: list[int] = []
    sizes: list[int] = []
    read_header = HEADER.unpack_from
    at, end = len(MAGIC), len(data)
    while at < end:
        if at + HEADER.size > end:
            raise MalformedInput("the archive ends in the middle of a member header", offset=at)
        field, size_field, end_mark = read_header(data, at)
        digits = size_field.rstrip(b" ")
        if end_mark != END_MARK:
            raise MalformedInput(f"a member header ends in {end_mark!r} and not in {END_MARK!r}", offset=at)
        if not digits.isdigit():
            raise MalformedInput(f"a member header gives the size as {size_field!r}, not a decimal number", offset=at)
        size = int(digits)
        fields.append(field)
        offsets.append(at)
        sizes.append(size)
        at += HEADER.size
        if not thin or field in STORED_IN_THIN:
            at += size
            if at > end:
                fault = f"a member of {size} bytes goes {at - end} bytes past the end of the archive"
                raise MalformedInput(fault, offset=offsets[-1])
            at += at & 1  # the last member may lack its padding: then `at` is one past the end
    return _Headers(fields, offsets, sizes)


class _Members:
    """The members of one archive, told apart and named in their order.

    Attributes: rows (of the headers of ordinary members), names (of those), name_lengths (for every
    header, bytes of the content that are the name), index.
    """

    def __init__(self, data: memoryview, thin: bool, headers: _Headers) -> None:
        self.data = data
        self.thin = thin
        self.headers = headers
        self.rows: list[int] = []
        self.names: list[str] = []
        self.name_lengths = [0] * len(headers.fields)
        self.index: SymbolIndex | None = None
        self.index_name = b""
        self.table_seen = False
        self.table_names: dict[bytes, str] = {}

    def name_all(self) -> None:
        """Name the ordinary members and keep what the special ones hold."""
        for row, field in enumerate(self.headers.fields):
            name = self.table_names.get(field)
            if name is None:
                name = self._name_one(row, field)
                if name is None:
                    continue
            self.rows.append(row)
            self.names.append(name)

    def _name_one(self, row: int, field: bytes) -> str | None:
        """The name of a member that does not have it in the name table; None for a special member."""
        if field[0] == SLASH:
            self._take_special(row, field)
            return None
        name = self._name_in_content(row, field) if field.startswith(b"#1/") else field.rstrip(b" ")
        if name in LAYOUT_BY_NAME and not self.thin:
            self._take_index(row, LAYOUT_BY_NAME[name], name)
            return None
        if b"\0" in name:
            raise self._fault(row, f"a NUL byte in the member name {name!r}")
        return name.removesuffix(b"/").decode("utf-8", "surrogateescape")

    def _take_special(self, row: int, field: bytes) -> None:
        """A special member of GNU or COFF; their names start with a slash."""
        name = field.rstrip(b" ")
        if field == NAME_TABLE:
            if self.table_seen:
                raise self._fault(row, "a second name table")
            self.table_seen = True
            self.table_names = _names_by_field(self._content(row), set(self.headers.fields))
        elif field in LAYOUT_BY_FIELD:
            self._take_index(row, LAYOUT_BY_FIELD[field], field)
        elif name[1:].isdigit():
            where = "where no terminated name starts" if self.table_seen else "and no name table came before"
            raise self._fault(row, f"a member has its name at {name[1:].decode()} of the name table, {where}")
        elif self.thin and name[1:].replace(b":", b"", 1).isdigit():
            raise UnsupportedInput(
                "a thin archive that refers to members of another archive",
                offset=self.headers.offsets[row],
                hint="Give that archive itself, or make the thin archive from objects.",
            )
        elif not (name.startswith(b"/<") and name.endswith(b">/")):
            # In <> are further indexes for Microsoft's linker, such as /<ECSYMBOLS>/ and /<HYBRIDMAP>/.
            raise self._fault(row, f"a member has the special name {name!r}, which means nothing")

    def _name_in_content(self, row: int, field: bytes) -> bytes:
        """A member of BSD whose content starts with its name, which NUL bytes may pad."""
        digits = field[3:].rstrip(b" ")
        if self.thin or not digits.isdigit():
            raise self._fault(row, f"a member has the special name {field!r}, which means nothing")
        length, size = int(digits), self.headers.sizes[row]
        if length > size:
            raise self._fault(row, f"a member of {size} bytes is said to start with a name of {length}")
        self.name_lengths[row] = length
        start = self.headers.offsets[row] + HEADER.size
        return bytes(self.data[start : start + length]).rstrip(b"\0")

    def _take_index(self, row: int, layout: IndexLayout, name: bytes) -> None:
        """Keep the first index. The second `/` of COFF has the same symbols, for a binary search."""
        if self.index is None:
            start = self.headers.offsets[row] + HEADER.size + self.name_lengths[row]
            self.index = SymbolIndex(layout, self._content(row), start)
            self.index_name = name
        elif name == GNU_INDEX and self.index_name == GNU_INDEX:
            self.index_name = b""
        else:
            raise self._fault(row, "a second symbol index")

    def _content(self, row: int) -> bytes:
        start = self.headers.offsets[row] + HEADER.size
        return bytes(self.data[start + self.name_lengths[row] : start + self.headers.sizes[row]])

    def _fault(self, row: int, fault: str) -> MalformedInput:
        return MalformedInput(fault, offset=self.headers.offsets[row])


def _names_by_field(table: bytes, wanted: set[bytes]) -> dict[bytes, str]:
    """Read the name table: from a name field, such as /123 and spaces, to the name at that offset.

    Names lie one behind the other. GNU ends them with a slash and a line feed, COFF with a NUL byte; old
    System V left the slash out. No writer lets one name start inside another; a file that does could
    have a long name for every byte, and gets none.
    """
    lines = table.replace(b"\0", b"\n")
    names = lines.decode("utf-8", "surrogateescape").replace("/\n", "\n").split("\n")
    del names[-1]  # what follows the last terminator is no name
    starts = accumulate(map(len, BytesIO(lines)), initial=0)
    return {field: name for start, name in zip(starts, names, strict=False) if (field := b"/%-15d" % start) in wanted}

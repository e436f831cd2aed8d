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

The size in a header is the only way to the next one, so the walk over the headers is a loop. Content is
never copied or looked at: a member that is itself an archive is a member like others.

Source: ar(5) of FreeBSD and of Solaris; PE/COFF specification, "Archive (Library) File Format"; for thin
archives, which have no document, the behaviour of GNU ar.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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
        self.name_table: _NameTable | None = None

    def name_all(self) -> None:
        """Name the ordinary members and keep what the special ones hold."""
        for row, field in enumerate(self.headers.fields):
            if field.startswith(b"/"):
                name = self._name_slashed(row, field)
            elif field.startswith(b"#1/"):
                name = self._name_in_content(row, field)
            else:
                name = self._name_plain(row, field.partition(b"\0")[0].rstrip(b" "))
            if name is not None:
                self.rows.append(row)
                self.names.append(name)

    def _name_slashed(self, row: int, field: bytes) -> str | None:
        """A member with its name in the name table, or a special member of GNU or COFF."""
        name = field[1:].rstrip(b" ")
        if name.isdigit():
            return self._name_in_table(row, int(name))
        if field == NAME_TABLE:
            if self.name_table is not None:
                raise self._fault(row, "a second name table")
            self.name_table = _NameTable(self._content(row))
        elif field in LAYOUT_BY_FIELD:
            self._take_index(row, LAYOUT_BY_FIELD[field], field)
        elif self.thin and name.replace(b":", b"", 1).isdigit():
            raise UnsupportedInput(
                "a thin archive that refers to members of another archive",
                offset=self.headers.offsets[row],
                hint="Give that archive itself, or make the thin archive from objects.",
            )
        elif not (name.startswith(b"<") and name.endswith(b">/")):
            # In <> are further indexes of Microsoft's lib, such as /<ECSYMBOLS>/, for its own linker.
            raise self._fault(row, f"a member has the special name {_text(field)!r}, which means nothing")
        return None

    def _name_in_table(self, row: int, position: int) -> str:
        if self.name_table is None:
            raise self._fault(row, f"a member has its name at {position} of a name table, and none came before")
        try:
            return self.name_table[position]
        except MalformedInput as error:
            error.offset = self.headers.offsets[row]
            raise

    def _name_in_content(self, row: int, field: bytes) -> str | None:
        """A member of BSD whose content starts with its name, which NUL bytes may pad."""
        digits = field[3:].rstrip(b" ")
        if self.thin or not digits.isdigit():
            raise self._fault(row, f"a member has the special name {_text(field)!r}, which means nothing")
        length, size = int(digits), self.headers.sizes[row]
        if length > size:
            raise self._fault(row, f"a member of {size} bytes is said to start with a name of {length}")
        self.name_lengths[row] = length
        start = self.headers.offsets[row] + HEADER.size
        return self._name_plain(row, bytes(self.data[start : start + length]).partition(b"\0")[0])

    def _name_plain(self, row: int, name: bytes) -> str | None:
        """A member that gives its name itself; System V and GNU end it with a slash, BSD does not."""
        if name in LAYOUT_BY_NAME:
            self._take_index(row, LAYOUT_BY_NAME[name], name)
            return None
        return _text(name.removesuffix(b"/"))

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


class _NameTable(dict[int, str]):
    """The member `//`: names one behind the other, each referred to by its offset; read when asked for.

    GNU ends a name with a slash and a line feed, COFF with a NUL byte; System V may leave the slash out.
    A name must start where the one before has ended, as every writer has it. Else a file could have as
    many long names as it has members, out of one long string.
    """

    def __init__(self, content: bytes) -> None:
        self.table = content.replace(b"/\n", b"\0\0").replace(b"\n", b"\0")

    def __missing__(self, position: int) -> str:
        table = self.table
        if position >= len(table):
            raise MalformedInput(f"a member has its name at {position}, past the name table of {len(table)} bytes")
        if position and table[position - 1]:
            raise MalformedInput(f"a member has its name at {position}, in the middle of another name")
        end = table.find(b"\0", position)
        if end < 0:
            raise MalformedInput(f"a member has its name at {position}, and that name has no end")
        name = self[position] = _text(table[position:end])
        return name


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")

"""Inputs: from what a caller names to objects in one buffer.

A path, bytes, or a link graph. What an input is, its content decides and not its name: an object,
an archive of objects (also of archives, and thin ones whose members are files of their own), a linker
script that names files, or LLVM IR, which is compiled first. All bytes of one call are put into one
buffer, the pool, so that the reader can look at all objects at once.

Files are read, not mapped: a mapped file that another process cuts short would end ours.
"""

from __future__ import annotations

import os
import platform
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from jitlink.arches import FILE_OF
from jitlink.arches.architecture import Architecture
from jitlink.columns import Buffer, load_records
from jitlink.errors import MalformedInput, UnreadableInput, UnsupportedInput
from jitlink.escaping import escaped
from jitlink.formats.archive import Archive, is_archive, read_archive
from jitlink.formats.batch import Batch
from jitlink.formats.linker_script import NamedFile, is_linker_script, read_linker_script
from jitlink.formats.objects import COFF_HEADER_SIZE, FORMATS, LONGEST_HEAD, ObjectFormat, format_of
from jitlink.formats.universal import is_universal, read_universal, wanted_slice
from jitlink.graph import PADDING, Definition, LinkGraph, Scope
from jitlink.graph.naming import PREFIX_OF_FORMAT, to_raw_name
from jitlink.joining import join

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | LinkGraph

ALIGNMENT = 16
"""Of each input in the pool, in bytes."""
DEEPEST_NESTING = 8
"""Archives in archives, and scripts that name scripts: no build makes more than two levels."""
TEXT_HEAD = 512
"""Bytes by which LLVM IR and linker scripts are told."""
SHARED_LIBRARY = re.compile(r"\.so(\.[0-9.]+)?$")
BITCODE = (b"BC\xc0\xde", b"\xde\xc0\x17\x0b")
IR_TEXT = re.compile(
    rb"\s*(;|source_filename\s*=|target (datalayout|triple)|define |declare |module asm|@[\w.\"$-]+\s*=)"
)
WORD = 0xFFFFFFFF
MAGIC_OF_FORMAT = {
    "elf": (int.from_bytes(b"\x7fELF", "little"), WORD, 4),
    "macho": (0xFEEDFACF, WORD, 4),
    "coff": (0x8664, 0xFFFF, COFF_HEADER_SIZE),
}
"""What the first four bytes of objects are, the bits of them that count, and the least size of an object.

COFF objects start with their machine: these are those for x86-64, and others are told one by one."""
OTHER_FORMATS = {
    b"\xce\xfa\xed\xfe": "a 32-bit Mach-O file",
    b"\xca\xfe\xba\xbe": "a class file of Java",
    b"MZ": "a Windows executable",
    b"\0asm": "a WebAssembly module",
}


@dataclass
class Member:
    """One input in a pool.

    Attributes: name (as errors print it), start and size (bytes), format (of the object that it is).
    """

    name: str
    start: int
    size: int
    format: str = "elf"


@dataclass
class Library:
    """An archive whose members are taken as they are needed.

    Attributes: name, members (a row for each row of the archive), inputs (the pool they lie in), archive.
    """

    name: str
    members: list[Member]
    inputs: Inputs
    archive: Archive
    taken: set[int] = field(default_factory=set)
    _index: dict[bytes, int] | None = None

    @cached_property
    def symbol_prefix(self) -> bytes:
        """What stands before C names in the first member that is an object."""
        formats = (format_of(self.inputs.head_of(member)) for member in self.members)
        first = next((format.name for format in formats if format is not None), "elf")
        return PREFIX_OF_FORMAT.get(first, b"")

    def index(self, target: Architecture) -> dict[bytes, int]:
        """Which member defines each raw name: the archive's own symbol index, or one made from its members."""
        if self._index is None:
            index = self.archive.index()
            self._index = self._scan(target) if index is None else index
        return self._index

    def _scan(self, target: Architecture) -> dict[bytes, int]:
        """Make the index of an archive that has none (`ar rcS`)."""
        objects = []
        for row, member in enumerate(self.members):
            format = format_of(self.inputs.head_of(member))
            if format is not None:
                member.format = format.name
                objects.append(row)
        if not objects:
            return {}
        graph = self.inputs.read([self.members[row] for row in objects], target)
        symbols = graph.symbols
        defined = (symbols.scope != Scope.LOCAL) & (symbols.definition != Definition.UNDEFINED)
        rows = defined.nonzero()[0]
        found = zip(graph.names_at(symbols.name[rows]), (symbols.input[rows] - 1).tolist(), strict=True)
        # Of several members that define a name, the first stays.
        return {name: objects[member] for name, member in reversed(list(found))}

    def take(self, name: bytes, target: Architecture) -> Member | None:
        """Take the member that defines a C name; None if there is none or it was taken before."""
        row = self.index(target).get(to_raw_name(name, self.symbol_prefix))
        if row is None or row in self.taken:
            return None
        member = self.members[row]
        member.format = self.inputs.format_of(member).name
        self.taken.add(row)
        return member


@dataclass
class Inputs:
    """What the sources of one call hold.

    Attributes: pool (all bytes), objects (to be linked), libraries (whose members are taken as they are
    needed), graphs (given as such).
    """

    pool: Buffer
    objects: list[Member] = field(default_factory=list)
    libraries: list[Library] = field(default_factory=list)
    graphs: list[LinkGraph] = field(default_factory=list)

    def read(self, members: Sequence[Member], target: Architecture, *, everything: bool = False) -> LinkGraph:
        """Read objects of the pool into one link graph."""
        formats = {member.format for member in members}
        if len(formats) > 1:
            graphs = [
                self.read([member for member in members if member.format == format], target, everything=everything)
                for format in sorted(formats)
            ]
            return join(graphs)
        starts = np.array([member.start for member in members], np.int64)
        sizes = np.array([member.size for member in members], np.int64)
        batch = Batch(self.pool, [member.name for member in members], starts, sizes)
        return FORMATS[members[0].format].read(batch, target, everything=everything)

    def machine(self) -> str | None:
        """The architecture of the first object, or None where there is no object. Raises InputError."""
        first = self._first_object()
        if first is None:
            return None
        return self.format_of(first).machine_name(self.head_of(first), first.name)

    def format_of(self, member: Member) -> ObjectFormat:
        """The format of a member. Raises InputError for one that is no object."""
        head = self.head_of(member)
        format = format_of(head)
        if format is None:
            raise not_linkable(head, member)
        return format

    def head_of(self, member: Member) -> bytes:
        """The first bytes of a member, by which its format is told."""
        return self.pool[member.start : member.start + min(member.size, LONGEST_HEAD)].tobytes()

    def first_name(self) -> str | None:
        """The name of the first object."""
        first = self._first_object()
        return first.name if first else None

    def _first_object(self) -> Member | None:
        first = self.objects[:1] or [member for library in self.libraries for member in library.members[:1]]
        return first[0] if first else None


def collect(sources: Iterable[Source], *, whole_archive: bool = False, target: str | None = None) -> Inputs:
    """Read all sources into one pool and find out what they are.

    whole_archive: take all members of archives as objects. target: the machine whose part of universal files
    is taken, under any name that it has; None for that of this host, or what there is. Raises InputError,
    naming the source.
    """
    graphs = []
    contents: list[tuple[str, _Content]] = []
    for source in sources:
        if isinstance(source, LinkGraph):
            graphs.append(source)
        else:
            contents.append(_open(source, len(contents)))
    pool, members = _pooled(contents)
    inputs = Inputs(pool, graphs=graphs)
    sorter = _Sorter(inputs, whole_archive, _canonical(target))
    for (_, content), member in zip(contents, members, strict=True):
        sorter.sort(member, content.path)
    return inputs


def _canonical(machine: str | None) -> str | None:
    """The name of a machine as its architecture has it."""
    return None if machine is None else FILE_OF.get(machine.lower(), (machine,))[0]


@dataclass
class _Content:
    """Bytes, or a file that has them: size bytes in either case."""

    size: int
    data: bytes | memoryview | None = None
    path: str | None = None

    def copy_to(self, destination: memoryview, name: str) -> None:
        if self.data is not None:
            destination[:] = self.data
            return
        assert self.path is not None
        try:
            with open(self.path, "rb", buffering=0) as file:
                read = file.readinto(destination)
        except OSError as error:
            raise UnreadableInput(str(error.strerror), input=name) from error
        if read != self.size:
            raise UnreadableInput("it changed while it was read", input=name)


def _open(source: str | os.PathLike[str] | bytes | bytearray | memoryview, number: int) -> tuple[str, _Content]:
    """Find the name and the size of a source, and compile it if it is LLVM IR."""
    if isinstance(source, bytes | bytearray | memoryview):
        data = memoryview(source).cast("B")
        name = "(bytes)" if not number else f"(bytes {number + 1})"
        head = bytes(data[:TEXT_HEAD])
        return name, _Content(len(data), data) if not _is_ir(head) else _compiled(bytes(data), name)
    name = os.fspath(source)
    try:
        status = os.stat(name)
    except OSError as error:
        raise UnreadableInput(str(error.strerror), input=name) from error
    if stat.S_ISDIR(status.st_mode):
        raise UnsupportedInput("a directory; give the objects in it", input=name)
    if not stat.S_ISREG(status.st_mode):
        raise UnsupportedInput("not a regular file", input=name)
    if name.endswith((".ll", ".bc")):
        with open(name, "rb") as file:
            return name, _compiled(file.read(), name)
    return name, _Content(status.st_size, path=name)


def _is_ir(head: bytes) -> bool:
    return head.startswith(BITCODE) or IR_TEXT.match(head) is not None


def _compiled(ir: bytes, name: str) -> _Content:
    from jitlink.llvm import compile_ir

    machine_code = compile_ir(ir, name)
    return _Content(len(machine_code), machine_code)


def _pooled(contents: list[tuple[str, _Content]]) -> tuple[Buffer, list[Member]]:
    """Put contents into one new pool, one behind the other, with zeroes between them and at the end."""
    members, end = [], 0
    for name, content in contents:
        members.append(Member(name, end, content.size))
        end += -(-content.size // ALIGNMENT) * ALIGNMENT
    pool = np.empty(end + PADDING, np.uint8)
    view = pool.data
    for (name, content), member in zip(contents, members, strict=True):
        after = member.start + member.size
        content.copy_to(view[member.start : after], name)
        pool[after : after + ALIGNMENT] = 0
    # The null records are read from the end of the pool.
    pool[end:] = 0
    return pool, members


class _Sorter:
    """Sorts members into objects and libraries, by their content."""

    def __init__(self, inputs: Inputs, whole_archive: bool, machine: str | None) -> None:
        self.inputs = inputs
        self.whole_archive = whole_archive
        self.machine = machine
        self.named: set[str] = set()

    def sort(self, member: Member, path: str | None, depth: int = 0) -> None:
        """Take one member in. path: of the file that it is, None for bytes and for a part of a file."""
        pool = self.inputs.pool
        if is_archive(pool, member.start, member.size):
            self._open_archive(member, path, depth)
            return
        if is_universal(pool, member.start, member.size):
            self._open_universal(member, path, depth)
            return
        format = format_of(self.inputs.head_of(member))
        if format is not None:
            member.format = format.name
        else:
            beginning = pool[member.start : member.start + min(member.size, TEXT_HEAD)].tobytes()
            if is_linker_script(beginning):
                self._open_script(member, path, depth)
                return
            if not _is_ir(beginning):
                raise not_linkable(self.inputs.head_of(member), member)
            ir = pool[member.start : member.start + member.size].tobytes()
            [member] = self._add_to_pool([(member.name, _compiled(ir, member.name))])
        self.inputs.objects.append(member)

    def _open_universal(self, member: Member, path: str | None, depth: int) -> None:
        """Take the slice for the wanted machine in."""
        if depth == DEEPEST_NESTING:
            raise UnsupportedInput(f"files in files more than {DEEPEST_NESTING} deep", input=member.name)
        slices = read_universal(self.inputs.pool, member.start, member.size, member.name)
        found = wanted_slice(slices, self.machine, _canonical(platform.machine()), member.name)
        self.sort(Member(f"{member.name}({found.machine})", found.start, found.size), path, depth + 1)

    def _open_script(self, member: Member, path: str | None, depth: int) -> None:
        """Take the files in that a linker script names, each once."""
        if depth == DEEPEST_NESTING:
            raise UnsupportedInput(f"linker scripts nested more than {DEEPEST_NESTING} deep", input=member.name)
        text = self.inputs.pool[member.start : member.start + member.size].tobytes()
        files = read_linker_script(text, member.name)
        if path is None:
            hint = "Give it by its path, and not in an archive"
            raise UnsupportedInput("a linker script, which names files", input=member.name, hint=hint)
        found = [_find_named(file, os.path.dirname(path), member.name) for file in files]
        # Of two scripts that name each other, neither is read twice.
        fresh = {os.path.realpath(each): each for each in found if each is not None}
        paths = [each for resolved, each in fresh.items() if resolved not in self.named]
        self.named |= fresh.keys()
        for opened, each in zip(self._add_to_pool([_open(each, 0) for each in paths]), paths, strict=True):
            self.sort(opened, each, depth + 1)

    def _open_archive(self, member: Member, path: str | None, depth: int) -> None:
        """Take the members of an archive in, or the archive as a library."""
        if depth == DEEPEST_NESTING:
            raise UnsupportedInput(f"archives nested more than {DEEPEST_NESTING} deep", input=member.name)
        archive = read_archive(self.inputs.pool, member.start, member.size, member.name)
        if archive.thin and depth:
            # A thin archive could name itself, and be read for ever.
            raise UnsupportedInput("a thin archive inside an archive", input=member.name)
        if archive.thin:
            members = self._fetch(archive, path)
        else:
            starts, sizes = archive.starts.tolist(), archive.sizes.tolist()
            names = [f"{member.name}({name})" for name in archive.member_names]
            members = [Member(*row) for row in zip(names, starts, sizes, strict=True)]
        if self.whole_archive:
            self._take_all(members, depth)
            return
        self.inputs.libraries.append(Library(member.name, members, self.inputs, archive))
        for each in members:
            if is_archive(self.inputs.pool, each.start, each.size):
                self._open_archive(each, None, depth + 1)

    def _take_all(self, members: list[Member], depth: int) -> None:
        """Take all members as objects; one look tells whether all of them are."""
        starts = np.array([member.start for member in members], np.int64)
        sizes = np.array([member.size for member in members], np.int64)
        magic = load_records(self.inputs.pool, starts, np.dtype("<u4"))
        for format, (number, mask, least) in MAGIC_OF_FORMAT.items():
            if np.count_nonzero(((magic & mask) == number) & (sizes >= least)) == len(members):
                for each in members:
                    each.format = format
                self.inputs.objects += members
                return
        for each in members:
            self.sort(each, None, depth + 1)

    def _fetch(self, archive: Archive, path: str | None) -> list[Member]:
        """Read the members of a thin archive, whose names are paths relative to it, behind the pool."""
        if path is None:
            hint = "Give the archive by its path"
            raise UnsupportedInput("a thin archive, whose members are files beside it", input=archive.name, hint=hint)
        contents = []
        for name in archive.member_names:
            shown, content = _open(os.path.join(os.path.dirname(path), name), 0)
            contents.append((f"{archive.name}({shown})", content))
        return self._add_to_pool(contents)

    def _add_to_pool(self, contents: list[tuple[str, _Content]]) -> list[Member]:
        """Put contents behind what the pool has."""
        added, members = _pooled(contents)
        offset = len(self.inputs.pool)
        self.inputs.pool = np.concatenate((self.inputs.pool, added))
        return [Member(member.name, member.start + offset, member.size) for member in members]


def _find_named(file: NamedFile, directory: str, script: str) -> str | None:
    """Find a file that a linker script in a directory names; None for one that a process loads if it needs it.

    Names are looked for in that directory, then in the current one; -lNAME is libNAME.a. Raises UnreadableInput.
    """
    name = f"lib{file.name[2:]}.a" if file.name.startswith("-l") else file.name.removeprefix("=")
    if file.as_needed and SHARED_LIBRARY.search(name):
        return None
    beside = os.path.join(directory, name)
    found = next((each for each in (beside, name) if os.path.exists(each)), None)
    if found is None:
        raise UnreadableInput(f"names {escaped(file.name)}, and there is no such file", input=script)
    return found


def not_linkable(head: bytes, member: Member) -> MalformedInput | UnsupportedInput:
    """Make the error for something that is no object that we read. head: its first bytes."""
    if not member.size:
        return MalformedInput("the file is empty", input=member.name)
    for magic, sort in OTHER_FORMATS.items():
        if head.startswith(magic):
            return UnsupportedInput(f"{sort}; it is not linked", input=member.name)
    return MalformedInput("neither an object nor an archive nor LLVM IR", input=member.name)

"""Linking into an image: bytes at addresses of the caller's choosing, nothing mapped, for any machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jitlink.arches import FILE_OF, architecture, host_architecture
from jitlink.arches.architecture import Architecture
from jitlink.errors import LinkFailure, SymbolNotFound, UnsupportedInput
from jitlink.escaping import escaped
from jitlink.graph import LinkGraph
from jitlink.inputs import Inputs, Source, collect
from jitlink.joining import join
from jitlink.linker import Linked, Options, Trace, UserPass, link
from jitlink.passes.members import take_members
from jitlink.passes.needs import Needs
from jitlink.passes.thread_locals import ThreadBlock
from jitlink.passes.thread_storage import FixedStorage
from jitlink.protection import Protection
from jitlink.resolvers import Names

IMAGE_PAGE = 4096


@dataclass(frozen=True)
class ImageSegment:
    """A part of an image with one protection.

    Attributes: address, size (bytes, zero-fill included), content (bytes up to the zero-fill), protection.
    """

    address: int
    size: int
    content: bytes
    protection: Protection


class Image:
    """A finished link: bytes at addresses.

    Attributes: base (of the first segment), size (bytes), segments, graph (as the link left it),
    initialisers (addresses of the functions to call before all others), debug_sections (relocated, of
    each input by name, if the link was asked for them), thread_block (where thread-local variables lie from
    the thread pointer, and the initial values, whose address in the image their symbols have; or None).
    """

    def __init__(self, linked: Linked) -> None:
        self.base = linked.base
        self.size = linked.layout.size
        self.graph = linked.graph
        self.initialisers = linked.cycle.initialisers
        self.debug_sections = linked.debug_sections
        self.thread_block: ThreadBlock | None = linked.thread_block
        self._definitions = linked.definitions()
        image = linked.image
        self.segments = [
            ImageSegment(
                self.base + part.offset,
                part.size,
                image[part.offset : part.offset + part.filled].tobytes(),
                part.protection,
            )
            for part in linked.layout.segments
        ]

    def address_of(self, name: str) -> int:
        """The address of an exported symbol. Raises SymbolNotFound."""
        row = self._definitions.find(name.encode(errors="surrogateescape"), inside=True)
        if row is None:
            raise SymbolNotFound(name, "the image")
        return int(self._definitions.address[row])

    def symbols(self) -> dict[str, int]:
        """All exported names and their addresses."""
        definitions = self._definitions
        return {
            name.decode(errors="surrogateescape"): int(definitions.address[definitions.find(name) or 0])
            for name in definitions.exported_names()
        }

    def read(self, address: int, size: int) -> bytes:
        """Read bytes of one segment. Raises IndexError where the image has no such bytes."""
        for segment in self.segments:
            offset = address - segment.address
            if offset >= 0 and offset + size <= segment.size:
                return segment.content[offset : offset + size].ljust(size, b"\0")
        raise IndexError(f"the image has no {size} bytes at {address:#x}")

    def to_bytes(self) -> bytes:
        """The image from its base to the last byte with content, gaps between segments as zeroes."""
        end = max((segment.address + len(segment.content) for segment in self.segments), default=self.base)
        whole = bytearray(end - self.base)
        for segment in self.segments:
            start = segment.address - self.base
            whole[start : start + len(segment.content)] = segment.content
        return bytes(whole)

    def _repr_html_(self) -> str:
        from jitlink.graph.notebook import html_table

        rows = [
            (f"{part.address:#x}", f"{part.size:,}", f"{len(part.content):,}", part.protection.letters)
            for part in self.segments
        ]
        title = f"image at {self.base:#x}: {self.size:,} bytes"
        return html_table(title, ("address", "bytes", "with content", "protection"), rows)

    def __repr__(self) -> str:
        return f"<image at {self.base:#x}, {self.size:#x} bytes in {len(self.segments)} segments>"


class _FixedPlace:
    """The place that the caller has chosen."""

    page_size = IMAGE_PAGE

    def __init__(self, base: int) -> None:
        self.base = base

    def choose(self, needs: Needs) -> int:
        """The address that the caller gave."""
        if self.base % max(needs.alignment, IMAGE_PAGE):
            raise LinkFailure(
                f"the base address {self.base:#x} is not a multiple of {max(needs.alignment, IMAGE_PAGE)}"
            )
        if self.base + needs.size > 1 << 64:
            raise LinkFailure(f"an image of {needs.size:#x} bytes does not fit behind the base address {self.base:#x}")
        return self.base


class _GivenNames:
    """A world in which only the caller's names exist."""

    def __init__(self, define: Mapping[str, Any] | Callable[[str], Any]) -> None:
        self._names = Names(define)

    def address_of(self, name: str) -> int | None:
        """The address that the caller gave for a name."""
        return self._names.address_of(name)

    def own_address_of(self, name: str) -> int | None:
        """Nothing was linked before."""
        return None

    def hidden_address_of(self, name: str) -> int | None:
        """The caller's names are part of the image."""
        return self._names.address_of(name)

    def is_function(self, address: int) -> bool:
        """Nobody says what is at the caller's addresses; a stub in the place of data would be read as the data."""
        return False

    def datum(self, address: int) -> bytes | None:
        """Nobody knows what is at the caller's addresses."""
        return None


def link_image(
    *sources: Source,
    base: int,
    define: Mapping[str, Any] | Callable[[str], Any] | None = None,
    target: str | None = None,
    whole_archive: bool = False,
    dead_strip: bool | None = None,
    exports: Sequence[str] | None = None,
    debug: bool = False,
    relax: bool = True,
    passes: Mapping[str, Sequence[UserPass]] | None = None,
    trace: Trace | None = None,
) -> Image:
    """Link inputs into an image at a base address, with nothing mapped.

    base: a multiple of 4096. define: addresses of names that the inputs do not define, as a mapping or a
    callable. target: the machine, by default that of the first object. exports: the names to take
    archive members for, and to keep when dead_strip is set. debug: relocate the debug sections too; they
    are in Image.debug_sections. relax: rewrite GOT loads of what
    is near, and make code shorter where its compiler has marked it for that (RISC-V).
    Raises LinkError.
    """
    inputs = collect(sources, whole_archive=whole_archive, target=target)
    machine = target_of(inputs, target)
    graphs = list(inputs.graphs)
    if inputs.objects:
        graphs.append(inputs.read(inputs.objects, machine, everything=debug))
    if inputs.libraries:
        wanted = [name.encode(errors="surrogateescape") for name in exports or ()]
        graphs += take_members([inputs], graphs, wanted, set(), machine, everything=debug)
    if not graphs:
        raise LinkFailure("there is nothing to link: no object is given, and nothing asks for a member of the archives")
    options = Options(
        exports=exports,
        dead_strip=bool(inputs.libraries) if dead_strip is None else dead_strip,
        debug=debug,
        relax=relax,
        passes=passes or {},
        trace=trace,
    )
    # Thread-locals lie about the thread pointer as in a program that is linked statically.
    storage = FixedStorage(machine.thread_locals) if machine.thread_locals is not None else None
    linked = link(join(graphs), _GivenNames(define or {}), _FixedPlace(base), options, storage)
    if linked.resolver_slots:
        raise _unresolved(linked.graph)
    return Image(linked)


def _unresolved(graph: LinkGraph) -> LinkFailure:
    """Make the error for indirect functions, whose resolvers nobody can run in an image."""
    assert isinstance(graph.target, Architecture)
    edges = (graph.edges.kind == graph.target.kind_number(graph.target.resolver_pointer)).nonzero()[0]
    names = sorted({escaped(graph.edges[row].target.name) for row in edges.tolist()})
    several = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return LinkFailure(
        f"{names[0]}{several}: an indirect function (STT_GNU_IFUNC) chooses its code by running, and an image cannot "
        "run it"
    )


def target_of(inputs: Inputs, name: str | None) -> Architecture:
    """The machine of a link: by name, else that of the first input, else the host's.

    Raises UnsupportedInput for a machine that we do not link for.
    """
    if name is not None:
        try:
            return architecture(name)
        except KeyError:
            known = ", ".join(sorted(FILE_OF))
            raise UnsupportedInput(f"there is no target {name!r}", hint=f"There are {known}") from None
    machine = inputs.machine()
    if machine is not None:
        return architecture(machine)
    if inputs.graphs:
        target = inputs.graphs[0].target
        assert isinstance(target, Architecture)
        return target
    found = host_architecture()
    if found is None:
        raise UnsupportedInput("objects for this host are not linked", input=inputs.first_name())
    return found


def read(*sources: Source, target: str | None = None) -> LinkGraph:
    """Read inputs into one link graph, with nothing linked: all sections, symbols and relocations.

    Archives are read whole. Raises InputError.
    """
    inputs = collect(sources, whole_archive=True, target=target)
    machine = target_of(inputs, target)
    graphs = list(inputs.graphs)
    if inputs.objects:
        graphs.append(inputs.read(inputs.objects, machine, everything=True))
    if not graphs:
        return LinkGraph(machine)
    return graphs[0] if len(graphs) == 1 else join(graphs)

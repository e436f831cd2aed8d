"""`jitlink show`: what is in objects, archives and LLVM IR, as read or at a stage of a link."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from jitlink.cli import options
from jitlink.errors import LinkError
from jitlink.escaping import escaped_lines
from jitlink.graph import LinkGraph
from jitlink.inspect import Filter, Look, Paper, Snapshot, Watched, watch
from jitlink.inspect.listing import SORTS, listing
from jitlink.inspect.stages import DEFAULT_BASE, STAGES
from jitlink.inspect.tolerant import Fault, read_what_is_sound

PATTERN = "PATTERN"


@dataclass(frozen=True)
class Shown:
    """A graph to be shown: as it was read, or a stage of a watched link; and what could not be read."""

    graph: LinkGraph | None
    snapshot: Snapshot | None = None
    link: Watched | None = None
    faults: Sequence[Fault] = ()


@click.command("show")
@click.argument("inputs", nargs=-1, type=click.Path(), metavar="INPUT...")
@click.option("--target", metavar="MACHINE", help="The machine, by default that of the first object.")
@click.option("--section", "sections", multiple=True, metavar=PATTERN, help="Only sections of such names. Repeatable.")
@click.option("--symbol", "symbols", multiple=True, metavar=PATTERN, help="Only such symbols and their edges.")
@click.option("--kind", "kinds", multiple=True, metavar=PATTERN, help="Only edges of such relocation kinds.")
@click.option("--input", "only_inputs", multiple=True, metavar=PATTERN, help="Only such inputs or archive members.")
@click.option("--undefined", is_flag=True, help="Only symbols that are not defined, and what refers to them.")
@click.option("--sort", type=click.Choice(SORTS), default="input", help="The order of sections and symbols.")
@click.option("-d", "--disassemble", is_flag=True, help="Show code as instructions, with relocations beside them.")
@click.option(
    "--sources/--no-sources", default=True, help="Source lines beside instructions, as far as there is DWARF."
)
@click.option("-C", "--demangle", is_flag=True, help="Make names of C++ readable.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON (schema: jitlink/inspect/schema.json).")
@click.option("--dot", "as_dot", is_flag=True, help="Write a drawing for Graphviz.")
@click.option("--html", "page", type=click.Path(), metavar="PATH", help="Write a page for a browser.")
@click.option("--stage", type=click.Choice([*STAGES]), help="Link, and show the graph as it is at a stage.")
@click.option("--diff", nargs=2, metavar="STAGE STAGE", help="What changes between two stages, or between two inputs.")
@options.define
@options.whole_archive
@click.option("--base", callback=options.read_address, default=hex(DEFAULT_BASE), help="The address of a link.")
@click.option("--dead-strip/--keep-all", default=None, help="Whether a link drops what no export needs.")
@click.option("--export", "exports", multiple=True, metavar="NAME", help="What a link is for. Repeatable.")
@click.pass_context
def command(context: click.Context, /, inputs: tuple[str, ...], diff: tuple[str, str] | None, **given: Any) -> None:
    """List the sections, symbols and edges of objects, archives and LLVM IR.

    With a stage, the inputs are linked at --base and shown as they are then; nothing is mapped. What cannot
    be read is named, and the rest is shown; the exit code is then 1.
    """
    request = _Request(inputs, given)
    if diff is not None:
        faults = request.show_difference(*diff)
    elif not inputs:
        raise click.UsageError("Missing argument 'INPUT...'.")
    elif given["page"]:
        faults = request.write_page(given["page"])
    else:
        faults = request.show()
    for fault in faults:
        click.echo(f"jitlink: {escaped_lines(fault.error)}", err=True)
    if faults:
        context.exit(1)


class _Request:
    """What the command line asks for."""

    def __init__(self, inputs: Sequence[str], given: dict[str, Any]) -> None:
        self.inputs = inputs
        self.given = given
        self.filter = Filter(
            given["only_inputs"], given["sections"], given["symbols"], given["kinds"], given["undefined"]
        )

    def show(self) -> Sequence[Fault]:
        """Show the inputs as JSON, as a drawing, or as a listing."""
        shown = self._linked(self.given["stage"]) if self.given["stage"] else self._read(self.inputs)
        if self.given["as_json"]:
            _write(self._json(shown))
        elif shown.graph is not None:
            options.print_lines(self._dot(shown.graph) if self.given["as_dot"] else self._listing(shown))
        return shown.faults

    def _read(self, inputs: Sequence[str]) -> Shown:
        found = read_what_is_sound(*inputs, target=self.given["target"])
        return Shown(found.graph, faults=found.faults)

    def _watch(self) -> Watched:
        return watch(
            *self.inputs,
            base=self.given["base"],
            define=self.given["define"],
            target=self.given["target"],
            whole_archive=self.given["whole_archive"],
            dead_strip=self.given["dead_strip"],
            exports=self.given["exports"] or None,
            debug=True,
        )

    def _linked(self, stage: str) -> Shown:
        link = self._watch()
        snapshot = link.snapshot(stage)
        faults = [Fault("", str(link.error))] if link.error is not None else []
        return Shown(snapshot.graph, snapshot, link, faults)

    def _listing(self, shown: Shown) -> Iterator[str]:
        assert shown.graph is not None
        look = Look(
            filter=self.filter,
            sort=self.given["sort"],
            demangle=self._demangler(),
            disassemble=self.given["disassemble"],
            sources=self.given["sources"],
        )
        paper = options.paper_for_standard_output()
        yield from listing(shown.graph, paper, look, shown.snapshot)
        if shown.link is not None and shown.link.placeholders:
            yield from ("", paper.aside("defined by nobody, at addresses that are made up"))
            yield from paper.table([(f"{address:#x}", name) for name, address in shown.link.placeholders.items()])

    def _demangler(self) -> Any:
        return options.demangler() if self.given["demangle"] else None

    def _dot(self, graph: LinkGraph) -> Iterator[str]:
        from jitlink.inspect.dot import dot_lines
        from jitlink.inspect.selection import select

        return dot_lines(graph, select(graph, self.filter))

    def _json(self, shown: Shown) -> Iterator[str]:
        from jitlink.inspect.json_view import json_pieces
        from jitlink.inspect.selection import select

        if shown.graph is None:
            raise LinkError("\n".join(fault.error for fault in shown.faults))
        return json_pieces(
            shown.graph,
            snapshot=shown.snapshot,
            placeholders=list(shown.link.placeholders) if shown.link else (),
            faults=[(fault.input, fault.error) for fault in shown.faults],
            keep=select(shown.graph, self.filter),
        )

    def show_difference(self, before: str, after: str) -> Sequence[Fault]:
        """Show what changes between two stages of a link of the inputs, or between two inputs."""
        paper = options.paper_for_standard_output()
        if before in STAGES and after in STAGES:
            return self._show_stages(before, after, paper)
        if self.inputs:
            raise click.UsageError("--diff takes two stages and inputs, or two inputs and nothing else")
        from jitlink.inspect.object_differences import object_difference

        old, new = self._read([before]), self._read([after])
        if old.graph is not None and new.graph is not None:
            options.print_lines(object_difference(old.graph, new.graph, paper, demangle=self._demangler()))
        return [*old.faults, *new.faults]

    def _show_stages(self, before: str, after: str, paper: Paper) -> Sequence[Fault]:
        from jitlink.inspect.differences import stage_difference

        if not self.inputs:
            raise click.UsageError("Missing argument 'INPUT...'.")
        link = self._watch()
        lines = stage_difference(
            link.snapshot(before),
            link.snapshot(after),
            paper,
            exports=self.given["exports"] or None,
            demangle=self._demangler(),
        )
        options.print_lines(lines)
        return [Fault("", str(link.error))] if link.error is not None else []

    def write_page(self, path: str) -> Sequence[Fault]:
        """Write the page for a browser."""
        from jitlink.inspect.page import write_report

        link = self._watch()
        write_report(path, link, exports=self.given["exports"] or None)
        return [Fault("", str(link.error))] if link.error is not None else []


def _write(pieces: Iterable[str]) -> None:
    """Write text that is ASCII alone, in pieces of any size."""
    for piece in pieces:
        sys.stdout.write(piece)
    sys.stdout.flush()

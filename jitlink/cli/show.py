"""`jitlink show`: what is in objects, archives and LLVM IR, with nothing linked."""

from __future__ import annotations

import click

import jitlink
from jitlink.cli import options
from jitlink.inspect.listing import listing


@click.command("show")
@options.inputs
@click.option("--target", metavar="MACHINE", help="The machine, by default that of the first object of each input.")
def command(inputs: tuple[str, ...], target: str | None) -> None:
    """List the sections, symbols and edges of objects, archives and LLVM IR."""
    paper = options.paper_for_standard_output()
    for number, name in enumerate(inputs):
        # Each by itself: they need not be for one machine.
        graph = jitlink.read(name, target=target)
        if number:
            options.print_lines([""])
        options.print_lines(listing(graph, paper))

"""`jitlink link`: link into an image at an address, with nothing mapped."""

from __future__ import annotations

from typing import BinaryIO, TextIO

import click

import jitlink
from jitlink.cli import options
from jitlink.inspect.link_map import link_map
from jitlink.inspect.progress import Progress


@click.command("link")
@options.inputs
@click.option(
    "--base", required=True, callback=options.read_address, metavar="ADDRESS", help="Of the image's first byte."
)
@options.define
@click.option("--export", "exports", multiple=True, metavar="NAME", help="Take archive members for it. Repeatable.")
@options.whole_archive
@options.relax
@click.option("--target", metavar="MACHINE", help="The machine, by default that of the first object.")
@click.option(
    "-o",
    "--output",
    type=click.File("wb", lazy=True),
    metavar="FILE",
    help="Write the bytes of the image; - for stdout.",
)
@click.option("--map", "map_wanted", is_flag=True, help="Print a link map; also printed where there is no -o.")
@click.option(
    "--map-file", type=click.File("w", "utf-8", lazy=True), metavar="FILE", help="Write the link map to a file."
)
def command(
    inputs: tuple[str, ...],
    base: int,
    define: dict[str, int],
    exports: tuple[str, ...],
    whole_archive: bool,
    relax: bool,
    target: str | None,
    output: BinaryIO | None,
    map_wanted: bool,
    map_file: TextIO | None,
) -> None:
    """Link objects, archives and LLVM IR into an image at a base address.

    The image is raw: its first byte belongs at the base address, and gaps between segments are zeroes.
    Zero-fill behind the last byte with content is not written.
    """
    with Progress() as trace:
        image = jitlink.link(
            *inputs,
            base=base,
            define=define,
            target=target,
            whole_archive=whole_archive,
            relax=relax,
            exports=exports or None,
            trace=trace,
        )
    if output is not None:
        output.write(image.to_bytes())
    if map_file is not None:
        map_file.writelines(f"{line}\n" for line in link_map(image))
    if map_wanted or (output is None and map_file is None):
        options.print_lines(link_map(image, options.paper_for_standard_output()))

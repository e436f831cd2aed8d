"""`jitlink bpf assemble`: text in either syntax to the bytes of a program."""

from __future__ import annotations

from typing import BinaryIO

import click

from jitlink.bpf import assemble
from jitlink.cli.bpf import options
from jitlink.cli.options import print_lines

SLOT = 8


@click.command("assemble")
@click.argument("source", type=click.Path(), metavar="FILE")
@click.option("-o", "--output", type=click.File("wb", lazy=True), metavar="FILE", help="Write the bytes; - for stdout.")
@click.option("--big-endian", is_flag=True, help="Encode for big-endian machines.")
def command(source: str, output: BinaryIO | None, big_endian: bool) -> None:
    """Assemble a program, in the syntax of LLVM or of uBPF; - reads standard input.

    Without -o the instructions are printed in hexadecimal, a slot of eight bytes a line.
    """
    text = options.read_file(source).decode(errors="replace")
    code = assemble(text, byteorder="big" if big_endian else "little")
    if output is not None:
        output.write(code)
        return
    print_lines(code[at : at + SLOT].hex(" ") for at in range(0, len(code), SLOT))

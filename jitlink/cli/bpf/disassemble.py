"""`jitlink bpf disassemble`: the functions of objects, or bytes of code, as assembly."""

from __future__ import annotations

import click

from jitlink import bpf
from jitlink.bpf.listing import function_listings
from jitlink.bpf.loader import is_code
from jitlink.bpf.syntax import Syntax
from jitlink.cli.bpf import options
from jitlink.cli.options import print_lines
from jitlink.escaping import escaped_lines


@click.command("disassemble")
@options.inputs
@click.option("--hex", "as_hex", is_flag=True, help="The input is not a file but bytes of code in hexadecimal.")
@click.option("--syntax", type=click.Choice(["llvm", "mnemonic"]), default="llvm", show_default=True)
@options.big_endian
def command(inputs: tuple[str, ...], as_hex: bool, syntax: Syntax, big_endian: bool) -> None:
    """Write BPF code as assembly, with relocations and source lines as comments. Nothing is loaded."""
    for name in inputs:
        source = options.read_hex(name) if as_hex else options.source_of(name, big_endian=big_endian)
        if is_code(source):
            assert isinstance(source, bytes | bytearray | memoryview)
            text = bpf.disassemble(bytes(source), syntax, byteorder="big" if big_endian else "little")
            print_lines(text.splitlines())
        else:
            for listing in function_listings(bpf.link(source), syntax):
                print_lines(escaped_lines(listing).splitlines())

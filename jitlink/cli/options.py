"""What the commands have in common: addresses and definitions as arguments, and where text goes."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable

import click

from jitlink.inspect.text import Paper

HIGHEST_ADDRESS = (1 << 64) - 1


def read_address(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Read a number from 0 to 2**64 - 1, in decimal or with the prefix 0x, 0o or 0b."""
    try:
        number = int(value, 0)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number; write it as 4096 or 0x1000") from None
    if not 0 <= number <= HIGHEST_ADDRESS:
        raise click.BadParameter(f"{value!r} is not an address of 64 bits")
    return number


def read_definitions(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    """Read pairs of the form NAME=ADDRESS."""
    definitions = {}
    for value in values:
        name, _, address = value.rpartition("=")
        if not name:
            raise click.BadParameter(f"{value!r} is not of the form NAME=ADDRESS")
        definitions[name] = read_address(context, parameter, address)
    return definitions


inputs = click.argument("inputs", nargs=-1, required=True, type=click.Path(), metavar="INPUT...")
define = click.option(
    "--define", multiple=True, callback=read_definitions, metavar="NAME=ADDRESS", help="Define a symbol. Repeatable."
)
whole_archive = click.option(
    "--whole-archive", is_flag=True, help="Take all members of archives, and not only those that are needed."
)
relax = click.option(
    "--relax/--no-relax",
    default=True,
    help="Rewrite loads of what is near, and shorten code that is marked for it (RISC-V).",
)


def paper_for_standard_output() -> Paper:
    """The terminal's width and colours, or neither where standard output is none."""
    if not sys.stdout.isatty():
        return Paper()
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return Paper(width=shutil.get_terminal_size().columns, colour=not plain)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of any characters, also where the encoding of standard output lacks some."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def demangler() -> Callable[[str], str]:
    """What makes names of C++ readable. Raises UsageError where the machine has no C++ library."""
    from jitlink.calls.demangling import Demangler
    from jitlink.resolvers import process

    return Demangler(process().address_of).demangle

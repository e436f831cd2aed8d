"""What the BPF commands have in common: where programs come from, and what they are given."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from jitlink import UnreadableInput, UsageError
from jitlink.bpf import BpfObject, Program, assemble, load_object
from jitlink.inputs import Source

ASSEMBLY = (".s", ".S", ".asm")
OBJECTS = (b"\x7fELF", b"!<arch>\n", b"!<thin>\n")
Command = TypeVar("Command", bound=Callable[..., Any])

inputs = click.argument("inputs", nargs=-1, required=True, type=click.Path(), metavar="INPUT...")
program = click.option("--program", metavar="NAME", help="The program, where there are several.")
big_endian = click.option("--big-endian", is_flag=True, help="Code without an object around it is big-endian.")


def loading(command: Command) -> Command:
    """Add the options that say how programs are loaded."""
    options = (
        click.option("--btf", type=click.Path(), metavar="FILE", help="Types of the kernel to run on, for CO-RE."),
        click.option(
            "--kconfig", multiple=True, callback=read_settings, metavar="NAME=VALUE", help="A setting. Repeatable."
        ),
        click.option(
            "--ksym",
            "ksyms",
            multiple=True,
            callback=read_settings,
            metavar="NAME=ADDRESS",
            help="The address of a kernel variable. Repeatable.",
        ),
        click.option(
            "--context", type=click.Choice(["xdp", "skb", "flat"]), help="Run on this instead of what the section says."
        ),
        big_endian,
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_settings(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int | str]:
    """Read pairs of the form NAME=VALUE; a value that is a number in Python's notation is one."""
    settings: dict[str, int | str] = {}
    for pair in values:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not of the form NAME=VALUE")
        try:
            settings[name] = int(value, 0)
        except ValueError:
            settings[name] = value
    return settings


def read_hex(text: str) -> bytes:
    """Read bytes in hexadecimal, with or without spaces. Raises UsageError."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{text[:40]!r} is not bytes in hexadecimal") from None


def read_file(path: str) -> bytes:
    """Read a file, or standard input for "-". Raises UnreadableInput."""
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableInput(str(error.strerror), input=path) from error


def source_of(path: str, *, big_endian: bool = False) -> Source:
    """Find out what a file is: an object or archive, assembly by its suffix, else code without an object."""
    content = read_file(path)
    if content.startswith(OBJECTS):
        return content if path == "-" else path
    if path.endswith(ASSEMBLY):
        return assemble(content.decode(errors="replace"), byteorder="big" if big_endian else "little")
    return content


def load_inputs(inputs: Sequence[str], *, btf: str | None, big_endian: bool, **loading: Any) -> BpfObject:
    """Load the inputs of a command."""
    sources = [source_of(path, big_endian=big_endian) for path in inputs]
    return load_object(*sources, target_btf=btf, byteorder="big" if big_endian else "little", **loading)


def chosen(loaded: BpfObject, name: str | None) -> Program:
    """The program of a name, or the only one. Raises UsageError."""
    if name is None:
        return loaded.only_program()
    try:
        return loaded[name]
    except KeyError:
        raise UsageError(f"there is no program {name!r}; there are {', '.join(loaded) or 'none'}") from None

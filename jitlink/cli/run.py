"""`jitlink run`: link a program into this process, and call its main."""

from __future__ import annotations

import os
from functools import partial

import click

import jitlink
from jitlink.cli import options
from jitlink.cli.libraries import find_library
from jitlink.cli.program import run_main
from jitlink.graph import Definition, Scope

ARGUMENTS = "jitlink.arguments"


class ProgramCommand(click.Command):
    """A command whose arguments after -- belong to the program that it runs."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Set aside what follows the first --."""
        own, arguments = args, []
        if "--" in args:
            at = args.index("--")
            own, arguments = args[:at], args[at + 1 :]
        context.meta[ARGUMENTS] = arguments
        return super().parse_args(context, own)

    def collect_usage_pieces(self, context: click.Context) -> list[str]:
        """The usage line, with the part that click does not know."""
        return [*super().collect_usage_pieces(context), "[-- ARGUMENT...]"]


@click.command("run", cls=ProgramCommand)
@options.inputs
@click.option("-l", "libraries", multiple=True, metavar="NAME", help="Link against libNAME. Repeatable.")
@click.option("-L", "directories", multiple=True, metavar="DIRECTORY", help="Look for -l there first. Repeatable.")
@click.option("--entry", default="main", show_default=True, metavar="NAME", help="The function that is called.")
@options.define
@options.whole_archive
@options.relax
@click.option(
    "--copy-data",
    multiple=True,
    metavar="NAME",
    help="Copy a variable of a library into the program, for code that reaches for it with 32 bits. Repeatable.",
)
@click.pass_context
def command(
    context: click.Context,
    inputs: tuple[str, ...],
    libraries: tuple[str, ...],
    directories: tuple[str, ...],
    entry: str,
    define: dict[str, int],
    whole_archive: bool,
    relax: bool,
    copy_data: tuple[str, ...],
) -> None:
    """Link objects, archives and LLVM IR into this process and call main.

    The exit code is what main returns. What follows -- are the arguments of the program.
    """
    found = [find_library(name, directories) for name in libraries]
    shared = [jitlink.shared_library(path) for path, is_archive in found if not is_archive]
    archives = [path for path, is_archive in found if is_archive]
    # The session is never closed: the process ends with the program, see jitlink.cli.program.
    dylib = jitlink.Session().dylib(entry)
    dylib.link_against(define, *shared, jitlink.process())
    # Looked for inside of the link: after it, initialisers of the program would have run.
    check = {"pre_prune": [partial(require, entry)]}
    dylib.add(*inputs, exports=[entry], whole_archive=whole_archive, copy_data=copy_data, relax=relax, passes=check)
    if archives:
        dylib.add(*archives)
    dylib.link()
    # Not by dylib[entry]: with -fvisibility=hidden, main is hidden as well.
    address = dylib.own_address_of(entry)
    if address is None:
        raise no_entry(entry)
    run_main(address, [inputs[0], *context.meta[ARGUMENTS]], dylib.finalise)


def require(entry: str, graph: jitlink.LinkGraph) -> None:
    """Raise LinkFailure where no input defines the entry for others."""
    symbols = graph.symbols
    rows = ((symbols.definition == Definition.DEFINED) & (symbols.scope != Scope.LOCAL)).nonzero()[0]
    if os.fsencode(entry) not in graph.names_at(symbols.name[rows]):
        raise no_entry(entry)


def no_entry(entry: str) -> jitlink.LinkFailure:
    """Make the error for a program without the function to call."""
    return jitlink.LinkFailure(
        f"no input defines {entry}. Name another function with --entry, or add the input that defines it"
    )

"""The command line: `jitlink run`, `link`, `check`, `show`, `explain`, `bpf`, `bench`, `demo`, over the public API.

Each command is a module of its name here, imported when it is asked for. Exit codes: 0 for success, 1
for input that cannot be read or linked and for rules that do not hold, with the message on standard
error, 2 for bad usage; `run` exits with what the program returned.
"""

from __future__ import annotations

from importlib import import_module

import click

from jitlink import LinkError, __version__
from jitlink.escaping import escaped_lines

COMMANDS = ("run", "link", "check", "show", "explain", "bpf", "bench", "demo")


class Commands(click.Group):
    """A group that imports its commands when they are asked for, and turns link errors into messages."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names of the commands, in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"jitlink.cli.{name}").command
        return command

    def invoke(self, context: click.Context) -> object:
        """Run a command. A LinkError becomes a message and exit code 1; a bug of ours keeps its traceback."""
        try:
            return super().invoke(context)
        except LinkError as error:
            # An error quotes names of the input, which may hold terminal escapes.
            click.echo(f"jitlink: {escaped_lines(str(error))}", err=True)
            context.exit(1)


@click.group(cls=Commands)
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Link relocatable objects, archives and LLVM IR: into this process, or into an image."""

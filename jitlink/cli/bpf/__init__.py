"""The command line for BPF: `jitlink bpf run`, `verify`, `assemble`, `disassemble`, `show` and `plugin`.

Exit codes are those of the other commands; a program that breaks a rule while it runs, and one that the
verifier refuses, make it 1.
"""

from __future__ import annotations

from importlib import import_module

import click

from jitlink.escaping import escaped_lines

COMMANDS = ("run", "verify", "assemble", "disassemble", "show", "plugin")


class BpfCommands(click.Group):
    """The group: its commands are imported when they are asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names of the commands, in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"jitlink.cli.bpf.{name}").command
        return command

    def invoke(self, context: click.Context) -> object:
        """Run a command; a fault of a BPF program becomes a message and exit code 1."""
        from jitlink.bpf import BpfFault

        try:
            return super().invoke(context)
        except BpfFault as fault:
            click.echo(f"jitlink: {escaped_lines(str(fault))}", err=True)
            context.exit(1)


@click.group("bpf", cls=BpfCommands)
def command() -> None:
    """Link, load, verify and run BPF programs, without a kernel."""

"""`jitlink bpf plugin`: a plugin of the public bpf_conformance runner.

The runner starts `<plugin> [<memory>] [<options>] [--elf]` for each of its tests and writes the program to
standard input: bytes of code, or of an object with --elf, in hexadecimal. Memory is hexadecimal too; the
program finds its address in r1 and its length in r2. The answer is r0 in hexadecimal on standard output,
or a message on standard error and an exit code other than 0.

The runner starts one file, so the plugin is also a program of its own, jitlink-bpf-plugin.

Source: README.md of the bpf_conformance project, "bpf_conformance_runner plugins".
"""

from __future__ import annotations

import sys

import click

from jitlink import LinkError, UsageError
from jitlink.bpf import BpfFault, load
from jitlink.cli.bpf import options
from jitlink.escaping import escaped_lines


class PluginCommand(click.Command):
    """A command with the runner's arguments: all of its options in one, which may be empty."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Leave MEMORY as it is, take the options apart, drop what is empty."""
        memory = args[:1] if args and not args[0].startswith("-") else []
        rest = args[len(memory) :]
        words = [word for each in rest for word in (each.split() if each.startswith("-") else [each])]
        return super().parse_args(context, [*memory, *(word for word in words if word)])


@click.command("plugin", cls=PluginCommand)
@click.argument("memory", default="", metavar="[MEMORY]")
@click.option("--program", "program_hex", metavar="HEX", help="The program, instead of standard input.")
@click.option("--elf", is_flag=True, help="The program is an ELF object.")
@click.option("--interpret", "tier", flag_value="interpreter", default="interpreter", help="Use the interpreter.")
@click.option("--jit", "tier", flag_value="jit", help="Use native code.")
def command(memory: str, program_hex: str | None, elf: bool, tier: str) -> None:
    """Answer one test of the bpf_conformance runner: run a program on MEMORY, print r0."""
    text = sys.stdin.read() if program_hex is None else program_hex
    code, data = options.read_hex(text), options.read_hex(memory)
    if elf and not code.startswith(b"\x7fELF"):
        raise UsageError("the program is no ELF object")
    # What only the kernel refuses, such as code that cannot be reached, is what some tests are about.
    program = load(code, tier=tier, kernel_rules=False, context="flat")
    click.echo(f"{program.run(data).r0:x}")


def main() -> None:
    """Run the plugin as a program of its own."""
    try:
        command.main(prog_name="jitlink-bpf-plugin")
    except (LinkError, BpfFault) as error:
        click.echo(escaped_lines(str(error)), err=True)
        sys.exit(1)

"""`jitlink bpf verify`: check programs and print every fault with its source line."""

from __future__ import annotations

from typing import Any

import click

from jitlink.bpf import BpfObject, Report
from jitlink.cli.bpf import options
from jitlink.cli.options import print_lines
from jitlink.escaping import escaped_lines


@click.command("verify")
@options.inputs
@options.program
@click.option(
    "--kernel-rules/--no-kernel-rules",
    default=True,
    help="Whether what only the Linux kernel refuses is a fault or a warning.",
)
@options.loading
def command(inputs: tuple[str, ...], program: str | None, kernel_rules: bool, **loading: Any) -> None:
    """Check BPF programs, all of the inputs or one. The exit code is 1 if any may not run.

    What the kernel would define, and nobody has given, is taken to be there.
    """
    loaded = options.load_inputs(inputs, verify=False, assume_externs=True, **loading)
    names = [program] if program is not None else list(loaded)
    reports = [_report(loaded, name, kernel_rules) for name in names]
    for report in reports:
        print_lines(escaped_lines(str(report)).splitlines())
    if not all(report.ok for report in reports):
        click.get_current_context().exit(1)


def _report(loaded: BpfObject, name: str, kernel_rules: bool) -> Report:
    return options.chosen(loaded, name).verify(kernel_rules=kernel_rules)

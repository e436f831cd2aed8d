"""`jitlink check`: LLVM's jitlink-check rules, over an image that we have linked."""

from __future__ import annotations

import click

from jitlink.check import check
from jitlink.check.rules import DEFAULT_NAME
from jitlink.check.run import DEFAULT_BASE
from jitlink.cli import options
from jitlink.escaping import escaped_lines


@click.command("check")
@options.inputs
@click.option(
    "--rules", multiple=True, required=True, type=click.Path(), metavar="FILE", help="Where the rules are. Repeatable."
)
@click.option(
    "--base",
    "--slab-address",
    default=hex(DEFAULT_BASE),
    show_default=True,
    callback=options.read_address,
    metavar="ADDRESS",
    help="Of the image's first byte.",
)
@click.option(
    "--define",
    "--abs",
    multiple=True,
    callback=options.read_definitions,
    metavar="NAME=ADDRESS",
    help="Define a symbol. Repeatable.",
)
@click.option(
    "--check-name",
    "--prefix",
    "name",
    default=DEFAULT_NAME,
    show_default=True,
    help="What comments with rules begin with.",
)
@click.option("--target", metavar="MACHINE", help="The machine, by default that of the first object.")
@click.option(
    "--relax/--no-relax", default=None, help="Make code shorter where possible; by default as llvm-jitlink does."
)
@click.pass_context
def command(
    context: click.Context,
    inputs: tuple[str, ...],
    rules: tuple[str, ...],
    base: int,
    define: dict[str, int],
    name: str,
    target: str | None,
    relax: bool | None,
) -> None:
    """Link objects into an image, and check rules in it.

    A rule is a comment such as `# jitlink-check: decode_operand(site, 0) = target - next_pc(site)`. Those that
    do not hold are printed with both values; the exit code is 1 then.
    """
    failed = 0
    for file in rules:
        report = check(*inputs, rules=file, base=base, define=define, name=name, target=target, relax=relax)
        for failure in report.failures:
            click.echo(f"{escaped_lines(f'{file}: {failure}')}", err=True)
        failed += len(report.failures)
        click.echo(escaped_lines(f"{file}: {report.rules - len(report.failures)} of {report.rules} rules hold"))
    if failed:
        context.exit(1)

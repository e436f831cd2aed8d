"""`jitlink explain`: answers about a link: why, who, reloc, preflight, size. Nothing is mapped and nothing runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from jitlink.cli import options
from jitlink.inspect.stages import DEFAULT_BASE, Watched, watch

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group("explain")
def command() -> None:
    """Answer questions about a link of the given inputs, with nothing mapped."""


def _link_options(function: Command) -> Command:
    """The options that say what is linked, and how answers look."""
    added = (
        click.option("--target", metavar="MACHINE", help="The machine, by default that of the first object."),
        click.option(
            "--base", callback=options.read_address, default=hex(DEFAULT_BASE), help="The address of the link."
        ),
        click.option("--export", "exports", multiple=True, metavar="NAME", help="What the link is for. Repeatable."),
        click.option(
            "--dead-strip/--keep-all", default=None, help="Drop what no export needs; by default for archives."
        ),
        click.option("-C", "--demangle", is_flag=True, help="Make names of C++ readable."),
        click.option("--json", "as_json", is_flag=True, help="Write the answer as JSON."),
        options.define,
        options.whole_archive,
    )
    for option in reversed(added):
        function = option(function)
    return function


@command.command("why")
@click.argument("symbol")
@options.inputs
@_link_options
def why_command(symbol: str, inputs: tuple[str, ...], **given: Any) -> None:
    """Show the references that keep SYMBOL in the link, or that ask for it where nobody defines it."""
    from jitlink.inspect.explain import why

    _print(why(_linked(inputs, given), symbol, given["exports"] or None, demangle=_demangler(given)), given)


@command.command("who")
@click.argument("symbol")
@options.inputs
@_link_options
def who_command(symbol: str, inputs: tuple[str, ...], **given: Any) -> None:
    """Show everything that refers to SYMBOL."""
    from jitlink.inspect.explain import who

    _print(who(_linked(inputs, given), symbol, demangle=_demangler(given)), given)


@command.command("reloc")
@click.argument("input")
@click.argument("place", metavar="SECTION+OFFSET")
@click.argument("inputs", nargs=-1, type=click.Path(), metavar="[INPUT...]")
@_link_options
def reloc_command(input: str, place: str, inputs: tuple[str, ...], **given: Any) -> None:
    """Show what the relocation at SECTION+OFFSET of INPUT computes, with the numbers of this link.

    INPUT is a file, or a member of an archive among the further inputs, as ARCHIVE(MEMBER).
    """
    from jitlink.inspect.explain import relocation_at

    linked = inputs if any(input == each or input.startswith(f"{each}(") for each in inputs) else (input, *inputs)
    link = _linked(linked, given)
    found = relocation_at(link, input, place, demangle=_demangler(given))
    if given["as_json"]:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
        return
    for each in found:
        options.print_lines(each.lines(options.paper_for_standard_output()))


@command.command("preflight")
@options.inputs
@click.option("--search/--no-search", default=True, help="Look for undefined names in this process and in libraries.")
@_link_options
@click.pass_context
def preflight_command(context: click.Context, /, inputs: tuple[str, ...], search: bool, **given: Any) -> None:
    """Show what is unusual or may fail, before anything runs. Exits with 1 if the link cannot work."""
    from jitlink.inspect.explain import preflight

    answer = preflight(_linked(inputs, given), demangle=_demangler(given), search=search)
    _print(answer, given)
    if any(finding.weight == "problem" for finding in answer.findings):
        context.exit(1)


@command.command("size")
@options.inputs
@click.option("--html", "page", type=click.Path(), metavar="PATH", help="Draw the sizes as a treemap.")
@_link_options
def size_command(inputs: tuple[str, ...], page: str | None, **given: Any) -> None:
    """Show what each input, section and symbol adds to the image."""
    from jitlink.inspect.explain import size_of, treemap

    sizes = size_of(_linked(inputs, given), demangle=_demangler(given))
    if page:
        Path(page).write_text(treemap(sizes), encoding="utf-8", errors="backslashreplace")
    else:
        _print(sizes, given)


def _linked(inputs: tuple[str, ...], given: dict[str, Any]) -> Watched:
    return watch(
        *inputs,
        base=given["base"],
        define=given["define"],
        target=given["target"],
        whole_archive=given["whole_archive"],
        dead_strip=given["dead_strip"],
        exports=given["exports"] or None,
    )


def _demangler(given: dict[str, Any]) -> Any:
    return options.demangler() if given["demangle"] else None


def _print(answer: Any, given: dict[str, Any]) -> None:
    """Print an answer as text or as JSON."""
    if given["as_json"]:
        click.echo(json.dumps(dataclasses.asdict(answer), indent=2))
    else:
        options.print_lines(answer.lines(options.paper_for_standard_output()))

"""Running rules: link the inputs into an image, and evaluate all rules in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from jitlink.check.entries import add_entries
from jitlink.check.evaluation import parts_of, value_of
from jitlink.check.grammar import EntryAddress, Expression, RuleError, parse_rule
from jitlink.check.places import STUB, Places
from jitlink.check.report import Failure, Report
from jitlink.check.rules import DEFAULT_NAME, Rule, find_rules
from jitlink.errors import MalformedInput, UnreadableInput
from jitlink.graph import LinkGraph
from jitlink.image import link_image, target_of
from jitlink.inputs import Source, collect

DEFAULT_BASE = 0x1_0000_0000
KEEPS_LOADS = ("aarch64",)
"""Machines on which LLVM's JIT linker leaves loads of GOT entries as they are."""


def check(
    *sources: Source,
    rules: str | os.PathLike[str],
    base: int = DEFAULT_BASE,
    define: Mapping[str, int] | None = None,
    name: str = DEFAULT_NAME,
    target: str | None = None,
    relax: bool | None = None,
) -> Report:
    """Link inputs into an image at a base address, and check the rules of a file in it.

    sources: paths, bytes or link graphs of objects; archives are taken whole. define: addresses of names
    that the inputs do not define. name: what the rules' comments begin with. relax: whether code is made
    shorter where that is possible; by default as LLVM's JIT linker does on the machine. Returns what failed.
    Raises LinkError where the inputs cannot be linked or there is no rule.
    """
    text = _text_of(rules)
    found = list(find_rules(text, name))
    if not found:
        raise MalformedInput(f"no line begins with '# {name}:'", input=os.fspath(rules))
    parsed = {rule: _parsed(rule) for rule in found}
    wanted = [
        part
        for sides in parsed.values()
        if not isinstance(sides, RuleError)
        for side in sides
        for part in parts_of(side)
        if isinstance(part, EntryAddress)
    ]
    define = define or {}
    if relax is None:
        relax = target_of(collect(sources, whole_archive=True), target).name not in KEEPS_LOADS
    image = link_image(
        *sources,
        base=base,
        define=define,
        target=target,
        whole_archive=True,
        relax=relax,
        passes={"post_prune": [partial(_add_wanted, wanted)]},
    )
    places = Places(image, define)
    failures = (_failure(rule, sides, places) for rule, sides in parsed.items())
    return Report(len(found), tuple(failure for failure in failures if failure is not None))


def _text_of(rules: str | os.PathLike[str]) -> str:
    try:
        return Path(rules).read_text(errors="surrogateescape")
    except OSError as error:
        raise UnreadableInput(str(error.strerror), input=os.fspath(rules)) from error


def _parsed(rule: Rule) -> tuple[Expression, Expression] | RuleError:
    try:
        return parse_rule(rule.text)
    except RuleError as error:
        return error


def _add_wanted(wanted: list[EntryAddress], graph: LinkGraph) -> None:
    """Make the GOT entries and stubs that rules speak of. An argument that is no symbol's name is passed over."""
    slots = [name for part in wanted if part.function != STUB for name in part.arguments]
    stubs = [name for part in wanted if part.function == STUB for name in part.arguments]
    add_entries(graph, slots, stubs)


def _failure(rule: Rule, sides: tuple[Expression, Expression] | RuleError, places: Places) -> Failure | None:
    """Evaluate a rule; None if it holds."""
    if isinstance(sides, RuleError):
        return Failure(rule, reason=str(sides))
    try:
        left, right = (value_of(side, places) for side in sides)
    except RuleError as error:
        return Failure(rule, reason=str(error))
    return None if left == right else Failure(rule, left, right)

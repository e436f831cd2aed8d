"""Progress: shown where somebody looks and only for links that take long."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

import jitlink
from jitlink.inspect.progress import STEPS, Progress
from tests.inspect.objects import sample


def shown(*, terminal: bool, seconds: float, delay: float = 0.05) -> str:
    """What a console gets of a link that takes some time."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=80)
    with Progress(console, delay=delay) as trace:
        trace("resolve", 0.1)
        time.sleep(seconds)
        trace("prune", 0.1)
    return output.getvalue()


def test_a_long_link_has_a_bar_in_a_terminal():
    """It says what the link is doing."""
    assert "prune" in shown(terminal=True, seconds=0.5)


@pytest.mark.parametrize(("terminal", "seconds", "delay"), [(False, 0.2, 0.05), (True, 0.0, 30.0)])
def test_pipes_and_short_links_see_nothing(terminal, seconds, delay):
    """Not a byte."""
    assert shown(terminal=terminal, seconds=seconds, delay=delay) == ""


def test_the_steps_are_those_of_the_linker():
    """A link traces these steps, in this order; others may lie between."""
    traced: list[str] = []
    jitlink.link(
        sample("x86_64-linux"), base=0x10000, define=lambda name: 0x20000, trace=lambda step, _: traced.append(step)
    )
    assert [step for step in traced if step in STEPS] == list(STEPS)


def test_a_failed_link_ends_its_bar():
    """The error comes through, and no thread goes on."""
    with pytest.raises(jitlink.LinkError), Progress(Console(file=io.StringIO(), force_terminal=True), delay=0.0):
        jitlink.link(sample("x86_64-linux"), base=0x10000)

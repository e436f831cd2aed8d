"""`jitlink demo`: what the project does, in a few seconds, with nothing but Python packages.

No compiler is needed: the inputs are built by hand, or by LLVM through llvmlite. Every answer is
checked against one that was found in another way; a wrong one makes the exit code 1.
"""

from __future__ import annotations

import inspect
import textwrap
import time
from collections.abc import Callable, Iterable

import click
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

import jitlink
from jitlink.cli import demo_steps as steps

LINES_OF_GRAPH = 24
LONGEST_BAR = 32
ATTEMPTS = 3


@click.command("demo")
def command() -> None:
    """Show what the project does, in a few seconds and without a compiler."""
    _Demo(Console(highlight=False)).show()


class _Demo:
    """The steps in order, each with its source, its result and a check."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.number = 0

    def show(self) -> None:
        """Show all steps. Raises LinkFailure for a wrong answer."""
        start = time.perf_counter()
        self.six_bytes()
        self.llvm_ir()
        self.graph()
        self.image()
        self.many_functions()
        self.console.rule()
        self.say(f"All answers are right. The demo took {time.perf_counter() - start:.1f} s.", "bold")
        self.say("Next: jitlink --help, the examples/ directory, docs/guide.md.")

    def six_bytes(self) -> None:
        """Bytes to a function."""
        self.introduce(steps.six_bytes)
        self.check("answer()", steps.six_bytes(), 48)

    def llvm_ir(self) -> None:
        """LLVM IR to a function, against the same loop in Python."""
        self.introduce(steps.llvm_ir)
        count, seconds, reported = steps.llvm_ir()
        start = time.perf_counter()
        expected = steps.count_primes(steps.LIMIT)
        in_python = time.perf_counter() - start
        self.check(f"count_primes({steps.LIMIT:,})", count, expected)
        self.check("what Python was told by the linked code", reported, [(steps.LIMIT, expected)])
        self.bars("the same loop", [("linked code", seconds), ("Python", in_python)])

    def graph(self) -> None:
        """The listing of an object."""
        self.introduce(steps.graph_of_ir)
        self.lines(steps.graph_of_ir())

    def image(self) -> None:
        """The map of an image."""
        self.introduce(steps.image_at_base)
        self.lines(steps.image_at_base())

    def many_functions(self) -> None:
        """The time of a larger link, beside LLVM's."""
        self.introduce(steps.many_functions)
        machine_code = steps.generated_object()
        relocations = len(jitlink.read(machine_code).edges) - 1
        self.say(f"The object has {len(machine_code):,} bytes and {relocations:,} relocations.")
        results = [steps.many_functions(machine_code) for _ in range(ATTEMPTS)]
        self.check(f"f{steps.FUNCTIONS - 1}(1)", results[0][0], steps.generated_result(1))
        ours = min(seconds for _, seconds in results)
        llvm = min(steps.link_by_llvm(machine_code) for _ in range(ATTEMPTS))
        self.bars(
            f"the same object, best of {ATTEMPTS} links each",
            [("jitlink", ours), ("LLVM's JITLink, by llvmlite", llvm)],
        )

    def introduce(self, step: Callable[..., object]) -> None:
        """Print what a step is about, and its source."""
        self.number += 1
        self.console.rule(f"[bold]{self.number}", align="left")
        documentation, _, body = inspect.getsource(step).partition('"""\n')
        self.say(documentation.rpartition('"""')[2] or inspect.getdoc(step) or "", "bold")
        code = textwrap.dedent(body)
        self.console.print(Syntax(code, "python", theme="ansi_dark", background_color="default", word_wrap=True))

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        self.console.print(Text(text, style=style))

    def lines(self, lines: Iterable[str]) -> None:
        """Print the first lines of a listing, each cut at the width of the terminal."""
        shown = list(lines)
        for line in shown[:LINES_OF_GRAPH]:
            self.console.print(Text(f"  {line}" if line else ""), no_wrap=True, overflow="ellipsis", crop=True)
        if len(shown) > LINES_OF_GRAPH:
            self.say(f"  and {len(shown) - LINES_OF_GRAPH} more lines", "dim")

    def check(self, what: str, found: object, expected: object) -> None:
        """Print an answer. Raises LinkFailure if it is wrong."""
        if found != expected:
            raise jitlink.LinkFailure(f"the demo went wrong: {what} is {found}, and should be {expected}")
        self.console.print(Text.assemble(f"{what} = ", (str(found), "bold green")))

    def bars(self, what: str, times: list[tuple[str, float]]) -> None:
        """Print times as bars to one scale, and the ratio of the two."""
        longest = max(seconds for _, seconds in times)
        for name, seconds in times:
            bar = "█" * max(1, round(LONGEST_BAR * seconds / longest))
            self.console.print(Text.assemble(f"{name:>28}  ", (bar, "cyan"), f" {1000 * seconds:.1f} ms"))
        (_, first), (_, second) = times
        self.say(f"{what}: {second / first:.0f} times as fast", "bold")

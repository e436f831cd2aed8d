"""Progress of links that take long: a bar in a terminal or a notebook, nothing in a pipe.

    with Progress() as trace:
        dylib.add("a-thousand-members.a", whole_archive=True, trace=trace).link()

The bar appears when a link has taken half a second; most links are over by then and never show one.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any

DELAY = 0.5
"""Seconds before the bar appears."""
STEPS = ("resolve", "prune", "externals", "got and stubs", "layout", "content", "fixups")
"""What jitlink.linker traces, in order."""


class Progress:
    """Shows how far a link is; as a context, it gives what Dylib.add takes as trace.

    console: a rich.console.Console, by default standard error. Nothing is shown where that is neither a
    terminal nor a notebook.
    """

    def __init__(self, console: Any = None, *, delay: float = DELAY) -> None:
        self._console = console
        self._delay = delay
        self._done: list[str] = []
        self._bar: Any = None
        self._task: Any = None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __call__(self, step: str, seconds: float) -> None:
        """Take note of a step that is done."""
        with self._lock:
            self._done.append(step)
            self._update()

    def __enter__(self) -> Progress:
        if self._console is None and not (sys.stderr.isatty() or "IPython" in sys.modules):
            # Nobody looks, and rich need not be loaded to find that out.
            return self
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        if self._console.is_terminal or self._console.is_jupyter:
            self._timer = threading.Timer(self._delay, self._appear)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            self._timer = None

    def _appear(self) -> None:
        """Show the bar, with what was done until now."""
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        with self._lock:
            if self._timer is None:
                return
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("reading", total=len(STEPS) + 1)
            self._bar.start()
            self._update()

    def _update(self) -> None:
        if self._bar is None:
            return
        position = max((STEPS.index(step) + 1 for step in self._done if step in STEPS), default=0)
        doing = STEPS[position] if position < len(STEPS) else "finishing"
        self._bar.update(self._task, completed=position + 1, description=doing if self._done else "reading")

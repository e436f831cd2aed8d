"""Letting Python in while emulated code runs.

While the CPU runs, Python waits inside of unicorn, and the signal handlers of the main thread wait with it:
Ctrl-C would do nothing until the code returns. So a thread of our own stops the CPU every now and then. It
goes on at once where it stopped, unless a handler has raised something in between.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

INTERVAL = 0.1
"""Seconds for which the CPU may run before Python has a turn."""


class Interruption:
    """Stops a CPU that runs for long. Attributes: happened (the CPU was stopped, and is to go on)."""

    def __init__(self, engine: Any) -> None:
        self.happened = False
        self._engine = weakref.ref(engine)
        self._running = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        # A session that nobody closes is collected some day, and its thread must not wait for ever.
        weakref.finalize(engine, self.close)

    def begin(self) -> None:
        """The CPU is about to run."""
        self.happened = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="jitlink emulator", daemon=True)
            self._thread.start()
        self._running.set()

    def end(self) -> None:
        """The CPU has stopped."""
        self._running.clear()

    def close(self) -> None:
        """Let the thread end."""
        self._closed = True
        self._running.set()

    def _watch(self) -> None:
        pause = threading.Event()
        while True:
            self._running.wait()
            if self._closed:
                return
            pause.wait(INTERVAL)
            engine = self._engine()
            if engine is None:
                return
            if self._running.is_set() and not self._closed:
                self.happened = True
                engine.emu_stop()
            del engine

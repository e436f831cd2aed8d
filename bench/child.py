"""The other end of worker.py: starting a worker, asking it to link, and telling how it ended."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
TIME_LIMIT = 60.0
"""Seconds after which one link of a rival is given up."""


class Failed(Exception):
    """A linker did not do the work; the text says how it ended."""


class Child:
    """A running worker process. It ends when it fails, when it takes too long, or when told to."""

    def __init__(self, contender: str) -> None:
        """Start a worker and wait until its contender is imported. Raises Failed."""
        self._open = ExitStack()
        # Closed with the rest in close().
        self._complaints = self._open.enter_context(tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115
        command = [sys.executable, str(WORKER), contender]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._complaints, text=True)
        self._open.callback(self._process.communicate)
        self._open.callback(self._process.kill)
        self.memory_at_start = int(self._answer()["peak"])

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the answer. Raises Failed; the worker has ended then."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the worker."""
        self._open.close()

    def _answer(self) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe is not None
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            ready = selector.select(TIME_LIMIT)
        if not ready:
            self.close()
            raise too_slow()
        line = pipe.readline()
        if not line:
            code = self._process.wait()
            self._complaints.seek(0)
            complaints = self._complaints.read()
            self.close()
            raise Failed(how_it_ended(code, complaints))
        answer: dict[str, Any] = json.loads(line)
        return answer


def too_slow() -> Failed:
    """The failure of a linker that was stopped."""
    return Failed(f"not done after {TIME_LIMIT:.0f} s")


def how_it_ended(code: int, complaints: str) -> str:
    """Put the end of a program that failed into one line."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    telling = [line for line in lines if "Assertion" in line or "rror" in line] or lines or ["no message"]
    # Before the assertion stands the whole signature of a C++ function.
    message = telling[-1][max(telling[-1].find("Assertion"), 0) :]
    ending = f"ended by signal {-code}" if code < 0 else "failed"
    return f"{ending}: {message[:200]}"

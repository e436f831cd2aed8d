"""The linkers that are compared, each behind the same face: link this work now, and say how long it took.

- jitlink, LLJIT with JITLink through llvmlite, and apache-tvm-ffi-orcjit link inside a warm worker
  process of their own (worker.py); measured there, without starting a process or importing.
- llvm-jitlink is a program; the time is the one it reports itself (-show-times) for linking, the
  phase in which it adds the files left out, and nothing is executed (-noexec).
- ld, ld.lld and mold write a shared library, which the worker then opens; the time is that of both.

Whatever goes wrong with a rival (it crashes, it refuses the input, it takes too long) is its result.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any

from child import TIME_LIMIT, Child, Failed, how_it_ended, too_slow
from inputs import Work

LINK_PHASE = re.compile(r"([\d.]+) \(\s*[\d.]+%\)\s+time to link object files")
"""The last column of llvm-jitlink's table of times is wall time, in seconds."""


LAUNCHER = """
import os, sys
_, status, used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""
"""A program that runs another and prints its peak memory, in KiB, as the last line."""


class Runner(ABC):
    """One linker at one piece of work."""

    def __init__(self, label: str, work: Work) -> None:
        self.label = label
        self.work = work
        self.driver = work.drivers[0]

    def warm_up(self) -> float:
        """Link with each driver and stay with the faster one; give its seconds. Raises Failed.

        Twice with each, since what comes first pays for files that nobody has read yet.
        """
        seconds: dict[str, float] = {}
        for driver in self.work.drivers * 2:
            self.driver = driver
            try:
                seconds[driver] = self.sample(1)[0]
            except Failed as failed:
                failure = failed
        if not seconds:
            raise failure
        self.driver = min(seconds, key=seconds.__getitem__)
        return seconds[self.driver]

    @abstractmethod
    def sample(self, repetitions: int) -> list[float]:
        """Link that many times; give the seconds of each. Raises Failed."""

    @abstractmethod
    def peak(self) -> int:
        """Give the peak memory, in bytes, of a process that links once. Raises Failed."""

    def close(self) -> None:
        """End what was started."""
        return


class LlvmJitlink(Runner):
    """The program llvm-jitlink."""

    def __init__(self, program: str, label: str, work: Work) -> None:
        super().__init__(label, work)
        self._program = program

    def _command(self, driver: str) -> list[str]:
        flags = ["-noexec", "-show-times", f"-entry={self.work.entry}"]
        return [self._program, *flags, *self.work.stand_ins, *self.work.files(driver)]

    def sample(self, repetitions: int) -> list[float]:
        return [self._link() for _ in range(repetitions)]

    def _link(self) -> float:
        try:
            done = subprocess.run(
                self._command(self.driver), capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT
            )
        except subprocess.TimeoutExpired:
            raise too_slow() from None
        phase = LINK_PHASE.search(done.stdout + done.stderr)
        # An error of one object does not keep it from printing times: those are no times of a link.
        if done.returncode or phase is None or "error:" in done.stderr:
            raise Failed(how_it_ended(done.returncode, done.stderr))
        return float(phase[1])

    def peak(self) -> int:
        return min(self._peak(driver) for driver in self.work.drivers)

    def _peak(self, driver: str) -> int:
        # The kernel starts a program's ru_maxrss from the process that started it. A small Python
        # without this benchmark's memory stands between, so that only its few megabytes count.
        command = [sys.executable, "-S", "-I", "-c", LAUNCHER, *self._command(driver)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
        if done.returncode or "error:" in done.stderr:
            raise Failed(how_it_ended(done.returncode, done.stderr))
        return int(done.stdout.split()[-1]) * 1024


class Worker(Runner):
    """A linker that works inside a process of its own, which stays warm between samples."""

    def __init__(self, contender: str, label: str, work: Work) -> None:
        super().__init__(label, work)
        self._contender = contender
        self._child: Child | None = None
        self.memory_at_start = 0

    def sample(self, repetitions: int) -> list[float]:
        return [float(seconds) for seconds in self._ask(repetitions)["seconds"]]

    def peak(self) -> int:
        self.close()
        peak = int(self._ask(1)["peak"])
        self.close()
        return peak

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _ask(self, repetitions: int) -> dict[str, Any]:
        if self._child is None:
            self._child = Child(self._contender)
            self.memory_at_start = self._child.memory_at_start
        try:
            return self._child.ask({"work": asdict(self.work), "driver": self.driver, "repetitions": repetitions})
        except Failed:
            self.close()
            raise


def jitlink_runner(work: Work, label: str = "jitlink") -> Worker:
    """This project at a piece of work."""
    return Worker("jitlink", label, work)


def image_runner(work: Work, label: str = "jitlink, as an image") -> Worker:
    """This project at a piece of work for any machine, which is linked and not mapped."""
    return Worker("image", label, work)


def llvm_jitlinks() -> dict[str, str]:
    """Find every llvm-jitlink: program by label, a program of two names once."""
    names = ["llvm-jitlink", *(f"llvm-jitlink-{version}" for version in range(13, 40))]
    return _programs(names, r"LLVM version ([\d.]+)", "llvm-jitlink")


def static_linkers() -> dict[str, str]:
    """Find ld, every ld.lld, and mold: program by label."""
    lld = ["ld.lld", *(f"ld.lld-{version}" for version in range(13, 40))]
    return {
        **_programs(["ld.bfd", "ld"], r"\) ([\d.]+)", "ld"),
        **_programs(lld, r"LLD ([\d.]+)", "ld.lld"),
        **_programs(["mold"], r"mold ([\d.]+)", "mold"),
    }


def packages() -> dict[str, str]:
    """Find the rivals that are Python packages: contender of the worker by label."""
    found = {}
    for package, contender, what in (
        ("llvmlite", "llvmlite", "LLJIT (llvmlite {})"),
        ("apache-tvm-ffi-orcjit", "orcjit", "tvm-ffi-orcjit {}"),
    ):
        try:
            found[what.format(importlib.metadata.version(package))] = contender
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def all_rivals(work: Work) -> list[Runner]:
    """Every rival that this machine has, at a piece of work."""
    return [
        *(LlvmJitlink(program, label, work) for label, program in llvm_jitlinks().items()),
        *(Worker(contender, label, work) for label, contender in packages().items()),
        *(Worker(f"shared:{program}", f"{label} + dlopen", work) for label, program in static_linkers().items()),
    ]


def _programs(names: list[str], version: str, label: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        path = shutil.which(name)
        if path is None:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        number = re.search(version, said)
        found.setdefault(f"{label} {number[1]}" if number else name, path)
    return found

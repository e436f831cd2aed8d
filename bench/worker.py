"""A process that links in itself, again and again, as one contender, and says how long each took.

Every linker that works inside a process gets a process of its own. So a crash of one ends only its
own row, a linker that does not finish can be stopped, the first link in a fresh process is there to
be measured, and so is the peak memory of one link.

    worker.py CONTENDER < requests > answers

A request is a line of JSON: a Work (see inputs.py), one of its drivers, and a number of
repetitions; the answer is a line with the seconds of each repetition and the peak resident memory of
the process so far. The first line, sent before any request, is the answer to none: the contender is
imported, the memory is what that took.

What is timed is the way from files to code that is ready to be called: reading the files,
resolving, laying out, mapping, fixing up, protecting, and the address of the entry. The session
(LLJIT, ExecutionSession) exists already; unloading is not timed.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from drivers import DRIVER, load_process_libraries
from inputs import Work

IMAGE_BASE = 1 << 30
Link = Callable[[Work, str], Callable[[], object]]
"""Links a work, with one of its drivers, and returns what unloads it again."""


def jitlink_contender(argument: str) -> Link:
    """This project."""
    import jitlink

    session = jitlink.Session()
    numbers = itertools.count()

    def link(work: Work, driver: str) -> Callable[[], object]:
        dylib = session.dylib(f"bench{next(numbers)}")
        dylib.add(work.given, whole_archive=True, dead_strip=False)
        dylib.link()
        if work.entry != DRIVER:
            _ = dylib[work.entry].address
        return dylib.close

    return link


def image_contender(argument: str) -> Link:
    """This project, for code of another machine: bytes at an address, with nothing mapped."""
    import jitlink

    def link(work: Work, driver: str) -> Callable[[], object]:
        image = jitlink.link(
            work.given, base=IMAGE_BASE, define=lambda name: IMAGE_BASE // 2, whole_archive=True, dead_strip=False
        )
        _ = image.address_of(work.entry)
        return lambda: None

    return link


def llvmlite_contender(argument: str) -> Link:
    """LLJIT with JITLink as llvmlite offers it."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    jit = llvm.create_lljit_compiler(use_jit_link=True)
    numbers = itertools.count()

    def link(work: Work, driver: str) -> Callable[[], object]:
        builder = llvm.JITLibraryBuilder().add_current_process()
        # No stand-ins: LLJIT defines atexit itself.
        for path in work.files(driver):
            builder.add_object_file(path)
        tracker = builder.export_symbol(work.entry).link(jit, f"bench{next(numbers)}")
        _ = tracker[work.entry]
        return tracker.close  # type: ignore[no-any-return]

    return link


def orcjit_contender(argument: str) -> Link:
    """The package apache-tvm-ffi-orcjit; it can only look up the driver."""
    import tvm_ffi_orcjit

    session = tvm_ffi_orcjit.ExecutionSession()

    def link(work: Work, driver: str) -> Callable[[], object]:
        module = session.load_module([driver, *work.stand_ins, *work.objects])
        module.get_function(DRIVER)
        # The module is unloaded when the last reference goes, and that is the one held here.
        return [module].clear

    return link


def shared_contender(linker: str) -> Link:
    """A static linker that writes a shared library, which is then opened."""
    folder = tempfile.TemporaryDirectory(prefix="jitlink-bench-")
    numbers = itertools.count()

    def link(work: Work, driver: str) -> Callable[[], object]:
        # A new name each time: the C library gives back a library of the same name that is still open.
        path = Path(folder.name, f"{next(numbers)}.so")
        inputs = [*work.stand_ins, "--whole-archive", work.given, "--no-whole-archive"]
        # -Bsymbolic binds calls inside the library directly, as a JIT linker does.
        command = [linker, "-shared", "-Bsymbolic", "-o", str(path), *inputs]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        opened = ctypes.CDLL(str(path))
        if work.entry != DRIVER:
            _ = opened[work.entry]
        return path.unlink

    return link


CONTENDERS = {
    "jitlink": jitlink_contender,
    "image": image_contender,
    "llvmlite": llvmlite_contender,
    "orcjit": orcjit_contender,
    "shared": shared_contender,
}


def peak_memory() -> int:
    """Give the peak resident memory of this process, in bytes.

    VmHWM is of this address space alone; ru_maxrss starts from that of the process that started us.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def timed(link: Link, work: Work, driver: str) -> float:
    """Link once and unload again; give the seconds that linking took."""
    start = perf_counter()
    unload = link(work, driver)
    seconds = perf_counter() - start
    unload()
    return seconds


def main() -> None:
    """Serve requests until standard input ends."""
    # What a library prints goes to standard error; the answers have standard output to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    load_process_libraries()
    contender, _, argument = sys.argv[1].partition(":")
    link = CONTENDERS[contender](argument)
    answer(seconds=[], peak=peak_memory())
    for line in sys.stdin:
        request = json.loads(line)
        work = Work(**request["work"])
        seconds = [timed(link, work, request["driver"]) for _ in range(request["repetitions"])]
        answer(seconds=seconds, peak=peak_memory())


if __name__ == "__main__":
    main()

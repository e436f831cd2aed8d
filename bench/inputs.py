"""What the benchmark links: static libraries of this machine, and programs made for the purpose.

A piece of work is the same for every linker, but not every linker takes it in the same form: some
are given an archive as it is, some its members as object files and a driver that asks for them
all (drivers.py). Everything made here is kept in bench/.cache and made once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from drivers import DRIVER, WAYS, driver_source, driver_sources

from jitlink.formats.archive import read_archive

CACHE = Path(__file__).parent / ".cache"
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib")


class NotAvailable(Exception):
    """This machine lacks what a row needs; the text says what."""


@dataclass(frozen=True)
class Work:
    """One thing to link, in every form that a linker may want.

    given: the archive or object, as a user has it. objects: the same as object files. drivers: objects
    of which each, by another way, makes a lazy linker link all of objects. stand_ins: objects that
    define what no shared library exports. entry: the symbol that is looked up; DRIVER where there is
    more than one object to link, so that a driver is needed.
    """

    name: str
    given: str
    objects: tuple[str, ...]
    drivers: tuple[str, ...]
    stand_ins: tuple[str, ...]
    entry: str

    def files(self, driver: str) -> list[str]:
        """The object files that have to be given for a lookup of the entry to link everything."""
        return [driver, *self.objects] if self.entry == DRIVER else list(self.objects)


def library(name: str) -> Path:
    """Find a static library in the usual folders. Raises NotAvailable."""
    for folder in LIBRARY_FOLDERS:
        path = Path(folder, name)
        if path.exists():
            return path
    raise NotAvailable(f"{name} is not installed")


def whole_library(name: str) -> Work:
    """All members of a static library. Raises NotAvailable."""
    archive = library(name)
    objects = extracted(archive)
    folder = objects[0].parent
    drivers = tuple(str(folder / f"{way}.o") for way in WAYS)
    stand_ins = folder / "stand-ins.o"
    if not stand_ins.exists():
        for way, source in driver_sources(objects).items():
            assemble(source, folder / f"{way}.o")
    return Work(f"all of {name}", str(archive), tuple(map(str, objects)), drivers, (str(stand_ins),), DRIVER)


def member(name: str, member_name: str, entry: str) -> Work:
    """One member of a static library, of which the symbol entry is looked up. Raises NotAvailable."""
    objects = [path for path in extracted(library(name)) if path.name.endswith(f"-{member_name}")]
    if not objects:
        raise NotAvailable(f"{name} has no member {member_name}")
    return one_object(f"{member_name} of {name}", objects[0], entry)


def functions(count: int, *, own_sections: bool) -> Work:
    """One object of count functions and count data, each in its own section or all together.

    Raises NotAvailable where there is no C compiler.
    """
    compiler = find_compiler()
    kind = "own-sections" if own_sections else "together"
    target = CACHE / f"functions-{count}-{kind}-{Path(compiler[-1]).name}.o"
    if not target.exists():
        print(f"compiling {count:,} functions ({kind}), once ...", file=sys.stderr, flush=True)
        source = target.with_suffix(".c")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(c_source(count))
        flags = ["-O1", "-fno-inline", "-fPIC", "-fno-sanitize=all"]
        split = ["-ffunction-sections", "-fdata-sections"] if own_sections else []
        run_compiler([*compiler, *flags, *split], source, target)
    where = "in sections of their own" if own_sections else "in one section"
    return one_object(f"{count:,} functions and data {where}", target, "function_0")


def one_object(name: str, path: Path, entry: str) -> Work:
    """A single object file, all of which is linked when its symbol entry is looked up."""
    driver = CACHE / f"driver-{path.stem}.o"
    if not driver.exists():
        assemble(driver_source([entry]), driver)
    return Work(name, str(path), (str(path),), (str(driver),), (), entry)


def c_source(count: int) -> str:
    """C source of functions that call two earlier ones and touch two data each."""
    lines = ["unsigned datum_0 = 1;", "unsigned function_0(unsigned x) { return x + datum_0; }"]
    for i in range(1, count):
        near, far = i // 2, (i * 2654435761 >> 7) % i
        lines.append(
            f"unsigned datum_{i} = {i + 1};"
            f" unsigned function_{i}(unsigned x) {{ datum_{i} += x;"
            f" return x & 1 ? function_{near}(x >> 1) + datum_{far} : x ^ function_{far}(x + 1); }}"
        )
    return "\n".join(lines) + "\n"


def extracted(archive: Path) -> list[Path]:
    """Write the members of an archive to files, numbered, since names may repeat."""
    state = archive.stat()
    folder = CACHE / f"{archive.stem}-{state.st_size}-{state.st_mtime_ns}"
    if not folder.exists():
        content = np.fromfile(archive, np.uint8)
        members = read_archive(content, 0, len(content), archive.name)
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        rows = zip(members.member_names, members.starts.tolist(), members.sizes.tolist(), strict=True)
        for number, (name, start, size) in enumerate(rows):
            (unfinished / f"{number:04}-{Path(name).name}").write_bytes(content[start : start + size].tobytes())
        unfinished.rename(folder)
    return sorted(path for path in folder.iterdir() if path.name[:4].isdigit())


def find_compiler() -> list[str]:
    """Find a C compiler: clang, gcc, or the one in the package ziglang. Raises NotAvailable."""
    for name in ("clang", "gcc"):
        path = shutil.which(name)
        if path:
            return [path]
    try:
        import ziglang  # noqa: F401
    except ImportError:
        raise NotAvailable("no C compiler: neither clang nor gcc nor the package ziglang is installed") from None
    return [sys.executable, "-m", "ziglang", "cc"]


def compiler_version() -> str:
    """Say which compiler makes the inputs."""
    try:
        command = find_compiler()
    except NotAvailable:
        return "none"
    return subprocess.run([*command, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


def assemble(source: str, target: Path) -> None:
    """Assemble text to an object file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_suffix(".s")
    path.write_text(source)
    run_compiler(find_compiler(), path, target)


def run_compiler(command: list[str], source: Path, target: Path) -> None:
    """Compile one file; the object appears only when it is complete."""
    unfinished = target.with_suffix(".unfinished.o")
    subprocess.run([*command, "-c", str(source), "-o", str(unfinished)], check=True)
    unfinished.rename(target)

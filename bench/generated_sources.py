"""C sources made for the benchmark, compiled by ziglang for any system: the same library in every object format.

A library is a few hundred small files that call each other, as a real one does: functions with loops and
switches, floating point, tables of pointers, strings, constructors of none. What is measured is the linker,
so that the files differ in nothing but their numbers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from inputs import CACHE, NotAvailable, Work

FILES = 300
FUNCTIONS = 12
"""In each file."""
FLAGS = ("-O2", "-g0", "-fPIC", "-fno-sanitize=all", "-fno-stack-protector", "-fno-jump-tables", "-std=c11")
"""Without jump tables, whose every entry is a relocation in ELF and none in Mach-O: what is compared is the
time for a relocation of much the same sort in each format."""


def library(target: str, files: int = FILES) -> Work:
    """The library for a target as zig names it, such as "x86_64-macos". Raises NotAvailable.

    All of its members are linked; it refers to nothing outside but memcpy and memset.
    """
    try:
        import ziglang  # noqa: F401
    except ImportError:
        raise NotAvailable("the package ziglang is not installed") from None
    archive = CACHE / f"generated-{files}-{target}" / "library.a"
    if not archive.exists():
        print(f"compiling {files} files for {target}, once ...", file=sys.stderr, flush=True)
        _build(archive, target, files)
    return Work(f"{files} files for {target}", str(archive), (str(archive),), (str(archive),), (), "function_0_0")


def _build(archive: Path, target: str, files: int) -> None:
    """Compile all files and put them into an archive, which appears only when it is complete."""
    folder = archive.parent
    folder.mkdir(parents=True, exist_ok=True)
    zig = (sys.executable, "-m", "ziglang")
    names = [f"file{number}" for number in range(files)]
    for number, name in enumerate(names):
        (folder / f"{name}.c").write_text(c_source(number, files))
        command = (*zig, "cc", "-target", target, *FLAGS, "-c", f"{name}.c", "-o", f"{name}.o")
        subprocess.run(command, cwd=folder, check=True)
    # An archive of Mach-O objects has the form that Apple's ar writes.
    form = "darwin" if target.endswith("macos") else "coff" if "windows" in target else "gnu"
    subprocess.run(
        (*zig, "ar", f"--format={form}", "rcs", "unfinished.a", *(f"{name}.o" for name in names)),
        cwd=folder,
        check=True,
    )
    (folder / "unfinished.a").rename(archive)


def c_source(number: int, files: int) -> str:
    """The source of one file: its functions call each other and those of two other files."""
    near, far = (number + 1) % files, number * 7919 % files
    names = ", ".join(f'"name {number} {i}"' for i in range(8))
    lines = [
        "#include <stddef.h>",
        f"extern long shared_{near}; extern double values_{far}[16]; long shared_{number} = {number};",
        f"double values_{number}[16] = {{ 1.5, {number}.25, 3.125 }};",
        f"static const char *const names_{number}[] = {{ {names} }};",
        f"static int state_{number}[64];",
    ]
    for file in (near, far, number):
        lines += [f"long function_{file}_{i}(long, const char *);" for i in range(FUNCTIONS)]
    table = ", ".join(f"function_{number}_{i}" for i in range(FUNCTIONS))
    lines.append(f"long (*const table_{number}[])(long, const char *) = {{ {table} }};")
    for i in range(FUNCTIONS):
        other = (i + 5) % FUNCTIONS
        lines.append(FUNCTION.format(number=number, i=i, near=near, far=far, other=other, more=i * 37 + 11))
    return "\n".join(lines) + "\n"


FUNCTION = """
long function_{number}_{i}(long x, const char *text) {{
    state_{number}[x & 63] += {more};
    switch (x & 7) {{
    case 0: return function_{near}_{i}(x + 1, names_{number}[x & 3]);
    case 1: return function_{far}_{other}(x >> 1, text + 1);
    case 2: shared_{number} += x; return shared_{near};
    case 3: values_{number}[x & 15] = values_{far}[x & 7] * {more}.5 + x; return (long)values_{number}[3];
    case 4: return table_{number}[x & 1 ? {i} : {other}](x - 1, "text {number} {i}");
    case 5: return text ? text[x & 3] : {more};
    case 6: return state_{number}[x >> 3 & 63];
    default: return x * {more};
    }}
}}
"""

"""C source to object bytes for the other examples: with zig if it is installed (pip install ziglang), else cc."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def compile_c(source: str) -> bytes:
    """Compile C for this machine, optimised. Ends the program with a message where there is no compiler."""
    if importlib.util.find_spec("ziglang"):
        compiler = [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]
    elif shutil.which("cc"):
        compiler = ["cc"]
    else:
        sys.exit("this example needs a C compiler: pip install ziglang")
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "source.c").write_text(source)
        subprocess.run([*compiler, "-O2", "-c", "source.c", "-o", "object.o"], cwd=directory, check=True)
        return (Path(directory) / "object.o").read_bytes()

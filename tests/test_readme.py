"""README and docs: their examples run and print what they say, their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toolchain import zig_cc

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"print\(.*\)  # (.*)$")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(page, language):
    """The code blocks of a page in a language."""
    return [code for found, code in BLOCK.findall(page.read_text()) if found == language]


def runnable():
    """Every Python block of README and guide, under the name of its page and its number."""
    for page in (ROOT / "README.md", ROOT / "docs" / "guide.md"):
        for number, code in enumerate(blocks(page, "python"), 1):
            yield pytest.param(page, code, id=f"{page.name}-{number}")


@pytest.fixture
def objects(tmp_path):
    """A function that compiles the C blocks of a page: each is named by its first function, or README's dot.c."""

    def compile_blocks(page):
        for code in blocks(page, "c"):
            named = re.match(r"/\* (\w+)\.c \*/", code)
            name = named[1] if named else "dot"
            (tmp_path / f"{name}.o").write_bytes(zig_cc(code, "-O2"))
        return tmp_path

    return compile_blocks


@pytest.mark.parametrize(("page", "code"), list(runnable()))
def test_python_block_prints_what_it_promises(objects, page, code):
    """After `print(...)  # text`, the text is what is printed; a comma there is a new line."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=objects(page),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    promised = [text for line in code.splitlines() for match in PROMISE.findall(line) for text in match.split(", ")]
    assert result.stdout.splitlines() == promised


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    """Each relative link is a file or a directory of the project."""
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_generated_pages_say_what_the_tables_say():
    """docs/x86_64.md is what docs/generate.py makes of the relocation kinds."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_commands_of_the_readme_exist():
    """The Makefile has the two commands that the README gives."""
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name

"""Names that mean harm: no view hands them on as they are."""

from __future__ import annotations

import json
import shutil
import subprocess

import jsonschema
import pytest

from jitlink import LinkGraph, Protection, new_graph
from jitlink.escaping import LONGEST_NAME
from jitlink.inspect import Paper, listing
from jitlink.inspect.differences import stage_difference
from jitlink.inspect.dot import dot_lines
from jitlink.inspect.json_view import json_pieces
from jitlink.inspect.object_differences import object_difference
from jitlink.inspect.stages import watch
from tests.inspect.test_golden import schema
from tests.toolchain import needs

HOSTILE = [
    "</script><script>alert(1)</script>",
    "\x1b[31mred\x1b]0;title\x07",
    "two\nlines\r\tand \u202e turned",
    b"\xff\xfe not UTF-8 \x80".decode(errors="surrogateescape"),
    '"quoted" \\ back \\n',
    "a" * 1_000_000,
    "\0",
    ']; b1 -> b2 [label="',
]


@pytest.fixture
def graph() -> LinkGraph:
    """A graph whose inputs, sections and symbols have hostile names, each referred to."""
    made = new_graph(HOSTILE[1], "x86_64")
    for name in HOSTILE:
        section = made.add_section(name, Protection.READ | Protection.EXECUTE)
        block = made.add_block(section, bytes.fromhex("e800000000c3"))
        made.add_symbol(name, block, size=6)
        made.add_edge(block, 1, "R_X86_64_PLT32", made.add_symbol(f"{name}?"), -4)
    return made


def check_text(lines: list[str]) -> None:
    """Every line is printable, and none is of a length that only a hostile name asks for."""
    assert lines
    for line in lines:
        assert line.isprintable()
        assert len(line) < 4 * LONGEST_NAME


def test_text_is_printable(graph):
    """Listings and differences have no control character, no line break and no megabyte."""
    check_text(list(listing(graph, Paper())))
    check_text(list(listing(graph, Paper(width=80))))
    link = watch(graph)
    check_text(list(stage_difference(link.snapshot("pre_prune"), link.snapshot("fixed_up"))))
    check_text(list(object_difference(graph, new_graph("other", "x86_64"))))


def test_json_is_json_and_holds_all_bytes(graph):
    """The document is ASCII, valid, and a name that is not UTF-8 is there byte by byte."""
    text = "".join(json_pieces(graph))
    assert text.isascii()
    document = json.loads(text)
    jsonschema.validate(document, schema())
    raw = HOSTILE[3].encode(errors="surrogateescape")
    [symbol] = [symbol for symbol in document["symbols"] if symbol.get("name_hex") == raw.hex()]
    assert symbol["name"] == "\\xff\\xfe not UTF-8 \\x80"
    shown = {symbol["name"] for symbol in document["symbols"]}
    assert {name for name in HOSTILE if name.isascii()} <= shown


def test_a_drawing_has_the_nodes_it_should_have(graph):
    """No name ends its string and draws an arrow of its own."""
    needs("dot")
    text = "\n".join(dot_lines(graph))
    dot = shutil.which("dot")
    assert dot is not None
    drawn = subprocess.run([dot, "-Tplain"], input=text, text=True, capture_output=True, check=True)
    kinds = [line.split()[0] for line in drawn.stdout.splitlines()]
    assert kinds.count("node") == 2 * len(HOSTILE)
    assert kinds.count("edge") == len(HOSTILE)

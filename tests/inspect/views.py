"""The views of the fixed objects, as the golden texts hold them."""

from __future__ import annotations

import jitlink
from jitlink.inspect import Look, listing
from jitlink.inspect.dot import dot_lines
from jitlink.inspect.json_view import json_pieces
from tests.inspect.objects import sample

VIEWS = ("txt", "json", "dot")


def view(name: str, suffix: str) -> str:
    """One object in one view."""
    graph = jitlink.read(sample(name))
    graph.inputs[1] = f"{name}.o"
    if suffix == "json":
        return "".join(json_pieces(graph))
    lines = dot_lines(graph) if suffix == "dot" else listing(graph, look=Look(disassemble=True))
    return "".join(f"{line}\n" for line in lines)

"""Listings of linked objects: every function as assembly, before anything is loaded.

References are shown as comments, `# counts` beside the wide constant that will hold the address of the
map, since what they come to differs from load to load; source lines stand where they change.
"""

from __future__ import annotations

from collections.abc import Iterator

from jitlink.bpf.btf_ext import Line
from jitlink.bpf.disassembler import disassemble
from jitlink.bpf.faults import helper_name
from jitlink.bpf.instructions import SLOT, Instructions, decode
from jitlink.bpf.linking import LinkedObject
from jitlink.bpf.syntax import Syntax


def function_listings(linked: LinkedObject, syntax: Syntax = "llvm") -> Iterator[str]:
    """Write each function of a linked object as assembly, under the name of its section."""
    graph, functions = linked.graph, linked.functions
    for row, block in enumerate(functions.block.tolist()):
        code = decode(graph.content_of(block), linked.byte_order)
        comments = Comments(code, references(linked, row), linked.lines_of(row).lines(len(code)))
        text = disassemble(code, syntax, labels={0: functions.names[row]}, comments=comments)
        yield f"section {linked.section_of(row)}\n{text}"


def references(linked: LinkedObject, function: int) -> dict[int, str]:
    """Say what the instructions of a function refer to, by their index: symbol and addend."""
    graph = linked.graph
    edges = graph.edges
    rows = (edges.block == linked.functions.block[function]).nonzero()[0].tolist()
    words = {}
    for row in rows:
        edge = graph.edges[row]
        addend = f"{edge.addend:+#x}" if edge.addend else ""
        section = edge.target.block.section.name if edge.target.block else ""
        words[edge.offset // SLOT] = f"{edge.target.name or section}{addend}"
    return words


class Comments:
    """The comments of a listing: what an instruction refers to or calls, and its line where that changes."""

    def __init__(self, code: Instructions, references: dict[int, str], lines: list[Line | None]) -> None:
        calls = [index for index in range(len(code)) if code.form_of(index).name == "call_helper"]
        helpers = {index: helper_name(int(code.imm[index]) & 0xFFFF_FFFF) for index in calls}
        self.references = helpers | references
        self.lines = lines

    def __call__(self, index: int) -> str | None:
        line, before = self.lines[index], self.lines[index - 1] if index else None
        parts = [self.references.get(index, "")]
        if line is not None and (before is None or (line.file, line.line) != (before.file, before.line)):
            parts.append(f"{line.file}:{line.line}: {line.text.strip()}".rstrip(": "))
        return "\n".join(part for part in parts if part) or None

"""`jitlink bpf show`: the programs, maps, variables and types of BPF objects, with nothing loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click

from jitlink import bpf
from jitlink.bpf.btf_declarations import declare
from jitlink.bpf.btf_types import Btf
from jitlink.bpf.externs import find_externs
from jitlink.bpf.functions import needed_functions
from jitlink.bpf.instructions import SLOT
from jitlink.bpf.linking import LinkedObject
from jitlink.bpf.maps import MapDefinition
from jitlink.bpf.sections import program_type
from jitlink.bpf.variables import data_blocks, declared_variables
from jitlink.cli import options as common
from jitlink.cli.bpf import options
from jitlink.cli.options import print_lines
from jitlink.escaping import escaped, escaped_lines
from jitlink.inspect.text import Paper


@click.command("show")
@options.inputs
@click.option("--types", is_flag=True, help="Print all types (BTF) as C declarations.")
@click.option("--link", is_flag=True, help="Show all inputs as one linked object.")
def command(inputs: tuple[str, ...], types: bool, link: bool) -> None:
    """Show what is in BPF objects: programs, maps, variables, externs, CO-RE relocations, types."""
    paper = common.paper_for_standard_output()
    groups: Sequence[Sequence[str]] = [inputs] if link else [[name] for name in inputs]
    for number, names in enumerate(groups):
        if number:
            print_lines([""])
        linked = bpf.link(*(options.source_of(name) for name in names))
        print_lines(_overview(linked, names, paper))
        if types:
            print_lines(_types(linked, paper))


def _overview(linked: LinkedObject, names: Sequence[str], paper: Paper) -> Iterator[str]:
    facts = [f"{linked.byte_order}-endian BPF", f"license {linked.license or 'none'}"]
    if linked.version is not None:
        facts.append(f"for kernel {linked.version >> 16}.{linked.version >> 8 & 0xFF}.{linked.version & 0xFF}")
    yield paper.heading(escaped_lines(f"{', '.join(names)}: {', '.join(facts)}"))
    yield from _part("programs", _programs(linked), paper, right=(2, 3))
    yield from _part("maps", (_map(each.declaration.definition) for each in linked.maps), paper, right=(2,))
    yield from _part("variables", _variables(linked), paper, right=(1,))
    yield from _part("externs", _externs(linked), paper)
    yield from _part("CO-RE relocations", (_escaped(str(each)) for each in linked.relocated), paper)


def _part(title: str, rows: Iterable[Sequence[str]], paper: Paper, right: Sequence[int] = ()) -> Iterator[str]:
    rows = list(rows)
    if rows:
        yield from ("", paper.aside(title))
        yield from paper.table(rows, right=right)


def _escaped(*cells: str) -> tuple[str, ...]:
    return tuple(map(escaped, cells))


def _programs(linked: LinkedObject) -> Iterator[tuple[str, ...]]:
    """Section, type, instruction slots and functions, name."""
    functions = linked.functions
    for name, row in linked.programs.items():
        section = linked.section_of(row)
        needed = needed_functions(linked.graph, functions, row)
        slots = int(functions.size[needed].sum()) // SLOT
        yield _escaped(section, program_type(section).name, f"{slots} slots", f"{len(needed)} functions", name)


def _map(definition: MapDefinition) -> tuple[str, ...]:
    """Type, name, entries, key and value."""
    key = definition.key.title if definition.key is not None else f"{definition.key_size} bytes"
    value = definition.value.title if definition.value is not None else f"{definition.value_size} bytes"
    notes = [f"of {definition.inner.kind.name.lower()}"] if definition.inner is not None else []
    notes += ["pinned by name"] if definition.pinning else []
    about = f"{key} to {value}{''.join(f', {note}' for note in notes)}"
    return _escaped(_type_name(definition), definition.name, f"{definition.max_entries} entries", about)


def _type_name(definition: MapDefinition) -> str:
    from jitlink.bpf.maps import MapType

    known = {int(type): type.name.lower() for type in MapType}
    return known.get(definition.type, f"type {definition.type}")


def _variables(linked: LinkedObject) -> Iterator[tuple[str, ...]]:
    """Section, size, and the declaration or the name."""
    for section, blocks in data_blocks(linked).items():
        for block in blocks:
            for name, size, type in declared_variables(linked, block):
                yield _escaped(section, f"{size} bytes", name if type is None else declare(type, name))


def _externs(linked: LinkedObject) -> Iterator[tuple[str, ...]]:
    for extern in find_externs(linked):
        yield _escaped(extern.section or "anywhere", "weak" if extern.weak else "strong", extern.name)


def _types(linked: LinkedObject, paper: Paper) -> Iterator[str]:
    for number, types in linked.types.items():
        if types.btf is not None:
            yield from ("", paper.aside(f"types of {escaped(linked.graph.inputs[number])}"))
            yield from _declarations(types.btf)


def _declarations(btf: Btf) -> Iterator[str]:
    for type in btf.types:
        if type.name:
            first, *rest = escaped_lines(str(type)).splitlines()
            yield f"  [{type.id}] {first}"
            yield from (f"      {line}" for line in rest)

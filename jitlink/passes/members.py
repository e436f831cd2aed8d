"""Which members of archives a link needs: those that define what something refers to, and so on.

All new members of a round are read together, so the number of rounds is the length of the longest chain
of references from member to member, not the number of members. An undefined weak symbol asks for no
member (gABI, Symbol Table). The archives are searched in order, each as often as it takes, so that the
order in which they are given never leaves a symbol undefined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jitlink.arches.architecture import Architecture
from jitlink.graph import Definition, Linkage, LinkGraph, Scope
from jitlink.graph.naming import to_c_name

if TYPE_CHECKING:
    from jitlink.inputs import Inputs, Member

IMP = b"__imp_"


def take_members(
    sources: Sequence[Inputs],
    given: Sequence[LinkGraph],
    wanted: Sequence[bytes],
    defined: set[bytes],
    target: Architecture,
    *,
    everything: bool = False,
) -> list[LinkGraph]:
    """Take the members that wanted names and the undefined symbols of given graphs ask for.

    wanted, defined: C names; defined are those that need no member. everything: read debug sections
    as well. Returns the graphs of the members, one for each source and round.
    """
    taken: list[LinkGraph] = []
    asked = dict.fromkeys(wanted)
    new = list(given)
    defined = set(defined)
    while True:
        for graph in new:
            defines, refers = global_names(graph)
            defined |= defines
            asked.update(dict.fromkeys(refers))
        names = [name for name in asked if name not in defined]
        asked = {}
        new = [graph for inputs in sources for graph in _round(inputs, names, target, everything)]
        if not new:
            return taken
        taken += new


@contextmanager
def returning_members(sources: Sequence[Inputs]) -> Iterator[None]:
    """Give back the members that are taken inside if that fails, so that another attempt can take them."""
    before = [(library, set(library.taken)) for inputs in sources for library in inputs.libraries]
    try:
        yield
    except BaseException:
        for library, members in before:
            library.taken = members
        raise


def _round(inputs: Inputs, names: Sequence[bytes], target: Architecture, everything: bool) -> list[LinkGraph]:
    """Take and read the members of one source that define names."""
    members: list[Member] = []
    for name in names:
        for library in inputs.libraries:
            member = library.take(name, target)
            if member is not None:
                members.append(member)
                break
    return [inputs.read(members, target, everything=everything)] if members else []


def global_names(graph: LinkGraph) -> tuple[set[bytes], list[bytes]]:
    """The C names that a graph defines, and those that it strongly refers to without defining them."""
    symbols = graph.symbols
    visible = symbols.scope != Scope.LOCAL
    undefined = symbols.definition == Definition.UNDEFINED
    defined_rows = (visible & ~undefined).nonzero()[0]
    refers_rows = (visible & undefined & (symbols.linkage != Linkage.WEAK)).nonzero()[0]
    defines, refers = graph.names_at(symbols.name[defined_rows]), graph.names_at(symbols.name[refers_rows])
    prefix = graph.symbol_prefix
    if graph.format == "coff":
        # The pointer that a name with this prefix means is made by the linker, where no import library has it.
        refers += [name.removeprefix(IMP) for name in refers if name.startswith(IMP)]
    if not prefix:
        return set(defines), refers
    return {to_c_name(name, prefix) for name in defines}, [to_c_name(name, prefix) for name in refers]

"""What a dylib was given and has not linked yet: inputs, archives to take members of, and what is asked of the link.

A link changes its graph, and may fail. So the graph is made when the input is added, so that a bad one is refused
at once, it is our own, a copy of what the caller holds, and after a link that failed it is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jitlink.arches.architecture import Architecture
from jitlink.graph import LinkGraph
from jitlink.inputs import Inputs, Source, collect
from jitlink.joining import join
from jitlink.linker import Options, Trace, UserPass
from jitlink.passes.members import take_members


class _WaitingGraph:
    """A link graph that waits to be linked."""

    def __init__(self, make: Callable[[], LinkGraph]) -> None:
        self._make = make
        self._graph: LinkGraph | None = make()

    def take(self) -> LinkGraph:
        """The graph, to be changed."""
        graph, self._graph = self._graph, None
        return self._make() if graph is None else graph


class Waiting:
    """Inputs that wait for the next link of a dylib.

    Attributes: target; options (of the next link); libraries (archives whose members are taken as they are
    needed; they wait for every link).
    """

    def __init__(self, target: Architecture) -> None:
        self.target = target
        self.options = Options()
        self.libraries: list[Inputs] = []
        self._graphs: list[_WaitingGraph] = []
        self._dead_strip: bool | None = None

    def __bool__(self) -> bool:
        """Whether there is anything that a link would take, wanted or not."""
        return bool(self._graphs)

    def add(
        self,
        sources: Sequence[Source],
        *,
        whole_archive: bool,
        dead_strip: bool | None,
        exports: Sequence[str] | None,
        copy_data: Sequence[str],
        debug: bool,
        relax: bool | None,
        passes: Mapping[str, Sequence[UserPass]] | None,
        trace: Trace | None,
    ) -> None:
        """Read inputs, and take in what is asked; see Dylib.add. Raises InputError; then nothing has changed."""
        inputs = collect(sources, whole_archive=whole_archive, target=self.target.name)
        graphs = [_WaitingGraph(partial(join, [graph])) for graph in inputs.graphs]
        if inputs.objects:
            graphs.append(_WaitingGraph(partial(inputs.read, inputs.objects, self.target, everything=debug)))
        if inputs.libraries:
            self.libraries.append(inputs)
        self._graphs += graphs
        self.options = Options(
            exports=exports if exports is not None else self.options.exports,
            dead_strip=self._strips(dead_strip),
            copy_data=[*self.options.copy_data, *copy_data],
            debug=debug or self.options.debug,
            relax=self.options.relax if relax is None else relax,
            passes={**self.options.passes, **(passes or {})},
            trace=trace or self.options.trace,
        )

    def _strips(self, asked: bool | None) -> bool:
        """Whether the next link drops what no export needs: as was last asked, else if there are archives."""
        if asked is not None:
            self._dead_strip = asked
        return bool(self.libraries) if self._dead_strip is None else self._dead_strip

    def exports(self, name: str) -> bool:
        """Whether a name can be looked up, if it is defined."""
        return self.options.exports is None or name in self.options.exports

    def take(self, wanted: Sequence[str], defined: Callable[[], set[bytes]]) -> list[LinkGraph]:
        """The graphs that wait, and those of the archive members that they, the exports and wanted ask for.

        defined: gives the names that there are already. See jitlink.passes.members.returning_members.
        """
        graphs = [each.take() for each in self._graphs]
        if not self.libraries:
            return graphs
        roots = [root.encode(errors="surrogateescape") for root in (*wanted, *(self.options.exports or ()))]
        everything = self.options.debug
        return graphs + take_members(self.libraries, graphs, roots, defined(), self.target, everything=everything)

    def linked(self) -> None:
        """Note that what waited was linked: passes, copies and the trace were for that link only."""
        self._graphs = []
        options = self.options
        self.options = Options(
            exports=options.exports, dead_strip=options.dead_strip, debug=options.debug, relax=options.relax
        )

    def clear(self) -> None:
        """Let go of everything."""
        self._graphs.clear()
        self.libraries.clear()

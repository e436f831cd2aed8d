"""Link graphs as the objects of other packages: networkx, pandas, Arrow.

Each package is imported when it is asked for; none of them is needed otherwise. They come with the extra
`data`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitlink.errors import MissingExtra
from jitlink.graph.meanings import Definition, SymbolKind

if TYPE_CHECKING:
    from jitlink.graph.link_graph import LinkGraph


def to_networkx(graph: LinkGraph) -> Any:
    """Make a networkx.MultiDiGraph of a graph.

    A node is a block, ("block", row), with name, section, input, size and live; or a symbol that no block
    defines, ("symbol", row), with name and definition. An edge is an edge of the graph, with its row as key,
    and with kind, offset and addend. Raises MissingExtra.
    """
    try:
        import networkx
    except ImportError as error:
        raise MissingExtra("networkx", "data", "making a networkx graph") from error
    made = networkx.MultiDiGraph(target=graph.target.name)
    names = _first_names(graph)
    for block in range(1, len(graph.blocks)):
        view = graph.blocks[block]
        name = names.get(block, view.section.name)
        made.add_node(
            ("block", block), name=name, section=view.section.name, input=view.input, size=view.size, live=view.live
        )
    edges, symbols = graph.edges, graph.symbols
    for row, block, target, kind, offset, addend in zip(
        range(1, len(edges)),
        *(getattr(edges, name)[1:].tolist() for name in ("block", "target", "kind", "offset", "addend")),
        strict=True,
    ):
        held = int(symbols.block[target])
        node = ("block", held) if held else ("symbol", target)
        if not held and node not in made:
            symbol = symbols[target]
            made.add_node(node, name=symbol.name, definition=Definition(symbol.definition).name.lower())
        kind_name = graph.target.kinds[kind].name
        made.add_edge(("block", block), node, key=row, kind=kind_name, offset=offset, addend=addend)
    return made


def _first_names(graph: LinkGraph) -> dict[int, str]:
    """The first name of each block."""
    symbols = graph.symbols
    named = (symbols.block > 0) & (symbols.name != symbols.name[0]) & (symbols.kind != SymbolKind.SECTION)
    rows = named.nonzero()[0][::-1]
    names = [name.decode(errors="replace") for name in graph.names_at(symbols.name[rows])]
    return dict(zip(symbols.block[rows].tolist(), names, strict=True))


def table_columns(table: Any) -> dict[str, Any]:
    """The columns of a table without its null row, for other packages: names as text, the rest as arrays."""
    columns: dict[str, Any] = {}
    for name in table.declarations:
        values = getattr(table, name)[1:]
        if name == "name":
            texts = table.graph.names_at(values)
            columns[name] = [text.decode(errors="backslashreplace") for text in texts]
        elif name == "kind" and type(table).__name__ == "Edges":
            kinds = table.graph.target.kinds
            columns[name] = [kinds[number].name for number in values.tolist()]
        else:
            columns[name] = values
    return columns


def to_pandas(table: Any) -> Any:
    """Make a pandas.DataFrame of a table, with the rows' numbers as index. Raises MissingExtra."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra("pandas", "data", "making a pandas data frame") from error
    columns = table_columns(table)
    return pandas.DataFrame(columns, index=pandas.RangeIndex(1, len(table), name="row"))


def to_arrow(table: Any) -> Any:
    """Make a pyarrow.Table of a table, with the rows' numbers as its column row. Raises MissingExtra."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("pyarrow", "data", "making an Arrow table") from error
    return pyarrow.table({"row": list(range(1, len(table))), **table_columns(table)})

"""Pairs: relocations that are a value only together, made single ones before they are applied.

The engine of fixups computes each relocation by itself. Where an ABI spreads one value over two of them, the
architecture says how one of the two can hold it all (arches/riscv64_pairs).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.columns import Buffer, Rows
from jitlink.fields import Addresses
from jitlink.graph import LinkGraph


def settle_pairs(
    graph: LinkGraph, blocks: npt.NDArray[np.bool_], image: Buffer, positions: Rows, addresses: Addresses
) -> None:
    """Make single relocations of the pairs in some blocks, if the machine has any. Changes edges.

    blocks: bool[blocks]. image: uint8[bytes], with their content. positions: int64[blocks], where each one
    starts in image. addresses: uint64[symbols], final. Raises MalformedInput and OutOfRange.
    """
    target = graph.target
    assert isinstance(target, Architecture)
    if target.settle_pairs is not None:
        target.settle_pairs(graph, blocks[graph.edges.block].nonzero()[0], image, positions, addresses)

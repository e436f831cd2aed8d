"""RISC-V: what the header of an object says about the code in it (e_flags).

Objects that pass floating-point arguments in different registers cannot call each other, and those for the
base with half the registers (RVE) have another ABI altogether. Whether compressed instructions are there
may differ from object to object.

Source: RISC-V ELF psABI, File Header.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, load_records
from jitlink.errors import LinkFailure, UnsupportedInput
from jitlink.graph import LinkGraph
from jitlink.protection import Protection

EF_RISCV_RVC = 0x1
EF_RISCV_FLOAT_ABI = 0x6
EF_RISCV_RVE = 0x8
FLOAT_ABIS = {0x0: "soft-float", 0x2: "single-float", 0x4: "double-float", 0x6: "quad-float"}
FLAGS_AT, WORD = 48, np.dtype("<u4")
"""Where e_flags stands in the header of a 64-bit ELF file (gABI, ELF Header)."""
EXECUTE = int(Protection.EXECUTE)


def check_flags(graph: LinkGraph) -> None:
    """Refuse code of another ABI. Raises UnsupportedInput for RVE, LinkFailure for mixed float ABIs."""
    sections, blocks = graph.sections, graph.blocks
    code = (sections.protection[blocks.section] & EXECUTE != 0) & blocks.live & (blocks.size > 0)
    inputs = np.unique(sections.input[blocks.section[code]])
    # What is built by hand has no header, and fits whatever is there.
    inputs = inputs[inputs <= len(graph.input_places[0])]
    inputs = inputs[inputs > 0]
    inputs = inputs[graph.input_places[1][inputs - 1] > 0]
    if not len(inputs):
        return
    flags = _flags_of_inputs(graph, inputs)
    reduced = flags & EF_RISCV_RVE != 0
    if reduced.any():
        fault = "code for the base with 16 registers (RVE), whose calling convention is another"
        raise UnsupportedInput(fault, input=graph.inputs[int(inputs[reduced.argmax()])])
    abi = flags & EF_RISCV_FLOAT_ABI
    other = abi != abi[0]
    if other.any():
        first, second = (
            f"{graph.inputs[int(inputs[row])]} is {FLOAT_ABIS[int(abi[row])]}" for row in (0, int(other.argmax()))
        )
        raise LinkFailure(
            f"{first}, and {second}: they pass floating-point arguments in different places. "
            "Compile all of them with one -mabi"
        )


def compressed_blocks(graph: LinkGraph, padded: Rows) -> npt.NDArray[np.bool_]:
    """Say in which blocks compressed instructions may be put: bool[blocks].

    padded: int64[n], the R_RISCV_ALIGN edges. The object has to have such instructions (EF_RISCV_RVC), and
    the block no padding that is made for 4-byte ones: it would be too little after a 2-byte one.
    """
    known = np.zeros(len(graph.inputs), np.bool_)
    inputs = 1 + (graph.input_places[1] > 0).nonzero()[0]
    known[inputs] = _flags_of_inputs(graph, inputs) & EF_RISCV_RVC != 0
    compressed: npt.NDArray[np.bool_] = known[graph.sections.input[graph.blocks.section]]
    padding = graph.edges.addend[padded]
    fixed_size = (padding & (padding + 4) == 0) & (padding > 0)
    compressed[graph.edges.block[padded[fixed_size]]] = False
    return compressed


def _flags_of_inputs(graph: LinkGraph, inputs: Rows) -> Rows:
    """Read e_flags of the ELF objects with these numbers: int64[n] of int64[n]."""
    flags: Rows = load_records(graph.pool, graph.input_places[0][inputs - 1] + FLAGS_AT, WORD).astype(np.int64)
    return flags

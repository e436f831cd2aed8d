"""What a back end brings for programs whose addresses are translated, beside what it brings for BPF."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from jitlink.bpf.jit import backend as bpf
from jitlink.bpf.jit.abi import SITE_SIZE
from jitlink.bpf.sbpf.abi import OFFSET
from jitlink.columns import Rows

NUMBER_SHIFT = 25


class TranslatingBackend(bpf.Backend, Protocol):
    """One machine. Attributes as in Backend, and spare: the host's register that an address, or a second operand,
    goes to; no template of arithmetic expects it to keep its value, or changes it before it has been used."""

    spare: int


def described(number: Rows, size: Rows, write: npt.NDArray[np.bool_]) -> Rows:
    """Describe accesses for a FIND: as for a SEARCH, and the number of the site (from bit 25 on)."""
    return bpf.described(OFFSET["sites"] + number * SITE_SIZE, size, write) | number << NUMBER_SHIFT

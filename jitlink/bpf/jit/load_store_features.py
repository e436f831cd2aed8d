"""What shapes depend on, for load-store machines: tables with a row for each kind, and how large a program may be.

Short branches do not reach far on these machines. The driver chooses between short and long ones for the branches of
the program; everything else that branches (a meter, a check) is written long where the program may be larger
than a branch reaches, which is known before anything is placed: no template is larger than MOST_BYTES says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.bpf.isa import FORMS, Family
from jitlink.bpf.jit.backend import Feature, Kind
from jitlink.bpf.jit.load_store_templates import PADDING_BITS
from jitlink.bpf.jit.program import BRANCHES, JUMPS, SIZE
from jitlink.bpf.jit.templates import Operand
from jitlink.columns import Rows

KINDS = max(Kind) + 1
MOST_BYTES = {Family.CALL: 256, Family.BYTE_ORDER: 128, Family.LOAD: 176, Family.STORE: 224}
"""Bytes of the longest template of an instruction; what is not here has OTHER_BYTES."""
OTHER_BYTES = 96
ROUTINE_BYTES = 2048
# Plain integers, since looking up the member of an enumeration takes as long as an array operation.
_IMM, _PADDING, _LONG = int(Operand.IMM), int(Kind.PADDING), int(Feature.LONG)


def by_kind(forms: npt.ArrayLike, others: dict[Kind, int] | None = None, rest: int = 0) -> Rows:
    """A value for each kind: of the forms, of the kinds named, and of all others; int64[KINDS]."""
    table = np.full(KINDS, rest, np.int64)
    table[: len(FORMS)] = forms
    for kind, each in (others or {}).items():
        table[kind] = each
    return table


def marked(*kinds: Kind, family: Family | None = None, only_numbers: bool = False) -> npt.NDArray[np.bool_]:
    """Mark kinds, and the forms of a family, or those of them with an immediate: bool[KINDS]."""
    forms = [form.family is family and not (only_numbers and form.from_register) for form in FORMS]
    return by_kind(forms, dict.fromkeys(kinds, 1)) > 0


BRANCHING = by_kind(BRANCHES | JUMPS) > 0
"""Those that the driver makes long."""
SIZE_OF = by_kind(np.maximum(SIZE, 1), rest=1)
"""Bytes of an access."""
MOST = by_kind(
    [MOST_BYTES.get(form.family, OTHER_BYTES) for form in FORMS],
    {Kind.ARRAY_LOOKUP: MOST_BYTES[Family.CALL]},
    rest=OTHER_BYTES,
)
WITH_ADDRESS = marked(Kind.CHECK, Kind.SEARCH, family=Family.ATOMIC)
"""Those that put the address of an access into a register."""


def bytes_at_most(kind: Rows) -> int:
    """How large a program of these pieces can become, with its routines."""
    return int(MOST[kind].sum()) + ROUTINE_BYTES


def finish(features: Rows, kind: Rows, imm: Rows, *, far: bool) -> None:
    """Add what is the same on all machines: paddings, and LONG where COLD may be out of a branch's reach."""
    if far:
        features |= ~BRANCHING[kind] * _LONG
    padding = (kind == _PADDING).nonzero()[0]
    features[padding] = imm[padding] << PADDING_BITS

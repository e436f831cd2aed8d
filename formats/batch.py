"""A batch: many inputs of one format in one buffer, and the faults that are found in them.

Readers look at all inputs of a batch at once, so a fault is first a mask over records. `refuse_any`
turns the first set entry into an error that names the input, as if the inputs had been read one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Rows
from jitlink.errors import MalformedInput


@dataclass(frozen=True)
class Batch:
    """Inputs that lie in one buffer, which goes on for graph.PADDING bytes behind the last of them.

    Attributes: pool (uint8[bytes]), names (as errors print them), starts and sizes (int64[inputs], bytes).
    """

    pool: Buffer
    names: Sequence[str]
    starts: Rows
    sizes: Rows

    def __len__(self) -> int:
        return len(self.names)

    def refuse_any(
        self,
        faulty: npt.NDArray[np.bool_],
        fault: str,
        owner: Rows | None = None,
        first: Rows | None = None,
    ) -> None:
        """Raise MalformedInput for the first faulty record, naming the input that owns it.

        faulty: bool[records]; owner: int64[records], the input of each record, or None if record i
        belongs to input i; first: int64[inputs], the first record of each input, from which the number
        that stands for {} in fault is counted.
        """
        # Ten times as fast as any() on the few rows of a small object.
        if np.count_nonzero(faulty):
            record = int(faulty.argmax())
            input = record if owner is None else int(owner[record])
            number = record if first is None else record - int(first[input])
            raise MalformedInput(fault.format(number), input=self.names[input])

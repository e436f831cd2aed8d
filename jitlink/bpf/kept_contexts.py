"""The contexts of an object's programs, kept from one run to the next.

To map memory, to list it for native code and to give it back takes longer than running a small program. So a
context that a run has ended with waits for the next run on one of the same sort, which begins it again: nothing
is left in it of the run before. What a run gives back is copied out of it, and stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from jitlink.bpf.contexts import Context, Data, FlatContext, PacketContext
from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.regions import Regions

NO_FIELDS: Mapping[str, Any] = MappingProxyType({})
_NOBODY_ELSE = 2
"""References to an object that one variable holds, while they are counted."""


class KeptContexts:
    """Makes contexts, and keeps one.

    For any number of threads, of which each gets a context of its own.
    """

    def __init__(self, regions: Regions, byte_order: ByteOrder) -> None:
        self._regions = regions
        self._byte_order: ByteOrder = byte_order
        # None or one. A list, since taking the last of it is one step, which only one thread can do.
        self._kept: list[Context] = []
        self._closed = False

    def take(self, sort: type[PacketContext] | None, data: Data, fields: Mapping[str, Any] = NO_FIELDS) -> Context:
        """Begin a context of a sort, None for plain memory, which has no fields.

        data: the packet, or the memory; fields: as for PacketContext. Raises UsageError, MemoryRefused.
        """
        try:
            context = self._kept.pop()
        except IndexError:
            return self._make(sort, data, fields)
        # A helper may have kept it, for whom it has to stay what it is.
        if type(context) is (sort or FlatContext) and sys.getrefcount(context) == _NOBODY_ELSE:
            try:
                if context.again(data, **fields) if fields else context.again(data):
                    return context
            except BaseException:
                context.close()
                raise
        context.close()
        return self._make(sort, data, fields)

    def _make(self, sort: type[PacketContext] | None, data: Data, fields: Mapping[str, Any]) -> Context:
        if sort is None:
            return FlatContext(self._regions, data)
        return sort(self._regions, data, byte_order=self._byte_order, **fields)

    def put_back(self, context: Context) -> None:
        """Take a context that a run has ended with."""
        if not self._kept and not self._closed:
            self._kept.append(context)
        elif not self._closed:
            context.close()

    def drop(self) -> None:
        """Take away the memory of the one that is kept, since programs are to run on something else."""
        while self._kept:
            with suppress(IndexError):
                self._kept.pop().close()

    def close(self) -> None:
        """Keep nothing any more. The memory of a run that is under way goes with all other memory."""
        self._closed = True
        self.drop()

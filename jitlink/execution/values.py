"""Values that cross the edge of an emulated machine: from Python to the bytes of a C type, and back.

A declaration of ctypes or of cffi becomes a **carrier**, which knows the C type for the convention, packs
a Python value into its bytes and unpacks a result. Pointers are what differs from calls in this process: a
pointer that comes out is a Pointer, an integer that can read and write what is there; one that goes in
may be that, or a buffer of Python's (jitlink.execution.borrowed), or a Python function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jitlink.errors import UsageError
from jitlink.execution.borrowed import Borrowed, Loan, buffer_of, item_size
from jitlink.execution.c_types import VOID, CType, Kind
from jitlink.execution.memory import Memory

Packed = bytes | Borrowed
POINTER_SIZE = 8


class World(Protocol):
    """What carriers need of the residence that a value goes to or comes from."""

    @property
    def memory(self) -> Memory: ...
    @property
    def long_size(self) -> int: ...

    def function_address(self, function: Callable[..., Any], signature: Any) -> int:
        """Give a Python function an address; signature: of jitlink.execution.signatures."""

    def function_at(self, address: int, signature: Any) -> Any:
        """A callable for the code at an address."""


class Carrier(Protocol):
    """How values of one declared type cross."""

    @property
    def c_type(self) -> CType: ...

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """Make bytes of a value. Raises TypeError, OverflowError."""

    def unpack(self, raw: bytes, world: World) -> Any:
        """Make a value of bytes."""


class VoidCarrier:
    """The result of a function that returns nothing."""

    c_type = VOID

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """Nothing."""
        return b""

    def unpack(self, raw: bytes, world: World) -> Any:
        """None."""
        return None


class Pointer(int):
    """An address in emulated memory: an integer that can read and write what is there.

    Attributes: memory. Items are read and written by index where the type of what is pointed at is known.
    """

    memory: Memory
    _world: World
    _item: Carrier | None

    def __new__(cls, address: int, world: World, item: Carrier | None = None) -> Pointer:
        """Point at an address; item: what lies there."""
        pointer = super().__new__(cls, address)
        pointer.memory = world.memory
        pointer._world = world
        pointer._item = item
        return pointer

    @property
    def address(self) -> int:
        """The address as a plain integer."""
        return int(self)

    def _item_at(self, index: int) -> tuple[Carrier, int]:
        if self._item is None or not self._item.c_type.size:
            raise UsageError("what the pointer points at is not declared; use read() and write()")
        return self._item, int(self) + index * self._item.c_type.size

    def __getitem__(self, index: int) -> Any:
        item, address = self._item_at(index)
        return item.unpack(self.memory.read(address, item.c_type.size), self._world)

    def __setitem__(self, index: int, value: Any) -> None:
        item, address = self._item_at(index)
        packed = item.pack(value, self._world, Loan(self.memory))
        if isinstance(packed, Borrowed):
            raise TypeError("Python's memory cannot be pointed at for longer than a call: use memory.allocate()")
        self.memory.write(address, packed)

    def read(self, size: int) -> bytes:
        """Read bytes. Raises EmulationFault."""
        return self.memory.read(int(self), size)

    def write(self, data: bytes) -> None:
        """Write bytes. Raises EmulationFault."""
        self.memory.write(int(self), data)

    def string(self) -> bytes:
        """Read the string that ends in a NUL. Raises EmulationFault."""
        return self.memory.read_string(int(self))

    def array(self, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """Copy items into a NumPy array. Raises EmulationFault."""
        return self.memory.array(int(self), dtype, count)

    def __repr__(self) -> str:
        return f"<pointer {int(self):#x}>"


def pack_address(address: int) -> bytes:
    """The bytes of a pointer. Raises OverflowError for what is no address."""
    return int(address).to_bytes(POINTER_SIZE, "little", signed=address < 0)


def pack_function(value: Any, world: World, signature: Callable[[], Any]) -> Packed:
    """Make a pointer of emulated code, or of a Python function, which is given an address.

    signature: makes that of the function, where it is asked for. Raises TypeError for what is no function.
    """
    address = getattr(value, "address", value)
    if address is None or isinstance(address, int):
        return pack_address(address or 0)
    if not callable(value):
        raise TypeError(f"a {type(value).__name__} is no function")
    return pack_address(world.function_address(value, signature()))


def pack_pointer(value: Any, item: CType | None, loan: Loan) -> Packed | None:
    """Make a pointer of None, an address, what has one, or a buffer; None for anything else.

    item: what the pointer points at, None if anything. Raises TypeError for a buffer of items of another size.
    """
    if value is None:
        return bytes(POINTER_SIZE)
    if isinstance(value, int | np.integer):
        return pack_address(int(value))
    address = getattr(value, "address", None)
    if isinstance(address, int):
        return pack_address(address)
    buffer = buffer_of(value)
    if buffer is None:
        return None
    size = item_size(value)
    fits = item is None or size in (1, item.size) or (item.kind is Kind.AGGREGATE and item.size % size == 0)
    if item is not None and item.size and not fits:
        raise TypeError(f"a buffer of items of {size} bytes for a pointer to items of {item.size}")
    return loan.add(buffer)

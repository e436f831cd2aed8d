"""A map: memory that outlives a run of a program and that Python and programs share.

A map has two faces. Programs reach it through helpers, with keys and values as bytes, and get
addresses of values or negative error numbers: `lookup_elem`, `update_elem`, `delete_elem` and their like. Python
sees a mapping with typed keys and values, which calls the same operations.

A program knows a map by an address, as in the kernel, where it is that of struct bpf_map. Ours is the
address of a header that programs can read and native code can work from (header.py).

Values start at multiples of 8 bytes, so that any type in them is aligned. A pointer to a value stays
usable as long as the map exists: memory of a deleted element is not given back, but it may be used
for another element, as for the kernel's preallocated maps.

Once native code works on a map, Python's own operations on what has to hang together, the chains of a hash map
or the positions of a ring, are done by the same machine code (`engine`), which excludes one thread while another
changes them. Before, a lock of Python's excludes the threads of Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from errno import EINVAL, ENOENT, EOPNOTSUPP, EPERM
from threading import RLock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jitlink.bpf.btf_values import Bytes, Codec, codec, numpy_dtype
from jitlink.bpf.maps.definition import MapDefinition, MapFlag, MapType
from jitlink.bpf.maps.errors import map_error
from jitlink.bpf.maps.header import HEADER_SIZE, Header
from jitlink.bpf.regions import Region, Regions
from jitlink.errors import ClosedError, UsageError

ALIGNMENT = 8


class Engine(Protocol):
    """Operations on maps in machine code, for hash maps and ring buffers; map is the address of one.

    They exclude each other and the same operations of programs, and let go of Python's lock meanwhile.
    """

    def find(self, map: int, key: bytes) -> int:
        """The entry of a key, or 0."""

    def lookup(self, map: int, key: bytes, cpu: int) -> int:
        """The address of the value of a key on a CPU, or 0; the element becomes the newest."""

    def update(self, map: int, key: bytes, values: bytes, flags: int, cpu: int, cpus: int, step: int) -> int:
        """Set the values of so many CPUs from one on; they lie step bytes apart. Returns 0 or a negative errno."""

    def delete(self, map: int, key: bytes) -> int:
        """Delete an element. Returns 0 or a negative errno."""

    def copy(self, map: int, key: bytes, values: int, cpus: int) -> int:
        """Copy the values of the first CPUs to an address, one behind the other; returns 1, or 0 without an element."""

    def keys(self, map: int, first: int, last: int, keys: int) -> int:
        """Copy the keys of live entries from first to last to an address; returns how many there are."""

    def append(self, map: int, size: int) -> int:
        """Take room in a ring buffer for a record, which is open; returns its start, or -1 without room."""


class RawCodec:
    """Keys or values without a type: bytes, or integers on the way in."""

    def __init__(self, size: int, byte_order: str) -> None:
        self.size = size
        self.byte_order: Any = byte_order

    def decode(self, data: Bytes) -> bytes:
        """Give the bytes."""
        return bytes(data)

    def encode(self, value: Any) -> bytes:
        """Take bytes of the right length, or an integer that fits."""
        if isinstance(value, (bytes, bytearray, memoryview)):
            if len(value) != self.size:
                raise ValueError(f"{len(value)} bytes where {self.size} are expected")
            return bytes(value)
        try:
            number = int(value.__index__())
            return number.to_bytes(self.size, self.byte_order, signed=number < 0)
        except AttributeError:
            raise TypeError(f"{value!r} is neither bytes nor an integer") from None
        except OverflowError:
            raise ValueError(f"{value!r} does not fit {self.size} bytes") from None


class IndexCodec(RawCodec):
    """The key of an array: an index."""

    def __init__(self, byte_order: str) -> None:
        super().__init__(4, byte_order)

    def decode(self, data: Bytes) -> int:  # type: ignore[override]
        """Give the index."""
        return int.from_bytes(data, self.byte_order)


class Map(MutableMapping[Any, Any]):
    """A map, as a mapping from Python and as operations on bytes for programs.

    Attributes: definition, name, type, key_size, value_size, max_entries, flags, cpus (how many CPUs
    per-CPU values are kept for), address (by which programs know the map), frozen, engine (what works on it
    in machine code, once programs do).
    """

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        self.definition = definition
        self.name = definition.name
        self.type: MapType = definition.kind
        self.key_size = definition.key_size
        self.value_size = definition.value_size
        self.max_entries = definition.max_entries
        self.flags = MapFlag(definition.flags)
        self.cpus = cpus
        self.regions = regions
        self.frozen = False
        self.engine: Engine | None = None
        self._guard = RLock()
        self.key_codec: Codec = self._make_key_codec()
        order = definition.byte_order
        self.value_codec: Codec = codec(definition.value) if definition.value else RawCodec(self.value_size, order)
        self._header = regions.allocate(HEADER_SIZE, f"map {self.name}", writable=False)
        self.address = self._header.address
        self.write_header()

    def _make_key_codec(self) -> Codec:
        if self.definition.key is not None:
            return codec(self.definition.key)
        return RawCodec(self.key_size, self.definition.byte_order)

    def write_header(self, **places: int) -> None:
        """Fill in the header that programs and native code read. places: the fields beyond those of every map."""
        header = Header(
            self.type, self.key_size, self.value_size, self.max_entries, int(self.flags), self.cpus, **places
        )
        self._header.data[:] = bytes(header)

    def place(self, name: str) -> int:
        """A field of the header that is an address or a distance."""
        return int(getattr(Header.from_buffer_copy(self._header.data), name))

    def require_open(self) -> None:
        """Raise ClosedError once the memory of the map was given back, which machine code would not notice."""
        if not self._header.size:
            raise ClosedError(f"the object of the map {self.name} is closed")

    def require_size(self, what: str, data: bytes, size: int) -> bytes:
        """Give a key or value as bytes. Raises ValueError where it has not the size that machine code takes of it."""
        if len(data) != size:
            raise ValueError(f"a {what} of map {self.name} has {size} bytes, and not {len(data)}")
        return bytes(data)

    def go_native(self, engine: Engine) -> None:
        """Have the operations that others must not see half done carried out by machine code from here on."""
        with self._guard:
            self.engine = engine

    @property
    def memory(self) -> list[Region]:
        """The regions that it has taken."""
        return [self._header]

    @property
    def is_little_endian(self) -> bool:
        """Whether programs keep numbers in it as most hosts do, and all that native code is for."""
        return self.definition.byte_order == "little"

    @property
    def programs_may_write(self) -> bool:
        """Whether programs may change the map."""
        return not self.flags & MapFlag.RDONLY_PROG

    @property
    def programs_may_read(self) -> bool:
        """Whether programs may look elements up."""
        return not self.flags & MapFlag.WRONLY_PROG

    def freeze(self) -> None:
        """Refuse changes from Python from here on, as BPF_MAP_FREEZE does."""
        self.frozen = True

    def __repr__(self) -> str:
        return f"<{self.type.name.lower()} map {self.name!r}: up to {self.max_entries} entries>"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    # The face for programs. A map that does not offer an operation answers as the kernel does.

    def lookup_elem(self, key: bytes, cpu: int = 0) -> int:
        """Give the address of the value of a key, or 0."""
        return 0

    def update_elem(self, key: bytes, value: bytes, flags: int = 0, cpu: int | None = None) -> int:
        """Set the value of a key; of per-CPU values that of one CPU, or with None those of all.

        flags: BPF_ANY, BPF_NOEXIST or BPF_EXIST. Returns 0 or a negative errno.
        """
        return -EINVAL

    def delete_elem(self, key: bytes) -> int:
        """Delete an element. Returns 0 or a negative errno."""
        return -EINVAL

    def push_elem(self, value: bytes, flags: int = 0) -> int:
        """Add a value to a map without keys. Returns 0 or a negative errno."""
        return -EOPNOTSUPP

    def pop_elem(self) -> bytes | int:
        """Take a value out of a map without keys. Returns the value or a negative errno."""
        return -EOPNOTSUPP

    def peek_elem(self) -> bytes | int:
        """Read the value that would come out next. Returns the value or a negative errno."""
        return -EOPNOTSUPP

    def raw_keys(self) -> list[bytes]:
        """List the keys as bytes."""
        return []

    # The face for Python.

    def __getitem__(self, key: Any) -> Any:
        self._require_readable()
        return self._get(self._encode_key(key), key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.set(key, value)

    def set(self, key: Any, value: Any, flags: int = 0) -> None:
        """Set the value of a key. flags: BPF_ANY, BPF_NOEXIST or BPF_EXIST.

        Raises MapError, with the errno of the kernel, when there is no room or a flag forbids it.
        """
        self._require_writable()
        self._set(self._encode_key(key), value, flags, key)

    def __delitem__(self, key: Any) -> None:
        self._require_writable()
        self._check(self.delete_elem(self._encode_key(key)), f"delete {key!r}")

    def __iter__(self) -> Iterator[Any]:
        return map(self.key_codec.decode, self.raw_keys())

    def __len__(self) -> int:
        return len(self.raw_keys())

    def __contains__(self, key: object) -> bool:
        try:
            encoded = self._encode_key(key)
        except (TypeError, ValueError):
            return False
        return self._has(encoded)

    def _has(self, key: bytes) -> bool:
        return self.lookup_elem(key) != 0

    def _get(self, key: bytes, shown: Any) -> Any:
        raise map_error(EOPNOTSUPP, self.name, f"read {shown!r}", f"a {self.type.name} map has no values by key")

    def _set(self, key: bytes, value: Any, flags: int, shown: Any) -> None:
        self._check(self.update_elem(key, self.value_codec.encode(value), flags), f"set {shown!r}")

    def _encode_key(self, key: Any) -> bytes:
        return self.key_codec.encode(key)

    def _check(self, code: int, doing: str) -> None:
        if code < 0:
            raise map_error(-code, self.name, doing)

    def _missing(self, shown: Any) -> Exception:
        return map_error(ENOENT, self.name, f"read {shown!r}", "there is no such key")

    def _require_readable(self) -> None:
        if self.flags & MapFlag.WRONLY:
            raise map_error(EPERM, self.name, "read", "the map is write-only")

    def _require_writable(self) -> None:
        if self.frozen or self.flags & MapFlag.RDONLY:
            raise map_error(EPERM, self.name, "write", "the map is frozen" if self.frozen else "the map is read-only")


class ValueMap(Map):
    """A map whose values lie in memory that programs get pointers to.

    Value e of CPU c starts at values + c * cpu_stride + e * stride. A subclass says which entry belongs
    to a key. Only per-CPU maps have values of more than one CPU.
    """

    def __init__(
        self, definition: MapDefinition, regions: Regions, cpus: int, entries: int, *, writable: bool = True
    ) -> None:
        self.stride = max(ALIGNMENT, -(-definition.value_size // ALIGNMENT) * ALIGNMENT)
        self.cpu_stride = entries * self.stride
        definition.require_memory(cpus * self.cpu_stride)
        super().__init__(definition, regions, cpus)
        self.values_region: Region = regions.allocate(
            cpus * self.cpu_stride, f"values of map {self.name}", writable=writable and self.programs_may_write
        )
        self.base = self.values_region.address
        self.write_header(values=self.base, stride=self.stride, cpu_stride=self.cpu_stride)

    @property
    def memory(self) -> list[Region]:
        """The regions that it has taken."""
        return [*super().memory, self.values_region]

    @property
    def is_per_cpu(self) -> bool:
        """Whether every CPU has its own values."""
        return False

    def entry_of(self, key: bytes) -> int:
        """Find the entry of a key, -1 when there is none."""
        raise NotImplementedError

    def entry_for(self, key: bytes, flags: int) -> int:
        """Find or make the entry of a key to write to. Returns a negative errno when that is refused."""
        raise NotImplementedError

    def lookup_elem(self, key: bytes, cpu: int = 0) -> int:
        """Give the address of the value of a key, or 0."""
        entry = self.entry_of(key)
        return self.base + entry * self.stride + cpu * self.cpu_stride if entry >= 0 else 0

    def update_elem(self, key: bytes, value: bytes, flags: int = 0, cpu: int | None = None) -> int:
        """Set the value of a key; of a per-CPU map that of one CPU, or of all with cpu None."""
        cpus: Iterable[int] = range(self.cpus)
        if cpu is not None and self.is_per_cpu:
            self._require_cpu(cpu)
            cpus = (cpu,)
        entry = self.entry_for(key, flags)
        if entry < 0:
            return entry
        for each in cpus:
            self.write_value(entry, value, each)
        return 0

    def _require_cpu(self, cpu: int) -> None:
        if not 0 <= cpu < self.cpus:
            raise UsageError(f"the map {self.name} has values of {self.cpus} CPUs, and none of CPU {cpu}")

    def _require_cpus(self, values: list[bytes]) -> int:
        if len(values) != self.cpus:
            raise ValueError(f"{len(values)} values for the {self.cpus} CPUs of map {self.name}")
        return self.cpus

    def set_each(self, key: bytes, values: list[bytes], flags: int) -> int:
        """Set the values of all CPUs, each its own. Returns 0 or a negative errno."""
        self._require_cpus(values)
        entry = self.entry_for(key, flags)
        if entry < 0:
            return entry
        for cpu, value in enumerate(values):
            self.write_value(entry, value, cpu)
        return 0

    def values_of(self, key: bytes) -> list[bytes] | None:
        """Copy the values of a key, one for each CPU; None when there is none."""
        entry = self.entry_of(key)
        return [bytes(self.value_bytes(entry, cpu)) for cpu in range(self.cpus)] if entry >= 0 else None

    def write_value(self, entry: int, value: bytes, cpu: int = 0) -> None:
        """Write the bytes of one value."""
        at = cpu * self.cpu_stride + entry * self.stride
        self.values_region.data[at : at + self.value_size] = value

    def value_bytes(self, entry: int, cpu: int = 0) -> memoryview:
        """See the bytes of one value, without copying."""
        at = cpu * self.cpu_stride + entry * self.stride
        return self.values_region.data[at : at + self.value_size]

    def _has(self, key: bytes) -> bool:
        return self.entry_of(key) >= 0

    def _get(self, key: bytes, shown: Any) -> Any:
        values = self.values_of(key)
        if values is None:
            raise self._missing(shown)
        decoded = [self.value_codec.decode(value) for value in values]
        return decoded if self.is_per_cpu else decoded[0]

    def _set(self, key: bytes, value: Any, flags: int, shown: Any) -> None:
        if not self.is_per_cpu:
            super()._set(key, value, flags, shown)
            return
        values = [self.value_codec.encode(each) for each in value]
        self._check(self.set_each(key, values, flags), f"set {shown!r}")

    def value_dtype(self) -> np.dtype[Any]:
        """Say a value as a NumPy dtype: from its BTF type, an unsigned integer of its size, or opaque bytes."""
        order = "<" if self.definition.byte_order == "little" else ">"
        made = numpy_dtype(self.definition.value) if self.definition.value else None
        if made is None and self.value_size in (1, 2, 4, 8):
            made = np.dtype(f"{order}u{self.value_size}")
        return np.dtype(f"V{self.value_size}") if made is None else made

    def value_view(self, entries: int) -> npt.NDArray[Any]:
        """See the values as an array, without copying: [entries], of a per-CPU map [cpus, entries]."""
        dtype = self.value_dtype()
        data = self.values_region.data
        if self.is_per_cpu:
            return np.ndarray((self.cpus, entries), dtype, data, 0, (self.cpu_stride, self.stride))
        return np.ndarray((entries,), dtype, data, 0, (self.stride,))

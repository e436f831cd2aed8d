"""Externs: names that a program uses and that the kernel would define.

    .kconfig    settings of the kernel (`extern int CONFIG_HZ __kconfig`), from a dictionary by name. They
                become variables of a read-only map, as libbpf does it.
    .ksyms      variables of the kernel, from a dictionary of addresses or of bytes, which are copied into
                memory of the program; functions of the kernel (kfuncs), as Python functions by name.

A weak extern that nobody gives is 0, and programs ask for that; another one is an undefined symbol, all
of which are reported at once when a program that uses them is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jitlink.bpf.btf_types import Btf, BtfType, Kind
from jitlink.bpf.btf_values import codec
from jitlink.bpf.linking import LinkedObject
from jitlink.bpf.maps import MapDefinition, MapFlag, Maps, MapType, ValueMap
from jitlink.bpf.regions import Regions
from jitlink.bpf.sections import KCONFIG, KSYMS
from jitlink.bpf.variables import Variable, is_value
from jitlink.errors import UsageError
from jitlink.graph import Definition

EXTERN_FUNCTION = 0xBF10_0000_0000_0000
"""Where the addresses of functions outside begin: programs may ask whether there is one, and not read there."""
TRISTATE = "libbpf_tristate"
TRISTATE_VALUES = {"n": 0, "y": 1, "m": 2, False: 0, True: 1}
DEFAULT_SIZE = 8
"""Bytes of an extern whose type nobody tells."""
UNDEFINED, EXTERNAL = int(Definition.UNDEFINED), int(Definition.EXTERNAL)


@dataclass(frozen=True)
class Extern:
    """A name that the object does not define: its symbol, the section that it is declared in, its type, if any."""

    name: str
    symbol: int
    section: str
    type: BtfType | None
    weak: bool


@dataclass
class World:
    """What there is outside of a program.

    Attributes: kconfig (values by name), ksyms (addresses, or bytes to be found at one, by name),
    functions (number of each function outside by its name, in the order of their first use), assume
    (whether a name that nobody gives is taken for a weak one).
    """

    kconfig: Mapping[str, Any] = field(default_factory=dict)
    ksyms: Mapping[str, int | bytes] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)
    assume: bool = False

    def number_of(self, function: str) -> int:
        """The number by which programs call a function outside; the kernel's would be a BTF id."""
        return self.functions.setdefault(function, len(self.functions) + 1)


def find_externs(linked: LinkedObject) -> list[Extern]:
    """Find all names that some input refers to and none defines."""
    declared: dict[str, tuple[str, BtfType]] = {}
    for types in linked.types.values():
        if types.btf is not None:
            declared.update(_declared(types.btf))
    undefined, weak = linked.resolution.undefined, linked.resolution.weak
    found = []
    for symbol, raw_name in undefined.items():
        name = raw_name.decode(errors="surrogateescape")
        section, type = declared.get(name, ("", None))
        found.append(Extern(name, symbol, section, type, symbol in weak))
    return found


def _declared(btf: Btf) -> Iterator[tuple[str, tuple[str, BtfType]]]:
    """The section and the type of each extern that the types of an input declare."""
    for section in (KCONFIG, KSYMS):
        for row in btf.find(section, Kind.DATASEC):
            for extern, _, _ in btf[row].variables:
                yield extern.name, (section, extern)


def define_externs(
    linked: LinkedObject, externs: list[Extern], world: World, maps: Maps, regions: Regions
) -> list[Variable]:
    """Give an address to every extern that there is something for. Returns the variables of .kconfig.

    Leaves undefined what nobody gives. Raises UsageError for values that do not fit their type.
    """
    symbols = linked.graph.symbols
    variables = _settings(linked, [extern for extern in externs if _is_setting(extern, world)], world, maps)
    for extern in externs:
        if extern.name in variables:
            address = variables[extern.name].address
        elif extern.name in world.ksyms:
            address = _address_of(extern.name, world.ksyms[extern.name], regions)
        else:
            continue
        symbols.definition[extern.symbol] = EXTERNAL
        symbols.offset[extern.symbol] = address
    return list(variables.values())


def _is_setting(extern: Extern, world: World) -> bool:
    return extern.name in world.kconfig and extern.section != KSYMS


def _settings(linked: LinkedObject, externs: list[Extern], world: World, maps: Maps) -> dict[str, Variable]:
    """Put the settings into one map, each at a place that suits its type."""
    places: dict[str, tuple[int, bytes, BtfType | None]] = {}
    end = 0
    for extern in externs:
        type = extern.type.target if extern.type is not None else None
        type = type if type is not None and is_value(type) else None
        data = _encoded(extern.name, world.kconfig[extern.name], type, linked.byte_order)
        start = -(-end // 8) * 8
        places[extern.name] = (start, data, type)
        end = start + len(data)
    if not places:
        return {}
    flags = MapFlag.MMAPABLE | MapFlag.RDONLY_PROG
    made = maps.create(MapDefinition(KCONFIG, MapType.ARRAY, 4, end, 1, flags, byte_order=linked.byte_order))
    assert isinstance(made, ValueMap)
    variables = {}
    for name, (start, data, type) in places.items():
        variables[name] = Variable(name, made, start, len(data), type, linked.byte_order)
        variables[name].data[:] = data
    return variables


def _encoded(name: str, value: Any, type: BtfType | None, byte_order: Any) -> bytes:
    """The bytes of a setting: y, n and m stand for what they mean in a kernel's .config."""
    try:
        if type is None:
            return int(value).to_bytes(DEFAULT_SIZE, byte_order, signed=value < 0)
        real = type.resolved
        if real.name == TRISTATE:
            value = TRISTATE_VALUES.get(value, value)
        elif value in ("y", "n") and real.kind == Kind.INT:
            value = ord(value) if real.name == "char" else value == "y"
        return codec(type).encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the setting {name} cannot be {value!r}: {error}") from None


def _address_of(name: str, value: int | bytes, regions: Regions) -> int:
    """The address of a variable outside: the one given, or that of a copy of its bytes."""
    if isinstance(value, int):
        return value % (1 << 64)
    region = regions.allocate(len(value), f"kernel variable {name}")
    region.data[:] = value
    return region.address

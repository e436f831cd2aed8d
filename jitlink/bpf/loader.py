"""The loader: from BPF objects, or bytes of code, to programs that run.

    link        all inputs into one graph, CO-RE applied, cut into functions    jitlink.bpf.linking
    memory      maps, data sections and externs get their addresses             here
    helpers     what programs may call                                          jitlink.bpf.helpers
    programs    put together when they are asked for, then verified             jitlink.bpf.program_code

A program is refused when it is loaded, and not when it runs: for helpers and functions that there are
not, for maps that cannot be made, for what the verifier finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jitlink.arches import architecture
from jitlink.bpf import btf as btf_reader
from jitlink.bpf.btf_types import Btf
from jitlink.bpf.externs import World, define_externs, find_externs
from jitlink.bpf.helpers import HelperTable, Host, number_of
from jitlink.bpf.instructions import SLOT, ByteOrder
from jitlink.bpf.isa import FORMS, Family
from jitlink.bpf.kept_contexts import KeptContexts
from jitlink.bpf.linking import LinkedMap, LinkedObject, link, section_name
from jitlink.bpf.machine import Machine
from jitlink.bpf.map_declarations import REFERENCE_SIZE
from jitlink.bpf.maps import Map, MapDefinition, Maps, MapType, ValueMap
from jitlink.bpf.program import Program
from jitlink.bpf.program_code import ProgramCode, link_program
from jitlink.bpf.regions import Regions
from jitlink.bpf.sections import ContextKind, program_type
from jitlink.bpf.tiers import Tier, TierOptions, tier_named
from jitlink.bpf.translation import EXPLAINED
from jitlink.bpf.variables import Globals, data_blocks, load_data, relocate_data
from jitlink.errors import LinkFailure, MalformedInput, UnsupportedInput, UsageError
from jitlink.graph import Definition, LinkGraph, SymbolKind
from jitlink.inputs import Source
from jitlink.memory import page_size
from jitlink.protection import Protection

POINTER_SIZE = 8
EXTERNAL = int(Definition.EXTERNAL)
LINKABLE = (b"\x7fELF", b"!<arch>\n", b"!<thin>\n", b"BC\xc0\xde")
"""What objects, archives and LLVM's bitcode begin with; other bytes are code."""
_HELPER_CALLS = np.array([form.family is Family.CALL and form.operation == "helper" for form in FORMS])
Functions = Mapping[int | str, Callable[..., Any]]


class BpfObject(Mapping[str, Program]):
    """Loaded BPF objects: their programs by name, and what the programs share.

    Attributes: linked (the link graph and what was found in it); maps, globals, helpers, host, machine,
    regions; contexts; tier; license; version. Programs are put together when they are asked for.
    """

    def __init__(
        self,
        linked: LinkedObject,
        *,
        tier: str | None = None,
        options: TierOptions | None = None,
        helpers: Functions | None = None,
        kfuncs: Mapping[str, Callable[..., Any]] | None = None,
        kconfig: Mapping[str, Any] | None = None,
        ksyms: Mapping[str, int | bytes] | None = None,
        cpus: int = 1,
        verify: bool = True,
        kernel_rules: bool | None = None,
        context: str | None = None,
        map_entries: Mapping[str, int] | None = None,
        assume_externs: bool = False,
    ) -> None:
        """Load linked objects; the keywords are those of jitlink.bpf.load."""
        self.linked = linked
        self.license, self.version = linked.license, linked.version
        self.verify, self.kernel_rules = verify, kernel_rules
        self.closed = False
        self.context = None if context is None else _context_named(context)
        self.regions = Regions()
        self.contexts = KeptContexts(self.regions, linked.byte_order)
        self.maps = Maps(self.regions, cpus)
        self.host = Host(self.maps)
        self.helpers = HelperTable(self.host)
        self.tier: Tier = tier_named(tier, options or TierOptions(), self.maps, self.helpers.by_number)
        self.machine = self.tier.machine
        self.globals = Globals([])
        self._world = World(kconfig or {}, ksyms or {}, assume=assume_externs)
        self._map_entries = self._entries_of_maps(map_entries or {})
        self._programs: dict[str, Program] = {}
        self._add_functions(helpers or {}, kfuncs or {})
        self._load_memory()

    def _add_functions(self, helpers: Functions, kfuncs: Mapping[str, Callable[..., Any]]) -> None:
        for key, function in helpers.items():
            self.helpers.helper(key)(function)
        for name, function in kfuncs.items():
            self.helpers.kfunc(name)(function)
            self.machine.kfuncs[self._world.number_of(name)] = partial(_call_kfunc, self.helpers, name)

    def _load_memory(self) -> None:
        """Make maps, data sections and externs, then resolve the references between them."""
        made = [self._make_map(each) for each in self.linked.maps]
        sections = data_blocks(self.linked)
        variables = load_data(self.linked, sections, self.maps.create)
        externs = find_externs(self.linked)
        variables += define_externs(self.linked, externs, self._world, self.maps, self.regions)
        self.globals.add(variables)
        for name, blocks in sections.items():
            data = self.maps[name]
            assert isinstance(data, ValueMap)
            relocate_data(self.linked, blocks, data)
        self._fill_maps(made)

    def _make_map(self, linked: LinkedMap) -> Map:
        """Make a map; its symbol has the map's address from here."""
        definition = self.completed(linked.declaration.definition)
        try:
            made = self.maps.create(definition)
        except MalformedInput as error:
            if not definition.max_entries:
                error.hint = f"Say how many entries it has with map_entries={{{definition.name!r}: n}}"
            raise
        symbols = self.linked.graph.symbols
        symbols.definition[linked.symbol], symbols.offset[linked.symbol] = EXTERNAL, made.address
        return made

    def _entries_of_maps(self, given: Mapping[str, int]) -> Mapping[str, int]:
        """See that the maps are there that are given a size. Raises UsageError."""
        known = [linked.declaration.definition.name for linked in self.linked.maps]
        for name, entries in given.items():
            if name not in known:
                raise UsageError(f"there is no map {name!r} to give entries to; there is {', '.join(known) or 'none'}")
            if not 0 < entries < 1 << 32:
                raise UsageError(f"the map {name} cannot have {entries} entries")
        return given

    def completed(self, definition: MapDefinition) -> MapDefinition:
        """A map as a loader in user space would make it, which sets what its declaration leaves open."""
        entries = self._map_entries.get(definition.name, definition.max_entries)
        if definition.type == MapType.PERF_EVENT_ARRAY:
            # One entry for each CPU, as libbpf has it; keys and values have one size, also where nobody says so.
            entries = entries or self.maps.cpus
            key_size, value_size = definition.key_size or REFERENCE_SIZE, definition.value_size or REFERENCE_SIZE
            return replace(definition, max_entries=entries, key_size=key_size, value_size=value_size)
        if not entries and self._world.assume:
            entries = page_size() if definition.type == MapType.RINGBUF else 1
        return replace(definition, max_entries=entries)

    def _fill_maps(self, made: list[Map]) -> None:
        """Put the initial values into maps of maps and prog arrays: what relocations in their variables name."""
        graph = self.linked.graph
        by_symbol = {linked.symbol: map for linked, map in zip(self.linked.maps, made, strict=True)}
        function_of_block = self.linked.functions.row_of_block(len(graph.blocks))
        for linked, map in zip(self.linked.maps, made, strict=True):
            if linked.declaration.values_at is None:
                continue
            first = linked.offset + linked.declaration.values_at
            rows = (graph.edges.block == linked.block).nonzero()[0]
            for edge in rows[graph.edges.offset[rows] >= first].tolist():
                index, rest = divmod(int(graph.edges.offset[edge]) - first, POINTER_SIZE)
                if rest or self._belongs_to_next(linked, int(graph.edges.offset[edge])):
                    continue
                target = int(graph.edges.target[edge])
                function = int(function_of_block[graph.symbols.block[target]])
                value = by_symbol.get(target) if function < 0 else self._program(function)
                if value is None:
                    raise self._bad_value(linked, "an initial value is neither a map nor a program")
                try:
                    map[index] = value
                except (TypeError, UsageError) as error:
                    raise self._bad_value(linked, f"initial value {index}: {error}") from None

    def _belongs_to_next(self, linked: LinkedMap, offset: int) -> bool:
        """Whether a place in a section of maps lies in the variable of a later map."""
        return any(linked.offset < other.offset <= offset for other in self.linked.maps if other.block == linked.block)

    def _bad_value(self, linked: LinkedMap, fault: str) -> MalformedInput:
        block = linked.block
        return MalformedInput(
            fault,
            input=self.linked.graph.input_of_block(block),
            section=section_name(self.linked.graph, block),
            symbol=linked.declaration.definition.name,
        )

    def __getitem__(self, name: str) -> Program:
        """Put a program together, or any other function as a program. Raises KeyError and LinkError."""
        if name not in self._programs:
            functions = self.linked.functions
            row = self.linked.programs.get(name)
            if row is None:
                row = functions.names.index(name) if name in functions.names else None
            if row is None:
                raise KeyError(name)
            self._programs[name] = self._program(row)
        return self._programs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.linked.programs)

    def __len__(self) -> int:
        return len(self.linked.programs)

    def _program(self, row: int) -> Program:
        name, section = self.linked.functions.names[row], self.linked.section_of(row)
        if name in self._programs:
            return self._programs[name]
        type = program_type(section)
        made = self.link_function(self.linked, row)
        program = Program(self, name, section, type, self.context or type.context, made)
        self.make_ready(program)
        self._programs[name] = program
        return program

    def make_ready(self, program: Program) -> None:
        """Verify and compile a program. Raises LinkError."""
        if self.verify:
            kernel_rules = program.type.known if self.kernel_rules is None else self.kernel_rules
            program.verify(kernel_rules=kernel_rules).raise_if_failed()
        self.tier.compile(program.code, program.context_class)

    def link_function(self, linked: LinkedObject, row: int) -> ProgramCode:
        """Put a function of linked objects together with what it needs, for this object's world. Raises LinkError."""
        made = link_program(linked, row, self._world, self._helper_by_name)
        self._require_helpers(made)
        return made

    def _helper_by_name(self, name: str) -> int | None:
        """The number of a helper that an object calls by its name, as objects for uBPF do."""
        try:
            number = number_of(name)
        except KeyError:
            return None
        return number if number in self.helpers.by_number else None

    def _require_helpers(self, made: ProgramCode) -> None:
        """Refuse calls of helpers that there are not, naming them and the first instruction of each."""
        code = made.instructions
        calls = (_HELPER_CALLS[code.form]).nonzero()[0]
        first: dict[int, int] = {}
        for index, number in zip(calls.tolist(), (code.imm[calls] & 0xFFFF_FFFF).tolist(), strict=True):
            first.setdefault(number, index)
        missing = [number for number in first if number not in self.helpers.by_number and number not in EXPLAINED]
        if missing:
            raise MissingHelpers(
                made.code.name,
                [self.helpers.name_of(number) for number in missing],
                [_place(made, first[number]) for number in missing],
            )

    @property
    def loaded(self) -> list[Program]:
        """The programs that were put together so far."""
        return list(self._programs.values())

    def only_program(self) -> Program:
        """The program of an object that has just one. Raises UsageError, naming them, where there are others."""
        if len(self) != 1:
            names = ", ".join(self) or "none"
            raise UsageError(f"say which program to load; the object has {names}")
        return self[next(iter(self))]

    def close(self) -> None:
        """Give the memory of the programs back: they cannot be run any more. May be done twice."""
        self.closed = True
        self.contexts.close()
        self.regions.close()

    def __repr__(self) -> str:
        return f"<BPF object: programs {', '.join(self) or 'none'}; maps {', '.join(self.maps) or 'none'}>"


class MissingHelpers(LinkFailure):
    """A program calls helpers that there are not. Attributes: program, names, places (of the first call of each)."""

    def __init__(self, program: str, names: list[str], places: list[str]) -> None:
        super().__init__(program, names, places)
        self.program = program
        self.names = names
        self.places = places

    def __str__(self) -> str:
        lines = [f"  {name}, called at {place}" for name, place in zip(self.names, self.places, strict=True)]
        count = "a helper that there is not" if len(lines) == 1 else f"{len(lines)} helpers that there are not"
        advice = "Give them with helpers={number or name: function}."
        return "\n".join([f"{self.program} calls {count}:", *lines, advice])


def load(*sources: Source, program: str | None = None, **options: Any) -> Program:
    """Load a BPF program from objects, or from bytes of code.

    sources: paths, bytes or link graphs of BPF objects, linked into one; or the bytes of a program
    without any object, as bpf.assemble makes them. program: its name, where there are several; any
    function of the objects may be named. The other keywords are those of load_object. Raises LinkError.
    """
    loaded = load_object(*sources, **options)
    if program is None:
        return loaded.only_program()
    try:
        return loaded[program]
    except KeyError:
        names = ", ".join(loaded) or "none"
        raise UsageError(f"there is no program {program!r}; the object has {names}") from None


def load_object(
    *sources: Source,
    target_btf: Btf | str | bytes | None = None,
    byteorder: ByteOrder = "little",
    tier: str | None = None,
    sandbox: bool = True,
    meter: bool = True,
    hardened: bool = False,
    seed: int | None = None,
    cache: bool = True,
    helpers: Functions | None = None,
    kfuncs: Mapping[str, Callable[..., Any]] | None = None,
    kconfig: Mapping[str, Any] | None = None,
    ksyms: Mapping[str, int | bytes] | None = None,
    cpus: int = 1,
    verify: bool = True,
    kernel_rules: bool | None = None,
    context: str | None = None,
    map_entries: Mapping[str, int] | None = None,
    assume_externs: bool = False,
) -> BpfObject:
    """Link BPF objects into one and load it: its maps, variables and helpers, with all its programs.

    target_btf: types of the kernel to run on, for CO-RE; a file, bytes of it, or Btf; by default each
    object's own. byteorder: of bytes that are code. tier: how programs are run, see jitlink.bpf.tiers.
    sandbox: whether every access of memory is checked; the interpreter always does. meter: whether native
    code counts instructions; without, no budget ends a run. hardened: whether native code keeps programs from
    choosing its bytes (see jitlink.bpf.jit.hardening); seed: makes the randomness of that repeatable.
    cache: whether what LLVM makes is kept on disk (see jitlink.bpf.llvm_tier.cache). helpers:
    functions to add or replace, by number or name. kfuncs: functions of the kernel, by name. kconfig: values
    of .kconfig, by name. ksyms: addresses of kernel variables, or bytes to be found there, by name. cpus: how
    many CPUs per-CPU maps keep values for. verify: whether programs are checked when they are loaded;
    kernel_rules: also for what only the Linux kernel refuses, by default for the program types of the kernel.
    context: run all programs on "xdp", "skb" or "flat" instead of what their section says. map_entries: how many
    entries maps have, by name, instead of what is declared: many a program is declared without and told by its
    loader. assume_externs: load programs although nobody has given what they use of the kernel, nor how many entries
    their maps have, to look at them; a call of what is missing is a fault.

    Raises LinkError: for bad input, names that nobody defines, helpers that there are not, maps that
    cannot be made, and VerificationFailed with all faults of a program.
    """
    types = target_btf if isinstance(target_btf, Btf) or target_btf is None else _read_btf(target_btf)
    inputs = [_graph_of_code(source, byteorder) if is_code(source) else source for source in sources]
    return BpfObject(
        link(*inputs, target_btf=types),
        tier=tier,
        options=TierOptions(sandbox=sandbox, meter=meter, hardened=hardened, seed=seed, cache=cache),
        helpers=helpers,
        kfuncs=kfuncs,
        kconfig=kconfig,
        ksyms=ksyms,
        cpus=cpus,
        verify=verify,
        kernel_rules=kernel_rules,
        context=context,
        map_entries=map_entries,
        assume_externs=assume_externs,
    )


def is_code(source: Source) -> bool:
    """Whether a source is a program without an object around it: bytes that are neither object nor archive."""
    return isinstance(source, bytes | bytearray | memoryview) and not bytes(source[:8]).startswith(LINKABLE)


def _graph_of_code(source: Source, byteorder: ByteOrder) -> LinkGraph:
    """Put the bytes of a program into a link graph, as a plain program called main."""
    assert isinstance(source, bytes | bytearray | memoryview)
    if not len(source):
        raise MalformedInput("there is no code", input="(code)")
    graph = LinkGraph(architecture("bpf" if byteorder == "little" else "bpfeb"), name="(code)")
    section = graph.add_section("program", Protection.READ | Protection.EXECUTE)
    block = graph.add_block(section, bytes(source), alignment=SLOT)
    graph.add_symbol("main", block, size=len(source), kind=SymbolKind.FUNCTION)
    return graph


def _context_named(name: str) -> ContextKind:
    try:
        return ContextKind(name)
    except ValueError:
        raise UsageError(f"there is no context {name!r}; there are {', '.join(ContextKind)}") from None


def _call_kfunc(table: HelperTable, name: str, machine: Machine, *registers: int) -> int:
    """Call what stands for a function of the kernel now: it may have been replaced since."""
    return table.kfuncs[name](machine, *registers[:5])


def _place(made: ProgramCode, index: int) -> str:
    line = made.code.line(index)
    return f"instruction {index}{f' ({line})' if line else ''}"


def _read_btf(source: str | bytes) -> Btf:
    """Read the types of a target: raw BTF, as in /sys/kernel/btf/vmlinux, or an object with a section .BTF."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if data.startswith(b"\x7fELF"):
        for types in link(data).types.values():
            if types.btf is not None:
                return types.btf
        raise UnsupportedInput("the object that is to give the target's types has no .BTF")
    return btf_reader.parse(data)

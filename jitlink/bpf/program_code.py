"""The code of one program: its functions one behind the other, with all references resolved.

This is the second half of a link, done for each program when it is loaded. The functions that it needs
are laid out with the program's own in front, at FUNCTION_BASE, where the machine counts functions from.
Maps, variables and externs have their addresses by now. What is left is the work of the linker's own
fixups: S + A into a wide constant, the distance into a call.

Two references say in their instruction what they are, since the verifier asks: a call of a function has
src 1, a wide constant with a function's address src 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitlink.arches.bpf import FUNCTION_POINTER
from jitlink.bpf.btf_ext import LineTable
from jitlink.bpf.externs import EXTERN_FUNCTION, World
from jitlink.bpf.functions import FUNCTION_ADDRESS, HELPER_CALL, LOCAL_CALL, needed_functions
from jitlink.bpf.instructions import SLOT, WIDE, Instructions, decode
from jitlink.bpf.linking import LinkedObject, section_name
from jitlink.bpf.machine import FUNCTION_BASE, Code
from jitlink.bpf.translation import MISSING_FUNCTION
from jitlink.columns import Rows, rows_of, starts_of
from jitlink.errors import MalformedInput, UndefinedSymbols
from jitlink.fixups import EdgeLetters, apply_kind, place_of
from jitlink.formulas import Kind
from jitlink.graph import Definition

CALL_OPCODE = 0x85
KFUNC_CALL = 2
RELOCATABLE = (0, 1, FUNCTION_ADDRESS)
"""Values of src in a wide constant that a relocation completes: plain, a map by some assemblers, a function."""
ADVICE = "A call reaches any function of its program."
UNDEFINED, EXTERNAL = int(Definition.UNDEFINED), int(Definition.EXTERNAL)

NumberOfHelper = Callable[[str], int | None]


class UndefinedExterns(UndefinedSymbols):
    """Names that a program uses and that neither an object nor the caller defines, all of them at once."""

    def __str__(self) -> str:
        facts = super().__str__().rpartition("\n")[0]
        advice = "Give functions with kfuncs=, settings with kconfig=, variables with ksyms=, or add an object."
        return f"{facts}\n{advice}"


class SourceLines:
    """The source lines of a program, which are put together when somebody asks. make: does that."""

    def __init__(self, make: Callable[[], LineTable]) -> None:
        self._make = make
        self._table: LineTable | None = None

    @property
    def table(self) -> LineTable:
        """The source lines of all instructions."""
        if self._table is None:
            self._table = self._make()
        return self._table

    def place(self, index: int) -> str | None:
        """The source line of an instruction, as "file:line", where it is known."""
        line = self.table(index)
        return None if line is None else f"{line.file}:{line.line}"


@dataclass
class ProgramCode:
    """A program that is ready to run.

    Attributes: code; functions (name of each function by the index of its first instruction);
    references (what an instruction refers to, by its index, in words); outside (the functions outside
    that it calls, by name); lines (the source lines of all instructions).
    """

    code: Code
    functions: dict[int, str]
    references: dict[int, str]
    outside: dict[str, int]
    source: SourceLines = field(repr=False)

    @property
    def lines(self) -> LineTable:
        """The source lines of all instructions; put together when somebody asks."""
        return self.source.table

    @property
    def instructions(self) -> Instructions:
        """The instructions."""
        return self.code.instructions


def link_program(linked: LinkedObject, function: int, world: World, number_of_helper: NumberOfHelper) -> ProgramCode:
    """Put a program together. Needs the addresses of maps, variables and externs.

    function: its row in linked.functions. number_of_helper: finds a helper by its name, for functions
    outside that are called like one. Raises UndefinedExterns with all names that nobody has given, and
    MalformedInput for relocations of instructions that they do not fit.
    """
    return _Assembler(linked, function, world, number_of_helper).assemble()


class _Assembler:
    """One program in the making: the rows of its functions and edges, and its bytes."""

    def __init__(self, linked: LinkedObject, function: int, world: World, number_of_helper: NumberOfHelper) -> None:
        self.linked = linked
        self.graph = linked.graph
        self.world = world
        self.number_of_helper = number_of_helper
        self.name = linked.functions.names[function]
        self.rows = needed_functions(linked.graph, linked.functions, function)
        functions = linked.functions
        self.blocks = functions.block[self.rows]
        size = functions.size[self.rows]
        self.start = starts_of(size)
        self.positions = np.zeros(len(self.graph.blocks), np.int64)
        self.positions[self.blocks] = self.start[:-1]
        self.image = self.graph.pool[rows_of(self.graph.blocks.content[self.blocks], size)]
        self.graph.blocks.address[self.blocks] = self.start[:-1].view(np.uint64) + np.uint64(FUNCTION_BASE)
        inside = np.zeros(len(self.graph.blocks), np.bool_)
        inside[self.blocks] = True
        edges = self.graph.edges
        self.edges: Rows = (inside[edges.block] & (edges.kind > 0)).nonzero()[0]
        self.slot = (self.positions[edges.block[self.edges]] + edges.offset[self.edges]) // SLOT
        self.outside: dict[str, int] = {}

    def assemble(self) -> ProgramCode:
        """Check the references, resolve them, and decode what comes out."""
        self._check_instructions()
        self._refuse_undefined()
        references = self._references()
        self._call_outside()
        self._fix_up()
        source = SourceLines(self._lines)
        return ProgramCode(
            Code(decode(self.image.tobytes(), self.linked.byte_order), self.name, source.place),
            dict(zip((self.start[:-1] // SLOT).tolist(), self._names(), strict=True)),
            references,
            self.outside,
            source,
        )

    def _names(self) -> list[str]:
        return [self.linked.functions.names[row] for row in self.rows.tolist()]

    def _kind_rows(self, name: str) -> npt.NDArray[np.bool_]:
        """Mark the edges of a kind: bool[edges]."""
        marks: npt.NDArray[np.bool_] = self.graph.edges.kind[self.edges] == self.graph.target.kind_number(name)
        return marks

    def _targets(self) -> Rows:
        targets: Rows = self.graph.edges.target[self.edges]
        return targets

    def _to_function(self) -> npt.NDArray[np.bool_]:
        """Mark the edges to functions of the program: bool[edges]."""
        is_function = self.linked.functions.row_of_block(len(self.graph.blocks)) >= 0
        marks: npt.NDArray[np.bool_] = is_function[self.graph.symbols.block[self._targets()]]
        return marks

    def _check_instructions(self) -> None:
        """Every relocation must sit in an instruction of its sort: a call, or a wide constant that is one."""
        at = self.slot * SLOT
        calls, constants = self._kind_rows("R_BPF_64_32"), self._kind_rows("R_BPF_64_64")
        opcode, source = self.image[at], self._source()
        right = calls & (opcode == CALL_OPCODE) & (source <= LOCAL_CALL)
        whole = at + 2 * SLOT <= len(self.image)
        right |= constants & whole & (opcode == WIDE) & np.isin(source, RELOCATABLE)
        right |= ~calls & ~constants & ~self._applied()
        # A call leads to code: a function of the program, or one outside that somebody gives.
        symbols, target = self.graph.symbols, self._targets()
        somewhere = (symbols.definition[target] == UNDEFINED) | (symbols.definition[target] == EXTERNAL)
        right &= ~calls | self._to_function() | somewhere
        # What has a place but no address is no code and no variable: a license, unwind records, types.
        block = symbols.block[target]
        right &= (block == 0) | (self.graph.blocks.address[block] > 0) | self._to_function()
        for row in (~right).nonzero()[0].tolist():
            edge = int(self.edges[row])
            kind, opcode_there = self.graph.target.kinds[int(self.graph.edges.kind[edge])].name, int(opcode[row])
            block = int(self.graph.edges.block[edge])
            raise MalformedInput(
                f"{kind} does not fit the instruction, whose opcode is {opcode_there:#04x}, or what it points at",
                input=self.graph.input_of_block(block),
                section=section_name(self.graph, block),
                offset=self._place_in_section(edge),
                symbol=self.graph.edges[edge].target.name or None,
            )

    def _applied(self) -> npt.NDArray[np.bool_]:
        applied: npt.NDArray[np.bool_] = self.linked.target.kinds.applied[self.graph.edges.kind[self.edges]]
        return applied

    def _place_in_section(self, edge: int) -> int:
        row = int(self.linked.functions.row_of_block(len(self.graph.blocks))[self.graph.edges.block[edge]])
        return int(self.linked.functions.start[row] + self.graph.edges.offset[edge])

    def _source(self) -> npt.NDArray[np.uint8]:
        """The register field src of each edge's instruction: uint8[edges]."""
        registers = self.image[self.slot * SLOT + 1]
        source: npt.NDArray[np.uint8] = registers >> 4 if self.linked.byte_order == "little" else registers & 15
        return source

    def _set_source(self, slot: Rows, source: int) -> None:
        """Write the register field src of some instructions."""
        at = slot * SLOT + 1
        if self.linked.byte_order == "little":
            self.image[at] = self.image[at] & 0x0F | source << 4
        else:
            self.image[at] = self.image[at] & 0xF0 | source

    def _refuse_undefined(self) -> None:
        """Report all names that nobody has given and that are not weak."""
        missing: dict[str, int] = {}
        for row in self._to_outside().nonzero()[0].tolist():
            symbol = int(self._targets()[row])
            name = self.graph.symbols[symbol].name
            given = name in self.world.functions or self.number_of_helper(name) is not None
            if not given and not self.world.assume and symbol not in self.linked.resolution.weak:
                missing.setdefault(name, int(self.edges[row]))
        if missing:
            raise UndefinedExterns(list(missing), [place_of(self.graph, edge) for edge in missing.values()])

    def _references(self) -> dict[int, str]:
        """Say in words what each instruction refers to."""
        edges, symbols = self.graph.edges, self.graph.symbols
        targets = self._targets()
        names = self.graph.names_at(symbols.name[targets])
        variables = _NearestVariable(self.linked)
        words = {}
        for slot, target, raw_name, addend in zip(
            self.slot.tolist(), targets.tolist(), names, edges.addend[self.edges].tolist(), strict=True
        ):
            name = raw_name.decode(errors="surrogateescape")
            words[slot] = variables.name(target, addend) or name
        return words

    def _to_outside(self) -> npt.NDArray[np.bool_]:
        """Mark the edges to what has no address: names that nobody has given, and functions outside."""
        undefined = self.graph.symbols.definition[self._targets()] == UNDEFINED
        marks: npt.NDArray[np.bool_] = undefined | (self._kind_rows("R_BPF_64_32") & ~self._to_function())
        return marks

    def _call_outside(self) -> None:
        """Turn calls and addresses of functions outside into what the machine knows them by."""
        calls = self._kind_rows("R_BPF_64_32")
        done = np.zeros(len(self.edges), np.bool_)
        for row in self._to_outside().nonzero()[0].tolist():
            name = self.graph.symbols[int(self._targets()[row])].name
            slot = self.slot[row : row + 1]
            number, source = self._number_outside(name)
            if calls[row]:
                self._set_source(slot, source)
                self._set_imm(int(slot[0]), number)
            else:
                exists = source == KFUNC_CALL
                self._set_imm(int(slot[0]), EXTERN_FUNCTION + SLOT * number if exists else 0, wide=True)
            done[row] = True
        self.edges, self.slot = self.edges[~done], self.slot[~done]

    def _number_outside(self, name: str) -> tuple[int, int]:
        """The number of a function outside, and the src of a call of it."""
        if name in self.world.functions:
            number = self.outside[name] = self.world.functions[name]
            return number, KFUNC_CALL
        helper = self.number_of_helper(name)
        return (MISSING_FUNCTION if helper is None else helper), HELPER_CALL

    def _set_imm(self, slot: int, value: int, *, wide: bool = False) -> None:
        order = self.linked.byte_order
        low, high = value & 0xFFFF_FFFF, value >> 32
        at = slot * SLOT + 4
        self.image[at : at + 4] = np.frombuffer(low.to_bytes(4, order), np.uint8)
        if wide:
            self.image[at + SLOT : at + SLOT + 4] = np.frombuffer(high.to_bytes(4, order), np.uint8)

    def _fix_up(self) -> None:
        """Apply the kinds to their edges, as the linker does for any image."""
        edges = self.graph.edges
        kind = edges.kind[self.edges].copy()
        to_function = self._to_function()
        calls, pointers = self._kind_rows("R_BPF_64_32"), to_function & self._kind_rows("R_BPF_64_64")
        self._set_source(self.slot[calls], LOCAL_CALL)
        self._set_source(self.slot[self._kind_rows("R_BPF_64_64")], 0)
        self._set_source(self.slot[pointers], FUNCTION_ADDRESS)
        kind[pointers] = self.graph.target.kind_number(FUNCTION_POINTER)
        addresses = self.graph.symbols.addresses()
        for number in np.unique(kind).tolist():
            described: Kind = self.linked.target.kinds[number]
            if described.applied:
                letters = EdgeLetters(self.graph, self.edges[kind == number], addresses, np.uint64(0))
                apply_kind(self.graph, self.image, self.positions, described, letters, lambda kind, edge: ADVICE)

    def _lines(self) -> LineTable:
        """The source lines of all functions, each at its place in the program."""
        starts = (self.start[:-1] // SLOT).tolist()
        tables = [self.linked.lines_of(row).moved(start) for row, start in zip(self.rows.tolist(), starts, strict=True)]
        return LineTable.joined(tables)


class _NearestVariable:
    """Names for places in data: references there often go through the symbol of the section."""

    def __init__(self, linked: LinkedObject) -> None:
        self.symbols = linked.graph.symbols
        self.graph = linked.graph
        self.known: dict[tuple[int, int], str] = {}
        self.blocks: set[int] = set()

    def name(self, symbol: int, addend: int) -> str:
        """The variable at a distance from a symbol of data, or ""."""
        block = int(self.symbols.block[symbol])
        if not block:
            return ""
        if block not in self.blocks:
            self._learn(block)
        return self.known.get((block, int(self.symbols.offset[symbol]) + addend), "")

    def _learn(self, block: int) -> None:
        self.blocks.add(block)
        rows = ((self.symbols.block == block) & (self.symbols.size > 0)).nonzero()[0]
        names = self.graph.names_at(self.symbols.name[rows])
        for offset, name in zip(self.symbols.offset[rows].tolist(), names, strict=True):
            if name:
                self.known.setdefault((block, offset), name.decode(errors="surrogateescape"))

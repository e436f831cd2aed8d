"""Where things are in a finished image, by the names that rules use for them.

Symbols go by their names in the object, with the underscore of Mach-O. A file is an input by its name or
by the last part of it. GOT entries and stubs belong to the whole link here, and not to a file; a rule
names one all the same, and it must be one of the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePath

import numpy as np

from jitlink.check.entries import Entries
from jitlink.check.grammar import RuleError
from jitlink.check.operands import Instruction, decode
from jitlink.escaping import escaped
from jitlink.graph import Definition
from jitlink.image import Image

LONGEST_INSTRUCTION = 16
STUB = "stub_addr"


class Places:
    """The places of an image. define: the names and addresses that the caller gave."""

    def __init__(self, image: Image, define: Mapping[str, int]) -> None:
        self.image = image
        self.graph = image.graph
        self._define = define
        self._entries = Entries(self.graph)

    @cached_property
    def _addresses(self) -> dict[str, int]:
        """The address of every name: of several of one name, a definition that others see comes first."""
        graph, symbols = self.graph, self.graph.symbols
        known = symbols.definition != Definition.UNDEFINED
        known &= graph.blocks.live[symbols.block]
        rows = known.nonzero()[0][1:]
        rows = rows[symbols.scope[rows].argsort(kind="stable")[::-1]]
        names = graph.names_at(symbols.name[rows])
        found = zip(names, symbols.addresses()[rows].tolist(), strict=True)
        own = {name.decode(errors="surrogateescape"): address for name, address in found if name}
        return {
            **{graph.raw_name(name).decode(errors="surrogateescape"): at for name, at in self._define.items()},
            **own,
        }

    def symbol(self, name: str) -> int:
        """The address of a symbol. Raises RuleError."""
        if name not in self._addresses:
            advice = " (an assembler drops labels that begin with L)" if name.startswith((".L", "L")) else ""
            raise RuleError(f"there is no symbol {escaped(name)}{advice}")
        return self._addresses[name]

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the image. Raises RuleError."""
        try:
            return self.image.read(address, size)
        except IndexError as error:
            raise RuleError(str(error)) from None

    def instruction(self, symbol: str, offset: int) -> Instruction:
        """The instruction at an offset from a symbol. Raises RuleError."""
        address = self.symbol(symbol) + offset
        for size in range(LONGEST_INSTRUCTION, 0, -1):
            try:
                code = self.image.read(address, size)
            except IndexError:
                continue
            return decode(self.graph.target.name, code, address)
        raise RuleError(f"there is no code at {escaped(symbol)}{f'+{offset:#x}' if offset else ''}")

    def _input(self, file: str) -> int:
        """The number of an input. Raises RuleError."""
        inputs = self.graph.inputs
        named = [number for number, name in enumerate(inputs) if number and file in (name, PurePath(name).name)]
        if not named:
            raise RuleError(f"there is no input {escaped(file)}; there are {', '.join(map(escaped, inputs[1:]))}")
        return named[0]

    def section(self, file: str, section: str) -> int:
        """The first address of a section of an input. Raises RuleError."""
        rows = self._rows_of_section(self._input(file), section)
        if not rows:
            raise RuleError(f"{escaped(file)} has no section {escaped(section)} in the image")
        blocks = self.graph.blocks
        of_section = np.isin(blocks.section, rows) & blocks.live
        if not np.count_nonzero(of_section):
            raise RuleError(f"nothing of the section {escaped(section)} of {escaped(file)} is in the image")
        return int(blocks.address[of_section].min())

    def _rows_of_section(self, input: int, section: str) -> list[int]:
        sections = self.graph.sections
        rows = (sections.input == input).nonzero()[0].tolist()
        wanted = section.encode(errors="surrogateescape")
        return [row for row in rows if row and self.graph.raw_name_at(int(sections.name[row])) == wanted]

    def entry(self, function: str, file: str, arguments: tuple[str, ...]) -> int:
        """The address of the GOT entry or stub of a symbol. Raises RuleError.

        arguments: a symbol, behind a section of the file or in front of a kind of entry, which LLVM
        numbers and we do not have.
        """
        input = self._input(file)
        symbol = arguments[0]
        if len(arguments) > 1 and self._rows_of_section(input, arguments[0]):
            symbol = arguments[1]
        self.symbol(symbol)
        name = symbol.encode(errors="surrogateescape")
        found = self._entries.stubs if function == STUB else self._entries.slots
        if name not in found:
            raise RuleError(f"there is no {'stub' if function == STUB else 'GOT entry'} for {escaped(symbol)}")
        return found[name]

"""The tree of errors: every way in which a link can fail, with the facts of the failure.

    LinkError                        anything that keeps objects from being linked or used
    ├── InputError                   what was given is at fault
    │   ├── UnreadableInput          it cannot be opened or read
    │   ├── MalformedInput           the bytes contradict their own format
    │   └── UnsupportedInput         sound, but not something that we can link
    ├── LinkFailure                  every input is sound, but together they cannot be linked
    │   ├── UndefinedSymbols         nobody defines these names
    │   ├── DuplicateDefinitions     several inputs define these names
    │   ├── UnsupportedRelocation    a relocation kind that we do not apply, with the reason
    │   ├── OutOfRange               a value does not fit the field it is written to
    │   └── MemoryRefused            the host gives no memory, or not with these protections
    ├── ExecutionError               linked code ran in the emulated CPU and did not come to its end
    │   ├── EmulationFault           it did what a processor refuses; says where, and shows the code
    │   │   └── InstructionLimit     it took more instructions than it was given
    │   └── ProgramExit              it called exit
    └── UsageError                   the call itself cannot be served
        ├── SymbolNotFound           a lookup of a name that no dylib exports
        ├── UntypedSymbol            a symbol cannot be used by name: its C type is not known, or not served
        ├── ClosedError              a handle was used after its session had closed
        └── MissingExtra             an optional package is not installed

    ForeignException                 what linked code threw, a C++ exception or a Rust panic: no LinkError

An error holds facts; its text is made from them here and nowhere else. Code that knows only an
offset states the fault, and the code around it adds the name of the input while the error passes
(`with reading(name):`). A bug of our own is not a LinkError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from jitlink.escaping import escaped

VARIANTS_OF_MACOS = ("$INODE64", "$UNIX2003", "$DARWIN_EXTSN", "$NOCANCEL", "$1050")
SHOWN_AT_MOST = 20
"""How many names or places an error spells out before it counts the rest."""


class LinkError(Exception):
    """Anything that keeps objects from being linked or used."""


class InputError(LinkError):
    """What was given is at fault: names the input, the place in it and the rule broken.

    Attributes: fault (the rule broken), input, section, offset (bytes from the start of the
    section, or of the input where there is no section), symbol, hint (what a person can do).
    """

    def __init__(
        self,
        fault: str,
        *,
        input: str | None = None,
        section: str | None = None,
        offset: int | None = None,
        symbol: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(fault)
        self.fault = fault
        self.input = input
        self.section = section
        self.offset = offset
        self.symbol = symbol
        self.hint = hint

    def __str__(self) -> str:
        place = _place(self.input, self.section, self.offset, self.symbol)
        text = f"{place}: {self.fault}" if place else self.fault
        return f"{text}. {self.hint}" if self.hint else text


class UnreadableInput(InputError, OSError):
    """An input that cannot be opened or read; the reason is the operating system's."""


class MalformedInput(InputError):
    """The bytes of an input contradict the rules of their own format."""


class UnsupportedInput(InputError):
    """A sound input of a sort that cannot be linked here: another machine, an executable, ..."""


class LinkFailure(LinkError):
    """Every input is sound by itself, but together they cannot be linked."""


class Place(NamedTuple):
    """Where in the inputs something is: offset counts bytes from the start of the section."""

    input: str
    section: str = ""
    offset: int | None = None

    def __str__(self) -> str:
        return _place(self.input, self.section or None, self.offset, None)


class UndefinedSymbols(LinkFailure):
    """Names that are referred to and that nobody defines, all of them at once.

    Attributes: names (in order of first reference), places (one reference for each name).
    """

    def __init__(self, names: Sequence[str], places: Sequence[Place]) -> None:
        super().__init__(names, places)
        self.names = list(names)
        self.places = list(places)

    def __str__(self) -> str:
        lines = [
            f"  {escaped(name)}, referred to by {place}" for name, place in zip(self.names, self.places, strict=True)
        ]
        count = "an undefined symbol" if len(lines) == 1 else f"{len(lines)} undefined symbols"
        advice = "Define them with define=, link_against() or a further input, or load the library that has them."
        if any(name.endswith(VARIANTS_OF_MACOS) for name in self.names):
            advice += "\nNames with $ are variants of macOS, whose structures and flags are not those of this system."
        command = f"`jitlink explain why {escaped(self.names[0])} INPUT...` shows who asks for it."
        return "\n".join([f"{count}:", *_shortened(lines), advice, command])


class DuplicateDefinitions(LinkFailure):
    """Names that more than one input defines strongly, all of them at once.

    Attributes: names, places (for each name, every place that defines it).
    """

    def __init__(self, names: Sequence[str], places: Sequence[Sequence[Place]]) -> None:
        super().__init__(names, places)
        self.names = list(names)
        self.places = [list(several) for several in places]

    def __str__(self) -> str:
        lines = [
            f"  {escaped(name)}, defined by {' and by '.join(map(str, several))}"
            for name, several in zip(self.names, self.places, strict=True)
        ]
        count = "a symbol is" if len(lines) == 1 else f"{len(lines)} symbols are"
        advice = "Leave one of the inputs out, or put them into two dylibs."
        command = f"`jitlink explain who {escaped(self.names[0])} INPUT...` shows who refers to it."
        return "\n".join([f"{count} defined more than once:", *_shortened(lines), advice, command])


class UnsupportedRelocation(LinkFailure):
    """A relocation that we do not apply, by name and number, with the reason."""

    def __init__(self, name: str, number: int, reason: str, places: Sequence[Place]) -> None:
        super().__init__(name, number, reason, places)
        self.name = name
        self.number = number
        self.reason = reason
        self.places = list(places)

    def __str__(self) -> str:
        first = f"{self.places[0]}: " if self.places else ""
        more = _more(len(self.places) - 1, "relocation")
        return f"{first}relocation {self.name} ({self.number}) is not supported: {self.reason}{more}"


class OutOfRange(LinkFailure):
    """Values that do not fit the fields they are written to, all fixups of one kind at once.

    Attributes: kind (name), formula, rule (what the check allows), places, targets (symbol names),
    values (as Python integers), hint. Raised before anything of that kind is written.
    """

    def __init__(
        self,
        *,
        kind: str,
        formula: str,
        rule: str,
        places: Sequence[Place],
        targets: Sequence[str],
        values: Sequence[int],
        hint: str,
    ) -> None:
        super().__init__(kind, formula, rule, places, targets, values, hint)
        self.kind = kind
        self.formula = formula
        self.rule = rule
        self.places = list(places)
        self.targets = list(targets)
        self.values = list(values)
        self.hint = hint

    def __str__(self) -> str:
        more = _more(len(self.values) - 1, "edge")
        return (
            f"{self.places[0]}: {self.kind} to {escaped(self.targets[0])}: {self.formula} = {_hex(self.values[0])} "
            f"{self.rule}{more}. {self.hint.rstrip('.')}. See `jitlink explain reloc {_arguments(self.places[0])}`."
        )


class MemoryRefused(LinkFailure):
    """The host gives no memory, or not at this place or with these protections."""


class ExecutionError(LinkError):
    """Linked code ran in the emulated CPU and did not come to its end."""


class EmulationFault(ExecutionError):
    """Emulated code did what a processor refuses: reached for memory that is not there, and the like.

    Attributes: reason; address (of the instruction, None where Python itself reached for memory);
    location (symbol, offset and object of the address, and file and line where they are known, or None);
    listing (the disassembly around it, a line each).
    """

    def __init__(
        self, reason: str, *, address: int | None = None, location: str | None = None, listing: Sequence[str] = ()
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.address = address
        self.location = location
        self.listing = list(listing)

    def __str__(self) -> str:
        place = escaped(self.location) if self.location else _hex(self.address) if self.address is not None else ""
        return "\n".join([f"{place}: {self.reason}" if place else self.reason, *self.listing])


class InstructionLimit(EmulationFault):
    """A call took more instructions than the session allows."""


class ProgramExit(ExecutionError):
    """Emulated code called exit; status is what it gave."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return f"the program called exit({self.status})"


class UsageError(LinkError):
    """The call itself cannot be served."""


class SymbolNotFound(UsageError, KeyError):
    """A lookup of a name that no dylib in reach exports."""

    def __init__(self, name: str, where: str) -> None:
        super().__init__(name, where)
        self.name = name
        self.where = where

    def __str__(self) -> str:
        return f"{self.where} exports no symbol {self.name!r}"


class UntypedSymbol(UsageError, AttributeError):
    """A symbol cannot be used by name: its C type is not known, or it is one that is not served.

    An AttributeError too, since the attribute of a library is what could not be had.
    """


class ClosedError(UsageError):
    """A handle was used after its session or dylib had closed: its memory is gone."""


class MissingExtra(UsageError, ImportError):
    """An optional package is not installed; the text names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(package, extra, purpose)
        self.package = package
        self.extra = extra
        self.purpose = purpose

    def __str__(self) -> str:
        return f"{self.purpose} needs the package {self.package}: pip install 'jitlink[{self.extra}]'"


class ForeignException(RuntimeError):
    """A C++ exception or a Rust panic that left linked code. No LinkError: the link and the call were sound.

    Attributes: type_name (of what was thrown, as its language writes it); message (what() of a
    std::exception, the text of a panic, a number or text that was thrown itself; empty if there is
    none); language ("C++", "Rust", or the class of the exception in hexadecimal).
    """

    def __init__(self, type_name: str, message: str, language: str) -> None:
        super().__init__(type_name, message, language)
        self.type_name = type_name
        self.message = message
        self.language = language

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


@contextmanager
def reading(input: str) -> Iterator[None]:
    """Add the name of the input to an InputError that passes and does not have one yet."""
    try:
        yield
    except InputError as error:
        if error.input is None:
            error.input = input
        raise


def _place(input: str | None, section: str | None, offset: int | None, symbol: str | None) -> str:
    parts = [escaped(input)] if input else []
    if section and offset is not None:
        parts.append(f"{escaped(section)}+{_hex(offset)}")
    elif section:
        parts.append(escaped(section))
    elif offset is not None:
        parts.append(f"offset {_hex(offset)}")
    if symbol:
        parts.append(f"symbol {escaped(symbol)}")
    return ": ".join(parts)


def _arguments(place: Place) -> str:
    """A place as the arguments of a command."""
    return f"{escaped(place.input)} {escaped(place.section)}+{_hex(place.offset or 0)}"


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= SHOWN_AT_MOST:
        return lines
    return [*lines[:SHOWN_AT_MOST], f"  and {len(lines) - SHOWN_AT_MOST} more"]


def _more(count: int, noun: str) -> str:
    if count < 1:
        return ""
    return f"; {count} more {noun}{'s' if count > 1 else ''} like it"


def _hex(value: int) -> str:
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"

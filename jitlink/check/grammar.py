"""The grammar of a rule: text to a tree.

    rule        = chain "=" chain
    chain       = simple { operator simple }            from left to right, without precedence
    operator    = "+" | "-" | "&" | "|" | "<<" | ">>"
    simple      = ( "(" chain ")" | load | number | symbol | function ) [ "[" number ":" number "]" ]
    load        = "*" "{" number "}" chain               takes all that follows: parenthesise to end it
    function    = decode_operand "(" symbol [ "+" number ] "," number ")"
                | next_pc "(" symbol ")"
                | section_addr "(" file "," section ")"
                | got_addr "(" file "," symbol ")"
                | stub_addr "(" file "," [ section "," ] symbol [ "," kind ] ")"

Numbers are decimal, hexadecimal after 0x and octal after 0. Names of files and sections are any text
without a comma and a bracket; those of Mach-O sections have a comma. Source: LLVM, RuntimeDyldChecker.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEEPEST = 100
"""Brackets and loads inside of each other."""
LARGEST = (1 << 64) - 1
LARGEST_LOAD = 8
SYMBOL = re.compile(r"[A-Za-z_][0-9A-Za-z:_.$]*")
SYMBOL_ARGUMENT = re.compile(r"[0-9A-Za-z:_.$]+")
NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
OPERATOR = re.compile(r"<<|>>|[-+&|]")
SPACE = re.compile(r"\s*")


class RuleError(Exception):
    """A rule that cannot be read or evaluated; the text says why."""


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: int


@dataclass(frozen=True)
class Symbol:
    """The address of a symbol."""

    name: str


@dataclass(frozen=True)
class Load:
    """The little-endian number of size bytes at an address."""

    size: int
    address: Expression


@dataclass(frozen=True)
class Slice:
    """Bits high to low, both included, of a value."""

    value: Expression
    high: int
    low: int


@dataclass(frozen=True)
class Chain:
    """A value, and what is done with it: pairs of operator and operand, in order."""

    first: Expression
    rest: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True)
class Operand:
    """An immediate operand of the instruction that starts offset bytes behind a symbol, by LLVM's number."""

    symbol: str
    offset: int
    index: int


@dataclass(frozen=True)
class NextPc:
    """The address behind the instruction at a symbol."""

    symbol: str


@dataclass(frozen=True)
class SectionAddress:
    """Where a section of an input begins."""

    file: str
    section: str


@dataclass(frozen=True)
class EntryAddress:
    """The GOT entry or stub of a symbol, for a file. qualifiers: a section or a kind, as the rule has them."""

    function: str
    file: str
    arguments: tuple[str, ...]


Expression = Number | Symbol | Load | Slice | Chain | Operand | NextPc | SectionAddress | EntryAddress


def parse_rule(text: str) -> tuple[Expression, Expression]:
    """Read a rule; returns both sides. Raises RuleError."""
    left, equals, right = text.partition("=")
    if not equals:
        raise RuleError("there is no = in it")
    return _Parser(left).whole(), _Parser(right).whole()


class _Parser:
    """Reads one side of a rule, from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self._skip()

    def whole(self) -> Expression:
        """All of the text."""
        expression = self.chain()
        if self.at < len(self.text):
            raise self._unexpected("an operator or the end")
        return expression

    def chain(self) -> Expression:
        """Simple expressions and the operators between them."""
        first = self.simple()
        rest = []
        while operator := self._match(OPERATOR):
            rest.append((operator, self.simple()))
        return Chain(first, tuple(rest)) if rest else first

    def simple(self) -> Expression:
        """An expression without operators outside of brackets, and the bits that are wanted of it."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise RuleError(f"it has more than {DEEPEST} brackets inside of each other")
        if self._take("("):
            expression = self.chain()
            self._expect(")")
        elif self._take("*"):
            expression = self._load()
        elif digits := self._match(NUMBER):
            expression = Number(_value(digits))
        elif name := self._match(SYMBOL):
            expression = self._named(name)
        else:
            raise self._unexpected("'(', '*', a name or a number")
        self.depth -= 1
        return self._sliced(expression) if self._take("[") else expression

    def _load(self) -> Expression:
        self._expect("{")
        size = self._number()
        if not 1 <= size <= LARGEST_LOAD:
            raise RuleError(f"a load of {size} bytes: it must be of 1 to {LARGEST_LOAD}")
        self._expect("}")
        return Load(size, self.chain())

    def _sliced(self, expression: Expression) -> Expression:
        high = self._number()
        self._expect(":")
        low = self._number()
        self._expect("]")
        if not low <= high < LARGEST.bit_length():
            raise RuleError(f"the bits [{high}:{low}] are none of a number of 64 bits, highest first")
        return Slice(expression, high, low)

    def _named(self, name: str) -> Expression:
        if name == "decode_operand":
            return self._operand()
        if name == "next_pc":
            self._expect("(")
            symbol = self._symbol()
            self._expect(")")
            return NextPc(symbol)
        if name == "section_addr":
            file, section = self._file_and_rest()
            return SectionAddress(file, section)
        if name in ("got_addr", "stub_addr"):
            file, rest = self._file_and_rest()
            arguments = tuple(part.strip() for part in rest.split(","))
            if not all(arguments):
                raise RuleError(f"{name} wants a file and a symbol")
            return EntryAddress(name, file, arguments)
        return Symbol(name)

    def _operand(self) -> Expression:
        self._expect("(")
        symbol = self._symbol()
        offset = self._number() if self._take("+") else 0
        self._expect(",")
        index = self._number()
        self._expect(")")
        return Operand(symbol, offset, index)

    def _file_and_rest(self) -> tuple[str, str]:
        """The arguments of a function of a file: up to the first comma, and up to the bracket."""
        self._expect("(")
        end = self.text.find(")", self.at)
        if end < 0:
            raise RuleError("a bracket is not closed")
        file, comma, rest = self.text[self.at : end].partition(",")
        if not comma or not file.strip() or not rest.strip():
            raise RuleError(f"two arguments are wanted, not {self.text[self.at : end].strip()!r}")
        self.at = end + 1
        self._skip()
        return file.strip(), rest.strip()

    def _symbol(self) -> str:
        name = self._match(SYMBOL_ARGUMENT)
        if not name:
            raise self._unexpected("a symbol")
        return name

    def _number(self) -> int:
        digits = self._match(NUMBER)
        if not digits:
            raise self._unexpected("a number")
        return _value(digits)

    def _take(self, token: str) -> bool:
        found = self.text.startswith(token, self.at)
        if found:
            self.at += len(token)
            self._skip()
        return found

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._unexpected(repr(token))

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        self._skip()
        return found[0]

    def _skip(self) -> None:
        space = SPACE.match(self.text, self.at)
        assert space is not None
        self.at = space.end()

    def _unexpected(self, wanted: str) -> RuleError:
        rest = self.text[self.at : self.at + 20].strip()
        return RuleError(f"{wanted} is wanted at {rest!r}" if rest else f"it ends where {wanted} is wanted")


def _value(digits: str) -> int:
    octal = digits.startswith("0") and digits.isdigit()
    try:
        value = int(digits, 8 if octal else 0)
    except ValueError:
        raise RuleError(f"{digits} is no octal number, and begins with 0 as one") from None
    if value > LARGEST:
        raise RuleError(f"{digits} has more than 64 bits")
    return value

"""The value of an expression in a finished image: a number of 64 bits, which wraps as LLVM's does."""

from __future__ import annotations

from collections.abc import Iterator

from jitlink.check.grammar import (
    LARGEST,
    Chain,
    EntryAddress,
    Expression,
    Load,
    NextPc,
    Number,
    Operand,
    RuleError,
    SectionAddress,
    Slice,
    Symbol,
)
from jitlink.check.places import Places

BITS = 64


def value_of(expression: Expression, places: Places) -> int:
    """Evaluate an expression. Raises RuleError."""
    match expression:
        case Number(value):
            return value
        case Symbol(name):
            return places.symbol(name)
        case Load(size, address):
            return int.from_bytes(places.read(value_of(address, places), size), "little")
        case Slice(value, high, low):
            return value_of(value, places) >> low & (1 << high - low + 1) - 1
        case Chain(first, rest):
            result = value_of(first, places)
            for operator, operand in rest:
                result = _computed(operator, result, value_of(operand, places))
            return result
        case Operand(symbol, offset, index):
            return places.instruction(symbol, offset).immediate(index) & LARGEST
        case NextPc(symbol):
            return places.symbol(symbol) + places.instruction(symbol, 0).size & LARGEST
        case SectionAddress(file, section):
            return places.section(file, section)
        case EntryAddress(function, file, arguments):
            return places.entry(function, file, arguments)
    raise AssertionError(expression)


def _computed(operator: str, left: int, right: int) -> int:
    """The result of an operator, modulo 2**64."""
    if operator in ("<<", ">>"):
        if right >= BITS:
            raise RuleError(f"a shift by {right} bits of a number of {BITS}")
        return (left << right if operator == "<<" else left >> right) & LARGEST
    results = {"+": left + right, "-": left - right, "&": left & right, "|": left | right}
    return results[operator] & LARGEST


def parts_of(expression: Expression) -> Iterator[Expression]:
    """The expression and all that are in it."""
    yield expression
    match expression:
        case Load(_, address):
            yield from parts_of(address)
        case Slice(value, _, _):
            yield from parts_of(value)
        case Chain(first, rest):
            yield from parts_of(first)
            for _, operand in rest:
                yield from parts_of(operand)

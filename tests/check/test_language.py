"""The language of rules: what is read, what it is worth, and what is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.check.evaluation import value_of
from jitlink.check.grammar import DEEPEST, RuleError, parse_rule
from jitlink.check.operands import Instruction
from jitlink.check.places import Places
from jitlink.check.rules import find_rules

MEMORY = bytes(range(1, 65))
BASE = 0x1000


class World(Places):
    """A few symbols and bytes, without an image."""

    def __init__(self) -> None:
        """There is nothing to hold."""

    def symbol(self, name: str) -> int:
        known = {"low": BASE, "high": BASE + 32, "_under": 3, "a.b$c": 7, "big": (1 << 64) - 1}
        if name not in known:
            raise RuleError(f"there is no symbol {name}")
        return known[name]

    def read(self, address: int, size: int) -> bytes:
        if not BASE <= address <= BASE + len(MEMORY) - size:
            raise RuleError("not there")
        return MEMORY[address - BASE : address - BASE + size]

    def instruction(self, symbol: str, offset: int) -> Instruction:
        self.symbol(symbol)
        return Instruction(5, "call", (-offset - 1, None))

    def section(self, file: str, section: str) -> int:
        return len(file) * 100 + len(section)

    def entry(self, function: str, file: str, arguments: tuple[str, ...]) -> int:
        return len(function) * 1000 + len(arguments)


def value(text: str) -> int:
    left, _ = parse_rule(f"{text} = 0")
    return value_of(left, World())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12", 12),
        ("0x1F", 31),
        ("010", 8),
        ("low", BASE),
        ("_under + a.b$c", 10),
        # Strictly from left to right: there is no precedence.
        ("1 + 2 << 3", 24),
        ("1+2<<3", 24),
        ("7 & 3 + 1", 4),
        ("1 | 4 - 1", 4),
        ("1 + (2 << 3)", 17),
        ("0 - 1", (1 << 64) - 1),
        ("big + 2", 1),
        ("big << 60", 0xF << 60),
        ("big >> 60", 0xF),
        ("0xABCD[11:4]", 0xBC),
        ("big[63:0]", (1 << 64) - 1),
        ("(low + 5)[3:0]", 5),
        ("low[12:12] + 1", 2),
        ("*{1}low", 1),
        ("*{4}low", 0x04030201),
        ("*{8}high", 0x2827262524232221),
        # A load takes all that follows for its address.
        ("*{2}low + 2", 0x0403),
        ("(*{2}low) + 2", 0x0203),
        ("*{1}((*{1}low) + 0xfff)", 1),
        ("*{ 4 } ( low )", 0x04030201),
        ("(*{4}low)[15:8]", 2),
        ("*{2}low[15:0]", 0x0201),
        ("decode_operand(low, 0)", (1 << 64) - 1),
        ("decode_operand(low + 3, 0) + 4", 0),
        ("decode_operand( low+3 ,0 )[7:0]", 0xFC),
        ("next_pc(high)", BASE + 37),
        ("section_addr(a.o, .text)", 305),
        ("section_addr( /x/y.o , __TEXT,__text )", 613),
        ("got_addr(a.o, low)", 8001),
        ("stub_addr(a.o, .text, low) + 1", 9003),
    ],
)
def test_an_expression_has_the_value_that_llvm_gives_it(text, wanted):
    """Operators, slices, loads and functions, one by one."""
    assert value(text) == wanted


numbers = st.integers(0, (1 << 64) - 1)
OPERATORS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "&": lambda x, y: x & y,
    "|": lambda x, y: x | y,
    "<<": lambda x, y: x << y % 64,
    ">>": lambda x, y: x >> y % 64,
}


@given(numbers, st.lists(st.tuples(st.sampled_from(sorted(OPERATORS)), numbers), max_size=8))
def test_a_chain_is_computed_from_left_to_right_modulo_2_to_the_64(first, rest):
    """Any chain of operators gives what plain integers give."""
    text, wanted = f"{first}", first
    for operator, operand in rest:
        shown = operand % 64 if operator in ("<<", ">>") else operand
        text += f" {operator} {shown:#x}"
        wanted = OPERATORS[operator](wanted, operand) % (1 << 64)
    assert value(text) == wanted


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("low", "no ="),
        ("= low", "it ends where"),
        ("low =", "it ends where"),
        ("low + = 3", "it ends where"),
        ("low low = 3", "an operator or the end is wanted at 'low'"),
        ("(low = 3", "'\\)'"),
        ("low) = 3", "an operator or the end"),
        ("*low = 3", "'{'"),
        ("*{0}low = 3", "a load of 0 bytes"),
        ("*{9}low = 3", "a load of 9 bytes"),
        ("*{4 low = 3", "'}'"),
        ("*{x}low = 3", "a number"),
        ("low[3] = 3", "':'"),
        ("low[3:4] = 3", "none of a number of 64 bits"),
        ("low[64:4] = 3", "none of a number of 64 bits"),
        ("09 = 3", "octal"),
        ("0x1ffffffffffffffff = 3", "more than 64 bits"),
        ("99999999999999999999999 = 3", "more than 64 bits"),
        ("decode_operand(low) = 3", "','"),
        ("decode_operand(low - 3, 1) = 3", "','"),
        ("decode_operand = 3", "'\\('"),
        ("next_pc(low, 1) = 3", "'\\)'"),
        ("got_addr(low) = 3", "two arguments"),
        ("got_addr(a.o, ) = 3", "two arguments"),
        ("stub_addr(a.o, x = 3", "not closed"),
        ("stub_addr(a.o, x,) = 3", "a file and a symbol"),
        ("low == high", "it ends|is wanted"),
        ("low * 2 = 3", "an operator or the end"),
        ("'x' = 3", "is wanted at"),
        ("low = \x00", "is wanted at"),
    ],
)
def test_a_rule_that_is_none_is_refused_with_the_place(rule, reason):
    """What is wrong with a rule is said in words."""
    with pytest.raises(RuleError, match=reason):
        parse_rule(rule)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("nowhere = 3", "no symbol nowhere"),
        ("1 << 64 = 3", "a shift by 64 bits"),
        ("1 >> 0xffffffffffffffff = 3", "a shift by"),
        ("*{8}high + 32 = 3", "not there"),
        ("decode_operand(low, 1) = 3", "operand 1 of call is not an immediate"),
        ("decode_operand(low, 2) = 3", "call has 2 operands, of which 2 is none"),
        ("next_pc(nowhere) = 3", "no symbol nowhere"),
    ],
)
def test_a_rule_without_a_value_is_refused(rule, reason):
    """A rule that is sound but means nothing in the image says what is missing."""
    left, _ = parse_rule(rule)
    with pytest.raises(RuleError, match=reason):
        value_of(left, World())


@pytest.mark.parametrize("opening", ["(", "*{8}", "(*{1}"])
def test_brackets_without_end_are_refused(opening):
    """A rule of a million brackets is an error, not a crash."""
    with pytest.raises(RuleError, match=f"more than {DEEPEST}|it ends"):
        parse_rule(opening * 1_000_000 + " = 3")


def test_a_chain_may_be_as_long_as_one_likes():
    """A hundred thousand operators in a row are computed."""
    assert value("1" + " + 1" * 100_000) == 100_001


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_refused(text):
    """No text makes the parser fail in any other way."""
    with suppress(RuleError):
        parse_rule(text)


# Finding rules in a file


def rules(text: str, name: str = "jitlink-check") -> list[tuple[int, str]]:
    return [(rule.line, rule.text) for rule in find_rules(text, name)]


def test_rules_are_found_in_comments_of_all_assemblers():
    """Rules stand behind #, //, ; and @, at the start of a line."""
    text = "# jitlink-check: a = b\n nop\n   // jitlink-check:c = d\n; jitlink-check:  e = f \n@ jitlink-check: g = h\n"
    assert rules(text) == [(1, "a = b"), (3, "c = d"), (4, "e = f"), (5, "g = h")]


def test_a_rule_goes_on_behind_a_backslash():
    """A line that ends in a backslash is joined with the next one; the line number is that of the first."""
    text = "nop\n# jitlink-check: a + \\\n# jitlink-check:   b = \\\n# jitlink-check: c\n# jitlink-check: d = e\n"
    assert [(line, "".join(rule.split())) for line, rule in rules(text)] == [(2, "a+b=c"), (5, "d=e")]


def test_a_rule_that_does_not_go_on_is_complete():
    """A backslash in front of another line, or of the end, ends the rule."""
    assert rules("# jitlink-check: a = b \\\n nop\n# jitlink-check: c = d \\") == [(1, "a = b"), (3, "c = d")]


def test_the_name_of_rules_can_be_another():
    """Only comments of the wanted name are rules."""
    text = "# jitlink-check: a = b\n# CHECK: c = d\n# jitlink-check-32: e = f\n"
    assert rules(text, "CHECK") == [(2, "c = d")]
    assert rules(text, "jitlink-check-32") == [(3, "e = f")]
    assert rules(text) == [(1, "a = b")]

"""Small sources, each with one relocation at `site`, the rule that it obeys, and the ends of its range.

`far` is the target of every relocation, and absolute; `site` is at the start of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

BASE = 0x2_3456_7000
"""Of the image: an address with something to say in every field."""
K, M, G = 1 << 10, 1 << 20, 1 << 30
WORD32, WORD64 = 1 << 32, 1 << 64
MARGIN = 1 << 18
SHORT = 4
"""Bytes of a branch that is not compressed, and of the nop at far."""
SECOND = '.section .text.second, "ax"'
"""A section that is laid out right behind .text."""


@dataclass(frozen=True)
class Case:
    """A relocation.

    Attributes: name (of the kind, as the format's document has it); source (assembly, with far in it; text
    of its own section is at the start of the image); rules (what holds, on the site); inside (values of far,
    as distances from the site if relative, that fit: both ends of the range among them); outside (values
    that do not); stubbed (what does not fit is served by a stub or a veneer); relative; placed (far is in
    the image, at the distance that the value says, since a branch to what is outside would get a stub).
    """

    name: str
    source: str
    rules: tuple[str, ...]
    inside: tuple[int, ...]
    outside: tuple[int, ...] = ()
    stubbed: bool = False
    relative: bool = True
    placed: bool = False

    def text(self, value: int, end: str = "") -> str:
        """The assembly in which far is where the value says. end: what follows the site."""
        site = f".globl site\nsite:\n{self.source}\n{end}\n"
        if not self.placed:
            return f".text\n{site}"
        if value > 0:
            return f".text\n{site}{SECOND}\n.skip {value - SHORT}\n.globl far\nfar: nop\n"
        return f".text\n.globl far\nfar: nop\n.skip {-value - SHORT}\n{SECOND}\n{site}"

    def far(self, value: int) -> int:
        """The address of far for a value."""
        return (BASE + value if self.relative else value) % WORD64


def signed(bits: int, step: int = 1, at: int = 0) -> tuple[int, ...]:
    """Both ends of a signed range of bits, in steps; the value is far + at."""
    return -(1 << bits - 1) - at, (1 << bits - 1) - step - at


def past_signed(bits: int, step: int = 1, at: int = 0) -> tuple[int, ...]:
    """One step past both ends."""
    return -(1 << bits - 1) - step - at, (1 << bits - 1) - at


def well_within(bits: int, at: int = 0) -> tuple[int, ...]:
    """Values near both ends of a signed range: nearer to them, the linker makes a stub to be sure."""
    return -(1 << bits - 1) + MARGIN - at, (1 << bits - 1) - MARGIN - at


def lowest(size: int) -> str:
    """The slice of the lowest bytes; all eight need none, and LLVM does not know the slice of all bits."""
    return "" if size == 8 else f"[{8 * size - 1}:0]"


def data(
    name: str,
    directive: str,
    size: int,
    *,
    relative: bool,
    inside: tuple[int, ...],
    outside: tuple[int, ...] = (),
    rule: str | None = None,
) -> Case:
    """A relocation of a word of data, which the rule loads."""
    expected = "far - site" if relative else "far"
    bits = "" if size == 8 else f"[{8 * size - 1}:0]"
    return Case(
        name, directive, (rule or f"(*{{{size}}}site) = ({expected}){bits}",), inside, outside, relative=relative
    )


LOW = (0, 1, 0x1234_5678)

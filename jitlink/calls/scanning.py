"""A fast walk over debug information: where the functions and variables of a unit are described.

Debug information is a tree of entries (DIEs), written in the order of a walk. An entry is a code, which
names a row of the abbreviation table, and its attributes, in the forms that the row gives; an entry of
code 0 ends the children of the one above. There is no index that every compiler writes, and a unit may
have a hundred thousand entries, of which functions and variables of file scope are few. So this walk reads
forms only as far as needed to get past them, at about a tenth of what it costs to decode the entry.

Each step moves on by at least a byte and never jumps, so that the walk ends whatever the bytes are.

Source: DWARF 5, sections 7.5.3 (Abbreviations Tables) and 7.5.6 (Form Encodings).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from jitlink.errors import MalformedInput

LEB, STRING, BLOCK1, BLOCK2, BLOCK4, BLOCK, INDIRECT = -1, -2, -3, -4, -5, -6, -7
"""Steps past an attribute whose size stands in itself; a positive step is a number of bytes."""

# fmt: off
STEPS = {
    "flag_present": 0, "implicit_const": 0,
    "data1": 1, "ref1": 1, "flag": 1, "strx1": 1, "addrx1": 1,
    "data2": 2, "ref2": 2, "strx2": 2, "addrx2": 2,
    "strx3": 3, "addrx3": 3,
    "data4": 4, "ref4": 4, "strx4": 4, "addrx4": 4, "ref_sup4": 4,
    "data8": 8, "ref8": 8, "ref_sig8": 8, "ref_sup8": 8,
    "data16": 16,
    "udata": LEB, "sdata": LEB, "ref_udata": LEB, "strx": LEB, "addrx": LEB, "loclistx": LEB, "rnglistx": LEB,
    "GNU_addr_index": LEB, "GNU_str_index": LEB,
    "string": STRING,
    "block1": BLOCK1, "block2": BLOCK2, "block4": BLOCK4, "block": BLOCK, "exprloc": BLOCK,
    "indirect": INDIRECT,
}
# fmt: on
OF_OFFSET_SIZE = ("strp", "line_strp", "sec_offset", "ref_addr", "strp_sup", "GNU_ref_alt", "GNU_strp_alt")
BLOCK_COUNTS = {BLOCK1: 1, BLOCK2: 2, BLOCK4: 4}

SCOPES = {
    "DW_TAG_compile_unit",
    "DW_TAG_partial_unit",
    "DW_TAG_namespace",
    "DW_TAG_module",
    "DW_TAG_structure_type",
    "DW_TAG_class_type",
    "DW_TAG_union_type",
}
SYMBOLS = frozenset({"DW_TAG_subprogram", "DW_TAG_variable"})
TYPES = frozenset(
    {
        "DW_TAG_structure_type",
        "DW_TAG_class_type",
        "DW_TAG_union_type",
        "DW_TAG_enumeration_type",
        "DW_TAG_typedef",
        "DW_TAG_base_type",
    }
)
DEEPEST = 512
"""Entries inside entries; compilers stay below 50."""


class Step(NamedTuple):
    """A row of an abbreviation table, as the walk needs it."""

    tag: object
    has_children: bool
    steps: tuple[int, ...]


def described_places(content: bytes, unit: Any, wanted: frozenset[str] = SYMBOLS) -> Iterator[int]:
    """Walk a unit of pyelftools: the offset of each entry with a wanted tag, of file or class scope.

    content: the whole .debug_info. Raises MalformedInput, with the offset, for what cannot be followed.
    """
    at, end = unit.cu_die_offset, min(unit.cu_offset + unit.size, len(content))
    rows: dict[int, Step] = {}
    # Whether functions at each depth count: not those inside functions and blocks.
    open_at = [True]
    while at < end:
        start = at
        code, at = _leb128(content, at, end)
        if not code:
            open_at.pop()
            if not open_at:
                return
            continue
        row = rows.get(code)
        if row is None:
            row = rows[code] = _row(unit, code, start)
        if open_at[-1] and row.tag in wanted:
            yield start
        for step in row.steps:
            if step > 0:
                at += step
            else:
                at = _past(content, at, end, step, unit)
        if at > end:
            raise MalformedInput("an entry that goes past the end of its unit", section=".debug_info", offset=start)
        if row.has_children:
            open_at.append(open_at[-1] and row.tag in SCOPES)
            if len(open_at) > DEEPEST:
                raise MalformedInput("entries that are nested too deep", section=".debug_info", offset=start)


def _row(unit: Any, code: int, start: int) -> Step:
    try:
        declared = unit.get_abbrev_table().get_abbrev(code)
    except KeyError:
        raise MalformedInput(f"no abbreviation has the code {code}", section=".debug_info", offset=start) from None
    steps: list[int] = []
    for each in declared["attr_spec"]:
        step = _step(str(each.form).removeprefix("DW_FORM_"), unit, start)
        if step > 0 and steps and steps[-1] > 0:
            steps[-1] += step
        elif step:
            steps.append(step)
    return Step(declared["tag"], declared.has_children(), tuple(steps))


def _step(form: str, unit: Any, start: int) -> int:
    if form in STEPS:
        return STEPS[form]
    if form == "addr":
        return int(unit["address_size"])
    if form == "ref_addr" and unit["version"] == 2:
        return int(unit["address_size"])
    if form in OF_OFFSET_SIZE:
        return 8 if unit.dwarf_format() == 64 else 4
    raise MalformedInput(f"an attribute of the unknown form {form}", section=".debug_info", offset=start)


def _past(content: bytes, at: int, end: int, step: int, unit: Any) -> int:
    """The position behind an attribute whose size stands in itself."""
    if step == LEB:
        while at < end and content[at] & 0x80:
            at += 1
        return at + 1
    if step == STRING:
        found = content.find(0, at, end)
        return found + 1 if found >= 0 else end + 1
    if step == INDIRECT:
        form, behind = _leb128(content, at, end)
        from elftools.dwarf.enums import DW_FORM_raw2name

        inner = _step(str(DW_FORM_raw2name.get(form, form)).removeprefix("DW_FORM_"), unit, at)
        return behind + inner if inner >= 0 else _past(content, behind, end, inner, unit)
    if step == BLOCK:
        size, at = _leb128(content, at, end)
        return at + size
    width = BLOCK_COUNTS[step]
    return at + width + int.from_bytes(content[at : at + width], "little" if unit.structs.little_endian else "big")


def _leb128(content: bytes, at: int, end: int) -> tuple[int, int]:
    """Read an unsigned LEB128 number: its value, and the position behind it."""
    value = shift = 0
    while at < end:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    raise MalformedInput("a number that does not end", section=".debug_info", offset=at)

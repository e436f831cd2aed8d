"""How Fortran passes a dummy argument: by value or by reference, as its location tells.

DWARF gives a dummy argument the type that it has in the source, whether its value is passed or its
address. Where it lives when the function begins says which: a value is in a register or in the frame; the
target of a reference is where a register points, or behind a dereference.

Source: DWARF 5, section 2.5.1 (General Operations) and 2.6.1.1 (Single Location Descriptions).
"""

from __future__ import annotations

from typing import Any

from jitlink.calls.debug_info import DebugInfo

REGISTERS = range(0x50, 0x70)
"""DW_OP_reg0 to DW_OP_reg31: the value is in a register."""
BASED = range(0x70, 0x90)
"""DW_OP_breg0 to DW_OP_breg31: at a distance from where a register points; a number follows."""
FRAME_BASED, DEREFERENCE = 0x91, 0x06
FRAME_REGISTERS = {6, 7, 29, 31}
"""rbp and rsp of x86-64, x29 and sp of AArch64: what is at a distance from them is in the frame.

No number of the one machine is an argument register of the other.
"""


def is_by_reference(info: DebugInfo, parameter: Any) -> bool | None:
    """Whether the address of a dummy argument is passed, and not its value; None if it cannot be told.

    Raises MalformedInput.
    """
    expression = _first_location(info, parameter)
    if not expression:
        return None
    operation = expression[0]
    if operation in REGISTERS:
        return False
    if operation == FRAME_BASED or operation in BASED:
        behind = next((at for at in range(1, len(expression)) if not expression[at] & 0x80), len(expression)) + 1
        following = expression[behind:]
        if following:
            return following == [DEREFERENCE]
        return operation != FRAME_BASED and operation - BASED.start not in FRAME_REGISTERS
    return None


def _first_location(info: DebugInfo, parameter: Any) -> list[int]:
    """The location expression that holds when the function begins."""
    attribute = parameter.attributes.get("DW_AT_location")
    if attribute is None:
        return []
    with info.reading(parameter.offset):
        if isinstance(attribute.value, list | bytes):
            return list(attribute.value)
        from elftools.dwarf.locationlists import LocationParser

        parser = LocationParser(info.dwarf.location_lists())
        version = parameter.cu["version"]
        if not parser.attribute_has_location(attribute, version):
            return []
        entries: Any = parser.parse_from_attribute(attribute, version, parameter)
        return next((list(entry.loc_expr) for entry in entries if hasattr(entry, "loc_expr")), [])

"""Lines: which line of which file an address of linked code comes from.

The line program of a DWARF unit is a small byte code that makes a table of rows (address, file, line). A
row holds up to the next one; a row that ends a sequence says only where the last one stops. pyelftools
runs the program, on the relocated debug sections of one input.

Debug sections describe a program and do not make it: where they cannot be read, there are no lines, and
the code works as before.

Source: DWARF 5, section 6.2 (Line Number Information).
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.runtime.line_header import has_plausible_tables

ENDED = 0
"""Stands for the line of a row that ends a sequence; DWARF too has 0 for "no line"."""
LAST_ADDRESS, LAST_LINE = (1 << 64) - 1, (1 << 32) - 1


@dataclass
class Lines:
    """Rows by rising address, of one input.

    Attributes: address (uint64[n]); line (int64[n], ENDED where a sequence ends); file (int64[n], numbers
    in files); files (paths).
    """

    address: npt.NDArray[np.uint64]
    line: npt.NDArray[np.int64]
    file: npt.NDArray[np.int64]
    files: list[str] = field(default_factory=list)

    def find(self, address: int) -> tuple[str, int] | None:
        """The file and line of an address, or None."""
        row = int(self.address.searchsorted(np.uint64(address), "right")) - 1
        if row < 0 or self.line[row] == ENDED:
            return None
        return self.files[self.file[row]], int(self.line[row])

    def between(self, address: int, end: int) -> list[tuple[int, str, int]]:
        """The rows from an address up to an end: address, file and line of each."""
        first, last = self.address.searchsorted(np.array([address, end], np.uint64)).tolist()
        return [
            (int(self.address[row]), self.files[self.file[row]], int(self.line[row]))
            for row in range(first, last)
            if self.line[row] != ENDED
        ]


def read_lines(sections: dict[str, bytes]) -> Lines:
    """Read the lines of an input. sections: its relocated debug sections by name."""
    rows: list[tuple[int, int, int]] = []
    files: dict[str, int] = {}
    # Bad debug sections raise whatever pyelftools runs into; what was read until then is good.
    try:
        dwarf = _dwarf_of(sections)
        seen: set[int] = set()
        for unit in dwarf.iter_CUs():
            given = unit.get_top_DIE().attributes.get("DW_AT_stmt_list")
            if given is None or given.value in seen:
                continue
            seen.add(given.value)
            if has_plausible_tables(sections.get(".debug_line", b""), given.value):
                _add_rows(dwarf.line_program_for_CU(unit), _directory_of(unit), rows, files)
    except Exception:
        pass
    # Where one sequence ends and another begins at an address, the end comes first.
    rows.sort(key=lambda row: (row[0], row[1] != ENDED))
    columns = np.array(rows, np.uint64).reshape(-1, 3)
    return Lines(columns[:, 0], columns[:, 1].astype(np.int64), columns[:, 2].astype(np.int64), list(files))


def _add_rows(program: Any, directory: str, rows: list[tuple[int, int, int]], files: dict[str, int]) -> None:
    paths = _paths(program, directory)
    for entry in program.get_entries():
        state = entry.state
        # Addresses are added to by any amount, which pyelftools does not cut off at 64 bits.
        if state is None or not 0 <= state.address <= LAST_ADDRESS:
            continue
        if state.end_sequence:
            rows.append((state.address, ENDED, 0))
        elif 0 <= state.line <= LAST_LINE:
            path = paths.get(state.file, "?")
            rows.append((state.address, state.line, files.setdefault(path, len(files))))


def _paths(program: Any, unit_directory: str) -> dict[int, str]:
    """The path of each file of a line program by its number: DWARF 5 counts from 0, earlier ones from 1."""
    modern = program["version"] >= 5
    directories = [_text(each) for each in program["include_directory"]]
    if not modern:
        directories.insert(0, unit_directory)
    found = {}
    for number, entry in enumerate(program["file_entry"], 0 if modern else 1):
        directory = directories[entry.dir_index] if entry.dir_index < len(directories) else ""
        found[number] = os.path.join(unit_directory, directory, _text(entry.name))
    return found


def _directory_of(unit: Any) -> str:
    attribute = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
    return _text(attribute.value) if attribute else ""


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _dwarf_of(sections: dict[str, bytes]) -> Any:
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

    def section(name: str) -> Any:
        content = sections.get(f".debug_{name}")
        return content and DebugSectionDescriptor(io.BytesIO(content), f".debug_{name}", 0, len(content), 0)

    config = DwarfConfig(little_endian=True, machine_arch="x64", default_address_size=8)
    names = ["info", "aranges", "abbrev", "frame", "str", "loc", "ranges", "line", "pubtypes", "pubnames", "addr"]
    names += ["str_offsets", "line_str", "loclists", "rnglists", "sup", "types"]
    parts = {f"debug_{name}_sec": section(name) for name in names}
    return DWARFInfo(config, eh_frame_sec=None, gnu_debugaltlink_sec=None, **parts)

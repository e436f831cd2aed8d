"""The object formats that are read: how each is told by its first bytes, for which machine it is, what reads it.

A format's reader is loaded when the first object of it is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jitlink.arches.architecture import Architecture
from jitlink.errors import UnsupportedInput
from jitlink.formats.batch import Batch
from jitlink.graph import LinkGraph

LONGEST_HEAD = 64
"""Bytes by which a format and a machine are told."""


@dataclass(frozen=True)
class ObjectFormat:
    """A format of objects.

    Attributes: name; module (of jitlink.formats, with functions machine_name and read_NAME); is_object
    (whether the first bytes of a file are those of an object of this format).
    """

    name: str
    module: str
    is_object: Callable[[bytes], bool]

    def _function(self, name: str) -> Any:
        return getattr(import_module(f"jitlink.formats.{self.module}"), name)

    def machine_name(self, head: bytes, name: str) -> str:
        """The architecture of an object by its first bytes. Raises InputError that names the input.

        head: up to LONGEST_HEAD bytes.
        """
        machine: str | None = self._function("machine_name")(head)
        if machine is None:
            raise UnsupportedInput(f"{self._function('machine_in_words')(head)} are not linked", input=name)
        return machine

    def read(self, batch: Batch, target: Architecture, *, everything: bool = False) -> LinkGraph:
        """Read objects of this format into one link graph. Raises InputError."""
        graph: LinkGraph = self._function(f"read_{self.name}")(batch, target, everything=everything)
        graph.input_places = (batch.starts, batch.sizes)
        return graph


def _is_elf(head: bytes) -> bool:
    return head.startswith(b"\x7fELF")


def _is_macho(head: bytes) -> bool:
    return head.startswith(b"\xcf\xfa\xed\xfe")


COFF_HEADER_SIZE = 20
COFF_STARTS = tuple(
    # x86-64, ARM64; what is refused by name: i386, ARM, Thumb-2, ARM64EC, ARM64X; /bigobj and import libraries.
    bytes.fromhex(start)
    for start in ("6486", "64aa", "4c01", "c001", "c401", "41a6", "4ea6", "0000ffff")
)


def _is_coff(head: bytes) -> bool:
    """COFF has no magic number: an object starts with the number of its machine."""
    return head.startswith(COFF_STARTS) and len(head) >= COFF_HEADER_SIZE


FORMATS = {
    format.name: format
    for format in (
        ObjectFormat("elf", "elf", _is_elf),
        ObjectFormat("macho", "macho", _is_macho),
        ObjectFormat("coff", "coff", _is_coff),
    )
}


def format_of(head: bytes) -> ObjectFormat | None:
    """The format of an object by its first bytes, or None if it is of no format that is read."""
    return next((format for format in FORMATS.values() if format.is_object(head)), None)

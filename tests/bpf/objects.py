"""BPF objects for tests, compiled by zig, with the parts of them that a test looks at."""

from __future__ import annotations

import io
from functools import cache

from elftools.elf.elffile import ELFFile

from jitlink.bpf.btf import Btf, parse
from jitlink.bpf.btf_ext import BtfExt, parse_ext
from tests import toolchain

TARGETS = {"little": "bpfel-freestanding", "big": "bpfeb-freestanding"}


class BpfObject:
    """A compiled object: its sections as bytes, its types, and what it says about instructions."""

    def __init__(self, data: bytes) -> None:
        self.elf = ELFFile(io.BytesIO(data))
        self.btf_bytes = self.section(".BTF")

    def section(self, name: str) -> bytes:
        found = self.elf.get_section_by_name(name)
        assert found is not None, name
        data: bytes = found.data()
        return data

    @property
    def btf(self) -> Btf:
        return parse(self.btf_bytes)

    @property
    def ext(self) -> BtfExt:
        return parse_ext(self.section(".BTF.ext"), self.btf)


@cache
def compiled(source: str, order: str = "little", *flags: str) -> BpfObject:
    """Compile C for BPF with debug information, which makes the compiler emit BTF."""
    return BpfObject(toolchain.zig_cc(source, "-c", "-O2", "-gdwarf-4", *flags, target=TARGETS[order]))

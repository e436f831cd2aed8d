"""Libraries that we write for the dynamic loader have the flags of the process, without which it refuses them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from jitlink.arches import architecture
from jitlink.passes.thread_storage import Template
from jitlink.runtime import descriptor_library, thread_locals_library
from jitlink.runtime.host_flags import host_elf_flags

EF_RISCV_RVC, EF_RISCV_FLOAT_ABI_DOUBLE = 0x1, 0x4
EM_RISCV = 243


@pytest.mark.skipif(not Path("/proc/self/exe").exists(), reason="the program of a process is found in /proc")
def test_the_flags_are_those_of_the_program_that_runs() -> None:
    """As another reader of ELF reads them."""
    with open(os.readlink("/proc/self/exe"), "rb") as program:
        assert host_elf_flags() == ELFFile(program).header.e_flags


def test_a_library_for_thread_locals_has_the_flags() -> None:
    """glibc compares the float ABI of RISC-V libraries with its own (dl-machine.h, elf_machine_matches_host)."""
    flags = EF_RISCV_RVC | EF_RISCV_FLOAT_ABI_DOUBLE
    rules = architecture("riscv64").thread_locals
    assert rules is not None
    template = Template(b"1234", 4, 4)
    written = thread_locals_library.library_file(EM_RISCV, flags, rules.loader, template, static=False, descriptors=())
    header = ELFFile(io.BytesIO(written.content[0].ljust(written.size, b"\0"))).header
    assert (header.e_machine, header.e_flags) == ("EM_RISCV", flags)


def test_the_library_for_debuggers_has_the_flags() -> None:
    """It goes the same way into the process."""
    header = ELFFile(io.BytesIO(descriptor_library.library_file(EM_RISCV, EF_RISCV_FLOAT_ABI_DOUBLE))).header
    assert (header.e_machine, header.e_flags) == ("EM_RISCV", EF_RISCV_FLOAT_ABI_DOUBLE)

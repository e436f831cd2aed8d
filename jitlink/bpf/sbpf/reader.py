"""Reading SBPF executables: the shared objects that Solana's toolchain writes.

Up to version 2 such a file is loaded by its section headers: the sections .text, .rodata, .data.rel.ro and
.eh_frame are the program's memory, at the addresses of the file plus 2**32, and the relocations of the dynamic
table are applied to it:

    R_BPF_64_64        1    S + A into both halves of a wide constant, plus 2**32 where it is below that
    R_BPF_64_RELATIVE  8    in code the same, to what the constant holds; in data the 64 bits at P become
                            2**32 plus the 32 bits at P + 4, where compilers used to put them
    R_BPF_64_32       10    into a call: the hash of the name of a syscall, or of the place of a function

A call that the linker has finished, with a distance in it, becomes one by number as well, so that at run time
all calls are alike. Data that can be written (.data, .bss) is refused: a program has none.

From version 3 on (SIMD-0189) the program headers alone count: constants at 0, which there need not be, and code at
2**32, one behind the other in the file, and no relocations.

What is refused is what the virtual machine of Solana refuses: tests compare the two.

Sources: elf.rs and elf_parser of anza-xyz/sbpf; SIMD-0178 and SIMD-0189.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import SLOT
from jitlink.bpf.sbpf.elf_file import (
    DT_REL,
    DT_RELENT,
    DT_RELSZ,
    EM_BPF,
    LENIENT_HEADER,
    PF_R,
    PF_X,
    PHDR,
    PT_LOAD,
    STRICT_HEADER,
    STT_FUNC,
    ElfFile,
    check_layout,
)
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.hashes import ENTRYPOINT
from jitlink.bpf.sbpf.memory import CONSTANTS_START, PROGRAM_START, REGION_SIZE, STACK_START
from jitlink.bpf.sbpf.relocations import Relocator
from jitlink.bpf.sbpf.versions import version_of
from jitlink.errors import InputError, MalformedInput, UnsupportedInput, reading
from jitlink.formats import elf_layout as elf

READ_ONLY = (".text", ".rodata", ".data.rel.ro", ".eh_frame")
"""The sections that are the memory of a program."""


def read_executable(data: bytes | bytearray | memoryview, name: str = "(executable)") -> Executable:
    """Read an executable and apply its relocations. Raises MalformedInput and UnsupportedInput, naming the input."""
    with reading(name):
        file = ElfFile(data)
        version = version_of(int(file.header["flags"]))
        return (_Strict if version.is_static else _Lenient)(file, name).executable()


class _Lenient:
    """A file of versions 0 to 2."""

    def __init__(self, file: ElfFile, name: str) -> None:
        self.file = file
        self.name = name
        self.version = version_of(int(file.header["flags"]))
        file.require_fields(LENIENT_HEADER)
        file.require_shared_object()
        self.sections = file.sections()
        check_layout(file, self.sections)
        self.names = file.names(self.sections)
        self.dynamic = file.dynamic(self.sections)
        self._refuse_writable()
        self.text = self._text()
        self.text_start, self.text_end = file.contents(self.text, ".text")

    def executable(self) -> Executable:
        """Put the program together."""
        # The region begins where the file does; what is no section of the program's reads as zeros.
        loaded = self._loaded()
        data = np.zeros(max(end for _, end in loaded), np.uint8)
        symbols = self.file.dynamic_symbols(self.sections, self.names, self.dynamic)
        relocator = Relocator(
            self.file.data.copy(), (self.text_start, self.text_end), *symbols, self.file.name, self.name
        )
        relocator.number_calls()
        relocator.apply(self._relocations())
        entry = self._slot_of(int(self.file.header["entry"]))
        relocator.add_function(ENTRYPOINT.encode(), entry)
        image = relocator.image
        for start, end in loaded:
            data[start:end] = image[start:end]
        return Executable(
            version=self.version,
            text=image[self.text_start : self.text_end],
            text_address=_placed(int(self.text["addr"])),
            entry=entry,
            data=data,
            data_address=PROGRAM_START,
            functions=relocator.functions,
            names=_function_names(self.file, int(self.text["addr"]), self.text_end - self.text_start),
            syscalls=relocator.syscalls,
            pointers=frozenset(self._pointers(relocator)),
            name=self.name,
        )

    def _refuse_writable(self) -> None:
        for section, name in zip(self.sections, self.names, strict=True):
            writable = int(section["flags"]) & elf.SHF_WRITE
            if name.startswith(".bss") or (writable and name.startswith(".data") and not name.startswith(".data.rel")):
                raise UnsupportedInput("an SBPF program has no data that can be written", section=name)

    def _text(self) -> Any:
        found = [section for section, name in zip(self.sections, self.names, strict=True) if name == ".text"]
        if len(found) != 1:
            raise MalformedInput(f"an SBPF program has one section .text, and this file has {len(found)}")
        return found[0]

    def _loaded(self) -> list[tuple[int, int]]:
        """Where in the file the sections of the program's memory are."""
        return [
            self._contents(section, name)
            for section, name in zip(self.sections, self.names, strict=True)
            if name in READ_ONLY
        ]

    def _contents(self, section: Any, name: str) -> tuple[int, int]:
        start, end = self.file.contents(section, name)
        if int(section["addr"]) != start:
            raise MalformedInput(
                f"the address of the section ({int(section['addr']):#x}) is not its place in the file", section=name
            )
        if start + PROGRAM_START > STACK_START:
            raise MalformedInput("the section does not fit the program's region", section=name, offset=start)
        return start, end

    def _slot_of(self, address: int) -> int:
        offset = address - int(self.text["addr"])
        if not 0 <= offset < self.text_end - self.text_start or offset % SLOT:
            raise MalformedInput(f"the entry point {address:#x} is no instruction of .text")
        return offset // SLOT

    def _relocations(self) -> npt.NDArray[Any]:
        """The relocations of the dynamic table, rows of REL."""
        dynamic = self.dynamic
        if not dynamic.get(DT_REL):
            return np.zeros(0, elf.REL)
        size, entry = dynamic.get(DT_RELSZ, 0), dynamic.get(DT_RELENT, 0)
        if entry != elf.REL.itemsize or not size or size % entry:
            raise MalformedInput(f"{size} bytes of entries of {entry} are no relocations without addends")
        start = self.file.offset_of(dynamic[DT_REL], self.sections)
        return self.file.table(start, size // entry, elf.REL, "relocations")

    def _pointers(self, relocator: Relocator) -> set[int]:
        """The slots that relocated constants point at."""
        # A distance below the code wraps around, and is too large then.
        start = np.uint64(_placed(int(self.text["addr"])))
        offset = np.array(sorted(relocator.addresses), np.uint64) - start
        inside = (offset < self.text_end - self.text_start) & (offset % SLOT == 0)
        return set((offset[inside] // SLOT).tolist())


class _Strict:
    """A file of version 3."""

    CONSTANTS = (PF_R, CONSTANTS_START, "constants")
    CODE = (PF_X, PROGRAM_START, "code")

    def __init__(self, file: ElfFile, name: str) -> None:
        self.file = file
        self.name = name

    def executable(self) -> Executable:
        """Check the headers and take out what they name. Source: SIMD-0189."""
        header = self.file.header
        self.file.require_fields(STRICT_HEADER)
        self.file.require_machine(EM_BPF)
        (data_start, data_end), (text_start, text_end) = self._check_segments()
        offset = int(header["entry"]) - PROGRAM_START
        if not 0 <= offset < text_end - text_start or offset % SLOT:
            raise MalformedInput(f"the entry point {int(header['entry']):#x} is no instruction of the code")
        return Executable(
            version=version_of(int(header["flags"])),
            text=self.file.data[text_start:text_end],
            text_address=PROGRAM_START,
            entry=offset // SLOT,
            data=self.file.data[data_start:data_end],
            data_address=CONSTANTS_START,
            names=_function_names(self.file, PROGRAM_START, text_end - text_start),
            name=self.name,
        )

    def _check_segments(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Check the first headers: of constants and code, or of code alone. Returns where both lie."""
        segments = self.file.segments
        if not len(segments):
            raise MalformedInput("there are no program headers")
        at = elf.EHDR.itemsize + PHDR.itemsize * len(segments)
        if segments[0]["flags"] == PF_X:
            return (at, at), self._check_segment(segments[0], at, *self.CODE)
        if len(segments) == 1:
            raise MalformedInput("there is no program header of code")
        constants = self._check_segment(segments[0], at, *self.CONSTANTS)
        return constants, self._check_segment(segments[1], constants[1], *self.CODE)

    def _check_segment(self, segment: Any, at: int, flags: int, address: int, what: str) -> tuple[int, int]:
        """Check the header of what begins at a place in the file. Returns where it lies."""
        size = int(segment["filesz"])
        good = (
            (segment["type"] == PT_LOAD and segment["flags"] == flags)
            and (segment["offset"] == at and segment["offset"] % SLOT == 0)
            and (segment["vaddr"] == address and segment["paddr"] == address)
            and (size == segment["memsz"] and size % SLOT == 0 and size < REGION_SIZE)
            and at + size <= len(self.file.data)
        )
        if not good:
            raise MalformedInput(f"the program header of the {what} is not as SIMD-0189 has it")
        return at, at + size


def _placed(address: int) -> int:
    """Where an address of the file is in the program's memory."""
    return address if address >= PROGRAM_START else address + PROGRAM_START


def _function_names(file: ElfFile, text_address: int, size: int) -> dict[int, str]:
    """The names of functions by slot; none where the symbols, which nothing else needs, are broken."""
    names: dict[int, str] = {}
    try:
        symbols, (start, end) = file.symbols(file.sections(), elf.SHT_SYMTAB)
        for symbol in symbols[symbols["info"] & 15 == STT_FUNC]:
            offset = int(symbol["value"]) - text_address
            if 0 <= offset < size and offset % SLOT == 0:
                names[offset // SLOT] = file.text(start, end, int(symbol["name"])).decode(errors="replace")
    except InputError:
        return {}
    return names

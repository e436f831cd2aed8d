"""Debug sections: read in any compression, relocated on request, never in the image."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from elftools.elf.elffile import ELFFile

import jitlink
from jitlink.graph import Lifetime, Purpose
from tests import toolchain

SOURCE = """
static int table[4] = {1, 2, 3, 4};
int first(int n) { return table[n & 3] + 1; }
int second(int n) { return first(n) * 2; }
"""
COMPRESSIONS = ["none", "zlib", "zstd"]


def compiled(*flags: str, compression: str = "none") -> bytes:
    """Compile the source, and compress its debug sections as the gABI says (zig's clang cannot)."""
    content = bytearray(toolchain.zig_cc(SOURCE, "-O1", "-fno-inline", *flags))
    if compression == "none":
        return bytes(content)
    elf = ELFFile(io.BytesIO(content))
    for number, section in enumerate(elf.iter_sections()):
        if section.name.startswith(".debug"):
            packed = compress(section.data(), compression)
            header = elf["e_shoff"] + number * 64
            struct.pack_into("<Q", content, header + 8, section["sh_flags"] | 0x800)
            struct.pack_into("<QQ", content, header + 24, len(content), len(packed))
            content += packed
    return bytes(content)


def compress(content: bytes, compression: str) -> bytes:
    """An Elf64_Chdr and the packed content behind it."""
    if compression == "zlib":
        method, packed = 1, zlib.compress(content)
    else:
        zstd = pytest.importorskip("backports.zstd", reason="Zstandard before Python 3.14 needs backports.zstd")
        method, packed = 2, zstd.compress(content)
    return struct.pack("<IIQQ", method, 0, len(content), 1) + packed


def low_addresses(sections: dict[str, bytes]) -> dict[str, int]:
    """The name and DW_AT_low_pc of every function, as pyelftools reads them."""
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

    def section(name):
        content = sections.get(name)
        return content and DebugSectionDescriptor(io.BytesIO(content), name, 0, len(content), 0)

    names = ["info", "aranges", "abbrev", "frame", "eh_frame", "str", "loc", "ranges", "line", "pubtypes", "pubnames"]
    names += ["addr", "str_offsets", "line_str", "loclists", "rnglists", "sup", "gnu_debugaltlink", "types"]
    dwarf = DWARFInfo(DwarfConfig(True, "x64", 8), *(section(f".debug_{name}") for name in names))
    return {
        die.attributes["DW_AT_name"].value.decode(): die.attributes["DW_AT_low_pc"].value
        for unit in dwarf.iter_CUs()
        for die in unit.iter_DIEs()
        if die.tag == "DW_TAG_subprogram" and "DW_AT_low_pc" in die.attributes
    }


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_relocated_debug_sections_name_the_linked_addresses(compression, version):
    """DWARF read by pyelftools gives each function the address that the linker gave it."""
    content = compiled(f"-gdwarf-{version}", compression=compression)
    image = jitlink.link(content, base=0x23456000, debug=True)
    expected = {name: image.address_of(name) for name in ("first", "second")}
    assert low_addresses(image.debug_sections["(bytes)"]) == expected


def test_debug_sections_are_not_part_of_the_image():
    """Debug sections have no-alloc lifetime, and an image with them is the image without."""
    content = compiled("-gdwarf-5")
    graph = jitlink.read(content)
    debug = [section for section in graph.sections if section.purpose == Purpose.DEBUG]
    assert debug
    assert all(section.lifetime == Lifetime.NO_ALLOC for section in debug)
    with_debug = jitlink.link(content, base=0x10000000, debug=True)
    without = jitlink.link(content, base=0x10000000)
    assert with_debug.to_bytes() == without.to_bytes()
    assert without.debug_sections == {}


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed_sections_read_like_plain_ones(compression):
    """What was compressed unpacks to what it was."""

    def contents(compression: str) -> dict[str, bytes]:
        graph = jitlink.read(compiled("-gdwarf-5", compression=compression))
        return {block.section.name: block.content for block in graph.blocks if block.section.purpose == Purpose.DEBUG}

    assert contents(compression) == contents("none")


def test_debug_information_of_a_dropped_function_is_zero():
    """DWARF of a function that dead strip dropped starts at address 0."""
    content = compiled("-gdwarf-4", "-ffunction-sections")
    image = jitlink.link(content, base=0x10000000, debug=True, dead_strip=True, exports=["first"])
    assert low_addresses(image.debug_sections["(bytes)"]) == {"first": image.address_of("first"), "second": 0}


def compressed_section_at(content: bytes) -> int:
    """The file offset of the first compressed section."""
    return next(
        section["sh_offset"] for section in ELFFile(io.BytesIO(content)).iter_sections() if section["sh_flags"] & 0x800
    )


@pytest.mark.parametrize(
    ("offset", "patch", "fault"),
    [
        (8, (1 << 50).to_bytes(8, "little"), "claims to hold"),
        (8, (5).to_bytes(8, "little"), "does not unpack"),
        (0, (77).to_bytes(4, "little"), "unknown compression 77"),
        (26, b"\xff\xff\xff\xff", "does not unpack"),
    ],
    ids=["size-huge", "size-small", "method", "stream"],
)
def test_a_broken_compressed_section_is_refused(offset, patch, fault):
    """A lying size, an unknown method and a broken stream are named, and nothing large is allocated."""
    content = bytearray(compiled("-gdwarf-5", compression="zlib"))
    at = compressed_section_at(bytes(content)) + offset
    content[at : at + len(patch)] = patch
    with pytest.raises(jitlink.InputError, match=fault):
        jitlink.read(bytes(content))

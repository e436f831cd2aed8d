"""Compressed sections of ELF (SHF_COMPRESSED): unpacked when they are read.

Compilers compress debug sections with zlib or Zstandard (`-gz`). Such a section starts with a header that
says how, and how large the content is. What comes out must be of exactly that size; and since a small
file could claim to hold terabytes, no content may be larger than its compressed form by more than
deflate can make it.

Source: gABI, Section Compression. Zstandard is in Python 3.14 and later, before that in backports.zstd.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from jitlink.errors import MalformedInput, MissingExtra, UnsupportedInput
from jitlink.formats import elf_layout as elf
from jitlink.graph import PADDING

if TYPE_CHECKING:
    from jitlink.formats.elf import ElfReader

HIGHEST_RATIO = 1032
"""What deflate can reach, one bit for each 258 bytes; compilers' output stays far below it."""


def unpack_sections(reader: ElfReader) -> None:
    """Unpack the compressed sections among those that were kept. Leaves their content behind the pool.

    Raises MalformedInput for a header or a stream that is none, MissingExtra where Zstandard is needed
    and not installed.
    """
    rows = reader.kept[(reader.kept_flags & elf.SHF_COMPRESSED) != 0].tolist()
    if not rows:
        return
    pool, end, pieces = reader.batch.pool, len(reader.batch.pool), []
    for row in rows:
        start, size = int(reader.position[row]), int(reader.size[row])
        content = _unpack(pool[start : start + size].tobytes(), reader, row)
        reader.position[row], reader.size[row] = end, len(content)
        pieces.append(np.frombuffer(content, np.uint8))
        end += len(content)
    reader.replace_pool(np.concatenate((pool, *pieces, np.zeros(PADDING, np.uint8))))


def _unpack(packed: bytes, reader: ElfReader, row: int) -> bytes:
    """Unpack one section."""
    input, section = reader.batch.names[int(reader.owner[row])], reader.section_name(row)
    if len(packed) < elf.CHDR.itemsize:
        raise MalformedInput("a compressed section without its header", input=input, section=section)
    header = np.frombuffer(packed, elf.CHDR.newbyteorder(">") if reader.big_endian else elf.CHDR, 1)[0]
    size, method, stream = int(header["size"]), int(header["type"]), packed[elf.CHDR.itemsize :]
    if size > HIGHEST_RATIO * len(packed):
        raise MalformedInput(
            f"a compressed section of {len(packed)} bytes claims to hold {size}", input=input, section=section
        )
    if method == elf.ELFCOMPRESS_ZLIB:
        content = _inflate(stream, size)
    elif method == elf.ELFCOMPRESS_ZSTD:
        content = _unpack_zstd(stream, size)
    else:
        raise UnsupportedInput(f"unknown compression {method}", input=input, section=section)
    if content is None or len(content) != size:
        raise MalformedInput("the content of a compressed section does not unpack", input=input, section=section)
    return content


def _inflate(stream: bytes, size: int) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(stream, size + 1)
    except zlib.error:
        return None
    return content if unpacker.eof else None


def _unpack_zstd(stream: bytes, size: int) -> bytes | None:
    try:
        from compression import zstd  # type: ignore[import-not-found]
    except ImportError:
        try:
            from backports import zstd
        except ImportError as error:
            raise MissingExtra("backports.zstd", "zstd", "a section compressed with Zstandard") from error
    unpacker = zstd.ZstdDecompressor()
    try:
        content: bytes = unpacker.decompress(stream, size + 1)
    except zstd.ZstdError:
        return None
    return content if unpacker.eof else None

"""Static libraries of Debian do their work in this process, as they do when a linker made a program of them.

The oracle is Python's own module for the same subject where there is one (hashlib, zlib, bz2, lzma,
sqlite3), else a round trip. Names that the libraries refer to are found in this process, so Python's own
copies of some of them are loaded at the same time: the archives must keep to themselves.

libc.a and libm.a are not among them. A second C library in a process would have a second heap and its
own idea of threads; libm.a is a linker script that names libm-2.36.a, whose code asks the dynamic loader
of its own version for the processor's features, by names that no shared library exports.
"""

from __future__ import annotations

import bz2
import ctypes
import hashlib
import lzma
import os
import zlib

import pytest

import jitlink
from tests import toolchain

MEGABYTE = os.urandom(1 << 19) + b"a megabyte of it " * (1 << 15)


@pytest.mark.needs("libsqlite3.a")
def test_the_whole_of_sqlite_runs_a_database():
    """All of libsqlite3.a opens a database, inserts 10,000 rows in a transaction and adds them up."""
    with jitlink.load(toolchain.debian_library("libsqlite3.a"), whole_archive=True) as sqlite:
        sqlite.cdef(SQLITE)
        ffi = sqlite.ffi
        handle = ffi.new("sqlite3 **")
        assert sqlite.sqlite3_open(b":memory:", handle) == 0
        database = handle[0]

        def run(statement: bytes) -> None:
            message = ffi.new("char **")
            assert sqlite.sqlite3_exec(database, statement, ffi.NULL, ffi.NULL, message) == 0, ffi.string(message[0])

        def prepared(statement: bytes):
            found = ffi.new("sqlite3_stmt **")
            assert sqlite.sqlite3_prepare_v2(database, statement, -1, found, ffi.NULL) == 0
            return found[0]

        run(b"CREATE TABLE numbers (number INTEGER PRIMARY KEY, text TEXT, root REAL)")
        run(b"BEGIN")
        insert = prepared(b"INSERT INTO numbers VALUES (?, ?, ?)")
        for number in range(10_000):
            sqlite.sqlite3_bind_int64(insert, 1, number)
            sqlite.sqlite3_bind_text(insert, 2, b"row %d" % number, -1, ffi.cast("void (*)(void *)", -1))
            sqlite.sqlite3_bind_double(insert, 3, number**0.5)
            assert sqlite.sqlite3_step(insert) == SQLITE_DONE
            sqlite.sqlite3_reset(insert)
        sqlite.sqlite3_finalize(insert)
        run(b"COMMIT")
        select = prepared(
            b"SELECT count(*), sum(number), sum(length(text)), max(root) FROM numbers WHERE number % 2 = 1"
        )
        assert sqlite.sqlite3_step(select) == SQLITE_ROW
        odd = range(1, 10_000, 2)
        assert sqlite.sqlite3_column_int64(select, 0) == len(odd)
        assert sqlite.sqlite3_column_int64(select, 1) == sum(odd)
        assert sqlite.sqlite3_column_int64(select, 2) == sum(len(f"row {number}") for number in odd)
        assert sqlite.sqlite3_column_double(select, 3) == 9999**0.5
        assert sqlite.sqlite3_step(select) == SQLITE_DONE
        sqlite.sqlite3_finalize(select)
        assert sqlite.sqlite3_close(database) == 0


SQLITE_ROW, SQLITE_DONE = 100, 101
SQLITE = """
    typedef struct sqlite3 sqlite3;
    typedef struct sqlite3_stmt sqlite3_stmt;
    int sqlite3_open(const char *, sqlite3 **);
    int sqlite3_close(sqlite3 *);
    int sqlite3_exec(sqlite3 *, const char *, void *, void *, char **);
    int sqlite3_prepare_v2(sqlite3 *, const char *, int, sqlite3_stmt **, const char **);
    int sqlite3_bind_int64(sqlite3_stmt *, int, long long);
    int sqlite3_bind_double(sqlite3_stmt *, int, double);
    int sqlite3_bind_text(sqlite3_stmt *, int, const char *, int, void (*)(void *));
    int sqlite3_step(sqlite3_stmt *);
    int sqlite3_reset(sqlite3_stmt *);
    int sqlite3_finalize(sqlite3_stmt *);
    long long sqlite3_column_int64(sqlite3_stmt *, int);
    double sqlite3_column_double(sqlite3_stmt *, int);
"""


@pytest.fixture(scope="module")
def crypto():
    """libcrypto.a, whose members are linked as they are asked for."""
    with jitlink.load(toolchain.debian_library("libcrypto.a")) as library:
        library.cdef(
            """
            typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
            typedef struct evp_cipher_st EVP_CIPHER;
            unsigned char *SHA256(const unsigned char *, size_t, unsigned char *);
            EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
            void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *);
            int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *, int, int, void *);
            const EVP_CIPHER *EVP_aes_256_gcm(void);
            int EVP_EncryptInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const char *, const char *);
            int EVP_EncryptUpdate(EVP_CIPHER_CTX *, unsigned char *, int *, const char *, int);
            int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *, unsigned char *, int *);
            int EVP_DecryptInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const char *, const char *);
            int EVP_DecryptUpdate(EVP_CIPHER_CTX *, unsigned char *, int *, const char *, int);
            int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *, unsigned char *, int *);
            """
        )
        yield library


@pytest.mark.needs("libcrypto.a")
@pytest.mark.parametrize("size", [0, 1, 55, 64, 1 << 16])
def test_sha256_of_libcrypto_equals_hashlib(crypto, size):
    """SHA256 of libcrypto.a gives the digest that hashlib gives."""
    data = MEGABYTE[:size]
    digest = crypto.ffi.new("unsigned char[32]")
    crypto.SHA256(data, size, digest)
    assert bytes(digest) == hashlib.sha256(data).digest()


@pytest.mark.needs("libcrypto.a")
def test_aes_256_gcm_of_libcrypto_round_trips_and_checks_its_tag(crypto):
    """What EVP encrypts with AES-256-GCM it decrypts, and a changed tag is found."""
    ffi, key, nonce = crypto.ffi, os.urandom(32), os.urandom(12)
    plain = MEGABYTE[:100_000]
    sealed, length = ffi.new("unsigned char[]", len(plain) + 16), ffi.new("int *")
    tag = ffi.new("unsigned char[16]")
    context = crypto.EVP_CIPHER_CTX_new()
    assert crypto.EVP_EncryptInit_ex(context, crypto.EVP_aes_256_gcm(), ffi.NULL, key, nonce) == 1
    assert crypto.EVP_EncryptUpdate(context, sealed, length, plain, len(plain)) == 1
    assert length[0] == len(plain)
    assert crypto.EVP_EncryptFinal_ex(context, sealed + length[0], length) == 1
    assert crypto.EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, tag) == 1
    crypto.EVP_CIPHER_CTX_free(context)
    assert bytes(sealed[0 : len(plain)]) != plain

    def opened() -> bytes | None:
        context = crypto.EVP_CIPHER_CTX_new()
        output = ffi.new("unsigned char[]", len(plain) + 16)
        assert crypto.EVP_DecryptInit_ex(context, crypto.EVP_aes_256_gcm(), ffi.NULL, key, nonce) == 1
        assert crypto.EVP_DecryptUpdate(context, output, length, ffi.cast("char *", sealed), len(plain)) == 1
        written = length[0]
        assert crypto.EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, 16, tag) == 1
        genuine = crypto.EVP_DecryptFinal_ex(context, output + written, length) == 1
        crypto.EVP_CIPHER_CTX_free(context)
        return bytes(output[0:written]) if genuine else None

    assert opened() == plain
    tag[3] ^= 1
    assert opened() is None


EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG = 0x10, 0x11


@pytest.mark.needs("libcrypto.a")
def test_the_whole_of_libcrypto_links_and_runs():
    """With all 900 members linked at once, SHA-256 is still right."""
    with jitlink.load(toolchain.debian_library("libcrypto.a"), whole_archive=True) as library:
        sha256 = library.function("SHA256", ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p])
        digest = ctypes.create_string_buffer(32)
        sha256(b"abc", 3, digest)
        assert digest.raw == hashlib.sha256(b"abc").digest()


@pytest.mark.needs("libz.a")
def test_zlib_round_trips_a_megabyte():
    """What compress of libz.a makes of a megabyte, Python's zlib and uncompress of libz.a read."""
    with jitlink.load(toolchain.debian_library("libz.a")) as library:
        pointers = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_ulong), ctypes.c_char_p, ctypes.c_ulong]
        packed = ctypes.create_string_buffer(len(MEGABYTE) + 100_000)
        length = ctypes.c_ulong(len(packed))
        assert library.function("compress", ctypes.c_int, pointers)(packed, length, MEGABYTE, len(MEGABYTE)) == 0
        assert zlib.decompress(packed.raw[: length.value]) == MEGABYTE
        unpacked = ctypes.create_string_buffer(len(MEGABYTE))
        size = ctypes.c_ulong(len(MEGABYTE))
        assert library.function("uncompress", ctypes.c_int, pointers)(unpacked, size, packed.raw, length.value) == 0
        assert unpacked.raw == MEGABYTE
        checksum = library.function("crc32", ctypes.c_ulong, [ctypes.c_ulong, ctypes.c_char_p, ctypes.c_uint])
        assert checksum(0, MEGABYTE, len(MEGABYTE)) == zlib.crc32(MEGABYTE)


@pytest.mark.needs("libbz2.a")
def test_bzip2_is_read_by_python():
    """What libbz2.a compresses, Python's bz2 reads."""
    with jitlink.load(toolchain.debian_library("libbz2.a")) as library:
        packed = ctypes.create_string_buffer(1 << 17)
        length = ctypes.c_uint(len(packed))
        compress = library.function("BZ2_bzBuffToBuffCompress")
        assert compress(packed, ctypes.byref(length), MEGABYTE[-100_000:], 100_000, 9, 0, 0) == 0
        assert bz2.decompress(packed.raw[: length.value]) == MEGABYTE[-100_000:]


@pytest.mark.needs("liblzma.a")
def test_lzma_reads_what_python_writes():
    """What Python's lzma compresses, liblzma.a reads."""
    packed = lzma.compress(MEGABYTE[-100_000:])
    with jitlink.load(toolchain.debian_library("liblzma.a")) as library:
        library.cdef(
            "int lzma_stream_buffer_decode(uint64_t *, uint32_t, void *, const char *, size_t *, size_t,"
            " char *, size_t *, size_t);"
        )
        ffi = library.ffi
        unpacked, limit = ffi.new("char[]", 100_000), ffi.new("uint64_t *", 1 << 28)
        read, written = ffi.new("size_t *"), ffi.new("size_t *")
        arguments = (limit, 0, ffi.NULL, packed, read, len(packed), unpacked, written, 100_000)
        assert library.lzma_stream_buffer_decode(*arguments) == 0
        assert ffi.buffer(unpacked)[:] == MEGABYTE[-100_000:]


@pytest.mark.needs("libzstd.a")
def test_zstandard_round_trips():
    """What libzstd.a compresses, it reads again, and it is smaller."""
    with jitlink.load(toolchain.debian_library("libzstd.a")) as library:
        library.cdef(
            "size_t ZSTD_compress(void *, size_t, const char *, size_t, int);"
            "size_t ZSTD_decompress(char *, size_t, const void *, size_t);"
        )
        packed, unpacked = library.ffi.new("char[]", 1 << 21), library.ffi.new("char[]", len(MEGABYTE))
        size = library.ZSTD_compress(packed, 1 << 21, MEGABYTE, len(MEGABYTE), 3)
        assert 0 < size < len(MEGABYTE)
        assert library.ZSTD_decompress(unpacked, len(MEGABYTE), packed, size) == len(MEGABYTE)
        assert library.ffi.buffer(unpacked)[:] == MEGABYTE


@pytest.mark.needs("libpng16.a", "libz.a")
def test_an_archive_that_needs_another_archive_links():
    """libpng takes its zlib from libz.a, whichever is given first, and finds its own signature."""
    png, z = toolchain.debian_library("libpng16.a"), toolchain.debian_library("libz.a")
    for archives in ((png, z), (z, png)):
        with jitlink.load(*archives) as library:
            create = library.function(
                "png_create_read_struct", ctypes.c_void_p, [ctypes.c_char_p] + [ctypes.c_void_p] * 3
            )
            version = library.function("png_get_libpng_ver", ctypes.c_char_p, [ctypes.c_void_p])(None)
            assert create(version, None, None, None)
            compare = library.function("png_sig_cmp", ctypes.c_int, [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t])
            assert compare(b"\x89PNG\r\n\x1a\n", 0, 8) == 0
            assert compare(b"\x89PNG\n\x1a\n\0", 0, 8) != 0
            assert "deflate" in library


@pytest.mark.needs("libgmp.a")
def test_gmp_agrees_with_python_integers():
    """Assembly of libgmp.a multiplies large integers as Python does."""
    with jitlink.load(toolchain.debian_library("libgmp.a")) as library:
        multiply = library.function(
            "__gmpn_mul", ctypes.c_uint64, [ctypes.c_void_p, *[ctypes.c_char_p, ctypes.c_long] * 2]
        )
        one, other = os.urandom(800), os.urandom(240)
        product = ctypes.create_string_buffer(1040)
        multiply(product, one, 100, other, 30)
        expected = int.from_bytes(one, "little") * int.from_bytes(other, "little")
        assert int.from_bytes(product.raw, "little") == expected


@pytest.mark.needs("libexpat.a")
def test_expat_calls_back_for_each_element():
    """The parser of libexpat.a calls a Python function for each start tag."""
    with jitlink.load(toolchain.debian_library("libexpat.a")) as library:
        names = []
        handler_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        handler = handler_type(lambda data, name, attributes: names.append(name))
        parser = library.function("XML_ParserCreate", ctypes.c_void_p, [ctypes.c_char_p])(None)
        library.function("XML_SetStartElementHandler", None, [ctypes.c_void_p, handler_type])(parser, handler)
        text = b"<graph><section><block/><block/></section></graph>"
        parse = library.function(
            "XML_Parse", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
        )
        assert parse(parser, text, len(text), 1) == 1
        assert names == [b"graph", b"section", b"block", b"block"]
        library.function("XML_ParserFree", None, [ctypes.c_void_p])(parser)

"""What linked code has thrown: a look at an exception object, from outside.

Every exception starts with a header that all languages share: eight bytes that say whose it is. What lies
around the header is the matter of that language.

**C++.** Before the header stands what the runtime knows, first of all the type_info, behind it what was
thrown. libstdc++ and libc++abi agree on this part. A type_info has the mangled name, and for classes the
bases, so that we can see whether a std::exception is in it, and ask that for its what(). Numbers and text
that were thrown themselves are shown as they are. While we look, the exception counts as caught, and is
destroyed afterwards, by the runtime's own functions.

**Rust.** The payload of a panic is a `&str` or a `String` where it came from panic!(). Rust does not say
how it lays these out, so we look for what both must have, a pointer and a length of readable text, and
believe it where there is just one. Rust does not allow others to end a panic; the payload is not freed,
and the thread goes on counting as panicking.

Sources: Itanium C++ ABI, 2.9.5 (Layout of RTTI), 2.2 (Exception Handling, C++ specifics); GCC,
libsupc++/unwind-cxx.h; LLVM, libcxxabi/src/cxa_exception.h; Rust, library/panic_unwind/src/gcc.rs.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from itertools import permutations
from typing import Literal

from jitlink.calls.demangling import Demangler
from jitlink.errors import ForeignException, UsageError

Find = Callable[[str], int | None]

HEADER_SIZE = 32
"""sizeof(_Unwind_Exception)."""
CXX_MARK = 0x432B2B00
"""'C++', and a last byte which is 1 where the object refers to one that is thrown elsewhere too."""
GNU = 0x474E5543
ORDERS: tuple[Literal["big", "little"], ...] = ("big", "little")
RUST = {int.from_bytes(b"MOZ\0RUST", order) for order in ORDERS}
"""Rust has written it in both orders."""

TYPE_BEFORE, PRIMARY_BEFORE_GNU, PRIMARY_BEFORE_LLVM = 80, 80, 88
"""Where the type_info, and the object that a dependent exception refers to, stand before the header."""

CLASS_WITH_BASE = "_ZTVN10__cxxabiv120__si_class_type_infoE"
CLASS_WITH_BASES = "_ZTVN10__cxxabiv121__vmi_class_type_infoE"
VTABLE_HEAD = 16
STD_EXCEPTION = "St9exception"
WHAT_SLOT = 2
"""Of std::exception in its vtable, behind two destructors."""
VIRTUAL_BASE = 1
MOST_BASES = 256

NUMBERS = {
    "i": "<i", "j": "<I", "l": "<q", "m": "<Q", "x": "<q", "y": "<Q", "s": "<h", "t": "<H", "a": "<b", "h": "<B",
    "c": "<c", "b": "<?", "f": "<f", "d": "<d",
}  # fmt: skip
"""Fundamental types by their mangled names (Itanium C++ ABI 5.1.5.2)."""
TEXTS = ("PKc", "Pc")
LONGEST_TEXT = 1 << 20

TAKE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
RELEASE = ctypes.CFUNCTYPE(None)
DELETE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def examine(header: int, find: Find) -> ForeignException:
    """Describe an exception that has been caught, and destroy it.

    header: the address of its _Unwind_Exception. find: the addresses of names for the code that threw it.
    """
    sort = _word(header)
    if sort & 0xFFFFFFFE == CXX_MARK & 0xFFFFFFFE:
        return _examine_cxx(header, sort, find)
    if sort in RUST:
        return ForeignException("panic", _panic_message(header), "Rust")
    delete = find("_Unwind_DeleteException")
    if delete:
        DELETE(delete)(header)
    return ForeignException("exception", "", f"{sort:#018x}")


# C++


def _examine_cxx(header: int, sort: int, find: Find) -> ForeignException:
    kind, thrown = _word(header - TYPE_BEFORE), header + HEADER_SIZE
    if sort & 1:
        is_gnu = sort >> 32 == GNU
        thrown = _word(header - (PRIMARY_BEFORE_GNU if is_gnu else PRIMARY_BEFORE_LLVM))
        kind = _word(thrown - HEADER_SIZE - TYPE_BEFORE)
    begin, end = find("__cxa_begin_catch"), find("__cxa_end_catch")
    if begin and end:
        TAKE(begin)(header)
    try:
        return ForeignException(_type_name(kind, find), _message(kind, thrown, find), "C++")
    finally:
        delete = find("_Unwind_DeleteException")
        if begin and end:
            RELEASE(end)()
        elif delete:
            DELETE(delete)(header)


def _mangled(kind: int) -> str:
    """The mangled name in a type_info; a star before it marks a type of a single object file."""
    return _text(_word(kind + 8)).removeprefix("*")


def _type_name(kind: int, find: Find) -> str:
    mangled = _mangled(kind)
    try:
        return Demangler(find).demangle(mangled)
    except UsageError:
        return mangled


def _message(kind: int, thrown: int, find: Find) -> str:
    name = _mangled(kind)
    if name in NUMBERS:
        (value,) = struct.unpack(NUMBERS[name], ctypes.string_at(thrown, struct.calcsize(NUMBERS[name])))
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    if name in TEXTS:
        return _text(_word(thrown))
    place = _std_exception_in(kind, thrown, find)
    if place is None:
        return ""
    what = _word(_word(place) + WHAT_SLOT * 8)
    return _text(TAKE(what)(place))


def _std_exception_in(kind: int, thrown: int, find: Find) -> int | None:
    """Where in an object its std::exception is, or None."""
    with_base, with_bases = (find(name) for name in (CLASS_WITH_BASE, CLASS_WITH_BASES))
    waiting = [(kind, thrown)]
    for _ in range(MOST_BASES):
        if not waiting:
            return None
        each, at = waiting.pop()
        if _mangled(each) == STD_EXCEPTION:
            return at
        sort = _word(each) - VTABLE_HEAD
        if sort == with_base:
            waiting.append((_word(each + 16), at))
        elif sort == with_bases:
            count = _word(each + 16) >> 32
            for number in range(min(count, MOST_BASES)):
                base, flags = struct.unpack("<Qq", ctypes.string_at(each + 24 + 16 * number, 16))
                offset = flags >> 8
                if flags & VIRTUAL_BASE:
                    # Then it is where in the vtable the offset stands.
                    (offset,) = struct.unpack("<q", ctypes.string_at(_word(at) + offset, 8))
                waiting.append((base, at + offset))
    return None


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _text(address: int | None) -> str:
    return ctypes.string_at(address).decode(errors="replace") if address else ""


# Rust


def _panic_message(header: int) -> str:
    """The text of a panic. Behind the header are a canary and the payload, a Box<dyn Any + Send>."""
    payload = _read(header + HEADER_SIZE + 8, 16)
    if payload is None:
        return ""
    data, vtable = struct.unpack("<QQ", payload)
    about = _read(vtable, 24)
    if about is None:
        return ""
    # A vtable starts with the destructor, the size and the alignment.
    destructor, size, alignment = struct.unpack("<QQQ", about)
    if alignment != 8 or (size, bool(destructor)) not in ((16, False), (24, True)):
        return ""
    content = _read(data, size)
    found = {
        text
        for order in permutations(struct.unpack(f"<{size // 8}Q", content or bytes(size)))
        if (text := _rust_text(*order)) is not None
    }
    return found.pop() if len(found) == 1 else ""


def _rust_text(pointer: int, length: int, capacity: int | None = None) -> str | None:
    """The text of a &str (a pointer and a length) or a String (a capacity as well), or None if it is none."""
    if not 0 < length <= LONGEST_TEXT or (capacity is not None and not length <= capacity < pointer):
        return None
    content = _read(pointer, length)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return None


def _read(address: int, size: int) -> bytes | None:
    """Read memory of this process that may not be there: None if it is not."""
    if not 0 < address < 1 << 47:
        return None
    try:
        file = os.open("/proc/self/mem", os.O_RDONLY)
    except OSError:
        return None
    try:
        content = os.pread(file, size, address)
        return content if len(content) == size else None
    except OSError:
        return None
    finally:
        os.close(file)

"""Thread-local storage of this process: blocks made by the dynamic loader, variables of loaded libraries.

For each link that has thread-local variables the loader loads one library that holds nothing else (see
jitlink.runtime.thread_locals_library). A thread then gets its copy, zeroed or initialised, when it first
asks for a variable, and the C library gives the memory back when the thread ends; code asks the loader's
own functions. Nothing of this is written in Python, and nothing of it is ours.

The libraries stay loaded, each with an open file, as long as their dylib does. A block at a fixed distance
from the thread pointer comes out of what the C library has reserved in every thread for libraries that
are loaded late (static TLS; some 1.6 KiB in glibc), and goes back there.

A library's variable is found by its address in the calling thread, which dlsym gives: the loader says of
every module where that thread's block is.

Sources: dl_iterate_phdr(3), dlinfo(3), dlopen(3); glibc, elf/dl-reloc.c and elf/dl-tls.c.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from jitlink.arches import architecture
from jitlink.arches.architecture import Architecture
from jitlink.errors import MemoryRefused
from jitlink.passes.thread_storage import Block, Template, Variable
from jitlink.runtime.host_flags import host_elf_flags
from jitlink.runtime.thread_locals_library import library_file

GET_ADDRESS = "__tls_get_addr"
RTLD_NOW, RTLD_DI_LINKMAP, PT_TLS = 2, 2, 7
WORD = 8
NOT_STATIC = Template(b"", 1 << 20, WORD)
"""Of a size that no C library has reserved, so that its TLS descriptors are of the sort that looks for a block."""
Find = Callable[[str, bool], Variable | None]


class LoaderStorage:
    """The blocks of a dylib in this process.

    find: finds a variable that a link does not define, given its name and whether no other dylib may
    define it; raises LinkFailure where the name is no thread-local.
    """

    fixed = False

    def __init__(self, target: Architecture, find: Find) -> None:
        self._target = target
        self._find = find
        self._kept: list[_Library] = []
        self._new: list[_Library] = []

    def find(self, name: str, *, inside: bool) -> Variable | None:
        """Find a variable that a link does not define, or None. Raises LinkFailure."""
        return self._find(name, inside)

    def allocate(self, template: Template, *, fixed: bool, descriptors: Sequence[int]) -> Block:
        """Load the library of a template. Raises MemoryRefused where the loader refuses."""
        library = _Library(self._target, template, fixed, descriptors)
        self._new.append(library)
        return library.block

    def descriptor_function(self) -> int:
        """The function of TLS descriptors that look for a block."""
        return _descriptor_function(self._target.name)

    def keep(self) -> None:
        """Keep the blocks of a link that has succeeded."""
        self._kept += self._new
        self._new.clear()

    def give_up(self) -> None:
        """Give back the blocks of a link that has failed."""
        while self._new:
            self._new.pop().close()

    def release(self) -> None:
        """Give back all blocks, the last one first: static TLS is given out like a stack."""
        self.give_up()
        while self._kept:
            self._kept.pop().close()


class _Library:
    """A library that the loader has loaded for a template."""

    def __init__(self, target: Architecture, template: Template, fixed: bool, descriptors: Sequence[int]) -> None:
        assert target.thread_locals is not None
        if _dlopen is None or not hasattr(os, "memfd_create"):
            raise MemoryRefused("the C library of this process makes no thread-local storage for linked code")
        machine, loader = target.elf_machine, target.thread_locals.loader
        written = library_file(machine, host_elf_flags(), loader, template, static=fixed, descriptors=descriptors)
        try:
            self._file = os.memfd_create("jitlink-thread-locals")
        except OSError as error:
            raise MemoryRefused(f"there is no memory for thread-locals: {error}") from error
        try:
            os.truncate(self._file, written.size)
            for position, content in written.content.items():
                _write(self._file, content, position)
            # The loader knows a library by its path: the file stays open, so that no other gets the same.
            self._handle = _dlopen(f"/proc/{os.getpid()}/fd/{self._file}".encode(), RTLD_NOW)
            if not self._handle:
                raise _refused(template, fixed)
        except OSError as error:
            os.close(self._file)
            raise MemoryRefused(f"there is no memory for {template.size:#x} bytes of thread-locals: {error}") from error
        except BaseException:
            os.close(self._file)
            raise
        words = (ctypes.c_uint64 * (1 + fixed + 2 * len(descriptors))).from_address(
            _load_address(self._handle) + written.words
        )
        module, *others = list(words)
        start = ctypes.c_int64(others.pop(0)).value if fixed else None
        self.block = Block(module, start, list(zip(others[::2], others[1::2], strict=True)))

    def close(self) -> None:
        """Unload it; the loader takes the block from all threads."""
        _dlclose(self._handle)
        os.close(self._file)


def _write(file: int, content: bytes, position: int) -> None:
    """Write all of content; one call writes 2 GiB at most."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file, rest, position)
        rest, position = rest[written:], position + written


def _refused(template: Template, fixed: bool) -> MemoryRefused:
    """Make the error for a library that the loader does not load."""
    reason = (_dlerror() or b"").decode(errors="replace")
    if not fixed:
        return MemoryRefused(f"the loader makes no thread-local storage: {reason}")
    return MemoryRefused(
        f"code of the initial-exec or local-exec model needs {template.size:#x} bytes of thread-locals at one distance "
        f"from the thread pointer, and the C library has not reserved as much (static TLS): {reason}. Compile with "
        "-fPIC -ftls-model=global-dynamic, or start the process with "
        "GLIBC_TUNABLES=glibc.rtld.optional_static_tls=BYTES in its environment"
    )


def _load_address(handle: int) -> int:
    """Where the loader has loaded a library: the first word of its struct link_map."""
    link_map = ctypes.c_void_p()
    if _dlinfo(handle, RTLD_DI_LINKMAP, ctypes.byref(link_map)):
        raise MemoryRefused(f"the loader does not say where a library is: {_dlerror()}")
    return ctypes.c_uint64.from_address(link_map.value or 0).value


@cache
def _descriptor_function(machine: str) -> int:
    """Have the loader make a descriptor for a block that is not static, and keep both for good."""
    return _Library(architecture(machine), NOT_STATIC, False, [0]).block.descriptors[0][0]


class _Index(ctypes.Structure):
    """tls_index, the argument of __tls_get_addr."""

    _fields_ = (("module", ctypes.c_uint64), ("offset", ctypes.c_uint64))


def address_in_this_thread(target: Architecture, variable: Variable) -> int:
    """The address of the calling thread's copy of a variable, made by this call if there is none yet."""
    bias = target.thread_locals.bias if target.thread_locals is not None else 0
    address: int = _get_address(ctypes.byref(_Index(variable.module, variable.offset - bias)))
    return address


def get_address_function() -> int:
    """The address of __tls_get_addr, which code calls by name."""
    return ctypes.cast(_get_address, ctypes.c_void_p).value or 0


class _ModuleInfo(ctypes.Structure):
    """struct dl_phdr_info of <link.h>."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("segments", ctypes.c_void_p),
        ("segment_count", ctypes.c_uint16),
        ("loaded", ctypes.c_uint64),
        ("unloaded", ctypes.c_uint64),
        ("module", ctypes.c_size_t),
        ("block", ctypes.c_void_p),
    )


class _Segment(ctypes.Structure):
    """Elf64_Phdr."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("offset", "address", "physical", "filled", "size", "alignment")),
    )


VISITOR = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_ModuleInfo), ctypes.c_size_t, ctypes.c_void_p)


def variable_at(target: Architecture, address: int) -> Variable | None:
    """The thread-local variable of a loaded library whose copy for the calling thread is at an address, or None.

    It has a distance from the thread pointer if its block lies in what every thread has reserved.
    """
    found: list[tuple[int, int]] = []

    def visit(info: Any, size: int, data: Any) -> int:
        module = info.contents
        if size < ctypes.sizeof(_ModuleInfo) or not module.block or address < module.block:
            return 0
        if address < module.block + _block_size(module):
            found.append((module.module, module.block))
        return len(found)

    _dl_iterate_phdr(VISITOR(visit), None)
    if not found:
        return None
    module, block = found[0]
    return Variable(module, address - block, _distance_in_static(target, address))


def is_variable(target: Architecture, address: int) -> bool:
    """Whether the loader has found a thread-local variable at an address, and no one thing for all threads.

    Every other symbol of a library lies where the library is loaded. False where the C library does not tell
    quickly what lies there (glibc does since 2.35).
    """
    if _find_object is None or not _find_object(address, _found_object):
        return False
    return variable_at(target, address) is not None


def _block_size(module: _ModuleInfo) -> int:
    segments = (_Segment * module.segment_count).from_address(module.segments)
    return sum(segment.size for segment in segments if segment.type == PT_TLS)


def _distance_in_static(target: Architecture, address: int) -> int | None:
    """The distance of an address from the thread pointer, if it lies in the static TLS of the calling thread.

    None too where the C library does not say how large that is, or has no room left to find it.
    """
    assert target.thread_locals is not None
    if _static_info is None:
        return None
    size, alignment = ctypes.c_size_t(), ctypes.c_size_t()
    _static_info(ctypes.byref(size), ctypes.byref(alignment))
    try:
        # The thread pointer is where it is from a block whose distance the loader tells us.
        probe = _Library(target, Template(b"", 1, 1), True, ())
    except MemoryRefused:
        return None
    try:
        start = address_in_this_thread(target, probe.block.variable(0))
        distance = address - start + (probe.block.from_thread_pointer or 0)
    finally:
        probe.close()
    lowest = -size.value if target.thread_locals.below else 0
    return distance if lowest <= distance < lowest + size.value else None


def _native(name: str, restype: Any, *argtypes: Any) -> Any:
    """A function of this process, or None where its C library has no such function."""
    try:
        function = getattr(ctypes.pythonapi, name)
    except AttributeError:
        return None
    function.restype, function.argtypes = restype, argtypes
    return function


_dlopen = _native("dlopen", ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
_dlclose = _native("dlclose", ctypes.c_int, ctypes.c_void_p)
_dlerror = _native("dlerror", ctypes.c_char_p)
_dlinfo = _native("dlinfo", ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_dl_iterate_phdr = _native("dl_iterate_phdr", ctypes.c_int, VISITOR, ctypes.c_void_p)
# Private to glibc, which keeps it for the sanitizers' libraries.
_static_info = _native("_dl_get_tls_static_info", None, ctypes.c_void_p, ctypes.c_void_p)
_found_object = ctypes.create_string_buffer(128)
"""Room for a struct dl_find_object, which nobody reads."""
_find_object = _native("_dl_find_object", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_get_address = _native(GET_ADDRESS, ctypes.c_void_p, ctypes.c_void_p)

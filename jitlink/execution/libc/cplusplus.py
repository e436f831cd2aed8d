"""What C++ code needs that uses no library: new and delete, guards of static variables, and no exceptions.

There is no unwinder. Code that could throw links and runs; when it does throw, the call from Python ends.
Source: Itanium C++ ABI, 2.9 (type information), 3.2.6 (pure virtual functions), 3.3.3 (guards).
"""

from __future__ import annotations

from jitlink.errors import EmulationFault
from jitlink.execution.libc.memory import aligned
from jitlink.execution.libc.provided import LibraryCall, provides

NEW = [f"_Zn{sort}{size}" for sort in "wa" for size in "my"]
"""operator new and new[], whose size is an unsigned long, or an unsigned long long on Windows."""
DELETE = [f"_Zd{sort}Pv{size}" for sort in "la" for size in ("", "m", "y")]
NAME_IN_TYPE_INFO = 8
POINTER_SIZE = 8
LOWER_BITS = (1 << 63) - 1
TABLE_SIZE = 64
TABLES = [f"_ZTVN10__cxxabiv1{name}E" for name in ("17__class_type_info", "20__si_class_type_info")]
TABLES.append("_ZTVN10__cxxabiv121__vmi_class_type_infoE")
"""Virtual tables of type information, which code points at and never calls."""


@provides(*NEW, types="p z")
def new(call: LibraryCall, size: int) -> int:
    """Allocate; where there is no memory, operator new would throw."""
    address = aligned(call, max(size, 1))
    if not address:
        raise EmulationFault(f"operator new has no memory for {size} bytes")
    return address


@provides(*DELETE, types="v p")
def delete(call: LibraryCall, address: int) -> None:
    """Free."""
    call.memory.free(address)


@provides("__cxa_guard_acquire", types="i p")
def guard_acquire(call: LibraryCall, guard: int) -> int:
    """Whether a static variable has still to be initialised."""
    return int(call.memory.read(guard, 1) == b"\0")


@provides("__cxa_guard_release", types="v p")
def guard_release(call: LibraryCall, guard: int) -> None:
    """A static variable has been initialised."""
    call.memory.write(guard, b"\1")


@provides("__cxa_guard_abort", types="v p")
def guard_abort(call: LibraryCall, guard: int) -> None:
    """The initialisation of a static variable has failed."""


@provides("__cxa_pure_virtual", "__cxa_deleted_virtual", types="v ")
def pure_virtual(call: LibraryCall) -> None:
    """A virtual function that has no definition was called."""
    raise EmulationFault("a pure virtual function was called")


@provides("__cxa_allocate_exception", types="p z")
def allocate_exception(call: LibraryCall, size: int) -> int:
    """Make room for an exception that is about to be thrown."""
    return new(call, size)


@provides("__cxa_throw", types="v ppp")
def throw(call: LibraryCall, thrown: int, type_info: int, destructor: int) -> None:
    """End the call from Python, with the name of the type as its type information has it."""
    at = int.from_bytes(call.memory.read(type_info + NAME_IN_TYPE_INFO, POINTER_SIZE), "little")
    # Apple marks names that are not unique in the highest bit.
    name = call.string(at & LOWER_BITS).decode(errors="backslashreplace")
    raise EmulationFault(f"the program has thrown a C++ exception of the type {name}, and there is no unwinder here")


@provides("__gxx_personality_v0", "__gxx_personality_seh0", "_Unwind_Resume", types="v ")
@provides("__cxa_begin_catch", "__cxa_end_catch", "__cxa_rethrow", types="v ")
def unwind(call: LibraryCall) -> None:
    """Only an unwinder gets here."""
    raise EmulationFault("there is no unwinder here")


@provides("_ZSt9terminatev", types="v ")
def terminate(call: LibraryCall) -> None:
    """std::terminate."""
    raise EmulationFault("the program has called std::terminate")

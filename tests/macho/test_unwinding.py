"""C++ exceptions pass through frames of Mach-O objects, whichever records describe them."""

from __future__ import annotations

import ctypes
import platform
from ctypes.util import find_library

import pytest

import jitlink
from jitlink.graph import SymbolKind
from jitlink.passes.compact_encodings import (
    arm64_frame,
    arm64_frameless,
    permuted_registers,
    x86_64_frame,
    x86_64_immediate,
    x86_64_indirect,
)
from tests.macho.objects import compiled

INT = ctypes.c_int

CXX = """
extern "C" { int destroyed; }
struct Guard { int weight; Guard(int w) : weight(w) {} ~Guard(); };
Guard::~Guard() { destroyed += weight; }
extern "C" void use(void *);

template <int N> __attribute__((noinline)) int nested(int x, int a, int b, int c) {
    Guard guard{N};
    volatile char room[N * 40];
    use((void *)room);
    int result = nested<N - 1>(x, a + b, b * c, c - a);
    return result + a * b + c + room[x & 1];
}
template <> __attribute__((noinline)) int nested<0>(int x, int a, int b, int c) {
    if (x > 3) throw x;
    return x;
}
__attribute__((noinline)) int large(int x) {
    volatile char room[50000];
    use((void *)room);
    Guard guard{100};
    return nested<6>(x, 1, 2, 3) + room[0] * 0;
}
extern "C" int catcher(int x) {
    destroyed = 0;
    try { large(x); return -1; } catch (int value) { return value; }
}
extern "C" int rethrower(int x) {
    try { return catcher(x) < 0 ? throw 2.5 : 1; } catch (double) { return 7; }
}
"""
VARIANTS = {
    "dwarf": (),
    "compact": ("-femit-dwarf-unwind=no-compact-unwind",),
    "compact frameless": ("-femit-dwarf-unwind=no-compact-unwind", "-fomit-frame-pointer"),
    "compact frames": ("-femit-dwarf-unwind=no-compact-unwind", "-fno-omit-frame-pointer"),
}


@pytest.fixture(scope="module")
def cxx_runtime() -> None:
    name = find_library("stdc++")
    if name is None:
        pytest.skip("there is no libstdc++")
    ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is for x86-64")
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("strip", [False, True], ids=["whole", "stripped"])
def test_exceptions_cross_frames_of_every_sort(cxx_runtime, level, variant, strip):
    """Destructors run on the way, and the handler gets the value: frames with and without RBP, small and large."""
    content = compiled(CXX, level, "-fno-stack-protector", *VARIANTS[variant], language="c++")
    use = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda room: None)
    exports = ["catcher", "rethrower", "destroyed"]
    with jitlink.load(content, define={"use": use}, dead_strip=strip, exports=exports) as library:
        catcher, rethrower = (library.function(name, INT, [INT]) for name in exports[:2])
        destroyed = INT.from_address(library["destroyed"].address)
        for _ in range(3):
            assert catcher(9) == 9
            assert destroyed.value == 100 + 6 + 5 + 4 + 3 + 2 + 1
        assert catcher(1) == -1
        assert rethrower(2) == 7


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_function_has_one_record(machine, variant):
    """Of a function that both sorts of records describe, the compact one is dropped."""
    content = compiled(CXX, "-O1", *VARIANTS[variant], machine=machine, language="c++")
    image = jitlink.link(content, base=0x10_0000_0000, define=lambda name: 0x10_1000_0000)
    functions = _described(image)
    named = {image.address_of(name) for name in ("catcher", "rethrower", "_Z5largei")}
    assert named <= set(functions)
    assert len(set(functions)) == len(functions)


def _described(image: jitlink.Image) -> list[int]:
    """The functions that the records of an image describe, as an unwinder finds them."""
    found = []
    for block in image.graph.blocks:
        if block.live and block.section.name == "__TEXT,__eh_frame":
            found += _functions(image.read(block.address, block.size), block.address)
    return found


def _functions(content: bytes, address: int) -> list[int]:
    found, widths, at = [], {}, 0
    while at + 8 <= len(content):
        length, pointer = (int.from_bytes(content[at + i : at + i + 4], "little") for i in (0, 4))
        if not length:
            break
        if not pointer:
            # The last byte of the augmentation data says how functions are given: in 4 bytes or in 8.
            end = content.index(b"\0", at + 9)
            data = end + 1 + 3 + 1
            size = content[data - 1]
            widths[at] = 4 if content[data + size - 1] & 0xF == 0xB else 8
        else:
            width = widths[at + 4 - pointer]
            distance = int.from_bytes(content[at + 8 : at + 8 + width], "little", signed=True)
            if distance:
                found.append(address + at + 8 + distance)
        at += 4 + length
    return found


def test_records_of_dropped_functions_are_emptied():
    """Dead strip clears what the record held in the object too: an unwinder passes over an FDE of address 0."""
    for variant in ("dwarf", "compact"):
        content = compiled(CXX, "-O1", *VARIANTS[variant], language="c++")
        whole = jitlink.link(content, base=0x10_0000, define=lambda name: 0x20_0000)
        kept = jitlink.link(
            content, base=0x10_0000, define=lambda name: 0x20_0000, dead_strip=True, exports=["use_none"]
        )
        assert len(_described(whole)) > 5
        assert _described(kept) == []


# Encodings. CFA n: the caller's frame begins at that register and offset; register @ -n: saved n bytes below.


def decoded(code: bytes) -> dict[str, int | tuple[int, int]]:
    """What call frame instructions leave: the CFA, and where below it each register is saved."""
    state: dict[str, int | tuple[int, int]] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = code[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(code):
        operation = code[at]
        at += 1
        if operation == 0x0C:
            state["cfa"] = (number(), number())
        elif operation & 0xC0 == 0x80:
            state[str(operation & 0x3F)] = 8 * number()
        elif operation == 0x05:
            register = number()
            state[str(register)] = 8 * number()
        else:
            assert operation == 0
    return state


RBX, RBP, RSP, R12, R13, R14, R15, RIP = "3", "6", 7, "12", "13", "14", "15", "16"


def test_frames_with_rbp():
    """UNWIND_X86_64_MODE_RBP_FRAME: five registers from 8 * offset below RBP upwards, three bits each."""
    assert decoded(x86_64_frame(0x01000000)) == {"cfa": (6, 16), RIP: 8, RBP: 16}
    # rbx at rbp - 8, r14 at rbp - 16 (LLVM: pushq %r14; pushq %rbx).
    assert decoded(x86_64_frame(0x01020021)) == {"cfa": (6, 16), RIP: 8, RBP: 16, RBX: 32, R14: 24}
    everything = 0x01050000 | 1 | 2 << 3 | 3 << 6 | 4 << 9 | 5 << 12
    assert decoded(x86_64_frame(everything)) == {
        "cfa": (6, 16), RIP: 8, RBP: 16, RBX: 56, R12: 48, R13: 40, R14: 32, R15: 24,
    }  # fmt: skip


def test_frames_without_rbp():
    """UNWIND_X86_64_MODE_STACK_IMMD and _IND: the stack in words, the registers below the return address."""
    assert decoded(x86_64_immediate(0x02030000)) == {"cfa": (RSP, 24), RIP: 8}
    assert decoded(x86_64_immediate(0x02040400)) == {"cfa": (RSP, 32), RIP: 8, RBX: 16}
    assert decoded(x86_64_indirect(0x03000000 | 2 << 13 | 50008 << 32)) == {"cfa": (RSP, 50024), RIP: 8}


@pytest.mark.parametrize("count", range(7))
def test_every_permutation_has_its_number(count):
    """The numbers from 0 on enumerate all choices of count of six registers, in lexicographic order."""
    total = 1
    for taken in range(count):
        total *= 6 - taken
    orders = [permuted_registers(count, number) for number in range(total)]
    assert orders == sorted(orders)
    assert len({tuple(order) for order in orders}) == total
    assert all(len(set(order)) == count and set(order) <= set(range(1, 7)) for order in orders)


def test_frames_of_arm64():
    """UNWIND_ARM64_MODE_FRAME: pairs below FP and LR, in the order of their numbers."""
    assert decoded(arm64_frame(0x04000000)) == {"cfa": (29, 16), "30": 8, "29": 16}
    assert decoded(arm64_frame(0x04000103)) == {
        "cfa": (29, 16), "30": 8, "29": 16, "19": 24, "20": 32, "21": 40, "22": 48, "72": 56, "73": 64,
    }  # fmt: skip
    assert decoded(arm64_frameless(0x02003000)) == {"cfa": (31, 48)}
    assert decoded(arm64_frameless(0x02002001)) == {"cfa": (31, 32), "19": 8, "20": 16}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("frames", ["-fomit-frame-pointer", "-fno-omit-frame-pointer"])
def test_compact_records_say_what_dwarf_says(machine, frames):
    """For each function, the state behind its prologue is the same in both, as LLVM describes it twice."""
    flags = ("-O2", "-fno-stack-protector", frames)
    dwarf = _states(compiled(CXX, *flags, machine=machine, language="c++"))
    compact = _states(compiled(CXX, *flags, *VARIANTS["compact"], machine=machine, language="c++"))
    # LLVM writes no compact record for a function that leaves the stack as it is.
    assert set(compact) <= set(dwarf)
    compared = 0
    for name, state in compact.items():
        # A function whose frame takes several steps ends in the state that has most registers saved.
        if len(state) > 1:
            assert state == dwarf[name], name
            compared += 1
    assert compared > 3


def _states(content: bytes) -> dict[str, dict[str, int | tuple[int, int]]]:
    """By function the largest frame that its record describes."""
    image = jitlink.link(content, base=0x10_0000_0000, define=lambda name: 0x10_1000_0000)
    names = {
        symbol.address: symbol.name
        for symbol in image.graph.defined()
        if symbol.kind != SymbolKind.SECTION and not symbol.name.startswith("ltmp")
    }
    states = {}
    for block in image.graph.blocks:
        if block.live and block.section.name == "__TEXT,__eh_frame":
            data = image.read(block.address, block.size)
            for function, state in _interpreted(data, block.address):
                states[names[function]] = state
    return states


def _interpreted(content: bytes, address: int) -> list[tuple[int, dict[str, int | tuple[int, int]]]]:
    """Run the instructions of each FDE up to the first that takes a frame down."""
    from io import BytesIO

    from elftools.dwarf.callframe import FDE, CallFrameInfo
    from elftools.dwarf.structs import DWARFStructs

    structs = DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)
    info = CallFrameInfo(BytesIO(content), len(content), address, structs, for_eh_frame=True)
    found = []
    for entry in info.get_entries():
        if not isinstance(entry, FDE) or not entry.header["initial_location"]:
            continue
        best: dict[str, int | tuple[int, int]] = {}
        for row in entry.get_decoded().table:
            cfa = row["cfa"]
            state = {"cfa": (cfa.reg, cfa.offset)}
            state |= {str(key): -rule.arg for key, rule in row.items() if isinstance(key, int)}
            if len(state) > len(best) or (len(state) == len(best) and cfa.offset >= best["cfa"][1]):  # type: ignore[index]
                best = state  # type: ignore[assignment]
        found.append((entry.header["initial_location"] % 2**64, best))
    return found

"""Code is placed where it works: within reach of what it refers to, and refused with advice where nothing is.

"Far" is more than 2 GiB away, which is out of reach of a 32-bit distance; "low" is below 4 GiB, or below 2
GiB where the processor extends the sign, so that an address itself fits into 32 bits. Libraries of the
process are at neither place.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jitlink
from jitlink import memory
from jitlink.memory import Protection, page_size
from tests import programs, toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

GIB = 1 << 30
TWO_GIB, FOUR_GIB = 2 * GIB, 4 * GIB
RETURN_48 = bytes.fromhex("b830000000c3")  # mov $48, %eax; ret
FAR_AWAY, ELSEWHERE = 0x1000_0000_0000, 0x2000_0000_0000


def page_at(address: int, content: bytes, protection: Protection) -> memory.Reservation:
    """A page with this content in the gibibyte that starts at an address."""
    reservation = memory.reserve(page_size(), low=address, high=address + GIB)
    segment = reservation.commit(0, page_size(), protection)
    segment.working[: len(content)] = list(content)
    segment.seal()
    return reservation


@pytest.fixture
def far_code() -> Iterator[int]:
    """The address of a function that returns 48, far from everything."""
    with page_at(FAR_AWAY, RETURN_48, Protection.READ | Protection.EXECUTE) as reservation:
        yield reservation.base


@pytest.fixture
def far_data() -> Iterator[int]:
    """The address of an int, 42, far from everything."""
    with page_at(FAR_AWAY, (42).to_bytes(4, "little"), Protection.READ | Protection.WRITE) as reservation:
        yield reservation.base


def fixed(source: str, *flags: str) -> bytes:
    """Compile code that is to be linked at a fixed low address: not position-independent."""
    return toolchain.zig_cc(source, "-O2", "-fno-pic", *flags, target="x86_64-freestanding")


# Functions


@pytest.fixture
def placed(far_code) -> Iterator[jitlink.Dylib]:
    """A dylib that has its place already, near the libraries of the process, and knows the far function."""
    with jitlink.Session() as session:
        dylib = session.dylib("main").link_against({"far": far_code})
        assert abs(dylib.add(toolchain.assemble(".globl first\nfirst: ret"))["first"].address - far_code) > TWO_GIB
        yield dylib


CALLER = "int far(void); int caller(void) { return far() + 1; } int last(void) { return far(); }"


@pytest.mark.parametrize("flags", ["-O0", "-O2", "-O2 -fno-plt", "-O2 -mcmodel=large"])
def test_a_call_of_a_far_function_works(placed, far_code, flags):
    """A call, and a jump at a function's end, reach a function that is far away."""
    library = placed.add(toolchain.zig_cc(CALLER, *flags.split())).library
    assert abs(library["caller"].address - far_code) > TWO_GIB
    assert library.function("caller")() == 49
    assert library.function("last")() == 48


@pytest.mark.parametrize("kind", ["R_X86_64_PC32", "R_X86_64_PLT32"])
def test_every_spelling_of_a_branch_goes_through_a_stub(placed, far_code, kind):
    """call, jmp and jcc to a far function work under PLT32 and, as old assemblers wrote it, under PC32."""
    source = f"""
        .globl called, jumped, conditional
    called: subq $8, %rsp
        .byte 0xe8
        .reloc ., {kind}, far-4
        .long 0
        addq $8, %rsp
        ret
    jumped: .byte 0xe9
        .reloc ., {kind}, far-4
        .long 0
    conditional: testl %esp, %esp
        .byte 0x0f, 0x85
        .reloc ., {kind}, far-4
        .long 0
        ud2
    """
    library = placed.add(toolchain.assemble(source)).library
    assert abs(library["called"].address - far_code) > TWO_GIB
    for name in ("called", "jumped", "conditional"):
        assert library.function(name)() == 48


def test_a_far_function_has_one_address(far_library):
    """Its address in 32 bits is that of a stub, which stands for it everywhere in the dylib."""
    first = """
        int doubled(int); typedef int function(int);
        function *in_first(void) { return doubled; }
        function *in_data = doubled;
        int call_it(int x) { return doubled(x); }
    """
    second = """
        int doubled(int); extern void *in_data;
        void *in_second(void) { return doubled; }
        void *data(void) { return in_data; }
    """
    with jitlink.load(fixed(first), fixed(second), link_against=[far_library]) as library:
        addresses = {library.function(name, ctypes.c_void_p)() for name in ("in_first", "in_second", "data")}
        assert len(addresses) == 1
        address = addresses.pop()
        assert address < FOUR_GIB  # low, while the library is not
        assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(address)(21) == 42
        assert library.function("call_it", ctypes.c_int, [ctypes.c_int])(4) == 8


@pytest.fixture(scope="module")
def far_library() -> jitlink.Resolver:
    """A shared library, loaded where the dynamic loader puts it: far from the low addresses."""
    source = "int number = 7; int numbers[3] = {1, 2, 3}; int doubled(int x) { return 2 * x; }"
    return jitlink.shared_library(toolchain.link_shared([toolchain.zig_cc(source, "-fPIC")]))


# Data


READER = "extern int datum; int read_it(void) { return datum; } int *where(void) { return &datum; }"


def test_code_goes_near_the_data_that_it_reaches_for(far_data):
    """Code with a 32-bit distance to a datum is placed within reach of it, and calls libraries through stubs."""
    source = """
        .globl add_length
    add_length: subq $8, %rsp
        call strlen@PLT
        addl datum(%rip), %eax
        addq $8, %rsp
        ret
    """
    with jitlink.load(toolchain.assemble(source), define={"datum": far_data}) as library:
        assert library.function("add_length", ctypes.c_int, [ctypes.c_char_p])(b"four") == 46
        assert abs(library["add_length"].address - far_data) < TWO_GIB


def test_code_for_shared_objects_reaches_data_anywhere(far_data):
    """Position-independent code finds a far datum through the GOT, without a place near it."""
    with jitlink.Session() as session:
        dylib = session.dylib("main").link_against({"datum": far_data})
        dylib.add(toolchain.assemble(".globl first\nfirst: ret"))["first"]
        library = dylib.add(toolchain.zig_cc(READER, "-fPIC")).library
        assert abs(library["read_it"].address - far_data) > TWO_GIB
        assert library.function("read_it")() == 42
        assert library.function("where", ctypes.c_void_p)() == far_data


def test_data_in_two_far_places_is_refused_with_the_distance():
    """Where no place is near all data, the error says which datum, how far, and what can be done."""
    source = ".globl read_both\nread_both: movl one(%rip), %eax\naddl other(%rip), %eax\nret"
    with pytest.raises(jitlink.OutOfRange) as caught:
        jitlink.load(toolchain.assemble(source), define={"one": FAR_AWAY, "other": ELSEWHERE})
    error = caught.value
    assert error.kind == "R_X86_64_PC32"
    assert error.targets[0] in ("one", "other")
    distance = abs(error.values[0])
    assert distance >= TWO_GIB
    assert f"{error.targets[0]} is {distance / GIB:.1f} GiB away" in str(error)
    assert "-fPIC" in str(error)
    assert "copy_data=" in str(error)
    assert str(error).startswith("(bytes): .text+0x")


def test_an_absolute_address_of_far_data_is_refused_with_advice(far_library):
    """A 32-bit address of a variable that is not low is an error that names the ways out."""
    absolute = ".globl read_it\nread_it: movl number, %eax\nret"
    with pytest.raises(jitlink.OutOfRange) as caught:
        jitlink.load(toolchain.assemble(absolute), link_against=[far_library])
    assert caught.value.kind == "R_X86_64_32S"
    assert caught.value.targets == ["number"]
    assert "copy_data=['number']" in str(caught.value)


def test_copied_data_is_reached_with_32_bits(far_library):
    """With copy_data the code reads and writes a copy with the content that the variable had."""
    absolute = """
        .globl read_it, read_third, add_one
    read_it: movl number, %eax
        ret
    read_third: movl numbers+8, %eax
        ret
    add_one: incl number(%rip)
        ret
    """
    copies = ["number", "numbers"]
    with jitlink.load(toolchain.assemble(absolute), link_against=[far_library], copy_data=copies) as library:
        assert library.function("read_it")() == 7
        assert library.function("read_third")() == 3
        library.function("add_one", None)()
        assert library.function("read_it")() == 8
    original = far_library.address_of("number")
    assert original is not None
    assert ctypes.c_int.from_address(original).value == 7


def test_data_whose_size_nobody_knows_is_not_copied(far_data):
    """copy_data of an address that belongs to no library is refused, by name."""
    absolute = ".globl read_it\nread_it: movl datum, %eax\nret"
    with pytest.raises(jitlink.LinkFailure, match="datum cannot be copied: its size is not known"):
        jitlink.load(toolchain.assemble(absolute), define={"datum": far_data}, copy_data=["datum"])


# Low addresses, large models, several links


@pytest.mark.parametrize(
    ("instruction", "kind", "limit"),
    [("movl $table, %eax", "R_X86_64_32", FOUR_GIB), ("movq $table, %rax", "R_X86_64_32S", TWO_GIB)],
    ids=["R_X86_64_32", "R_X86_64_32S"],
)
def test_code_with_32_bit_addresses_is_low(instruction, kind, limit):
    """Code that holds an address in 32 bits is placed where that address fits: psABI, R_X86_64_32 and _32S."""
    source = f".globl get\nget: {instruction}\nret\n.data\ntable: .long 3"
    graph = jitlink.read(toolchain.assemble(source))
    assert graph.edges[1].kind == kind
    with jitlink.load(graph) as library:
        address = library.function("get", ctypes.c_void_p)()
        assert address < limit
        assert ctypes.c_int.from_address(address).value == 3


def test_code_of_one_dylib_may_be_low_and_high():
    """A link that needs a low place gets it, though its dylib began elsewhere; both reach each other."""
    early = ".globl early, shared\nearly: movl $30, %eax\nret\n.data\nshared: .long 5"
    low = """
        .globl low, seven
    low: subq $8, %rsp
        call early@PLT
        movq shared@GOTPCREL(%rip), %rcx
        addl (%rcx), %eax
        movq $seven, %rcx
        addl (%rcx), %eax
        addq $8, %rsp
        ret
        .data
    seven: .long 7
    """
    late = ".globl late\nlate: jmp low@PLT"
    with jitlink.Session() as session:
        dylib = session.dylib("main").link_against()
        assert dylib.add(toolchain.assemble(early))["early"].address > FOUR_GIB
        assert dylib.add(toolchain.assemble(low))["low"].address < TWO_GIB
        assert dylib.add(toolchain.assemble(late)).library.function("late")() == 30 + 5 + 7


def test_several_links_of_one_dylib_reach_each_other():
    """Objects that are added one after the other call each other, and share hidden symbols, at 32-bit distances."""
    with jitlink.Session() as session:
        dylib = session.dylib("main")
        for number in range(20):
            before = f"before_{number - 1}" if number else "zero"
            source = f"""
                .hidden {before}
                .hidden before_{number}
                .globl count_{number}, before_{number}
            count_{number}: movl {before}(%rip), %eax
                incl %eax
                movl %eax, before_{number}(%rip)
                ret
                .data
            before_{number}: .long 0
            """
            zero = ".data\n.globl zero\n.hidden zero\nzero: .long 100\n" if not number else ""
            dylib.add(toolchain.assemble(source + zero))
            assert dylib[f"count_{number}"].ctypes(ctypes.c_int)() == 101 + number


def test_large_data_leaves_small_code_in_reach():
    """A section of the large model may have gibibytes; the code and the small data beside it still work."""
    source = """
        .globl small_sum, last_byte
    small_sum: movl small(%rip), %eax
        addl other(%rip), %eax
        ret
    last_byte: movabsq $huge+0xfffffffff, %rax
        movb $7, (%rax)
        movzbl (%rax), %eax
        ret
        .data
    small: .long 40
        .bss
    other: .zero 4
        .section .lbss,"awl",@nobits
    huge: .zero 0x1000000000
    """
    try:
        library = jitlink.load(toolchain.assemble(source))
    except jitlink.MemoryRefused as error:
        pytest.skip(f"this host gives no 64 GiB of addresses: {error}")
    with library:
        assert library.function("small_sum")() == 40
        assert library.function("last_byte")() == 7


# The two ways to executable memory


def writable_and_executable() -> set[str]:
    """The pages of this process that are both; libffi may have made some for callbacks of ctypes."""
    return {line for line in Path("/proc/self/maps").read_text().splitlines() if "wx" in line.split()[1]}


@pytest.mark.parametrize("policy", ["mprotect", "dual"])
def test_a_session_with_either_policy_runs_the_programs(policy):
    """Written pages that are protected, and files that are mapped twice, hold the same working code."""
    texts = [programs.source("linkage_a.c"), programs.source("linkage_b.c")]
    expected = programs.native_results(*texts)
    before = writable_and_executable()
    with jitlink.Session(memory=policy) as session:
        dylib = session.dylib("main").add(*(toolchain.zig_cc(text, "-O2") for text in texts))
        assert programs.results(dylib.library, *texts) == expected
        assert writable_and_executable() <= before


@pytest.mark.parametrize("policy", ["mprotect", "dual"])
def test_the_environment_chooses_the_policy(tmp_path, policy):
    """JITLINK_MEMORY decides for a whole process; all programs compute the same under either."""
    text = programs.source(*programs.ALONE)
    path = tmp_path / "programs.o"
    path.write_bytes(toolchain.zig_cc(text, "-O2"))
    (tmp_path / "programs.c").write_text(text)
    program = (
        "import sys, pathlib, jitlink; from tests import programs;"
        f"library = jitlink.load({str(path)!r});"
        "print(sorted(programs.results(library, pathlib.Path(sys.argv[1]).read_text()).items()));"
        "code = library['check_sieve'].address;"
        "maps = [line.split() for line in open('/proc/self/maps')];"
        "print([line[1:] for line in maps if int(line[0].split('-')[0], 16) <= code < int(line[0].split('-')[1], 16)])"
    )
    root = str(Path(jitlink.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "JITLINK_MEMORY": policy}
    command = [sys.executable, "-c", program, str(tmp_path / "programs.c")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    shown, mapping = run.stdout.splitlines()
    assert shown == str(sorted(programs.native_results(text).items()))
    assert ("memfd:" in mapping) == (policy == "dual")
    assert "r-xp" in mapping

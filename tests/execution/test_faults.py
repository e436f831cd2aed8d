"""What goes wrong in emulated code becomes an exception that says where, why, and shows the code."""

from __future__ import annotations

import ctypes

import pytest

import jitlink
from jitlink import EmulationFault, InstructionLimit
from tests.execution.platforms import LIMIT, MACHINES, PLATFORMS, emulated, load
from tests.toolchain import assemble

pytest.importorskip("unicorn")

STACK = 1 << 16

FAULTY = """
int read(int *p) { return *p; }
void write(int *p) { *p = 1; }
int jump(int (*f)(void)) { return f() + 1; }
int deep(int x) { volatile char room[4096]; room[0] = x; return room[0] + deep(x + 1) + room[1]; }
void forever(void) { for (;;) __asm__ volatile(""); }
int divide(int a, int b) { return a / b; }
int after(void) { return 5; }
"""


@pytest.fixture(scope="module", params=PLATFORMS)
def library(request):
    options = jitlink.Emulation(instruction_limit=LIMIT, stack_size=STACK)
    with emulated(FAULTY, request.param, "-O1", "-fno-inline", emulate=options) as library:
        yield library


def pointed_at(fault: EmulationFault) -> str:
    """The instruction that the listing points at."""
    [line] = [line for line in fault.listing if line.startswith("  >")]
    return line


@pytest.mark.parametrize("address", [0, 8, 0xDEAD0000, (1 << 47) - 4])
@pytest.mark.parametrize("verb", ["read", "write"])
def test_memory_that_is_not_there_faults(library, verb, address):
    """The fault names the access, its address, the function and the instruction."""
    with pytest.raises(EmulationFault, match=f"a {verb} of 4 bytes at {address:#x}, which is not mapped") as caught:
        library.function(verb, None, [ctypes.c_void_p])(address)
    fault = caught.value
    assert fault.location is not None
    assert fault.location.startswith(f"{verb}+0x")
    assert f"{fault.address:#x}" in pointed_at(fault)
    assert library.function("after")() == 5


@pytest.mark.parametrize("address", [0, 0x50, 0xDEAD0000])
def test_a_jump_to_nowhere_faults_and_names_the_caller(library, address):
    """A call through a wild pointer says where it went, and from where."""
    with pytest.raises(EmulationFault, match=f"a jump to {address:#x}, where there is no code") as caught:
        library.function("jump", ctypes.c_int, [ctypes.c_void_p])(address)
    assert caught.value.location is not None
    assert caught.value.location.startswith("jump+")


def test_a_stack_that_is_used_up_faults(library):
    """Recursion without end stops at the guard below the stack."""
    with pytest.raises(EmulationFault, match="stack of 0x10000 bytes is used up") as caught:
        library.function("deep", ctypes.c_int, [ctypes.c_int])(0)
    assert caught.value.location is not None
    assert caught.value.location.startswith("deep+")
    assert library.function("after")() == 5


def test_a_loop_without_end_runs_into_the_limit(library):
    """The limit counts the instructions of one call; the next call has the whole of it again."""
    for _ in range(2):
        with pytest.raises(InstructionLimit, match="more than 300000 instructions") as caught:
            library.function("forever", None)()
        assert str(caught.value).startswith("forever+")


SPIN = """
extern void note(void);
void spin(long n) { while (n--) __asm__ volatile(""); }
void noting(void) { for (;;) note(); }
"""


@pytest.mark.parametrize("platform", MACHINES)
def test_the_limit_is_exact_to_a_block(platform):
    """A loop of known length passes with a limit above its instructions, and not with one below."""
    counted = []

    def note() -> None:
        counted.append(1)

    for limit, passes in ((20_000, False), (70_000, True)):
        options = jitlink.Emulation(instruction_limit=limit)
        with emulated(SPIN, platform, "-O1", emulate=options, define={"note": note}) as library:
            spin = library.function("spin", None, [ctypes.c_long])
            if passes:
                spin(10_000)
            else:
                with pytest.raises(InstructionLimit):
                    spin(25_000)


def test_a_loop_that_calls_python_runs_into_the_limit_too():
    """The count goes on across calls of Python functions."""

    def note() -> None:
        """Nothing."""

    options = jitlink.Emulation(instruction_limit=1000)
    library = emulated(SPIN, "riscv64-linux-gnu", emulate=options, define={"note": note})
    with library, pytest.raises(InstructionLimit):
        library.function("noting", None)()


TRAPS = {
    "x86_64-linux-gnu": [
        ("ud2", "undefined instruction|does not have"),
        ("int3", "a breakpoint"),
        ("syscall", "a system call"),
        ("int $0x80", "a system call"),
        ("hlt", "halted"),
        ("xor %ecx, %ecx; div %ecx", "a division"),
    ],
    "aarch64-linux-gnu": [("udf #0", "undefined"), ("brk #1", "a breakpoint"), ("svc #0", "a system call")],
    "riscv64-linux-gnu": [
        (".word 0xffffffff", "undefined"),
        ("ebreak", "breakpoint|not have"),
        ("ecall", "a system call"),
    ],
}


@pytest.mark.parametrize(
    ("platform", "instruction", "reason"),
    [(platform, *trap) for platform, traps in TRAPS.items() for trap in traps],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_instructions_that_trap_fault_where_they_stand(platform, instruction, reason):
    """Each trap has its reason, and the fault is at the instruction and not behind it."""
    source = (
        f".text\n.globl start\n.type start, @function\nstart: nop\ntrap: {instruction}\nnop\n.size start, .-start\n"
    )
    with load(assemble(source, target=platform), platform) as library:
        with pytest.raises(EmulationFault, match=reason) as caught:
            library.function("start")()
        last = instruction.rpartition(";")[2].split()[0]
        shown = pointed_at(caught.value)
        assert last in shown or ".byte" in shown or "halted" in reason


def test_data_is_no_code():
    """A jump into data is a fault at the data."""
    library = emulated("int data[4]; int f(void) { return 1; }", "aarch64-linux-gnu")
    with library, pytest.raises(EmulationFault, match="no code"):
        library.dylib["data"].ctypes(ctypes.c_int)()


def test_a_fault_inside_of_the_c_library_names_the_caller():
    """strlen of a null pointer faults where strlen was called."""
    source = "__SIZE_TYPE__ strlen(const char *); int f(const char *s) { return strlen(s) + 1; }"
    for platform in PLATFORMS:
        with emulated(source, platform, "-O1", "-fno-builtin") as library:
            with pytest.raises(EmulationFault, match=r"strlen: a read of .* not all mapped") as caught:
                library.function("f", ctypes.c_int, [ctypes.c_char_p])(None)
            assert str(caught.value).startswith("f+"), platform


def test_names_of_the_input_are_escaped():
    """A symbol whose name has control characters cannot write to the terminal."""
    source = '.globl "\x1b[31mred"\n.type "\x1b[31mred", @function\n"\x1b[31mred": udf #0\n.size "\x1b[31mred", 4\n'
    library = load(assemble(source, target="aarch64-linux-gnu"), "aarch64-linux-gnu")
    with library, pytest.raises(EmulationFault) as caught:
        library.function("\x1b[31mred")()
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("options", [{"instruction_limit": 0}, {"stack_size": 0}, {"instruction_limit": -5}])
def test_options_that_mean_nothing_are_refused(options):
    """A limit or a stack of nothing is a mistake."""
    with pytest.raises(ValueError, match="must be positive"):
        jitlink.Emulation(**options)


def test_the_limit_counts_the_code_that_is_there_now():
    """Of code that was written over, instructions are counted anew, also where the blocks are as long as before."""
    many, few = b"\x90" * 32 + b"\xc3", b"\x0f\x1f\x84\x00\0\0\0\0" * 4 + b"\xc3"
    options = jitlink.Emulation(instruction_limit=16)
    text = ".text\n.globl f\nf: .byte " + ",".join(map(str, few)) + "\n"
    with jitlink.load(assemble(text, target="x86_64-linux-gnu"), target="x86_64", emulate=options) as library:
        function, start = library.function("f", None), library["f"].address
        function()
        library.memory.write(start, many)
        with pytest.raises(InstructionLimit):
            function()
        library.memory.write(start, few)
        function()

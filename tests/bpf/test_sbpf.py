"""SBPF: executables, relocations, memory, calls and budget, as the SIMDs and doc/bytecode.md of sbpf say."""

import ctypes
import io
import struct
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from jitlink.bpf import BpfFault, FaultKind, VerificationFailed, sbpf
from jitlink.bpf.sbpf.hashes import hash_of_place, murmur3
from jitlink.bpf.sbpf.jit.machine import JitMachine
from jitlink.bpf.sbpf.memory import HEAP_START, INPUT_START, PROGRAM_START, STACK_START
from jitlink.bpf.verification import Rule
from jitlink.errors import LinkError, MalformedInput, UnsupportedInput, UnsupportedRelocation, UsageError
from tests.bpf.machines import needs_native_code
from tests.bpf.sbpf_files import EXIT, FUNC, NOTYPE, TEXT_AT, Lenient, Strict, build, call, lddw, op
from tests.bpf.sbpf_machines import TIERS

VERSIONS = [0, 1, 2, 3]
MASK = (1 << 64) - 1
MOV, ADD, MOV_REGISTER, LDXDW, STXDW, LDXB, STXB = 0xB7, 0x07, 0xBF, 0x79, 0x7B, 0x71, 0x73


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Keep what LLVM makes where only this test sees it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(params=TIERS)
def tier(request):
    return request.param


def run(tier, file, *arguments, data=b"", budget=100_000, **options):
    return sbpf.load(file, tier=tier, **options).run(data, *arguments, budget=budget)


def fault_of(tier, file, *arguments, **options):
    with pytest.raises(BpfFault) as caught:
        run(tier, file, *arguments, **options)
    return caught.value


def constant(version, dst, value):
    """A 64-bit constant: lddw, or in version 2 mov and hor64."""
    if version != 2:
        return lddw(dst, value)
    return op(0xB4, dst, imm=value) + op(0xF7, dst, imm=value >> 32)


def load_double(version, dst, src, offset=0):
    return op(0x9C if version == 2 else LDXDW, dst, src, offset)


def store_double(version, dst, src, offset=0):
    return op(0x9F if version == 2 else STXDW, dst, src, offset)


# Hashes


@pytest.mark.parametrize(
    ("data", "seed", "expected"),
    [(b"", 0, 0), (b"", 1, 0x514E28B7), (b"test", 0, 0xBA6BD213), (b"Hello, world!", 0, 0xC0363E43)],
)
def test_murmur3_has_the_published_values(data, seed, expected):
    """The hash is MurmurHash3_x86_32: the values that its descriptions give."""
    assert murmur3(data, seed) == expected


@pytest.mark.parametrize(
    ("name", "number"), [("abort", 0xB6FC1A11), ("sol_log_", 0x207559BD), ("sol_memcpy_", 0x717CC4A3)]
)
def test_syscalls_have_the_numbers_of_solana(name, number):
    """A syscall has the number that programs on Solana call it by."""
    assert sbpf.hash_of_name(name) == number


# Files


@pytest.mark.parametrize("version", VERSIONS)
def test_an_executable_of_each_version_runs(tier, version):
    """The entry point is where e_entry says, and r0 is the result."""
    text = op(MOV, 0, imm=1) + EXIT + op(MOV, 0, imm=-2) + EXIT
    program = sbpf.load(build(version, text, entry=2), tier=tier)
    assert program.version == version
    assert program.run().r0 == -2 & MASK


def test_r_bpf_64_64_adds_the_symbol_and_the_base(tier):
    """R_BPF_64_64 writes S + A, moved to 2**32, into both halves of a wide constant."""
    text = lddw(1, 8) + load_double(0, 0, 1) + EXIT
    file = Lenient(text, rodata=bytes(8) + struct.pack("<Q", 0x1122334455667788))
    file.symbols["table"] = (file.rodata_at, NOTYPE)
    file.relocations = [(TEXT_AT, 1, "table")]
    assert run(tier, file.build()).r0 == 0x1122334455667788


def test_r_bpf_64_relative_in_code_moves_a_constant(tier):
    """R_BPF_64_RELATIVE in .text adds 2**32 to an address of the file, and leaves one that is moved already."""
    for base in (0, PROGRAM_START):
        file = Lenient(lddw(1, base + TEXT_AT + 32) + load_double(0, 0, 1) + EXIT, rodata=struct.pack("<Q", 99))
        file.relocations = [(TEXT_AT, 8, 0)]
        assert run(tier, file.build()).r0 == 99


def test_r_bpf_64_relative_in_data_takes_the_upper_word(tier):
    """R_BPF_64_RELATIVE in data makes 2**32 plus the 32 bits at P + 4 of the 64 bits at P."""
    file = Lenient(lddw(1, TEXT_AT + 32) + load_double(0, 0, 1) + EXIT, rodata=struct.pack("<II", 7, 0x1234))
    file.relocations = [(TEXT_AT, 8, 0), (file.rodata_at, 8, 0)]
    assert run(tier, file.build()).r0 == PROGRAM_START + 0x1234


def test_r_bpf_64_32_calls_a_syscall_by_the_hash_of_its_name(tier):
    """R_BPF_64_32 of an undefined symbol writes the hash of its name; r1 to r5 are the arguments."""
    seen = []

    def syscall(machine, *arguments):
        seen.append(arguments)
        return -1

    text = b"".join(op(MOV, number, imm=10 + number) for number in range(1, 6)) + call(-1) + EXIT
    file = Lenient(text, symbols={"my_syscall": (0, NOTYPE)}, relocations=[(TEXT_AT + 40, 10, "my_syscall")])
    assert run(tier, file.build(), syscalls={"my_syscall": syscall}).r0 == MASK
    assert seen == [(11, 12, 13, 14, 15)]


def test_r_bpf_64_32_calls_a_function_by_the_hash_of_its_place(tier):
    """R_BPF_64_32 of a defined function calls it; the number is the hash of its slot."""
    text = call(-1) + EXIT + op(MOV, 0, imm=5) + EXIT
    file = Lenient(text, symbols={"five": (TEXT_AT + 16, FUNC)}, relocations=[(TEXT_AT, 10, "five")])
    program = sbpf.load(file.build(), tier=tier)
    assert program.executable.functions[hash_of_place(2)] == 2
    assert program.run().r0 == 5


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_finished_call_is_relative(tier, version):
    """A call with a distance in it, which the linker has finished, reaches the function there."""
    assert run(tier, build(version, call(1, src=1) + EXIT + op(MOV, 0, imm=6) + EXIT)).r0 == 6


def test_static_calls(tier):
    """In version 3 src of a call says which sort it is: 1 a function at a distance, 0 a syscall by hash."""
    text = call(2, src=1) + call(sbpf.hash_of_name("twice")) + EXIT + op(MOV, 1, imm=21) + EXIT
    assert run(tier, Strict(text).build(), syscalls={"twice": lambda machine, r1, *rest: 2 * r1}).r0 == 42


def test_constants_of_version_3_are_at_0_and_code_cannot_be_read(tier):
    """SIMD-0189: the constants lie at 0, the code at 2**32 with execution only."""
    rodata = struct.pack("<QQ", 3, 4)
    assert run(tier, Strict(op(MOV, 1) + load_double(3, 0, 1, 8) + EXIT, rodata).build()).r0 == 4
    fault = fault_of(tier, Strict(lddw(1, PROGRAM_START) + load_double(3, 0, 1) + EXIT, rodata).build())
    assert (fault.kind, fault.pc, fault.address) == (FaultKind.OUT_OF_BOUNDS, 2, PROGRAM_START)


def test_code_of_version_0_can_be_read_and_not_written(tier):
    """Up to version 2 the code is part of the program's region, which is read-only."""
    address = PROGRAM_START + TEXT_AT
    text = lddw(1, address) + load_double(0, 0, 1) + EXIT
    assert run(tier, build(0, text)).r0 == int.from_bytes(text[:8], "little")
    fault = fault_of(tier, build(0, lddw(1, address) + store_double(0, 1, 1) + EXIT))
    assert (fault.kind, fault.pc) == (FaultKind.READ_ONLY, 2)


GOOD = Lenient(call(-1) + lddw(1, TEXT_AT) + EXIT, symbols={"sol_log_": (0, NOTYPE)})


@pytest.mark.parametrize(
    ("file", "error", "text"),
    [
        (GOOD.build(type=1), UnsupportedInput, "shared object"),
        (GOOD.build(machine=62), UnsupportedInput, "machine 62"),
        (GOOD.build(ident=b"\x01\x01\x01"), UnsupportedInput, "64 bits"),
        (Lenient(EXIT, version=4).build(), UnsupportedInput, "version 4"),
        (Lenient(EXIT, entry=1).build(), MalformedInput, "entry point"),
        (Lenient(EXIT, sections=[(".bss", 8, 3, b"")]).build(), UnsupportedInput, "written"),
        (Lenient(EXIT, sections=[(".data", 1, 3, b"1")]).build(), UnsupportedInput, "written"),
        (Lenient(EXIT, sections=[(".text", 1, 2, b"1")]).build(), MalformedInput, "has 2"),
        (Lenient(EXIT, relocations=[(TEXT_AT, 2, 0)]).build(), UnsupportedRelocation, "1, 8 and 10"),
        (Lenient(EXIT, relocations=[(1 << 40, 8, 0)]).build(), MalformedInput, "outside of the file"),
        (Lenient(EXIT, relocations=[((1 << 64) - 1, 8, 0)]).build(), MalformedInput, "outside of the file"),
        (Lenient(EXIT, relocations=[(TEXT_AT, 10, 9)]).build(), MalformedInput, "symbol 9"),
        (Lenient(lddw(1, 0) + EXIT, relocations=[(TEXT_AT, 8, 0)]).build(), MalformedInput, "is 0"),
        (Lenient(EXIT * 3, relocations=[(TEXT_AT, 0, 0)] * 2).build(), MalformedInput, "one place"),
        (Lenient(call(5) + EXIT).build(), MalformedInput, "leads out"),
        (Strict(EXIT).build(phnum=0), MalformedInput, "no program headers"),
        (Strict(EXIT).build(phnum=1), MalformedInput, "no program header of code"),
        (Strict(EXIT).build(machine=263), UnsupportedInput, "machine 263"),
        (Lenient(EXIT).build(shoff=12), MalformedInput, "aligned"),
        (Lenient(EXIT).build(shoff=32), MalformedInput, "overlap"),
        (Strict(EXIT).build(phoff=72), MalformedInput, "phoff"),
        (Strict(EXIT, entry=1).build(), MalformedInput, "entry point"),
        (Strict(EXIT, rodata=b"123").build(), MalformedInput, "SIMD-0189"),
        (b"", MalformedInput, "ELF header"),
    ],
)
def test_a_bad_file_is_refused(file, error, text):
    """What the layout rules forbid is refused with the rule, and with the name of the input."""
    with pytest.raises(error, match=text) as caught:
        sbpf.load(file)
    assert "bytes" in str(caught.value)


@pytest.mark.parametrize("file", [GOOD.build(), Strict(EXIT * 2, bytes(16)).build()], ids=["lenient", "strict"])
def test_a_damaged_file_is_an_error_or_a_program(file):
    """No damage of a file does more than raise a LinkError: each byte set to 0 and to 255, and each end cut off."""
    for at in range(len(file)):
        for damaged in (file[:at], file[:at] + b"\0" + file[at + 1 :], file[:at] + b"\xff" + file[at + 1 :]):
            try:
                sbpf.load(damaged)
            except LinkError:
                continue


# Memory


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("start", [STACK_START, HEAP_START, INPUT_START])
def test_each_region_begins_where_it_must(tier, version, start):
    """Stack, heap and input are at 2, 3 and 4 times 2**32; a byte below or behind is a fault."""
    size = {STACK_START: 64 * 4096, HEAP_START: 32 * 1024, INPUT_START: 16}[start]

    def program(address):
        text = constant(version, 1, address) + op(MOV, 2, imm=77)
        return build(version, text + store_double(version, 1, 2) + load_double(version, 0, 1) + EXIT)

    data = bytes(16)
    assert run(tier, program(start), data=data).r0 == 77
    assert fault_of(tier, program(start - 1), data=data).kind is FaultKind.OUT_OF_BOUNDS
    end = start + size
    if version == 0 and start == STACK_START:
        end = start + 2 * size - 4096
    assert run(tier, program(end - 8), data=data).r0 == 77
    fault = fault_of(tier, program(end - 7), data=data)
    assert (fault.kind, fault.address, fault.size) == (FaultKind.OUT_OF_BOUNDS, end - 7, 8)


def test_gaps_between_frames(tier):
    """In version 0 the 4096 bytes behind each frame of 4096 are a gap; later versions have none."""
    for version in VERSIONS:
        text = constant(version, 1, STACK_START + 4096) + load_double(version, 0, 1) + EXIT
        if version == 0:
            assert fault_of(tier, build(version, text)).kind is FaultKind.OUT_OF_BOUNDS
        else:
            assert run(tier, build(version, text)).r0 == 0


@pytest.mark.parametrize("address", [5 << 32, 1 << 63, MASK, 0xFFFF_FFFF])
def test_an_address_of_no_region_faults(tier, address):
    """There is nothing above the input, and nothing at 0 before version 3."""
    fault = fault_of(tier, build(0, lddw(1, address) + load_double(0, 0, 1) + EXIT))
    assert (fault.kind, fault.address) == (FaultKind.OUT_OF_BOUNDS, address)


def test_the_input_is_returned_and_the_callers_bytes_stay(tier):
    """A run changes a copy of its input, which the result has; the next run has zeroed stack and heap."""
    data = bytearray(b"abcd")
    text = op(LDXB, 0, 1) + op(ADD, 0, imm=1) + op(STXB, 1, 0, 3) + EXIT
    assert run(tier, build(0, text), data=data).data == b"abcb"
    assert data == b"abcd"
    count = lddw(1, HEAP_START) + load_double(0, 0, 1) + op(ADD, 0, imm=1) + store_double(0, 1, 0) + EXIT
    program = sbpf.load(build(0, count), tier=tier)
    assert [program.run().r0, program.run().r0] == [1, 1]


def test_two_programs_do_not_share_memory(tier):
    """The same virtual address is another byte in each machine."""
    text = lddw(2, HEAP_START) + store_double(0, 2, 1) + call(-1) + load_double(0, 0, 2) + EXIT
    file = Lenient(text, symbols={"other": (0, NOTYPE)}, relocations=[(TEXT_AT + 24, 10, "other")]).build()
    inner = sbpf.load(file, tier=tier, syscalls={"other": lambda *_: 0})
    outer = sbpf.load(file, tier=tier, syscalls={"other": lambda *_: inner.run(b"", 2).r0})
    assert outer.run(b"", 1).r0 == 1


# Calls


@pytest.mark.parametrize("version", VERSIONS)
def test_a_call_keeps_r6_to_r10(tier, version):
    """exit restores r6 to r9 and r10, whatever the function did to them; r0 to r5 are the function's."""
    setting = b"".join(op(MOV, number, imm=number) for number in range(10))
    changing = b"".join(op(MOV, number, imm=100) for number in range(10))
    adding = b"".join(op(0x0F, 0, number) for number in (1, 6, 7, 8, 9))
    text = setting + call(6, src=1) + adding + EXIT + changing + EXIT
    assert run(tier, build(version, text)).r0 == 200 + 6 + 7 + 8 + 9


@pytest.mark.parametrize(
    ("version", "first", "step"),
    [(0, 4096, 8192), (1, 64 * 4096, 0), (2, 64 * 4096, 0), (3, 4096, 4096)],
)
def test_where_frames_are(tier, version, first, step):
    """r10 begins at the end of the first frame, or of the stack; a call moves it by a frame, with its gap, or not."""
    text = op(MOV_REGISTER, 0, 10) + EXIT
    assert run(tier, build(version, text)).r0 == STACK_START + first
    assert run(tier, build(version, call(1, src=1) + EXIT + text)).r0 == STACK_START + first + step


@pytest.mark.parametrize("version", [1, 2])
def test_a_program_sizes_its_frames(tier, version):
    """SIMD-0166: add64 r10 moves the frame; its caller's comes back with exit."""
    text = call(3, src=1) + op(ADD, 0, imm=8) + store_double(version, 10, 0, -8) + EXIT
    text += op(ADD, 10, imm=-64) + store_double(version, 10, 10, -8) + op(MOV_REGISTER, 0, 10) + EXIT
    result = sbpf.load(build(version, text), tier=tier)
    assert result.run().r0 == STACK_START + 64 * 4096 - 64 + 8
    memory = result.machine.memory
    assert memory.read(STACK_START + 64 * 4096 - 8, 8) == struct.pack("<Q", STACK_START + 64 * 4096 - 56)
    assert memory.read(STACK_START + 64 * 4096 - 72, 8) == struct.pack("<Q", STACK_START + 64 * 4096 - 64)


@pytest.mark.parametrize("version", VERSIONS)
def test_64_functions_may_be_active(tier, version):
    """The call that would make a 65th function active is a fault; the program itself is the first."""
    # f(r1): if r1 == 0 return 7; f(r1 - 1)
    text = op(0x15, 1, offset=3) + op(ADD, 1, imm=-1) + call(-3, src=1) + EXIT + op(MOV, 0, imm=7) + EXIT
    assert run(tier, build(version, text), 63).r0 == 7
    fault = fault_of(tier, build(version, text), 64)
    assert (fault.kind, fault.pc) == (FaultKind.CALL_DEPTH, 2)


def callx(version, register):
    if version == 2:
        return op(0x8D, src=register)
    return op(0x8D, dst=register) if version == 3 else op(0x8D, imm=register)


@pytest.mark.parametrize("version", VERSIONS)
def test_callx_names_its_register_where_the_version_says(tier, version):
    """callx has its register in imm, in version 2 in src, in version 3 in dst."""
    text_at = PROGRAM_START + (0 if version == 3 else TEXT_AT)
    text = constant(version, 4, text_at + 8 * 4) + callx(version, 4) + EXIT + op(MOV, 0, imm=9) + EXIT
    assert run(tier, build(version, text)).r0 == 9
    outside = constant(version, 4, text_at + 8 * 4) + callx(version, 4) + EXIT
    fault = fault_of(tier, build(version, outside))
    assert (fault.kind, fault.pc) == (FaultKind.BAD_CALL, 2)


def test_callx_through_a_table_of_functions(tier):
    """A pointer to a function in read-only data, relocated, can be called."""
    text = lddw(1, TEXT_AT + 48) + load_double(0, 1, 1) + callx(0, 1) + EXIT + op(MOV, 0, imm=3) + EXIT
    file = Lenient(text, rodata=struct.pack("<II", 0, TEXT_AT + 40))
    file.text = text = lddw(1, file.rodata_at) + text[16:]
    file.relocations = [(TEXT_AT, 8, 0), (file.rodata_at, 8, 0)]
    assert run(tier, file.build()).r0 == 3


def test_callx_may_lead_into_the_middle_of_a_function(tier):
    """No rule says that callx leads to the start of a function; a misaligned address is rounded down."""
    text = lddw(4, PROGRAM_START + TEXT_AT + 8 * 5 + 3) + callx(0, 4) + EXIT
    text += op(MOV, 0, imm=1) + op(ADD, 0, imm=2) + op(ADD, 0, imm=4) + EXIT
    assert run(tier, build(0, text)).r0 == 6


# Budget


@pytest.mark.parametrize("version", VERSIONS)
def test_every_instruction_costs_a_unit(tier, version):
    """A loop of n rounds uses its instructions; a budget of one less stops at the last of them."""
    text = op(MOV, 0, imm=10) + op(ADD, 0, imm=-1) + op(0x55, 0, offset=-2) + EXIT
    file = build(version, text)
    assert run(tier, file, budget=22).units == 22
    fault = fault_of(tier, file, budget=21)
    assert (fault.kind, fault.pc) == (FaultKind.BUDGET, 3)


def test_a_wide_constant_costs_one_unit(tier):
    """lddw takes two slots and costs one unit."""
    assert run(tier, build(0, lddw(0, 1) + EXIT)).units == 2


def test_a_loop_without_end_stops(tier):
    """The budget ends any run, with all of it used."""
    program = sbpf.load(build(0, op(0x05, offset=-1)), tier=tier)
    with pytest.raises(BpfFault, match="budget of 1000 units"):
        program.run(budget=1000)
    assert program.machine.used == 1000


def test_a_syscall_charges_units(tier):
    """consume takes from the budget of the run; what is more than is left ends it."""
    text = op(MOV, 1, imm=50) + call(-1) + EXIT
    file = Lenient(text, symbols={"work": (0, NOTYPE)}, relocations=[(TEXT_AT + 8, 10, "work")]).build()
    syscalls = {"work": lambda machine, units, *rest: machine.consume(units) or machine.budget_left}
    result = run(tier, file, budget=60, syscalls=syscalls)
    assert (result.r0, result.units) == (8, 53)
    fault = fault_of(tier, file, budget=51, syscalls=syscalls)
    assert (fault.kind, fault.pc) == (FaultKind.BUDGET, 1)


def test_a_fault_counts_what_has_run(tier):
    """After a fault in the middle of a block the units used are those up to the instruction, with it."""
    program = sbpf.load(build(0, op(MOV, 0) * 3 + load_double(0, 0, 0) + op(MOV, 0) * 5 + EXIT), tier=tier)
    with pytest.raises(BpfFault):
        program.run()
    assert program.machine.used == 4


# Syscalls


def syscall_file(name, text=b""):
    return Lenient(
        text + call(-1) + EXIT, symbols={name: (0, NOTYPE)}, relocations=[(TEXT_AT + len(text), 10, name)]
    ).build()


def test_a_missing_syscall_is_named_when_the_program_is_loaded(tier):
    """What a program calls and nobody gives is refused by name; without verification it is a fault."""
    with pytest.raises(VerificationFailed, match="no syscall sol_get_clock"):
        sbpf.load(syscall_file("sol_get_clock"), tier=tier)
    fault = fault_of(tier, syscall_file("sol_get_clock"), verify=False)
    assert (fault.kind, fault.pc) == (FaultKind.UNKNOWN_HELPER, 0)
    assert "sol_get_clock" in str(fault)


def test_what_a_syscall_raises_comes_out(tier):
    """An exception of a syscall ends the run and is the caller's; the machine can run again."""

    def fail(machine, *rest):
        raise KeyError("gone")

    program = sbpf.load(syscall_file("fail"), tier=tier, syscalls={"fail": fail})
    for _ in range(2):
        with pytest.raises(KeyError, match="gone") as caught:
            program.run()
    assert "instruction 0" in caught.value.__notes__[0]


def test_messages_and_memory(tier):
    """sol_log_ writes the text, sol_memset_ and sol_memcpy_ change memory, for what Solana charges."""
    result = run(tier, syscall_file("sol_log_"), INPUT_START, 3, data=b"abc")
    assert (result.log, result.units) == (["abc"], 102)
    assert run(tier, syscall_file("sol_memset_"), INPUT_START + 1, 0x141, 2, data=b"xxxx").data == b"xAAx"
    copied = run(tier, syscall_file("sol_memcpy_"), INPUT_START, INPUT_START + 2, 2, data=b"abcd")
    assert (copied.data, copied.units) == (b"cdcd", 12)
    assert fault_of(tier, syscall_file("sol_memcpy_"), INPUT_START, INPUT_START + 1, 2, data=b"abcd").pc == 0
    moved = run(tier, syscall_file("sol_memmove_"), INPUT_START, INPUT_START + 1, 3, data=b"abcd")
    assert moved.data == b"bcdd"
    arguments = (INPUT_START, INPUT_START + 2, 2, INPUT_START + 4)
    compared = run(tier, syscall_file("sol_memcmp_"), *arguments, data=b"abad....")
    assert compared.data[4:] == struct.pack("<i", ord("b") - ord("d"))


@pytest.mark.parametrize("name", ["abort", "sol_panic_"])
def test_a_program_gives_up(tier, name):
    """abort and sol_panic_ end the run, and say so."""
    with pytest.raises(sbpf.ProgramAborted, match=r"abort|lib\.rs at line 12"):
        run(tier, syscall_file(name), INPUT_START, 6, 12, 1, data=b"lib.rs")


def test_a_native_syscall(tier):
    """A C function is called with r1 to r5 and the record; translate gives it memory, and it charges units."""
    address, keep = native_sum()
    file = syscall_file("sum", op(MOV, 2, imm=4))
    result = run(tier, file, INPUT_START, data=bytes([1, 2, 3, 4]), syscalls={"sum": sbpf.NativeSyscall(address)})
    assert (result.r0, result.units) == (10, 7)
    fault = fault_of(tier, file, HEAP_START - 1, syscalls={"sum": sbpf.NativeSyscall(address)})
    assert (fault.pc, keep is not None) == (1, True)


def native_sum():
    """A C function that sums r2 bytes at r1, and charges a unit for each. Returns its address, and its owner."""
    from jitlink.bpf.sbpf.abi import NATIVE_SYSCALL, TRANSLATE, Status

    @NATIVE_SYSCALL
    def total(r1, r2, r3, r4, r5, record):
        place = TRANSLATE(record.contents.translate)(ctypes.addressof(record.contents), r1, r2, 0)
        if not place:
            record.contents.status = Status.FAULT
            return 0
        record.contents.budget -= r2
        return sum(ctypes.string_at(place, r2))

    KEPT.append(total)
    return ctypes.cast(total, ctypes.c_void_p).value, total


KEPT: list[Any] = []


# Verification


@pytest.mark.parametrize(
    ("version", "text", "rule"),
    [
        (0, b"", Rule.EMPTY),
        (0, op(0xF7) + EXIT, Rule.OPCODE),
        (2, lddw(0, 1) + EXIT, Rule.OPCODE),
        (2, op(0x27) + op(0x87), None),
        (2, op(0x37, 0, imm=1) + op(0xD4, imm=16) + EXIT, Rule.OPCODE),
        (0, op(0x16) + EXIT, Rule.OPCODE),
        (3, op(0x16) + EXIT, None),
        (1, op(MOV_REGISTER, 0, 11) + EXIT, Rule.REGISTER),
        (1, op(MOV, 11) + EXIT, Rule.REGISTER),
        (0, op(ADD, 10, imm=64) + EXIT, Rule.FRAME_POINTER),
        (1, op(ADD, 10, imm=64) + EXIT, None),
        (1, op(ADD, 10, imm=32) + EXIT, Rule.FRAME_POINTER),
        (3, op(ADD, 10, imm=64) + EXIT, Rule.FRAME_POINTER),
        (3, op(MOV, 10) + EXIT, Rule.FRAME_POINTER),
        (0, op(STXDW, 10, 0, -8) + EXIT, None),
        (0, op(0x18), Rule.TRUNCATED),
        (0, op(0x18) + EXIT, Rule.TRUNCATED),
        (0, op(0x37) + EXIT, Rule.DIVISION),
        (2, op(0x46) + EXIT, Rule.DIVISION),
        (0, op(0x67, imm=64) + EXIT, Rule.SHIFT),
        (0, op(0x64, imm=32) + EXIT, Rule.SHIFT),
        (0, op(0x77, imm=-1) + EXIT, Rule.SHIFT),
        (0, op(0xDC, imm=8) + EXIT, Rule.RESERVED),
        (0, op(0x05, offset=5), Rule.JUMP),
        (0, lddw(0, 1) + op(0x05, offset=-2), Rule.JUMP),
        (0, op(0x8D, imm=10) + EXIT, Rule.REGISTER),
        (2, op(0x8D, src=10) + EXIT, Rule.REGISTER),
        (3, call(9, src=1) + EXIT, Rule.CALL),
        (3, call(9, src=2) + EXIT, Rule.RESERVED),
        (3, call(9) + EXIT, Rule.HELPER),
        (0, call(9) + EXIT, None),
    ],
)
def test_verification(version, text, rule):
    """Each rule of the verifier refuses what it is for, at the instruction, and nothing beside it."""
    executable = sbpf.Executable(sbpf.Version(version), np_bytes(text), PROGRAM_START, 0, np_bytes(b""), PROGRAM_START)
    assert {fault.rule for fault in sbpf.verify(executable, ())} == ({rule} if rule else set())


def np_bytes(data):
    return np.frombuffer(data, np.uint8)


def test_what_llvm_makes_is_kept(tmp_path):
    """With tier="llvm" the object is kept on disk, for the next process as well, unless cache=False."""
    pytest.importorskip("llvmlite", reason="the tier llvm needs llvmlite")
    file = build(0, op(MOV, 0, imm=1234567) + EXIT)
    assert sbpf.load(file, tier="llvm", cache=False).run().r0 == 1234567
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        assert sbpf.load(file, tier="llvm").run().r0 == 1234567
        assert len(list(tmp_path.glob("jitlink/bpf/*"))) == 1


@needs_native_code
def test_large_programs_are_compiled_in_one_pass(tmp_path):
    """LLVM takes too long for a program of more than 4,096 slots: with tier="llvm" it runs in one-pass code."""
    machine = sbpf.load(build(0, op(ADD, 0, imm=1) * 4096 + EXIT), tier="llvm").machine
    assert isinstance(machine, JitMachine)
    assert machine.run(b"") == 4096
    assert not list(tmp_path.iterdir())


def test_usage(tier):
    """A heap is at most 256 KiB, a run takes five arguments, and a run does not nest on one machine."""
    with pytest.raises(UsageError, match="heap"):
        sbpf.load(build(0, EXIT), tier=tier, heap=1 << 20)
    with pytest.raises(UsageError, match="at most 5"):
        run(tier, build(0, EXIT), *range(6))
    with pytest.raises(UsageError, match="no tier"):
        sbpf.load(build(0, EXIT), tier="other")
    program = sbpf.load(syscall_file("again"), tier=tier, syscalls={"again": lambda *_: program.run().r0})
    with pytest.raises(UsageError, match="under way"):
        program.run()


def test_the_builder_makes_shared_objects_that_pyelftools_reads():
    """The files of these tests are ELF: another reader finds sections, symbols and relocations in them."""
    file = Lenient(call(-1) + EXIT, symbols={"sol_log_": (0, NOTYPE)}, relocations=[(TEXT_AT, 10, "sol_log_")])
    read: Any = ELFFile(io.BytesIO(file.build()))
    assert (read["e_type"], read["e_flags"]) == ("ET_DYN", 0)
    (relocation,) = read.get_section_by_name(".rel.dyn").iter_relocations()
    assert (relocation["r_offset"], relocation["r_info_type"]) == (TEXT_AT, 10)
    assert read.get_section_by_name(".dynsym").get_symbol(relocation["r_info_sym"]).name == "sol_log_"
    assert len(list(ELFFile(io.BytesIO(Strict(EXIT).build())).iter_segments())) == 2

"""SBPF in one-pass code: what is its own. What it has in common with the other tiers is in the other tests of SBPF."""

import ctypes
import gc
import struct
import weakref
from typing import Any

import pytest

from jitlink.bpf import BpfFault, FaultKind, sbpf
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.sbpf.abi import NATIVE_SYSCALL, OFFSET, TRANSLATE, Record, Status
from jitlink.bpf.sbpf.jit.hosts import host_shapes
from jitlink.bpf.sbpf.jit.machine import JitMachine
from jitlink.bpf.sbpf.memory import HEAP_BYTES, HEAP_START, INPUT_START, PROGRAM_START, STACK_START
from jitlink.bpf.sbpf.reader import read_executable
from jitlink.errors import UsageError
from jitlink.protection import Protection
from tests.bpf.machines import IS_X86_64, needs_native_code
from tests.bpf.sbpf_files import EXIT, TEXT_AT, build, call, lddw, op
from tests.bpf.sbpf_machines import BACK_ENDS, machine_of
from tests.bpf.sbpf_programs import NUMBERS, VERSIONS, assembled, constant, syscall

MOV, ADD, MOVE, LOAD, STORE = 0xB7, 0x07, 0xBF, 0x79, 0x7B
ONE_PASS = [pytest.param("jit", marks=needs_native_code), *BACK_ENDS]


@pytest.fixture(params=ONE_PASS)
def tier(request):
    if request.param in BACK_ENDS:
        pytest.importorskip("unicorn", reason="the emulated CPU is unicorn")
    return request.param


def run(tier, file, *arguments, data=b"", budget=100_000):
    machine = machine_of(tier, file)
    return machine.run(data, *arguments, budget=budget), machine


@needs_native_code
def test_one_pass_code_is_what_programs_run_in(monkeypatch):
    """Without a tier, programs run in one-pass code; JITLINK_BPF_TIER says otherwise, and auto means it as well."""
    file = build(0, EXIT)
    monkeypatch.delenv("JITLINK_BPF_TIER", raising=False)
    assert isinstance(sbpf.load(file).machine, JitMachine)
    monkeypatch.setenv("JITLINK_BPF_TIER", "auto")
    assert isinstance(sbpf.load(file).machine, JitMachine)
    monkeypatch.setenv("JITLINK_BPF_TIER", "interpreter")
    assert not isinstance(sbpf.load(file).machine, JitMachine)


# Memory


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_accesses_at_the_ends_of_regions(tier, version, size):
    """An access is good where all of its bytes are in a region, and a fault one byte further, either way.

    It is so for the first access by a register, which looks the region up, and for a second one, which remembers it.
    """
    load = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79} if version != 2 else {1: 0x2C, 2: 0x3C, 4: 0x8C, 8: 0x9C}
    once = op(load[size], 0, 2) + EXIT
    twice = op(load[1], 0, 1) + op(MOVE, 1, 2) + op(load[size], 0, 1) + EXIT
    for machine in (machine_of(tier, assembled(version, text)) for text in (once, twice)):
        program = machine.memory.regions[0 if version == 3 else 1]
        frame = 4096 if version == 0 else 64 * 4096
        regions = [(program.address, program.size), (HEAP_START, HEAP_BYTES), (INPUT_START, 100), (STACK_START, frame)]
        for start, length in regions:
            last = start + length - size
            for address in (start, last):
                machine.run(bytes(100), start, address)
            for address in (start - 1, last + 1):
                if version == 0 and start == STACK_START and address == last + 1 and size > 1:
                    # What begins in a frame goes on in the next one.
                    machine.run(bytes(100), start, address)
                    continue
                with pytest.raises(BpfFault) as caught:
                    machine.run(bytes(100), start, address)
                assert caught.value.kind is FaultKind.OUT_OF_BOUNDS
                assert (caught.value.address, caught.value.size) == (address & (1 << 64) - 1, size)


def test_a_frame_of_a_caller_is_reached_by_its_address(tier):
    """What one function puts into its frame another reads and writes through a pointer, between two other accesses."""
    # f(p): *p += 1; *(r10 - 8) = 5, in a loop of the caller
    text = op(MOV, 6, imm=50) + op(0x7A, 10, offset=-16, imm=3) + op(MOVE, 1, 10) + op(ADD, 1, imm=-16)
    text += call(4, src=1) + op(ADD, 6, imm=-1) + op(0x55, 6, offset=-5) + op(LOAD, 0, 10, -16) + EXIT
    text += op(LOAD, 2, 1) + op(ADD, 2, imm=1) + op(0x7A, 10, offset=-8, imm=5) + op(STORE, 1, 2) + EXIT
    assert run(tier, build(0, text))[0] == 53


def test_read_only_memory_is_not_remembered_for_writing(tier):
    """A register that has read the program's constants cannot write there."""
    text = lddw(1, PROGRAM_START + TEXT_AT) + op(LOAD, 0, 1) + op(STORE, 1, 0) + EXIT
    with pytest.raises(BpfFault) as caught:
        run(tier, build(0, text))
    assert (caught.value.kind, caught.value.pc) == (FaultKind.READ_ONLY, 3)


def test_each_run_sees_its_own_input(tier):
    """What is remembered of regions ends with a run: the next one has another input, of another size, elsewhere."""
    machine = machine_of(tier, build(0, op(LOAD, 0, 1) + EXIT))
    for value in (1, 2, 3):
        assert machine.run(struct.pack("<Q", value).ljust(8 * value, b"\0")) == value
    with pytest.raises(BpfFault, match="outside of the input"):
        machine.run(b"1234567")


# Calls


def test_a_function_that_the_file_does_not_name_is_interpreted(tier):
    """callx leads to any instruction; from a function that is entered so others are called, and it returns."""
    start = PROGRAM_START + TEXT_AT
    # r1 = the address of slot 8, computed so that no constant is that address
    text = lddw(1, start + 7 * 8 + 1) + op(ADD, 1, imm=7) + op(0x8D, imm=1) + op(ADD, 0, imm=1) + EXIT
    text += op(MOV, 0, imm=100) + EXIT
    text += op(MOV, 6, imm=5) + call(-4, src=1) + op(ADD, 0, imm=40) + EXIT
    result, machine = run(tier, build(0, text))
    assert (result, machine.used) == (141, 11)


def test_syscalls_in_python_see_registers_and_budget(tier):
    """At every call r0 to r10, depth, place and budget are those of the interpreter, in loops and in functions."""
    body = syscall("sol_set_return_data") + op(ADD, 1, imm=1)
    text = op(MOV, 6, imm=3) + call(3, src=1) + op(ADD, 6, imm=-1) + op(0x55, 6, offset=-3) + EXIT + body + EXIT
    file = assembled(0, text)
    found = [machine_of(each, file) for each in ("interpreter", tier)]
    for machine in found:
        machine.run(b"", 3, 4, 5)
    assert found[0].log == found[1].log
    assert len(found[0].log) == 3


def test_native_syscalls_keep_the_registers_of_the_program(tier):
    """A syscall in native code gets r1 to r5 and the record, charges, translates addresses, and changes r0 alone."""
    seen = []

    @NATIVE_SYSCALL
    def syscall_function(r1, r2, r3, r4, r5, record):
        seen.append((r1, r2, r3, r4, r5))
        place = TRANSLATE(record.contents.translate)(ctypes.addressof(record.contents), INPUT_START, 4, 0)
        record.contents.budget -= r2
        if r3:
            record.contents.status = Status.FAULT
        return int.from_bytes(ctypes.string_at(place, 4), "little")

    address = ctypes.cast(syscall_function, ctypes.c_void_p).value
    text = op(MOV, 0, imm=9) + call(-1) + b"".join(op(0x0F, 0, number) for number in range(1, 6)) + EXIT
    file = assembled(0, text.replace(call(-1), syscall("sol_set_return_data")))
    machine = native_machine(tier, file, address, syscall_function)
    assert machine.run(b"\1\0\0\0", 10, 20, 0, 40, 50) == 1 + 10 + 20 + 40 + 50
    assert (machine.used, seen) == (8 + 20, [(10, 20, 0, 40, 50)])
    for arguments, kind, used in (((1, 2, 3), FaultKind.BAD_CALL, 4), ((1, 200, 0), FaultKind.BUDGET, 100)):
        with pytest.raises(BpfFault) as caught:
            machine.run(b"\1\0\0\0", *arguments, budget=100)
        assert (caught.value.kind, caught.value.pc, machine.used) == (kind, 1, used)
        assert machine.registers[:4] == [9, *arguments]


def native_machine(tier, file, address, function):
    """A machine whose syscall sol_set_return_data is native; in an emulated CPU it is the function at that address."""
    from jitlink.bpf.sbpf.jit.emulated import EmulatedMachine

    syscalls = {"sol_set_return_data": sbpf.NativeSyscall(address)}
    executable = read_executable(file)
    if tier not in BACK_ENDS:
        return JitMachine(executable, syscalls, host_shapes())
    machine = EmulatedMachine(executable, syscalls, Shapes(BACK_ENDS[tier]()))

    def call_function(arguments):
        return function(*arguments[:5], ctypes.cast(arguments[5], ctypes.POINTER(Record)))

    machine.processor.functions[address] = call_function
    return machine


def test_an_exception_of_a_syscall_is_noted_once(tier):
    """What a syscall raises comes out with one note of where, also through a function that is interpreted."""
    start = PROGRAM_START + TEXT_AT
    text = lddw(1, start + 1) + op(ADD, 1, imm=8 * 5 - 1) + op(0x8D, imm=1) + EXIT + syscall("abort") + EXIT
    with pytest.raises(sbpf.ProgramAborted) as caught:
        run(tier, assembled(0, text))
    assert len(caught.value.__notes__) == 1
    assert "instruction 5" in caught.value.__notes__[0]


# Hardening


CHOSEN = [0x5A5B5C5D, 0x1B2C3D4E, -0x12345679]


def every_use_of(version, value):
    """Code with a constant in each place that has one, but for counts of shifts and offsets of jumps."""
    text = b""
    for form in sbpf_forms(version):
        text += op(form.opcode, 6 if form.family == "store" else 3, 0, -8 if form.family == "store" else 0, value)
    return lddw(6, HEAP_START + 64) * (version != 2) + constant(version, 6, HEAP_START + 64) + text + EXIT


def sbpf_forms(version):
    """The instructions with an immediate that a program may choose."""
    from jitlink.bpf.sbpf.isa import forms_of

    forms = [form for form in forms_of(sbpf.Version(version)) if form is not None and not form.from_register]
    return [form for form in forms if form.family in ("arithmetic", "store", "branch") and not form.shifts]


@needs_native_code
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("value", CHOSEN)
def test_no_chosen_constant_is_in_hardened_code(version, value):
    """An immediate of 32 bits is in plain code, and is not in hardened code; both come to the same."""
    wanted = (value & 0xFFFF_FFFF).to_bytes(4, "little")
    file = build(version, every_use_of(version, value))
    plain, hardened = machine_of("jit", file), machine_of("jit hardened", file, 5)
    # Other machines have no immediates of 32 bits, so that even plain code has it in parts.
    assert wanted in bytes(plain.image.code.code) or not IS_X86_64
    assert wanted not in bytes(hardened.image.code.code)
    results = []
    for machine in (plain, hardened):
        machine.run(b"", *NUMBERS[3:8])
        results.append((machine.registers[:6], machine.used, bytes(machine.memory.regions[3].data)))
    assert results[0] == results[1]


@needs_native_code
def test_hardened_code_is_another_each_time():
    """Two compilations differ in bytes and in their place in a page, unless they have one seed."""
    file = assembled(0, (lddw(1, 0x1122334455667788) + op(STORE, 10, 1, -8) + op(LOAD, 0, 10, -8)) * 20 + EXIT)
    images = [machine_of("jit hardened", file, seed).image for seed in (1, 2, 1)]
    codes = [bytes(image.code.code) for image in images]
    assert codes[0] == codes[2] != codes[1]
    assert len({image.base % 4096 for image in images[:2]}) == 2
    machines: list[Any] = [sbpf.load(file, tier="jit", hardened=True).machine for _ in range(2)]
    assert machines[0].run(b"") == machines[1].run(b"") == 0x1122334455667788
    assert bytes(machines[0].image.code.code) != bytes(machines[1].image.code.code)


@needs_native_code
def test_no_page_is_writable_and_executable():
    """Code can be read and executed, the table of functions read; neither can be written."""
    machine = machine_of("jit", build(0, lddw(1, PROGRAM_START + TEXT_AT) + op(0x8D, imm=1) + EXIT))
    assert len(machine.image.segments) == 2
    assert all(not protection & Protection.WRITE for _, _, protection in machine.image.segments)


@needs_native_code
@pytest.mark.parametrize("tier", ["interpreter", "llvm"])
def test_other_tiers_have_no_hardened_code(tier):
    """Who asks for hardened code in another tier than jit is told so."""
    with pytest.raises(UsageError, match="hardened"):
        sbpf.load(build(0, EXIT), tier=tier, hardened=True)


# Shapes


@pytest.mark.parametrize("back_end", [pytest.param("host", marks=needs_native_code), *BACK_ENDS])
def test_a_long_program_is_compiled(back_end):
    """Where the program is larger than branches reach, code off the main path is reached all the same."""
    text = b"".join(op(LOAD, number % 6, 6, 8 * (number % 50)) + op(0x0F, 0, number % 6) for number in range(9000))
    executable = read_executable(assembled(0, lddw(6, HEAP_START) + text + op(LOAD, 0, 6, -1) + EXIT))
    if back_end == "host":
        machine = JitMachine(executable, {}, host_shapes())
    else:
        pytest.importorskip("unicorn", reason="the emulated CPU is unicorn")
        from jitlink.bpf.sbpf.jit.emulated import EmulatedMachine

        machine = EmulatedMachine(executable, {}, Shapes(BACK_ENDS[back_end]()))
    with pytest.raises(BpfFault) as caught:
        machine.run(b"")
    assert (caught.value.pc, caught.value.address, machine.used) == (18002, HEAP_START - 1, 18002)


def test_fields_that_native_code_reaches_are_near():
    """Loads of RISC-V have offsets of 12 bits: every field of the record, and the last window, is within them."""
    assert max(OFFSET.values()) + ctypes.sizeof(Record) - OFFSET["writable"] < 2048


@needs_native_code
def test_machines_go_away():
    """A machine and its code are given back when nobody holds the machine any more."""
    machine = machine_of("jit", assembled(0, syscall("sol_set_return_data") + EXIT))
    machine.run(b"", 0, 0, 0)
    references = [weakref.ref(machine), weakref.ref(machine.image)]
    del machine
    gc.collect()
    assert [each() for each in references] == [None, None]


@needs_native_code
def test_a_program_with_an_instruction_inside_of_another_is_interpreted():
    """A wide constant whose second half is an instruction too, which no verified program has, has no native code."""
    text = op(0x05, offset=1) + op(0x18, 0, imm=1) + op(MOV, 0, imm=7) + EXIT
    machine = machine_of("jit", build(0, text))
    assert machine.image is None
    assert machine.run(b"") == 7

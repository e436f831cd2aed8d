"""What is claimed of the back ends for AArch64 and RISC-V; test_jit_aarch64 and test_jit_riscv64 say of which one.

Their code runs in the emulated CPU, and on hosts of their sort natively as well.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.arches import architecture
from jitlink.bpf.assembler import assemble
from jitlink.bpf.contexts import SkbContext, XdpContext
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.jit.abi import Status
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.emulated import EmulatedMachine, Processor
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.jit.load_store import WORD
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.jit.templates import Reach
from jitlink.bpf.machine import POISON, Code
from jitlink.errors import EmulationFault
from jitlink.execution.cpus import cpu_of
from jitlink.protection import Protection
from tests.bpf.differential import PacketWorld, World, packet_programs, values
from tests.bpf.faultless import any_programs
from tests.bpf.test_jit_hardening import every_use_of

MAY_GOTO_LIMIT = 5
CONTEXTS = (XdpContext, SkbContext)
HELPER, HELPER_ADDRESS = 9, 0x4000
budgets = st.integers(0, 300)
Make = Callable[..., Any]


def places(host: str) -> Any:
    """Where code runs, to parametrize tests with: machines that are emulated, and native ones on a host."""
    is_host = platform.machine() in (host, {"aarch64": "arm64"}.get(host))
    native = pytest.mark.skipif(not is_host, reason=f"this host is no {host}")
    return [pytest.param(EmulatedMachine, id="emulated"), pytest.param(NativeMachine, id="native", marks=native)]


def maker(shapes: Shapes, machine: Any = EmulatedMachine) -> Make:
    """Make machines of a back end; hardened by a seed, if there is one."""

    def make(seed: int | None = None, **plan: Any) -> Any:
        hardening = None if seed is None else Hardening(seed)
        return machine(shapes, Plan(hardening=hardening, **plan), may_goto_limit=MAY_GOTO_LIMIT)

    return make


def program(text: str) -> Code:
    """A program in assembly."""
    return Code(decode(assemble(text)), "program")


def outcome(machine: Any, code: Code, *arguments: int, **options: Any) -> Any:
    """The result of a run, or its fault, and the count of instructions."""
    try:
        return machine.run(code, *arguments, **options), machine.instructions
    except BpfFault as fault:
        return fault.kind, str(fault), fault.pc, machine.instructions


def bytes_of(machine: Any, code: Code) -> bytes:
    """The machine code of a program, as it is in memory."""
    machine.prepare(code)
    (image,) = code.made[machine].images.values()
    return ctypes.string_at(image.base, image.end - image.base)


# Random programs


def check_programs(make: Make, byteorder: Any, hardened: bool) -> None:
    """A random program has the interpreter's outcome, twice in a row."""

    @settings(settings.get_profile("mutations"))
    @given(any_programs(byteorder), st.tuples(values, values, values), budgets, st.integers(0, 1000))
    def check(data, arguments, budget, seed):
        world = World(make(seed if hardened else None))
        code = Code(decode(data, byteorder), "random")
        expected = world.interpreted(code, arguments, budget)
        assert world.outcome(code, arguments, budget) == expected
        assert world.outcome(code, arguments, budget) == expected
        world.close()

    check()


def check_packet_programs(make: Make, context: Any, hardened: bool) -> None:
    """So has a program that walks a packet and looks up maps."""

    @settings(settings.get_profile("mutations"))
    @given(st.data(), st.sampled_from([0, 0, 0, 4, 1000]), budgets, st.integers(0, 1000))
    def check(data, lies, budget, seed):
        world = PacketWorld(make(seed if hardened else None), context)
        world.take_maps()
        code = Code(decode(data.draw(packet_programs(context, world.map.address))), "random")
        expected = world.interpreted(code, lies, budget)
        assert world.outcome(code, lies, budget) == expected
        assert world.outcome(code, 0, budget) == world.interpreted(code, 0, budget)
        world.close()

    check()


# Every form of arithmetic and comparison

EDGES = (0, 1, 2, 3, 31, 32, 63, 255, 0x7FFF, 0x8000_0000, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x1_0000_0000,
         0x1234_5678_9ABC_DEF0, 1 << 63, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - 7)  # fmt: skip
CHOSEN = (0, 1, -1, 2, 7, 31, 2047, 2048, 4095, 4096, -2048, -2049, 0xFFFF, 0x10000, -0x10000, -0x10001, 0x1234_5FFF,
          0x7FFF_FFFF, -0x8000_0000)  # fmt: skip
COMPUTING = [form for form in FORMS if form.family in (Family.ARITHMETIC, Family.BYTE_ORDER) and not form.refused]
COMPARING = [form for form in FORMS if form.family is Family.BRANCH and form.operation != "may_goto"]


def check_form(make: Make, form: Form, seed: int | None) -> None:
    """A form of arithmetic or comparison gives what the interpreter gives, for numbers at the edges of what there is.

    Each result is stored behind the one before; a comparison's is whether it has branched.
    """
    by_register = form.from_register or form.family is Family.BYTE_ORDER or form.operation == "neg"
    pairs = [(one, other) for one in EDGES for other in (EDGES if by_register else CHOSEN)]
    slots: list[Any] = []
    for number, (one, other) in enumerate(pairs):
        for register, value in ((3, one), (4, other if by_register else 0)):
            halves = struct.unpack("<2i", struct.pack("<Q", value))
            slots += [(0x18, register, 0, 0, halves[0]), (0, 0, 0, 0, halves[1])]
        fields = {"dst": 3, "src": 4 if "src" in form.operands else 0, "offset": 0, "imm": 0 if by_register else other}
        fields |= dict([form.selector] if form.selector else [])
        if form.family is Family.BRANCH:
            fields["offset"] = 1
        slots.append((form.opcode, *fields.values()))
        if form.family is Family.BRANCH:
            slots.append((0xB7, 3, 0, 0, -5))
        slots.append((0x7B, 1, 3, 8 * number, 0))
    code = Code(decode(encode([*slots, (0x95, 0, 0, 0, 0)])), form.name)
    machine = make(seed)
    results = machine.regions.allocate(8 * len(pairs), "results")
    found = []
    for each in (Interpreter(regions=machine.regions), machine):
        results.data[:] = bytes(8 * len(pairs))
        each.run(code, results.address)
        found.append(struct.unpack(f"<{len(pairs)}Q", results.data))
    assert found[0] == found[1]
    machine.regions.close()


ATOMICS = [form for form in FORMS if form.family is Family.ATOMIC]


def check_atomic(make: Make, form: Form) -> None:
    """An atomic form leaves in memory, in its register and in r0 what the interpreter leaves.

    Memory, register and r0 take all combinations of numbers that differ, that agree, and that agree in 32 bits only.
    """
    numbers = (7, 0x8000_0000, 0x1_0000_0007, (1 << 64) - 1)
    loads = form.operation == "load_acquire"
    fields = {"dst": 4 if loads else 6, "src": 6 if loads else 4, "offset": 8, "imm": 0} | dict(
        [form.selector or ("", 0)]
    )
    under_test: Any = (form.opcode, *fields.values())
    code = Code(
        decode(
            encode(
                [
                    (0xBF, 6, 1, 0, 0),  # r6 = r1
                    (0x7B, 6, 2, 8, 0),  # *(u64 *)(r6 + 8) = r2
                    (0xBF, 4, 3, 0, 0),  # r4 = r3
                    (0x79, 0, 6, 0, 0),  # r0 = *(u64 *)(r6 + 0)
                    under_test,
                    (0x7B, 6, 4, 16, 0),  # *(u64 *)(r6 + 16) = r4
                    (0x95, 0, 0, 0, 0),
                ]
            )
        ),
        form.name,
    )
    machine = make()
    memory = machine.regions.allocate(24, "memory")
    for there, operand, r0 in product(numbers, repeat=3):
        found = []
        for each in (Interpreter(regions=machine.regions), machine):
            memory.data[:] = struct.pack("<3Q", r0, 0, 0)
            found.append((each.run(code, memory.address, there, operand), bytes(memory.data)))
        assert found[0] == found[1]
    machine.regions.close()


# Reach


def check_short_reach(backend: Any) -> None:
    """What the driver takes for the reach of a short branch is within that of the relocation, for every form.

    Distances are counted from the end of the branch, relocations from their place.
    """
    kinds = architecture(backend.target).kinds
    low, high = backend.short_reach
    for number, form in enumerate(FORMS):
        if form.family is Family.BRANCH:
            template = backend.template(number, 0)
            (edge,) = (each for each in template.edges if each.reach == Reach.JUMP)
            check = kinds[kinds.by_name[edge.kind]].check
            behind = len(template.code) - edge.at
            assert check.low <= low + behind
            assert high - WORD + behind < check.high
            assert high - low > 0.99 * (check.high - check.low)


def check_reach(make: Make, instructions: int, bytes_at_least: int, seed: int | None) -> None:
    """Branches both ways, calls, and what is off the main path reach over code of a given size.

    The program jumps over a long way, back to it, calls a function behind it, and faults there with a check and
    with an atomic access; a budget ends it in the middle.
    """
    way = "r0 = *(u64 *)(r6 + 8)\n" * instructions
    text = (
        f"r6 = r1\nif r2 != 0 goto far\nback: r0 = 1\ncall f\nr3 = *(u64 *)(r6 + 0)\n{way}"
        "if r7 == 7 goto out\nexit\nfar: r7 = 7\nif r2 == 1 goto back\nout: r3 = *(u64 *)(r6 + 4096)\nexit\n"
        "f: lock *(u64 *)(r1 + 0) += r0\nr0 = 5\nexit"
    )
    code, machine = program(text), make(seed)
    buffer = machine.regions.allocate(64, "buffer")
    assert len(bytes_of(machine, code)) >= bytes_at_least
    for second in (0, 1, 2):
        for first in (buffer.address, buffer.address + 4):
            for budget in (instructions // 2, 10 * instructions):
                expected = outcome(Interpreter(regions=machine.regions), code, first, second, budget=budget)
                assert outcome(machine, code, first, second, budget=budget) == expected
    machine.regions.close()


# What is compiled


def check_every_instruction(target: str, make: Make) -> None:
    """The code of every form, whatever its constants, consists of instructions of the machine."""
    decoder = cpu_of(target).disassembler()
    for constant in (0, 1, -1, 5, 2047, 2048, 4095, 4096, -4097, 0x12345678, -0x12345678):
        for offset in (0, 8, -8, 255, -300, 4096, 32000):
            code = Code(decode(every_use_of(constant, offset)))
            for machine in (make(), make(3)):
                found = list(decoder.disasm(bytes_of(machine, code), 0))
                assert {each.size for each in found} == {4}
                assert not [each for each in found if each.mnemonic.startswith((".", "udf", "unimp"))]


def check_hiding(make: Make, *parts: Callable[[int, int], bool]) -> None:
    """The parts of a constant of the program are in no instruction of hardened code; in other code all of them are.

    parts: whether an instruction, the first number, holds that part of the second number.
    """
    immediate = 0x5A6B_7C8D
    code = Code(decode(every_use_of(immediate, 0x6B5A)))
    plain, hardened = (_words(bytes_of(machine, code)) for machine in (make(), make(11)))
    for part in parts:
        assert any(part(word, immediate) for word in plain)
        assert not any(part(word, immediate) for word in hardened)


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}I", data)


def check_two_compilations(make: Make) -> None:
    """Compilations with different seeds differ, and agree in result and count."""
    text = "r0 = 0\nr1 = 100\nagain: r0 += r1\n*(u64 *)(r10 - 8) = r0\nr1 += -1\nif r1 != 0 goto again\nexit"
    code = program(text)
    machines = [make(7), make(7), make(8)]
    one, again, other = (bytes_of(machine, code) for machine in machines)
    assert one == again != other
    assert {outcome(machine, code) for machine in machines} == {(5050, 403)}


def check_trusted(make: Make) -> None:
    """Without sandbox and meter the result is the same and nothing is counted."""
    code = program("r6 = r1\n*(u64 *)(r6 + 8) = 77\nr0 = *(u64 *)(r6 + 8)\nlock *(u32 *)(r6 + 8) += r0\nexit")
    machine = make(sandbox=False, metered=False)
    buffer = machine.regions.allocate(64, "buffer")
    assert (machine.run(code, buffer.address), machine.instructions) == (77, 0)
    assert int.from_bytes(buffer.data[8:16], "little") == 154
    assert len(bytes_of(machine, code)) < len(bytes_of(make(), code))
    machine.regions.close()


# Calling conventions


def check_native_helper(make: Make) -> None:
    """A helper in machine code gets r1 to r5 and the record, as the calling convention wants it.

    It may leave anything in registers that it need not keep. r1 to r5 are poison afterwards. Where it declines, the
    one in Python is called with the same registers, and the program goes on behind it.
    """
    machine = make(helpers={HELPER: HELPER_ADDRESS})
    seen: list[list[int]] = []

    def helper(arguments: list[int]) -> int:
        seen.append(arguments)
        if arguments[0] == 13:
            machine.record.status = Status.DECLINED
        return sum(arguments[:5])

    def refuse(machine: Any, *registers: int) -> int:
        raise BpfFault(FaultKind.BAD_CALL, f"refused {registers}")

    machine.processor.functions[HELPER_ADDRESS] = helper
    machine.helpers[HELPER] = refuse
    text = "r6 = 60\nr9 = 90\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\ncall 9\nr0 += r6\nr0 += r9\nr7 = r5\nr0 ^= r7\nexit"
    assert machine.run(program(text), 1) == 165 ^ POISON
    assert seen == [[1, 2, 3, 4, 5, ctypes.addressof(machine.record)]]
    with pytest.raises(BpfFault, match=r"refused \(13, 2, 3, 4, 5\)"):
        machine.run(program(text), 13)
    machine.helpers[HELPER] = lambda machine, *registers: machine.registers[0] + sum(registers)
    assert machine.run(program(f"r0 = 1000\n{text}"), 13) == 1000 + 27 + 150 ^ POISON


def check_strictness(target: str, misaligning: bytes, changing: bytes) -> None:
    """The emulator refuses a stack pointer that is no multiple of 16, and a caller's register that was changed.

    misaligning, changing: code of functions that do the one and the other.
    """
    for code, reason in ((misaligning, "no multiple of 16"), (changing, "belongs to the caller")):
        processor = Processor(target)
        memory = ctypes.create_string_buffer(2 * 4096)
        start = ctypes.addressof(memory) + 4095 & ~4095
        ctypes.memmove(start, code, len(code))
        processor.show([(start, len(code), Protection.READ | Protection.EXECUTE)])
        with pytest.raises(EmulationFault, match=reason):
            processor.call(start)


def check_isolation(make: Make) -> None:
    """What no check has let through the emulator does not either: memory that a program does not have is not there."""
    machine = make(sandbox=False)
    outside = ctypes.create_string_buffer(3 * 4096)
    with pytest.raises(EmulationFault, match="not mapped"):
        machine.run(program("r0 = *(u8 *)(r1 + 0)\nexit"), ctypes.addressof(outside) + 4096)

"""The plugin for the public bpf_conformance runner, by the protocol that its README describes.

    <plugin name> [<base16 memory bytes>] [<plugin options>] [--elf]

The program comes on standard input; r0 goes to standard output in hexadecimal, with exit code 0, or a
message to standard error with another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jitlink import bpf
from tests.bpf.sources import assembled

ROOT = Path(__file__).parents[2]
START = "from jitlink.cli.bpf.plugin import main; main()"


def plugin(*arguments, program=b""):
    """Run the plugin as the runner does: bytes in hexadecimal, each followed by a space."""
    return subprocess.run(
        [sys.executable, "-c", START, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input="".join(f"{byte:02x} " for byte in program) + "\n",
        capture_output=True,
        encoding="ascii",
        timeout=120,
        check=False,
    )


def answer(*arguments, program):
    done = plugin(*arguments, program=program)
    assert done.returncode == 0, done.stderr
    return int(done.stdout, 16)


def test_the_program_comes_on_standard_input_and_memory_as_argument():
    """r1 is the address of the memory, r2 its length, and r0 the answer."""
    code = bpf.assemble("ldxh %r0, [%r1+2]\nadd %r0, %r2\nexit")
    assert answer("11 22 33 44", program=code) == 0x4433 + 4
    assert answer("11223344", program=code) == 0x4433 + 4


def test_the_answer_has_64_bits():
    """Negative numbers are printed as 64 unsigned bits."""
    assert answer(program=bpf.assemble("mov %r0, -1\nexit")) == 2**64 - 1


def test_no_memory_is_no_memory():
    """Without the argument, and with an empty one, r1 and r2 are 0."""
    code = bpf.assemble("mov %r0, %r1\nor %r0, %r2\nexit")
    assert answer(program=code) == answer("", program=code) == 0


def test_options_come_as_one_argument_that_may_be_empty():
    """The runner gives all plugin options in one argument, an empty one where there are none."""
    code = bpf.assemble("mov %r0, %r2\nexit")
    assert answer("01  02  ", "", program=code) == 2
    assert answer("", "", program=code) == 0
    assert answer("01 02", "--interpret --interpret", program=code) == 2


def test_the_program_may_be_an_argument():
    """--program gives the program instead of standard input."""
    code = bpf.assemble("mov %r0, 7\nexit")
    assert answer("00", "--program", code.hex(" "), program=b"") == 7


def test_the_program_may_be_an_object():
    """With --elf the bytes are an object, whose only program runs on plain memory whatever its section."""
    source = '.section xdp,"ax",@progbits\n.globl main\n.type main,@function\nmain:\nr0 = *(u8 *)(r1 + 1)\nexit'
    assert answer("05 06", "--elf", program=assembled(source)) == 6
    assert answer("05 06", "--interpret", "--elf", program=assembled(source)) == 6


def test_local_functions_can_be_called():
    """A program without an object may call functions of its own."""
    assert answer(program=bpf.assemble("mov %r1, 3\ncall local +1\nexit\nmov %r0, %r1\nadd %r0, 1\nexit")) == 4


def test_code_that_only_the_kernel_refuses_runs():
    """Division by a constant 0 and code that cannot be reached have a meaning in RFC 9669."""
    assert answer(program=bpf.assemble("mov %r0, 5\ndiv %r0, 0\nexit\nmov %r0, 1\nexit")) == 0


RESERVED = {
    "dst of exit": (0x95, 0x01, 0, 0),
    "src of exit": (0x95, 0x10, 0, 0),
    "offset of exit": (0x95, 0, 1, 0),
    "imm of exit": (0x95, 0, 0, 1),
    "src of mov imm": (0xB7, 0x10, 0, 0),
    "imm of mov reg": (0xBF, 0x10, 0, 1),
    "offset of add imm": (0x07, 0x00, 1, 1),
    "imm of load": (0x71, 0x10, 0, 1),
}


@pytest.mark.parametrize("field", RESERVED)
def test_fields_that_are_not_used_must_be_zero(field):
    """RFC 9669 reserves fields that an instruction does not use: such a program is refused before it runs."""
    opcode, registers, offset, imm = RESERVED[field]
    slot = bytes([opcode, registers]) + offset.to_bytes(2, "little") + imm.to_bytes(4, "little")
    done = plugin("00", program=bpf.assemble("mov %r0, 0") + slot + bpf.assemble("exit"))
    assert done.returncode != 0
    assert done.stdout == ""
    assert "must be 0" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "program", "message"),
    [
        ((), b"", "there is no code"),
        ((), b"\x95", "not whole instructions"),
        (("zz",), bytes(8), "not bytes in hexadecimal"),
        (("--elf",), bytes(8), "no ELF object"),
        ((), bpf.assemble("ldxdw %r0, [%r1+0]\nexit"), "outside the program's memory"),
    ],
)
def test_what_cannot_be_answered_is_an_error(arguments, program, message):
    """Bad input and faults are a message on standard error and an exit code, and nothing on standard output."""
    done = plugin(*arguments, program=program)
    assert done.returncode != 0
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr

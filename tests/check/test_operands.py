"""Operands are numbered as LLVM numbers them.

The oracle is llvm-mc, which prints the MCInst of an instruction: every operand of every instruction in
real objects is compared, and of a list with what compilers seldom write.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from jitlink.check.grammar import RuleError
from jitlink.check.operands import decode
from tests.matrix.test_matrix import sources
from tests.toolchain import assemble, zig_cc

pytest.importorskip("capstone")

INSTRUCTIONS = Path(__file__).parent / "instructions"
MACHINES = {
    "x86_64": ("x86_64-linux-gnu", ""),
    "aarch64": ("aarch64-linux-gnu", "+lse"),
    "riscv64": ("riscv64-linux-gnu", "+m,+a,+d,+c"),
}


OLDEST_LLVM = 22
"""Older ones number the operands of some conversions and square roots of x86-64 otherwise."""


@cache
def llvm_tool(name: str) -> str:
    """One of LLVM's tools; skips the test where there is none that is new enough."""
    for candidate in (f"{name}-{OLDEST_LLVM}", name):
        if shutil.which(candidate):
            version = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=True).stdout
            major = re.search(r"version (\d+)", version)
            if major and int(major[1]) >= OLDEST_LLVM:
                return candidate
    pytest.skip(f"{name} of LLVM {OLDEST_LLVM} is not installed")


def instructions_of(content: bytes, features: str, path) -> list[tuple[bytes, str]]:
    """The distinct instructions of an object: bytes and text."""
    file = path / "object.o"
    file.write_bytes(content)
    command = [llvm_tool("llvm-objdump"), "-d", *([f"--mattr={features}"] if features else []), str(file)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for line in listing.splitlines():
        parts = re.match(r"\s*[0-9a-f]+:\s+((?:[0-9a-f]{2,8} ?)+)\s*\t(.*)", line)
        if parts and "<unknown>" not in line:
            words = parts[1].split()
            # Words of fixed instructions are shown as numbers, bytes of others as bytes.
            content = bytes.fromhex("".join(words)) if len(words[0]) == 2 else bytes.fromhex(words[0])[::-1]
            found[content] = parts[2]
    return list(found.items())


def llvm_operands(codes: list[bytes], triple: str, features: str) -> list[list[int | None]]:
    """The operands of each instruction in LLVM's MCInst; None for a register."""
    text = "\n".join(" ".join(f"{byte:#04x}" for byte in code) for code in codes)
    command = [llvm_tool("llvm-mc"), "--disassemble", "--show-inst", f"--triple={triple}"]
    command += [f"--mattr={features}"] if features else []
    listing = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    found: list[list[int | None]] = []
    for token in re.findall(r"<MCInst|<MCOperand (?:Reg|Imm|Expr|SFPImm|DFPImm):?[^>]*>", listing):
        if token == "<MCInst":
            found.append([])
        else:
            number = re.match(r"<MCOperand Imm:(-?\d+)>", token)
            found[-1].append(int(number[1]) if number else None)
    return found


def compare(machine: str, content: bytes, path, *, all_known: bool) -> int:
    """Compare every instruction of an object; returns how many were compared."""
    triple, features = MACHINES[machine]
    given = instructions_of(content, features, path)
    wanted = llvm_operands([code for code, _ in given], triple, features)
    assert len(given) == len(wanted)
    compared = 0
    for (code, text), operands in zip(given, wanted, strict=True):
        found = decode(machine, code, 0x1000)
        assert found.size == len(code), text
        if found.operands is None:
            assert not all_known, text
            continue
        compared += 1
        values = [None if value is None else value % (1 << 64) for value in operands]
        assert [None if value is None else value % (1 << 64) for value in found.operands] == values, text
    return compared


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_operands_of_compiled_code_are_those_of_llvm(machine, level, tmp_path):
    """All operands of what a compiler makes of the programs of the matrix agree with llvm-mc."""
    programs, _ = sources()
    content = zig_cc(programs, level, "-w", target=MACHINES[machine][0])
    assert compare(machine, content, tmp_path, all_known=False) > 300


@pytest.mark.parametrize("machine", MACHINES)
def test_operands_of_seldom_instructions_are_those_of_llvm(machine, tmp_path):
    """Ends of ranges, memory operands of all forms, implied registers and tied operands agree with llvm-mc."""
    text = (INSTRUCTIONS / f"{machine}.s").read_text()
    content = assemble(text, target=MACHINES[machine][0])
    compared = compare(machine, content, tmp_path, all_known=machine != "x86_64")
    assert compared > 0.9 * text.count("\n        ")


@pytest.mark.parametrize(
    ("machine", "code"),
    [
        ("x86_64", b"\x06\x07"),
        ("x86_64", b""),
        ("aarch64", b"\0\0\0\0"),
        ("aarch64", b"\0\0"),
        ("riscv64", b"\0\0"),
        ("riscv64", b"\x03"),
        ("bpf", bytes(8)),
    ],
)
def test_what_is_no_instruction_is_refused(machine, code):
    """Bytes that are no instruction, or that end too early, are an error in words."""
    with pytest.raises(RuleError):
        decode(machine, code, 0x1000).immediate(0)


@pytest.mark.parametrize(
    ("machine", "code", "size"),
    [
        ("aarch64", bytes.fromhex("0028611e"), 4),
        ("riscv64", bytes.fromhex("5375b502"), 4),
        ("x86_64", b"\xf3\xa4", 2),
    ],
)
def test_an_instruction_without_numbers_still_has_a_size(machine, code, size):
    """next_pc works for instructions whose operands nobody asks for; decode_operand says that it does not."""
    found = decode(machine, code, 0x1000)
    assert found.size == size
    with pytest.raises(RuleError, match="not known here"):
        found.immediate(0)

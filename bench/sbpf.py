"""SBPF: how fast programs run in each tier and in Solana's own virtual machine, and how long it takes to load them.

    python bench/sbpf.py [--runs N]

Solana's machine is the one in LiteSVM (package solders), which compiles programs too; without it its columns are
left out. A run there is a transaction. What a transaction takes with a program that does nothing is taken off; that
is a small part of a millisecond, where the programs here take several and more.

The programs are files of version 3, loops of about forty million instructions. Figures are the least of several
runs, in time of this thread on the processor, so that others who use the machine matter less.

What is loaded is the SPL token programs as they are on the chain: read, verified, compiled.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from time import thread_time
from typing import Any

from rich.console import Console
from rich.table import Table

from jitlink.bpf import sbpf

UNITS = 1 << 30
INTERPRETED = 400
"""How many times shorter loops are on the interpreter."""
HEAP = 3 << 32
TOKENS = {
    "SPL token": "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
    "token-2022": "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb",
}
TIERS = ("interpreter", "jit", "hardened", "llvm")
EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


def op(opcode: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    """One instruction."""
    return struct.pack("<BBhI", opcode, dst | src << 4, offset, imm & 0xFFFF_FFFF)


def wide(dst: int, value: int) -> bytes:
    """A wide constant, two slots."""
    return op(0x18, dst, imm=value) + op(0, imm=value >> 32)


def loop(rounds: int, body: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    """A program that carries a body out so often; r9 counts. behind: functions."""
    start = before + wide(9, rounds)
    back = -(len(body) // 8) - 2
    return start + body + op(0x07, 9, imm=-1) + op(0x55, 9, offset=back) + op(0xB7, 0) + EXIT + behind


def file_of(text: bytes) -> bytes:
    """A file of version 3: a header, a program header, and code."""
    start = 64 + 56
    header = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 247, 1, 1 << 32, 64, 0, 3, 64, 56, 1, 64, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 1, start, 1 << 32, 1 << 32, len(text), len(text), 8) + text


def programs(shorter: int) -> Iterator[tuple[str, bytes]]:
    """The programs by name, with so many times fewer rounds."""
    arithmetic = op(0x27, 1, imm=31) + op(0x0F, 1, 9) + op(0xA7, 1, imm=255) + op(0x77, 1, imm=1) + op(0x0C, 2, 1)
    yield "arithmetic", loop(5_600_000 // shorter, arithmetic)
    # Walks through 16 KiB, over and over: (r1 + 8) & 0x3fff, added to the start of the heap.
    walk = op(0x07, 1, imm=8) + op(0x57, 1, imm=0x3FF8) + op(0xBF, 2, 1) + op(0x0F, 2, 8)
    copy = walk + op(0x79, 3, 2) + op(0x7B, 2, 3, 0x2000) + op(0x0F, 4, 3)
    yield "copy of words", loop(4_400_000 // shorter, copy, wide(8, HEAP))
    # FNV-1a over bytes.
    walk = op(0x07, 1, imm=1) + op(0x57, 1, imm=0x3FFF) + op(0xBF, 2, 1) + op(0x0F, 2, 8)
    fnv = walk + op(0x71, 3, 2) + op(0xAF, 4, 3) + op(0x27, 4, imm=0x01000193)
    yield "FNV-1a of bytes", loop(4_400_000 // shorter, fnv, wide(8, HEAP))
    stack = op(0x7B, 10, 9, -8) + op(0x79, 1, 10, -8) + op(0x7B, 10, 1, -16) + op(0x79, 2, 10, -16)
    yield "stack", loop(6_400_000 // shorter, stack)
    # A function that adds; it lies behind the loop, four instructions on.
    yield "calls", loop(8_000_000 // shorter, op(0x85, src=1, imm=4), behind=op(0x0F, 1, 9) + EXIT)
    divide = op(0xBF, 1, 9) + op(0x07, 1, imm=12345) + op(0x3F, 1, 9) + op(0x97, 1, imm=7) + op(0x0F, 2, 1)
    yield "divisions", loop(5_600_000 // shorter, divide)


def least(runs: int, run: Callable[[], Any]) -> float:
    """The least time that a run takes, in seconds of this thread."""
    times = []
    for _ in range(runs):
        start = thread_time()
        run()
        times.append(thread_time() - start)
    return min(times)


class Solana:
    """Solana's virtual machine."""

    def __init__(self) -> None:
        """Raises ImportError where there is no solders."""
        litesvm = import_module("solders.litesvm")
        limits = litesvm.ComputeBudget(True)
        limits.compute_unit_limit = UNITS
        self.keys = import_module("solders.pubkey").Pubkey
        self.machine = litesvm.LiteSVM().with_sigverify(False).with_blockhash_check(False)
        self.machine = self.machine.with_lamports(10**18).with_transaction_history(0).with_compute_budget(limits)
        self.payer = import_module("solders.keypair").Keypair().pubkey()
        self.machine.airdrop(self.payer, 10**15)

    def deploy(self, file: bytes) -> Any:
        """Deploy a program, which compiles it."""
        key = self.keys.new_unique()
        self.machine.add_program(key, file)
        return key

    def run(self, program: Any) -> None:
        """Run a program in a transaction."""
        instruction = import_module("solders.instruction").Instruction(program, b"", [])
        message = import_module("solders.message").Message([instruction], self.payer)
        transaction = import_module("solders.transaction").Transaction.new_unsigned(message)
        result = self.machine.send_transaction(transaction)
        assert not hasattr(result, "err"), result

    def file_of(self, address: str) -> bytes:
        """The file of a program of the chain, which is in an account of its own."""
        data = self.machine.get_account(self.keys.from_string(address)).data
        return bytes(self.machine.get_account(self.keys.from_bytes(data[4:36])).data[45:])


def load(file: bytes, tier: str, syscalls: dict[str, Any] | None = None) -> sbpf.Program:
    """Load a program in one of TIERS; what LLVM makes is made each time."""
    hardened = tier == "hardened"
    tier = "jit" if hardened else tier
    return sbpf.load(file, tier=tier, hardened=hardened, syscalls=syscalls, cache=False)


def print_programs(console: Console, runs: int, solana: Solana | None) -> None:
    """Time the programs in all tiers, and in Solana's machine."""
    table = Table("program", "instructions", *(f"{tier}, ms" for tier in TIERS), "Solana, ms", "Solana / jit")
    shorter = dict(programs(INTERPRETED))
    nothing = 0.0
    if solana:
        empty = solana.deploy(file_of(op(0xB7, 0) + EXIT))
        nothing = least(20 * runs, partial(solana.run, empty))
        console.print(f"a transaction with a program that does nothing: {nothing * 1e3:.2f} ms")
    for name, text in programs(1):
        file = file_of(text)
        figures, jit, units = [], 0.0, 0
        for tier in TIERS:
            slow = tier == "interpreter"
            program = load(file_of(shorter[name]) if slow else file, tier)
            took = least(runs, partial(program.run, budget=UNITS)) * (INTERPRETED if slow else 1)
            figures.append(f"{took * 1e3:.1f}")
            if tier == "jit":
                jit, units = took, program.machine.used
        theirs = [0.0]
        if solana:
            deployed = solana.deploy(file)
            theirs = [least(runs, partial(solana.run, deployed)) - nothing]
        row = [f"{theirs[0] * 1e3:.1f}", f"{theirs[0] / jit:.2f}"] if solana else ["", ""]
        table.add_row(name, f"{units:,}", *figures, *row)
    console.print(table)


def print_loading(console: Console, runs: int, solana: Solana) -> None:
    """Time the loading of the token programs."""
    table = Table("program", "slots", *(f"{tier}, ms" for tier in TIERS), "Solana, ms")
    for name, address in TOKENS.items():
        file = solana.file_of(address)
        # No program is run, so the syscalls need only be there.
        executable = sbpf.read_executable(file)
        syscalls = dict.fromkeys(executable.syscalls.values(), lambda *arguments: 0)
        ours = [least(runs, partial(load, file, tier, syscalls)) for tier in TIERS]
        theirs = least(runs, partial(solana.deploy, file))
        table.add_row(name, f"{len(executable.slots):,}", *(f"{each * 1e3:.1f}" for each in (*ours, theirs)))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each program, of which the least counts")
    runs = parser.parse_args().runs
    console = Console(width=120)
    try:
        solana = Solana()
    except ImportError:
        console.print("the package solders is not there, and so neither is Solana's machine")
        solana = None
    print_programs(console, runs, solana)
    if solana:
        print_loading(console, runs, solana)


if __name__ == "__main__":
    main()

"""Solana's own virtual machine as an oracle: programs run in LiteSVM, which the package solders brings along.

A transaction with one instruction runs a program on an input that Solana serializes: accounts, the data of the
instruction, and the program's address. What can be seen of a run is the error, the log, the units, what the program
returns, and accounts. The same input, made here, goes to our program; then both must come to the same.

Sources: Solana's documentation on programs, "Input Parameter Serialization"; for syscalls and their costs, the
structure of costs for programs of agave.
"""

import re
import struct
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from jitlink.bpf import BpfFault, FaultKind
from jitlink.bpf.sbpf.memory import HEAP_BYTES, HEAP_START, INPUT_START
from jitlink.bpf.sbpf.syscalls import ProgramAborted

KEEP_UNITS = "B7H2caeia4ZFcpE3QcgMqbiWiBtWrdBRBSJ1DY6Ktxbq"
"""The feature that takes all units of a run that has failed. Without it the log says how many there were."""
UNITS = 1_400_000
GROWTH = 10240
"""Bytes behind the data of an account, for it to grow."""
FAULTS = {
    "exceeded CUs meter": FaultKind.BUDGET,
    "Computational budget exceeded": FaultKind.BUDGET,
    "divide by zero": FaultKind.DIVISION,
    "division overflow": FaultKind.DIVISION,
    "callx attempted to call outside": FaultKind.BAD_CALL,
    "exceeded max BPF to BPF call depth": FaultKind.CALL_DEPTH,
    "attempted to execute past the end": FaultKind.BAD_JUMP,
    "unsupported BPF instruction": FaultKind.BAD_INSTRUCTION,
    "SBF program panicked": "the program has called abort",
}
"""Our kinds of the faults that it names, by how its message begins. One word of both is for accesses."""
ACCESS = re.compile(r"Access violation in .* at address (0x[0-9a-f]+) of size (\d+)")
RESULTS = {
    1 << 32: "custom program error: 0x0",
    2 << 32: "invalid program argument",
    3 << 32: "invalid instruction data",
    4 << 32: "invalid account data for instruction",
    5 << 32: "account data too small for instruction",
    6 << 32: "insufficient funds for instruction",
    7 << 32: "incorrect program id for instruction",
    8 << 32: "missing required signature for instruction",
    9 << 32: "instruction requires an uninitialized account",
    10 << 32: "instruction requires an initialized account",
    11 << 32: "insufficient account keys for instruction",
    18 << 32: "Provided owner is not allowed",
}
"""What it calls results of programs that have a name, by the number that they are in r0."""
LARGEST_CUSTOM = 0xFFFF_FFFF
NO_TEXT = "a message that is not UTF-8"
INVALID = "a result that is no error"


@dataclass
class Outcome:
    """What a run comes to: how it has ended (0, a result that is an error, or a fault), units, log, returned bytes."""

    end: Any
    units: int
    log: list[str] = field(default_factory=list)
    returned: bytes = b""


@dataclass
class Account:
    """An account, as an instruction names it. Attributes: key, owner (32 bytes each); data; what it may be used for."""

    key: bytes
    owner: bytes
    data: bytes = b""
    lamports: int = 0
    signer: bool = False
    writable: bool = False
    executable: bool = False
    rent_epoch: int = (1 << 64) - 1


def solders(name: str) -> Any:
    """A module of the package solders, by its name; whether it has types is nothing to us."""
    return import_module(f"solders.{name}")


def key_of(key: str | bytes) -> Any:
    """A key, by its text or its bytes."""
    keys = solders("pubkey").Pubkey
    return keys.from_string(key) if isinstance(key, str) else keys.from_bytes(key)


def new_key() -> Any:
    """A key that nothing has."""
    return solders("pubkey").Pubkey.new_unique()


def serialized(accounts, data, program):
    """The input of a program. accounts: those of the instruction in order; the same one again is a reference."""
    seen: dict[bytes, int] = {}
    parts = [struct.pack("<Q", len(accounts))]
    for number, each in enumerate(accounts):
        if each.key in seen:
            parts.append(struct.pack("<B7x", seen[each.key]))
            continue
        seen[each.key] = number
        flags = struct.pack("<BBBB4x", 0xFF, each.signer, each.writable, each.executable)
        parts += [flags, each.key, each.owner, struct.pack("<QQ", each.lamports, len(each.data)), each.data]
        parts += [bytes(GROWTH + -len(each.data) % 8), struct.pack("<Q", each.rent_epoch)]
    before = b"".join(parts)
    return before + struct.pack("<Q", len(data)) + data + program, INPUT_START + len(before) + 8


def accounts_after(accounts, data):
    """The lamports, owners and data of the accounts in an input that a program has changed, by key."""
    at, found = 8, {}
    for each in accounts:
        if each.key in found:
            at += 8
            continue
        owner = data[at + 40 : at + 72]
        lamports, size = struct.unpack_from("<QQ", data, at + 72)
        found[each.key] = lamports, owner, data[at + 88 : at + 88 + size]
        at += 88 + len(each.data) + GROWTH + -len(each.data) % 8 + 8
    return found


class Solana:
    """A virtual machine with one payer, whose features are those of the main network."""

    def __init__(self, budget=UNITS):
        litesvm = solders("litesvm")
        features = litesvm.LiteSVM.mainnet_feature_set()
        features.deactivate(key_of(KEEP_UNITS))
        limits = litesvm.ComputeBudget(True)
        limits.compute_unit_limit = budget
        machine = (
            litesvm.LiteSVM.default().with_feature_set(features).with_builtins().with_sysvars().with_default_programs()
        )
        machine = machine.with_lamports(10**18).with_sigverify(False).with_blockhash_check(False)
        self.machine = machine.with_transaction_history(0).with_log_bytes_limit(None).with_compute_budget(limits)
        self.payer = solders("keypair").Keypair().pubkey()
        self.machine.airdrop(self.payer, 10**15)

    def deploy(self, file):
        """Deploy a program; returns its address, or None where the machine refuses it."""
        program = new_key()
        try:
            self.machine.add_program(program, file)
        except Exception as error:
            # The class has no public name.
            if type(error).__name__ != "LiteSVMError":
                raise
            return None
        return program

    def run(self, program, data=b"", accounts=()):
        """Run a program. accounts: rows of (address, whether it signs, whether it is writable)."""
        instruction = solders("instruction")
        metas = [instruction.AccountMeta(*each) for each in accounts]
        message = solders("message").Message([instruction.Instruction(program, data, metas)], self.payer)
        result = self.machine.send_transaction(solders("transaction").Transaction.new_unsigned(message))
        meta = result.meta() if hasattr(result, "meta") else result
        name, lines = str(program), meta.logs()
        own = [line.removeprefix("Program log: ") for line in lines if line.startswith("Program log: ")]
        failed = [line for line in lines if line.startswith(f"Program {name} failed: ")]
        end = end_of(failed[0].partition(" failed: ")[2]) if failed else 0
        return Outcome(end, meta.compute_units_consumed(), own, bytes(meta.return_data().data))


def end_of(message):
    """How a program that has failed has ended, in our terms."""
    access = ACCESS.match(message)
    if access:
        return "access", int(access[1], 16), int(access[2])
    for text, kind in FAULTS.items():
        if message.startswith(text):
            return kind
    if message.startswith("invalid utf-8 sequence"):
        return NO_TEXT
    if message == "program returned invalid error code":
        return INVALID
    custom = re.fullmatch(r"custom program error: (0x[0-9a-f]+)", message)
    if custom and int(custom[1], 16):
        return int(custom[1], 16)
    return next((number for number, text in RESULTS.items() if text == message), message)


def set_return_data(machine, address, size, r3, r4, r5):
    """sol_set_return_data(address, length): what the caller gets."""
    machine.consume(size // 250 + 100)
    if size > 1024:
        raise ProgramAborted(f"Return data too large ({size} > 1024)")
    machine.returned = machine.read(address, size)
    return 0


def run_ours(program, data, r2, budget=UNITS, key=b""):
    """Run a program of ours. r2: where the data of the instruction is; key: of the program."""
    machine = program.machine
    machine.returned, machine.allocated, machine.program = b"", 0, key
    try:
        result = program.run(data, INPUT_START, r2, budget=budget)
        end = result.r0 if result.r0 <= LARGEST_CUSTOM or result.r0 in RESULTS else INVALID
    except BpfFault as fault:
        # It has one word for an instruction and for a syscall that there is not.
        kind = FaultKind.BAD_INSTRUCTION if fault.kind is FaultKind.UNKNOWN_HELPER else fault.kind
        end = kind if fault.address is None else ("access", fault.address, fault.size)
    except ProgramAborted as error:
        end = NO_TEXT if "is not UTF-8" in error.message else error.message
    return Outcome(end, machine.used, machine.log, machine.returned)


@cache
def solana():
    """The virtual machine that all tests share."""
    return Solana()


# The programs that are on the chain, and what they need


TOKEN = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
TOKEN_2022 = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"
MEMO, OLD_MEMO = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr", "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"
ASSOCIATED = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
LOOKUP_TABLE = "AddressLookupTab1e1111111111111111111111111"
STAKE = "Stake11111111111111111111111111111111111111"
UPGRADEABLE, PROGRAM_DATA_HEADER = 36, 45
"""Bytes of the account of a program that has its file in another account, and of what lies before the file there."""


def file_of(address):
    """The ELF file of a program of the chain."""
    machine = solana().machine
    data = machine.get_account(key_of(address)).data
    if len(data) == UPGRADEABLE:
        data = machine.get_account(key_of(data[4:36])).data[PROGRAM_DATA_HEADER:]
    return bytes(data)


SYSVARS = {
    "rent": "SysvarRent111111111111111111111111111111111",
    "clock": "SysvarC1ock11111111111111111111111111111111",
    "epoch rewards": "SysvarEpochRewards1111111111111111111111111",
}


def sysvar(name):
    """The bytes of a sysvar: those of its account."""
    return bytes(solana().machine.get_account(key_of(SYSVARS[name])).data)


def get_rent(machine, address, r2, r3, r4, r5):
    """sol_get_rent_sysvar(address)."""
    machine.consume(100 + 24)
    machine.write(address, sysvar("rent").ljust(24, b"\0"))
    return 0


def get_clock(machine, address, r2, r3, r4, r5):
    """sol_get_clock_sysvar(address)."""
    machine.consume(100 + 40)
    machine.write(address, sysvar("clock"))
    return 0


def get_epoch_rewards(machine, address, r2, r3, r4, r5):
    """sol_get_epoch_rewards_sysvar(address)."""
    machine.consume(100 + 96)
    machine.write(address, sysvar("epoch rewards").ljust(96, b"\0"))
    return 0


def get_sysvar(machine, name, address, offset, size, r5):
    """sol_get_sysvar(name, address, offset, length): of rent and clock."""
    machine.consume(100 + max(size // 250, 10))
    content = solana().machine.get_account(key_of(machine.read(name, 32))).data
    machine.write(address, content[offset : offset + size])
    return 0


def log_key(machine, address, r2, r3, r4, r5):
    """sol_log_pubkey(address)."""
    machine.consume(100)
    machine.log.append(str(key_of(machine.read(address, 32))))
    return 0


def allocate(machine, size, freed, r3, r4, r5):
    """sol_alloc_free_(size, address): memory of the heap, which is never given back."""
    if freed:
        return 0
    start = -(-machine.allocated // 16) * 16
    if start + size > HEAP_BYTES:
        return 0
    machine.allocated = start + size
    return HEAP_START + start


def get_stack_height(machine, r1, r2, r3, r4, r5):
    """sol_get_stack_height()."""
    machine.consume(100)
    return 1


def missing(machine, *registers):
    """A syscall that no test comes to."""
    raise NotImplementedError


SYSCALLS = {
    "sol_set_return_data": set_return_data,
    "sol_get_rent_sysvar": get_rent,
    "sol_get_clock_sysvar": get_clock,
    "sol_get_epoch_rewards_sysvar": get_epoch_rewards,
    "sol_get_sysvar": get_sysvar,
    "sol_log_pubkey": log_key,
    "sol_alloc_free_": allocate,
    "sol_get_stack_height": get_stack_height,
} | dict.fromkeys(("sol_sha256", "sol_curve_group_op", "sol_get_processed_sibling_instruction"), missing)
"""What the programs of the chain call, beyond what the project has and what sbpf_invocation has."""

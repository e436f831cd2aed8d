"""Programs of Solana that call others, and derive addresses: the syscalls of that, for tests against LiteSVM.

A call reads the instruction and the accounts out of the caller's memory, as Rust lays them out, runs the other program
on a machine of its own and on an input of its own, and writes lamports, owners and data back. The system program,
which is none of SBPF, is a function here.

Source: Solana's documentation on calls between programs and on program derived addresses; SIMD-0339 for costs.
"""

import struct
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from tests.bpf.sbpf_solana import Account, accounts_after, key_of, run_ours, serialized

INVOCATION, BYTES_PER_UNIT, DERIVATION = 946, 250, 1500
"""Units of a call, and of deriving an address once; bytes of data that cost a unit."""
ACCOUNT_INFO, ACCOUNT_META = 80, 34
"""Bytes that an account is counted as, and that a mention of one in an instruction has."""
SYSTEM, SYSTEM_UNITS, CREATE_ACCOUNT = bytes(32), 150, 0
INFO = struct.Struct("<5Q3?5x")
"""AccountInfo: addresses of the key, of lamports and of data (counted references), and of the owner; flags."""
LAMPORTS_AT, DATA_AT, DATA_SIZE_AT = 24, 24, 32
"""Where in what a counted reference points at are the address of lamports, and that of data with its size."""


@dataclass
class Info:
    """An account in the caller's memory: itself, and where lamports, owner, data and the size of data are."""

    account: Account
    lamports: int
    owner: int
    data: int
    size: int


def number_at(machine: Any, address: int) -> int:
    """64 bits of the program's memory."""
    return int.from_bytes(machine.read(address, 8), "little")


def infos_at(machine: Any, address: int, count: int) -> list[Info]:
    """The AccountInfos at an address."""
    found = []
    for number in range(count):
        key, lamports, data, owner, _, signer, writable, executable = INFO.unpack(
            machine.read(address + INFO.size * number, INFO.size)
        )
        lamports_at, data_at = number_at(machine, lamports + LAMPORTS_AT), number_at(machine, data + DATA_AT)
        size = number_at(machine, data + DATA_SIZE_AT)
        account = Account(
            machine.read(key, 32), machine.read(owner, 32), machine.read(data_at, size),
            number_at(machine, lamports_at), signer, writable, executable,
        )  # fmt: skip
        found.append(Info(account, lamports_at, owner, data_at, data + DATA_SIZE_AT))
    return found


def seeds_at(machine: Any, address: int, count: int) -> list[bytes]:
    """Slices of bytes at an address."""
    pairs = [struct.unpack("<2Q", machine.read(address + 16 * number, 16)) for number in range(count)]
    return [machine.read(start, size) for start, size in pairs]


def derived(seeds: list[bytes], program: bytes) -> bytes | None:
    """The address that a program derives from seeds, None where it is that of a key."""
    address = sha256(b"".join(seeds) + program + b"ProgramDerivedAddress").digest()
    return None if key_of(address).is_on_curve() else address


def create_program_address(machine: Any, seeds: int, count: int, program: int, result: int, r5: int) -> int:
    """sol_create_program_address(seeds, count, program, result)."""
    machine.consume(DERIVATION)
    address = derived(seeds_at(machine, seeds, count), machine.read(program, 32))
    if address is None:
        return 1
    machine.write(result, address)
    return 0


def try_find_program_address(machine: Any, seeds: int, count: int, program: int, result: int, bump_at: int) -> int:
    """sol_try_find_program_address(seeds, count, program, result, bump)."""
    given, name = seeds_at(machine, seeds, count), machine.read(program, 32)
    machine.consume(DERIVATION)
    for bump in range(255, 0, -1):
        address = derived([*given, bytes([bump])], name)
        if address is not None:
            machine.write(bump_at, bytes([bump]))
            machine.write(result, address)
            return 0
        machine.consume(DERIVATION)
    return 1


def get_return_data(machine: Any, address: int, size: int, program: int, r4: int, r5: int) -> int:
    """sol_get_return_data(address, length, program): what the last program that was called has returned."""
    machine.consume(100)
    size = min(size, len(machine.returned))
    if size:
        machine.consume((size + 32) // BYTES_PER_UNIT)
        machine.write(address, machine.returned[:size])
        machine.write(program, machine.returned_by)
    return len(machine.returned)


def invoke(machine: Any, instruction: int, infos: int, count: int, signers: int, signer_count: int) -> int:
    """sol_invoke_signed_rust(instruction, infos, count, signers, count)."""
    machine.consume(INVOCATION)
    metas_at, _, metas, data_at, _, size = struct.unpack("<6Q", machine.read(instruction, 48))
    program, data = machine.read(instruction + 48, 32), machine.read(data_at, size)
    machine.consume(size // BYTES_PER_UNIT + metas * ACCOUNT_META // BYTES_PER_UNIT)
    mentions = list(struct.iter_unpack("<32s2?", machine.read(metas_at, ACCOUNT_META * metas)))
    lists = [struct.unpack("<2Q", machine.read(signers + 16 * each, 16)) for each in range(signer_count)]
    signing = [derived(seeds_at(machine, *each), machine.program) for each in lists]
    machine.consume(count * ACCOUNT_INFO // BYTES_PER_UNIT)
    known = {info.account.key: info for info in infos_at(machine, infos, count)}
    for key in dict.fromkeys(key for key, _, _ in mentions):
        machine.consume(len(known[key].account.data) // BYTES_PER_UNIT)
    for key, signer, _ in mentions:
        assert not signer or known[key].account.signer or key in signing
    accounts = [replace(known[key].account, signer=signer, writable=writable) for key, signer, writable in mentions]
    after = called(machine, program, data, accounts)
    for key, (lamports, owner, content) in after.items():
        info = known[key]
        machine.write(info.lamports, lamports.to_bytes(8, "little"))
        machine.write(info.owner, owner)
        machine.write(info.size, len(content).to_bytes(8, "little"))
        # The size is in front of the data as well, where the input of the caller has it.
        machine.write(info.data - 8, len(content).to_bytes(8, "little"))
        machine.write(info.data, content)
    return 0


def called(machine: Any, program: bytes, data: bytes, accounts: list[Account]) -> Any:
    """What the accounts are like when a program has been called."""
    if program == SYSTEM:
        machine.consume(SYSTEM_UNITS)
        return system(data, accounts)
    callee = machine.find_program(program)
    content, r2 = serialized(accounts, data, program)
    outcome = run_ours(callee, content, r2, machine.budget_left, program)
    machine.log += outcome.log
    machine.consume(outcome.units)
    assert outcome.end == 0
    machine.returned, machine.returned_by = outcome.returned, program
    return accounts_after(accounts, callee.machine.input)


def system(data: bytes, accounts: list[Account]) -> dict[bytes, tuple[int, bytes, bytes]]:
    """The system program, as far as it creates accounts."""
    number, lamports, size, owner = struct.unpack("<I2Q32s", data)
    assert number == CREATE_ACCOUNT
    payer, new = accounts
    paid = payer.lamports - lamports, payer.owner, payer.data
    return {payer.key: paid, new.key: (new.lamports + lamports, owner, bytes(size))}


SYSCALLS = {
    "sol_create_program_address": create_program_address,
    "sol_try_find_program_address": try_find_program_address,
    "sol_get_return_data": get_return_data,
    "sol_invoke_signed_rust": invoke,
}

"""SBPF against Solana's own virtual machine: what is accepted, and what runs come to. See sbpf_solana.

JITLINK_MUTATIONS=N is how many programs each test of random ones tries.
"""

import struct
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings

from jitlink.bpf import sbpf
from jitlink.bpf.sbpf.memory import STACK_START
from jitlink.bpf.verification import Rule
from jitlink.errors import LinkError
from tests.bpf import sbpf_invocation
from tests.bpf.sbpf_files import EXIT, Strict, lddw, op
from tests.bpf.sbpf_machines import TIERS
from tests.bpf.sbpf_programs import MOVE, VERSIONS, assembled, constant, inputs, programs, syscall
from tests.bpf.sbpf_solana import (
    ASSOCIATED,
    LOOKUP_TABLE,
    MEMO,
    OLD_MEMO,
    STAKE,
    SYSCALLS,
    SYSVARS,
    TOKEN,
    TOKEN_2022,
    Account,
    accounts_after,
    file_of,
    key_of,
    new_key,
    run_ours,
    serialized,
    solana,
    solders,
)

pytest.importorskip("solders", reason="Solana's virtual machine comes with the package solders")

FEWER = 5
RETURNED = 1024


def load(file, tier="interpreter", **options):
    syscalls = SYSCALLS | sbpf_invocation.SYSCALLS
    return sbpf.load(file, tier=tier, syscalls=syscalls, cache=False, **options)


def is_accepted(file):
    """Whether we load a file and have nothing against its program, but for calls of syscalls that there are not.

    Solana refuses those when a program is deployed; this machine runs programs as if they had been.
    """
    try:
        report = load(file, verify=False).verify()
    except LinkError:
        return False
    return all(fault.rule is Rule.HELPER for fault in report.faults)


def show(version):
    """Code that shows what a program has come to: it logs registers, and returns the end of a frame."""
    text = op(MOVE, 1, 0) + syscall("sol_log_64_")
    text += b"".join(op(MOVE, to, number) for to, number in zip(range(1, 6), range(6, 11), strict=True))
    text += syscall("sol_log_64_") + constant(version, 1, STACK_START + 4096 - RETURNED)
    return text + op(0xB7, 2, imm=RETURNED) + syscall("sol_set_return_data") + op(0xB7, 0) + EXIT


# Programs made at random


@pytest.mark.parametrize("wild", [False, True], ids=["lawful", "wild"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tier", TIERS)
def test_any_program_comes_to_what_it_comes_to_on_solana(tier, version, wild):
    """A random program is accepted by both or by neither; result or fault, log, units and returned bytes are equal."""
    profile = settings.get_profile("mutations")
    fewer = 10 * FEWER if tier == "llvm" else FEWER

    @settings(profile, max_examples=max(profile.max_examples // fewer, 3))
    @given(programs(version, wild=wild, end=show(version)), inputs)
    def check(file, data):
        program = solana().deploy(file)
        assert is_accepted(file) == (program is not None)
        if program is not None:
            content, r2 = serialized([], data, bytes(program))
            assert run_ours(load(file, tier, verify=False), content, r2) == solana().run(program, data)

    check()


# Files


@dataclass
class Field:
    """A field of a header: where it is in it, and its bytes."""

    name: str
    at: int
    size: int

    def changed(self, file, start):
        """Files with other values in the field."""
        at = start + self.at
        old = int.from_bytes(file[at : at + self.size], "little")
        high = 1 << 8 * self.size
        for value in {0, 1, 2, 3, 4, 5, 247, 263, old + 1, old - 1, old + 8, old - 8, 2 * old, high - 1, high >> 1}:
            new = (value % high).to_bytes(self.size, "little")
            yield value % high, file[:at] + new + file[at + self.size :]


HEADER = [Field(f"ident {at}", at, 1) for at in range(16)]
HEADER += [Field("type", 16, 2), Field("machine", 18, 2), Field("version", 20, 4), Field("entry", 24, 8)]
HEADER += [Field("phoff", 32, 8), Field("shoff", 40, 8), Field("flags", 48, 4)]
HEADER += [
    Field(name, 52 + 2 * number, 2)
    for number, name in enumerate(("ehsize", "phentsize", "phnum", "shentsize", "shnum", "shstrndx"))
]
SEGMENT = [Field("type", 0, 4), Field("flags", 4, 4)]
SEGMENT += [
    Field(name, 8 * number, 8)
    for number, name in enumerate(("offset", "vaddr", "paddr", "filesz", "memsz", "align"), 1)
]
TWO_ANSWERS = op(0xB7, 0) + EXIT + op(0xB7, 0, imm=1) + EXIT


@pytest.mark.parametrize("field", HEADER, ids=lambda field: field.name)
@pytest.mark.parametrize("version", [0, 3])
def test_a_header_is_accepted_where_solana_accepts_it(version, field):
    """A file whose header has another value in one field is accepted by both or by neither."""
    for value, file in field.changed(assembled(version, TWO_ANSWERS), 0):
        assert is_accepted(file) == (solana().deploy(file) is not None), value


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("field", SEGMENT, ids=lambda field: field.name)
def test_a_program_header_is_accepted_where_solana_accepts_it(field, number):
    """So is a file of version 3 whose program headers do."""
    for value, file in field.changed(assembled(3, TWO_ANSWERS), 64 + 56 * number):
        assert is_accepted(file) == (solana().deploy(file) is not None), value


@pytest.mark.parametrize("version", [0, 3])
def test_a_file_that_was_cut_is_accepted_where_solana_accepts_it(version):
    """So is a file that ends too early."""
    whole = assembled(version, TWO_ANSWERS)
    for size in range(0, len(whole), 7):
        assert is_accepted(whole[:size]) == (solana().deploy(whole[:size]) is not None), size


def test_code_alone_is_a_file_of_version_3():
    """In version 3 the constants, and their header, may be missing."""
    text = lddw(1, 7) + op(MOVE, 0, 1) + EXIT
    program = solana().deploy(Strict(text, None).build())
    assert solana().run(program).end == load(Strict(text, None).build()).run().r0 == 7


# Programs that are on the chain


def compare(tier, address, data, *metas):
    """Run an instruction in both; metas: rows of (key, whether it signs, whether it is writable)."""
    machine = solana().machine
    signs = {key for key, signer, _ in metas if signer}
    writes = {key for key, _, writable in metas if writable}
    keys = [key for key, _, _ in metas]
    before = []
    for key in keys:
        each = machine.get_account(key)
        account = Account(bytes(key), bytes(32), signer=key in signs, writable=key in writes)
        if each:
            account.owner, account.data = bytes(each.owner), bytes(each.data)
            account.lamports, account.executable = each.lamports, each.executable
        before.append(account)
    content, r2 = serialized(before, data, bytes(key_of(address)))
    program = on_chain(address, tier)
    ours = run_ours(program, content, r2, key=bytes(key_of(address)))
    theirs = solana().run(key_of(address), data, metas)
    assert ours == theirs
    if not theirs.end:
        after = accounts_after(before, program.machine.input)
        found = {key: machine.get_account(key) for key in keys}
        # An account without lamports is gone.
        now = {bytes(key): (each.lamports, bytes(each.owner), bytes(each.data)) for key, each in found.items() if each}
        assert {key: each for key, each in after.items() if each[0]} == now
    return theirs


PROGRAMS: dict[tuple[str, str], Any] = {}


def on_chain(address, tier):
    """A program of the chain, loaded once in each tier."""
    if (address, tier) not in PROGRAMS:
        program: Any = load(file_of(address), tier)
        # Another program, for those that call one.
        program.machine.find_program = lambda key: on_chain(str(key_of(key)), tier)
        PROGRAMS[address, tier] = program
    return PROGRAMS[address, tier]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("address", [TOKEN, TOKEN_2022, MEMO, OLD_MEMO, ASSOCIATED, LOOKUP_TABLE, STAKE])
def test_programs_of_the_chain_are_accepted(tier, address):
    """What is deployed on Solana is loaded, verified and compiled."""
    assert on_chain(address, tier).verify().ok


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("address", [TOKEN, TOKEN_2022], ids=["SPL token", "token-2022"])
def test_tokens_are_made_moved_and_burnt(tier, address):
    """A life of tokens, with what is not allowed in between: each instruction does what it does on Solana."""
    machine, program, rent = solana().machine, key_of(address), key_of(SYSVARS["rent"])
    mint, one, other, authority, owner = (new_key() for _ in range(5))
    for key, size in ((mint, 82), (one, 165), (other, 165)):
        machine.set_account(key, solders("account").Account(10**9, bytes(size), program, False, (1 << 64) - 1))
    for key in (authority, owner):
        machine.airdrop(key, 10**9)

    def reads(key):
        return key, False, False

    def writes(key):
        return key, False, True

    def signs(key):
        return key, True, False

    def do(data, *metas):
        return compare(tier, address, data, *metas).end

    transfer, mint_to, burn = (lambda units, code=code: struct.pack("<BQ", code, units) for code in (3, 7, 8))
    initialize = bytes([20, 6]) + bytes(authority) + b"\0"
    assert not do(initialize, writes(mint))
    assert do(initialize, writes(mint))
    assert not do(bytes([18]) + bytes(owner), writes(one), reads(mint))
    assert not do(bytes([1]), writes(other), reads(mint), reads(owner), reads(rent))
    assert not do(mint_to(1_000_000), writes(mint), writes(one), signs(authority))
    assert not do(transfer(400), writes(one), writes(other), signs(owner))
    assert not do(struct.pack("<BQB", 12, 401, 6), writes(one), reads(mint), writes(other), signs(owner))
    assert do(struct.pack("<BQB", 12, 401, 7), writes(one), reads(mint), writes(other), signs(owner))
    assert do(transfer(4_000_000), writes(one), writes(other), signs(owner))
    assert do(transfer(5), writes(one), writes(other), signs(authority))
    assert not do(transfer(5), writes(one), writes(one), signs(owner))
    assert not do(struct.pack("<BQ", 4, 50), writes(one), reads(authority), signs(owner))
    assert not do(transfer(5), writes(one), writes(other), signs(authority))
    assert not do(burn(50), writes(one), writes(mint), signs(owner))
    assert not do(bytes([5]), writes(one), signs(owner))
    assert not do(bytes([21]), reads(mint))
    assert not do(struct.pack("<BQ", 23, 12_345_678), reads(mint))
    assert not do(bytes([24]) + b"12.5", reads(mint))
    assert not do(bytes([6, 0, 0]), writes(mint), signs(authority))
    assert do(mint_to(1), writes(mint), writes(one), signs(authority))
    assert not do(burn(806), writes(other), writes(mint), signs(owner))
    assert not do(bytes([9]), writes(other), writes(owner), signs(owner))
    assert do(bytes([99]), writes(one))
    assert do(b"", writes(one))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("address", [TOKEN, TOKEN_2022], ids=["SPL token", "token-2022"])
def test_a_program_that_calls_others_makes_an_account(tier, address):
    """The associated token program derives an address and calls the system and token programs, as it does on Solana."""
    machine, program = solana().machine, key_of(address)
    mint, authority, wallet, payer = (new_key() for _ in range(4))
    machine.set_account(mint, solders("account").Account(10**9, bytes(82), program, False, (1 << 64) - 1))
    machine.airdrop(payer, 10**10)
    assert not compare(tier, address, bytes([20, 6]) + bytes(authority) + b"\0", (mint, False, True)).end
    seeds = [bytes(key) for key in (wallet, program, mint)]
    account, _ = solders("pubkey").Pubkey.find_program_address(seeds, key_of(ASSOCIATED))
    accounts = [(payer, True, True), (account, False, True)]
    accounts += [(key, False, False) for key in (wallet, mint, key_of(bytes(32)), program)]
    assert not compare(tier, ASSOCIATED, b"\0", *accounts).end
    assert bytes(machine.get_account(account).data[:64]) == bytes(mint) + bytes(wallet)
    # There is one now.
    assert compare(tier, ASSOCIATED, b"\0", *accounts).end
    assert not compare(tier, ASSOCIATED, b"\1", *accounts).end


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("text", ["a memo", "with é and 中", "x" * 500, b"\xff\xfe"])
@pytest.mark.parametrize("address", [MEMO, OLD_MEMO], ids=["memo", "first memo"])
def test_memos_are_logged(tier, address, text):
    """A memo is logged; one that is no text is refused."""
    data = text if isinstance(text, bytes) else text.encode()
    assert (compare(tier, address, data).end == 0) == isinstance(text, str)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x01\0\0\0", b"\x07\0\0\0", bytes(64)], ids=lambda data: data.hex()[:8]
)
@pytest.mark.parametrize("address", [ASSOCIATED, LOOKUP_TABLE, STAKE], ids=["associated", "lookup table", "stake"])
def test_instructions_without_accounts_fail_as_on_solana(tier, address, data):
    """What is refused is refused with the same error, after the same units."""
    assert compare(tier, address, data).end

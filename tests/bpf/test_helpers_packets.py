"""Helpers for packets: bytes, checksums, redirects and routes."""

import struct
from errno import EAFNOSUPPORT, EFAULT, EINVAL
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.bpf.contexts import SkbContext, XdpContext
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.helpers import Redirect, Route
from jitlink.bpf.maps import MapType
from tests.bpf.worlds import ETHERNET, PACKET, World


@pytest.fixture
def world():
    world = World()
    yield world
    world.machine.regions.close()


# Packets.


@pytest.fixture
def xdp(world):
    world.machine.context = XdpContext(world.machine.regions, PACKET)
    return world.machine.context


@pytest.fixture
def skb(world):
    world.machine.context = SkbContext(world.machine.regions, PACKET)
    return world.machine.context


def test_xdp_helpers_move_the_ends(world, xdp):
    """Deltas are signed 32-bit numbers."""
    assert world.call("xdp_adjust_head", xdp.address, -8 & 0xFFFF_FFFF) == 0
    assert world.call("xdp_adjust_tail", xdp.address, -10 & 0xFFFF_FFFF) == 0
    assert world.call("xdp_adjust_meta", xdp.address, -4) == 0
    assert xdp.data == bytes(8) + PACKET[:-10]
    assert xdp.metadata == bytes(4)
    assert world.call("xdp_get_buff_len", xdp.address) == len(PACKET) - 2
    assert world.call("xdp_adjust_head", xdp.address, 1000) == -EINVAL


def test_bytes_are_copied_out_of_and_into_packets(world):
    """Load and store copy; outside of the packet a load clears the buffer and gives EFAULT, XDP's gives EINVAL."""
    buffer = world.memory(b"x" * 8)
    world.machine.context = skb = SkbContext(world.machine.regions, PACKET)
    assert world.call("skb_load_bytes", skb.address, 12, buffer.address, 2) == 0
    assert bytes(buffer.data) == b"\x08\0xxxxxx"
    assert world.call("skb_load_bytes", skb.address, len(PACKET) - 1, buffer.address, 2) == -EFAULT
    assert world.call("skb_load_bytes_relative", skb.address, 1, buffer.address, 2, 1) == 0
    assert bytes(buffer.data) == bytes([1, 2]) + b"xxxxxx"
    assert world.call("skb_load_bytes_relative", skb.address, 1, buffer.address, 2, 2) == -EFAULT
    assert world.call("skb_store_bytes", skb.address, 0, buffer.address + 2, 3, 1) == 0
    assert skb.data[:4] == b"xxx\xff"
    assert world.call("skb_store_bytes", skb.address, 0, buffer.address, 3, 4) == -EINVAL
    assert world.call("skb_store_bytes", skb.address, len(PACKET), buffer.address, 1, 0) == -EFAULT
    assert world.call("skb_pull_data", skb.address, len(PACKET)) == 0
    assert world.call("skb_change_tail", skb.address, 20, 0) == 0
    assert (len(skb.data), skb["len"]) == (20, 20)
    world.machine.context = xdp = XdpContext(world.machine.regions, PACKET)
    assert world.call("xdp_load_bytes", xdp.address, 12, buffer.address, 2) == 0
    assert world.call("xdp_store_bytes", xdp.address, 0, buffer.address, 2) == 0
    assert xdp.data[:2] == PACKET[12:14]
    assert world.call("xdp_load_bytes", xdp.address, len(PACKET), buffer.address, 1) == -EINVAL


def test_a_helper_for_another_context_faults(world, xdp):
    """skb helpers need an skb, and the address must be that of the context."""
    for name, address in (("skb_pull_data", xdp.address), ("xdp_adjust_head", 5)):
        with pytest.raises(BpfFault) as caught:
            world.call(name, address, 0)
        assert caught.value.kind == FaultKind.NO_PACKET


# Checksums.


def rfc1071(data):
    """The checksum as RFC 1071 section 4.1 computes it, over big-endian words."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def swapped(number):
    return int.from_bytes(number.to_bytes(2, "big"), "little")


def is_zero(sum):
    """Both 0 and 0xffff are zero in ones' complement."""
    return sum in (0, 0xFFFF)


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(0, 0xFFFF_FFFF))
def test_csum_diff_is_the_difference_of_checksums(old, new, seed):
    """The sum of new, less the sum of old, on top of the seed, by RFC 1071 on little-endian words."""
    world = World()
    old, new = old[: len(old) // 4 * 4], new[: len(new) // 4 * 4]
    first, second = world.memory(old), world.memory(new)
    result = world.call("csum_diff", first.address, len(old), second.address, len(new), seed)
    complement = bytes(byte ^ 0xFF for byte in old)
    seed_bytes = seed.to_bytes(4, "little")
    expected = swapped(rfc1071(new + complement + seed_bytes[1::-1][::-1] + seed_bytes[2:])) ^ 0xFFFF
    assert result == expected or (is_zero(result) and is_zero(expected))
    world.machine.regions.close()


def test_csum_diff_refuses_odd_sizes(world):
    """Sizes are multiples of 4, at most 512 together."""
    buffer = world.memory(bytes(600)).address
    assert world.call("csum_diff", buffer, 3, buffer, 4, 0) == -EINVAL
    assert world.call("csum_diff", buffer, 512, buffer, 4, 0) == -EINVAL


@given(
    st.binary(min_size=20, max_size=20), st.integers(0, 3), st.binary(min_size=4, max_size=4), st.sampled_from([2, 4])
)
def test_replacing_a_field_keeps_the_checksum_right(header, word, new, size):
    """After l3_csum_replace of a changed field, the checksum is that of the changed header from scratch."""
    world = World()
    offset = 12 + 2 * word if size == 2 else 12 + 4 * (word % 2)
    header = header[:10] + bytes(2) + header[12:]
    header = header[:10] + rfc1071(header).to_bytes(2, "big") + header[12:]
    old, new = header[offset : offset + size], new[:size]
    for helper in ("l3_csum_replace", "l4_csum_replace"):
        world.machine.context = skb = SkbContext(world.machine.regions, ETHERNET + header)
        numbers = [int.from_bytes(each, "little") for each in (old, new)]
        assert world.call(helper, skb.address, 14 + 10, *numbers, size) == 0
        changed = header[:offset] + new + header[offset + size :]
        expected = rfc1071(changed[:10] + bytes(2) + changed[12:])
        found = int.from_bytes(skb.data[24:26], "big")
        assert found == expected or (is_zero(found) and is_zero(expected))
    world.machine.regions.close()


def test_checksum_helpers_answer_with_the_errors_of_the_kernel(world, skb):
    """Odd or far offsets are EFAULT; sizes other than 0, 2 and 4, and unknown flags, are EINVAL."""
    assert world.call("l3_csum_replace", skb.address, 15, 0, 0, 2) == -EFAULT
    assert world.call("l3_csum_replace", skb.address, 200, 0, 0, 2) == -EFAULT
    assert world.call("l3_csum_replace", skb.address, 24, 0, 0, 3) == -EINVAL
    assert world.call("l3_csum_replace", skb.address, 24, 0, 0, 0x12) == -EINVAL
    assert world.call("l3_csum_replace", skb.address, 24, 1, 0, 0) == -EINVAL
    assert world.call("l4_csum_replace", skb.address, 24, 0, 0, 0x100 | 2) == -EINVAL
    assert world.call("l4_csum_replace", skb.address, 24, 0, 0, 0x10 | 2) == 0


def test_a_checksum_of_zero_means_none_when_mangled_zero_is_marked(world):
    """BPF_F_MARK_MANGLED_0 leaves 0 alone, unless enforced, and writes 0xffff where the sum became 0."""
    zero = ETHERNET + bytes(40)
    for flags, expected in ((0x20, 0), (0x60, 0xFEFF)):
        world.machine.context = skb = SkbContext(world.machine.regions, zero)
        assert world.call("l4_csum_replace", skb.address, 24, 0, 1, flags | 2) == 0
        assert int.from_bytes(skb.data[24:26], "big") == expected
    world.machine.context = skb = SkbContext(world.machine.regions, ETHERNET + bytes(10) + b"\1\0" + bytes(28))
    assert world.call("l4_csum_replace", skb.address, 24, 0, 1, 0x20 | 2) == 0
    assert skb.data[24:26] == b"\xff\xff"


# Redirects and routes.


def test_redirects_are_recorded(world, xdp):
    """XDP answers XDP_REDIRECT and takes no flags; TC answers TC_ACT_REDIRECT."""
    assert world.call("redirect", 7, 0) == 4
    assert world.call("redirect", 7, 1) == 0
    world.machine.context = skb = SkbContext(world.machine.regions, PACKET)
    assert world.call("redirect", 8, 1) == 7
    assert world.call("redirect", 8, 2) == 2
    assert world.call("clone_redirect", skb.address, 9, 0) == 0
    assert list(world.host.redirects) == [Redirect(7), Redirect(8, 1), Redirect(9, packet=PACKET)]


@pytest.mark.parametrize("type", [MapType.DEVMAP, MapType.DEVMAP_HASH, MapType.CPUMAP, MapType.XSKMAP])
def test_redirect_map_looks_the_destination_up(world, xdp, type):
    """An entry gives XDP_REDIRECT and is recorded; without one the low bits of flags are the action."""
    table = world.map(type, value=4)
    table[3] = 12
    assert world.call("redirect_map", table.address, 3, 0) == 4
    assert world.call("redirect_map", table.address, 4, 2) == 2
    assert world.call("redirect_map", table.address, 4, 1 << 10) == 0
    assert list(world.host.redirects) == [Redirect(12, 0, table.name, 3)]
    assert world.call("redirect_map", world.map(MapType.ARRAY).address, 0, 0) == 0


def fib_parameters(destination, family=2, length=100):
    address = ip_address(destination)
    return struct.pack("<BB2s2sHII16s16s16s", family, 6, b"", b"", length, 1, 0, b"", address.packed, b"")


def test_fib_lookup_finds_the_longest_route_and_fills_it_in(world, xdp):
    """The most specific route gives device, gateway, metric and MAC addresses, at the offsets of bpf.h."""
    source, destination = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])
    world.host.routes = [
        Route(ip_network("0.0.0.0/0"), 1, destination_mac=b"\xff" * 6),
        Route(ip_network("10.0.0.0/8"), 5, ip_address("10.9.9.9"), source, destination, metric=3),
        Route(ip_network("10.1.0.0/16"), 6, result=1),
        Route(ip_network("10.2.0.0/16"), 7),
        Route(ip_network("fd00::/8"), 8, destination_mac=destination, mtu=50),
    ]
    memory = world.memory(fib_parameters("10.3.4.5"))
    assert memory.size == 64
    assert world.call("fib_lookup", xdp.address, memory.address, 64, 0) == 0
    data = bytes(memory.data)
    assert struct.unpack_from("<II", data, 8) == (5, 3)
    assert (data[32:36], data[52:58], data[58:64]) == (bytes([10, 9, 9, 9]), source, destination)
    # fmt: off
    cases = [
        ("10.1.0.1", 2, 100, 1), ("10.2.0.1", 2, 100, 7), ("1.1.1.1", 2, 100, 0), ("fd00::1", 10, 100, 8),
        ("fd00::1", 10, 40, 0), ("fe80::1", 10, 40, 4), ("1.1.1.1", 3, 40, -EAFNOSUPPORT),
    ]
    # fmt: on
    for address, family, length, expected in cases:
        memory.data[:] = fib_parameters(address, family, length)
        assert world.call("fib_lookup", xdp.address, memory.address, 64, 0) == expected
    assert world.call("fib_lookup", xdp.address, memory.address, 63, 0) == -EINVAL
    assert world.call("fib_lookup", xdp.address, memory.address, 64, 1 << 20) == -EINVAL

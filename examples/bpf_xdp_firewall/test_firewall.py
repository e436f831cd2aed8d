"""Unit tests of the firewall: packets in, verdicts and counters out, with no root and no kernel."""

import struct
from ipaddress import IPv4Address

import pytest

pytestmark = pytest.mark.bpf("firewall.o")

ETHERNET = bytes(12) + b"\x08\x00"
SYN, ACK = 2, 16
PASSED, MALFORMED, NETWORK, PORT = range(4)


def ipv4(source="192.0.2.1", protocol=6, payload=b""):
    addresses = IPv4Address(source).packed + IPv4Address("198.51.100.7").packed
    return ETHERNET + struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + addresses + payload


def tcp(port, flags=SYN):
    return struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 0x50, flags, 65535, 0, 0)


def test_a_packet_passes_by_default(bpf_program):
    assert bpf_program.run(ipv4(payload=tcp(443))).action == "XDP_PASS"
    assert bpf_program.maps["packets"][PASSED] == 1


def test_a_connection_to_a_blocked_port_is_dropped(bpf_program):
    bpf_program.maps["blocked_ports"][23] = 1
    assert bpf_program.run(ipv4(payload=tcp(23))).action == "XDP_DROP"
    assert bpf_program.run(ipv4(payload=tcp(22))).action == "XDP_PASS"


def test_an_open_connection_to_a_blocked_port_goes_on(bpf_program):
    bpf_program.maps["blocked_ports"][23] = 1
    assert bpf_program.run(ipv4(payload=tcp(23, SYN | ACK))).action == "XDP_PASS"
    assert bpf_program.run(ipv4(payload=tcp(23, ACK))).action == "XDP_PASS"


@pytest.mark.parametrize(("source", "action"), [("203.0.113.9", "XDP_DROP"), ("203.0.114.9", "XDP_PASS")])
def test_a_blocked_network_is_dropped_whatever_it_sends(bpf_program, source, action):
    bpf_program.maps["blocked_networks"]["203.0.113.0/24"] = 1
    assert bpf_program.run(ipv4(source, payload=tcp(443))).action == action
    assert bpf_program.run(ipv4(source, protocol=17)).action == action


@pytest.mark.parametrize("length", [0, 13, 20, 33, 40, 53])
def test_a_packet_that_is_cut_short_is_dropped(bpf_program, length):
    assert bpf_program.run(ipv4(payload=tcp(443))[:length]).action == "XDP_DROP"
    assert bpf_program.maps["packets"][MALFORMED] == 1


def test_what_is_dropped_is_reported(bpf_program):
    bpf_program.maps["blocked_ports"][23] = 1
    bpf_program.run(ipv4("192.0.2.77", payload=tcp(23)))
    (event,) = bpf_program.maps["events"].read()
    source = IPv4Address(event.source.to_bytes(4, "little"))
    assert (str(source), event.port, event.reason) == ("192.0.2.77", 23, PORT)


def test_reports_can_be_switched_off(bpf_program):
    bpf_program.globals["report_events"] = 0
    bpf_program.run(b"")
    assert bpf_program.maps["events"].read() == []


def test_the_packet_is_left_alone(bpf_program):
    packet = ipv4(payload=tcp(443))
    assert bpf_program.run(packet).data == packet


def test_the_kernel_would_take_the_code(bpf_program):
    assert bpf_program.verify().ok

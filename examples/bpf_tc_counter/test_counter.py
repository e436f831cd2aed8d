"""Unit tests of the packet counter."""

import struct
from ipaddress import IPv4Address

import pytest

pytestmark = pytest.mark.bpf("counter.o", cpus=2)

UDP, ICMP = 17, 1


def packet(source="192.0.2.1", protocol=UDP, ports=(5353, 53), size=60):
    ip = struct.pack(">BBHHHBBH", 0x45, 0, size - 14, 1, 0, 64, protocol, 0)
    addresses = IPv4Address(source).packed + IPv4Address("198.51.100.7").packed
    payload = struct.pack(">HH", *ports) if protocol == UDP else b""
    return (bytes(12) + b"\x08\x00" + ip + addresses + payload).ljust(size, b"\0")


def counted(program):
    """Packets and bytes of each flow, by source address."""
    flows = program.maps["flows"].items()
    return {str(IPv4Address(key.source.to_bytes(4, "little"))): (seen.packets, seen.bytes) for key, seen in flows}


def test_packets_of_a_flow_are_added_up(bpf_program):
    for size in (60, 100, 1500):
        assert bpf_program.run(packet(size=size)).action == "TC_ACT_OK"
    assert counted(bpf_program) == {"192.0.2.1": (3, 1660)}


def test_flows_are_told_apart_by_their_ports(bpf_program):
    bpf_program.run(packet(ports=(1000, 53)))
    bpf_program.run(packet(ports=(1001, 53)))
    ports = {int.from_bytes(key.source_port.to_bytes(2, "little")) for key in bpf_program.maps["flows"]}
    assert ports == {1000, 1001}


def test_a_protocol_without_ports_is_one_flow(bpf_program):
    bpf_program.run(packet(protocol=ICMP))
    bpf_program.run(packet(protocol=ICMP))
    (key,) = bpf_program.maps["flows"]
    assert (key.protocol, key.source_port, key.destination_port) == (ICMP, 0, 0)


def test_every_cpu_counts_for_itself(bpf_program):
    bpf_program.run(packet(size=60))
    bpf_program.host.cpu = 1
    bpf_program.run(packet(size=100))
    first, second = bpf_program.maps["total"][0]
    assert (first.bytes, second.bytes) == (60, 100)


def test_a_big_flow_is_marked(bpf_program):
    bpf_program.globals["big_flow"] = 150
    marks = [bpf_program.run(packet(size=60)).fields["mark"] for _ in range(4)]
    assert marks == [0, 0, 1, 1]


def test_what_is_not_ip_is_counted_apart(bpf_program):
    bpf_program.run(bytes(12) + b"\x08\x06" + bytes(46))
    assert bpf_program.globals["not_ip"] == 1
    assert len(bpf_program.maps["flows"]) == 0

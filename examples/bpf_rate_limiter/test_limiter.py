"""Unit tests of the rate limiter. The test holds the clock, so nothing here depends on time."""

from ipaddress import IPv4Address

import pytest

pytestmark = pytest.mark.bpf("limiter.o")

SECOND = 1_000_000_000


class Clock:
    """The time that the program sees."""

    now = SECOND


@pytest.fixture
def clock(bpf_program):
    clock = Clock()
    bpf_program.helper("ktime_get_ns")(lambda machine: clock.now)
    return clock


def packet(source="192.0.2.1"):
    return bytes(12) + b"\x08\x00" + b"\x45" + bytes(11) + IPv4Address(source).packed + bytes(30)


def actions(program, count, source="192.0.2.1"):
    return [program.run(packet(source)).action for _ in range(count)]


def test_a_source_may_send_as_much_as_its_bucket_holds(bpf_program, clock):
    assert actions(bpf_program, 12) == ["XDP_PASS"] * 10 + ["XDP_DROP"] * 2
    assert bpf_program.globals["dropped"] == 2


def test_time_fills_the_bucket_again(bpf_program, clock):
    actions(bpf_program, 10)
    clock.now += SECOND // 2
    assert actions(bpf_program, 6) == ["XDP_PASS"] * 5 + ["XDP_DROP"]


def test_a_full_bucket_does_not_run_over(bpf_program, clock):
    actions(bpf_program, 1)
    clock.now += 3600 * SECOND
    assert actions(bpf_program, 11) == ["XDP_PASS"] * 10 + ["XDP_DROP"]


def test_sources_do_not_disturb_each_other(bpf_program, clock):
    actions(bpf_program, 11)
    assert actions(bpf_program, 1, "192.0.2.2") == ["XDP_PASS"]


def test_the_limits_are_settings(bpf_program, clock):
    bpf_program.globals["capacity"] = 2
    assert actions(bpf_program, 3) == ["XDP_PASS", "XDP_PASS", "XDP_DROP"]


def test_a_dropped_packet_leaves_a_line_in_the_trace(bpf_program, clock):
    actions(bpf_program, 11)
    assert "dropped a packet from 192.0.2.1" in bpf_program.trace[-1]


@pytest.mark.parametrize(("tokens", "waited", "expected"), [(0, 0, 0), (3, 250_000_000, 5), (9, SECOND, 10)])
def test_one_function_can_be_called_by_itself(bpf_object, tokens, waited, expected):
    assert bpf_object["refilled"].call(tokens, waited) == expected


def test_other_protocols_pass(bpf_program, clock):
    assert bpf_program.run(bytes(60)).action == "XDP_PASS"
    assert len(bpf_program.maps["buckets"]) == 0

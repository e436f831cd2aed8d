"""Contexts: where a program finds its packet, and what it may do to it, as Linux says."""

from errno import EACCES, EINVAL

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.bpf.assembler import assemble
from jitlink.bpf.context_fields import SKB_FIELDS, XDP_FIELDS
from jitlink.bpf.contexts import FlatContext, SkbContext, XdpContext
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.instructions import decode
from jitlink.bpf.machine import Code
from jitlink.bpf.regions import Regions
from jitlink.errors import UsageError
from tests.bpf.machines import TIERS, machine_of
from tests.bpf.objects import compiled

PACKET = bytes(range(12)) + bytes.fromhex("0800") + bytes(range(100, 150))
UAPI = """
typedef unsigned char u8; typedef unsigned int u32; typedef unsigned long long u64;
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
struct __sk_buff {
    u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex;
    u32 ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4;
    u32 remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
    u64 flow_keys __attribute__((aligned(8))); u64 tstamp; u32 wire_len, gso_segs;
    u64 sk __attribute__((aligned(8))); u32 gso_size; u8 tstamp_type; u32 : 24; u64 hwtstamp;
};
struct xdp_md one; struct __sk_buff two;
"""


@pytest.fixture(params=TIERS)
def machine(request):
    machine = machine_of(request.param)
    yield machine
    machine.regions.close()


@pytest.fixture
def regions(machine):
    return machine.regions


def run(machine, text, context):
    machine.context = context
    machine.packet_bounds = context.packet_bounds
    return machine.run(Code(decode(assemble(text))), *context.arguments)


@pytest.mark.parametrize(("name", "fields"), [("xdp_md", XDP_FIELDS), ("__sk_buff", SKB_FIELDS)])
def test_fields_lie_where_the_compiler_puts_them(name, fields):
    """Offsets and sizes of the fields are those of the struct in bpf.h as the compiler lays it out."""
    btf = compiled(UAPI).btf
    members = {member.name: member for member in btf[f"struct {name}"].members if member.name}
    assert {field: (member.offset, member.type.size) for field, member in members.items()} == {
        field: (place.offset, place.size * place.count) for field, place in fields.items()
    }
    assert btf[f"struct {name}"].size == {"xdp_md": XdpContext.size, "__sk_buff": SkbContext.size}[name]


@pytest.mark.parametrize("kind", [XdpContext, SkbContext])
def test_the_32_bit_fields_are_working_pointers(machine, kind):
    """A program loads data with a 32-bit load and reads the packet through it, up to data_end and no further."""
    data, end = kind.fields["data"].offset, kind.fields["data_end"].offset
    context = kind(machine.regions, PACKET)
    load = f"r2 = *(u32 *)(r1 + {data})\nr3 = *(u32 *)(r1 + {end})\n"
    assert run(machine, load + "r0 = *(u8 *)(r2 + 13)\nr3 -= r2\nr3 <<= 8\nr0 |= r3\nexit", context) == len(PACKET) << 8
    assert run(machine, load + "r0 = *(u8 *)(r3 - 1)\nexit", context) == PACKET[-1]
    for beyond in ("r0 = *(u8 *)(r3 + 0)", "r0 = *(u8 *)(r2 - 1)", "r0 = *(u16 *)(r3 - 1)"):
        with pytest.raises(BpfFault, match="packet"):
            run(machine, load + beyond + "\nexit", context)


def test_a_program_changes_the_packet_and_it_comes_back(machine):
    """What the program stores into the packet is in its data after the run."""
    context = XdpContext(machine.regions, PACKET)
    run(machine, "r2 = *(u32 *)(r1 + 0)\n*(u8 *)(r2 + 3) = 77\nr0 = 0\nexit", context)
    assert context.data == PACKET[:3] + b"M" + PACKET[4:]


def test_the_legacy_packet_loads_find_the_packet(machine):
    """ld_abs reads the packet in network order, through the context in r6."""
    context = SkbContext(machine.regions, PACKET)
    assert run(machine, "r6 = r1\nr0 = *(u16 *)skb[12]\nexit", context) == 0x0800


def test_struct_xdp_md_cannot_be_written(machine):
    """A store into the context of XDP faults."""
    with pytest.raises(BpfFault, match="xdp_md"):
        run(machine, "*(u32 *)(r1 + 12) = 1\nr0 = 0\nexit", XdpContext(machine.regions, PACKET))


def test_only_some_fields_of_an_skb_may_be_written(machine):
    """mark and cb come back changed; a write to len is told by name."""
    context = SkbContext(machine.regions, PACKET, mark=3, cb=(1, 2, 3, 4, 5))
    run(machine, "*(u32 *)(r1 + 8) = 9\n*(u32 *)(r1 + 52) = 7\nr0 = 0\nexit", context)
    assert (context["mark"], context["cb"], context.forbidden_writes()) == (9, (1, 7, 3, 4, 5), [])
    run(machine, "*(u32 *)(r1 + 0) = 9\nr0 = 0\nexit", context)
    assert context.forbidden_writes() == ["len"]


def test_the_fields_of_an_skb_describe_the_packet(regions):
    """Length, EtherType in network order and devices are those of a test run in the kernel."""
    context = SkbContext(regions, PACKET, byte_order="little")
    assert context["len"] == len(PACKET)
    assert context["protocol"] == 0x0008
    assert SkbContext(regions, PACKET, byte_order="big")["protocol"] == 0x0800
    assert context.values()["ifindex"] == 1


@pytest.mark.parametrize("values", [{"data": 1}, {"nothing": 1}, {"rx_queue_index": -1}, {"rx_queue_index": (1, 2)}])
def test_fields_that_cannot_be_set_are_refused(regions, values):
    """Pointers, unknown fields and values that do not fit raise UsageError."""
    with pytest.raises(UsageError):
        XdpContext(regions, PACKET, **values)


@pytest.mark.parametrize("more", [{"metadata": b"123"}, {"metadata": bytes(256)}, {"head_room": -1}, {"tail_room": -1}])
def test_rooms_that_cannot_be_are_refused(regions, more):
    """Metadata has a multiple of 4 bytes, at most 252; no room is negative."""
    with pytest.raises(UsageError):
        XdpContext(regions, PACKET, **more)


def test_flat_programs_get_address_and_length(machine):
    """r1 is the address of the data, r2 its length, and changes come back; no data has address 0."""
    context = FlatContext(machine.regions, b"hello")
    assert run(machine, "*(u8 *)(r1 + 0) = 74\nr0 = r2\nexit", context) == 5
    assert context.data == b"Jello"
    assert FlatContext(machine.regions, b"").arguments == (0, 0)


class PacketModel:
    """A frame as a list of bytes with positions, after bpf_xdp_adjust_head, _tail and _meta in filter.c."""

    def __init__(self, packet, head_room, tail_room):
        self.frame = bytearray(head_room) + packet + bytearray(tail_room)
        self.start = self.meta = head_room
        self.end = head_room + len(packet)

    def head(self, delta):
        length, start = self.start - self.meta, self.start + delta
        if start < 40 + length or start > self.end - 14:
            return -EINVAL
        self.frame[start - length : start] = bytes(self.frame[self.meta : self.start])
        self.start, self.meta = start, start - length
        return 0

    def tail(self, delta):
        end = self.end + delta
        if end > len(self.frame) or end < self.start + 14:
            return -EINVAL
        if delta > 0:
            self.frame[self.end : end] = bytes(delta)
        self.end = end
        return 0

    def metadata(self, delta):
        meta = self.meta + delta
        if meta < 40 or meta > self.start:
            return -EINVAL
        if (self.start - meta) % 4 or self.start - meta > 252:
            return -EACCES
        self.meta = meta
        return 0


@given(st.lists(st.tuples(st.sampled_from(["head", "tail", "metadata"]), st.integers(-80, 80)), max_size=12))
def test_moving_the_ends_of_a_packet_does_what_the_kernel_does(moves):
    """Codes, packet and metadata agree with a model of the frame, and the pointers always point at the packet."""
    regions = Regions()
    context, model = XdpContext(regions, PACKET, tail_room=100), PacketModel(PACKET, 256, 100)
    actions = {"head": context.adjust_head, "tail": context.adjust_tail, "metadata": context.adjust_meta}
    for action, delta in moves:
        assert actions[action](delta) == getattr(model, action)(delta)
        if context.meta < context.start:
            mark = bytes([delta % 256]) * 4
            context.packet_region.data[:4] = model.frame[model.meta : model.meta + 4] = mark
        assert context.data == model.frame[model.start : model.end]
        assert context.metadata == model.frame[model.meta : model.start]
        assert context["data_end"] - context["data"] == len(context.data)
        assert context["data"] - context["data_meta"] == len(context.metadata)
        assert regions.find(context["data"], len(context.data)) is context.packet_region
    regions.close()


def test_a_closed_context_is_out_of_reach(machine):
    """After close, neither context nor packet are memory of the program."""
    context = XdpContext(machine.regions, PACKET)
    addresses = context.address, context.start
    context.close()
    for address in addresses:
        with pytest.raises(BpfFault):
            machine.read(address, 1)

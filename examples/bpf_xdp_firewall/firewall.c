/* An XDP firewall: drops packets from blocked networks and connections to blocked ports.
 *
 * It needs no headers, so that any clang for BPF compiles it. In a project with libbpf, <linux/bpf.h> and
 * <bpf/bpf_helpers.h> say what stands here above the maps.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum map_type { HASH = 1, ARRAY = 2, LPM_TRIE = 11, RINGBUF = 27 };
enum { NO_PREALLOC = 1 };
enum xdp_action { XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT };

struct xdp_md {
    u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;

struct ethernet {
    u8 destination[6], source[6];
    u16 protocol;
} __attribute__((packed));

struct ipv4 {
    u8 version_and_length, service;
    u16 length, id, fragment;
    u8 time_to_live, protocol;
    u16 checksum;
    u32 source, destination;
} __attribute__((packed));

struct tcp {
    u16 source, destination;
    u32 sequence, acknowledged;
    u8 offset, flags;
    u16 window, checksum, urgent;
} __attribute__((packed));

#define IPV4 __builtin_bswap16(0x0800)
enum { TCP = 6, SYN = 2, ACK = 16 };

enum reason { PASSED, MALFORMED, NETWORK, PORT, REASONS };

struct network {
    u32 bits;
    u32 address;
};

struct event {
    u32 source;
    u16 port;
    u8 reason;
};

struct {
    __uint(type, LPM_TRIE);
    __uint(max_entries, 1024);
    __uint(map_flags, NO_PREALLOC);
    __type(key, struct network);
    __type(value, u8);
} blocked_networks SEC(".maps");

struct {
    __uint(type, HASH);
    __uint(max_entries, 256);
    __type(key, u16);
    __type(value, u8);
} blocked_ports SEC(".maps");

struct {
    __uint(type, ARRAY);
    __uint(max_entries, REASONS);
    __type(key, u32);
    __type(value, u64);
} packets SEC(".maps");

struct {
    __uint(type, RINGBUF);
    __uint(max_entries, 4096);
    __type(value, struct event);
} events SEC(".maps");

/* A setting: user space may change it before the program is loaded. */
const volatile u8 report_events = 1;

static int finish(u32 reason, u32 source, u16 port)
{
    u64 *count = map_lookup(&packets, &reason);
    if (count)
        (*count)++;
    if (reason == PASSED)
        return XDP_PASS;
    if (report_events) {
        struct event event = {};
        event.source = source;
        event.port = port;
        event.reason = (u8)reason;
        ringbuf_output(&events, &event, sizeof event, 0);
    }
    return XDP_DROP;
}

SEC("xdp")
int xdp_firewall(struct xdp_md *context)
{
    void *end = (void *)(long)context->data_end;
    struct ethernet *ethernet = (void *)(long)context->data;
    if ((void *)(ethernet + 1) > end)
        return finish(MALFORMED, 0, 0);
    if (ethernet->protocol != IPV4)
        return finish(PASSED, 0, 0);

    struct ipv4 *ip = (void *)(ethernet + 1);
    if ((void *)(ip + 1) > end || ip->version_and_length >> 4 != 4)
        return finish(MALFORMED, 0, 0);
    struct network source = {.bits = 32, .address = ip->source};
    if (map_lookup(&blocked_networks, &source))
        return finish(NETWORK, ip->source, 0);
    if (ip->protocol != TCP)
        return finish(PASSED, 0, 0);

    struct tcp *tcp = (void *)ip + (ip->version_and_length & 15) * 4;
    if ((void *)(tcp + 1) > end)
        return finish(MALFORMED, ip->source, 0);
    u16 port = __builtin_bswap16(tcp->destination);
    if ((tcp->flags & (SYN | ACK)) == SYN && map_lookup(&blocked_ports, &port))
        return finish(PORT, ip->source, port);
    return finish(PASSED, 0, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";

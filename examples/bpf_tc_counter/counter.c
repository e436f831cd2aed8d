/* A packet counter for the traffic control: packets and bytes of every flow, and a mark for big ones. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum map_type { HASH = 1, PERCPU_ARRAY = 6 };
enum { TC_ACT_OK = 0 };

struct __sk_buff {
    u32 len, pkt_type, mark, queue_mapping, protocol;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const load_bytes)(const void *skb, u32 offset, void *to, u32 length) = (void *)26;

struct flow {
    u32 source, destination;
    u16 source_port, destination_port;
    u32 protocol;
};

struct traffic {
    u64 packets, bytes;
};

struct {
    __uint(type, HASH);
    __uint(max_entries, 10240);
    __type(key, struct flow);
    __type(value, struct traffic);
} flows SEC(".maps");

struct {
    __uint(type, PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, u32);
    __type(value, struct traffic);
} total SEC(".maps");

const volatile u64 big_flow = 1 << 20;
u64 not_ip;

struct ipv4 {
    u8 version_and_length, service;
    u16 length, id, fragment;
    u8 time_to_live, protocol;
    u16 checksum;
    u32 source, destination;
};

enum { ETHERNET = 14, TCP = 6, UDP = 17, BIG = 1 };

static void add(struct traffic *traffic, u32 bytes)
{
    traffic->packets++;
    traffic->bytes += bytes;
}

SEC("tc")
int count_packets(struct __sk_buff *skb)
{
    u32 zero = 0;
    struct traffic *all = map_lookup(&total, &zero);
    if (all)
        add(all, skb->len);

    struct ipv4 ip;
    if (skb->protocol != __builtin_bswap16(0x0800) || load_bytes(skb, ETHERNET, &ip, sizeof ip)) {
        not_ip++;
        return TC_ACT_OK;
    }
    struct flow flow = {.source = ip.source, .destination = ip.destination, .protocol = ip.protocol};
    if (ip.protocol == TCP || ip.protocol == UDP)
        load_bytes(skb, ETHERNET + (ip.version_and_length & 15) * 4, &flow.source_port, 4);

    struct traffic *known = map_lookup(&flows, &flow);
    if (known) {
        add(known, skb->len);
        if (known->bytes > big_flow)
            skb->mark = BIG;
    } else {
        struct traffic first = {1, skb->len};
        map_update(&flows, &flow, &first, 0);
    }
    return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";

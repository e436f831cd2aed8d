/* A rate limiter: every source address has a bucket of tokens, a packet takes one, time brings new ones. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum map_type { LRU_HASH = 9 };
enum xdp_action { XDP_ABORTED, XDP_DROP, XDP_PASS };

struct xdp_md {
    u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*const ktime_get_ns)(void) = (void *)5;
static long (*const trace_printk)(const char *format, u32 size, ...) = (void *)6;

struct bucket {
    u64 tokens;
    u64 filled_at;
};

struct {
    __uint(type, LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, u32);
    __type(value, struct bucket);
} buckets SEC(".maps");

const volatile u64 capacity = 10;
const volatile u64 nanoseconds_per_token = 100 * 1000 * 1000;
u64 dropped;

enum { ETHERNET = 14, SOURCE = 12, IPV4_HEADER = 20 };

/* A function of its own: BPF calls it, and a unit test can as well. */
__attribute__((noinline)) u64 refilled(u64 tokens, u64 waited)
{
    tokens += nanoseconds_per_token ? waited / nanoseconds_per_token : 0;
    return tokens < capacity ? tokens : capacity;
}

SEC("xdp")
int limit(struct xdp_md *context)
{
    u8 *packet = (void *)(long)context->data;
    if (packet + ETHERNET + IPV4_HEADER > (u8 *)(long)context->data_end)
        return XDP_PASS;
    if (*(u16 *)(packet + 12) != __builtin_bswap16(0x0800))
        return XDP_PASS;
    u32 source = *(u32 *)(packet + ETHERNET + SOURCE);

    u64 now = ktime_get_ns();
    struct bucket *bucket = map_lookup(&buckets, &source);
    if (!bucket) {
        struct bucket full = {capacity - 1, now};
        map_update(&buckets, &source, &full, 0);
        return XDP_PASS;
    }
    u64 tokens = refilled(bucket->tokens, now - bucket->filled_at);
    if (tokens != bucket->tokens)
        bucket->filled_at = now;
    if (!tokens) {
        static const char format[] = "dropped a packet from %pI4\n";
        trace_printk(format, sizeof format, &source);
        dropped++;
        return XDP_DROP;
    }
    bucket->tokens = tokens - 1;
    return XDP_PASS;
}

char _license[] SEC("license") = "GPL";

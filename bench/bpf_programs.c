/* The programs that bench/bpf.py runs natively and as BPF: one function each, over a buffer.

   Every function is called with the address and the size of the buffer (65,536 bytes) and returns a
   checksum, so that all ways of running it can be compared. They are compiled from this one source.

   What counts in a map has a table of the same make natively: chains over arrays, the key hashed by one
   multiplication (see jitlink.bpf.maps.hashes). */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef __BPF__
#define PROGRAM(name) __attribute__((section("prog/" #name), used)) u64 name(u8 *data, u64 size)
#else
#define PROGRAM(name) u64 name(u8 *data, u64 size)
#endif
#define NOINLINE __attribute__((noinline))

/* 32-bit modulo. */
PROGRAM(primes) {
    u32 count = 0;
    for (u32 n = 2; n < 6000; n++) {
        u32 divisor = 2;
        for (; divisor * divisor <= n; divisor++)
            if (n % divisor == 0)
                break;
        count += divisor * divisor > n;
    }
    return count;
}

/* Copy the first half of the buffer to the second, and add up what was copied. */
PROGRAM(copy) {
    u64 *from = (u64 *)data, *to = (u64 *)(data + size / 2), sum = 0;
    for (u64 round = 0; round < 8; round++)
        for (u64 i = 0; i < size / 16; i++) {
            to[i] = from[i] + round;
            sum += to[i];
        }
    return sum;
}

static NOINLINE u32 jhash(const u8 *key, u32 length) {
    u32 a = 0xdeadbeef + length, b = a, c = a;
    for (; length >= 12; length -= 12, key += 12) {
        a += *(const u32 *)key;
        b += *(const u32 *)(key + 4);
        c += *(const u32 *)(key + 8);
        a -= c; a ^= c << 4 | c >> 28; c += b;
        b -= a; b ^= a << 6 | a >> 26; a += c;
        c -= b; c ^= b << 8 | b >> 24; b += a;
        a -= c; a ^= c << 16 | c >> 16; c += b;
        b -= a; b ^= a << 19 | a >> 13; a += c;
        c -= b; c ^= b << 4 | b >> 28; b += a;
    }
    return c;
}

PROGRAM(hashes) {
    u64 fnv = 0xcbf29ce484222325;
    for (u64 i = 0; i < size; i++)
        fnv = (fnv ^ data[i]) * 0x100000001b3;
    return fnv ^ jhash(data, size);
}

/* 32 x 32 matrices of 32-bit numbers, at 0, 4096 and 8192. */
PROGRAM(matrix) {
    u32 *a = (u32 *)data, *b = (u32 *)(data + 4096), *c = (u32 *)(data + 8192);
    u64 sum = 0;
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 32; j++) {
            u32 value = 0;
            for (int k = 0; k < 32; k++)
                value += a[i * 32 + k] * b[k * 32 + j];
            c[i * 32 + j] = value;
            sum += value;
        }
    return sum;
}

/* Words, numbers and the rest, byte by byte. */
PROGRAM(tokens) {
    u64 words = 0, numbers = 0, others = 0, state = 0;
    for (u64 i = 0; i < size; i++) {
        u8 byte = data[i];
        if ((byte | 32) >= 'a' && (byte | 32) <= 'z') {
            words += state != 1;
            state = 1;
        } else if (byte >= '0' && byte <= '9') {
            numbers += state == 0;
            state = state ? state : 2;
        } else {
            others++;
            state = 0;
        }
    }
    return words << 40 | numbers << 20 | others;
}

#define STEP(name, next) static NOINLINE u64 name(u64 x) { return next(x * 3 + 1) ^ x; }
static NOINLINE u64 deepest(u64 x) { return x >> 1; }
STEP(step6, deepest)
STEP(step5, step6)
STEP(step4, step5)
STEP(step3, step4)
STEP(step2, step3)
STEP(step1, step2)

PROGRAM(calls) {
    u64 x = size;
    for (int i = 0; i < 5000; i++)
        x += step1(x);
    return x;
}

PROGRAM(divisions) {
    u64 x = 0x123456789abcdef, sum = 0;
    for (u64 i = 1; i < 20000; i++) {
        sum += x / (i | 1);
        x = x * 6364136223846793005 + 1442695040888963407 + sum % i;
    }
    return sum;
}

/* Ethernet, IPv4 and UDP or TCP headers of 512 packets of 128 bytes. */
PROGRAM(packets) {
    u64 counts = 0;
    for (u64 round = 0; round < 8; round++)
        for (u64 at = 0; at + 128 <= size; at += 128) {
            u8 *packet = data + at, *end = packet + 128;
            if (packet + 34 > end || *(u16 *)(packet + 12) != 0x0008)
                continue;
            u32 header = (packet[14] & 15) * 4;
            u8 *transport = packet + 14 + header;
            if (header < 20 || transport + 8 > end)
                continue;
            u16 port = *(u16 *)(transport + 2);
            if (packet[23] == 17)
                counts += port & 0xff;
            else if (packet[23] == 6)
                counts += (u64)(port >> 8) << 32;
            counts ^= *(u32 *)(packet + 26);
        }
    return counts;
}

#define KEYS 1024
#ifdef __BPF__
struct map { u32 type, key_size, value_size, max_entries, flags; };
__attribute__((section("maps"), used)) struct map table = {1, 4, 8, KEYS, 0};
#ifdef __clang__
#define HELPER(number, result, name, ...) static result (*const name)(__VA_ARGS__) = (void *)number
#else
#define HELPER(number, result, name, ...) result name(__VA_ARGS__) __attribute__((kernel_helper(number)))
#endif
HELPER(1, u64 *, map_lookup, struct map *, const u32 *);
HELPER(2, long, map_update, struct map *, const u32 *, const u64 *, u64);
HELPER(3, long, map_delete, struct map *, const u32 *);
#define LOOKUP(key) map_lookup(&table, &key)
#define UPDATE(key, value) map_update(&table, &key, &value, 0)
#define DELETE(key) map_delete(&table, &key)
#else
static u64 values[KEYS + 1];
static u32 keys[KEYS + 1], next[KEYS + 1], heads[KEYS], free_entry, used;

static u32 *bucket(u32 key) { return &heads[key * 0x9e3779b97f4a7c15 >> 54]; }
static u64 *find(u32 key) {
    u32 entry = *bucket(key);
    while (entry && keys[entry] != key)
        entry = next[entry];
    return entry ? &values[entry] : 0;
}
static NOINLINE u64 *LOOKUP(u32 key) { return find(key); }
static NOINLINE long UPDATE(u32 key, u64 value) {
    u64 *there = find(key);
    if (there) {
        *there = value;
        return 0;
    }
    u32 entry = free_entry ? free_entry : used < KEYS ? ++used : 0, *head = bucket(key);
    if (!entry)
        return -7;
    free_entry = free_entry ? next[entry] : 0;
    keys[entry] = key, values[entry] = value, next[entry] = *head;
    *head = entry;
    return 0;
}
static NOINLINE long DELETE(u32 key) {
    u32 *link = bucket(key);
    while (*link && keys[*link] != key)
        link = &next[*link];
    u32 entry = *link;
    if (!entry)
        return -2;
    *link = next[entry];
    next[entry] = free_entry;
    free_entry = entry;
    return 0;
}

/* Call a function on each of many packets, for machines that have no loop of their own for it. */
u64 call_each(u64 (*function)(u8 *), u8 *packets, u64 size, u64 count) {
    u64 sum = 0;
    for (u64 i = 0; i < count; i++)
        sum += function(packets + i * size);
    return sum;
}
#endif

/* How often each word occurs, of which 1,024 are told apart; after the eighth time it is forgotten. */
PROGRAM(counter) {
    u64 sum = 0, one = 1;
    for (u64 at = 0; at + 4 <= size; at += 4) {
        u32 key = (*(u32 *)(data + at) ^ (u32)at) * 2654435761u >> 22;
        u64 *count = LOOKUP(key);
        if (!count)
            UPDATE(key, one);
        else if (++*count == 8)
            sum += DELETE(key) + key;
    }
    return sum;
}

/* One operation of the map in each of as many rounds as the buffer has words. */
PROGRAM(lookups) {
    u64 sum = 0, one = 1;
    for (u32 key = 0; key < KEYS; key++)
        UPDATE(key, one);
    for (u64 round = 0; round < size / 4; round++) {
        u32 key = round & (KEYS - 1);
        u64 *value = LOOKUP(key);
        if (value)
            sum += ++*value;
    }
    return sum;
}

PROGRAM(updates) {
    u64 sum = 0;
    for (u64 round = 0; round < size / 4; round++) {
        u32 key = round & (KEYS - 1);
        sum += UPDATE(key, round);
    }
    return sum;
}

/* A deletion and an insertion in each round. */
PROGRAM(deletes) {
    u64 sum = 0, one = 1;
    for (u32 key = 0; key < KEYS; key++)
        UPDATE(key, one);
    for (u64 round = 0; round < size / 4; round++) {
        u32 key = round & (KEYS - 1);
        sum += DELETE(key);
        sum += UPDATE(key, round);
    }
    return sum;
}

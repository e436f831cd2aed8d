#include "common.h"

struct small { int a; float b; };
struct pair { double x, y; };
struct large { long long numbers[5]; double last; };

struct small other_small(struct small value, int by);
struct pair other_pair(struct pair one, struct pair other);
struct large other_large(struct large value, struct small by);

struct bits { unsigned a : 5, b : 11; signed c : 9; u64 d : 40; };

static NOINLINE struct bits packed(unsigned a, unsigned b, int c, u64 d) {
    struct bits value = {a, b, c, d};
    return value;
}

PROGRAM(structures) {
    struct small small = other_small((struct small){3, 0.5f}, 4);
    struct pair pair = other_pair((struct pair){1.5, -2}, (struct pair){0.25, 8});
    struct large large = other_large((struct large){{1, 2, 3, 4, 5}, 0.125}, small);
    struct bits bits = packed(37, 2049, -200, 1ull << 39 | 5);
    u64 hash = mixed_double(mixed(11, (u64)small.a), small.b);
    hash = mixed_double(mixed_double(hash, pair.x), pair.y);
    for (int i = 0; i < 5; i++) hash = mixed(hash, (u64)large.numbers[i]);
    hash = mixed(mixed_double(hash, large.last), bits.a + bits.b);
    return mixed(mixed(hash, (u64)(long long)bits.c), bits.d);
}

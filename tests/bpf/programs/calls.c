/* Static and global functions, variables of every section, recursion to a small depth. */
typedef unsigned int u32;
typedef unsigned long long u64;

#define NOINLINE __attribute__((noinline))

int weight = 5;
static u64 calls;
static const u32 table[8] = {2, 3, 5, 7, 11, 13, 17, 19};
const volatile u32 limit = 100;
static u64 history[4] = {1, 2, 3, 4};

NOINLINE static u64 scaled(u64 x, u32 by)
{
    calls++;
    history[calls & 3] += x;
    return x * table[by & 7] + (u64)weight;
}

NOINLINE u64 shared(u64 x) { return scaled(x, (u32)x) ^ limit; }

NOINLINE static u64 depth(u64 n, u64 x) { return n ? depth(n - 1, shared(x)) + n : x; }

u64 called(u64 a, u64 b)
{
    u64 result = depth(b % 5, a);
    weight = (int)(weight * 3 + 1) & 0xffff;
    return result + history[a & 3] + calls;
}

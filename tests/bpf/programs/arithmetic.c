/* Integer arithmetic of every width and sign. BPF has no signed division before v4: none here divides signed. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;

static u64 rotate(u64 x, u32 by) { return x << (by & 63) | x >> (-by & 63); }

u64 mixed(u64 a, u64 b)
{
    u64 h = 0x9e3779b97f4a7c15ull;
    for (u32 i = 0; i < 17; i++) {
        h ^= rotate(a + i, i) * (b | 1);
        h += (s64)(s8)a * (s16)b - (u16)h;
        h -= (s32)b >> (i & 31);
        h ^= (u32)a >> (i & 31);
        h = h % 3 ? h : ~h;
        h += a / (b | 1) + (u32)a / ((u32)b | 1) + (u32)b % ((u32)a | 1);
        a += 0x0123456789abcdefull;
    }
    return h;
}

u64 compared(s64 a, s64 b)
{
    u64 bits = 0;
    bits = bits << 1 | (a < b);
    bits = bits << 1 | ((u64)a < (u64)b);
    bits = bits << 1 | ((s32)a < (s32)b);
    bits = bits << 1 | ((u32)a < (u32)b);
    bits = bits << 1 | (a <= b);
    bits = bits << 1 | ((s8)a >= (s8)b);
    bits = bits << 1 | ((u64)a > 0x7fffffffull);
    bits = bits << 1 | ((a & b) != 0);
    bits = bits << 1 | (a == (s32)a);
    return bits << 1 | ((u16)a == (u16)b);
}

u64 swapped(u64 a, u64 b)
{
    return __builtin_bswap64(a) ^ __builtin_bswap32((u32)b) ^ (u64)__builtin_bswap16((u16)(a + b)) << 20;
}

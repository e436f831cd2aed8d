/* What all programs use: a hash of what they have computed, so that one number tells two builds apart. */
typedef unsigned long long u64;
typedef __SIZE_TYPE__ size_type;

static inline u64 mixed(u64 hash, u64 value) {
    hash ^= value + 0x9e3779b97f4a7c15ull + (hash << 6) + (hash >> 2);
    return hash * 0xff51afd7ed558ccdull;
}

static inline u64 mixed_double(u64 hash, double value) {
    union { double number; u64 bits; } both = {value};
    return mixed(hash, both.bits);
}

#define PROGRAM(name) u64 check_##name(void)
#define NOINLINE __attribute__((noinline))

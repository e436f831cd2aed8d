/* Stack arrays, structs, pointers and loops that the compiler cannot see through. */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

struct node {
    u32 next;
    u8 small;
    u64 value;
};

u64 sorted(u64 seed, u64 unused)
{
    u32 numbers[16];
    for (int i = 0; i < 16; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        numbers[i] = (u32)(seed >> 33);
    }
    for (int i = 1; i < 16; i++)
        for (int j = i; j > 0 && numbers[j - 1] > numbers[j]; j--) {
            u32 held = numbers[j];
            numbers[j] = numbers[j - 1];
            numbers[j - 1] = held;
        }
    u64 sum = unused & 1;
    for (int i = 0; i < 16; i++)
        sum = sum * 31 + numbers[i];
    return sum;
}

u64 walked(u64 a, u64 b)
{
    struct node nodes[8];
    for (u32 i = 0; i < 8; i++) {
        nodes[i].next = (u32)(a >> (i * 3)) & 7;
        nodes[i].small = (u8)(b >> (i * 8));
        nodes[i].value = a ^ b * i;
    }
    u64 sum = 0;
    u32 at = (u32)b & 7;
    for (int step = 0; step < 20; step++) {
        struct node *node = &nodes[at];
        sum = sum * 7 + node->value + node->small;
        node->small++;
        at = node->next;
    }
    return sum;
}

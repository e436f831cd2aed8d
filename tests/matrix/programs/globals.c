#include "common.h"

int global_counter = 7;
static long long hidden_total = -5;
int global_zero;
const int global_constant = 1234567;
static unsigned char flags[3] = {1, 2, 255};
extern int other_counter;
extern const char *const other_names[];
extern int other_zeroes[1000];

static NOINLINE int next(void) {
    static int state = 11;
    state = state * 29 + 1;
    return state & 0x7fff;
}

PROGRAM(globals) {
    u64 hash = 2;
    global_counter = 7;
    hidden_total = -5;
    for (int i = 0; i < 10; i++) {
        global_counter += i;
        hidden_total += global_counter * 3 + flags[i % 3];
        other_counter = global_counter ^ i;
        hash = mixed(hash, (u64)other_counter);
    }
    int first = next(), second = next();
    hash = mixed(hash, (u64)(second == ((first * 29 + 1) & 0x7fff) || first < 0));
    hash = mixed(hash, (u64)hidden_total);
    hash = mixed(hash, (u64)(global_zero + global_constant + other_zeroes[999]));
    for (const char *letter = other_names[2]; *letter; letter++) hash = mixed(hash, (u64)*letter);
    return hash;
}

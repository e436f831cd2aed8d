#include "common.h"

#define SIDE 300
static int matrix[SIDE][SIDE];
static unsigned char initialised[70000] = {[0] = 3, [65535] = 7, [69999] = 9};
extern int other_zeroes[1000];

static NOINLINE void fill(int seed) {
    for (int row = 0; row < SIDE; row += 37)
        for (int column = 0; column < SIDE; column += 29) matrix[row][column] = seed + row * column;
}

static NOINLINE long long diagonal(void) {
    long long total = 0;
    for (int i = 0; i < SIDE; i++) total += matrix[i][i] + matrix[i][SIDE - 1 - i];
    return total;
}

PROGRAM(arrays) {
    u64 hash = 8;
    int local[6000]; /* more than a page: Windows probes the stack */
    fill(17);
    hash = mixed(hash, (u64)diagonal());
    for (int i = 0; i < 6000; i++) local[i] = i * i;
    for (int i = 0; i < 6000; i += 411) hash = mixed(hash, (u64)local[(i * 7) % 6000]);
    other_zeroes[500] = 12;
    hash = mixed(hash, (u64)(other_zeroes[500] + initialised[65535] * 10 + initialised[69999] + initialised[0]));
    other_zeroes[500] = 0;
    return hash;
}

#include "common.h"

static NOINLINE unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

static NOINLINE unsigned ackermann(unsigned m, unsigned n) {
    if (!m) return n + 1;
    return n ? ackermann(m - 1, ackermann(m, n - 1)) : ackermann(m - 1, 1);
}

int other_is_odd(unsigned n);
int is_even(unsigned n) { return n ? other_is_odd(n - 1) : 1; }

static NOINLINE int solve(int queens, int row, unsigned columns, unsigned left, unsigned right) {
    if (row == queens) return 1;
    int found = 0;
    for (int column = 0; column < queens; column++) {
        unsigned bit = 1u << column;
        if (columns & bit || left & bit || right & bit) continue;
        found += solve(queens, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return found;
}

PROGRAM(recursion) {
    u64 hash = mixed(7, fibonacci(12));
    hash = mixed(hash, ackermann(2, 5));
    hash = mixed(hash, (u64)(is_even(40) * 2 + is_even(21)));
    return mixed(hash, (u64)solve(6, 0, 0, 0, 0));
}

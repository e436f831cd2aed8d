#include "common.h"

typedef int operation(int, int);
static NOINLINE int plus(int a, int b) { return a + b; }
static NOINLINE int minus(int a, int b) { return a - b; }
operation other_times;
operation *other_choose(int which);
void qsort(void *, size_type, size_type, int (*)(const void *, const void *));

static operation *const operations[] = {plus, minus, other_times};
static operation *current = minus;

static NOINLINE int fold(operation *function, const int *numbers, int count) {
    int value = numbers[0];
    for (int i = 1; i < count; i++) value = function(value, numbers[i]);
    return value;
}

static int descending(const void *a, const void *b) {
    int one = *(const int *)a, other = *(const int *)b;
    return (one < other) - (one > other);
}

PROGRAM(functions) {
    int numbers[] = {9, -4, 33, 2, 17, 0, -25, 8};
    u64 hash = 10;
    for (int i = 0; i < 3; i++) hash = mixed(hash, (u64)(long long)fold(operations[i], numbers, 5));
    hash = mixed(hash, (u64)(long long)current(5, 9));
    hash = mixed(hash, (u64)(other_choose(1) == other_times) + 2 * (u64)(other_choose(0) == 0));
    hash = mixed(hash, (u64)(long long)other_choose(1)(6, 7));
    qsort(numbers, 8, sizeof numbers[0], descending);
    for (int i = 0; i < 8; i++) hash = mixed(hash, (u64)(long long)numbers[i]);
    return hash;
}

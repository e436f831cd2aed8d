#include "common.h"

static NOINLINE int dispatch(int operation, int a, int b) {
    switch (operation) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return b ? a / b : -1;
    case 4: return a ^ b;
    case 5: return a << (b & 7);
    case 6: return a >> (b & 7);
    case 7: return a & b;
    case 8: return a | b;
    case 9: return b ? a % b : -2;
    case 12: return 1000 - a;
    case 100: return 7;
    default: return 42 + a;
    }
}

static NOINLINE const char *name_of(unsigned day) {
    switch (day) {
    case 0: return "Monday";
    case 1: return "Tuesday";
    case 2: return "Wednesday";
    case 3: return "Thursday";
    case 4: return "Friday";
    case 5: return "Saturday";
    case 6: return "Sunday";
    }
    return "never";
}

static NOINLINE int interpret(const unsigned char *code) {
    static void *const targets[] = {&&stop, &&push, &&add, &&multiply, &&duplicate};
    int stack[8], *top = stack;
    goto *targets[*code++];
push:
    *top++ = *code++;
    goto *targets[*code++];
add:
    top--;
    top[-1] += *top;
    goto *targets[*code++];
multiply:
    top--;
    top[-1] *= *top;
    goto *targets[*code++];
duplicate:
    *top = top[-1];
    top++;
    goto *targets[*code++];
stop:
    return top[-1];
}

PROGRAM(switches) {
    static const unsigned char code[] = {1, 5, 4, 3, 1, 7, 2, 4, 3, 0};
    u64 hash = 4;
    for (int operation = -1; operation < 14; operation++) hash = mixed(hash, (u64)(long long)dispatch(operation, 1000, 7));
    hash = mixed(hash, (u64)dispatch(100, 1, 1));
    for (unsigned day = 0; day < 8; day++)
        for (const char *letter = name_of(day); *letter; letter++) hash = mixed(hash, (u64)*letter);
    return mixed(hash, (u64)interpret(code));
}

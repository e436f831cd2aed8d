/* The other object: what the programs in the first one refer to. */
#include "../common.h"

typedef __builtin_va_list va_list;

int other_counter;
int other_zeroes[1000];
const char *const other_names[] = {"zero", "one", "two and more"};
int other_numbers[4] = {-1, -2, -3, -4};

int other_negated(int x) { return -x; }

double other_scaled(double value, float by, int times) {
    for (int i = 0; i < times; i++) value = value * by + 1;
    return value;
}

double other_total(const char *kinds, ...) {
    va_list list;
    double total = 0;
    __builtin_va_start(list, kinds);
    for (; *kinds; kinds++) {
        total *= 1.5;
        if (*kinds == 'i') total += __builtin_va_arg(list, int);
        if (*kinds == 's') total += (double)__builtin_va_arg(list, long long);
        if (*kinds == 'd') total += __builtin_va_arg(list, double);
    }
    __builtin_va_end(list);
    return total;
}

int is_even(unsigned n);
int other_is_odd(unsigned n) { return n ? is_even(n - 1) : 0; }

int weak_here(void) { return 2; }
__attribute__((weak)) int strong_here(void) { return 8; }
__attribute__((weak)) int weak_there(void) { return 64; }

__attribute__((common)) int common_number;
__attribute__((common)) int common_array[16];
int *other_common_number(void) { return &common_number; }
int other_common_sum(void) {
    int total = 0;
    for (int i = 0; i < 16; i++) total += common_array[i];
    return total;
}

int other_times(int a, int b) { return a * b; }
typedef int operation(int, int);
operation *other_choose(int which) { return which ? other_times : 0; }

struct small { int a; float b; };
struct pair { double x, y; };
struct large { long long numbers[5]; double last; };

struct small other_small(struct small value, int by) { return (struct small){value.a * by, value.b / (float)by}; }
struct pair other_pair(struct pair one, struct pair other) { return (struct pair){one.x * other.y, one.y - other.x}; }
struct large other_large(struct large value, struct small by) {
    for (int i = 0; i < 5; i++) value.numbers[i] *= by.a + i;
    value.last += by.b;
    return value;
}

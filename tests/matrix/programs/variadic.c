#include "common.h"

typedef __builtin_va_list va_list;
int snprintf(char *, size_type, const char *, ...);
int vsnprintf(char *, size_type, const char *, va_list);
size_type strlen(const char *);
double other_total(const char *kinds, ...);

static NOINLINE long long sum(int count, ...) {
    va_list list;
    long long total = 0;
    __builtin_va_start(list, count);
    for (int i = 0; i < count; i++) total = total * 3 + __builtin_va_arg(list, int);
    __builtin_va_end(list);
    return total;
}

static NOINLINE int format(char *to, size_type size, const char *text, ...) {
    va_list list;
    __builtin_va_start(list, text);
    int written = vsnprintf(to, size, text, list);
    __builtin_va_end(list);
    return written;
}

PROGRAM(variadic) {
    u64 hash = 6;
    char text[128];
    hash = mixed(hash, (u64)sum(3, 1, -2, 3));
    hash = mixed(hash, (u64)sum(12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -12));
    hash = mixed_double(hash, other_total("idsdidsdidsdidsd", 1, 2.5, 3LL, 4.25, 5, 6.5, 7LL, 8.75, 9, 10.5, 11LL, 12.5, 13,
        14.5, -15LL, 16.125));
    int lengths[2];
    lengths[0] = snprintf(text, sizeof text, "%d %s %.3f %c %lld|%5x|%-4u|", -42, "text", 2.5, 'y', -1234567890123LL, 255u, 7u);
    for (size_type i = 0; i < strlen(text); i++) hash = mixed(hash, (u64)text[i]);
    lengths[1] = format(text, 20, "%g %d %g %d %g %d %g %d %g %d %g %d", 1.5, 1, 2.5, 2, 3.5, 3, 4.5, 4, 5.5, 5, 6.5, 6);
    for (size_type i = 0; i < strlen(text); i++) hash = mixed(hash, (u64)text[i]);
    return mixed(mixed(hash, (u64)lengths[0]), (u64)lengths[1]);
}

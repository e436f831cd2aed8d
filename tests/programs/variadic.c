/* Variable arguments, our own and those of the C library; the library's functions come from the process. */

int snprintf(char *, unsigned long, const char *, ...);
int vsnprintf(char *, unsigned long, const char *, __builtin_va_list);
unsigned long strlen(const char *);

static long sum_of(int count, ...) {
    __builtin_va_list arguments;
    long sum = 0;
    __builtin_va_start(arguments, count);
    for (int i = 0; i < count; i++)
        sum = sum * 3 + (i & 1 ? (long)__builtin_va_arg(arguments, double) : __builtin_va_arg(arguments, long));
    __builtin_va_end(arguments);
    return sum;
}

static int printed(char *text, unsigned long size, const char *format, ...) {
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    int length = vsnprintf(text, size, format, arguments);
    __builtin_va_end(arguments);
    return length;
}

static long hash_of(const char *text) {
    unsigned hash = 7;
    for (unsigned long i = 0; i < strlen(text); i++)
        hash = hash * 31 + (unsigned char)text[i];
    return (long)hash;
}

long check_own_variable_arguments(long n) {
    return sum_of(12, n, 2.0, n + 3, 4.0, 5L, 6.0, 7L, 8.0, 9L, 10.0, 11L, (double)n);
}

long check_snprintf(long n) {
    char text[128];
    int length = snprintf(text, sizeof text, "%ld %s %5.2f %c %#lx %lld", n, "text", (double)n / 4, 'x', 255L, -1LL);
    return hash_of(text) * 131 + length;
}

long check_passed_on_arguments(long n) {
    char text[64];
    int length = printed(text, sizeof text, "<%ld|%g|%s>", n, 0.5, "passed on");
    return hash_of(text) + length;
}

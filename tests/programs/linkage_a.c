/* Two objects, this one and linkage_b.c: calls, data, weak and common symbols from one to the other. */

long answer(long);
long other_object(long);
extern long shared_counter;
extern long table_of_other[4];
extern long (*function_of_other)(long);
long tentative;
long absent(long) __attribute__((weak));
extern long absent_variable __attribute__((weak));
__attribute__((weak)) long overridden(long n) { return n; }
__attribute__((weak)) long kept_as_weak(long n) { return n * 17; }
__attribute__((visibility("hidden"))) long hidden_here = 21;
static long static_of_same_name = 4;

long answer(long n) { return n + hidden_here * 2; }

static long twice(long n) { return 2 * n + static_of_same_name; }
long (*function_of_first)(long) = twice;
long *const pointer_to_shared = &shared_counter;

long check_calls_to_the_other_object(long n) { return other_object(n) + function_of_other(n) * 3; }

long check_data_of_the_other_object(long n) {
    shared_counter = n;
    *pointer_to_shared += 5;
    return shared_counter * 7 + table_of_other[n & 3];
}

long check_weak_symbols(long n) {
    long present = absent ? absent(n) : 100;
    return present + overridden(n) * 1000 + kept_as_weak(n) + (&absent_variable ? 1 : 0);
}

long check_tentative_definition(long n) {
    tentative = n;
    return other_object(n) + tentative;
}

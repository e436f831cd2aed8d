/* The other object of linkage_a.c. */

long answer(long);
extern long (*function_of_first)(long);
long shared_counter = 1;
extern long tentative;
long overridden(long n) { return n * 2 + 1; }
static long static_of_same_name = 40;

static long triple(long n) { return 3 * n + static_of_same_name; }
long (*function_of_other)(long) = triple;
long table_of_other[4] = {2, 3, 5, 7};

long other_object(long n) {
    tentative += 1;
    return answer(n) - function_of_first(n) + overridden(n);
}

long check_calls_to_the_first_object(long n) { return other_object(n) * 5 + shared_counter * 0; }

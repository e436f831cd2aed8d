/* Recursion, mutual recursion, and calls back out of the C library. */

void qsort(void *, unsigned long, unsigned long, int (*)(const void *, const void *));

static int is_odd(unsigned n);
static int is_even(unsigned n) { return n == 0 ? 1 : is_odd(n - 1); }
static int is_odd(unsigned n) { return n == 0 ? 0 : is_even(n - 1); }

__attribute__((noinline)) long ackermann(long m, long n) {
    if (m == 0)
        return n + 1;
    if (n == 0)
        return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

static int descending(const void *a, const void *b) {
    long left = *(const long *)a, right = *(const long *)b;
    return left < right ? 1 : left > right ? -1 : 0;
}

static unsigned moves;
static void move_tower(int height, int from, int to, int over) {
    if (!height)
        return;
    move_tower(height - 1, from, over, to);
    moves = moves * 3 + (unsigned)(from * 7 + to);
    move_tower(height - 1, over, to, from);
}

long check_ackermann(long n) { return ackermann(2, n & 15); }

long check_mutual_recursion(long n) { return is_even((unsigned)(n & 255)) * 2 + is_odd((unsigned)(n & 127)); }

long check_tower(long n) {
    moves = (unsigned)(n & 0xff);
    move_tower(6, 0, 1, 2);
    return moves;
}

long check_callback_of_qsort(long n) {
    long values[40], state = n;
    for (int i = 0; i < 40; i++) {
        state = (state * 1103515245 + 12345) & 0x7fffffff;
        values[i] = state;
    }
    qsort(values, 40, sizeof values[0], descending);
    unsigned long hash = 0;
    for (int i = 0; i < 40; i++)
        hash = hash * 7 + (unsigned long)values[i];
    return (long)hash;
}

/* The object of the golden tests, in every format: code, data of each sort, and references of the usual kinds. */
extern int outside(const char *text);
extern int shared_counter;

static int twice(int value) { return value * 2; }

int table[4] = {1, 2, 3, 4};
int (*chosen)(int) = twice;
int zeroes[8];
__attribute__((weak)) int maybe(int value) { return value; }

int entry(int value) {
    if (value > 3)
        return outside("too large");
    shared_counter += table[value & 3];
    return chosen(value) + maybe(value) + zeroes[value & 7];
}

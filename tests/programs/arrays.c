/* Big arrays, filled and not, which the medium model keeps apart from small data; structures by value. */

static unsigned char sieve[1 << 20];
long big_table[20000] = {3, 1, 4, 1, 5, 9, 2, 6};
static const int big_constants[17000] = {[0] = 2, [16999] = 7, [8000] = 1};
static int small = 5;

long check_sieve(long n) {
    long limit = (long)sizeof sieve >> 4, count = 0;
    for (long i = 0; i < limit; i++)
        sieve[i] = 0;
    for (long i = 2; i < limit; i++) {
        if (sieve[i])
            continue;
        count++;
        for (long j = i * 2; j < limit; j += i)
            sieve[j] = 1;
    }
    return count * 10 + sieve[(unsigned long)n % (unsigned long)limit];
}

long check_big_tables(long n) {
    long index = (long)((unsigned long)n % 19000ul);
    big_table[index + 500] += n;
    long result = big_table[index + 500] * 3 + big_table[n & 7] + big_constants[16999] * small + big_constants[8000];
    big_table[index + 500] -= n;
    return result;
}

struct record {
    long words[20];
    char text[12];
};

static struct record make_record(long n) {
    struct record made = {.text = "a record"};
    for (int i = 0; i < 20; i++)
        made.words[i] = n * i;
    return made;
}

long check_structures_by_value(long n) {
    struct record one = make_record(n), two = one;
    two.words[3] += one.text[2];
    return two.words[3] + two.words[19] - one.words[1];
}

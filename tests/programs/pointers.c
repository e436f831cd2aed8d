/* Pointers in data: tables of functions, of strings, of variables, chains, and addresses with addends. */

static long add(long a, long b) { return a + b; }
static long subtract(long a, long b) { return a - b; }
static long multiply(long a, long b) { return a * b; }

typedef long (*operation)(long, long);
static operation const operations[] = {add, subtract, multiply};
operation chosen_operation = multiply;

static const char *const names[] = {"section", "block", "symbol", "edge", "addend"};
const char *last_name = "last";

struct node {
    long value;
    struct node *next;
};
static struct node nodes[4] = {{3, &nodes[2]}, {5, &nodes[3]}, {7, &nodes[1]}, {11, 0}};
struct node *first_node = &nodes[0];

int counters[8] = {1, 2, 3, 4, 5, 6, 7, 8};
static int *const third_counter = &counters[3];
int *middle_counter = counters + 5;
unsigned long distance_of_data = 24;

long check_function_table(long n) {
    long result = n;
    for (int i = 0; i < 30; i++)
        result = operations[(n + i) % 3 < 0 ? 0 : (n + i) % 3](result, i + 1) & 0xffffff;
    return chosen_operation(result, 3);
}

long check_string_table(long n) {
    unsigned long hash = 5381;
    for (int i = 0; i < 5; i++)
        for (const char *c = names[(n + i) & 3]; *c; c++)
            hash = hash * 33 + (unsigned char)*c;
    return (long)(hash * 33 + (unsigned char)last_name[1]);
}

long check_chain(long n) {
    long sum = 0;
    for (struct node *node = first_node; node; node = node->next)
        sum = sum * 13 + node->value + n;
    return sum;
}

long check_addresses_with_addends(long n) {
    counters[3] = (int)n;
    *middle_counter += (int)n;
    long result = *third_counter * 100L + middle_counter[-1] + middle_counter[2] + counters[5];
    *middle_counter -= (int)n;
    return result + (long)((char *)&counters[6] - (char *)counters) * (long)distance_of_data;
}

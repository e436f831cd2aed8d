#include "common.h"

static int numbers[4] = {10, 20, 30, 40};
extern int other_numbers[4];

struct entry { const char *name; int *number; int (*function)(int); struct entry *next; };

static NOINLINE int plus_one(int x) { return x + 1; }
static NOINLINE int squared(int x) { return x * x; }
int other_negated(int);

static struct entry entries[4] = {
    {"first", &numbers[0], plus_one, &entries[1]},
    {"second", &other_numbers[1], squared, &entries[3]},
    {"third", &numbers[3] - 1, other_negated, 0},
    {"fourth", other_numbers + 3, plus_one, &entries[2]},
};
static struct entry *const roots[] = {entries, &entries[3], 0};
static const int *const between = &numbers[1];

PROGRAM(tables) {
    u64 hash = 3;
    for (struct entry *const *root = roots; *root; root++)
        for (struct entry *entry = *root; entry; entry = entry->next) {
            hash = mixed(hash, (u64)(long long)entry->function(*entry->number));
            for (const char *letter = entry->name; *letter; letter++) hash = mixed(hash, (u64)*letter);
        }
    return mixed(hash, (u64)(between - numbers));
}

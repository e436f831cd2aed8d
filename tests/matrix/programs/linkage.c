#include "common.h"

/* Defined weakly here and strongly in the other object, and the other way round. */
__attribute__((weak)) int weak_here(void) { return 1; }
int strong_here(void) { return 4; }
__attribute__((weak)) int only_weak(void) { return 16; }
int weak_there(void);

/* Common in both objects: one variable. */
__attribute__((common)) int common_number;
__attribute__((common)) int common_array[64];
int *other_common_number(void);
int other_common_sum(void);

PROGRAM(linkage) {
    u64 hash = mixed(9, (u64)(weak_here() + strong_here() * 2 + only_weak() + weak_there()));
    common_number = 31;
    hash = mixed(hash, (u64)(*other_common_number() + (other_common_number() == &common_number)));
    for (int i = 0; i < 64; i++) common_array[i] = i * 3;
    return mixed(hash, (u64)other_common_sum());
}

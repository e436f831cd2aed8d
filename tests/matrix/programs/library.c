#include "common.h"

void *malloc(size_type);
void *realloc(void *, size_type);
void free(void *);
void *memcpy(void *, const void *, size_type);
void *memset(void *, int, size_type);
int memcmp(const void *, const void *, size_type);
int strcmp(const char *, const char *);
char *strchr(const char *, int);
int atoi(const char *);
double pow(double, double);

PROGRAM(library) {
    u64 hash = 12;
    unsigned char *bytes = malloc(100), copy[100];
    for (int i = 0; i < 100; i++) bytes[i] = (unsigned char)(i ^ 0x5a);
    memcpy(copy, bytes, 100);
    bytes = realloc(bytes, 5000);
    memset(bytes + 50, 7, 50);
    hash = mixed(hash, (u64)(memcmp(bytes, copy, 50) == 0) + 2 * (u64)(memcmp(bytes, copy, 100) == 0));
    hash = mixed(hash, bytes[49] + bytes[99]);
    free(bytes);
    const char *text = "alpha,beta,-77";
    hash = mixed(hash, (u64)(strchr(text, ',') - text) + (u64)(strcmp(text, "alpha") > 0));
    hash = mixed(hash, (u64)(long long)atoi(text + 11));
    return mixed_double(hash, pow(2.0, 10.0));
}

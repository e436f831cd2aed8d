#include "common.h"

static const double coefficients[] = {1.0, -0.5, 0.25, -0.125, 3.0e-5, 1.0e10};
static float single = 1.5f;
double other_scaled(double value, float by, int times);

static NOINLINE double polynomial(double x) {
    double value = 0;
    for (int i = 5; i >= 0; i--) value = value * x + coefficients[i];
    return value;
}

static NOINLINE float narrow(double x, float y, int z) { return (float)(x * 0.1) + y * 3.0f - (float)z; }

static NOINLINE double many(double a, float b, double c, float d, double e, float f, double g, float h, double i, float j) {
    return a - b + c - d + e - f + g - h + i - j;
}

PROGRAM(floating) {
    u64 hash = 5;
    for (int i = -5; i < 6; i++) {
        hash = mixed_double(hash, polynomial(i * 0.75));
        hash = mixed_double(hash, (double)narrow(i * 1.25, single, i));
        hash = mixed_double(hash, other_scaled(i + 0.5, 0.25f, i * i));
        hash = mixed(hash, (u64)(long long)(i * 1234.56789));
        hash = mixed_double(hash, (double)(long long)(i * 1000003LL) / 7.0);
    }
    hash = mixed_double(hash, many(1, 2, 3, 4, 5, 6, 7, 8.5f, 9, 10.25f));
    hash = mixed_double(hash, __builtin_sqrt(2.0) + __builtin_fabs(-single));
    return mixed(hash, (u64)(0.1 + 0.2 > 0.3) + 2 * (u64)(single < 1.0f));
}

/* Floating point: constants in sections of their own, sign masks, conversions, arguments and results. */

double sqrt(double);

static long bits_of(double value) {
    union {
        double value;
        long bits;
    } both = {value};
    return both.bits;
}

static const double coefficients[] = {1.0, -0.5, 0.25, -0.125, 0.0625, -0.03125, 3.5e-7};
static float scale_of[4] = {0.5f, 1.5f, -2.25f, 1e-3f};
double drift = 0.1;

static double polynomial(double x) {
    double sum = 0;
    for (int i = 6; i >= 0; i--)
        sum = sum * x + coefficients[i];
    return sum;
}

long check_polynomial(long n) { return bits_of(polynomial((double)n / 7.0)); }

long check_single_precision(long n) {
    float sum = (float)n;
    for (int i = 0; i < 8; i++)
        sum = sum * scale_of[i & 3] + 0.75f;
    return bits_of((double)-sum);
}

long check_roots(long n) {
    double magnitude = (double)n;
    magnitude = magnitude < 0 ? -magnitude : magnitude;
    drift += 0.5;
    double result = sqrt(magnitude + drift);
    drift -= 0.5;
    return bits_of(result);
}

long check_long_double(long n) {
    long double wide = 1.0L / 3.0L;
    return bits_of((double)(wide * (long double)n + 0.1L));
}

static double eleven(double a, double b, double c, double d, double e, double f, double g, double h, double i, int j, double k) {
    return a - b * c + d / e - f * g + h - i * j + k;
}

long check_many_arguments(long n) {
    return bits_of(eleven((double)n, 2, 3, 4, 5, 6, 7, 8, 9, (int)n, 11));
}

long check_conversions(long n) {
    unsigned long large = (unsigned long)n * 0x9e3779b97f4a7c15ul;
    return bits_of((double)large) ^ (long)(unsigned long)((double)(large >> 12) * 1.5);
}

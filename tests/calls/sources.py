"""What the tests of typed calls compile: C that uses every type, and the ways to compile it."""

from __future__ import annotations

from collections.abc import Callable
from shutil import which

import pytest

from tests import toolchain

C = r"""
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <complex.h>

typedef struct { int x; double y; } pair;
typedef struct node { int value; struct node *next; } node;
struct small { char a; short b; };
struct large { long part[5]; };
struct floats { float a, b, c; };
struct mixed { pair inner; const char *text; unsigned char tail[3]; };
struct bits { unsigned a : 3; int b : 7; unsigned long c : 40; };
struct __attribute__((packed)) packed { char a; int b; };
union either { int i; float f; };
union wide { double d; long parts[2]; };
enum colour { RED, GREEN = 5, BLUE };
enum sign { MINUS = -1, PLUS = 1 };
typedef double (*unary)(double);
typedef struct opaque opaque;

int8_t i8(int8_t x) { return x; }
uint8_t u8(uint8_t x) { return x; }
int16_t i16(int16_t x) { return x; }
uint16_t u16(uint16_t x) { return x; }
int32_t i32(int32_t x) { return x; }
uint32_t u32(uint32_t x) { return x; }
int64_t i64(int64_t x) { return x; }
uint64_t u64(uint64_t x) { return x; }
long long signed_long_long(long long x) { return x; }
_Bool negation(_Bool x) { return !x; }
char next_char(char x) { return x + 1; }
float f32(float x) { return x * 2; }
double f64(double x) { return x * 2; }
long double f80(long double x) { return x * 2; }
double _Complex conjugate(double _Complex x) { return conj(x); }
float _Complex conjugate_small(float _Complex x) { return conjf(x); }
enum colour next_colour(enum colour x) { return x == RED ? GREEN : BLUE; }
enum sign opposite(enum sign x) { return -x; }

int add(int a, int b) { return a + b; }
double hypot3(double x, double y, double z) { return x * x + y * y + z * z; }
long length(const char *text) { return text ? (long)strlen(text) : -1; }
const char *greeting(int which) { return which ? "hello" : 0; }
char *writable(void) { static char text[] = "mine"; return text; }
double total(const double *values, long n) { double s = 0; for (long i = 0; i < n; i++) s += values[i]; return s; }
void scale(double *values, long n, double by) { for (long i = 0; i < n; i++) values[i] *= by; }
int bytes_sum(const unsigned char *data, int n) { int s = 0; for (int i = 0; i < n; i++) s += data[i]; return s; }
void upper(char *text) { for (; *text; text++) if (*text >= 'a' && *text <= 'z') *text -= 32; }
long address_of(const void *p) { return (long)p; }
double trace(double matrix[3][3]) { return matrix[0][0] + matrix[1][1] + matrix[2][2]; }
double norm(const double complex *z) { return cabs(*z); }

double weigh(pair p, double by) { return (p.x + p.y) * by; }
pair make_pair(int x) { pair p = {x, x * 0.5}; return p; }
struct small swap(struct small s) { struct small r = {(char)s.b, s.a}; return r; }
struct large shifted(struct large s, long by) { for (int i = 0; i < 5; i++) s.part[i] += by; return s; }
struct floats doubled(struct floats s) { s.a *= 2; s.b *= 2; s.c *= 2; return s; }
struct mixed changed(struct mixed m) { m.inner.x++; m.tail[2] = 7; return m; }
struct bits count(struct bits s) { s.a++; s.b--; s.c += 1UL << 32; return s; }
int packed_sum(struct packed p) { return p.a + p.b; }
int packed_sum_at(const struct packed *p) { return p->a + p->b; }
union either as_float(union either e) { e.f = (float)e.i; return e; }
union wide halved(union wide w) { w.parts[1] /= 2; return w; }
void move(pair *p, int dx) { p->x += dx; }
double weigh_at(const pair *p) { return p->x + p->y; }
int list_sum(const node *n) { int s = 0; for (; n; n = n->next) s += n->value; return s; }
opaque *open_it(int x) { static int kept; kept = x; return (opaque *)&kept; }
int look_into(const opaque *o) { return *(const int *)o; }

int apply(int (*f)(int, void *), int x, void *data) { return f(x, data) + 1; }
double apply_unary(unary f, double x) { return f ? f(x) : -1; }
unary chosen(int which) { return which ? f64 : 0; }
static int (*kept)(int);
void keep(int (*f)(int)) { kept = f; }
int call_kept(int x) { return kept(x); }
double on_pair(double (*f)(pair, const char *), pair p) { return f(p, "text"); }

double many(int a, double b, int c, double d, int e, double f, int g, double h, int i, double j, int k, double l,
            double m, double n, double o, double p, struct large s, float q, long double r, int t) {
    return a + 2*b + 3*c + 4*d + 5*e + 6*f + 7*g + 8*h + 9*i + 10*j + 11*k + 12*l + 13*m + 14*n + 15*o + 16*p
           + 17*s.part[4] + 18*q + 19*(double)r + 20*t;
}
int variadic(int n, ...) { return n; }
__int128 huge(__int128 x) { return x; }
int counted;
void count_calls(void) { counted++; }
int shadow(int str, int bytes, int NotImplemented, int lambda, int int_, int isinstance) {
    return str + bytes + NotImplemented + lambda + int_ + isinstance;
}

int counter = 3;
const int constant = 7;
double table[4] = {1, 2, 3, 4};
pair shared = {1, 2.5};
char name[8] = "abc";
const char *label = "a label";
"""


def zig(*flags: str) -> bytes:
    return toolchain.zig_cc(C, *flags, language="c")


def with_compiler(compiler: str) -> Callable[..., bytes]:
    return lambda *flags: toolchain.compile_with(C, *flags, compiler=compiler)


WAYS = [
    pytest.param((compile, f"-gdwarf-{version}", optimise), id=f"{name} DWARF {version} {optimise}")
    for name, compile in (("zig", zig), ("gcc", with_compiler("gcc")), ("clang", with_compiler("clang")))
    for version in (4, 5)
    for optimise in ("-O0", "-O2")
]
"""The compilers, versions of DWARF and optimisations with which everything has to work."""


def installed(*tools: str) -> list[str]:
    """Those of these tools that are there."""
    return [tool for tool in tools if which(tool)]

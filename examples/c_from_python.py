"""C functions called from Python with their C types, without building a shared library.

The declarations are C, read by cffi: functions are attributes of the library, variables are read and set
there, and structs and arrays come from `library.ffi`.
"""

from c_compiler import compile_c

import jitlink

SOURCE = """
struct point { double x, y; };
double scale = 1.0;

double dot(const double *a, const double *b, long n) {
    double sum = 0;
    for (long i = 0; i < n; i++) sum += a[i] * b[i];
    return scale * sum;
}

struct point middle(struct point a, struct point b) {
    return (struct point){(a.x + b.x) / 2, (a.y + b.y) / 2};
}
"""

with jitlink.load(compile_c(SOURCE)) as library:
    library.cdef(
        """
        struct point { double x, y; };
        extern double scale;
        double dot(const double *, const double *, long);
        struct point middle(struct point, struct point);
        """
    )
    print(f"dot = {library.dot([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], 3)}")
    library.scale = 10.0
    print(f"dot, scaled = {library.dot([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], 3)}")
    middle = library.middle({"x": 0.0, "y": 0.0}, {"x": 2.0, "y": 8.0})
    print(f"middle = ({middle.x}, {middle.y})")

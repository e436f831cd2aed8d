"""C that calls Python: undefined names are defined by Python functions, and function pointers are passed.

`define` takes anything that has an address: a number, a ctypes function, a cffi callback, a symbol of
another library. Keep the Python object alive as long as C may call it.
"""

import ctypes

from c_compiler import compile_c

import jitlink

SOURCE = """
#include <stdlib.h>

extern void visit(int value);            /* Python defines it */

void walk(const int *values, int count) {
    for (int i = 0; i < count; i++) visit(values[i]);
}

void sort(int *values, int count, int (*compare)(const void *, const void *)) {
    qsort(values, count, sizeof *values, compare);
}
"""

Visit = ctypes.CFUNCTYPE(None, ctypes.c_int)
visited: list[int] = []
visit = Visit(visited.append)

with jitlink.load(compile_c(SOURCE), define={"visit": visit}) as library:
    library.cdef(
        """
        void walk(const int *, int);
        void sort(int *, int, int (*)(const void *, const void *));
        """
    )
    ffi = library.ffi

    @ffi.callback("int(const void *, const void *)")
    def by_last_digit(left: object, right: object) -> int:
        """Compare two numbers by their last digits, and equal ones by their value."""
        a, b = (int(ffi.cast("const int *", each)[0]) for each in (left, right))
        return -1 if (a % 10, a) < (b % 10, b) else 1

    values = ffi.new("int[]", [31, 15, 22, 91, 12])
    library.sort(values, 5, by_last_digit)
    library.walk(values, 5)
    print(f"visited, sorted by last digit: {visited}")

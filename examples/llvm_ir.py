"""LLVM IR as an input: what a compiler front end writes, called at once.

The text of a module, or bitcode, takes the same road as an object: llvmlite compiles it, jitlink links
it. Here a small "front end" writes a polynomial as IR, by Horner's rule.
"""

import ctypes

import jitlink


def polynomial(coefficients: list[float]) -> str:
    """Write a function that computes a polynomial; the coefficient of the highest power first."""
    lines = ["define double @value(double %x) {"]
    last = "0.0"
    for number, coefficient in enumerate(coefficients):
        lines.append(f"  %p{number} = fmul double {last}, %x")
        lines.append(f"  %s{number} = fadd double %p{number}, {coefficient!r}")
        last = f"%s{number}"
    return "\n".join([*lines, f"  ret double {last}", "}"])


with jitlink.load(polynomial([2.0, -3.0, 5.0]).encode()) as library:
    value = library.function("value", ctypes.c_double, [ctypes.c_double])
    print(f"2 x^2 - 3 x + 5 at 4 = {value(4.0)}")

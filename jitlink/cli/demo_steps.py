"""The steps of `jitlink demo`. What the demo shows is the source of these functions, and then their result."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator

import jitlink
from jitlink import Protection
from jitlink.inspect import link_map, listing
from jitlink.llvm import compile_ir

LIMIT = 50_000
FUNCTIONS = 5_000
PRIMES = """\
@calls = global i64 0
declare void @report(i64, i64)

define i64 @count_primes(i64 %limit) {
start:
  %before = load i64, ptr @calls
  %after = add i64 %before, 1
  store i64 %after, ptr @calls
  br label %next_number
next_number:
  %n = phi i64 [ 2, %start ], [ %n.next, %decided ]
  %count = phi i64 [ 0, %start ], [ %count.next, %decided ]
  %more = icmp ult i64 %n, %limit
  br i1 %more, label %next_divisor, label %end
next_divisor:
  %d = phi i64 [ 2, %next_number ], [ %d.next, %divide ]
  %square = mul i64 %d, %d
  %try = icmp ule i64 %square, %n
  br i1 %try, label %divide, label %decided
divide:
  %rest = urem i64 %n, %d
  %d.next = add i64 %d, 1
  %composite = icmp eq i64 %rest, 0
  br i1 %composite, label %decided, label %next_divisor
decided:
  %is_prime = phi i64 [ 1, %next_divisor ], [ 0, %divide ]
  %count.next = add i64 %count, %is_prime
  %n.next = add i64 %n, 1
  br label %next_number
end:
  call void @report(i64 %limit, i64 %count)
  ret i64 %count
}
"""


def six_bytes() -> int:
    """A link graph by hand: six bytes of machine code become a function."""
    graph = jitlink.new_graph("answer")
    text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
    # mov $48, %eax; ret
    block = graph.add_block(text, bytes.fromhex("b830000000c3"))
    graph.add_symbol("answer", block)
    with jitlink.load(graph) as library:
        return int(library.function("answer")())


def llvm_ir() -> tuple[int, float, list[tuple[int, int]]]:
    """LLVM IR, compiled and linked into this process; it calls back into Python."""
    reported = []
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)
    report = prototype(lambda *pair: reported.append(pair))
    with jitlink.load(PRIMES.encode(), define={"report": report}) as library:
        library.cdef("long count_primes(long limit);")
        start = time.perf_counter()
        count = library.count_primes(LIMIT)
        return count, time.perf_counter() - start, reported


def graph_of_ir() -> Iterator[str]:
    """The link graph of the same object, as jitlink show prints it: nothing is linked."""
    graph = jitlink.read(compile_ir(PRIMES.encode(), "primes.ll"))
    return listing(graph)


def image_at_base() -> Iterator[str]:
    """The same object linked for another place: bytes at addresses, nothing is mapped."""
    outside = {"report": 0x10100000}
    image = jitlink.link(PRIMES.encode(), base=0x10000000, define=outside)
    assert image.read(image.address_of("calls"), 8) == bytes(8)
    return link_map(image)


def many_functions(machine_code: bytes) -> tuple[int, float]:
    """An object of 5,000 functions: read, linked, mapped, ready to call."""
    start = time.perf_counter()
    with jitlink.load(machine_code) as library:
        name = f"f{FUNCTIONS - 1}"
        last = library.function(name, ctypes.c_int, [ctypes.c_int])
        seconds = time.perf_counter() - start
        return int(last(1)), seconds


def count_primes(limit: int) -> int:
    """What the LLVM IR computes, in Python."""
    count = 0
    for n in range(2, limit):
        d = 2
        while d * d <= n:
            if n % d == 0:
                break
            d += 1
        else:
            count += 1
    return count


def generated_object() -> bytes:
    """Generate an object: function n calls function n // 2 and adds n to what that returns."""
    functions = ["define i32 @f0(i32 %x) {\n  ret i32 %x\n}\n"]
    functions += [
        f"define i32 @f{n}(i32 %x) {{\n"
        f"  %inner = call i32 @f{n // 2}(i32 %x)\n  %sum = add i32 %inner, {n}\n  ret i32 %sum\n}}\n"
        for n in range(1, FUNCTIONS)
    ]
    # Not optimised: the calls must stay calls.
    return compile_ir("".join(functions).encode(), "generated.ll", optimise=0)


def generated_result(argument: int) -> int:
    """What the last generated function returns."""
    result, n = argument, FUNCTIONS - 1
    while n:
        result, n = result + n, n // 2
    return result


def link_by_llvm(machine_code: bytes) -> float:
    """Link the generated object with LLVM's own JITLink, through llvmlite; returns the seconds."""
    from llvmlite import binding

    compiler = binding.create_lljit_compiler(use_jit_link=True)
    last = f"f{FUNCTIONS - 1}"
    builder = binding.JITLibraryBuilder().add_object_img(machine_code).export_symbol(last)
    start = time.perf_counter()
    library = builder.link(compiler, "generated")
    assert library[last]
    return time.perf_counter() - start

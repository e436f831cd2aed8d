"""LLVM IR as an input: compiled for this processor by llvmlite, then linked like any object."""

from __future__ import annotations

import ctypes

import pytest
from llvmlite import binding

import jitlink
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

IR = """
@factor = global i64 3
@names = internal constant [2 x ptr] [ptr @scaled, ptr null]

declare i64 @labs(i64)

define i64 @scaled(i64 %x) {
  %factor = load i64, ptr @factor
  %positive = call i64 @labs(i64 %x)
  %product = mul i64 %positive, %factor
  ret i64 %product
}

define i64 @through_table(i64 %x) {
  %function = load volatile ptr, ptr @names
  %result = call i64 %function(i64 %x)
  ret i64 %result
}
"""
LONG = [ctypes.c_long]


@pytest.fixture(scope="module")
def bitcode() -> bytes:
    return bytes(binding.parse_assembly(IR).as_bitcode())


def check(library: jitlink.Library) -> None:
    assert library.function("scaled", ctypes.c_long, LONG)(-14) == 42
    assert library.function("through_table", ctypes.c_long, LONG)(5) == 15
    ctypes.c_long.from_address(library["factor"].address).value = 10
    assert library.function("scaled", ctypes.c_long, LONG)(-14) == 140


def test_ir_text_is_compiled_and_linked():
    """The text of a module, as bytes, becomes callable code."""
    with jitlink.load(IR.encode()) as library:
        check(library)


def test_bitcode_is_compiled_and_linked(bitcode):
    """Bitcode becomes callable code."""
    with jitlink.load(bitcode) as library:
        check(library)


@pytest.mark.parametrize("name", ["module.ll", "module.bc", "module"])
def test_a_file_of_ir_is_compiled_and_linked(tmp_path, bitcode, name):
    """A file of IR is found by its suffix, or by its content where the suffix says nothing."""
    path = tmp_path / name
    path.write_bytes(IR.encode() if name.endswith(".ll") else bitcode)
    with jitlink.load(path) as library:
        check(library)


def test_ir_and_objects_link_together():
    """IR calls an object of a C compiler, which calls back."""
    ir = b"""
        declare i32 @in_c(i32)
        define i32 @in_ir(i32 %x) {
          %y = call i32 @in_c(i32 %x)
          %z = add i32 %y, 1
          ret i32 %z
        }
    """
    c = """
        int in_c(int x) { return x * 2; }
        int in_ir(int);
        int both(int x) { return in_ir(x) + in_c(x); }
    """
    with jitlink.load(ir, toolchain.zig_cc(c)) as library:
        assert library.function("both", ctypes.c_int, [ctypes.c_int])(5) == 21


def test_ir_may_be_an_image_or_a_graph():
    """read and link take IR as load does."""
    assert jitlink.read(IR.encode()).symbols["scaled"].size > 0
    image = jitlink.link(IR.encode(), base=0x1000_0000, define={"labs": 0x1100_0000})
    assert image.base <= image.address_of("scaled") < image.base + image.size


def test_a_symbol_that_ir_lacks_is_reported_like_any_other():
    """An undefined symbol of compiled IR is an UndefinedSymbols error with its name."""
    ir = b"declare i32 @nobody_has_this()\ndefine i32 @f() {\n %x = call i32 @nobody_has_this()\n ret i32 %x\n}"
    with pytest.raises(jitlink.UndefinedSymbols) as caught:
        jitlink.load(ir)
    assert caught.value.names == ["nobody_has_this"]


@pytest.mark.parametrize(
    ("ir", "message"),
    [
        (b"define i32 @f( {", "expected"),
        (b"define i32 @f() { ret i64 0 }", "function result type"),
        (b"define i32 @f() {\n %x = call i32 @undeclared()\n ret i32 %x }", "undeclared"),
        (b"; \xff\xfe no UTF-8", "decode"),
        (b"BC\xc0\xde" + bytes(60), "cannot read"),
        (b"BC\xc0\xde", "cannot read"),
        (b"\xde\xc0\x17\x0b" + b"\xff" * 40, "cannot read"),
    ],
    ids=["syntax", "types", "undeclared", "encoding", "empty bitcode", "cut bitcode", "wrapper"],
)
def test_ir_that_llvm_refuses_is_malformed_input(ir, message):
    """What LLVM cannot read is MalformedInput, with the input's name and LLVM's message."""
    with pytest.raises(jitlink.MalformedInput, match=message) as caught:
        jitlink.load(ir)
    assert caught.value.input == "(bytes)"
    assert caught.value.fault.startswith("LLVM cannot read it: ")


def test_cut_bitcode_is_refused_or_compiled(bitcode):
    """Bitcode that ends too early is refused with an error, at whatever word it ends."""
    for end in range(0, len(bitcode) - 4, max(len(bitcode) // 100, 4)):
        with pytest.raises(jitlink.LinkError):
            jitlink.load(bitcode[:end])


def test_a_linked_symbol_is_known_to_llvmlite():
    """After add_to_llvmlite, code that llvmlite compiles calls the linked function by name."""
    with jitlink.load(toolchain.zig_cc("int tripled(int x) { return 3 * x; }")) as library:
        library["tripled"].add_to_llvmlite()
        library["tripled"].add_to_llvmlite("another_name_for_tripled")
        ir = """
            declare i32 @tripled(i32)
            declare i32 @another_name_for_tripled(i32)
            define i32 @caller(i32 %x) {
              %y = call i32 @tripled(i32 %x)
              %z = call i32 @another_name_for_tripled(i32 %y)
              ret i32 %z
            }
        """
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_default_triple().create_target_machine(codemodel="large")
        with binding.create_mcjit_compiler(binding.parse_assembly(ir), machine) as engine:
            engine.finalize_object()
            caller = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(engine.get_function_address("caller"))
            assert caller(5) == 45


ASSEMBLY = """
define i32 @next(i32 %x) {
  %y = call i32 asm "leal 1($1), $0", "=r,r"(i32 %x)
  ret i32 %y
}
"""
MODULE_ASSEMBLY = 'module asm ".globl seven"\nmodule asm "seven: movl $7, %eax"\nmodule asm "ret"\n'


@pytest.mark.parametrize("as_bitcode", [False, True], ids=["text", "bitcode"])
def test_inline_assembly_is_assembled(as_bitcode: bool) -> None:
    """In a function, and beside all functions."""
    source = MODULE_ASSEMBLY + ASSEMBLY
    ir = bytes(binding.parse_assembly(source).as_bitcode()) if as_bitcode else source.encode()
    with jitlink.load(ir) as library:
        assert library.function("next", ctypes.c_int, [ctypes.c_int])(41) == 42
        assert library.function("seven", ctypes.c_int)() == 7


@pytest.mark.parametrize(
    "source",
    [
        ASSEMBLY.replace("leal 1($1), $0", "frobnicate $0"),
        MODULE_ASSEMBLY.replace("movl", "frobnicate"),
        'target triple = "aarch64-linux-gnu"\n' + MODULE_ASSEMBLY.replace("movl $7, %eax", "mov w0, 7"),
    ],
    ids=["of a function", "of a module", "of another machine"],
)
def test_assembly_that_llvm_ends_the_process_for_is_an_error(source: str) -> None:
    """LLVM exits where it cannot assemble; the process that it ends is not this one."""
    with pytest.raises(jitlink.MalformedInput, match=r"LLVM cannot compile it: .*(frobnicate|asm parser)"):
        jitlink.link(source.encode(), base=0x10000000, target="aarch64" if "aarch64" in source else None)


def test_code_that_a_machine_does_not_have_is_an_error() -> None:
    """BPF has no results of several registers; its back end ends the process over them."""
    ir = """
        target triple = "bpfel-unknown-none"
        define [4 x i64] @several(i64 %x) noinline {
          %made = insertvalue [4 x i64] undef, i64 %x, 3
          ret [4 x i64] %made
        }
    """
    with pytest.raises(jitlink.MalformedInput, match=r"LLVM cannot compile it: .*aggregate"):
        jitlink.read(ir.encode())

# RUN: rm -rf %t && mkdir -p %t
# RUN: llvm-mc -triple=x86_64-unknown-linux -filetype=obj -o %t/test.o %s
# RUN: llvm-jitlink -slab-allocate 100Kb -slab-address 0xfff00000 \
# RUN:     -abs external_func=0xffff0010 -abs external_data=0xffff0020 -noexec %t/test.o -check=%s
#
# A test in the form that LLVM's own tests of its JIT linker have.

        .text
        .globl  main
        .p2align        4, 0x90
        .type   main,@function
main:
        retq
        .size   main, .-main

# A call of a function in the same object.
# jitlink-check: decode_operand(test_call_local, 0) = \
# jitlink-check:   test_call_local_target - next_pc(test_call_local)
        .globl  test_call_local
        .p2align       4, 0x90
        .type   test_call_local,@function
test_call_local:
        callq   test_call_local_target
        .size   test_call_local, .-test_call_local

        .globl  test_call_local_target
        .type   test_call_local_target,@function
test_call_local_target:
        retq
        .size   test_call_local_target, .-test_call_local_target

# A call of something far away, through a stub.
# jitlink-check: decode_operand(test_call_extern, 0) = external_func - next_pc(test_call_extern)
# jitlink-check: *{8}(got_addr(test.o, external_func)) = external_func
        .globl  test_call_extern
        .p2align       4, 0x90
        .type   test_call_extern,@function
test_call_extern:
        callq   external_func@plt
        .size   test_call_extern, .-test_call_extern

# A load of a GOT entry.
# jitlink-check: *{8}(got_addr(test.o, external_data)) = external_data
        .globl  test_gotpcrel
        .type   test_gotpcrel,@function
test_gotpcrel:
        movq    external_data@GOTPCREL(%rip), %rax
        .size   test_gotpcrel, .-test_gotpcrel

# Pointers of both widths.
# jitlink-check: *{8}named_data_ptr64 = named_data
# jitlink-check: *{4}named_data_ptr32 = named_data[31:0]
        .data
        .globl  named_data, named_data_ptr64, named_data_ptr32
named_data:
        .quad   0x42
named_data_ptr64:
        .quad   named_data
named_data_ptr32:
        .long   named_data

"""The optimising tier: BPF to LLVM IR to an object, which the project's own linker links and maps.

    bodies      which blocks belong to which function
    operations  arithmetic and conditions as IR
    functions   a function of the program as IR
    modules     a whole program as IR, with the routines that every program brings along
    objects     IR to an object, optimised; kept on disk from one process to the next
    images      an object to memory that can be run
    machine     the machine that runs them

It keeps to the contract in jitlink.bpf.jit.abi, with one difference: what is entered and gone on at is a C
function `void entry(Record *)`, not a place inside of one.
"""

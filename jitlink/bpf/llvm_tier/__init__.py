"""The optimising tier: BPF to LLVM IR to an object, which the project's own linker links and maps.

    bodies      which blocks belong to which function
    operations  arithmetic and conditions as IR
    choices     what a program is compiled for
    values      the text of a function, and what registers hold where it is written
    control     jumps, branches and returns as IR
    accesses    accesses of memory and their checks as IR
    arithmetic  instructions that only compute as IR
    calls       calls as IR
    loops       which loops can be accounted for before they run
    rounds      for how many rounds they may run without checks, as IR
    functions   a function of the program as IR
    modules     a whole program as IR, with the routines that every program brings along
    objects     IR to an object, optimised; kept on disk from one process to the next
    images      an object to memory that can be run
    machine     the machine that runs them

It keeps to the contract in jitlink.bpf.jit.abi, with one difference: what is entered and gone on at is a C
function `void entry(Record *)`, not a place inside of one.
"""

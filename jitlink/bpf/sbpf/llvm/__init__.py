"""SBPF in machine code that LLVM has optimised.

    functions    what the functions of a program consist of
    modules      the program as a module of LLVM IR: the check of addresses, the call of a function by its address
    bodies       its functions: basic blocks, the meter, calls
    arithmetic   what instructions do
    values       registers and fields of the record
    machine      running it

What LLVM makes is kept on disk as that of BPF programs is (jitlink.bpf.llvm_tier.cache).
"""

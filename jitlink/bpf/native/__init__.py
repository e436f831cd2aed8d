"""What runs natively beside programs: the loop over many packets, and helpers in machine code.

It is LLVM IR that the project builds, compiled once and kept on disk, and linked by the project's own linker.

    batch, workers        the loop over many packets, and the machines that run it
    lookups               lookups in known maps as code in the program's module (LLVM tier)
    helpers               which helpers of a program are machine code
    library               those that are the project's: compiled, kept, linked
    helper_functions      their source, with map_functions, ring_functions and sequences, which they call
    layout                where things lie in memory, for the source
    dialect, translator   the language of the source, and from it to LLVM IR
"""

"""SBPF in machine code, in one pass: the back ends of BPF, with addresses translated.

    lowering     the program in terms of BPF's instructions, and what they leave undone
    compiler     the pieces of it: BPF's compiler with other pieces around an instruction
    backend      what a back end has to bring besides
    x86_64       what the one for x86-64 has
    load_store   what those for AArch64 and RISC-V have, with load_store_runtime
    hosts        which back end is the host's
    images       from a program to machine code in memory
    machine      running it
    emulated     running it in an emulated CPU

An access compares its address with a site, as in BPF (jitlink.bpf.jit.abi). The distance from the start of the
site is, with the site's place in the host's memory added, where the access goes. What r10 points at needs no
check in versions where the program cannot change r10.
"""

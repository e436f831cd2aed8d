"""Native code for BPF programs, in one pass.

abi          what native code is called with and how it leaves: the contract
program      what every slot is; basic blocks
proofs       which accesses need no check
templates    machine code with holes, filled in for a whole program at once
backend      what a back end has to bring
compiler     from slots to machine code and edges
hardening    hidden constants, padding, random starts
images       through a link graph and the linker to memory that can be run
compiled     what was made of a program, by what its code takes for granted
machine      running it: the interpreter's machine with another engine
leaving      what happens where native code cannot go on
hosts        which back end is the host's
load_store   what the back ends of AArch64 and RISC-V share, with load_store_features, load_store_runtime
             and load_store_templates
emulated     running their code in an emulated CPU
aarch64      the back end for AArch64, with aarch64_templates and aarch64_assembler
riscv64      the back end for RISC-V, with riscv64_templates and riscv64_assembler
x86_64       the back end for x86-64, with x86_64_templates, x86_64_runtime and x86_64_assembler
"""

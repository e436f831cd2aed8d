"""SBPF: the BPF of Solana's programs, loaded and run in this process.

    from jitlink.bpf import sbpf

    program = sbpf.load("program.so", syscalls={"sol_get_clock": clock})
    result = program.run(data, budget=200_000)
    result.r0, result.data, result.units, result.log

It has other files, addresses, calls and limits than BPF (docs/sbpf.md), and so a loader and a machine of its own:

    versions     what each version changed
    reader       executables, with elf_file, relocations and hashes
    isa          the instructions of each version, with semantics and translation
    verifier     what a program must be like
    memory       the regions, and address translation
    machine      the interpreter; what syscalls see
    syscalls     those that every program may need
    targets      where functions begin
    native       what machines that run native code have in common, with abi
    jit          machine code made in one pass
    llvm         machine code that LLVM has optimised
"""

from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.hashes import hash_of_name
from jitlink.bpf.sbpf.machine import NativeSyscall, SbpfMachine
from jitlink.bpf.sbpf.program import Program, Result, load
from jitlink.bpf.sbpf.reader import read_executable
from jitlink.bpf.sbpf.syscalls import ProgramAborted
from jitlink.bpf.sbpf.verifier import verify
from jitlink.bpf.sbpf.versions import Version

__all__ = [
    "Executable",
    "NativeSyscall",
    "Program",
    "ProgramAborted",
    "Result",
    "SbpfMachine",
    "Version",
    "hash_of_name",
    "load",
    "read_executable",
    "verify",
]

"""What runs natively beside programs: the loop over many packets, and helpers in machine code.

It is LLVM IR that the project builds, compiled once and kept on disk, and linked by the project's own linker.
"""

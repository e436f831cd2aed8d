"""LLVM IR as an input: text or bitcode, compiled to an object by llvmlite.

Some faults LLVM finds only while it makes code, and then it ends the process: an instruction in inline assembly
that there is not, a function that a machine such as BPF has no code for. So modules with assembly, and those for
another machine than this one, are compiled in a process of their own, which is this module run as a program.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from typing import Any

from jitlink.errors import MalformedInput, MissingExtra

ASSEMBLY = re.compile(rb"\basm\b")
"""In the text of every module with inline assembly, and seldom in another."""


def compile_ir(ir: bytes, name: str, *, triple: str | None = None, optimise: int = 2) -> bytes:
    """Compile LLVM IR to a relocatable object.

    ir: the text of a module, or bitcode. triple: for another machine than this one; by default the one that the
    module names, with the features of the host's processor if that is the host. optimise: 0 to 3. Raises
    MalformedInput with LLVM's message.
    """
    try:
        module = _parsed(ir)
        module.verify()
        triple = triple or _if_other_machine(module.triple)
        machine = _target_machine(triple, optimise)
    except (RuntimeError, UnicodeDecodeError) as error:
        raise MalformedInput(f"LLVM cannot read it: {str(error).strip()}", input=name) from error
    if (triple and _if_other_machine(triple)) or ASSEMBLY.search(str(module).encode() if _is_bitcode(ir) else ir):
        return _compile_apart(ir, name, triple, optimise)
    return _emit(module, machine, optimise)


def _is_bitcode(ir: bytes) -> bool:
    return ir.startswith((b"BC", b"\xde\xc0\x17\x0b"))


def _parsed(ir: bytes) -> Any:
    """Parse a module. Raises RuntimeError and UnicodeDecodeError."""
    binding = _binding()
    return binding.parse_bitcode(ir) if _is_bitcode(ir) else binding.parse_assembly(ir.decode())


def _emit(module: Any, machine: Any, optimise: int) -> bytes:
    """Optimise a module and make the object."""
    binding = _binding()
    if optimise:
        options = binding.create_pipeline_tuning_options(speed_level=optimise)
        binding.create_pass_builder(machine, options).getModulePassManager().run(
            module, binding.create_pass_builder(machine, options)
        )
    emitted: bytes = machine.emit_object(module)
    return emitted


def _compile_apart(ir: bytes, name: str, triple: str | None, optimise: int) -> bytes:
    """Compile a module in a process of its own. Raises MalformedInput with what LLVM says there."""
    done = subprocess.run(
        [sys.executable, "-m", "jitlink.llvm", triple or "", str(optimise)],
        input=ir,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise MalformedInput(f"LLVM cannot compile it: {said or f'it ended with {done.returncode}'}", input=name)
    return done.stdout


def _if_other_machine(triple: str) -> str | None:
    """The triple, if it is of another machine than this one, whose back end need not survive what is for it."""
    machine = triple.partition("-")[0]
    return triple if machine and machine != _binding().get_default_triple().partition("-")[0] else None


@cache
def _target_machine(triple: str | None, optimise: int) -> Any:
    binding = _binding()
    if triple is None:
        target = binding.Target.from_default_triple()
        cpu, features = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    else:
        target = binding.Target.from_triple(triple)
        cpu, features = "", ""
    return target.create_target_machine(cpu=cpu, features=features, opt=optimise, reloc="pic", codemodel="small")


@cache
def _binding() -> Any:
    try:
        from llvmlite import binding
    except ImportError as error:
        raise MissingExtra("llvmlite", "llvm", "LLVM IR as an input") from error
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    # Of this machine only: llvmlite has no other.
    binding.initialize_native_asmparser()
    return binding


def _main() -> None:
    """Compile a module that stands on standard input: what _compile_apart starts."""
    triple, optimise = sys.argv[1] or None, int(sys.argv[2])
    module = _parsed(sys.stdin.buffer.read())
    sys.stdout.buffer.write(_emit(module, _target_machine(triple, optimise), optimise))


if __name__ == "__main__":
    _main()

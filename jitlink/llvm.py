"""LLVM IR as an input: text or bitcode, compiled to an object by llvmlite."""

from __future__ import annotations

from functools import cache
from typing import Any

from jitlink.errors import MalformedInput, MissingExtra


def compile_ir(ir: bytes, name: str, *, triple: str | None = None, optimise: int = 2) -> bytes:
    """Compile LLVM IR to a relocatable object.

    ir: the text of a module, or bitcode. triple: for another machine than this one; the host's processor
    features are used where it is None. optimise: 0 to 3. Raises MalformedInput with LLVM's message.
    """
    binding = _binding()
    try:
        if ir.startswith((b"BC", b"\xde\xc0\x17\x0b")):
            module = binding.parse_bitcode(ir)
        else:
            module = binding.parse_assembly(ir.decode())
        module.verify()
    except (RuntimeError, UnicodeDecodeError) as error:
        raise MalformedInput(f"LLVM cannot read it: {str(error).strip()}", input=name) from error
    machine = _target_machine(triple, optimise)
    if optimise:
        options = binding.create_pipeline_tuning_options(speed_level=optimise)
        binding.create_pass_builder(machine, options).getModulePassManager().run(
            module, binding.create_pass_builder(machine, options)
        )
    emitted: bytes = machine.emit_object(module)
    return emitted


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
    return binding

"""From the IR of a program to an object, optimised for this host.

In the IR addresses start from the symbol @zero (jitlink.bpf.llvm_tier.functions). Once LLVM's passes have run
it becomes null, in the text of the module, so that it costs nothing in the code.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.errors import MissingExtra

LEVEL = 2
"""What LLVM is asked for, as -O2 does."""
_ZERO_ITSELF, _ZERO = re.compile(r"^@zero = .*\n", re.MULTILINE), re.compile(r"@zero\b")


def object_of(text: str, kept: ObjectCache | None) -> bytes:
    """Compile a module, or take it from what was kept. Raises MissingExtra where there is no llvmlite."""
    binding, host = _binding(), _host()
    if kept is None:
        return _compile(text)
    parts = (text, host, str(binding.llvm_version_info), str(LEVEL))
    key = kept.key(parts)
    found = kept.get(key)
    if found is None:
        found = _compile(text)
        kept.put(key, found)
    return found


def _compile(text: str) -> bytes:
    binding = _binding()
    machine = _target_machine()
    try:
        module = binding.parse_assembly(text)
        options = binding.create_pipeline_tuning_options(speed_level=LEVEL)
        options.loop_vectorization = options.slp_vectorization = True
        builder = binding.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
        final = binding.parse_assembly(_ZERO.sub("null", _ZERO_ITSELF.sub("", str(module), 1)))
    except RuntimeError as error:
        raise AssertionError(f"LLVM refuses the IR of a BPF program: {error}") from error
    emitted: bytes = machine.emit_object(final)
    return emitted


@cache
def _target_machine() -> Any:
    binding = _binding()
    target = binding.Target.from_default_triple()
    cpu, features = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=cpu, features=features, opt=LEVEL, reloc="pic", codemodel="small")


@cache
def _host() -> str:
    """All that decides which code LLVM makes of a module on this host."""
    binding = _binding()
    return " ".join(
        (binding.get_default_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    )


@cache
def _binding() -> Any:
    try:
        from llvmlite import binding
    except ImportError as error:
        raise MissingExtra("llvmlite", "llvm", "the llvm tier of BPF programs") from error
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding

"""From the IR of a program to an object, optimised for this host.

In the IR addresses start from the symbol @zero (jitlink.bpf.llvm_tier.accesses). Once LLVM's passes have run
it becomes null, in the text of the module, so that it costs nothing in the code.

Most of LLVM's passes are about loops, and the others are run several times over. So a module can name the functions
that are worth all of them. All functions then go through a short list first, in which each pass has its say once.
For functions without loops that is as good, in a fifth of the time.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any

from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.errors import MissingExtra

LEVEL = 2
"""What LLVM is asked for, as -O2 does."""
SHORT_LIST = (
    *("sroa", "always_inliner", "ipsccp", "dead_arg_elimination", "instruction_combine", "simplify_cfg"),
    *("dead_store_elimination", "aggressive_dce", "simplify_cfg"),
)
"""The passes for all functions of a large module."""
_SKIPPED = re.compile(r"^(attributes #\d+ = {.*)\boptnone ", re.MULTILINE)
_ZERO_ITSELF, _ZERO = re.compile(r"^@zero = .*\n", re.MULTILINE), re.compile(r"@zero\b")


def object_of(text: str, kept: ObjectCache | None, thorough: Collection[str] | None = None) -> bytes:
    """Compile a module, or take it from what was kept.

    thorough: the functions that are worth all passes, None where all are. Raises MissingExtra where there is no
    llvmlite.
    """
    binding, host = _binding(), _host()
    if kept is None:
        return _compile(text, thorough)
    passes = str(LEVEL) if thorough is None else " ".join((*SHORT_LIST, str(LEVEL), *sorted(thorough)))
    key = kept.key((text, host, str(binding.llvm_version_info), passes))
    found = kept.get(key)
    if found is None:
        found = _compile(text, thorough)
        kept.put(key, found)
    return found


def _compile(text: str, thorough: Collection[str] | None) -> bytes:
    binding, machine = _binding(), _target_machine()
    try:
        # What LLVM remembers of constants and types goes with their context.
        with binding.create_context() as context:
            with binding.parse_assembly(text, context) as module:
                _optimise(module, machine, thorough)
                final = _final(str(module))
            with binding.parse_assembly(final, context) as module:
                emitted: bytes = machine.emit_object(module)
    except RuntimeError as error:
        raise AssertionError(f"LLVM refuses the IR of a BPF program: {error}") from error
    return emitted


def _optimise(module: Any, machine: Any, thorough: Collection[str] | None) -> None:
    """Run LLVM's passes on a module."""
    binding = _binding()
    options = binding.create_pipeline_tuning_options(speed_level=LEVEL)
    options.loop_vectorization = options.slp_vectorization = True
    builder = binding.create_pass_builder(machine, options)
    if thorough is not None:
        _run_short_list(module, builder, thorough)
    if thorough is None or thorough:
        builder.getModulePassManager().run(module, builder)


def _run_short_list(module: Any, builder: Any, thorough: Collection[str]) -> None:
    """Run the short list on a module, and let all functions but those named be passed over by what follows."""
    passes = _binding().create_new_module_pass_manager()
    for name in SHORT_LIST:
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)
    for function in module.functions:
        if not function.is_declaration and function.name not in thorough:
            function.add_function_attribute("noinline")
            function.add_function_attribute("optnone")


def _final(text: str) -> str:
    """A module as code is made of it: nothing is passed over, and addresses start from null."""
    return _ZERO.sub("null", _ZERO_ITSELF.sub("", _SKIPPED.sub(r"\1", text), 1))


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

"""The processors that can be emulated: what unicorn and capstone call them and their registers.

unicorn is imported when the first machine is made; this table therefore names its constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from jitlink.errors import MissingExtra, UnsupportedInput


@dataclass(frozen=True)
class Cpu:
    """A processor.

    Attributes: constants (the module of unicorn, and the prefix of register names in it); emulated
    (architecture and mode for unicorn); model (constant of the most capable processor, or ""); decoded
    (architecture and modes for capstone); counter, stack (registers); link (register of the return
    address, or "" where it is on the stack); thread_pointer (register); preparation (bits of registers
    that are set to begin with); traps (by the number of unicorn's interrupt: the reason, and by how many
    bytes the counter is past the instruction then).
    """

    constants: tuple[str, str]
    emulated: tuple[str, str]
    model: str
    decoded: tuple[str, str]
    counter: str
    stack: str
    link: str
    thread_pointer: str
    preparation: Mapping[str, int] = field(default_factory=dict)
    traps: Mapping[int, tuple[str, int]] = field(default_factory=dict)

    def open(self) -> tuple[Any, dict[str, int]]:
        """Make a unicorn engine, and the numbers of its registers by name. Raises MissingExtra."""
        unicorn = unicorn_module()
        engine = unicorn.Uc(*(getattr(unicorn, name) for name in self.emulated))
        module = import_module(f"unicorn.{self.constants[0]}")
        if self.model:
            engine.ctl_set_cpu_model(getattr(module, self.model))
        prefix = self.constants[1]
        numbers = {
            name.removeprefix(prefix).lower(): number
            for name, number in vars(module).items()
            if name.startswith(prefix)
        }
        for name, value in self.preparation.items():
            engine.reg_write(numbers[name], value | engine.reg_read(numbers[name]))
        return engine, numbers

    def disassembler(self) -> Any:
        """Make a capstone decoder. Raises MissingExtra."""
        try:
            import capstone
        except ImportError as error:
            raise MissingExtra("capstone", "all", "disassembly") from error
        architecture, modes = self.decoded
        mode = 0
        for name in modes.split():
            mode |= getattr(capstone, name)
        decoder = capstone.Cs(getattr(capstone, architecture), mode)
        decoder.skipdata = True
        return decoder


DIVISION, UNDEFINED = "a division by zero, or one that overflows", "an undefined instruction"
BREAKPOINT, PRIVILEGED = "a breakpoint", "an instruction that needs privileges"
SYSTEM_CALL = "a system call, and the emulated CPU has no operating system"
RISCV_FLOATING_POINT_ON = 1 << 13
"""mstatus.FS: initial."""
ARM_FLOATING_POINT_ON = 3 << 20
"""CPACR_EL1.FPEN: no traps."""


def unicorn_module() -> Any:
    """Import unicorn, whose own types say little. Raises MissingExtra."""
    try:
        return import_module("unicorn")
    except ImportError as error:
        raise MissingExtra("unicorn", "emulator", "running code in an emulated CPU") from error


CPUS = {
    "x86_64": Cpu(
        constants=("x86_const", "UC_X86_REG_"),
        emulated=("UC_ARCH_X86", "UC_MODE_64"),
        model="",
        decoded=("CS_ARCH_X86", "CS_MODE_64"),
        counter="rip",
        stack="rsp",
        link="",
        thread_pointer="fs_base",
        traps={0: (DIVISION, 0), 3: (BREAKPOINT, 1), 6: (UNDEFINED, 0), 13: (PRIVILEGED, 0), 128: (SYSTEM_CALL, 2)},
    ),
    "aarch64": Cpu(
        constants=("arm64_const", "UC_ARM64_REG_"),
        emulated=("UC_ARCH_ARM64", "UC_MODE_ARM"),
        model="UC_CPU_ARM64_MAX",
        decoded=("CS_ARCH_ARM64", "CS_MODE_ARM"),
        counter="pc",
        stack="sp",
        link="lr",
        thread_pointer="tpidr_el0",
        preparation={"cpacr_el1": ARM_FLOATING_POINT_ON},
        traps={1: (UNDEFINED, 0), 2: (SYSTEM_CALL, 4), 7: (BREAKPOINT, 0)},
    ),
    "riscv64": Cpu(
        constants=("riscv_const", "UC_RISCV_REG_"),
        emulated=("UC_ARCH_RISCV", "UC_MODE_RISCV64"),
        model="",
        decoded=("CS_ARCH_RISCV", "CS_MODE_RISCV64 CS_MODE_RISCVC"),
        counter="pc",
        stack="sp",
        link="ra",
        thread_pointer="tp",
        preparation={"mstatus": RISCV_FLOATING_POINT_ON},
        traps={2: (UNDEFINED, 4), 3: (BREAKPOINT, 0), **dict.fromkeys((8, 9, 11), (SYSTEM_CALL, 4))},
    ),
}


def cpu_of(target: str) -> Cpu:
    """The processor that runs code of a target. Raises UnsupportedInput where there is none."""
    if target not in CPUS:
        raise UnsupportedInput(f"there is no emulated CPU for {target}", hint=f"There are {', '.join(CPUS)}")
    return CPUS[target]

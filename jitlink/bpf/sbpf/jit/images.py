"""From an SBPF program to machine code in memory."""

from __future__ import annotations

from collections.abc import Mapping

from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.hardening import Hardening, start_in_page
from jitlink.bpf.jit.images import Image, load_image
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.jit.compiler import Layout, compile_program
from jitlink.bpf.sbpf.jit.lowering import lower
from jitlink.bpf.sbpf.memory import FRAME_SIZE
from jitlink.bpf.sbpf.targets import TargetOf
from jitlink.bpf.sbpf.versions import Version
from jitlink.memory import page_size


def image_of(
    executable: Executable,
    target_of: TargetOf,
    shapes: Shapes,
    natives: Mapping[int, int],
    hardening: Hardening | None,
) -> Image:
    """Compile a program that can be lowered, link it and map it.

    target_of: the slot that a call leads to, see TargetOf. shapes: of a back end for SBPF. natives: addresses of
    syscalls in machine code, by number. Raises LinkError, and MemoryRefused where the host gives no memory.
    """
    lowered = lower(executable, target_of)
    version = executable.version
    layout = Layout(
        step=frame_step(version),
        natives=natives,
        frame_is_known=version.moves_frames and not lowered.slots.moves_frame_pointer,
    )
    start = start_in_page(hardening.randomness(), page_size()) if hardening else 0
    made = compile_program(lowered, shapes, layout, hardening)
    return load_image(made, shapes.backend, executable.name, {}, start)


def frame_step(version: Version) -> int:
    """How far a call moves r10, in bytes."""
    return FRAME_SIZE * (1 + version.has_gaps) if version.moves_frames else 0

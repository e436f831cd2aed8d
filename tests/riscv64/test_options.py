"""relax=False and --no-relax: wherever a link can be asked for, it can be asked to leave code as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import jitlink
from jitlink.cli import main
from tests.riscv64.objects import BASE, assembled, linked, text

CALL = ".text\n.option relax\n.globl start\nstart: call start"


def test_code_is_relaxed_unless_that_is_not_wanted():
    """It is what every linker for RISC-V does by default."""
    assert text(linked(CALL)) == ["jal 0"]
    assert text(linked(CALL, relax=False)) == ["auipc ra, 0", "jalr ra"]


@pytest.mark.parametrize(("flags", "size"), [((), 4), (("--relax",), 4), (("--no-relax",), 8)])
def test_the_command_line_has_the_option(flags: tuple[str, ...], size: int, tmp_path: Path):
    """`jitlink link --no-relax` writes the call as it was."""
    (tmp_path / "call.o").write_bytes(assembled(CALL))
    output = tmp_path / "image"
    result = CliRunner().invoke(
        main, ["link", str(tmp_path / "call.o"), "--base", hex(BASE), "-o", str(output), *flags], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert len(output.read_bytes()) == size


def test_the_other_machines_take_the_option_as_well():
    """Code for them is never marked, and comes out the same."""
    from tests.toolchain import assemble

    content = assemble(".globl start\nstart: call start\nret")
    images = [jitlink.link(content, base=BASE, relax=relax).to_bytes() for relax in (True, False)]
    assert images[0] == images[1]

"""Every relocation that is linked obeys its rule, at both ends of its range, and not one past them.

The rules are those of LLVM's check language; where llvm-jitlink of LLVM 22 can link the same object, it
must find that they hold there too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import jitlink
from jitlink.check import Report, check
from tests.check.cases import BASE, Case
from tests.check.relocations import AARCH64_ELF, RISCV64_ELF, X86_64_ELF
from tests.check.relocations_of_others import AARCH64_COFF, AARCH64_MACHO, X86_64_COFF, X86_64_MACHO
from tests.toolchain import assemble

pytest.importorskip("capstone")

CASES = {
    "aarch64-linux-gnu": AARCH64_ELF,
    "riscv64-linux-gnu": RISCV64_ELF,
    "x86_64-linux-gnu": X86_64_ELF,
    "x86_64-macos": X86_64_MACHO,
    "aarch64-macos": AARCH64_MACHO,
    "x86_64-windows-gnu": X86_64_COFF,
    "aarch64-windows-gnu": AARCH64_COFF,
}
ALL = [(target, case) for target, cases in CASES.items() for case in cases]
ORACLE = "llvm-jitlink-22"


def described(value: object) -> str:
    return value.name if isinstance(value, Case) else str(value)


def with_underscores(text: str) -> str:
    """Spell the names of a case as macOS spells those of C."""
    return re.sub(r"\b(far|site|other)\b", r"_\1", text)


class Built:
    """The object and the rules of a case for a value."""

    def __init__(self, target: str, case: Case, value: int, directory: Path) -> None:
        spelt = with_underscores if target.endswith("macos") else str
        riscv = target.startswith("riscv64")
        options = ".option norelax\n.option rvc\n" if riscv else ""
        self.file, self.rules = directory / "case.o", directory / "rules.txt"
        # LLVM's checker decodes only what is inside of the size of a symbol.
        end = ".size site, .-site" if target.endswith("linux-gnu") else ""
        content = assemble(options + spelt(case.text(value, end)), *(["-mno-relax"] if riscv else []), target=target)
        self.file.write_bytes(content)
        self.rules.write_text("".join(f"# jitlink-check: {spelt(rule)}\n" for rule in case.rules))
        self.define = {} if case.placed else {"far": case.far(value)}
        self.far, self.site = spelt("far"), spelt("site")

    def check(self, rules: Path | None = None) -> Report:
        return check(self.file, rules=rules or self.rules, base=BASE, define=self.define)

    def through_stub(self) -> Path:
        """The rules, of the stub of far in the place of far."""
        text = re.sub(rf"(?<=[ (]){self.far}(?= -)", f"stub_addr(case.o, {self.far})", self.rules.read_text())
        file = self.rules.with_name("stub.txt")
        file.write_text(f"{text}# jitlink-check: *{{8}}got_addr(case.o, {self.far}) = {self.far}\n")
        return file


def shown(report: Report) -> list[str]:
    return [str(failure) for failure in report.failures]


@pytest.mark.parametrize(("target", "case"), ALL, ids=described)
def test_a_relocation_obeys_its_rule_to_both_ends_of_its_range(target, case, tmp_path):
    """The object holds the relocation, and its rules hold for every value that fits."""
    for value in case.inside:
        built = Built(target, case, value, tmp_path)
        assert any(edge.kind.startswith(case.name) for edge in jitlink.read(built.file).edges)
        report = built.check()
        assert report.passed, shown(report)


@pytest.mark.parametrize(("target", "case"), [(target, case) for target, case in ALL if case.outside], ids=described)
def test_one_past_the_range_is_refused_or_goes_through_a_stub(target, case, tmp_path):
    """A value that does not fit is OutOfRange; a call goes through a stub instead, which holds the address."""
    for value in case.outside:
        built = Built(target, case, value, tmp_path)
        if case.stubbed:
            assert not built.check().passed
            report = built.check(built.through_stub())
            assert report.passed, shown(report)
        else:
            with pytest.raises(jitlink.OutOfRange):
                built.check()


@pytest.mark.parametrize(("target", "case"), ALL, ids=described)
def test_llvms_jit_linker_agrees(target, case, tmp_path):
    """llvm-jitlink finds that the same rules hold for the same object at the same addresses."""
    if shutil.which(ORACLE) is None:
        pytest.skip(f"{ORACLE} is not installed")
    for value in case.inside:
        built = Built(target, case, value, tmp_path)
        command = [ORACLE, "-noexec", "-slab-allocate=64Kb", f"-slab-address={BASE:#x}", "-slab-page-size=4096"]
        command += [f"-abs={built.far}={address:#x}" for address in built.define.values()]
        # It relaxes calls of what is near on x86-64 only; elsewhere they keep their stubs.
        rules = built.through_stub() if case.stubbed and not target.startswith("x86_64") else built.rules
        command += [f"-entry={built.site}", f"-check={rules}", str(built.file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if is_not_linked_by_llvm(result.stderr):
            pytest.skip(f"LLVM does not link it: {result.stderr.strip()[-200:]}")
        assert result.returncode == 0, result.stderr


def is_not_linked_by_llvm(message: str) -> bool:
    """Whether LLVM's linker has no support for the case, which says nothing of the rules."""
    return "rror evaluating" not in message and "is false" not in message and bool(message.strip())

"""Running rules: what is in an image under which name, and what the command line says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

import jitlink
from jitlink.check import check
from jitlink.cli import main
from tests.toolchain import archive_of, assemble, zig_cc

pytest.importorskip("capstone")

SOURCE = """
        .text
        .globl main, call_site, load, through_got, jump, target, pointer, data
        .type main, @function
main:
call_site: callq target
        .size call_site, .-call_site
load:   movl data+4(%rip), %eax
        .size load, .-load
through_got: movq ext@GOTPCREL(%rip), %rax
        .size through_got, .-through_got
jump:   callq ext@PLT
        .size jump, .-jump
        retq
target: retq
        .size main, .-main
        .data
data:   .long 1, 2
pointer: .quad data + 4
        .bss
        .globl zeroes
zeroes: .zero 16
"""
RULES = """
# jitlink-check: decode_operand(call_site, 0) = target - next_pc(call_site)
# jitlink-check: decode_operand(load, 4) = data + 4- next_pc(load)
# jitlink-check: decode_operand(main+ 5, 4) = decode_operand(load, 4)
# jitlink-check: *{8}pointer = data + 4
# jitlink-check: (*{4}pointer) = (data + 4)[31:0]
# jitlink-check: *{8}got_addr(a.o, ext) = ext
# jitlink-check: decode_operand(through_got, 4) = \\
# jitlink-check:   got_addr(a.o, ext) - next_pc(through_got)
# jitlink-check: decode_operand(jump, 0) = stub_addr(a.o, ext) - next_pc(jump)
# jitlink-check: section_addr(a.o, .text) = main
# jitlink-check: *{4}zeroes = 0
# jitlink-check: (*{4}data) + ((*{4}(data + 4)) << 4) = 33
"""
EXT = 0x7FFF_0000_0000
BASE = 0x1_0000_0000


@pytest.fixture
def inputs(tmp_path):
    """An object and a file of rules that hold."""
    (tmp_path / "a.o").write_bytes(assemble(SOURCE))
    (tmp_path / "rules.s").write_text(RULES)
    return tmp_path / "a.o", tmp_path / "rules.s"


def run(*arguments: object):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_rules_of_every_sort_hold(inputs):
    """Operands, loads, GOT entries, stubs and sections are where the rules say."""
    report = check(inputs[0], rules=inputs[1], base=BASE, define={"ext": EXT})
    assert report.passed, [str(failure) for failure in report.failures]
    assert report.rules == 11


def test_llvms_jit_linker_says_the_same_of_every_rule(inputs, tmp_path):
    """Each rule, and the same rule with another value, has one answer from both linkers."""
    if shutil.which("llvm-jitlink-22") is None:
        pytest.skip("llvm-jitlink-22 is not installed")
    rules = re.sub(r"\\\n# jitlink-check:", "", RULES)
    wrong = re.sub(r"= (.*)\n", r"= (\1)+ 1\n", rules)
    for text, number in ((rules, 0), (wrong, 11)):
        file = tmp_path / "some.txt"
        file.write_text(text)
        report = check(inputs[0], rules=file, base=BASE, define={"ext": EXT})
        command = ["llvm-jitlink-22", "-noexec", "-slab-allocate=64Kb", f"-slab-address={BASE}", "-slab-page-size=4096"]
        command += [f"-abs=ext={EXT:#x}", f"-check={file}", str(inputs[0])]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (result.stderr.count("is false"), result.stderr.count("Error evaluating")) == (number, 0), result.stderr
        assert len(report.failures) == number
        assert not any(failure.reason for failure in report.failures)


def test_the_command_says_how_many_hold_and_exits_with_0(inputs):
    """All is well: one line, and success."""
    result = run(inputs[0], "--rules", inputs[1], "--define", f"ext={EXT:#x}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("rules.s: 11 of 11 rules hold\n")


@pytest.mark.parametrize(("base", "define"), [("--base", "--define"), ("--slab-address", "--abs")])
def test_the_base_and_the_definitions_are_the_callers(inputs, base, define):
    """Both spellings of the options place the image and give names."""
    inputs[1].write_text("# jitlink-check: main = 0x230000\n# jitlink-check: other + ext = 0x60\n")
    result = run(inputs[0], "--rules", inputs[1], base, "0x230000", define, "ext=0x20", define, "other=0x40")
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_failing_rule_is_shown_with_both_values(inputs):
    """The line, the rule and both values are printed to standard error; the exit code is 1."""
    inputs[1].write_text("nop\n# jitlink-check: main + 1 = main\n# jitlink-check: main = main\n")
    result = run(inputs[0], "--rules", inputs[1], "--base", "0x10000", "--define", "ext=0x20")
    assert result.exit_code == 1
    assert result.stderr.endswith("rules.s: line 2: main + 1 = main is false: 0x10001 is not 0x10000\n")
    assert result.stdout.endswith("1 of 2 rules hold\n")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("nowhere = 1", "there is no symbol nowhere"),
        (".Lmain = 1", "is wanted at"),
        ("Lmain = 1", "an assembler drops labels"),
        ("main", "there is no = in it"),
        ("section_addr(b.o, .text) = 1", "there is no input b.o; there are"),
        ("section_addr(a.o, .init) = 1", "a.o has no section .init"),
        ("got_addr(a.o, nowhere) = 1", "there is no symbol nowhere"),
        ("got_addr(b.o, ext) = 1", "there is no input b.o"),
        ("*{8}0x123 = 1", "no 8 bytes at 0x123"),
        ("*{8}ext = 1", "bytes at 0x7fff00000000"),
        ("decode_operand(data, 0) = 1", "operand|none whose"),
        ("decode_operand(call_site, 7) = 1", "has 1 operands, of which 7 is none"),
        ("decode_operand(load, 0) = 1", "operand 0 of .*mov.* is not an immediate"),
        ("decode_operand(main + 99999, 0) = 1", "no code at main"),
        ("next_pc(ext) = 1", "no code at ext"),
    ],
)
def test_a_rule_that_cannot_be_evaluated_is_a_failure_with_its_reason(inputs, rule, reason):
    """One bad rule does not keep the others from being checked."""
    inputs[1].write_text(f"# jitlink-check: {rule}\n# jitlink-check: main = main\n")
    report = check(inputs[0], rules=inputs[1], base=BASE, define={"ext": EXT})
    [failure] = report.failures
    assert re.search(reason, failure.reason), failure.reason
    result = run(inputs[0], "--rules", inputs[1], "--define", f"ext={EXT}")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr


def test_rules_have_the_name_that_is_asked_for(inputs):
    """--check-name and --prefix choose among the rules of a file."""
    inputs[1].write_text("# jitlink-check: 1 = 2\n# OTHER: 2 = 2\n")
    for option in ("--check-name", "--prefix"):
        result = run(inputs[0], "--rules", inputs[1], "--define", "ext=1", option, "OTHER")
        assert (result.exit_code, result.stdout.rpartition(": ")[2]) == (0, "1 of 1 rules hold\n")


def test_several_inputs_and_files_of_rules_are_taken(tmp_path, inputs):
    """Objects and archives are linked together; each file is counted by itself."""
    (tmp_path / "ext.o").write_bytes(assemble(".globl ext\n.type ext, @function\next: retq\n"))
    (tmp_path / "more.a").write_bytes(archive_of({"more.o": assemble(".globl more\nmore: retq\n")}))
    (tmp_path / "more.s").write_text(
        "# jitlink-check: section_addr(ext.o, .text) = ext\n# jitlink-check: more - more = 0\n"
        "# jitlink-check: decode_operand(jump, 0) = ext - next_pc(jump)\n"
        "# jitlink-check: *{8}got_addr(a.o, ext) = ext\n"
        "# jitlink-check: *{8}(stub_addr(a.o, ext)[63:0] & 0) + pointer = data + 4\n"
    )
    inputs[1].write_text("# jitlink-check: main = main\n")
    objects = [inputs[0], tmp_path / "ext.o", tmp_path / "more.a"]
    result = run(*objects, "--rules", inputs[1], "--rules", tmp_path / "more.s")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("rules hold") == 2


def test_a_stub_may_be_asked_for_with_a_section_or_a_kind(inputs):
    """The older form names a section of the file, the newer one a kind of stub behind the symbol."""
    inputs[1].write_text(
        "# jitlink-check: stub_addr(a.o, .text, ext) = stub_addr(a.o, ext)\n"
        "# jitlink-check: stub_addr(a.o, ext, plt) = stub_addr(a.o, ext)\n"
        "# jitlink-check: got_addr(a.o, ext, got) = got_addr(a.o, ext)\n"
    )
    report = check(inputs[0], rules=inputs[1], base=BASE, define={"ext": EXT})
    assert report.passed, [str(failure) for failure in report.failures]


def test_sections_of_mach_o_have_a_comma_in_their_names(tmp_path):
    """Everything behind the first comma, up to the bracket, is the section; names have their underscore."""
    (tmp_path / "a.o").write_bytes(
        zig_cc("int twice(int x) { return 2 * x; } int data = 5;", "-O1", target="aarch64-macos")
    )
    (tmp_path / "rules.s").write_text(
        "// jitlink-check: section_addr(a.o, __TEXT,__text) = _twice\n// jitlink-check: *{4}_data = 5\n"
    )
    report = check(tmp_path / "a.o", rules=tmp_path / "rules.s")
    assert report.passed, [str(failure) for failure in report.failures]


NEAR = """
        .text
        .globl page, offset, data
page:   adrp x0, :got:data
        .size page, .-page
offset: ldr x0, [x0, :got_lo12:data]
        .size offset, .-offset
        .data
data:   .xword 1
"""
KEPT = """
// jitlink-check: decode_operand(page, 1) = (got_addr(a.o, data)[63:12] - page[63:12])
// jitlink-check: decode_operand(offset, 2) = got_addr(a.o, data)[11:3]
"""


def test_loads_of_near_entries_are_kept_where_llvm_keeps_them(tmp_path):
    """On AArch64 the default is --no-relax, as LLVM's JIT linker rewrites nothing there."""
    (tmp_path / "a.o").write_bytes(assemble(NEAR, target="aarch64-linux-gnu"))
    (tmp_path / "rules.s").write_text(KEPT.replace("//", "#"))
    for relax, holds in ((None, True), (False, True), (True, False)):
        assert check(tmp_path / "a.o", rules=tmp_path / "rules.s", base=BASE, relax=relax).passed is holds
    if shutil.which("llvm-jitlink-22"):
        command = ["llvm-jitlink-22", "-noexec", "-entry=page", f"-check={tmp_path / 'rules.s'}", str(tmp_path / "a.o")]
        subprocess.run(command, timeout=60, check=True)


# What cannot be checked at all


def test_a_file_without_rules_is_an_error(inputs):
    """As for LLVM, no rule is no success."""
    inputs[1].write_text("# jitlink-checks: main = main\n")
    result = run(inputs[0], "--rules", inputs[1], "--define", "ext=1")
    assert result.exit_code == 1
    assert "no line begins with '# jitlink-check:'" in result.stderr


def test_a_file_of_rules_that_is_not_there_is_an_error(inputs):
    """The error names the file."""
    result = run(inputs[0], "--rules", inputs[1].with_name("none.s"), "--define", "ext=1")
    assert result.exit_code == 1
    assert "none.s" in result.stderr


def test_a_link_that_fails_is_an_error(inputs):
    """An undefined symbol is reported as by jitlink link."""
    result = run(inputs[0], "--rules", inputs[1])
    assert result.exit_code == 1
    assert "ext, referred to by" in result.stderr


def test_bad_usage_exits_with_2(inputs):
    """Missing or wrong options are bad usage."""
    assert run(inputs[0]).exit_code == 2
    assert run("--rules", inputs[1]).exit_code == 2
    assert run(inputs[0], "--rules", inputs[1], "--define", "ext").exit_code == 2
    assert run(inputs[0], "--rules", inputs[1], "--base", "low").exit_code == 2


def test_text_that_is_not_utf8_and_escapes_are_shown_harmlessly(inputs):
    """A rule that quotes terminal escapes cannot write to the terminal."""
    inputs[1].write_bytes(b"# jitlink-check: \x1b[31m\xff = 1\n")
    result = run(inputs[0], "--rules", inputs[1], "--define", "ext=1")
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr


def test_the_listing_of_llvms_own_tests_is_read(tmp_path):
    """A file in the style of LLVM's tests, RUN lines and all, is taken as it is."""
    source = Path(__file__).parent / "rules" / "llvm_style.s"
    (tmp_path / "test.o").write_bytes(assemble(source.read_text()))
    report = check(
        tmp_path / "test.o",
        rules=source,
        define={"external_func": 0xFFFF_0010, "external_data": 0xFFFF_0020},
        base=0xFFF0_0000,
    )
    assert report.passed, [str(failure) for failure in report.failures]
    assert report.rules == 6
    assert isinstance(report, jitlink.check.Report)

"""The command line: what it prints, what it exits with, and what a program run by it sees.

Each test starts the command as a person would. The oracle for `run` is the same program, linked by the
system's way and started by the kernel.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

import jitlink
from tests.toolchain import archive_of, assemble, link_executable, link_shared, zig_cc

ROOT = Path(__file__).parents[1]
ANSI = re.compile(r"\x1b\[[0-9;]*m")
ANSWER = "int main(void) { return 48; }"
LIFE = """
#include <stdio.h>
#include <stdlib.h>
static void first(void) { puts("first handler"); }
static void second(void) { puts("second handler"); }
__attribute__((constructor)) static void begin(void) { puts("constructor"); atexit(first); }
__attribute__((destructor)) static void end(void) { puts("destructor"); }
int main(int argc, char **argv, char **envp) {
    atexit(second);
    for (int i = 1; i < argc; i++) printf("argument %d is %s\\n", i, argv[i]);
    printf("%d %d %s", argv[argc] == 0, envp[0] != 0, getenv("JITLINK_TEST"));
    if (argc > 3) exit(300 + argc);
    return 300 + argc;
}
"""


def environment():
    """The environment of this process, in which a test finds the checkout and a variable to look for."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JITLINK_TEST": "seen", "COLUMNS": ""}


def command(*arguments, cwd, **keywords):
    """Run the command line; returns the finished process, its output as text."""
    return subprocess.run(
        [sys.executable, "-m", "jitlink", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **keywords,
    )


@pytest.fixture
def write(tmp_path):
    """A function that writes an object of C source, or given bytes, into the test's directory."""

    def write_file(name, content, *flags):
        machine_code = zig_cc(content, *flags) if isinstance(content, str) else content
        (tmp_path / name).write_bytes(machine_code)
        return name

    return write_file


def fails_with(result, *words):
    """Check a failed link: exit code 1, a message that holds these words, no traceback, no output."""
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("arguments", [[], ["one"], ["one", "two words"], ["--flag", "-l", "--", "äö"]], ids=len)
def test_run_does_what_the_program_does_when_the_system_starts_it(write, tmp_path, arguments):
    """Output, order of constructors, handlers and destructors, and exit code: as an executable has them.

    With four arguments the program leaves by exit() instead of returning.
    """
    write("life.o", LIFE)
    native = subprocess.run(
        [link_executable([zig_cc(LIFE)]), *arguments],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    linked = command("run", "life.o", "--", *arguments, cwd=tmp_path)
    assert linked.stderr == ""
    assert linked.stdout == native.stdout
    assert linked.returncode == native.returncode == (301 + len(arguments)) % 256


def test_program_is_told_the_name_of_the_first_input(write, tmp_path):
    """argv[0] is the first input as it was given, and the program may write to it."""
    source = "#include <stdio.h>\nint main(int n, char **v) { v[0][0] = 'X'; printf(\"%d %s\", n, v[0]); return 0; }"
    write("name.o", source)
    assert command("run", "name.o", cwd=tmp_path).stdout == "1 Xame.o"


@pytest.mark.parametrize("name", ["SIGINT", "SIGPIPE"])
def test_signal_ends_the_program_as_it_would_natively(write, tmp_path, name):
    """Python's own handling of signals is gone: Ctrl-C ends a program that does not return to Python."""
    number = getattr(signal, name)
    write("raise.o", f"#include <signal.h>\nint main(void) {{ raise({int(number)}); return 0; }}")
    assert command("run", "raise.o", cwd=tmp_path).returncode == -number


def test_hidden_main_is_found(write, tmp_path):
    """-fvisibility=hidden hides main too; a program is started by it all the same."""
    write("hidden.o", ANSWER, "-fvisibility=hidden")
    assert command("run", "hidden.o", cwd=tmp_path).returncode == 48


def test_llvm_ir_is_run(tmp_path):
    """A module in text form is compiled and run."""
    (tmp_path / "prog.ll").write_text("define i32 @main() {\n  ret i32 48\n}\n")
    assert command("run", "prog.ll", cwd=tmp_path).returncode == 48


def test_entry_names_another_function(write, tmp_path):
    """--entry calls another function than main."""
    write("start.o", "int start(int argc) { return 10 * argc; } int main(void) { return 1; }")
    assert command("run", "start.o", "--entry", "start", "--", "x", "y", cwd=tmp_path).returncode == 30


def test_define_gives_an_address(write, tmp_path):
    """--define NAME=ADDRESS is the address that the program sees, before that of the process."""
    write("defined.o", "extern char getenv[]; int main(void) { return (long)getenv == 0x12345; }", "-fno-builtin")
    assert command("run", "defined.o", "--define", "getenv=0x12345", cwd=tmp_path).returncode == 1


def test_archive_members_are_taken_on_demand(write, tmp_path):
    """Of an archive given as an input, or by -L and -l, only what main needs is linked."""
    write("main.o", "int answer(void); int main(void) { return answer(); }")
    members = {"broken.o": zig_cc("int nowhere(void); int unused(void) { return nowhere(); }")}
    members["answer.o"] = zig_cc("int answer(void) { return 48; }")
    write("libparts.a", archive_of(members))
    assert command("run", "main.o", "libparts.a", cwd=tmp_path).returncode == 48
    assert command("run", "-L", ".", "main.o", "-lparts", cwd=tmp_path).returncode == 48
    fails_with(command("run", "main.o", "libparts.a", "--whole-archive", cwd=tmp_path), "nowhere")


def test_shared_library_of_a_directory_goes_before_the_archive(write, tmp_path):
    """In a directory of -L, libNAME.so goes before libNAME.a, as for ld."""
    write("main.o", "int which(void); int main(void) { return which(); }")
    (tmp_path / "libboth.so").write_bytes(link_shared([zig_cc("int which(void) { return 2; }")]).read_bytes())
    write("libboth.a", archive_of({"which.o": zig_cc("int which(void) { return 3; }")}))
    assert command("run", "main.o", "-L", tmp_path, "-l", "both", cwd=tmp_path).returncode == 2


def test_library_of_the_system_is_found_by_its_name(write, tmp_path):
    """-l m is the mathematical library, although libm.so of a development package is a script for ld."""
    write("cosine.o", "double cos(double); int main(int n, char **v) { return (int)(10 * cos(n - 1)); }")
    assert command("run", "cosine.o", "-l", "m", cwd=tmp_path).returncode == 10


def test_variable_of_a_library_is_copied_when_asked(write, tmp_path):
    """--copy-data lets code with 32-bit addresses reach a variable of the C library."""
    source = """
        .globl main
main:   sub $8, %rsp
        mov $text, %edi
        mov stdout, %rsi
        call fputs
        xor %eax, %eax
        add $8, %rsp
        ret
        .data
text:   .asciz "copied"
"""
    write("absolute.o", assemble(source))
    assert command("run", "absolute.o", "--copy-data", "stdout", cwd=tmp_path).stdout == "copied"


def test_program_without_main_runs_nothing(write, tmp_path):
    """Where the function to call is missing, not even the initialisers run."""
    source = '#include <stdio.h>\n__attribute__((constructor)) void begin(void) { puts("ran"); fflush(stdout); }'
    write("parts.o", source)
    fails_with(command("run", "parts.o", cwd=tmp_path), "no input defines main", "--entry")


def test_undefined_symbols_are_all_named(write, tmp_path):
    """A failed link exits with 1 and says every missing name and who refers to it."""
    write("lost.o", "int lost(void); int gone(void); int main(void) { return lost() + gone(); }")
    fails_with(command("run", "lost.o", cwd=tmp_path), "2 undefined symbols", "lost", "gone", "lost.o: .text")


def test_missing_library_says_where_it_was_looked_for(write, tmp_path):
    """-l of a library that is nowhere names the directories."""
    write("answer.o", ANSWER)
    fails_with(command("run", "answer.o", "-L", "here", "-l", "nowhere", cwd=tmp_path), "-l nowhere", "here")


@pytest.mark.parametrize("name", ["run", "show", "link"])
@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "No such file"), (b"", "empty"), (b"hello", "neither an object"), (b"\x7fELF", "")],
    ids=["missing", "empty", "text", "cut short"],
)
def test_bad_input_is_a_message_that_names_it(tmp_path, name, content, word):
    """Every command answers bad input with exit code 1 and one message."""
    if content is not None:
        (tmp_path / "bad.o").write_bytes(content)
    base = ["--base", "0x1000"] if name == "link" else []
    fails_with(command(name, "bad.o", *base, cwd=tmp_path), "jitlink: bad.o", word)


def test_terminal_escapes_in_an_error_are_shown_as_text(write, tmp_path):
    """A symbol's name cannot clear the screen from within an error."""
    write("hostile.o", assemble('.globl main\nmain: jmp "\x1b[2Jhostile"\n'))
    result = command("run", "hostile.o", cwd=tmp_path)
    fails_with(result, "\\x1b[2Jhostile")
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["link"],
        ["show"],
        ["link", "a.o"],
        ["link", "a.o", "--base", "here"],
        ["link", "a.o", "--base", "-1"],
        ["link", "a.o", "--base", "0x10000000000000000"],
        ["run", "a.o", "--define", "name"],
        ["run", "a.o", "--define", "=1"],
        ["run", "a.o", "--define", "name=x"],
        ["run", "a.o", "--no-such-option"],
        ["dance"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(tmp_path, arguments):
    """Wrong arguments are told apart from wrong inputs."""
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "Usage: " in result.stderr


def test_linked_image_is_written(write, tmp_path):
    """The file holds the image from its base on; a call in it reaches the address that was defined."""
    # call puts: E8, then S + A - P with A = -4 (psABI: R_X86_64_PLT32 to something near).
    write("call.o", assemble(".globl start\nstart: call puts\n"))
    base, puts = 0x1000_0000, 0x1000_8000
    result = command("link", "call.o", "--base", hex(base), "--define", f"puts={puts:#x}", "-o", "a.bin", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    content = (tmp_path / "a.bin").read_bytes()
    assert content[:5] == b"\xe8" + struct.pack("<i", puts - 4 - (base + 1))
    assert content == jitlink.link(tmp_path / "call.o", base=base, define={"puts": puts}).to_bytes()


def test_image_goes_to_standard_output(write, tmp_path):
    """-o - writes the bytes and nothing else."""
    write("data.o", assemble('.data\n.ascii "only this"\n'))
    assert command("link", "data.o", "--base", "0x1000", "-o", "-", cwd=tmp_path).stdout == "only this"


def test_link_map_is_printed_or_written(write, tmp_path):
    """The map goes to standard output with --map or when nothing else is asked for, or to a file."""
    write("answer.o", ANSWER)
    alone = command("link", "answer.o", "--base", "0x400000", cwd=tmp_path)
    asked = command("link", "answer.o", "--base", "0x400000", "--map", "-o", "a.bin", cwd=tmp_path)
    written = command("link", "answer.o", "--base", "0x400000", "--map-file", "a.map", cwd=tmp_path)
    assert alone.stdout == asked.stdout == (tmp_path / "a.map").read_text()
    assert written.stdout == ""
    assert re.search(r"0x400000 +0x\w+ +main\n", alone.stdout)


def test_archive_is_linked_for_what_is_exported(write, tmp_path):
    """--export takes the members that define names; without it nothing asks for a member."""
    write("libone.a", archive_of({"one.o": zig_cc("int one(void) { return 1; }")}))
    base = ["--base", "0x400000"]
    assert "one.o" in command("link", "libone.a", *base, "--export", "one", cwd=tmp_path).stdout
    fails_with(command("link", "libone.a", *base, cwd=tmp_path), "nothing asks for a member")


def test_failed_link_leaves_no_file(write, tmp_path):
    """The output is opened only when there is an image to write."""
    write("lost.o", "int lost(void); int main(void) { return lost(); }")
    arguments = ["link", "lost.o", "--base", "0x400000", "-o", "a.bin", "--map-file", "a.map"]
    fails_with(command(*arguments, cwd=tmp_path), "lost")
    assert not (tmp_path / "a.bin").exists()
    assert not (tmp_path / "a.map").exists()


@pytest.mark.parametrize("base", ["0x1234", "0xfffffffffffff000"])
def test_impossible_base_is_refused(write, tmp_path, base):
    """A base inside of a page, or without room behind it, is a failed link."""
    write("answer.o", ANSWER)
    fails_with(command("link", "answer.o", "--base", base, cwd=tmp_path), "base address")


def test_variable_out_of_reach_is_refused(write, tmp_path):
    """What a 32-bit distance does not reach is an error; nothing stands in for a variable."""
    write("far.o", assemble(".globl read\nread: mov variable(%rip), %eax\nret\n"))
    result = command("link", "far.o", "--base", "0x1000", "--define", "variable=0x200000000", cwd=tmp_path)
    fails_with(result, "far.o: .text+0x2", "R_X86_64_PC32", "variable", "is outside")


def test_unknown_target_is_refused_with_those_that_there_are(write, tmp_path):
    """--target names a machine that we link for."""
    write("answer.o", ANSWER)
    fails_with(command("link", "answer.o", "--base", "0", "--target", "z80", cwd=tmp_path), "'z80'", "x86_64")


def test_show_lists_each_input(write, tmp_path):
    """Sections, symbols and edges of every input, without colours where there is no terminal."""
    write("one.o", "int two(void); int one(void) { return two(); }")
    write("libtwo.a", archive_of({"two.o": zig_cc("int two(void) { return 2; }")}))
    output = command("show", "one.o", "libtwo.a", cwd=tmp_path).stdout
    assert output.startswith("one.o: x86_64, ")
    assert "\nlibtwo.a(two.o): x86_64, " in output
    assert re.search(r"R_X86_64_PLT32 +two - 0x4 +L \+ A - P\n", output)
    assert "\x1b" not in output


def on_terminal(*arguments, cwd, columns, **variables):
    """Run the command line on a terminal of that width; returns what it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {name: value for name, value in environment().items() if name not in ("NO_COLOR", "COLUMNS", "TERM")}
    with subprocess.Popen(
        [sys.executable, "-m", "jitlink", *arguments],
        cwd=cwd,
        env={**inherited, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **variables},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        output = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            output += part
    os.close(ours)
    assert process.returncode == 0, output
    return output.decode()


def test_listing_fits_the_terminal_and_has_colour_only_there(write, tmp_path):
    """No line is wider than the terminal; NO_COLOR turns the colours off."""
    write("wide.o", assemble(f'.globl {"long" * 50}\n{"long" * 50}: call "größe\x1b[31m"\n'))
    output = on_terminal("show", "wide.o", cwd=tmp_path, columns=50)
    assert ANSI.search(output)
    assert max(cell_len(ANSI.sub("", line)) for line in output.splitlines()) == 50
    assert "größe\\x1b[31m" in output
    assert "\x1b" not in on_terminal("show", "wide.o", cwd=tmp_path, columns=50, NO_COLOR="1")


def test_listing_survives_an_encoding_that_lacks_characters(write, tmp_path):
    """Where standard output is ASCII, other characters become escapes."""
    write("wide.o", assemble('.globl "größe"\n"größe": ret\n'))
    result = subprocess.run(
        [sys.executable, "-m", "jitlink", "show", "wide.o"],
        cwd=tmp_path,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert rb"gr\xf6\xdfe" in result.stdout


def test_demo_finds_all_answers_right(tmp_path):
    """The demo checks every answer and needs no compiler: not even a PATH to find one in."""
    result = subprocess.run(
        [sys.executable, "-m", "jitlink", "demo"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "answer() = 48" in result.stdout
    assert "All answers are right." in result.stdout


def test_version_is_that_of_the_package(tmp_path):
    """jitlink --version prints the name and the version."""
    assert command("--version", cwd=tmp_path).stdout == f"jitlink {jitlink.__version__}\n"


@pytest.mark.parametrize("name", [[], ["run"], ["link"], ["show"], ["demo"]], ids="".join)
def test_every_command_has_a_help_text(tmp_path, name):
    """--help of each command exits with 0 and says what it does."""
    result = command(*name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: jitlink")


def test_linking_imports_nothing_heavy(write, tmp_path):
    """`jitlink link` of an object imports neither LLVM nor cffi nor rich."""
    write("answer.o", ANSWER)
    code = (
        "import sys; from jitlink.cli import main\n"
        "main(['link', 'answer.o', '--base', '0x400000'], standalone_mode=False)\n"
        "sys.exit(' '.join({'llvmlite', 'cffi', 'rich', 'capstone', 'elftools', 'lief'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert result.returncode == 0

"""Errors say where, what, which rule, and what a person can do.

The text of each error is made in one place; these tests hold it to its parts, and the tree to what
callers catch.
"""

from __future__ import annotations

import ctypes
import pickle
from pathlib import Path

import pytest

import jitlink
from jitlink import (
    ClosedError,
    DuplicateDefinitions,
    InputError,
    LinkError,
    LinkFailure,
    MalformedInput,
    MemoryRefused,
    MissingExtra,
    OutOfRange,
    SymbolNotFound,
    UndefinedSymbols,
    UnreadableInput,
    UnsupportedInput,
    UnsupportedRelocation,
    UsageError,
)
from jitlink.errors import SHOWN_AT_MOST, Place, reading
from tests.toolchain import archive_of, assemble

BASE = 0x2345_6000


def out_of_range(*, places: int = 1) -> OutOfRange:
    return OutOfRange(
        kind="R_X86_64_PC32",
        formula="S + A - P",
        rule="is outside [-0x80000000, 0x80000000)",
        places=[Place("a.o", ".text", 0x14 + 8 * row) for row in range(places)],
        targets=["memcpy"] * places,
        values=[-0x1_0000_0000] * places,
        hint="Compile with -fPIC",
    )


# The tree


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (UnreadableInput, (InputError, OSError)),
        (MalformedInput, (InputError,)),
        (UnsupportedInput, (InputError,)),
        (UndefinedSymbols, (LinkFailure,)),
        (DuplicateDefinitions, (LinkFailure,)),
        (UnsupportedRelocation, (LinkFailure,)),
        (OutOfRange, (LinkFailure,)),
        (MemoryRefused, (LinkFailure,)),
        (SymbolNotFound, (UsageError, KeyError)),
        (ClosedError, (UsageError,)),
        (MissingExtra, (UsageError, ImportError)),
    ],
)
def test_every_error_has_its_place_in_the_tree(error: type[LinkError], bases: tuple[type[Exception], ...]) -> None:
    """One except clause catches all, or a branch; and those that Python knows are Python's own as well."""
    assert issubclass(error, LinkError)
    assert all(issubclass(error, base) for base in bases)


@pytest.mark.parametrize("branch", [InputError, LinkFailure, UsageError])
def test_the_branches_are_apart(branch: type[LinkError]) -> None:
    """Bad input, inputs that do not go together, and a wrong call are three things."""
    others = {InputError, LinkFailure, UsageError} - {branch}
    assert not any(issubclass(branch, other) for other in others)


# The texts


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "broken"),
        ({"input": "a.o"}, "a.o: broken"),
        ({"input": "lib.a(b.o)", "section": ".text", "offset": 0x20}, "lib.a(b.o): .text+0x20: broken"),
        ({"input": "a.o", "section": ".text"}, "a.o: .text: broken"),
        ({"input": "a.o", "offset": 64}, "a.o: offset 0x40: broken"),
        ({"input": "a.o", "symbol": "main"}, "a.o: symbol main: broken"),
        ({"input": "a.o", "hint": "Mend it."}, "a.o: broken. Mend it."),
    ],
)
def test_an_input_error_names_the_place_the_rule_and_the_remedy(facts: dict[str, object], text: str) -> None:
    """Input, section and offset, symbol, rule, remedy: in this order, as far as they are known."""
    assert str(MalformedInput("broken", **facts)) == text  # type: ignore[arg-type]


def test_out_of_range_says_the_whole_sum() -> None:
    """Place, kind, target, formula, value, interval, how many more, and what to do."""
    assert str(out_of_range()) == (
        "a.o: .text+0x14: R_X86_64_PC32 to memcpy: S + A - P = -0x100000000 is outside [-0x80000000, 0x80000000). "
        "Compile with -fPIC. See `jitlink explain reloc a.o .text+0x14`."
    )
    assert "0x80000000); 1 more edge like it. Compile" in str(out_of_range(places=2))
    assert "; 6 more edges like it. " in str(out_of_range(places=7))


def test_an_unsupported_relocation_says_why() -> None:
    """Place, name, number, reason, how many more."""
    places = [Place("a.o", ".text", 4), Place("a.o", ".text", 8)]
    assert str(UnsupportedRelocation("R_X86_64_COPY", 5, "it is dynamic", places)) == (
        "a.o: .text+0x4: relocation R_X86_64_COPY (5) is not supported: it is dynamic; 1 more relocation like it"
    )


def test_lists_are_cut_and_counted() -> None:
    """A hundred missing names do not fill the screen; the rest is counted, and all are in the attributes."""
    names = [f"name{row}" for row in range(100)]
    error = UndefinedSymbols(names, [Place("a.o", ".text", row) for row in range(100)])
    text = str(error)
    assert text.startswith("100 undefined symbols:\n  name0, referred to by a.o: .text+0x0\n")
    assert f"and {100 - SHOWN_AT_MOST} more" in text
    assert f"name{SHOWN_AT_MOST}," not in text
    assert error.names == names
    duplicates = DuplicateDefinitions(names, [[Place("a.o"), Place("b.o")]] * 100)
    assert "name0, defined by a.o and by b.o" in str(duplicates)
    assert f"and {100 - SHOWN_AT_MOST} more" in str(duplicates)


def test_one_is_not_called_several() -> None:
    """The text of one missing name speaks of one."""
    assert str(UndefinedSymbols(["f"], [Place("a.o")])).startswith("an undefined symbol:\n")
    assert str(DuplicateDefinitions(["f"], [[Place("a.o"), Place("b.o")]])).startswith(
        "a symbol is defined more than once"
    )


def test_usage_errors_say_what_is_missing() -> None:
    """A name that nobody exports, and a package that is not installed, with the command that brings it."""
    assert str(SymbolNotFound("main", "the image")) == "the image exports no symbol 'main'"
    assert "pip install 'jitlink[emulator]'" in str(MissingExtra("unicorn", "emulator", "running aarch64 code"))


def test_the_code_around_names_the_input_once() -> None:
    """reading() adds the input to an error that has none, and leaves one that has; other errors pass."""
    with pytest.raises(MalformedInput) as caught, reading("outer.a"), reading("inner.o"):
        raise MalformedInput("broken", section=".text")
    assert str(caught.value) == "inner.o: .text: broken"
    with pytest.raises(ZeroDivisionError), reading("a.o"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "error",
    [
        UndefinedSymbols(["f"], [Place("a.o", ".text", 1)]),
        DuplicateDefinitions(["f"], [[Place("a.o"), Place("b.o")]]),
        UnsupportedRelocation("R", 5, "why", [Place("a.o")]),
        SymbolNotFound("f", "here"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: LinkError) -> None:
    """An error that is raised in a worker process arrives with its text (it can be pickled)."""
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# Errors of real links


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    """The name of the file and the reason of the operating system."""
    with pytest.raises(UnreadableInput, match=r"nowhere\.o: No such file or directory"):
        jitlink.load(tmp_path / "nowhere.o")


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (b"", MalformedInput, "the file is empty"),
        (b"hello, this is text", MalformedInput, "neither an object nor an archive nor LLVM IR"),
        (b"\xcf\xfa\xed\xfe" + bytes(60), UnsupportedInput, "Mach-O"),
        (b"\x7fELF\x02\x01\x01" + bytes(20), MalformedInput, "ends inside its ELF header"),
    ],
)
def test_an_input_that_is_no_object_is_named(
    content: bytes, error: type[InputError], text: str, tmp_path: Path
) -> None:
    """The file, and what it is or is not."""
    path = tmp_path / "input.o"
    path.write_bytes(content)
    with pytest.raises(error, match=text) as caught:
        jitlink.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_directory_and_an_executable_are_unsupported(tmp_path: Path) -> None:
    """What cannot be linked by its nature is said to be that, with what to give instead."""
    with pytest.raises(UnsupportedInput, match="a directory; give the objects in it"):
        jitlink.load(tmp_path)
    content = bytearray(assemble(""))
    content[16] = 3
    with pytest.raises(UnsupportedInput, match=r"a shared object; only relocatable objects are linked.*shared_library"):
        jitlink.load(bytes(content))


def test_an_undefined_symbol_of_a_member_names_the_member(tmp_path: Path) -> None:
    """Archive, member, section and offset of a reference; and how to define the name."""
    path = tmp_path / "lib.a"
    path.write_bytes(archive_of({"needs.o": assemble(".text\n.globl f\nf: nop\n call nowhere_at_all\n")}))
    with pytest.raises(UndefinedSymbols) as caught:
        jitlink.link(path, base=BASE, exports=["f"])
    text = str(caught.value)
    assert f"nowhere_at_all, referred to by {path}(needs.o): .text+0x2" in text
    assert "define=" in text


def test_out_of_range_advises_by_what_the_target_is() -> None:
    """Data outside: -fPIC or a copy; a weak symbol that is nowhere: define it; a short field: widen it."""
    far = {"far": 0x7F00_0000_0000}
    with pytest.raises(OutOfRange, match=r"far is 130047\.\d GiB away .*-fPIC.*copy_data=\['far'\]"):
        jitlink.link(assemble(".text\nleaq far(%rip), %rax\n"), base=BASE, define=far)
    with pytest.raises(OutOfRange, match=r"nowhere is a weak symbol that nothing defines.*define it"):
        jitlink.link(assemble(".weak nowhere\n.text\nleaq nowhere(%rip), %rax\n"), base=0x7F00_0000_0000)
    with pytest.raises(OutOfRange, match=r"A field of 16 bits holds no address here: widen it"):
        jitlink.link(assemble(".data\nhere: .short here\n"), base=BASE)


def test_a_failed_link_leaves_the_session_as_it_was() -> None:
    """After an error nothing of the failed link is there, and once its cause is gone the same link succeeds."""
    with jitlink.Session() as session:
        dylib = session.dylib("d")
        dylib.add(assemble(".data\n.globl good\ngood: .quad 1\n"))
        address = dylib["good"].address
        dylib.add(assemble(".data\n.globl bad\nbad: .quad nowhere_at_all\n"))
        for _ in range(2):
            with pytest.raises(UndefinedSymbols, match="nowhere_at_all"):
                dylib.link()
        dylib.link_against({"nowhere_at_all": 0x1234_5678})
        assert dylib["good"].address == address
        assert int.from_bytes(ctypes.string_at(dylib["bad"].address, 8), "little") == 0x1234_5678

"""Code that jitlink has linked computes what a native build of the same source computes.

The programs are in tests/programs. Each compiler that is there compiles them at every level of
optimisation, for every way to address data that the x86-64 psABI knows; the oracle is a shared library
that a static linker made of the same source.
"""

from __future__ import annotations

from itertools import product

import pytest

import jitlink
from tests import programs, toolchain
from tests.programs import native_results, results

LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
POSITIONS = ("-fPIC", "-fPIE", "-fno-pic")
MODELS = ("small", "medium", "large")
STYLES = ("-ffunction-sections -fdata-sections", "-fno-plt", "-fcommon", "-fno-plt -fPIC -O3")
ALL_ALONE = programs.source(*programs.ALONE)
FIRST, SECOND = programs.source("linkage_a.c"), programs.source("linkage_b.c")

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")


def compiled(compiler: str, text: str, *flags: str) -> bytes:
    """Compile with zig or with a compiler of the machine."""
    if compiler == "zig":
        return toolchain.zig_cc(text, *flags)
    return toolchain.compile_with(text, *flags, compiler=compiler)


def check_program(compiler: str, *flags: str) -> None:
    """Link what a compiler makes of all programs, and compare with the native build."""
    with jitlink.load(compiled(compiler, ALL_ALONE, *flags)) as library:
        assert results(library, ALL_ALONE) == native_results(ALL_ALONE)
    with jitlink.load(*(compiled(compiler, text, *flags) for text in (FIRST, SECOND))) as library:
        assert results(library, FIRST, SECOND) == native_results(FIRST, SECOND)


@pytest.mark.parametrize("level", LEVELS)
def test_zig_code_of_every_level_computes_the_native_results(level):
    """Code of zig (clang, position-independent) gives the results of the native build."""
    check_program("zig", level)


@pytest.mark.parametrize("style", STYLES)
def test_zig_code_of_every_style_computes_the_native_results(style):
    """Sections for each function, calls without PLT and common variables change no result."""
    check_program("zig", "-O2", *style.split())


@pytest.mark.parametrize("model", MODELS)
def test_zig_code_for_a_fixed_place_computes_the_native_results(model):
    """Code with absolute addresses, of each model, gives the results of the native build."""
    flags = ("-O2", "-fno-pic", f"-mcmodel={model}")
    objects = [toolchain.zig_cc(text, *flags, target="x86_64-freestanding") for text in (FIRST, SECOND)]
    with jitlink.load(*objects) as library:
        assert results(library, FIRST, SECOND) == native_results(FIRST, SECOND)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(
    ("model", "position", "level"), [*product(MODELS, POSITIONS, LEVELS)], ids=lambda flag: flag.strip("-")
)
def test_code_of_every_model_computes_the_native_results(compiler, model, position, level):
    """Small, medium and large code, PIC, PIE and not PIC, at every level, gives the native results."""
    check_program(compiler, level, position, f"-mcmodel={model}")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("style", STYLES)
def test_code_of_every_style_computes_the_native_results(compiler, style):
    """What the styles of gcc and clang put into objects changes no result."""
    check_program(compiler, "-O2", *style.split())


def test_objects_of_different_compilers_link_together():
    """An object of gcc and one of zig call each other and share data."""
    objects = [compiled("gcc", FIRST, "-O2", "-fno-pic"), compiled("zig", SECOND, "-O2")]
    with jitlink.load(*objects) as library:
        assert results(library, FIRST, SECOND) == native_results(FIRST, SECOND)


def test_objects_of_different_models_link_together():
    """Code of the large model and code of the small one reach each other."""
    objects = [compiled("gcc", FIRST, "-O2", "-mcmodel=large"), compiled("gcc", SECOND, "-O2", "-fno-pic")]
    with jitlink.load(*objects) as library:
        assert results(library, FIRST, SECOND) == native_results(FIRST, SECOND)


def test_dead_strip_changes_no_result():
    """With everything dropped that the checks do not need, they give the same."""
    objects = [toolchain.zig_cc(text, "-O2", "-ffunction-sections", "-fdata-sections") for text in (FIRST, SECOND)]
    exports = programs.checks(FIRST)
    with jitlink.load(*objects, dead_strip=True, exports=exports) as library:
        expected = {key: value for key, value in native_results(FIRST, SECOND).items() if key[0] in exports}
        assert results(library, FIRST) == expected

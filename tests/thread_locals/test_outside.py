"""Thread-local variables that a link does not define: of shared libraries, other dylibs and earlier links."""

from __future__ import annotations

import ctypes

import pytest

import jitlink
from tests import toolchain
from tests.thread_locals.programs import MODELS, NATIVE, compiled, on_threads

pytestmark = NATIVE

DEFINES = "__thread long before = 1; __thread long shared = 100; long *own(void) { return &shared; }"
# Where a library's own code is initial exec, the loader puts its block into static TLS.
STATIC = ("-O2", "-ftls-model=initial-exec")
USES = "extern __thread long shared; long add(long by) { return shared += by; } long *seen(void) { return &shared; }"
DYNAMIC = [("-fPIC",), ("-fPIC", "-fno-plt"), ("-fPIC", "-mcmodel=large"), ("-fPIC", "-mtls-dialect=gnu2")]


def adds(dylib: jitlink.Dylib, own: int) -> list[int]:
    """Add twice; the library's own function must see the same variable."""
    add = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(dylib["add"].address)
    seen = ctypes.CFUNCTYPE(ctypes.c_void_p)(dylib["seen"].address)
    where = ctypes.CFUNCTYPE(ctypes.c_void_p)(own)
    return [add(1), add(10), int(seen() == where())]


@pytest.fixture(scope="module", params=[("-O2",), STATIC], ids=["in a dynamic block", "in static TLS"])
def library(request: pytest.FixtureRequest) -> jitlink.resolvers.SharedLibrary:
    """A shared library that has the variable."""
    return jitlink.shared_library(toolchain.link_shared([toolchain.zig_cc(DEFINES, *request.param)]))


@pytest.mark.parametrize("flags", DYNAMIC, ids=" ".join)
def test_dynamic_code_sees_the_variable_of_a_library(
    flags: tuple[str, ...], library: jitlink.resolvers.SharedLibrary
) -> None:
    """Code of the general dynamic model and the library's own code see one variable, in each thread."""
    with jitlink.Session() as session:
        dylib = session.dylib()
        dylib.link_against(jitlink.process(), library)
        dylib.add(compiled("gcc", USES, "-O2", *flags))
        own = library.address_of("own")
        assert own is not None
        for _ in range(2):
            assert on_threads(3, lambda: adds(dylib, own)) == [[101, 111, 1]] * 3


@pytest.mark.parametrize("model", MODELS[2:])
def test_static_code_sees_the_variable_of_a_library_in_static_tls(model: str) -> None:
    """Initial and local exec code reaches a library whose block the loader has put into static TLS."""
    library = jitlink.shared_library(toolchain.link_shared([toolchain.zig_cc(DEFINES, *STATIC)]))
    own = library.address_of("own")
    assert own is not None
    with jitlink.Session() as session:
        dylib = session.dylib()
        dylib.link_against(jitlink.process(), library)
        dylib.add(compiled("gcc", USES, "-O2", "-fPIC", f"-ftls-model={model}"))
        assert on_threads(3, lambda: adds(dylib, own)) == [[101, 111, 1]] * 3


@pytest.mark.parametrize("model", MODELS[2:])
def test_static_code_cannot_see_a_variable_in_a_dynamic_block(model: str) -> None:
    """A block that was made after its thread has no distance from the thread pointer: the error says so."""
    library = jitlink.shared_library(toolchain.link_shared([toolchain.zig_cc(DEFINES, "-O1")]))
    with jitlink.Session() as session:
        dylib = session.dylib()
        dylib.link_against(jitlink.process(), library)
        dylib.add(compiled("gcc", USES, "-O2", "-fPIC", f"-ftls-model={model}"))
        with pytest.raises(jitlink.LinkFailure, match=r"shared.*no fixed distance.*-ftls-model=global-dynamic"):
            dylib.link()


def test_errno_of_libc_is_reached() -> None:
    """The thread-local variable that libc has under the name errno (GLIBC_PRIVATE) is the one that it sets."""
    source = """
        extern __thread int errno; int close(int);
        int after_close(void) { errno = 0; close(-1); return errno; }
    """
    with jitlink.Session() as session:
        dylib = session.dylib().add(compiled("gcc", source, "-O2", "-fPIC"))
        if jitlink.process().address_of("errno") is None:
            pytest.skip("this C library has no variable errno")
        after_close = ctypes.CFUNCTYPE(ctypes.c_int)(dylib["after_close"].address)
        assert on_threads(2, after_close) == [9, 9]


@pytest.mark.parametrize("flags", DYNAMIC, ids=" ".join)
@pytest.mark.parametrize("definer", [("-fPIC",), ("-fno-pic",)], ids=["dynamic", "static"])
def test_dylibs_of_a_session_share_a_variable(definer: tuple[str, ...], flags: tuple[str, ...]) -> None:
    """One dylib defines, the other one refers: one variable in each thread, at one address."""
    with jitlink.Session() as session:
        owner = session.dylib("owner").add(compiled("gcc", DEFINES, "-O2", *definer))
        user = session.dylib("user")
        user.link_against(owner, jitlink.process())
        user.add(compiled("gcc", USES, "-O2", *flags))
        own = owner["own"].address
        assert on_threads(3, lambda: adds(user, own)) == [[101, 111, 1]] * 3


def test_a_later_link_sees_the_variable_of_an_earlier_one() -> None:
    """Two links of one dylib have two blocks; the second one's code finds the first one's variable."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(compiled("gcc", DEFINES, "-O2", "-fPIC"))
        own = dylib["own"].address
        dylib.add(compiled("gcc", USES + "__thread long mine = 7; long next(void) { return mine++; }", "-O2", "-fPIC"))
        following = ctypes.CFUNCTYPE(ctypes.c_long)(dylib["next"].address)
        assert on_threads(2, lambda: [*adds(dylib, own), following()]) == [[101, 111, 1, 7]] * 2


def test_a_hidden_variable_is_seen_by_later_links_only_in_its_own_dylib() -> None:
    """A hidden definition serves the dylib, and not others."""
    hidden = DEFINES.replace("__thread long shared", '__attribute__((visibility("hidden"))) __thread long shared')
    with jitlink.Session() as session:
        owner = session.dylib("owner").add(compiled("gcc", hidden, "-O2", "-fPIC"))
        own = owner["own"].address
        owner.add(compiled("gcc", USES, "-O2", "-fPIC"))
        assert adds(owner, own) == [101, 111, 1]
        other = session.dylib("other")
        other.link_against(owner, jitlink.process())
        other.add(compiled("gcc", USES, "-O2", "-fPIC"))
        with pytest.raises(jitlink.UndefinedSymbols, match="shared"):
            other.link()


def test_local_dynamic_code_for_an_earlier_link_is_refused() -> None:
    """Offsets from the start of the own block say nothing of a variable in another block."""
    uses = USES.replace("extern", 'extern __attribute__((visibility("hidden"), tls_model("local-dynamic")))')
    both = (
        uses
        + '__attribute__((tls_model("local-dynamic"))) static __thread long mine; long get(void) { return mine++; }'
    )
    with jitlink.Session() as session:
        dylib = session.dylib().add(compiled("gcc", DEFINES, "-O2", "-fPIC"))
        dylib.link()
        dylib.add(compiled("gcc", both, "-O2", "-fPIC"))
        with pytest.raises(jitlink.LinkFailure, match="local dynamic code reaches what is linked together with it"):
            dylib.link()

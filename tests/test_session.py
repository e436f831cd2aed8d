"""Sessions and dylibs: who sees which symbol, what a failed link leaves behind, and what a close ends."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import pytest

import jitlink
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")


HIDDEN = '__attribute__((visibility("hidden")))'


def returning(name: str, number: int) -> bytes:
    """An object with a function that returns a number."""
    return toolchain.zig_cc(f"int {name}(void) {{ return {number}; }}")


def calling(name: str, callee: str) -> bytes:
    """An object with a function that returns what another one returns."""
    return toolchain.zig_cc(f"int {callee}(void); int {name}(void) {{ return {callee}(); }}")


def call(dylib: jitlink.Dylib, name: str) -> int:
    return int(dylib[name].ctypes(ctypes.c_int)())


def mappings() -> list[str]:
    """What is mapped, but for the heap and other anonymous memory that Python itself may grow."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if "---p" in line or "x" in line.split()[1] or "memfd" in line]


# Who sees what


def test_names_are_searched_in_the_order_of_link_against():
    """The first of the resolvers that knows a name gives it; the dylib itself goes before all."""
    with jitlink.Session() as session:
        one = session.dylib("one").add(returning("number", 1))
        two = session.dylib("two").add(returning("number", 2), returning("other", 20))
        user = session.dylib("user").link_against(one, two).add(calling("first", "number"), calling("second", "other"))
        assert (call(user, "first"), call(user, "second")) == (1, 20)
        reverse = session.dylib("reverse").link_against(two, one).add(calling("first", "number"))
        assert call(reverse, "first") == 2
        own = session.dylib("own").link_against(one).add(calling("first", "number"), returning("number", 3))
        assert call(own, "first") == 3


def test_a_mapping_a_callable_a_library_and_the_process_are_resolvers():
    """Each sort of resolver gives addresses, and None passes a name on to the next."""
    asked = []

    def ask(name: str) -> int | None:
        asked.append(name)
        return None

    callback = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 33)
    native = toolchain.zig_cc("int in_library(void) { return 44; }", "-fPIC")
    shared = jitlink.shared_library(toolchain.link_shared([native]))
    source = """
        int in_mapping(void); int in_library(void); long labs(long);
        int sum(int x) { return in_mapping() + in_library() + (int)labs(x); }
    """
    with jitlink.Session() as session:
        dylib = session.dylib().link_against(ask, {"in_mapping": callback}, shared, jitlink.process())
        assert dylib.add(toolchain.zig_cc(source, "-fno-builtin"))["sum"].ctypes(ctypes.c_int, ctypes.c_int)(-1) == 78
    assert {"in_mapping", "in_library", "labs"} <= set(asked)


def test_nothing_is_found_where_nothing_was_allowed():
    """A dylib that is linked against nothing does not see the process."""
    with jitlink.Session() as session:
        dylib = session.dylib().link_against().add(calling("f", "abort"))
        with pytest.raises(jitlink.UndefinedSymbols) as caught:
            dylib.link()
        assert caught.value.names == ["abort"]


def test_all_undefined_symbols_are_reported_at_once():
    """One error has the name of each missing symbol, with a place that refers to it."""
    with pytest.raises(jitlink.UndefinedSymbols) as caught:
        jitlink.load(calling("a", "missing_one"), calling("b", "missing_two"), calling("c", "missing_one"))
    error = caught.value
    assert error.names == ["missing_one", "missing_two"]
    assert [place.input for place in error.places] == ["(bytes)", "(bytes 2)"]
    assert "2 undefined symbols" in str(error)


def test_hidden_symbols_of_two_dylibs_do_not_meet():
    """Each dylib uses its own hidden symbol of a name, and neither can be looked up."""

    def source(number: int) -> bytes:
        helper = f"{HIDDEN} int helper(void) {{ return {number}; }}"
        return toolchain.zig_cc(f"{helper} int use_{number}(void) {{ return helper(); }}")

    with jitlink.Session() as session:
        one, two = session.dylib("one").add(source(1)), session.dylib("two")
        two.link_against(one, jitlink.process()).add(source(2), calling("use_first", "use_1"))
        assert (call(one, "use_1"), call(two, "use_2"), call(two, "use_first")) == (1, 2, 1)
        assert "helper" not in one
        with pytest.raises(jitlink.SymbolNotFound, match="helper"):
            two["helper"]


def test_a_hidden_symbol_serves_later_links_of_its_dylib():
    """Within a dylib, also in a later link, a hidden name is seen; from another dylib it is undefined."""
    hidden = toolchain.zig_cc(f"{HIDDEN} int helper(void) {{ return 7; }} int a(void) {{ return helper(); }}")
    user = toolchain.zig_cc(f"{HIDDEN} int helper(void); int user(void) {{ return helper(); }}")
    with jitlink.Session() as session:
        one = session.dylib("one").add(hidden)
        assert call(one, "a") == 7
        assert call(one.add(user), "user") == 7
        with pytest.raises(jitlink.UndefinedSymbols, match="helper"):
            session.dylib("two").link_against(one, jitlink.process()).add(user).link()


def test_dylibs_that_need_each_other_are_linked_for_each_other():
    """A lookup links what waits in another dylib when its symbols are needed."""
    with jitlink.Session() as session:
        lower = session.dylib("lower").add(returning("bottom", 5))
        upper = session.dylib("upper").link_against(lower).add(calling("top", "bottom"))
        assert list(lower.symbols()) == []
        assert call(upper, "top") == 5
        assert list(lower.symbols()) == ["bottom"]


def test_exports_limit_what_can_be_looked_up():
    """With exports given, only those names are seen, from Python and from other dylibs."""
    with jitlink.Session() as session:
        dylib = session.dylib("one").add(calling("public", "internal"), returning("internal", 9), exports=["public"])
        assert call(dylib, "public") == 9
        assert "internal" not in dylib
        assert list(dylib.symbols()) == ["public"]
        with pytest.raises(jitlink.UndefinedSymbols, match="internal"):
            session.dylib("two").link_against(dylib).add(calling("f", "internal")).link()


def test_a_symbol_that_is_not_there_is_not_found():
    """A lookup of an unknown name raises SymbolNotFound, which is a KeyError, naming the dylib."""
    with jitlink.Session() as session:
        dylib = session.dylib("one").add(returning("f", 1))
        for name in ("g", "", "f\0", "\udcff", "f" * 10_000):
            with pytest.raises(KeyError, match="dylib 'one' exports no symbol") as caught:
                dylib[name]
            assert isinstance(caught.value, jitlink.SymbolNotFound)
            assert name not in dylib


def test_a_session_gives_one_dylib_for_each_name():
    """The same name gives the same dylib; a closed one makes room for another."""
    with jitlink.Session() as session:
        one = session.dylib("one")
        assert session.dylib("one") is one
        assert session.dylib("two") is not one
        one.close()
        assert session.dylib("one") is not one


# Failed links


@pytest.mark.parametrize("source", ["call nowhere@PLT", "movl far, %eax"], ids=["undefined", "out of range"])
def test_a_failed_link_leaves_the_process_as_it_was(source):
    """After a link that failed, early or late, no range is reserved and nothing is mapped that was not before."""
    content = toolchain.assemble(source)
    far = {"far": 0x1000_0000_0000}
    before = mappings()
    with jitlink.Session() as session:
        dylib = session.dylib().link_against(far).add(content)
        with pytest.raises(jitlink.LinkFailure):
            dylib.link()
        assert mappings() == before
    with pytest.raises(jitlink.LinkFailure):
        jitlink.load(content, define=far)
    assert mappings() == before


def test_a_failed_link_runs_no_initialiser():
    """Initialisers of inputs that cannot be linked do not run."""
    ran = []
    note = ctypes.CFUNCTYPE(None)(lambda: ran.append(1))
    source = """
        void note(void); void nowhere(void);
        __attribute__((constructor)) void f(void) { note(); }
        void g(void) { nowhere(); }
    """
    with pytest.raises(jitlink.UndefinedSymbols):
        jitlink.load(toolchain.zig_cc(source), define={"note": note})
    assert ran == []


def test_a_failed_link_succeeds_once_what_was_missing_is_added():
    """The inputs wait: with a further object, or another resolver, the next lookup links them."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(calling("f", "late"), returning("g", 2))
        for _ in range(3):
            with pytest.raises(jitlink.UndefinedSymbols):
                dylib["g"]
        dylib.add(returning("late", 1))
        assert (call(dylib, "f"), call(dylib, "g")) == (1, 2)
        other = session.dylib("other").link_against().add(calling("f", "late"))
        with pytest.raises(jitlink.UndefinedSymbols):
            other["f"]
        assert call(other.link_against(dylib), "f") == 1


def test_a_second_attempt_sees_nothing_of_the_first():
    """What the failed link had found out, addresses of resolvers included, is asked again."""
    source = """
        .globl read_it
    read_it: movl number, %eax
        movq missing@GOTPCREL(%rip), %rcx
        addl (%rcx), %eax
        ret
    """
    native = toolchain.link_shared([toolchain.zig_cc("int number = 7, missing = 1;", "-fPIC")])
    with jitlink.Session() as session:
        dylib = session.dylib().link_against({"number": 0x1000_0000_0000}).add(toolchain.assemble(source))
        with pytest.raises(jitlink.UndefinedSymbols):
            dylib["read_it"]
        dylib.link_against({"number": 0x1000_0000_0000, "missing": 0x1000_0000_1000})
        with pytest.raises(jitlink.OutOfRange, match="number"):
            dylib["read_it"]
        dylib.link_against(jitlink.shared_library(native)).add(copy_data=["number", "missing"])
        assert call(dylib, "read_it") == 8


def test_a_link_leaves_the_graph_of_the_caller_alone():
    """A graph that was read and then loaded is as it was, and can be loaded again."""
    source = 'int puts(const char *); int f(void) { return puts(""); } int *g(void) { static int x; return &x; }'
    graph = jitlink.read(toolchain.zig_cc(source, "-O0"))

    def contents() -> list[object]:
        columns = (graph.edges.kind, graph.edges.target, graph.symbols.definition, graph.symbols.offset)
        return [len(graph.blocks), *(column.tolist() for column in columns)]

    before = contents()
    for _ in range(2):
        with jitlink.load(graph) as library:
            assert library["f"].address
    assert contents() == before


def test_an_input_that_cannot_be_read_adds_nothing():
    """When one of several inputs is bad, none of them was added."""
    with jitlink.Session() as session:
        dylib = session.dylib()
        with pytest.raises(jitlink.MalformedInput):
            dylib.add(returning("f", 1), b"no object")
        assert "f" not in dylib
        assert call(dylib.add(returning("f", 2)), "f") == 2


def test_duplicate_definitions_are_reported_at_once():
    """Two inputs that define the same names strongly give one error with all of them and their inputs."""
    one = toolchain.zig_cc("int a(void) { return 1; } int b = 2;")
    with pytest.raises(jitlink.DuplicateDefinitions) as caught:
        jitlink.load(one, one, returning("c", 3))
    assert sorted(caught.value.names) == ["a", "b"]
    assert "(bytes): .text" in str(caught.value)
    assert "(bytes 2): .text" in str(caught.value)


# The end


def test_every_handle_raises_after_the_close():
    """Symbols, ctypes and cffi functions, library attributes, dylibs and sessions raise ClosedError."""
    session = jitlink.Session()
    dylib = session.dylib("one").add(toolchain.zig_cc("int f(int x) { return x + 1; } int variable = 5;"))
    library = dylib.library
    library.cdef("int f(int); extern int variable;")
    symbol = dylib["f"]
    with_ctypes, with_cffi = symbol.ctypes(ctypes.c_int, ctypes.c_int), symbol.cffi("int(*)(int)")
    attribute = library.f
    assert [function(1) for function in (with_ctypes, with_cffi, attribute, library.f)] == [2] * 4
    assert library.variable == 5
    session.close()
    attempts = [
        lambda: symbol.address,
        lambda: int(symbol),
        lambda: symbol.ctypes(ctypes.c_int),
        lambda: symbol.cffi("int(*)(int)"),
        lambda: symbol.add_to_llvmlite(),
        lambda: with_ctypes(1),
        lambda: with_cffi(1),
        lambda: attribute(1),
        lambda: library.f(1),
        lambda: library.variable,
        lambda: setattr(library, "variable", 6),
        lambda: library["f"],
        lambda: library.function("f"),
        lambda: "f" in library,
        lambda: dylib["f"],
        lambda: dylib.add(returning("g", 1)),
        lambda: dylib.link_against(),
        lambda: dylib.link(),
        lambda: session.dylib("one"),
        lambda: session.dylib("two"),
    ]
    for attempt in attempts:
        with pytest.raises(jitlink.ClosedError):
            attempt()
    session.close()
    dylib.close()
    assert "closed" in repr(session)
    assert "closed" in repr(dylib)
    assert "closed" in repr(symbol)
    assert "closed" in repr(library)


def test_a_link_against_a_closed_dylib_is_refused():
    """A dylib that another one is linked against cannot serve it after its close."""
    with jitlink.Session() as session:
        one = session.dylib("one").add(returning("number", 1))
        two = session.dylib("two").link_against(one).add(calling("f", "number"))
        one.close()
        with pytest.raises(jitlink.ClosedError, match="'one' is closed"):
            two["f"]


def test_closing_unmaps_everything():
    """After the close of a session, its ranges are gone from the process."""
    before = mappings()
    with jitlink.Session() as session:
        for number in range(5):
            assert call(session.dylib(f"dylib {number}").add(returning("f", number)), "f") == number
        assert mappings() != before
    assert mappings() == before


def test_a_session_closes_its_dylibs_in_reverse_order():
    """The dylib that was made last runs its finalisers first."""
    order: list[int] = []
    note = ctypes.CFUNCTYPE(None, ctypes.c_int)(order.append)
    with jitlink.Session() as session:
        for number in range(3):
            source = f"void note(int); __attribute__((destructor)) static void end(void) {{ note({number}); }}"
            session.dylib(f"dylib {number}").link_against({"note": note}).add(toolchain.zig_cc(source)).link()
    assert order == [2, 1, 0]


# Threads


def test_threads_may_look_up_at_once():
    """Lookups of many threads give each symbol one address, and link each archive member once."""
    sources = {f"m{number}.o": f"int f{number}(void) {{ return {number}; }}" for number in range(12)}
    members = {name: toolchain.zig_cc(source) for name, source in sources.items()}
    with jitlink.load(toolchain.archive_of(members)) as library:
        found: list[dict[str, int]] = []
        start = threading.Barrier(8)

        def look_up(order: range) -> None:
            start.wait()
            addresses = {f"f{number}": library[f"f{number}"].address for number in order}
            assert all(library.function(f"f{number}")() == number for number in order)
            found.append(addresses)

        orders = [range(12), range(11, -1, -1)] * 4
        threads = [threading.Thread(target=look_up, args=(order,)) for order in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert all(addresses == found[0] for addresses in found)

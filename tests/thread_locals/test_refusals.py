"""What cannot be linked about thread-locals is refused by name, and a refused link leaves nothing behind."""

from __future__ import annotations

import ctypes
import gc
import os
import struct

import pytest

import jitlink
from jitlink import LinkFailure, MemoryRefused, Protection, UndefinedSymbols, UnsupportedInput
from jitlink.graph import LinkGraph, Purpose, SymbolKind
from tests import toolchain
from tests.thread_locals.programs import COUNTERS, NATIVE, compiled

ORDINARY = "int shared = 1;"
THREAD_LOCAL = "__thread int shared = 1;"
USES_ORDINARY = "extern int shared; int use(void) { return shared; } int *take(void) { return &shared; }"
USES_THREAD_LOCAL = "extern __thread int shared; int use(void) { return shared; } int *take(void) { return &shared; }"


@pytest.mark.parametrize(
    ("definition", "use", "fault"),
    [
        (ORDINARY, USES_THREAD_LOCAL, "is a thread-local access, and the symbol is not thread-local"),
        (THREAD_LOCAL, USES_ORDINARY, "is no thread-local access, and the symbol is thread-local"),
    ],
    ids=["thread-local access to an ordinary symbol", "ordinary access to a thread-local"],
)
def test_access_and_symbol_must_be_of_one_sort(definition: str, use: str, fault: str) -> None:
    """A relocation of the one sort against a symbol of the other is refused, with input, place, kind and name."""
    objects = [toolchain.zig_cc(source, "-O2") for source in (definition, use)]
    with pytest.raises(LinkFailure, match=rf"\.text\+0x[0-9a-f]+: R_X86_64_\w+ to shared: the relocation {fault}"):
        jitlink.link(*objects, base=0x10000000)


@NATIVE
@pytest.mark.parametrize(
    ("definition", "use"),
    [(ORDINARY, USES_THREAD_LOCAL), (THREAD_LOCAL, USES_ORDINARY)],
    ids=["thread-local access to an ordinary symbol", "ordinary access to a thread-local"],
)
def test_access_and_symbol_must_be_of_one_sort_across_dylibs(definition: str, use: str) -> None:
    """The same between two dylibs of a session."""
    with jitlink.Session() as session:
        owner = session.dylib("owner").add(toolchain.zig_cc(definition))
        user = session.dylib("user").add(toolchain.zig_cc(use, "-O2"))
        user.link_against(owner, jitlink.process())
        with pytest.raises(LinkFailure, match=r"shared.*thread-local"):
            user.link()


@NATIVE
def test_an_address_of_the_caller_is_no_thread_local() -> None:
    """An address that the caller gives is one for all threads."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(toolchain.zig_cc(USES_THREAD_LOCAL, "-O2"))
        dylib.link_against({"shared": 0x1000}, jitlink.process())
        with pytest.raises(LinkFailure, match=r"shared of <names of the caller> is not thread-local"):
            dylib.link()


@NATIVE
def test_a_function_of_libc_is_no_thread_local() -> None:
    """What the process has under the name is an ordinary symbol."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(toolchain.zig_cc(USES_THREAD_LOCAL.replace("shared", "environ"), "-O2"))
        with pytest.raises(LinkFailure, match=r"environ of <this process> is not thread-local"):
            dylib.link()


@NATIVE
def test_undefined_variables_are_reported_with_all_other_undefined_symbols() -> None:
    """One error names the missing thread-local and the missing function."""
    source = "extern __thread int nowhere; int missing(void); int f(void) { return nowhere + missing(); }"
    with jitlink.Session() as session, pytest.raises(UndefinedSymbols) as caught:
        session.dylib().add(toolchain.zig_cc(source)).link()
    assert sorted(caught.value.names) == ["missing", "nowhere"]


def test_the_place_of_an_undefined_variable_is_the_code_that_refers_to_it() -> None:
    """Not the GOT entry that its access would go through."""
    source = "extern __thread int nowhere; int f(void) { return nowhere; }"
    for flags in (("-fPIC",), ("-fPIC", "-ftls-model=initial-exec")):
        with pytest.raises(UndefinedSymbols, match=r"nowhere, referred to by \(bytes\): \.text\+0x"):
            jitlink.link(toolchain.zig_cc(source, *flags), base=0x10000000)


@NATIVE
def test_a_weak_variable_that_nothing_defines_is_refused() -> None:
    """There is no thread-local at address 0."""
    source = "extern __thread int nowhere __attribute__((weak)); int *f(void) { return &nowhere; }"
    with jitlink.Session() as session, pytest.raises(LinkFailure, match="nowhere: nothing defines this weak symbol"):
        session.dylib().add(toolchain.zig_cc(source)).link()


@NATIVE
def test_a_thread_local_of_a_library_is_not_read_as_an_ordinary_symbol() -> None:
    """The address that dlsym gives is that of one thread's copy: an ordinary reference to it is refused."""
    library = jitlink.shared_library(toolchain.link_shared([toolchain.zig_cc(THREAD_LOCAL, "-O3")]))
    with jitlink.Session() as session:
        dylib = session.dylib().add(toolchain.zig_cc(USES_ORDINARY, "-O2"))
        dylib.link_against(jitlink.process(), library)
        with pytest.raises(LinkFailure, match=r"shared of <shared library .*> is thread-local, and not where"):
            dylib.link()


def resources() -> tuple[int, int]:
    """How many libraries the loader has loaded for thread-locals, and how many files are open."""
    gc.collect()
    with open("/proc/self/maps") as maps:
        return sum("jitlink-thread-locals" in line for line in maps), len(os.listdir("/proc/self/fd"))


@NATIVE
@pytest.mark.parametrize("flags", [("-fno-pic",), ("-fPIC", "-ftls-model=initial-exec")], ids=" ".join)
def test_more_static_tls_than_is_reserved_is_refused(flags: tuple[str, ...]) -> None:
    """The error names the access that asks for it, the bytes, the loader's reason and the ways out."""
    source = "__thread char large[100000]; char *f(int i) { return &large[i]; }"
    before = resources()
    with jitlink.Session() as session:
        dylib = session.dylib().add(compiled("gcc", source, "-O2", *flags))
        with pytest.raises(MemoryRefused) as caught:
            dylib.link()
        text = str(caught.value)
        assert all(part in text for part in (".text+0x", "to large", "0x186a0 bytes", "static TLS", "global-dynamic"))
        # The session is as it was, and goes on.
        dylib.link_against(jitlink.process())
        with pytest.raises(MemoryRefused):
            dylib.link()
        assert resources() == before


@NATIVE
def test_static_tls_can_be_given_out_again_and_again() -> None:
    """Opening and closing dylibs with local exec code uses up nothing."""
    before = resources()
    code = compiled("gcc", COUNTERS, "-O2", "-fno-pic")
    for _ in range(100):
        with jitlink.Session() as session:
            assert ctypes.CFUNCTYPE(ctypes.c_long)(session.dylib().add(code)["count"].address)() == 0
    assert resources() == before


@NATIVE
def test_a_link_that_fails_later_gives_its_block_back() -> None:
    """A pass that raises after the block was made: nothing stays loaded, and the next attempt succeeds."""
    attempts = []

    def fails_once(graph: LinkGraph) -> None:
        attempts.append(graph)
        if len(attempts) == 1:
            raise RuntimeError("not yet")

    with jitlink.Session() as session:
        dylib = session.dylib()
        dylib.add(toolchain.zig_cc(COUNTERS, "-O2"), passes={"post_fixup": [fails_once]})
        before = resources()
        with pytest.raises(RuntimeError):
            dylib.link()
        assert resources() == before
        assert ctypes.CFUNCTYPE(ctypes.c_long)(dylib["count"].address)() == 0


@NATIVE
def test_initial_values_cannot_be_changed_after_fixups() -> None:
    """A user pass may change them at pre_fixup; at post_fixup threads may have them already."""

    def change(graph: LinkGraph) -> None:
        symbol = graph.symbols["counter"]
        assert symbol.block is not None
        struct.pack_into("<i", symbol.block.working.data, symbol.offset, 1000)

    code = toolchain.zig_cc(COUNTERS, "-O2")
    with jitlink.Session() as session:
        bump = session.dylib().add(code, passes={"pre_fixup": [change]})["bump"]
        assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(bump.address)(0) == 1007
    with jitlink.Session() as session:
        dylib = session.dylib().add(code, passes={"post_fixup": [change]})
        with pytest.raises(LinkFailure, match="post_fixup has changed the initial values"):
            dylib.link()


def graph_with_block(size: int, alignment: int = 8) -> LinkGraph:
    """A graph of one zeroed variable and a general dynamic access to it that no compiler has written."""
    graph = jitlink.new_graph("by hand", "x86_64")
    section = graph.add_section(".tbss", Protection.READ | Protection.WRITE, purpose=Purpose.TLS)
    variable = graph.add_symbol("variable", graph.add_block(section, size, alignment=alignment), kind=SymbolKind.TLS)
    text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
    block = graph.add_block(text, bytes(16))
    graph.add_symbol("code", block)
    graph.add_edge(block, 4, "R_X86_64_TLSGD", variable, -4)
    return graph


@NATIVE
def test_a_block_out_of_all_proportion_is_refused() -> None:
    """A terabyte of zeroes costs nothing to write down, and would end the process in the first thread."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(graph_with_block(1 << 40))
        with pytest.raises(LinkFailure, match=r"thread-local variables have 0x10000000000 bytes"):
            dylib.link()


@NATIVE
@pytest.mark.parametrize("alignment", [1, 4096, 1 << 20])
def test_blocks_have_any_alignment(alignment: int) -> None:
    """The copy of the calling thread lies at a multiple of what the section asks for."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(graph_with_block(100, alignment))
        assert dylib["variable"].address % alignment == 0


def test_an_initial_value_cannot_depend_on_the_thread() -> None:
    """A thread-local access in a template is refused: the template is one for all threads."""
    graph = graph_with_block(8)
    section = graph.add_section(".tdata", Protection.READ | Protection.WRITE, purpose=Purpose.TLS)
    block = graph.add_block(section, bytes(8))
    graph.add_edge(block, 0, "R_X86_64_TPOFF64", graph.symbols["variable"].row)
    with pytest.raises(LinkFailure, match=r"\.tdata\+0x0.*in an initial value, which must be the same in all threads"):
        jitlink.link(graph, base=0x10000000)


def test_a_descriptor_that_is_not_as_the_abi_has_it_needs_a_loader() -> None:
    """Where blocks are fixed there are no descriptors, and code that cannot be rewritten is refused."""
    graph = graph_with_block(8)
    block = graph.symbols["code"].block
    assert block is not None
    graph.add_edge(block.row, 8, "R_X86_64_GOTPC32_TLSDESC", graph.symbols["variable"].row, -4)
    with pytest.raises(
        LinkFailure, match=r"R_X86_64_GOTPC32_TLSDESC to variable: the code around it is not as the ABI"
    ):
        jitlink.link(graph, base=0x10000000)


def test_an_entry_for_a_place_beside_a_variable_is_refused() -> None:
    """AAELF64: GTPREL(S) and its kin have no addend; one that was ignored would be a wrong result."""
    source = """
        adrp x0, :gottprel:variable+8
        ldr x1, [x0, :gottprel_lo12:variable+8]
        ldr x2, :gottprel:variable+8
        .section .tbss,"awT",@nobits
        .globl variable
        variable: .zero 16
    """
    code = toolchain.assemble(source, target="aarch64-linux-gnu")
    with pytest.raises(LinkFailure, match=r"R_AARCH64_TLSIE_\w+ to variable: the relocation has the addend 0x8"):
        jitlink.link(code, base=0x10000000)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_thread_locals_of_windows_are_refused(machine: str) -> None:
    """COFF objects reach them through Windows' thread environment block: the error says what to do."""
    code = toolchain.zig_cc("__thread int counter; int f(void) { return counter++; }", target=f"{machine}-windows-msvc")
    with pytest.raises(UnsupportedInput, match=r"thread environment block.*-femulated-tls"):
        jitlink.link(code, base=0x10000000)

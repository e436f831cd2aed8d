"""Dead strip of Mach-O objects: functions of one section apart, and the attributes that keep things."""

from __future__ import annotations

import jitlink
from jitlink.graph import SymbolKind
from tests.macho.objects import Built, Section, Symbol, assembled, compiled, relocation

BASE = 0x10_0000


def kept(content: bytes, *exports: str) -> set[str]:
    """The named symbols whose blocks are kept."""
    image = jitlink.link(content, base=BASE, dead_strip=True, exports=list(exports), define=lambda name: 0x1000)
    symbols = [symbol for symbol in image.graph.defined() if symbol.block is not None and symbol.block.live]
    return {symbol.name for symbol in symbols if symbol.kind != SymbolKind.SECTION}


def test_functions_of_one_section_are_dropped_one_by_one():
    """A section that was cut keeps what is needed of it, with the data and strings that this refers to."""
    source = """
    static int a_state, b_state;
    __attribute__((noinline)) static const char *helper(int x) { a_state += x; return x ? "kept" : "kept too"; }
    const char *a(int x) { return helper(x + 1); }
    const char *b(int x) { b_state += x; return x ? "dropped" : "dropped too"; }
    """
    content = compiled(source, "-O1")
    assert kept(content, "a") == {"_a", "_helper", "_a_state"}
    image = jitlink.link(content, base=BASE, dead_strip=True, exports=["a"])
    strings = [block.content for block in image.graph.blocks if block.live and block.section.name == "__TEXT,__cstring"]
    assert set(strings) == {b"kept\0", b"kept too\0"}


def test_an_object_that_is_not_cut_is_kept_as_a_whole():
    """Without .subsections_via_symbols, code may fall from one symbol into the next."""
    symbols = [Symbol("_a", 1, 0), Symbol("_b", 1, 8)]
    assert kept(bytes(Built([Section(content=bytes(16))], symbols, flags=0)), "a") == {"_a", "_b"}
    assert kept(bytes(Built([Section(content=bytes(16))], symbols)), "a") == {"_a"}


def test_what_is_marked_is_kept():
    """.no_dead_strip (N_NO_DEAD_STRIP) and the attribute no_dead_strip (S_ATTR_NO_DEAD_STRIP)."""
    source = """
    .globl _root, _a, _b
_root: ret
    .data
_a: .quad 1
_b: .quad 2
    .no_dead_strip _a
    .section __DATA,__keep,regular,no_dead_strip
_c: .quad 3
    """
    assert kept(assembled(source), "root") == {"_root", "_a", "_c"}


def test_support_lives_with_what_it_supports():
    """A block of a live_support section is kept if, and only if, something that it refers to is."""
    source = """
    .globl _root, _used, _unused
_root: callq _used
    ret
_used: ret
_unused: ret
    .section __DATA,__support,regular,live_support
    .p2align 3
_of_used: .quad _used
_of_unused: .quad _unused
_of_both: .quad _used, _unused
    """
    # What supports something used is kept, with all else that it refers to, and that has support of its own.
    assert kept(assembled(source), "root") >= {"_root", "_used", "_of_used", "_of_both"}
    alone = source.replace("_of_both: .quad _used, _unused", "")
    assert kept(assembled(alone), "root") == {"_root", "_used", "_of_used"}


def test_initialisers_are_kept_with_what_they_call():
    """Whatever the exports are, pointers to initialisers are roots."""
    source = """
    void outside(void);
    __attribute__((constructor)) static void start(void) { outside(); }
    int a(void) { return 2; }
    """
    assert "_start" in kept(compiled(source, "-O0"), "a")


def test_exception_tables_go_with_their_functions():
    """The table and the personality routine are kept for a function that is kept, and for no other."""
    source = """
    void may_throw(void);
    struct Guard { ~Guard(); };
    extern "C" int caught() { Guard g; try { may_throw(); } catch (int e) { return e; } return 0; }
    extern "C" int plain() { return 1; }
    """
    for flags in ((), ("-femit-dwarf-unwind=no-compact-unwind",)):
        content = compiled(source, "-O1", *flags, language="c++")
        tables = []
        for export in ("caught", "plain"):
            image = jitlink.link(content, base=BASE, dead_strip=True, exports=[export], define=lambda name: BASE * 2)
            rows = [block for block in image.graph.blocks if block.section.name == "__TEXT,__gcc_except_tab"]
            tables.append([block.live for block in rows])
            externals = {symbol.name for symbol in image.graph.symbols if symbol.definition.name == "EXTERNAL"}
            assert ("___gxx_personality_v0" in externals) == (export == "caught")
        assert tables == [[True], [False]]


def test_a_reference_past_a_block_keeps_the_block_it_names():
    """The symbol of a relocation decides, wherever the addend leads."""
    data = Section("__DATA", "__data", (8).to_bytes(8, "little") + bytes(24), [relocation(0, 0, symbol=1)], flags=0)
    symbols = [Symbol("_root", 1, 0), Symbol("_named", 1, 8), Symbol("_other", 1, 16)]
    assert kept(bytes(Built([data], symbols)), "root") == {"_root", "_named"}

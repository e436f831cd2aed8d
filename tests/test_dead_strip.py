"""Dead strip: what the roots need stays, with everything that lives and dies together; the rest goes.

Sources: gABI (Section Groups, SHF_LINK_ORDER), GNU gABI supplement (SHF_GNU_RETAIN), LSB Core 10.6
(Exception Frames).
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

import jitlink
from jitlink import Image, LinkFailure, LinkGraph, MalformedInput, Protection, UndefinedSymbols
from jitlink.graph import Purpose, Scope
from tests.toolchain import assemble, zig_cc

BASE = 0x2345_6000
CODE = Protection.READ | Protection.EXECUTE


def function(name: str, *calls: str, flags: str = "ax", suffix: str = "@progbits") -> str:
    """Assembly of a function in a section of its own."""
    body = "".join(f"jmp {call}\n" for call in calls)
    return f'.section .text.{name},"{flags}",{suffix}\n.globl {name}\n{name}:\n{body}ret\n'


def stripped(source: str, *exports: str) -> Image:
    """Link an object for some exports only."""
    return jitlink.link(assemble(source), base=BASE, exports=list(exports), dead_strip=True)


def kept(image: Image, prefix: str = ".") -> set[str]:
    """The names of the input's sections that are in the image and hold something."""
    return {
        block.section.name
        for block in image.graph.blocks
        if block.live and block.size and block.input != "(linker)" and block.section.name.startswith(prefix)
    }


# Roots


def test_what_no_export_reaches_is_dropped() -> None:
    """An export, what it refers to, and what that refers to, are kept; a cycle of others keeps nothing."""
    source = function("a", "b") + function("b", "c") + function("c") + function("x", "y") + function("y", "x", "a")
    assert kept(stripped(source, "a")) == {".text.a", ".text.b", ".text.c"}


def test_without_exports_all_visible_names_are_roots() -> None:
    """Other dylibs may ask for any visible name; hidden and local ones are kept for their users only."""
    source = function("shown", "used") + function("used") + ".hidden used\n" + function("unused") + ".hidden unused\n"
    image = jitlink.link(assemble(source), base=BASE, dead_strip=True)
    assert kept(image) == {".text.shown", ".text.used"}


def test_an_export_that_nobody_defines_keeps_nothing() -> None:
    """Asking for a name that is nowhere is found when it is looked up, not when unused code is dropped."""
    image = stripped(function("a"), "nowhere")
    assert kept(image) == set()
    with pytest.raises(jitlink.SymbolNotFound):
        image.address_of("nowhere")


def test_dropped_symbols_are_not_exported() -> None:
    """What is not in the image has no address."""
    image = stripped(function("a") + function("b"), "a")
    assert set(image.symbols()) == {"a"}


def test_what_only_dropped_code_refers_to_need_not_exist() -> None:
    """An undefined symbol of a dropped function is no error; one of a kept function is."""
    source = function("a") + function("b", "nowhere")
    assert kept(stripped(source, "a")) == {".text.a"}
    with pytest.raises(UndefinedSymbols, match="nowhere"):
        stripped(source, "b")


def test_without_dead_strip_everything_stays() -> None:
    """Objects are linked as they are unless it is asked for."""
    source = function("a") + function("b") + ".hidden b\n"
    assert kept(jitlink.link(assemble(source), base=BASE)) == {".text.a", ".text.b"}


def test_arrays_of_initialisers_are_roots() -> None:
    """They run without being asked for, and so keep the functions that they point at."""
    source = function("a") + function("begin") + function("finish") + function("old")
    source += (
        '.section .init_array,"aw",@init_array\n.quad begin\n.section .fini_array.5,"aw",@fini_array\n.quad finish\n'
    )
    source += '.section .ctors,"aw",@progbits\n.quad old\n'
    assert kept(stripped(source, "a"), ".text") == {".text.a", ".text.begin", ".text.finish", ".text.old"}


def test_retained_sections_are_roots() -> None:
    """SHF_GNU_RETAIN keeps a section and what it refers to."""
    source = function("a") + function("kept", "helper", flags="axR") + function("helper") + function("b")
    assert kept(stripped(source, "a")) == {".text.a", ".text.kept", ".text.helper"}


def test_notes_stay() -> None:
    """Nothing refers to a note that is part of the image; it is for who looks at it."""
    source = function("a") + '.section .note.mine,"a",@note\n.long 4, 4, 1\n.asciz "abc"\n.long 7\n'
    assert ".note.mine" in kept(stripped(source, "a"))


# What lives and dies together


def test_the_members_of_a_group_are_kept_together() -> None:
    """A reference to one section of a group keeps all of them; no reference, none (gABI, Section Groups)."""
    group = """
        .section .text.{0},"axG",@progbits,{0},comdat
        .weak {0}
    {0}: ret
        .section .data.{0},"awG",@progbits,{0},comdat
        .quad {0}
        .section .rodata.{0},"aG",@progbits,{0},comdat
        .quad helper_{0}
    """
    helpers = function("helper_one") + function("helper_two")
    image = stripped(function("a", "one") + group.format("one") + group.format("two") + helpers, "a")
    assert kept(image) == {".text.a", ".text.one", ".data.one", ".rodata.one", ".text.helper_one"}


def test_a_linked_section_follows_the_section_it_is_linked_to() -> None:
    """SHF_LINK_ORDER: metadata of a function stays if the function does, and not the other way round."""
    source = function("a", "b") + function("b") + function("c")
    for name in ("b", "c"):
        source += f'.section .meta.{name},"ao",@progbits,.text.{name}\n.quad helper_{name}\n'
    source += function("helper_b") + function("helper_c")
    assert kept(stripped(source, "a")) == {".text.a", ".text.b", ".meta.b", ".text.helper_b"}


def test_a_reference_to_the_bounds_of_a_set_keeps_the_set() -> None:
    """Who uses __start_NAME or __stop_NAME uses all sections of that name, and what they refer to."""
    users = '.section .data.user_{0},"aw"\n.globl user_{0}\nuser_{0}: .quad __{1}_{0}\n'
    source = users.format("plugins", "start") + users.format("hooks", "stop")
    for name in ("plugins", "hooks"):
        source += f'.section {name},"aw",@progbits\n.quad in_{name}\n' + function(f"in_{name}")
    image = stripped(source, "user_plugins")
    assert kept(image, "") == {".data.user_plugins", "plugins", ".text.in_plugins"}
    image = stripped(source, "user_hooks")
    assert kept(image, "") == {".data.user_hooks", "hooks", ".text.in_hooks"}


def test_a_set_that_nobody_asks_for_is_dropped() -> None:
    """Sections with C names are kept by their bounds or by ordinary references, and not by their name."""
    source = function("a") + '.section plugins,"aw",@progbits\n.quad a\n'
    assert kept(stripped(source, "a"), "") == {".text.a"}


# Unwind records

CATCHES = """
extern "C" void may_throw();
extern "C" int used() { try { may_throw(); } catch (int caught) { return caught; } return 0; }
extern "C" int unused() { try { may_throw(); } catch (int caught) { return caught + 1; } return 0; }
"""
FAR_AWAY = 0x7F00_1234_5678
OUTSIDE = dict.fromkeys(
    ("may_throw", "__gxx_personality_v0", "__cxa_begin_catch", "__cxa_end_catch", "_ZTIi", "_Unwind_Resume"),
    BASE + 0x100_0000,
)


def unwind_records(content: bytes) -> list[tuple[int, bytes]]:
    """The records of .eh_frame that are no CIE: where each starts, and its bytes."""
    found, at = [], 0
    while at + 4 <= len(content):
        length = struct.unpack_from("<I", content, at)[0]
        if not length:
            break
        if struct.unpack_from("<I", content, at + 4)[0]:
            found.append((at, content[at : at + 4 + length]))
        at += 4 + length
    return found


def test_the_unwind_record_of_a_dropped_function_is_emptied() -> None:
    """A kept function keeps its record and its exception table; a dropped one leaves a record for address 0.

    The unwinders pass over a record whose function starts at 0, so that no record describes other code.
    """
    content = zig_cc(
        CATCHES, "-O1", "-ffunction-sections", "-fexceptions", "-fno-asynchronous-unwind-tables", language="c++"
    )
    image = jitlink.link(content, base=BASE, exports=["used"], dead_strip=True, define=OUTSIDE)
    assert kept(image, ".text.") == {".text.used"}
    assert kept(image, ".gcc_except_table") <= {".gcc_except_table.used", ".gcc_except_table"}
    frame = next(block for block in image.graph.blocks if block.section.purpose == Purpose.EH_FRAME and block.live)
    described = []
    for at, record in unwind_records(image.read(frame.address, frame.size)):
        start = int.from_bytes(record[8:12], "little", signed=True)
        described.append(frame.address + at + 8 + start if start else 0)
    assert sorted(described) == [0, image.address_of("used")]


def test_an_unwind_record_does_not_keep_its_function() -> None:
    """An FDE refers to its function, which is no reason to keep the function."""
    source = "".join(
        f'.section .text.{name},"ax"\n.globl {name}\n{name}:\n.cfi_startproc\nret\n.cfi_endproc\n'
        for name in ("a", "b", "c")
    )
    image = stripped(source, "b")
    assert kept(image) == {".text.b", ".eh_frame"}


def test_a_kept_function_keeps_its_exception_table() -> None:
    """The other references of an FDE, such as to its LSDA, are its function's; so is the personality routine's."""
    source = "".join(
        f"""
        .section .text.{name},"ax"
        .globl {name}
{name}: .cfi_startproc
        .cfi_lsda 0x1b, table_{name}
        ret
        .cfi_endproc
        .section .lsda.{name},"a"
table_{name}: .quad 1
        """
        for name in ("a", "b")
    )
    assert kept(stripped(source, "a")) == {".text.a", ".lsda.a", ".eh_frame"}


def test_the_personality_routine_is_needed_by_kept_functions_only() -> None:
    """A CIE refers to it; if no function of that CIE is kept, nobody needs to define it."""
    source = (
        function("plain")
        + """
        .section .text.catches,"ax"
        .globl catches
catches: .cfi_startproc
        .cfi_personality 0x9b, pointer_to_personality
        ret
        .cfi_endproc
        .section .data.personality,"aw"
pointer_to_personality: .quad personality
    """
    )
    assert kept(stripped(source, "plain")) == {".text.plain", ".eh_frame"}
    with pytest.raises(UndefinedSymbols, match="personality"):
        stripped(source, "catches")
    image = jitlink.link(
        assemble(source), base=BASE, exports=["catches"], dead_strip=True, define={"personality": FAR_AWAY}
    )
    pointer = next(block for block in image.graph.blocks if block.section.name == ".data.personality")
    assert int.from_bytes(image.read(pointer.address, 8), "little") == FAR_AWAY


def test_a_dropped_group_takes_its_unwind_records_along() -> None:
    """Also without dead strip: the FDE of an inline function that lost to another copy describes nothing."""
    inline = """
        .section .text.inline,"axG",@progbits,inline,comdat
        .weak inline
inline: .cfi_startproc
        ret
        .cfi_endproc
    """
    image = jitlink.link(assemble(inline), assemble(inline + "\n.byte 0x90"), base=BASE)
    starts = []
    for frame in image.graph.blocks:
        if frame.section.purpose == Purpose.EH_FRAME:
            for at, record in unwind_records(image.read(frame.address, frame.size)):
                start = int.from_bytes(record[8:12], "little", signed=True)
                starts.append(frame.address + at + 8 + start if start else 0)
    assert sorted(starts) == [0, image.address_of("inline")]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (struct.pack("<II", 0x1000, 1) + bytes(16), "goes past the end"),
        (struct.pack("<II", 2, 1) + bytes(16), "goes past the end"),
        (struct.pack("<IQ", 0xFFFFFFFF, 8) + bytes(16), "64-bit length"),
        (struct.pack("<IIQ", 12, 4, 0), "refers to no CIE"),
        (struct.pack("<IIQ", 12, 0x7FFFFFFF, 0), "refers to no CIE"),
    ],
)
def test_broken_unwind_records_are_malformed_input(content: bytes, fault: str) -> None:
    """A record that cannot be walked is refused with its place, and neither read past its end nor looped over."""
    graph = jitlink.new_graph("broken", "x86_64")
    code = graph.add_symbol("code", graph.add_block(graph.add_section(".text", CODE), b"\xc3"))
    frame = graph.add_block(graph.add_section(".eh_frame", purpose=Purpose.EH_FRAME), content)
    graph.add_edge(frame, 8, "R_X86_64_PC32", code)
    with pytest.raises(MalformedInput, match=rf"broken: \.eh_frame\+0x0: .*{fault}"):
        jitlink.link(graph, base=BASE, exports=["code"], dead_strip=True)


# Size


def chain(length: int, *, wide: bool = False) -> LinkGraph:
    """A graph of functions that each call the next one, or that are all called by the first one."""
    graph = jitlink.new_graph("chain", "x86_64")
    section = graph.add_section(".text", CODE)
    content = graph.add_content(b"\xe9\0\0\0\0")
    blocks = graph.blocks.append(2 * length, section=section, content=content, size=5, alignment=1, live=True)
    symbols = graph.symbols.append(
        2 * length, name=graph.symbols.name[0], block=blocks, scope=Scope.LOCAL, definition=1, input=1
    )
    graph.symbols.name[symbols[0]] = graph.add_name("first")
    graph.symbols.scope[symbols[0]] = Scope.DEFAULT
    callers = np.full(length - 1, blocks[0]) if wide else blocks[: length - 1]
    kind = graph.target.kind_number("R_X86_64_NONE" if wide else "R_X86_64_PC32")
    graph.edges.append(length - 1, block=callers, offset=1, kind=kind, target=symbols[1:length], addend=-4)
    return graph


@pytest.mark.parametrize("wide", [False, True], ids=["chain", "star"])
def test_a_hundred_thousand_functions_are_kept_and_as_many_dropped(wide: bool) -> None:
    """Neither the length of a chain of calls nor the number of functions that one refers to is a limit."""
    length = 100_000
    image = jitlink.link(chain(length, wide=wide), base=BASE, exports=["first"], dead_strip=True)
    live = image.graph.blocks.live
    assert live[1 : length + 1].all()
    assert not live[length + 1 :].any()


def test_large_groups_are_kept_whole() -> None:
    """A group of many sections hangs together by one reference to any of them."""
    members = "".join(
        f'.section .data.m{row},"awG",@progbits,all,comdat\n.globl m{row}\nm{row}: .byte 1\n' for row in range(500)
    )
    assert len(kept(stripped(members + function("a", "m250"), "a"))) == 501


def test_a_reference_from_kept_code_into_a_dropped_section_is_refused() -> None:
    """No live code is left with an address that means nothing."""
    graph = jitlink.new_graph("dropped", "x86_64")
    section = graph.add_section(".text", CODE)
    first, second = graph.add_block(section, bytes(8)), graph.add_block(section, bytes(8))
    graph.add_symbol("first", first)
    graph.add_edge(first, 0, "R_X86_64_64", graph.add_symbol("second", second))
    graph.blocks.live[second] = False
    with pytest.raises(LinkFailure, match=r"dropped: \.text\+0x0: refers to 'second'"):
        jitlink.link(graph, base=BASE)

"""Symbol resolution: which definition a name means, who may see it, and what is reported when nobody has it.

The rules are those of the gABI (Symbol Table, Section Groups): a strong definition, then a common, then
a weak one; an undefined weak symbol has the value 0; the most constraining visibility applies.
"""

from __future__ import annotations

import struct
from itertools import permutations

import pytest

import jitlink
from jitlink import DuplicateDefinitions, LinkFailure, Protection, SymbolNotFound, UndefinedSymbols
from jitlink.graph import Definition, Linkage, LinkGraph, Scope, SymbolKind
from tests.toolchain import assemble

BASE = 0x2345_6000
DATA = Protection.READ | Protection.WRITE
CODE = Protection.READ | Protection.EXECUTE


def defines(
    content: bytes,
    *,
    name: str = "name",
    linkage: Linkage = Linkage.STRONG,
    scope: Scope = Scope.DEFAULT,
    source: str = "",
) -> LinkGraph:
    """A graph that defines a name by a block of this content."""
    graph = jitlink.new_graph(source or f"{content.decode()}.graph", "x86_64")
    block = graph.add_block(graph.add_section(".data", DATA), content)
    graph.add_symbol(name, block, linkage=linkage, scope=scope)
    return graph


def common(size: int, alignment: int, name: str = "name") -> LinkGraph:
    """A graph with a common symbol."""
    graph = jitlink.new_graph("common.graph", "x86_64")
    graph.add_symbol(name, offset=alignment, size=size, definition=Definition.COMMON, kind=SymbolKind.OBJECT)
    return graph


def refers(name: str = "name", *, linkage: Linkage = Linkage.STRONG, scope: Scope = Scope.DEFAULT) -> LinkGraph:
    """A graph with a pointer, called `pointer`, to a name that it does not define."""
    graph = jitlink.new_graph("refers.graph", "x86_64")
    block = graph.add_block(graph.add_section(".data", DATA), bytes(8))
    graph.add_symbol("pointer", block)
    graph.add_edge(block, 0, "R_X86_64_64", graph.add_symbol(name, linkage=linkage, scope=scope))
    return graph


def pointed_at(image: jitlink.Image, name: str = "pointer") -> int:
    return int.from_bytes(image.read(image.address_of(name), 8), "little")


def weak(content: bytes) -> LinkGraph:
    return defines(content, linkage=Linkage.WEAK)


# Which definition wins


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
def test_a_strong_definition_wins_in_any_order(order: tuple[int, ...]) -> None:
    """Strong over common and over weak, wherever it stands among the inputs."""
    parts = [weak(b"weak"), defines(b"strong"), common(64, 8), refers()]
    image = jitlink.link(*(parts[number] for number in order), base=BASE)
    assert image.read(pointed_at(image), 6) == b"strong"


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_a_common_symbol_wins_over_a_weak_definition(order: tuple[int, ...]) -> None:
    """ "The link editor honors the common definition and ignores the weak ones" (gABI, Symbol Table)."""
    parts = [weak(b"weakly"), common(6, 8), refers()]
    image = jitlink.link(*(parts[number] for number in order), base=BASE)
    assert image.read(pointed_at(image), 6) == bytes(6)


def test_the_first_of_several_weak_definitions_wins() -> None:
    """Among weak definitions the first one is taken."""
    image = jitlink.link(refers(), weak(b"one"), weak(b"two"), weak(b"three"), base=BASE)
    assert image.read(pointed_at(image), 3) == b"one"


def test_references_inside_the_losing_input_go_to_the_winner() -> None:
    """A name means one thing: also for the input whose own definition lost."""
    loser = weak(b"lost")
    pointer = loser.add_block(1, bytes(8))
    loser.add_symbol("inside", pointer)
    loser.add_edge(pointer, 0, "R_X86_64_64", loser.symbols["name"].row)
    image = jitlink.link(loser, defines(b"strong"), base=BASE)
    assert pointed_at(image, "inside") == image.address_of("name")
    assert image.read(image.address_of("name"), 6) == b"strong"


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_commons_of_one_name_share_the_largest_size_and_alignment(order: tuple[int, ...]) -> None:
    """A common block is as large as the largest and as aligned as the strictest of its name (gABI, SHN_COMMON)."""
    parts = [common(8, 64), common(24, 4), common(3, 1)]
    image = jitlink.link(*(parts[number] for number in order), common(1, 1, "other"), base=BASE)
    symbol = next(symbol for symbol in image.graph.symbols if symbol.name == "name" and symbol.block)
    assert symbol.block is not None
    assert (symbol.block.size, symbol.block.alignment, symbol.size) == (24, 64, 24)
    assert image.address_of("name") % 64 == 0
    assert not image.address_of("name") <= image.address_of("other") < image.address_of("name") + 24


def test_a_common_symbol_beside_a_strong_one_takes_no_room() -> None:
    """A common that lost to a definition is that definition, whatever its size was."""
    image = jitlink.link(common(4096, 4096), defines(b"strong"), base=BASE)
    assert image.size == 4096


def test_local_symbols_of_one_name_are_each_their_own() -> None:
    """Local symbols take no part in resolution (gABI, STB_LOCAL)."""
    parts = []
    for number in range(3):
        graph = defines(b"local%d" % number, scope=Scope.LOCAL)
        pointer = graph.add_block(1, bytes(8))
        graph.add_symbol(f"pointer{number}", pointer)
        graph.add_edge(pointer, 0, "R_X86_64_64", graph.symbols["name"].row)
        parts.append(graph)
    image = jitlink.link(*parts, base=BASE)
    assert [image.read(pointed_at(image, f"pointer{number}"), 6) for number in range(3)] == [
        b"local0",
        b"local1",
        b"local2",
    ]


# COMDAT groups


def comdat(content: str, *, signature: str = "inline", extra: str = "", flags: str = "comdat") -> bytes:
    """An object with a section group that defines `inline` weakly, and a pointer to it."""
    return assemble(f"""
        .section .rodata.inline,"aG",@progbits,{signature},{flags}
        .weak inline
inline: .ascii "{content}"
        {extra}
        .section .data.pointer_{content},"aw"
        .globl pointer_{content}
pointer_{content}: .quad inline
    """)


def test_the_first_comdat_group_of_a_signature_is_kept() -> None:
    """The others are dropped, and references to what they defined go to the first (gABI, Section Groups)."""
    image = jitlink.link(comdat("first"), comdat("other"), comdat("third"), base=BASE)
    for content in ("first", "other", "third"):
        assert image.read(pointed_at(image, f"pointer_{content}"), 5) == b"first"
    live = [block.content for block in image.graph.blocks if block.live and block.section.name == ".rodata.inline"]
    assert live == [b"first"]


def test_strong_definitions_in_comdat_groups_are_no_duplicates() -> None:
    """What a dropped group defined is forgotten before duplicates are looked for."""
    objects = [comdat(content).replace(b".weak", b".weak") for content in ("first", "other")]
    graphs = [jitlink.read(content) for content in objects]
    for graph in graphs:
        graph.symbols.linkage[graph.symbols["inline"].row] = Linkage.STRONG
    image = jitlink.link(*graphs, base=BASE)
    assert image.read(image.address_of("inline"), 5) == b"first"


def test_a_local_signature_identifies_a_group_by_its_name() -> None:
    """The name alone identifies a group: a local signature and a global one of that name are one group."""
    local = ".local only_here\n"
    parts = [comdat("first", signature="only_here", extra=local), comdat("other", signature="only_here", extra=local)]
    parts.append(comdat("third", signature="only_here", extra=".globl only_here\nonly_here: .byte 1"))
    image = jitlink.link(*parts, base=BASE)
    assert image.read(pointed_at(image, "pointer_third"), 5) == b"first"
    live = [block for block in image.graph.blocks if block.live and block.section.name == ".rodata.inline"]
    assert len(live) == 1


def test_groups_that_are_not_comdat_are_all_kept() -> None:
    """GRP_COMDAT says that one group is enough; without it, every group stays."""
    graphs = [jitlink.read(comdat(content)) for content in ("first", "other")]
    for graph in graphs:
        graph.groups.comdat[1] = False
    image = jitlink.link(*graphs, base=BASE)
    live = [block for block in image.graph.blocks if block.live and block.section.name == ".rodata.inline"]
    assert len(live) == 2


def test_all_sections_of_a_losing_group_are_dropped() -> None:
    """A group is kept or dropped as a whole, sections without symbols included."""
    extra = '.section .data.more,"awG",@progbits,inline,comdat\n.quad 7'
    image = jitlink.link(comdat("first", extra=extra), comdat("other", extra=extra), base=BASE)
    assert len([block for block in image.graph.blocks if block.live and block.section.name == ".data.more"]) == 1


def test_a_reference_into_a_dropped_group_by_a_local_symbol_is_refused() -> None:
    """What only the dropped group had cannot be replaced by anything: the link fails and says where."""
    extra = "hidden_inside: .byte 1"
    outside = '.section .data.outside,"aw"\n.globl outside\noutside: .quad hidden_inside'
    with pytest.raises(LinkFailure, match=r"\.data\.outside\+0x0: refers to .*dropped"):
        jitlink.link(comdat("first"), comdat("other", extra=extra + "\n" + outside), base=BASE)


# What nobody defines, and what too many do


def test_all_duplicates_are_reported_at_once() -> None:
    """Every name with several strong definitions, and for each all places that define it."""
    parts = [defines(b"a", name=name, source=f"{source}.graph") for name in ("x", "y") for source in ("one", "two")]
    with pytest.raises(DuplicateDefinitions) as caught:
        jitlink.link(*parts, weak(b"w"), defines(b"s"), base=BASE)
    assert caught.value.names == ["x", "y"]
    text = str(caught.value)
    assert "2 symbols are defined more than once" in text
    for name in ("x", "y"):
        assert f"{name}, defined by one.graph: .data+0x0 and by two.graph: .data+0x0" in text


def test_absolute_definitions_count_as_strong() -> None:
    """An absolute symbol and a definition of the same name are duplicates."""
    with pytest.raises(DuplicateDefinitions, match="name, defined by"):
        jitlink.link(defines(b"data"), assemble(".globl name\nname = 17\n"), base=BASE)


def test_definitions_as_the_same_number_are_one() -> None:
    """GNU ld and lld link objects that define a name as the same absolute number; another number is a duplicate."""
    same = [assemble(".globl name\nname = 17\n") for _ in range(3)]
    assert jitlink.link(*same, refers(), base=BASE).address_of("name") == 17
    with pytest.raises(DuplicateDefinitions, match="name, defined by"):
        jitlink.link(*same, assemble(".globl name\nname = 18\n"), base=BASE)


def test_all_undefined_symbols_are_reported_at_once_with_places() -> None:
    """Each name once, with a place that refers to it, and what a person can do."""
    source = ".data\n.quad 0\n.quad first\n.quad second\n.quad first\n.weak third\n.quad third\n"
    with pytest.raises(UndefinedSymbols) as caught:
        jitlink.link(assemble(source), base=BASE)
    assert sorted(caught.value.names) == ["first", "second"]
    text = str(caught.value)
    assert "2 undefined symbols" in text
    assert "first, referred to by (bytes): .data+0x8" in text
    assert "second, referred to by (bytes): .data+0x10" in text
    assert "define=" in text


def test_an_undefined_symbol_without_references_is_no_error() -> None:
    """Compilers leave symbols behind that nothing refers to; only references ask for a definition."""
    image = jitlink.link(assemble(".globl unused\n.data\n.globl here\nhere: .quad here\n"), base=BASE)
    assert pointed_at(image, "here") == image.address_of("here")


def test_one_strong_reference_makes_a_definition_necessary() -> None:
    """A name that one input refers to weakly and another strongly is required."""
    for parts in permutations([refers(linkage=Linkage.WEAK), jitlink.read(assemble(".data\n.quad name\n"))]):
        with pytest.raises(UndefinedSymbols, match="name, referred to by"):
            jitlink.link(*parts, base=BASE)


def test_undefined_weak_is_zero_through_every_way_of_reaching_it() -> None:
    """As a 64-bit datum, in a GOT entry, and as the target of a call, its address is 0 (gABI, Symbol Table)."""
    image = jitlink.link(
        assemble("""
        .weak nowhere
        .text
        .globl load, call, jump
load:   movq nowhere@GOTPCREL(%rip), %rax
        ret
call:   call nowhere@PLT
        ret
jump:   jmp *nowhere@GOTPCREL(%rip)
        .data
        .globl datum
datum:  .quad nowhere
        .quad nowhere + 5
    """),
        base=BASE,
    )
    assert image.read(image.address_of("datum"), 16) == struct.pack("<QQ", 0, 5)

    def slot_after(at: int) -> int:
        """What the GOT entry holds whose distance stands at an address."""
        distance = int.from_bytes(image.read(at, 4), "little", signed=True)
        return int.from_bytes(image.read(at + 4 + distance, 8), "little")

    load, call, jump = map(image.address_of, ("load", "call", "jump"))
    assert image.read(load, 3).hex() == "488b05"
    assert slot_after(load + 3) == 0
    assert image.read(jump, 2).hex() == "ff25"
    assert slot_after(jump + 2) == 0
    stub = call + 5 + int.from_bytes(image.read(call + 1, 4), "little", signed=True)
    assert image.read(stub, 2).hex() == "ff25"
    assert slot_after(stub + 2) == 0


def test_a_weak_reference_takes_a_definition_that_is_there() -> None:
    """From another input, or from outside: weak means that a definition may be missing, not that it is."""
    image = jitlink.link(refers(linkage=Linkage.WEAK), defines(b"strong"), base=BASE)
    assert image.read(pointed_at(image), 6) == b"strong"
    outside = jitlink.link(refers(linkage=Linkage.WEAK), base=BASE, define={"name": 0x7777})
    assert pointed_at(outside) == 0x7777


def test_a_name_from_outside_does_not_replace_a_definition() -> None:
    """What the inputs define, weakly as well, is theirs."""
    image = jitlink.link(refers(), weak(b"weak"), base=BASE, define={"name": 0x7777})
    assert image.read(pointed_at(image), 4) == b"weak"


# Visibility


@pytest.mark.parametrize("order", list(permutations(range(2))), ids=str)
@pytest.mark.parametrize("visibility", ["hidden", "internal"])
def test_the_most_constraining_visibility_applies(visibility: str, order: tuple[int, ...]) -> None:
    """One hidden reference keeps a name inside its dylib, though its definition is visible (gABI, Visibility)."""
    reference = jitlink.read(assemble(f".{visibility} name\n.data\n.globl pointer\npointer: .quad name\n"))
    parts = [reference, defines(b"strong")]
    image = jitlink.link(*(parts[number] for number in order), base=BASE)
    assert image.read(pointed_at(image), 6) == b"strong"
    assert "name" not in image.symbols()
    assert "pointer" in image.symbols()


def test_a_protected_symbol_is_exported() -> None:
    """STV_PROTECTED keeps a name from being replaced, not from being seen."""
    image = jitlink.link(assemble(".protected name\n.globl name\n.data\nname: .quad 1\n"), base=BASE)
    assert image.symbols() == {"name": image.address_of("name")}


def test_a_gnu_unique_symbol_is_a_global_one() -> None:
    """STB_GNU_UNIQUE resolves like STB_GLOBAL inside a link, and is exported."""
    source = ".type name, @gnu_unique_object\n.data\nname: .quad 1\n.size name, 8\n"
    image = jitlink.link(assemble(source), refers(), base=BASE)
    assert pointed_at(image) == image.address_of("name")
    assert "name" in image.symbols()
    with pytest.raises(DuplicateDefinitions):
        jitlink.link(assemble(source), defines(b"strong"), base=BASE)


@pytest.mark.parametrize("order", list(permutations(range(2))), ids=str)
def test_a_hidden_reference_is_not_met_from_outside(order: tuple[int, ...]) -> None:
    """A hidden name must be defined in its own dylib, also if another input refers to it visibly."""
    parts = [refers(scope=Scope.HIDDEN), refers()]
    parts[0].symbols.scope[1] = Scope.LOCAL
    with jitlink.Session() as session:
        other = session.dylib("other")
        other.add(defines(b"strong")).link()
        dylib = session.dylib("dylib")
        dylib.link_against(other).add(*(parts[number] for number in order))
        with pytest.raises(UndefinedSymbols, match="name"):
            dylib.link()


@pytest.mark.parametrize("scope", [Scope.DEFAULT, Scope.HIDDEN], ids=str)
def test_a_name_that_the_caller_gives_is_part_of_the_link(scope: Scope) -> None:
    """define= defines a name in the link itself, as --defsym of ld does, so it serves a hidden reference too."""
    image = jitlink.link(refers(scope=scope), base=BASE, define={"name": 0x7777})
    assert pointed_at(image) == 0x7777


def test_hidden_names_stay_in_their_dylib() -> None:
    """A later link of the same dylib finds a hidden name; a lookup and another dylib do not."""
    with jitlink.Session() as session:
        first = session.dylib("first")
        first.add(defines(b"secret", scope=Scope.HIDDEN), defines(b"public", name="shown"))
        first.link()
        first.add(refers(scope=Scope.HIDDEN))
        assert first["pointer"].address
        with pytest.raises(SymbolNotFound):
            first["name"]
        second = session.dylib("second")
        second.link_against(first)
        second.add(refers("shown"))
        assert second["pointer"].address
        third = session.dylib("third")
        third.link_against(first)
        third.add(refers())
        with pytest.raises(UndefinedSymbols, match="name"):
            third.link()


def test_resolution_keeps_many_names_apart() -> None:
    """Thousands of names that each have a weak and a strong definition and a reference in different inputs."""
    number = 3000
    strong = "".join(f".globl n{row}\nn{row}: .quad {row}\n" for row in range(number))
    weakly = "".join(f".weak n{row}\nn{row}: .quad -1\n" for row in reversed(range(number)))
    pointers = "".join(f".quad n{row}\n" for row in range(number))
    image = jitlink.link(
        assemble(".data\n" + weakly),
        assemble(".data\n.globl table\ntable:\n" + pointers),
        assemble(".data\n" + strong),
        base=BASE,
    )
    for row, address in enumerate(struct.unpack(f"<{number}Q", image.read(image.address_of("table"), 8 * number))):
        assert int.from_bytes(image.read(address, 8), "little") == row

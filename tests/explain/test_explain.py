"""Answers about links: of small programs whose answers are known from their source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jitlink.cli import main
from jitlink.errors import SymbolNotFound, UsageError
from jitlink.inspect import Paper
from jitlink.inspect.explain import preflight, relocation_at, size_of, treemap, who, why
from jitlink.inspect.explain.size import Tile, tiled
from jitlink.inspect.stages import Watched, watch
from tests.toolchain import archive_of, assemble, zig_cc

FLAGS = ("-O1", "-fPIC", "-ffunction-sections", "-fdata-sections", "-fno-inline")
MAIN = """
extern int middle(int);
int start(int x) { return middle(x) + 1; }
int idle(int x) { return x; }
"""
MIDDLE = """
extern int deep(int), nowhere_at_all(int);
int table[4] = {1, 2, 3, 4};
int middle(int x) { return deep(x) + table[x & 3]; }
int lonely(int x) { return nowhere_at_all(x); }
"""
DEEP = "extern int missing_name(int); int deep(int x) { return missing_name(x) * 2; }"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An object, and an archive of two members that it needs one after the other."""
    directory = tmp_path_factory.mktemp("explain")
    objects = {name: zig_cc(source, *FLAGS) for name, source in (("middle.o", MIDDLE), ("deep.o", DEEP))}
    contents = {"main.o": zig_cc(MAIN, *FLAGS), "lib.a": archive_of(objects)}
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return {name: str(directory / name) for name in contents}


@pytest.fixture(scope="module")
def link(files: dict[str, str]) -> Watched:
    """The link of the object with what it needs of the archive, for one export."""
    return watch(files["main.o"], files["lib.a"], exports=["start"])


def text(answer: object) -> str:
    """An answer as text."""
    return "\n".join(answer.lines(Paper()))  # type: ignore[attr-defined]


def test_why_shows_the_chain_from_the_root(link):
    """start calls middle, which calls deep: two references keep deep."""
    answer = why(link, "deep", ["start"])
    assert answer.verdict == "kept, since the root start reaches it"
    assert [step.target.split()[0] for step in answer.chain] == ["middle", "deep"]
    assert [step.place.symbol for step in answer.chain] == ["start", "middle"]


def test_why_shows_who_pulled_which_member_in(link):
    """Each archive member is there for a name that an input before it asks for."""
    members = why(link, "deep", ["start"]).members
    assert [(member.rpartition("(")[2], name) for member, _, name in members] == [
        ("middle.o)", "middle"),
        ("deep.o)", "deep"),
    ]
    assert members[0][1].endswith("main.o")
    assert members[1][1].endswith("lib.a(middle.o)")


def test_why_of_a_root_of_something_dropped_and_of_something_unknown(link):
    """A root is its own reason; what no root reaches was dropped; a name that nobody spells is an error."""
    assert why(link, "start", ["start"]).verdict == "a root itself: the link is for it"
    assert why(link, "idle", ["start"]).verdict.startswith("dropped: no root reaches it")
    with pytest.raises(SymbolNotFound):
        why(link, "never_heard_of", ["start"])


def test_why_of_an_undefined_symbol_shows_who_asks(link):
    """The chain leads to the reference that nobody meets."""
    answer = why(link, "missing_name", ["start"])
    assert "undefined" in answer.verdict
    assert "asked for by deep" in answer.verdict
    assert [step.target.split()[0] for step in answer.chain] == ["middle", "deep", "missing_name"]
    assert "nothing that is part of the link refers to it" in why(link, "nowhere_at_all", ["start"]).verdict


def test_who_finds_all_references():
    """Also those that go through the symbol of the section."""
    source = """
    static int counter;
    int up(void) { return ++counter; }
    int *where(void) { return &counter; }
    int get(void) { return counter; }
    """
    link = watch(zig_cc(source, "-O1", "-fPIC"))
    answer = who(link, "counter")
    assert {reference.place.symbol for reference in answer.references} == {"up", "where", "get"}
    assert answer.definition.startswith("defined at counter, .bss+0x0")
    assert "3 references" in text(answer) or len(answer.references) > 3


def test_relocation_shows_formula_numbers_and_result():
    """S + A - P with the numbers of the link (psABI 4.4) is what the field holds."""
    code = assemble('.globl f, g\n.section .text.f,"ax"\nf: call g\n ret\n.section .text.g,"ax"\ng: ret\n')
    link = watch(code)
    [answer] = relocation_at(link, "(bytes)", ".text.f+1")
    assert answer.kind == "R_X86_64_PLT32"
    f, g = (link.snapshot("fixed_up").graph.symbols[name].address for name in "fg")
    assert answer.letters == {"L": g, "A": -4, "P": f + 1}
    assert answer.value == g - 4 - (f + 1)
    assert bytes.fromhex(answer.after) == (answer.value % 2**32).to_bytes(4, "little")
    assert answer.before == "00 00 00 00"
    assert answer.instruction_after == f"call {g:#x}"
    assert answer.fits
    assert f"{g:#x} + -0x4 - {f + 1:#x} = {answer.value:#x}" in text(answer)


def test_relocation_tells_of_relaxation_and_of_what_the_linker_made():
    """A GOT load of something near is rewritten; one of something far goes through the GOT."""
    source = "extern int far_one; int near_one = 1; int f(void) { return near_one + far_one; }"
    link = watch(zig_cc(source, "-O1", "-fPIC"), define={"far_one": 0x7F00_0000_0000})
    graph = link.snapshot("pre_prune").graph
    places = {edge.target.name: f".text+{edge.offset:#x}" for edge in graph.edges if "GOTPCREL" in edge.kind}
    [near] = relocation_at(link, "(bytes)", places["near_one"])
    assert any("rewritten" in step for step in near.steps)
    assert near.instruction_before.startswith(("mov", "add"))
    [far] = relocation_at(link, "(bytes)", places["far_one"])
    assert any(".got" in step for step in far.steps)


@pytest.mark.parametrize(
    ("input", "place", "message"),
    [
        ("(bytes)", "nonsense", "SECTION"),
        ("(bytes)", ".text+0x9999", "nearest"),
        ("(bytes)", ".nothing+1", "no relocations"),
        ("other.o", ".text+1", "no relocations"),
    ],
)
def test_places_without_a_relocation_are_usage_errors(input, place, message):
    """The message says what there is instead."""
    link = watch(assemble(".globl f\nf: call g\n"))
    with pytest.raises(UsageError, match=message):
        relocation_at(link, input, place)


def topics(link: Watched) -> dict[str, str]:
    """The findings of a preflight by topic."""
    return {finding.topic: finding.text for finding in preflight(link, search=False).findings}


def test_preflight_says_who_could_supply_names():
    """puts is in this process, sqrt at least in libm, and one name nowhere."""
    link = watch(
        zig_cc('int puts(const char*); int no_such_name_x(void); int f(void){ puts("a"); return no_such_name_x(); }')
    )
    findings = preflight(link).findings
    texts = [finding.text for finding in findings if finding.topic == "undefined"]
    assert any("this process has" in each for each in texts)
    [problem] = [finding for finding in findings if finding.weight == "problem"]
    assert problem.examples == ["no_such_name_x"]


def test_preflight_sees_initialisers_indirect_functions_and_models():
    """A constructor, an IFUNC and absolute 32-bit addresses are each a finding."""
    source = """
    static int one(void) { return 1; }
    static void *choose(void) { return one; }
    int chosen(void) __attribute__((ifunc("choose")));
    __attribute__((constructor)) static void begin(void) {}
    """
    found = topics(watch(zig_cc(source)))
    assert "1 function run when it is loaded" in found["initialisers"]
    assert "1 function chosen" in found["indirect functions"]
    assert "code model" in topics(watch(assemble("movl $f, %eax\nf: ret\n")))


def test_sizes_add_up_to_the_image(link):
    """Inputs and sections both add up to the bytes of the live blocks."""
    sizes = size_of(link)
    blocks = link.snapshot("fixed_up").graph.blocks
    assert sizes.total == int(blocks.size[blocks.live].sum())
    assert sizes.total == sum(size for _, size in sizes.inputs) == sum(size for _, size in sizes.sections)
    assert sizes.total == sum(size for _, _, size in sizes.tiles)
    assert dict(sizes.symbols)["table"] == 16


def test_tiles_fill_the_space_and_keep_their_shares():
    """Areas are proportional to sizes, and no tile leaves the rectangle."""
    sizes = [600, 300, 200, 100, 50, 50, 1]
    tiles = tiled(sizes, Tile(10, 20, 400, 300))
    for size, tile in zip(sizes, tiles, strict=True):
        assert tile.width * tile.height == pytest.approx(size * 400 * 300 / sum(sizes))
        assert 10 <= tile.x <= tile.x + tile.width <= 410.001
        assert 20 <= tile.y <= tile.y + tile.height <= 320.001
    assert tiled([], Tile(0, 0, 1, 1)) == []


def test_the_treemap_escapes_names():
    """No name becomes markup."""
    from jitlink import Protection, new_graph

    graph = new_graph("<b>evil</b>", "x86_64")
    block = graph.add_block(graph.add_section("<script>", Protection.READ), b"x" * 1000)
    graph.add_symbol("</svg>", block, size=10)
    page = treemap(size_of(watch(graph)))
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def run(*arguments: str) -> Result:
    """`jitlink explain`, on the command line."""
    return CliRunner().invoke(main, ["explain", *arguments])


def test_the_commands_print_text_and_json(files):
    """Each answer in both forms."""
    inputs = [files["main.o"], files["lib.a"], "--export", "start"]
    assert "kept, since the root start reaches it" in run("why", "deep", *inputs).stdout
    assert json.loads(run("why", "deep", *inputs, "--json").stdout)["symbol"] == "deep"
    assert "2 references" in run("who", "deep", *inputs).stdout  # one of them from its unwind record
    assert json.loads(run("size", *inputs, "--json").stdout)["total"] > 0
    member = f"{files['lib.a']}(middle.o)"
    graph_place = next(step.place for step in why(watch(*inputs[:2], exports=["start"]), "deep", ["start"]).chain[1:])
    result = run("reloc", member, f"{graph_place.section}+{graph_place.offset}", *inputs)
    assert "R_X86_64_PLT32" in result.stdout, result.output
    assert run("preflight", *inputs).exit_code == 1
    assert run("why", "never_heard_of", *inputs).exit_code == 1


def test_the_size_page_is_written(files, tmp_path):
    """--html writes a page that stands alone."""
    path = tmp_path / "size.html"
    assert run("size", files["main.o"], "--html", str(path)).exit_code == 0
    page = Path(path).read_text()
    assert page.startswith("<!doctype html>")
    assert "http" not in page

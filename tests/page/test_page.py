"""The report page, driven in a real browser."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from jitlink import Protection, new_graph
from jitlink.inspect.page import report, write_report
from jitlink.inspect.stages import Watched, watch
from tests.inspect.test_hostile_names import HOSTILE
from tests.page.browser import Report, chromium
from tests.toolchain import zig_cc

ROOT = Path(__file__).parent.parent.parent
SOURCE = """
extern int outside(int);
static int deep(int x) { return outside(x) + 1; }
__attribute__((noinline)) static int middle(int x) { return deep(x) * 3; }
int table[4] = {1, 2, 3, 4};
int used(int x) { return middle(x) + table[x & 3]; }
int unused(int x) { return x - 1; }
"""
FLAGS = ("-O1", "-fPIC", "-ffunction-sections", "-fdata-sections")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests of this module."""
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def link() -> Watched:
    """A link with a block that is dropped and a name that nobody defines."""
    return watch(zig_cc(SOURCE, *FLAGS), exports=["used"], dead_strip=True)


@pytest.fixture
def page(driver: Any, link: Watched, tmp_path: Path) -> Report:
    """The report of the link, newly opened."""
    path = tmp_path / "report.html"
    write_report(path, link, title="sample.o", exports=["used"])
    return Report(driver, path)


def test_it_opens_on_the_map_and_asks_the_network_for_nothing(page):
    """One file is the whole page; no request goes out and nothing is complained about."""
    page.ready("map", "fixed_up")
    assert page.run("document.querySelectorAll('.map .block').length") >= 3
    assert "sample.o" in page.text("h1")
    assert page.requests() == []
    assert page.complaints() == []


def test_search_opens_a_symbol_with_its_references(page):
    """The best match is opened: what it is, who refers to it, and why it is here."""
    page.search("middle")
    page.ready("graph", "fixed_up")
    details = page.text(".details")
    assert "strong, local, function" in details
    assert "referred to by" in details
    assert "why it is here" in details
    assert page.run("[...document.querySelectorAll('.chain button')].map(each => each.textContent)") == [
        "used",
        "middle",
    ]


def test_the_graph_grows_by_click(page):
    """The neighbours of the chosen node are drawn; a further node brings its own."""
    page.search("used")
    page.ready("graph", "fixed_up")
    drawn = "document.querySelector('.graph .canvas').getAttribute('aria-label')"
    names = page.wait(drawn).split(", ")
    assert {"used", "middle", "table"} <= set(names)
    assert "outside" not in names
    page.driver.find_element("xpath", "//*[@class='references']//button[contains(., 'middle')]").click()
    page.wait("document.querySelector('.details h2').textContent === 'middle'")
    page.click("what it refers to")
    page.wait(f"{drawn}.includes('outside') || {drawn}.includes('stubs')")
    assert "refers to" in page.text(".graph .info")


def test_stages_are_switched(page):
    """As read, the dropped function is in the link; behind the prune it is dropped; bytes change at the last stage."""
    page.search("unused")
    page.click("as read")
    page.ready("graph", "pre_prune")
    assert "dropped" not in page.text(".details")
    page.press("]")
    page.ready("graph", "post_prune")
    assert "dropped from the link" in page.text(".details")
    page.press("[")
    page.ready("graph", "pre_prune")


def test_hovering_a_relocation_shows_its_formula_and_numbers(page, link):
    """S + A - P with the addresses of the link, and the result that is in the image."""
    from selenium.webdriver import ActionChains

    page.search("used")
    page.press("3")
    page.ready("listing", "fixed_up")
    graph = link.snapshot("fixed_up").graph
    [edge] = [edge for edge in graph.edges if edge.kind == "GOTPCRELX, mov to lea"]
    value = edge.target.address + edge.addend - edge.block.address - edge.offset
    found = page.find(f'.relocation[data-edge="{edge.row}"]')
    ActionChains(page.driver).move_to_element(found).perform()
    page.wait("!document.querySelector('.tip').hidden")
    tip = page.text(".tip")
    assert "S + A - P" in tip
    assert f"{edge.target.address:#x}" in tip
    assert f"= {value:#x}" in tip or f"= -{-value:#x}" in tip


def test_the_listing_has_instructions_and_names(page):
    """Code is disassembled, with the name of the function on its first line."""
    page.search("used")
    page.press("3")
    page.ready("listing", "fixed_up")
    assert page.text(".line.heading.selected b") == "used"
    lines = page.run("[...document.querySelectorAll('.listing .text')].map(each => each.textContent)")
    assert any(line.startswith("call") for line in lines)
    assert any(line.startswith("ret") for line in lines)


def test_a_reload_keeps_the_view(page):
    """What is shown is in the address: view, stage and symbol are there again."""
    page.search("table")
    page.click("allocated")
    page.press("3")
    page.ready("listing", "post_allocation")
    page.driver.refresh()
    page.ready("listing", "post_allocation")
    assert page.text(".details h2") == "table"
    page.driver.back()
    page.ready("graph", "post_allocation")


def test_dark_and_light(page):
    """The colours are switched by a key and stay over a reload."""
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.run(background)
    page.press("d")
    dark = page.wait(f"{background} !== {light!r} && {background}")
    page.driver.refresh()
    page.wait("document.body.dataset.ready")
    assert page.run(background) == dark
    page.press("d")
    page.wait(f"{background} === {light!r}")


def test_keys_reach_everything(page):
    """Views by number, help by question mark, arrows in the list of symbols, Escape back to the whole."""
    from selenium.webdriver.common.keys import Keys

    for key, view in (("2", "graph"), ("3", "listing"), ("1", "map")):
        page.press(key)
        page.ready(view, "fixed_up")
    page.press("?")
    page.wait("document.querySelector('dialog').open")
    page.click("close")
    page.press("/")
    page.find("input[type=search]").send_keys("t", Keys.ARROW_DOWN, Keys.ENTER)
    page.wait("document.querySelector('[aria-selected=true]')")
    page.press(Keys.ESCAPE)
    page.wait("document.querySelector('.details h2').textContent === 'sample.o'")


def test_hostile_names_are_text(driver, tmp_path):
    """No name becomes markup or runs: no script, no element, no sentinel, no complaint."""
    graph = new_graph(HOSTILE[0], "x86_64")
    for name in [*HOSTILE, "<img src=x onerror='window.evil=1'>", "</script><script>window.evil=1</script>", "<!--"]:
        block = graph.add_block(
            graph.add_section(name, Protection.READ | Protection.EXECUTE), bytes.fromhex("e800000000c3")
        )
        graph.add_symbol(name, block, size=6)
        graph.add_edge(block, 1, "R_X86_64_PLT32", graph.add_symbol(f"{name}?"), -4)
    path = tmp_path / "hostile.html"
    write_report(path, watch(graph))
    page = Report(driver, path)
    for view in "123":
        page.press(view)
        page.wait("document.body.dataset.ready")
    page.run("document.querySelector('.symbol').click()")
    page.wait("document.querySelector('.details dl')")
    assert page.run("window.evil") is None
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.scripts.length") == 2
    assert page.complaints() == []
    text = page.run("document.body.innerText")
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_failed_link_is_told(driver, tmp_path):
    """The stages that were reached are shown, and the error."""
    twice = zig_cc(SOURCE, *FLAGS)
    path = tmp_path / "failed.html"
    write_report(path, watch(twice, twice), title="twice")
    page = Report(driver, path)
    page.ready("map", "pre_prune")
    assert "defined more than once" in page.text(".error")


def test_fifty_thousand_edges_open_and_scroll(driver, tmp_path):
    """A large graph is all there: the last line of the listing can be reached."""
    graph = new_graph("large", "x86_64")
    section = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
    code = bytes.fromhex("e800000000" * 50 + "c3")
    blocks = [graph.add_block(section, code) for _ in range(1000)]
    symbols = [graph.add_symbol(f"function{number}", block, size=len(code)) for number, block in enumerate(blocks)]
    for number, block in enumerate(blocks):
        for call in range(50):
            graph.add_edge(block, 5 * call + 1, "R_X86_64_PLT32", symbols[(number * 7 + call) % 1000], -4)
    path = tmp_path / "large.html"
    write_report(path, watch(graph))
    page = Report(driver, path)
    assert "50,000" in page.text(".details")
    page.press("3")
    page.ready("listing", "fixed_up")
    page.run("(document.querySelector('.listing .virtual').scrollTop = 1e9)")
    page.wait("[...document.querySelectorAll('.line .text')].some(each => each.textContent === 'ret')")
    assert page.run("document.querySelectorAll('.line').length") < 200


def test_the_built_page_is_that_of_the_sources():
    """page.js was built from what is in page/: somebody who changes one has built the other."""
    sources = ROOT / "page"
    names = sorted([*(f"src/{path.name}" for path in (sources / "src").iterdir()), "package-lock.json", "build.mjs"])
    digest = hashlib.sha256(b"".join((sources / name).read_bytes() for name in names)).hexdigest()
    assert (files("jitlink.inspect.page") / "sources.sha256").read_text().strip() == digest


def test_the_page_has_a_policy_and_the_licences_of_what_it_holds(link):
    """One script may run, by its hash; no address of the network is in the frame of the page."""
    html = report(link)
    assert "default-src 'none'" in html
    assert html.count("<script") == 2
    licences = (files("jitlink.inspect.page") / "THIRD-PARTY-LICENSES").read_text()
    assert all(name in licences for name in ("cytoscape", "dagre", "d3-hierarchy"))

"""Take the pictures of docs/tour.md: the report page of a real library, in a headless browser.

Usage, where Chromium, its driver, Pillow and libz.a are installed:

    python docs/take_pictures.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from jitlink.inspect.page import write_report  # noqa: E402
from jitlink.inspect.stages import watch  # noqa: E402
from tests.page.browser import Report, chromium  # noqa: E402
from tests.toolchain import debian_library  # noqa: E402

PICTURES = DOCS / "pictures"
COLOURS = 128
"""Of a picture: enough for text and tiles, and a third of the bytes."""
SETTLING = 0.6
"""Seconds in which drawings come to rest."""


def take() -> None:
    """Open the report of libz.a, linked for one function, and take a picture of each view."""
    with tempfile.TemporaryDirectory() as scratch, chromium(Path(scratch) / "profile") as driver:
        path = Path(scratch) / "report.html"
        library = str(debian_library("libz.a"))
        link = watch(library, whole_archive=True, dead_strip=True, exports=["uncompress"])
        write_report(path, link, exports=["uncompress"])
        driver.set_window_size(1400, 860)
        page = Report(driver, path)
        page.ready("map", "fixed_up")
        keep(page, "map")
        page.search("inflate_table")
        page.ready("graph", "fixed_up")
        keep(page, "why")
        page.search("memcpy")
        keep(page, "undefined")
        page.search("deflateInit_")
        page.click("pruned")
        page.press("3")
        page.ready("listing", "post_prune")
        keep(page, "dropped")
        page.search("uncompress2")
        page.click("fixed up")
        page.ready("listing", "fixed_up")
        show_relocation(page)
        keep(page, "relocation")
        page.press("1", "d")
        page.ready("map", "fixed_up")
        keep(page, "dark")


def show_relocation(page: Report) -> None:
    """Put the focus on a call in sight, which opens its tip."""
    calls = "[...document.querySelectorAll('.line .relocation')].filter(each => each.textContent.includes('PLT32'))"
    page.run("document.querySelector('.listing .virtual').scrollBy(0, 360)")
    page.wait(f"{calls}.length")
    page.run(f"{calls}[0].focus()")
    page.wait("!document.querySelector('.tip').hidden")


def keep(page: Report, name: str) -> None:
    """Write the picture of what is shown."""
    time.sleep(SETTLING)
    PICTURES.mkdir(exist_ok=True)
    picture = Image.open(BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLOURS).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    take()

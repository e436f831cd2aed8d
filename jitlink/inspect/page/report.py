"""Making the report page: one self-contained file of HTML, which asks the network for nothing.

The page itself is built from page/ in the repository (TypeScript, bundled) and lies beside this file as
page.js and page.css. Here the data goes in: the columns of the graph at each stage, compressed, as JSON in a
script element that no browser runs. What names the inputs hold cannot matter: they are escaped text in
JSON in which no "<" is left, and the page's policy (Content-Security-Policy) runs one script, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from jitlink.escaping import escaped
from jitlink.inspect.page.data import report_data
from jitlink.inspect.stages import Watched

NAMED = 3
"""Files that a title names."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
)


def write_report(
    path: str | os.PathLike[str], link: Watched, *, title: str | None = None, exports: Sequence[str] | None = None
) -> None:
    """Write the report page of a watched link. Raises OSError where the file cannot be written."""
    Path(path).write_text(report(link, title=title, exports=exports), encoding="utf-8")


def report(link: Watched, *, title: str | None = None, exports: Sequence[str] | None = None) -> str:
    """Make the report page of a watched link.

    title: by default the names of the inputs. exports: the roots of the link, as it was given them.
    Raises the error of a link that failed before its first stage.
    """
    shown = escaped(title or _title(link.snapshot("pre_prune").graph.inputs[1:]))
    data = json.dumps(report_data(link, shown, exports)).replace("<", "\\u003c")
    script = (files("jitlink.inspect.page") / "page.js").read_text(encoding="utf-8")
    style = (files("jitlink.inspect.page") / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(script=digest)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(shown)} - jitlink</title>\n<style>{style}</style>\n</head>\n"
        '<body>\n<div id="page"><noscript>This page needs its script to be run.</noscript></div>\n'
        f'<script type="application/json" id="report">{data}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _title(inputs: Sequence[str]) -> str:
    """The names of the files that inputs come from, without their directories."""
    files = dict.fromkeys(os.path.basename(name.partition("(")[0] or name) for name in inputs)
    names = list(files)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "") or "link graph"

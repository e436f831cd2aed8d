"""Benchmark results as pictures."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from jitlink.cli import main
from jitlink.errors import MissingExtra, UsageError
from jitlink.inspect.plots import Bars, draw, read_results

PNG = b"\x89PNG\r\n\x1a\n"
RESULTS = {
    "rows": [
        {
            "title": "libz.a with $signs$",
            "unit": {"name": "ms", "size": 1e-3},
            "ours": {"label": "jitlink", "values": [0.001, 0.003, 0.002]},
            "rivals": [{"label": "another $linker", "values": [0.004]}, {"label": "failed", "values": []}],
        },
        {
            "title": "skipped",
            "unit": {"name": "ms", "size": 1e-3},
            "ours": {"label": "jitlink", "values": []},
            "rivals": [],
        },
    ]
}


def test_results_are_read_as_medians(tmp_path):
    """Values in the unit of the row; who failed and rows without figures are left out."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    [bars] = read_results(path)
    assert (bars.title, bars.unit) == ("libz.a with $signs$", "ms")
    assert dict(bars.values) == {"jitlink": pytest.approx(2.0), "another $linker": pytest.approx(4.0)}


def test_a_picture_is_drawn_from_results(tmp_path):
    """The command writes a PNG with nothing measured anew."""
    pytest.importorskip("matplotlib")
    results, picture = tmp_path / "results.json", tmp_path / "picture.png"
    results.write_text(json.dumps(RESULTS))
    result = CliRunner().invoke(main, ["bench", "--from", str(results), "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(PNG)


def test_measuring_prints_a_table_and_keeps_the_figures(tmp_path):
    """What --json keeps can be drawn."""
    kept = tmp_path / "kept.json"
    result = CliRunner().invoke(main, ["bench", "--runs", "1", "--json", str(kept)])
    assert result.exit_code == 0, result.output
    assert "4,000 functions" in result.output
    assert len(read_results(kept)) == 5


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [1]}', '{"rows": [{"title": "x"}]}'])
def test_other_files_are_usage_errors(tmp_path, text):
    """A file that holds no results is refused by name."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"other\.json"):
        read_results(path)


def test_a_missing_matplotlib_names_the_extra(monkeypatch, tmp_path):
    """Without the package, the error says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"jitlink\[plot\]"):
        draw([Bars("a", "ms", [("jitlink", 1.0)])], tmp_path / "a.png")


def test_an_unknown_picture_format_is_a_usage_error(tmp_path):
    """matplotlib's own words, under our error."""
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError):
        draw([Bars("a", "ms", [("jitlink", 1.0)])], tmp_path / "a.nonsense")

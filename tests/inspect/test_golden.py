"""Text, JSON and drawings of fixed objects in every format: as they were when somebody last looked at them."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from tests.inspect.objects import HERE, TARGETS
from tests.inspect.views import VIEWS, view
from tests.toolchain import needs


@pytest.mark.parametrize("suffix", VIEWS)
@pytest.mark.parametrize("name", TARGETS)
def test_view_is_as_it_was(name: str, suffix: str) -> None:
    """The view of a fixed object is the text that is kept beside it."""
    assert view(name, suffix) == (HERE / f"{name}.{suffix}").read_text()


def schema() -> Any:
    """The schema of the JSON view, as it is installed."""
    return json.loads((files("jitlink.inspect") / "schema.json").read_text())


def test_the_schema_is_one() -> None:
    """The schema is valid under the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("name", TARGETS)
def test_json_follows_its_schema(name: str) -> None:
    """The JSON of each object is one document that the schema describes."""
    jsonschema.validate(json.loads(view(name, "json")), schema())


@pytest.mark.parametrize("name", TARGETS)
def test_graphviz_takes_the_drawing(name: str) -> None:
    """dot reads what we write, and draws every node that we name."""
    needs("dot")
    text = view(name, "dot")
    dot = shutil.which("dot")
    assert dot is not None
    drawn = subprocess.run([dot, "-Tplain"], input=text, text=True, capture_output=True, check=True)
    assert not drawn.stderr
    nodes = {line.split()[1] for line in drawn.stdout.splitlines() if line.startswith("node ")}
    assert nodes == {line.split()[0] for line in text.splitlines() if " [label=" in line and "->" not in line}

"""The layers of the project, held by reading its sources: imports point down, and heavy packages wait.

A unit is a module or package directly in jitlink/, such as graph or bpf; "jitlink" is the public face,
jitlink/__init__.py. A new unit gets its place in LAYERS, and a new exception to the rule about heavy
packages its line in LOADED_WITH, with the reason.

An import for type checkers alone (`if TYPE_CHECKING:`) does not count: it loads nothing.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import jitlink

PACKAGE = Path(jitlink.__file__).parent

# From the top down: a unit may import itself and the units of lower lines, not its neighbours on its own line.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["jitlink"],
    ["inspect", "check"],
    ["bpf"],
    ["session"],
    ["execution"],
    ["image", "library", "placement", "runtime", "waiting"],
    ["calls"],
    ["linker", "inputs", "resolvers", "handles"],
    ["passes", "formats"],
    ["arches"],
    ["fixups", "layout", "joining", "shrinking"],
    ["graph"],
    ["formulas"],
    ["fields"],
    ["columns", "memory", "llvm"],
    ["errors", "protection"],
    ["escaping"],
]
HEIGHT = {unit: height for height, layer in enumerate(reversed(LAYERS)) for unit in layer}

LOADED_WITH = {
    "cli": {"click", "rich"},  # the command line is made of them
    "inspect": {"rich"},  # its tables are printed by it
}
"""Packages, besides numpy, that a unit may import when it is loaded and not only when it uses them."""


@dataclass(frozen=True)
class Import:
    """One name that a module imports.

    Attributes: importer (a module), imported (a module, of ours or of anybody), line,
    loading (the import runs when the importer is loaded, not first in a function).
    """

    importer: str
    imported: str
    line: int
    loading: bool

    @property
    def package(self) -> str:
        """What is imported, without the modules inside it."""
        return self.imported.partition(".")[0]

    @property
    def is_ours(self) -> bool:
        return self.package == "jitlink"

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.imported}"


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package with its tree; formats and arches are found through their links."""
    found = {}
    for directory, _, files in os.walk(PACKAGE, followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(directory, file)
                parts = ("jitlink", *path.relative_to(PACKAGE).with_suffix("").parts)
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found[name] = ast.parse(path.read_text(), str(path))
    return found


@cache
def all_imports() -> list[Import]:
    """Every import of the package, but for those of type checkers."""
    modules = sources()
    return [
        Import(importer, imported, node.lineno, loading)
        for importer, tree in modules.items()
        for node, loading in import_statements(tree, loading=True)
        for imported in imported_modules(node, modules)
    ]


def import_statements(parent: ast.AST, loading: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements below a node, and whether each runs when the module is loaded."""
    children: list[ast.AST] = list(ast.iter_child_nodes(parent))
    if isinstance(parent, ast.If) and "TYPE_CHECKING" in ast.unparse(parent.test):
        children = list(parent.orelse)
    for child in children:
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, loading
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from import_statements(child, loading and not is_function)


def imported_modules(node: ast.Import | ast.ImportFrom, modules: dict[str, ast.Module]) -> set[str]:
    """The modules that a statement names: `from jitlink.formats import elf` names jitlink.formats.elf."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    assert node.module, "we import by full names"
    inner = {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in modules else node.module for name in inner}


def unit_of(module: str) -> str:
    """The unit that a module of ours belongs to: jitlink.bpf.maps.base belongs to bpf."""
    return module.split(".")[1] if "." in module else "jitlink"


def reported(imports: list[Import]) -> str:
    return "\n".join(map(str, imports))


def test_the_reader_tells_when_an_import_runs() -> None:
    """Imports in classes and branches run on loading, those in functions later, those for type checkers never."""
    tree = ast.parse(
        "import a\n"
        "class C:\n    import b\n    def m(self):\n        import c\n"
        "try:\n    import d\nexcept ImportError:\n    import e\n"
        "if TYPE_CHECKING:\n    import f\nelse:\n    import g\n"
    )
    found = {node.names[0].name: loading for node, loading in import_statements(tree, loading=True)}
    assert found == {"a": True, "b": True, "c": False, "d": True, "e": True, "g": True}


def test_every_unit_has_a_layer() -> None:
    """A new module or package is given its place in LAYERS before anything imports it."""
    assert {unit_of(module) for module in sources()} <= HEIGHT.keys()


def test_imports_point_down() -> None:
    """No unit imports one of a higher layer or a neighbour of its own layer, not even in a function."""
    wrong = [
        each
        for each in all_imports()
        if each.is_ours
        and (importer := unit_of(each.importer)) != (imported := unit_of(each.imported))
        and HEIGHT[importer] <= HEIGHT[imported]
    ]
    assert not wrong, reported(wrong)


def test_modules_do_not_load_each_other_in_a_circle() -> None:
    """Inside a unit too, the modules can be loaded in an order in which nothing is half made."""
    loads: dict[str, set[str]] = {module: set() for module in sources()}
    for each in all_imports():
        if each.is_ours and each.loading:
            loads[each.importer].add(each.imported)
    try:
        TopologicalSorter(loads).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_only_numpy_is_loaded_by_importing_a_module() -> None:
    """Every other package is imported in the function that uses it, but for those in LOADED_WITH."""
    light = {*sys.stdlib_module_names, "numpy", "jitlink"}
    wrong = [
        each
        for each in all_imports()
        if each.loading and each.package not in light | LOADED_WITH.get(unit_of(each.importer), set())
    ]
    assert not wrong, reported(wrong)


def test_importing_jitlink_loads_no_package_but_numpy() -> None:
    """In a new process, `import jitlink` after `import numpy` adds modules of ours and of Python's library only."""
    program = (
        "import sys, numpy; before = set(sys.modules); import jitlink;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(result.stdout.split())
    assert "jitlink" in loaded
    assert loaded - sys.stdlib_module_names <= {"jitlink", "numpy"}


def test_errors_name_extras_that_exist() -> None:
    """The extra that MissingExtra tells a person to install is one of pyproject.toml."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    named = {
        argument.value
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "MissingExtra"
        for argument in node.args[1:2]
        if isinstance(argument, ast.Constant)
    }
    assert named <= project["optional-dependencies"].keys()

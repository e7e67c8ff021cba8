"""Which module may import which: docs/architecture.md says it, this holds the code to it.

The table's third column is read as a list of: module names, `values` (the table's first row), "all
above", "everything", each with an optional "but a and b". Imports for types alone count too: what a
module knows of another is knowledge, at whatever time.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from cagebuild.code import MAKES_OUTPUTS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cagebuild"
HEAVY = (
    "cbor2",
    "cryptography",
    "cyclonedx",
    "debian",
    "docker",
    "jsonschema",
    "nox",
    "pysequoia",
    "requests",
    "rich",
    "tomlkit",
    "zstandard",
)
"""What only some commands need, so that no command pays for it at its start."""


def modules() -> dict[str, Path]:
    """Every module below the package, by dotted name: ``image.tar``; packages by their own."""
    found = {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
        for file in PACKAGE.rglob("*.py")
    }
    del found["__init__"]
    return found


def area_of(module: str) -> str:
    """The row of a module: that of its own name where there is one, else of its first part."""
    rows = {name for name in allowed_imports() if "." in name}
    own = ".".join(module.split(".")[:2])
    return own if own in rows else module.partition(".")[0]


def all_areas() -> set[str]:
    return {area_of(module) for module in modules()}


@cache
def imports(file: Path, *, for_types: bool) -> frozenset[str]:
    """Areas of this package that a file imports, those for types alone only when asked."""
    found: set[str] = set()
    queue: list[ast.AST] = [ast.parse(file.read_bytes())]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and not for_types and is_for_types(node):
            continue
        queue += ast.iter_child_nodes(node)
    inside = {name.removeprefix("cagebuild.") for name in found if name.startswith("cagebuild.")}
    return frozenset({area_of(name) for name in inside} & all_areas())


def is_for_types(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def names_in(text: str) -> list[str]:
    return re.findall(r"`([a-z_.]+)`", text)


@cache
def allowed_imports() -> dict[str, set[str]]:
    """For each area, the areas that the table lets it import; its own is always among them."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| (`.+?) \|.*\| (.+?) \|$", text.split("## The graph")[0], re.MULTILINE)
    assert rows, "docs/architecture.md has no table of modules"
    values = set(names_in(rows[0][0]))
    everything = {name for row in rows for name in names_in(row[0])}
    allowed: dict[str, set[str]] = {}
    above: set[str] = set()
    for modules, words in rows:
        granted, _, refused = words.partition(" but ")
        may = set(names_in(granted)) - {"values"}
        if "values" in granted:
            may |= values
        if "all above" in granted:
            may |= above
        if "everything" in granted:
            may |= everything
        for name in names_in(modules):
            allowed[name] = (may - set(names_in(refused))) | {name}
        above |= set(names_in(modules))
    return allowed


def test_every_module_has_a_row_and_every_row_a_module() -> None:
    """A module that the page doesn't mention has no place in the design yet."""
    assert set(allowed_imports()) == all_areas()


@pytest.mark.parametrize("area", sorted(all_areas()))
def test_a_module_imports_only_what_its_row_allows(area: str) -> None:
    allowed = allowed_imports().get(area, set())
    wrong = {
        f"{module} imports {name}"
        for module, file in modules().items()
        if area_of(module) == area
        for name in imports(file, for_types=True) - allowed
    }
    assert not wrong


def test_the_code_of_steps_is_covered_by_the_code_version() -> None:
    """A change of code that a step imports must change the step's id.

    Left out on purpose: errors and the door to programs, which make no outputs, and fetching, whose
    results are checked by digest.
    """
    covered = {name.removesuffix(".py") for name in MAKES_OUTPUTS}
    harmless = {"errors", "process", "step", "fetch"}
    reached = {"steps"}
    queue = ["steps"]
    while queue:
        area = queue.pop()
        for module, file in modules().items():
            if area_of(module) == area and area not in harmless:
                new = imports(file, for_types=False) - reached
                reached |= new
                queue += new
    assert reached <= covered | harmless


def test_only_one_module_starts_programs() -> None:
    """``process`` is the only door to other programs; what it starts may become another."""
    pattern = re.compile(
        r"^\s*(import|from) subprocess|\bos\.(system|popen|exec\w+|spawn\w+)\(", re.M
    )
    doors = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if pattern.search(file.read_text())
    }
    assert doors == {"process.py", "sandbox/enter.py", "engine/secluded.py"}


def test_the_tasks_start_without_heavy_modules() -> None:
    """``invoke build`` with nothing to do has to be quick, so the task file imports little."""
    program = (
        "import sys, cagebuild.tasks\n"
        f"print(*sorted(set({HEAVY!r}) & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []

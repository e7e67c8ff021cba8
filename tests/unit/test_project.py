"""What a stranger meets first: the README's lines, links that lead somewhere, locked tools."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")],
    key=lambda page: page.as_posix(),
)


@pytest.mark.parametrize("name", ["build", "tests"])
def test_the_readme_has_the_lines_that_ci_runs(name: str) -> None:
    done = subprocess.run(
        [ROOT / ".ci/readme-line", name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("./setup")
    assert done.stdout.count("\n") == 1


def test_a_line_that_the_readme_does_not_have_is_an_error() -> None:
    done = subprocess.run(
        [ROOT / ".ci/readme-line", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no commands after" in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    relative = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("locked", ["build", "dev"])
def test_every_dependency_is_locked_by_hash(locked: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"], "pip"]
    if locked == "dev":
        wanted += project["dependency-groups"]["dev"]
    names = {re.split(r"[<>=~;\[ ]", text)[0].lower() for text in wanted}
    lines = (ROOT / f"requirements/{locked}.txt").read_text().replace("\\\n", "").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert names <= {line.partition("==")[0] for line in pins}
    assert [line for line in pins if "==" not in line or "--hash=sha256:" not in line] == []

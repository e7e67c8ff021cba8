"""Workspaces for tests, and what the program says about the cases in tests/invalid.

``python -m tests.support.config`` writes every case's expected.txt anew; look at the difference.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from cagebuild import config
from cagebuild.errors import CageError

CASES = Path(__file__).parents[1] / "invalid"
INSTALLER = f"sha256:{'ab' * 32}"
SMALLEST = f"""\
[base]
scratch = true

[app]
command = ["/app"]

[runtime]
installer = "{INSTALLER}"
"""
"""A cage.toml that says no more than it must."""


def cases() -> list[str]:
    """The names of the cases: what is wrong with each."""
    return sorted(folder.name for folder in CASES.iterdir())


def answer(case: str, scratch: Path) -> str:
    """Exit code and message for a case: its folder in a workspace whose root has its root.toml."""
    root = scratch / "workspace"
    shutil.copytree(CASES / case, root / case, symlinks=True)
    (root / ".git").mkdir()
    if (root / case / "root.toml").exists():
        (root / case / "root.toml").rename(root / "cage.toml")
    with contextlib.chdir(root):
        try:
            workspace = config.load_workspace(root)
            files = [root / case / "cage.toml"]
            files += [root / "cage.toml"] if workspace.root_cage is not None else []
            config.load_all(files, workspace)
        except CageError as error:
            said = f"exit code {error.exit_code}\n\n{error.render()}\n"
            return said.replace(str(root), "<root>")
    return "accepted\n"


if __name__ == "__main__":
    for name in cases():
        with tempfile.TemporaryDirectory() as folder:
            text = answer(name, Path(folder).resolve())
        (CASES / name / "expected.txt").write_text(text)

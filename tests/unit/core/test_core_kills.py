"""Builds that are killed at any moment lose nothing but time."""

from __future__ import annotations

import random
import subprocess
import time
from typing import TYPE_CHECKING

from tests.support.workspaces import CAGE, Workspace, measurements, steps, tree_files

if TYPE_CHECKING:
    from pathlib import Path

CAGES = 6
SECONDS = 12.0
"""How long builds are killed."""


def _workspace(folder: Path) -> Workspace:
    """Several cages, locked, with files that take a moment to write."""
    workspace = Workspace(folder)
    for number in range(CAGES):
        workspace.write(f"c{number}/src/run", bytes([number]) * 3_000_000, mode=0o755)
        workspace.write(f"c{number}/cage.toml", CAGE)
    workspace.commit()
    workspace.ok("lock")
    return workspace


def test_builds_killed_at_any_moment_come_to_the_same_pcrs(tmp_path: Path) -> None:
    """One store and one dist/ through many kills, so that what one leaves meets the next."""
    workspace = _workspace(tmp_path)
    names = [f"c{number}" for number in range(CAGES)]
    expected = {name: workspace.locked(f"//{name}").expected for name in names}
    dice = random.Random(20261123)
    began = time.monotonic()
    process = workspace.start("build")
    process.communicate(timeout=60)
    whole = time.monotonic() - began
    assert process.returncode == 0
    killed = 0
    while time.monotonic() - began < SECONDS:
        _forget(workspace, dice)
        process = workspace.start("build", "--jobs=2")
        try:
            process.wait(timeout=dice.uniform(0.1, 1.2) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.communicate()
        for file in (workspace.root / "dist").glob("c?/c?.eif"):
            # What stands under its name is whole, at any moment.
            document = workspace.ok("describe", str(file), "--json").json()
            assert expected[file.parent.name] == {
                name: document["Measurements"][name] for name in ("PCR0", "PCR1", "PCR2")
            }
    assert killed > 2
    answer = workspace.ok("build")
    assert {name: measurements(workspace, name) for name in names} == expected
    assert answer.out.count("  as in cage.lock") == CAGES
    assert steps(workspace.ok("build")) == {}
    assert workspace.ok("cache", "--prune", "--max-size=1TiB").code == 0
    assert not tree_files(workspace.store / "tmp")


def _forget(workspace: Workspace, dice: random.Random) -> None:
    """Leave a part to be built: what is there is gone, or was never there."""
    for folder in (workspace.store / "results", workspace.store / "blobs", workspace.root / "dist"):
        for file in tree_files(folder):
            if dice.random() < 0.4:
                file.unlink(missing_ok=True)

"""Unpacking archives that this project made, by another program."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Put what a tar archive holds below ``folder``, owners by number where that is allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["tar", "--extract", "--numeric-owner", f"--file={archive}", f"--directory={folder}"],
        check=True,
    )

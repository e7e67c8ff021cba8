"""Remembering what was found valid, so that a thousand unchanged files need no second check."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

_MOST_IN_FOLDER = 256


class ValidationCache(Protocol):
    """Which configurations were found valid, by a key that covers all that the checks read."""

    def known(self, key: str) -> bool:
        """Whether the configuration of this key (lower-case hex) was found valid before."""

    def remember(self, key: str) -> None:
        """Note that the configuration of this key was found valid."""


class MarkerFiles:
    """Empty files in a folder, named by key. Any number of processes may use it at once.

    A lost marker costs one check. A folder of markers that has grown too large is started anew.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def _place(self, key: str) -> tuple[str, str]:
        folder = f"{self._folder}/{key[:2]}"
        return folder, f"{folder}/{key[2:]}"

    def known(self, key: str) -> bool:
        """Whether the marker is there."""
        return os.path.exists(self._place(key)[1])  # noqa: PTH110 - asked a thousand times a start

    def remember(self, key: str) -> None:
        """Make the marker. A folder that cannot be written to is no error: checks are repeated."""
        folder, marker = self._place(key)
        try:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            if len(os.listdir(folder)) >= _MOST_IN_FOLDER:  # noqa: PTH208
                shutil.rmtree(folder, ignore_errors=True)
                os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError:
            return

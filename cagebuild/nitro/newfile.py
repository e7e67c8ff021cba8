"""A file that appears under its name only when it is whole."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from cagebuild.errors import EifError
from cagebuild.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[int]:
    """A descriptor of a new, empty file that takes the place of ``path`` when the block succeeds.

    When it fails nothing is left behind and what was there stays. Raises EifError when the file
    cannot be made, and for an OSError in the block, such as a full disk.
    """
    try:
        # Through a symlink the file it names is replaced, not the link.
        target = path.resolve()
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise EifError(f"{path} is not a regular file", hint="name a new file to write to")
        with replacing(target, 0o666) as stream:
            yield stream.fileno()
    except OSError as error:
        raise EifError(
            f"cannot write {path}: {error.strerror or error}",
            hint="check that the folder exists, that you may write to it, and that the disk has "
            "room",
        ) from error


def write_all(descriptor: int, data: bytes) -> None:
    """Write at the descriptor's position, however many calls it takes; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

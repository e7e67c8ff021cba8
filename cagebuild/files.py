"""Writing files whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, BinaryIO

from cagebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TAG = 16
_LONGEST_NAME = 50
"""Characters of the target's name that are repeated: with those, 255 bytes are enough."""


def _start(target: Path) -> str:
    return f".{target.name[:_LONGEST_NAME]}."


def left_behind(target: Path) -> Iterator[Path]:
    """What processes that were killed, or still run, have of their own for ``target``."""
    return target.parent.glob(glob.escape(_start(target)) + "[0-9a-f]" * _TAG)


@contextmanager
def replacing(target: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A stream whose content becomes ``target`` when the block ends well; else nothing is left.

    Permissions are ``mode`` less the caller's umask, as for a file that was made in the usual way.
    What was at ``target`` stays until then. Raises OSError.
    """
    temporary = target.with_name(_start(target) + secrets.token_hex(_TAG // 2))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(target: Path, data: bytes, mode: int = 0o644) -> None:
    """Put ``data`` at ``target``, whole or not at all; folders on the way there are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, mode) as stream:
        stream.write(data)


@contextmanager
def new_folder(target: Path, *, marker: str, what: str) -> Iterator[Path]:
    """A folder that takes the place of ``target`` when the block ends well; else nothing is left.

    A folder that is there already gives way if it has a file ``marker``, which tells that it is a
    ``what`` too. Raises UsageError for any other, and OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target) and not (target / marker).is_file():
        raise UsageError(
            f"{target} is there already and is no {what}",
            hint="choose another place, or remove it",
        )
    # Both folders are inside this one, so that nothing is left behind whatever happens.
    work = Path(mkdtemp(prefix=_start(target), dir=target.parent))
    try:
        new, old = work / "new", work / "old"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        shutil.rmtree(work)

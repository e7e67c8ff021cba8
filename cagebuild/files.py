"""Writing files whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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

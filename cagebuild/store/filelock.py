"""Locks between processes and threads that end with their holder, however it ends: flock."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PAUSE = 0.05
"""Seconds between two tries. flock itself could wait, but not be told to give up."""


def acquire(path: Path, *, shared: bool = False, wait: Callable[[], None] | None = None) -> int:
    """Lock the file, made if missing, and return its descriptor; closing that releases the lock.

    ``wait`` is called before each pause while another holds the lock; it raises to give up.
    """
    while True:
        descriptor = _open(path)
        try:
            while not _flock(descriptor, shared=shared):
                if wait is not None:
                    wait()
                time.sleep(_PAUSE)
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def try_acquire(path: Path, *, shared: bool = False) -> int | None:
    """Like ``acquire``, but None where another holds the lock, or the file is gone meanwhile."""
    descriptor = _open(path)
    try:
        if _flock(descriptor, shared=shared) and _is_still(descriptor, path):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def release(descriptor: int, path: Path | None = None) -> None:
    """Give the lock back; ``path`` is removed first, while nobody else can hold it."""
    try:
        if path is not None:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


@contextmanager
def holding(
    path: Path,
    *,
    shared: bool = False,
    wait: Callable[[], None] | None = None,
    temporary: bool = False,
) -> Iterator[None]:
    """Hold the lock for a block; a ``temporary`` file is removed at its end."""
    descriptor = acquire(path, shared=shared, wait=wait)
    try:
        yield
    finally:
        release(descriptor, path if temporary else None)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _flock(descriptor: int, *, shared: bool) -> bool:
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the locked file is the one of that name: a holder may have removed it meanwhile."""
    try:
        named = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)

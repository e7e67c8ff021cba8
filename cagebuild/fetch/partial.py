"""An unfinished download on disk: the only thing that a killed one leaves behind."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK = 1 << 20
_EARLIER = "an earlier run"


class Partial:
    """The bytes that are there already, their running digest, and who gave them.

    Open it with ``Partial.at``: one process at a time has it.
    """

    def __init__(self, path: Path, descriptor: int, algorithm: str) -> None:
        self._path = path
        self._descriptor = descriptor
        self._algorithm = algorithm
        self._state = hashlib.new(algorithm)
        self.length = 0
        self._givers: set[str] = set()
        while chunk := os.read(descriptor, _CHUNK):
            self._state.update(chunk)
            self.length += len(chunk)
            self._givers.add(_EARLIER)

    @classmethod
    @contextmanager
    def at(cls, path: Path, algorithm: str, *, wait: Callable[[], None]) -> Iterator[Partial]:
        """Open or create the file at ``path``; ``wait`` is called while another process has it.

        On leaving, an empty file is removed and any other one stays, to be resumed. Raises
        StoreError when the file cannot be made or written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(path, wait)
            try:
                yield cls(path, descriptor, algorithm)
            finally:
                if not os.fstat(descriptor).st_size and _is_at(path, descriptor):
                    path.unlink()
                os.close(descriptor)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror or error}",
                hint="make room on that disk"
                if error.errno in {errno.ENOSPC, errno.EDQUOT}
                else "make the folder writable, or let the store be somewhere else",
            ) from error

    @property
    def digest(self) -> Digest:
        """The digest of what is there."""
        return Digest(self._algorithm, self._state.hexdigest())

    @property
    def mixed(self) -> bool:
        """Whether a wrong digest could be another's fault than that of the one who gave last."""
        return len(self._givers) > 1 or _EARLIER in self._givers

    def append(self, chunk: bytes, giver: str) -> None:
        """Add bytes at the end."""
        self._givers.add(giver)
        left = memoryview(chunk)
        while left:
            left = left[os.write(self._descriptor, left) :]
        self._state.update(chunk)
        self.length += len(chunk)

    def restart(self) -> None:
        """Throw away what is there."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._state = hashlib.new(self._algorithm)
        self.length = 0
        self._givers.clear()

    def finish(self, target: Path) -> None:
        """Give the file its name, in one step: nobody sees a half-written ``target``."""
        self._path.replace(target)


def _locked(path: Path, wait: Callable[[], None]) -> int:
    """A descriptor of the file, at its start, locked; of the one that has the name now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if _try_lock(descriptor) and _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        wait()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the name still is that file's: its last user may have given it its final name."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

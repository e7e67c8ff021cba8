"""The store on local disk.

    VERSION                    the format of all below
    blobs/ab/<sha256>          files, read-only, named by their content
    results/ab/<step id>       what a step made: digests and sizes of its outputs, its facts
    runs/<hash of the owner>   which steps the last run of a cage had
    active/<token>             one for each run that goes on: the ids of its steps; locked by it
    tmp/<token>/               its temporary files
    locks/<step id>            held by who runs the step
    gate                       shared while something is added, exclusive while something is pruned
    partials/ logs/ digests    half-fetched files, tracebacks, digests of source files

Every file gets its name by a rename when it is whole, so a killed process leaves temporary files,
which the next run removes, and nothing else. After a power cut a file may be short: that is found,
as any damage is, when the file is used. Then it is removed and what made it runs again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cagebuild.errors import StoreError
from cagebuild.files import left_behind, replacing, write_atomically
from cagebuild.store.records import Result, Run, tag_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cagebuild.digest import Digest
    from cagebuild.store.records import Blob

_VERSION = "cagebuild store 1\n"
_FOLDERS = ("active", "blobs", "locks", "logs", "partials", "results", "runs", "tmp")
_CHUNK = 1 << 20
_STALE_SECONDS = 3600
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_LINK = (errno.ENOENT, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Pruned meanwhile; or a file system, or another's file, that cannot have a second name."""
_ANOTHER = "set another folder as 'store.path' of [workspace]"


class DamagedBlobError(StoreError):
    """A file in the store is gone or isn't what its name says; what was left of it is removed."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(
            f"the store's file {digest} is missing or damaged",
            hint="run the command again: what the file is made from is still known",
        )


class Store:
    """Content-addressed files and step results below one folder."""

    def __init__(self, root: Path, *, max_bytes: int | None = None) -> None:
        """Open the store at ``root``, or make one; raises StoreError.

        After a run the oldest results are removed until the files take ``max_bytes`` at most; what
        the run itself used stays.
        """
        self.root = root.absolute()
        self.max_bytes = max_bytes
        self._verified: dict[str, tuple[int, int, int]] = {}
        with self.errors():
            self._open()

    def _open(self) -> None:
        version = self.root / "VERSION"
        if not version.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            names = [entry.name for entry in self.root.iterdir()]
            others = [name for name in names if not name.startswith(".VERSION.")]
            # Another process may have made the store between the two looks.
            if others and not version.exists():
                raise StoreError(
                    f"{self.root} is not a store, and not empty: it holds '{min(others)}'",
                    hint=_ANOTHER,
                )
            write_atomically(version, _VERSION.encode())
        found = version.read_bytes()[:100]
        if found != _VERSION.encode():
            raise StoreError(
                f"the store at {self.root} has a format that this version does not know:"
                f" {found.decode(errors='replace').strip()!r}, not {_VERSION.strip()!r}",
                hint=f"remove the folder, or {_ANOTHER}",
            )
        for name in _FOLDERS:
            (self.root / name).mkdir(exist_ok=True)

    @property
    def gate(self) -> Path:
        """Locked shared to add something, exclusively to remove what others may count on."""
        return self.root / "gate"

    @property
    def digests(self) -> Path:
        """Where digests of source files are remembered."""
        return self.root / "digests"

    def blob_path(self, digest: Digest) -> Path:
        """Where the file of that content is, if it is there. Not checked: for the store alone."""
        return self.root / "blobs" / digest.hex[:2] / digest.hex

    def result_path(self, step_id: str) -> Path:
        """Where the result of a step is, if it is there."""
        return self.root / "results" / step_id[:2] / step_id

    def run_path(self, owner: str) -> Path:
        """Where the last run of an owner is kept."""
        return self.root / "runs" / hashlib.sha256(owner.encode()).hexdigest()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn an OSError of the block into a StoreError with a next step."""
        try:
            yield
        except OSError as error:
            raise self.error(error) from error

    def error(self, error: OSError) -> StoreError:
        """The StoreError for a failure of the file system."""
        what = f"the store at {self.root}"
        reason = error.strerror or str(error)
        if error.errno in _NO_SPACE:
            return StoreError(
                f"no space is left for {what}",
                hint=f"run 'invoke cache --prune', make room on that disk, or {_ANOTHER}",
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreError(
                f"{what} cannot be written: {reason}: {error.filename}",
                hint=f"make it writable for this user, or {_ANOTHER}",
            )
        return StoreError(f"{what} cannot be used: {reason}: {error.filename}", hint=_ANOTHER)

    def lookup(self, step_id: str) -> Result | None:
        """The step's result with all its files in place, or None; raises StoreError."""
        found = self.probe(step_id)
        return found if isinstance(found, Result) else None

    def probe(self, step_id: str, needed: Iterable[str] | None = None) -> Result | str:
        """The step's result, or in words why there is none: empty if there never was.

        Of the outputs ``needed`` (None: all) each file is there in full length; its content is
        checked when it is read. What is damaged is removed. Raises StoreError.
        """
        with self.errors():
            result = self.result(step_id)
            if result is None or isinstance(result, str):
                return result or ""
            for name in result.outputs if needed is None else needed:
                blob = result.outputs.get(name)
                if blob is None or not self._is_there(blob):
                    return f"its output {name} is no longer in the store"
            with suppress(FileNotFoundError, PermissionError):
                os.utime(self.result_path(step_id))
            return result

    def result(self, step_id: str) -> Result | str | None:
        """What is recorded of a step, whatever became of its files; words if it was damaged."""
        path = self.result_path(step_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        result = Result.decode(data, step_id)
        if result is None:
            path.unlink(missing_ok=True)
            return "its record in the store was damaged"
        return result

    def facts(self, step_id: str) -> dict[str, object] | None:
        """The facts of a step that has a result, to compare others with; raises StoreError."""
        with self.errors():
            result = self.result(step_id)
        return dict(result.facts) if isinstance(result, Result) else None

    def last_run(self, owner: str) -> Run | None:
        """What the owner's last run was made of; raises StoreError."""
        with self.errors(), suppress(FileNotFoundError):
            return Run.decode(self.run_path(owner).read_bytes())
        return None

    def touch_run(self, owner: str, graph: str) -> bool:
        """Say that the owner's last run was used again; False if that is not of this graph."""
        path = self.run_path(owner)
        with self.errors(), suppress(FileNotFoundError):
            with path.open("rb") as stream:
                if tag_of(stream.read(256)) != graph:
                    return False
            with suppress(PermissionError):
                os.utime(path)
            return True
        return False

    def _is_there(self, blob: Blob) -> bool:
        path = self.blob_path(blob.digest)
        try:
            found = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISREG(found.st_mode) and found.st_size == blob.size:
            return True
        path.unlink(missing_ok=True)
        return False

    def read(self, blob: Blob) -> bytes:
        """A small file's content, checked. Raises DamagedBlobError or StoreError."""
        with self.errors(), self._opened(blob) as descriptor:
            chunks = list(self._checked(blob, descriptor))
        return b"".join(chunks)

    def export(self, blob: Blob, target: Path, *, mode: int = 0o644) -> None:
        """Copy a file out of the store, checked on the way; ``target`` is whole or untouched.

        Raises DamagedBlobError (the file is removed from the store, so that the next run makes it
        again) or StoreError. A copy, not a link: who changes it must not change the store.
        """
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(target)
            with replacing(target, mode) as stream, self._opened(blob) as descriptor:
                for chunk in self._checked(blob, descriptor):
                    stream.write(chunk)
        except OSError as error:
            raise StoreError(
                f"{target} cannot be written: {error.strerror or error}",
                hint="make room, or make the folder writable",
            ) from error

    def checkout(self, blob: Blob, target: Path) -> None:
        """Give a step a file to read, at ``target`` below the store's own ``tmp``, checked.

        A link, so that nothing which happens in the store meanwhile can take the file away. A file
        that this process has read in full before, and that is the same still, isn't read again.
        Raises DamagedBlobError or StoreError.
        """
        with self.errors(), self._opened(blob) as descriptor:
            found = os.fstat(descriptor)
            identity = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._verified.get(blob.digest.hex) != identity:
                for _ in self._checked(blob, descriptor):
                    pass
                self._verified[blob.digest.hex] = identity
            self._link(blob, descriptor, target)

    def _link(self, blob: Blob, descriptor: int, target: Path) -> None:
        try:
            os.link(self.blob_path(blob.digest), target, follow_symlinks=False)
            if os.path.samestat(os.fstat(descriptor), target.stat()):
                return
            # Another process has put the same content there anew: take what was checked here.
            target.unlink()
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        with target.open("xb") as stream:
            for chunk in self._checked(blob, descriptor):
                stream.write(chunk)

    def place(self, path: Path, blob: Blob) -> None:
        """Move a file of known content, below the store's own ``tmp``, to where it belongs."""
        target = self.blob_path(blob.digest)
        target.parent.mkdir(exist_ok=True)
        found = path.stat()
        # Replaces what may be there already: that may be damaged, this was just read.
        path.replace(target)
        self._verified[blob.digest.hex] = (found.st_ino, found.st_size, found.st_mtime_ns)

    @contextmanager
    def _opened(self, blob: Blob) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        path = self.blob_path(blob.digest)
        with self.errors():
            try:
                descriptor = os.open(path, flags)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                path.unlink(missing_ok=True)
                raise DamagedBlobError(blob.digest) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _checked(self, blob: Blob, descriptor: int) -> Iterator[bytes]:
        """The content in chunks; DamagedBlobError in place of an end that doesn't match."""
        state = hashlib.new(blob.digest.algorithm)
        position = 0
        try:
            while chunk := os.pread(descriptor, _CHUNK, position):
                state.update(chunk)
                position += len(chunk)
                yield chunk
        except OSError as error:
            # Bad sectors, or a directory in the file's place.
            if error.errno not in (errno.EIO, errno.EISDIR):
                raise
            position = -1
        if position != blob.size or state.hexdigest() != blob.digest.hex:
            self._drop(blob, descriptor)
            raise DamagedBlobError(blob.digest)

    def _drop(self, blob: Blob, descriptor: int) -> None:
        """Remove a damaged file, unless another process has put a good one there meanwhile."""
        self._verified.pop(blob.digest.hex, None)
        path = self.blob_path(blob.digest)
        with suppress(FileNotFoundError, IsADirectoryError):
            if os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False)):
                path.unlink()


def _remove_stale(target: Path) -> None:
    """Remove what a killed export has left beside its target."""
    oldest = time.time() - _STALE_SECONDS
    for left in left_behind(target):
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < oldest:
                left.unlink()

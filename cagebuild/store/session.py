"""One run's use of the store: what it may add, and what nobody may prune while it lasts."""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError
from cagebuild.store import filelock
from cagebuild.store.records import Blob, Result, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from cagebuild.step import Step
    from cagebuild.store.local import Store


class Session:
    """A context: while it is entered, results of ``step_ids`` and their files are not pruned.

    Its methods may be called from several threads. Raises StoreError.
    """

    def __init__(self, store: Store, step_ids: Collection[str]) -> None:
        self._store = store
        self._token = os.urandom(8).hex()
        self._marker = store.root / "active" / self._token
        self._folder = store.root / "tmp" / self._token
        self._step_ids = step_ids
        self._descriptor = -1
        self._numbers = itertools.count()

    def __enter__(self) -> Session:
        with self._store.errors():
            with filelock.holding(self._store.gate, shared=True):
                self._descriptor = filelock.acquire(self._marker)
                try:
                    self._marker.write_text("".join(f"{step_id}\n" for step_id in self._step_ids))
                    self._folder.mkdir()
                except BaseException:
                    filelock.release(self._descriptor, self._marker)
                    raise
            remove_dead_sessions(self._store)
        return self

    def __exit__(self, *_: object) -> None:
        remove_tree(self._folder)
        filelock.release(self._descriptor, self._marker)

    def temporary(self) -> Path:
        """A path that is free, on the store's file system; what is put there goes with the run."""
        return self._folder / str(next(self._numbers))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the store's file system, removed at the end of the block."""
        path = self.temporary()
        with self._store.errors():
            path.mkdir()
        try:
            yield path
        finally:
            remove_tree(path)

    @contextmanager
    def alone(self, step_id: str, wait: Callable[[], None]) -> Iterator[None]:
        """Keep others from running the step; ``wait`` is called while they keep us, to give up."""
        path = self._store.root / "locks" / step_id
        with self._store.errors():
            descriptor = filelock.acquire(path, wait=wait)
        try:
            yield
        finally:
            filelock.release(descriptor, path)

    def commit(self, step: Step, files: Mapping[str, Path]) -> Result:
        """Take a step's outputs, files below ``scratch``, and record them as its result.

        Raises DigestMismatchError for another output than the step was expected to make.
        """
        with self._store.errors():
            sealed = {name: self._seal(files[name]) for name in step.outputs}
            _check_expected(step, {name: blob.digest for name, (_, blob) in sealed.items()})
            result = Result(
                step_id=step.id,
                name=step.name,
                outputs={name: blob for name, (_, blob) in sealed.items()},
                facts=step.facts(),
            )
            # Pruning sees the files and the result that names them, or neither.
            with filelock.holding(self._store.gate, shared=True):
                for path, blob in sealed.values():
                    self._store.place(path, blob)
                self._write(self._store.result_path(step.id), result.encode())
        return result

    def record_run(self, owner: str, run: Run) -> None:
        """Keep what the owner's run was made of for the next one to compare with."""
        with self._store.errors():
            self._write(self._store.run_path(owner), run.encode())

    def _seal(self, path: Path) -> tuple[Path, Blob]:
        """Make a file read-only and measure it. One that has other names is copied first."""
        if path.stat(follow_symlinks=False).st_nlink > 1:
            import shutil

            copy = self.temporary()
            shutil.copyfile(path, copy, follow_symlinks=False)
            path = copy
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            os.fchmod(descriptor, 0o444)
            digest = Digest.of_stream(stream)
            return path, Blob(digest=digest, size=os.fstat(descriptor).st_size)

    def _write(self, target: Path, data: bytes) -> None:
        temporary = self.temporary()
        temporary.write_bytes(data)
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)


def _check_expected(step: Step, made: Mapping[str, Digest]) -> None:
    for name, expected in (step.expected or {}).items():
        if made[name] != expected:
            raise DigestMismatchError(
                f"{step.name}: {name} is not what is pinned: got {made[name]}, expected {expected}",
                hint="what it is made from was changed, or this machine makes something else of it",
            )


def live_step_ids(store: Store) -> tuple[set[str], bool]:
    """The steps that running builds need, and whether there are any. The gate must be held."""
    found: set[str] = set()
    alive = False
    for marker in sorted((store.root / "active").iterdir()):
        descriptor = filelock.try_acquire(marker)
        if descriptor is not None:
            os.close(descriptor)
            continue
        with suppress(FileNotFoundError):
            found.update(marker.read_text().split())
            alive = True
    return found, alive


def remove_dead_sessions(store: Store) -> None:
    """Remove what killed runs have left: temporary files and locks, then their markers."""
    folders = sorted((store.root / "tmp").iterdir())
    for marker in sorted((store.root / "active").iterdir()):
        descriptor = filelock.try_acquire(marker)
        if descriptor is not None:
            remove_tree(store.root / "tmp" / marker.name)
            remove_free_locks(store)
            filelock.release(descriptor, marker)
    for folder in folders:
        # A session makes its marker before its folder and removes it after, so this has no session.
        if not (store.root / "active" / folder.name).exists():
            remove_tree(folder)


def remove_free_locks(store: Store) -> None:
    """Remove lock files that nobody holds: runs that were killed have left them."""
    for path in sorted((store.root / "locks").iterdir()):
        descriptor = filelock.try_acquire(path)
        if descriptor is not None:
            filelock.release(descriptor, path)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, folders without write permission too.

    What cannot be removed is left for the next run to try.
    """
    with suppress(OSError):
        path.rmdir()
        return  # as it is when a run has nothing to do
    import shutil

    with suppress(OSError):
        for parent, folders, _ in os.walk(path):
            for name in folders:
                inner = os.path.join(parent, name)  # noqa: PTH118 -- as os.walk has it
                if not stat.S_ISLNK(os.lstat(inner).st_mode):
                    os.chmod(inner, 0o700)  # noqa: PTH101
    shutil.rmtree(path, ignore_errors=True)

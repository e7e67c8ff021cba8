"""What a thread of a run does: one step, or one copy out of the store."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.errors import CageError, InterruptedBuildError, StoreError
from cagebuild.execute.executor import Task
from cagebuild.execute.sources import verify
from cagebuild.step import FileInput
from cagebuild.store import DamagedBlobError, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from cagebuild.execute.executor import Executor
    from cagebuild.execute.sources import Verified
    from cagebuild.step import Step
    from cagebuild.store import Blob, Session, Store
    from cagebuild.store.statcache import StatCache

_OF_THE_STORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class DamagedInputsError(Exception):
    """Files that the step reads are missing or damaged; ``makers`` are the steps that make them."""

    def __init__(self, makers: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(makers)))
        self.makers = makers


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A step's result; ``ran`` is False if another process has made it meanwhile."""

    result: Result
    ran: bool


class Stop:
    """A flag that is read often and set once, by a signal handler too: so it has no lock."""

    __slots__ = ("requested",)

    def __init__(self) -> None:
        self.requested = False


@dataclass(frozen=True, slots=True)
class _Given:
    """What a step gets to read: its files by name, their digests, and the user's among them."""

    paths: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, Digest] = field(default_factory=dict)
    sources: list[Verified] = field(default_factory=list)


class Worker:
    """Runs steps against a store. Its methods may be called from several threads."""

    def __init__(
        self,
        store: Store,
        session: Session,
        executor: Executor,
        *,
        stop: Stop,
        progress: Callable[[Step, int, int | None], None],
        said: Callable[[Step, str], None],
        note: Callable[[str], None],
    ) -> None:
        self._store = store
        self._session = session
        self._executor = executor
        self._progress = progress
        self._said = said
        self._note = note
        self._stop = stop

    def run(self, step: Step, made: Mapping[str, Result]) -> Made:
        """Run a step, unless another process has just done so; ``made`` are its makers' results.

        Raises InterruptedBuildError, DamagedInputsError, and whatever the step raises.
        """
        with self._session.alone(step.id, self._waiter(step)):
            found = self._store.probe(step.id)
            if isinstance(found, Result):
                return Made(result=found, ran=False)
            with self._inputs(step, made) as given, self._session.scratch() as folder:
                return Made(result=self._run_in(folder, step, given), ran=True)

    def _run_in(self, folder: Path, step: Step, given: _Given) -> Result:
        def progress(done: int, total: int | None) -> None:
            self.check()
            self._progress(step, done, total)

        self.check()
        files = self._executor.run(
            Task(
                step=step,
                inputs=given.paths,
                digests=given.digests,
                hints={
                    **step.hints,
                    "partials": str(self._store.root / "partials"),
                    "logs": str(self._store.root / "logs"),
                },
                scratch=folder,
                progress=progress,
                say=lambda text: self._said(step, text),
            )
        )
        for source in given.sources:
            source.confirm()
        self.check()
        return self._session.commit(step, files)

    @contextmanager
    def _inputs(self, step: Step, made: Mapping[str, Result]) -> Iterator[_Given]:
        """What the step reads, checked; links to files of the store last as long as the block."""
        given = _Given()
        links: list[Path] = []
        damaged: set[str] = set()
        try:
            for name, wanted in step.inputs.items():
                self.check()
                if isinstance(wanted, FileInput):
                    given.sources.append(verify(wanted))
                    given.paths[name], given.digests[name] = wanted.path, wanted.digest
                    continue
                blob = made[wanted.step.id].outputs[wanted.output]
                links.append(self._session.temporary())
                given.paths[name], given.digests[name] = links[-1], blob.digest
                try:
                    self._store.checkout(blob, links[-1])
                except DamagedBlobError:
                    damaged.add(wanted.step.id)
            if damaged:
                raise DamagedInputsError(frozenset(damaged))
            yield given
        finally:
            for link in links:
                link.unlink(missing_ok=True)

    def export(self, blob: Blob, target: Path, stats: StatCache | None) -> None:
        """Copy a file out of the store, unless ``target`` has its content already."""
        self.check()
        try:
            if target.is_symlink() or target.stat().st_size != blob.size:
                same = False
            else:
                found = stats.digest(target) if stats else Digest.of_file(target)
                same = found == blob.digest
        except OSError:
            same = False
        if not same:
            self._store.export(blob, target)

    def check(self) -> None:
        """Raise InterruptedBuildError if the run is to stop."""
        if self._stop.requested:
            raise InterruptedBuildError("stopped")

    def _waiter(self, step: Step) -> Callable[[], None]:
        since = time.monotonic()
        told = False

        def wait() -> None:
            nonlocal told
            self.check()
            if not told and time.monotonic() - since > 1:
                told = True
                self._note(f"another build is running '{step.name}'; waiting for its result")

        return wait


def as_cage_error(error: BaseException, step: Step, store: Store) -> tuple[CageError, Path | None]:
    """What to tell of a failed step; a bug's traceback goes to a file in the store."""
    cause = error.__cause__ if isinstance(error, CageError) else error
    if isinstance(error, StoreError):
        return error, None
    if isinstance(cause, OSError) and cause.errno in _OF_THE_STORE:
        # Whatever a step says of it: all that a step writes is below the store.
        return store.error(cause), None
    if isinstance(error, CageError):
        return error, None
    import traceback

    what = f"a bug in the step's code: {type(error).__name__}: {error}"
    log = store.root / "logs" / f"{step.id}.txt"
    text = "".join(traceback.format_exception(error))
    try:
        log.write_text(f"{step.name}\n{step.id}\n\n{text}", errors="backslashreplace")
    except OSError:
        return CageError(what, hint="please report it"), None
    return CageError(what, hint=f"please report it; the traceback is in {log}"), log

"""What a thread of a run does: one step, or one copy out of the store."""

from __future__ import annotations

import errno
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.errors import CageError, InterruptedBuildError
from cagebuild.execute.executor import Task
from cagebuild.execute.sources import verify
from cagebuild.step import FileInput
from cagebuild.store import DamagedBlobError, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
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
        note: Callable[[str], None],
    ) -> None:
        self._store = store
        self._session = session
        self._executor = executor
        self._progress = progress
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
            with self._session.scratch() as folder:
                return Made(result=self._run_in(folder, step, made), ran=True)

    def _run_in(self, folder: Path, step: Step, made: Mapping[str, Result]) -> Result:
        inputs, digests, sources = self._inputs(folder / "inputs", step, made)
        work = folder / "work"
        work.mkdir()

        def progress(done: int, total: int | None) -> None:
            self.check()
            self._progress(step, done, total)

        self.check()
        files = self._executor.run(
            Task(
                step=step,
                inputs=inputs,
                digests=digests,
                hints={**step.hints, "partials": str(self._store.root / "partials")},
                scratch=work,
                progress=progress,
            )
        )
        for source in sources:
            source.confirm()
        self.check()
        return self._session.commit(step, files)

    def _inputs(
        self, folder: Path, step: Step, made: Mapping[str, Result]
    ) -> tuple[dict[str, Path], dict[str, Digest], list[Verified]]:
        folder.mkdir()
        paths: dict[str, Path] = {}
        digests: dict[str, Digest] = {}
        sources: list[Verified] = []
        damaged: set[str] = set()
        for number, (name, given) in enumerate(step.inputs.items()):
            self.check()
            if isinstance(given, FileInput):
                sources.append(verify(given))
                paths[name], digests[name] = given.path, given.digest
                continue
            blob = made[given.step.id].outputs[given.output]
            paths[name], digests[name] = folder / str(number), blob.digest
            try:
                self._store.checkout(blob, paths[name])
            except DamagedBlobError:
                damaged.add(given.step.id)
        if damaged:
            raise DamagedInputsError(frozenset(damaged))
        return paths, digests, sources

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
    if isinstance(error, CageError):
        return error, None
    if isinstance(error, OSError) and error.errno in _OF_THE_STORE:
        return store.error(error), None
    what = f"a bug in the step's code: {type(error).__name__}: {error}"
    log = store.root / "logs" / f"{step.id}.txt"
    text = "".join(traceback.format_exception(error))
    try:
        log.write_text(f"{step.name}\n{step.id}\n\n{text}", errors="backslashreplace")
    except OSError:
        return CageError(what, hint="please report it"), None
    return CageError(what, hint=f"please report it; the traceback is in {log}"), log

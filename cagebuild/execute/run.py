"""Running a graph of steps: what the store has is not run, the rest runs in parallel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cagebuild.execute.executor import Executor
    from cagebuild.execute.outcome import Outcome, Summary
    from cagebuild.step import Step
    from cagebuild.store import Store
    from cagebuild.store.statcache import StatCache


class Reporter(Protocol):
    """What a run tells as it goes on. ``progress`` is called from any thread, the rest from one."""

    def begin(self, total: int) -> None:
        """The run has that many steps."""

    def started(self, step: Step) -> None:
        """The step runs now."""

    def progress(self, step: Step, done: int, total: int | None) -> None:
        """How far a running step is, in bytes."""

    def finished(self, outcome: Outcome) -> None:
        """The step is over."""

    def note(self, text: str) -> None:
        """Something worth knowing: damage that was repaired, waiting for another build."""

    def end(self, summary: Summary) -> None:
        """The run is over, well or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An output that is to be put outside of the store, as a copy."""

    step: Step
    output: str
    path: Path


def execute(
    targets: Mapping[str, Sequence[Step]],
    *,
    store: Store,
    executor: Executor,
    reporter: Reporter,
    jobs: int,
    keep_going: bool = False,
    exports: Sequence[Export] = (),
    stats: StatCache | None = None,
) -> Summary:
    """Make every target: look it up, or run it after what it needs.

    ``targets`` are steps by owner: a name that is the same in the next run (workspace root and cage
    address), so that a miss can say what changed since. A file of ``exports`` that has the right
    content already (``stats`` remembers) is left alone. Then the store is pruned to its bound.

    Failures are reported and in the summary; ``Summary.raise_for_failures`` makes them an error.
    Raises InterruptedBuildError when stopped by SIGINT or SIGTERM, and StoreError.
    """
    raise NotImplementedError

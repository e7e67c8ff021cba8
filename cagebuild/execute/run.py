"""Running a graph of steps: what the store has is not run, the rest runs in parallel."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cagebuild.errors import InterruptedBuildError
from cagebuild.execute.graph import build
from cagebuild.execute.history import History
from cagebuild.execute.outcome import Reporter
from cagebuild.execute.scheduler import Export, Scheduler
from cagebuild.execute.worker import Worker
from cagebuild.store import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cagebuild.execute.executor import Executor
    from cagebuild.execute.outcome import Summary
    from cagebuild.step import Step
    from cagebuild.store import Store
    from cagebuild.store.statcache import StatCache

__all__ = ["Export", "Reporter", "execute"]


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
    nodes = build(targets)
    history = History(store, targets)
    scheduler = Scheduler(
        nodes,
        store=store,
        history=history,
        reporter=reporter,
        jobs=jobs,
        keep_going=keep_going,
    )
    with _on_signals(scheduler.interrupt), Session(store, nodes.keys()) as session:
        worker = Worker(
            store,
            session,
            executor,
            stop=scheduler.stop,
            progress=reporter.progress,
            said=scheduler.said,
            note=scheduler.note,
        )
        reporter.begin(len(nodes))
        try:
            scheduler.run(targets, exports, worker, stats)
        finally:
            summary = scheduler.summary()
            reporter.end(summary)
        history.record(session, nodes)
        if summary.count("ran"):
            from cagebuild.store.prune import bound

            bound(store)
    if scheduler.interrupted:
        raise InterruptedBuildError("stopped", hint="what was finished is kept; run it again")
    return summary


@contextmanager
def _on_signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call ``interrupt`` for SIGINT and SIGTERM, where this thread may. Ignored ones stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, lambda *_: interrupt())
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])

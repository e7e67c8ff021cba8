"""The order of a run: what is asked for, what is ready, what fails with what.

Steps are asked for from the targets upwards, and what makes the inputs of a hit is never asked for.
All state is changed by one thread, which waits for events; other threads run steps.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.errors import InterruptedBuildError, StoreError
from cagebuild.execute.graph import Node
from cagebuild.execute.outcome import Outcome, Status, Summary
from cagebuild.execute.worker import DamagedInputsError, Made, Stop, as_cage_error
from cagebuild.store import DamagedBlobError, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from cagebuild.execute.history import History
    from cagebuild.execute.outcome import Reporter
    from cagebuild.execute.worker import Worker
    from cagebuild.step import Step
    from cagebuild.store import Store
    from cagebuild.store.statcache import StatCache

_MAX_REPAIRS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An output that is to be put outside of the store, as a copy."""

    step: Step
    output: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Something for a thread to do on behalf of a node: run it, or copy an output of it."""

    node: Node
    work: Callable[[], Made | None]
    runs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    job: _Job
    answer: Made | BaseException | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    text: str
    step: Step | None = None
    """The step whose program said it; None for a note of the run's own."""


_Event = _Done | _Note | None
"""None: something else has happened, look again."""


class Scheduler:
    """Brings the nodes of a graph to their ends."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        *,
        store: Store,
        history: History,
        reporter: Reporter,
        jobs: int,
        keep_going: bool,
    ) -> None:
        self._nodes = nodes
        self._store = store
        self._history = history
        self._reporter = reporter
        self._limit = max(jobs, 1)
        self._keep_going = keep_going
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._ready: deque[_Job] = deque()
        self._exports: dict[str, list[Export]] = {}
        self._exported: set[str] = set()
        self._busy = 0
        self._failed = False
        self._interrupts = 0
        self.stop = Stop()
        self._worker: Worker
        self._stats: StatCache | None

    def note(self, text: str) -> None:
        """Pass a note on to the reporter; from any thread."""
        self._events.put(_Note(text=text))

    def said(self, step: Step, text: str) -> None:
        """Pass a line of a step's program on to the reporter; from any thread."""
        self._events.put(_Note(text=text, step=step))

    def interrupt(self) -> None:
        """Stop: the first time when running steps have ended, the second time at once.

        May be called from a signal handler: it takes no lock, and the queue is made for that.
        """
        self._interrupts += 1
        self.stop.requested = True
        self._events.put(None)

    @property
    def interrupted(self) -> bool:
        """Whether the run was told to stop."""
        return self._interrupts > 0

    def run(
        self,
        targets: Mapping[str, Sequence[Step]],
        exports: Sequence[Export],
        worker: Worker,
        stats: StatCache | None,
    ) -> None:
        """Bring every target to its end; the nodes say how it went. Raises StoreError."""
        self._worker, self._stats = worker, stats
        for export in exports:
            self._exports.setdefault(export.step.id, []).append(export)
        try:
            for owner, steps in targets.items():
                for step in steps:
                    self._ask(self._nodes[step.id], step.outputs, owner)
            for export in exports:
                self._ask(self._nodes[export.step.id], (export.output,), next(iter(targets)))
            self._loop()
        finally:
            self._stop_threads()
            self._cancel_rest()

    def summary(self) -> Summary:
        """How every step ended."""
        return Summary(
            outcomes={
                step_id: node.outcome or Outcome(step=node.step, status="unneeded")
                for step_id, node in self._nodes.items()
            }
        )

    # Asking

    def _ask(self, first: Node, outputs: Collection[str], owner: str) -> None:
        """See to it that a node gets a result with these outputs, from the store or by running."""
        stack: list[tuple[Node, Collection[str]]] = [(first, outputs)]
        first.owner = first.owner or owner
        while stack:
            node, wanted = stack.pop()
            more = not node.needed.issuperset(wanted)
            node.needed.update(wanted)
            if node.state == "new" or (node.state == "done" and more):
                self._look_up(node)
            if node.state == "new":
                stack.extend(self._wait(node))
            elif node.state == "done":
                self._tell_readers(node)
            elif node.state == "over":
                self._skip_readers(node)

    def _look_up(self, node: Node) -> None:
        found = self._store.probe(node.step.id, sorted(node.needed))
        if isinstance(found, Result):
            self._has_result(node, found, "hit")
            return
        if found:
            self._reporter.note(f"{node.step.name}: {found}; it runs again")
        node.state = "new"
        node.why = found or self._history.why(node, self._nodes)

    def _wait(self, node: Node) -> list[tuple[Node, Collection[str]]]:
        """Let a node wait for what it reads; what that is, and which outputs of it."""
        makers = node.makers()
        node.state = "waiting"
        node.waiting_for = set(makers)
        for maker_id in makers:
            maker = self._nodes[maker_id]
            maker.readers.add(node.step.id)
            maker.owner = maker.owner or node.owner
        if not makers:
            self._enqueue(node)
        return [(self._nodes[maker_id], outputs) for maker_id, outputs in makers.items()]

    def _tell_readers(self, node: Node) -> None:
        for reader_id in sorted(node.readers):
            reader = self._nodes[reader_id]
            reader.waiting_for.discard(node.step.id)
            if reader.state == "waiting" and not reader.waiting_for:
                self._enqueue(reader)

    # Running

    def _enqueue(self, node: Node) -> None:
        node.state = "ready"
        made = {maker: self._nodes[maker].result for maker in node.makers()}
        known = {maker: result for maker, result in made.items() if result is not None}
        work = functools.partial(self._worker.run, node.step, known)
        self._ready.append(_Job(node=node, work=work, runs=True))

    def _loop(self) -> None:
        told = False
        while True:
            stopping = self.interrupted or (self._failed and not self._keep_going)
            while self._ready and self._busy < self._limit and not stopping:
                self._start(self._ready.popleft())
            if not self._busy or self._interrupts > 1:
                return
            if self.interrupted and not told:
                told = True
                steps = f"{self._busy} step{'' if self._busy == 1 else 's'}"
                self._reporter.note(f"stopping: waiting for {steps}; once more to leave at once")
            event = self._events.get()
            if isinstance(event, _Done):
                self._busy -= 1
                self._take(event)
            elif isinstance(event, _Note):
                self._tell(event)

    def _tell(self, event: _Note) -> None:
        if event.step is None:
            self._reporter.note(event.text)
        else:
            self._reporter.said(event.step, event.text)

    def _start(self, job: _Job) -> None:
        if job.runs:
            job.node.state = "running"
            self._reporter.started(job.node.step)
        self._busy += 1
        if len(self._threads) < self._busy:
            thread = threading.Thread(target=self._serve, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def _serve(self) -> None:
        """A thread's life. Daemons: a second interrupt doesn't wait for what they are at."""
        while (job := self._jobs.get()) is not None:
            started = time.monotonic()
            answer: Made | BaseException | None
            try:
                answer = job.work()
            except BaseException as error:  # whatever it is, the run must hear of it
                answer = error
            self._events.put(_Done(job=job, answer=answer, seconds=time.monotonic() - started))

    def _take(self, event: _Done) -> None:
        node, answer = event.job.node, event.answer
        if isinstance(answer, Made):
            self._has_result(node, answer.result, "ran" if answer.ran else "hit", event.seconds)
            self._tell_readers(node)
        elif isinstance(answer, DamagedInputsError):
            self._repair(node, answer.makers)
        elif isinstance(answer, DamagedBlobError):
            # Several copies may find damage; while the step is made anew, there is nothing to do.
            if node.state == "done":
                self._repair(node, frozenset())
        elif isinstance(answer, InterruptedBuildError) and self.stop.requested:
            self._end(node, Outcome(step=node.step, status="cancelled", seconds=event.seconds))
        elif answer is not None:
            self._fail(node, answer, event.seconds)

    # Ending

    def _has_result(self, node: Node, result: Result, status: str, seconds: float = 0.0) -> None:
        node.state, node.result = "done", result
        ran = status == "ran"
        before = node.outcome
        node.outcome = Outcome(
            step=node.step,
            status="ran" if ran else "hit",
            seconds=seconds if ran else 0.0,
            why=node.why if ran else "",
            outputs=result.outputs,
        )
        if before is None or ran:
            self._reporter.finished(node.outcome)
        if node.step.id in self._exported:
            return
        self._exported.add(node.step.id)
        for export in self._exports.get(node.step.id, ()):
            blob = result.outputs[export.output]
            work = functools.partial(self._worker.export, blob, export.path, self._stats)
            self._ready.append(_Job(node=node, work=work, runs=False))

    def _repair(self, node: Node, makers: frozenset[str]) -> None:
        """Files are damaged: those of ``makers`` that the node reads, or else its own."""
        node.repairs += 1
        if node.repairs > _MAX_REPAIRS:
            where = f"the store at {self._store.root} keeps losing files"
            error = StoreError(where, hint="check that disk, or move the store to another")
            self._fail(node, error, 0.0)
            return
        if not makers:
            node.state = "new"
            self._exported.discard(node.step.id)
            self._ask(node, (), node.owner)
            return
        node.state = "waiting"
        node.waiting_for = set(makers)
        for maker_id in sorted(makers):
            maker = self._nodes[maker_id]
            if maker.state == "done":
                maker.state = "new"
            self._ask(maker, (), node.owner)

    def _fail(self, node: Node, answer: BaseException, seconds: float) -> None:
        self._failed = True
        error, log = as_cage_error(answer, node.step, self._store)
        self._end(
            node,
            Outcome(
                step=node.step,
                status="failed",
                seconds=seconds,
                why=node.why,
                error=error,
                log=log,
            ),
        )

    def _end(self, node: Node, outcome: Outcome) -> None:
        """The node gets no result; neither does what reads it."""
        node.state, node.outcome = "over", outcome
        self._reporter.finished(outcome)
        self._skip_readers(node)

    def _skip_readers(self, node: Node) -> None:
        ended = node.outcome or Outcome(step=node.step, status="cancelled")
        status: Status = "cancelled" if ended.status == "cancelled" else "skipped"
        why = ended.why if ended.status == "skipped" else f"needs {node.step.name}"
        stack = [node]
        while stack:
            node = stack.pop()
            for reader_id in sorted(node.readers):
                reader = self._nodes[reader_id]
                if reader.state == "waiting" and node.step.id in reader.waiting_for:
                    reader.state = "over"
                    reader.outcome = Outcome(step=reader.step, status=status, why=why)
                    self._reporter.finished(reader.outcome)
                    stack.append(reader)

    def _stop_threads(self) -> None:
        self.stop.requested = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            while thread.is_alive() and self._interrupts < 2:
                thread.join(0.1)

    def _cancel_rest(self) -> None:
        for node in self._nodes.values():
            if node.state in ("waiting", "ready", "running"):
                node.state = "over"
                node.outcome = Outcome(step=node.step, status="cancelled")
                self._reporter.finished(node.outcome)

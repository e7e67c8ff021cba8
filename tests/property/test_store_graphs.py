"""Random graphs: each step once and after its inputs; failures reach what needs them, no more."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cagebuild.execute import ProcessExecutor, execute
from cagebuild.store import Store
from tests.support.graphs import OUT, Recorder, build, content, endings, load, step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.execute import Task
    from cagebuild.step import Step

slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def graphs(draw: st.DrawFn, *, failing: bool = False) -> list[Step]:
    """Up to 12 steps, each on some of those before it; some fail."""
    made: list[Step] = []
    for number in range(draw(st.integers(1, 12))):
        below = draw(st.lists(st.sampled_from(made), max_size=3, unique=True)) if made else []
        kind = draw(st.sampled_from(["join", "join", "fail", "bug"])) if failing else "join"
        made.append(step(f"s{number}", kind, inputs={s.name: s for s in below}))
    return made


def below(step: Step) -> set[Step]:
    """All that a step needs, whether directly or not."""
    direct = {given.step for given in step.inputs.values() if hasattr(given, "step")}
    return direct.union(*(below(inner) for inner in direct))


class Watching:
    """Runs steps and keeps what began when."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.begun: list[str] = []
        self.ended: set[str] = set()
        self.too_early: list[str] = []

    def run(self, task: Task) -> Mapping[str, Path]:
        needed = {inner.name for inner in below(task.step)}
        with self._lock:
            self.begun.append(task.step.name)
            if not needed <= self.ended:
                self.too_early.append(task.step.name)
        made = ProcessExecutor(load).run(task)
        with self._lock:
            self.ended.add(task.step.name)
        return made


@slow
@given(graphs(), st.data(), st.integers(1, 5))
def test_each_step_once_after_its_inputs(graph: list[Step], data: st.DataObject, jobs: int) -> None:
    targets = data.draw(st.lists(st.sampled_from(graph), min_size=1, max_size=4))
    watching = Watching()
    with tempfile.TemporaryDirectory() as folder:
        summary = execute(
            {f"//{n}": [target] for n, target in enumerate(targets)},
            store=Store(Path(folder)),
            executor=watching,
            reporter=Recorder(),
            jobs=jobs,
        )
    wanted = {s.name for target in targets for s in (target, *below(target))}
    assert Counter(watching.begun) == Counter(wanted)
    assert watching.too_early == []
    assert summary.ok
    assert set(endings(summary)) == wanted


@slow
@given(graphs(failing=True), st.integers(1, 4))
def test_failures_reach_exactly_what_needs_them(graph: list[Step], jobs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = endings(build(Store(Path(folder)), *graph, jobs=jobs, keep_going=True))
    bad = {s.name for s in graph if s.kind != "join"}
    for each in graph:
        needs_bad = bool({inner.name for inner in below(each)} & bad)
        expected = "skipped" if needs_bad else "failed" if each.name in bad else "ran"
        assert found[each.name] == expected


@slow
@given(graphs(failing=True), st.integers(1, 4))
def test_without_keep_going_nothing_is_called_better_than_it_is(
    graph: list[Step], jobs: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        summary = build(store, *graph, jobs=jobs)
        for outcome in summary.outcomes.values():
            assert (store.lookup(outcome.step.id) is not None) == (outcome.status == "ran")
        if any(s.kind != "join" for s in graph):
            assert summary.count("failed") >= 1
            assert not summary.ok


@slow
@given(graphs(), st.data())
def test_whatever_is_lost_the_outputs_come_out_the_same(
    graph: list[Step], data: st.DataObject
) -> None:
    """Results gone, files gone, files changed: of any steps, in any mix."""
    top = graph[-1]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        first = build(store, *graph)
        good = [content(store, first, s) for s in graph]
        for each in data.draw(st.lists(st.sampled_from(graph), unique=True)):
            path = store.blob_path(first.output(each, OUT).digest)
            match data.draw(st.sampled_from(["result", "blob", "change", "cut"])):
                case "result":
                    store.result_path(each.id).unlink()
                case "blob":
                    path.unlink(missing_ok=True)
                case "change":
                    path.unlink(missing_ok=True)
                    path.write_bytes(b"?" * first.output(each, OUT).size)
                case "cut":
                    path.unlink(missing_ok=True)
                    path.write_bytes(b"s")
        store = Store(Path(folder))
        changed_top = step("next", inputs={"top": top})
        summary = build(store, changed_top)
        assert content(store, summary, changed_top) == b"next out\n[top]" + good[-1]

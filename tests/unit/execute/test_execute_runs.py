"""What runs and what doesn't, what fails with what, and what is repaired."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import (
    BuildFailedError,
    DigestMismatchError,
    FetchError,
    SourceError,
    StoreError,
)
from cagebuild.execute import Export, ProcessExecutor, execute
from cagebuild.step import StepInput
from cagebuild.store import Store
from tests.support.graphs import OUT, Recorder, build, content, endings, load, ran, source, step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cagebuild.execute import Summary, Task
    from cagebuild.step import Step


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def diamond(log: Path) -> Step:
    base = step("base", log=log)
    left = step("left", inputs={"base": base}, log=log)
    right = step("right", inputs={"base": base}, log=log)
    return step("top", inputs={"left": left, "right": right}, log=log)


def damage(store: Store, summary: Summary, name: str) -> None:
    """Change a byte of a step's output, keeping its length."""
    [outcome] = [o for o in summary.outcomes.values() if o.step.name == name]
    path = store.blob_path(outcome.outputs[OUT].digest)
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.write(b"?")


def lose(store: Store, summary: Summary, name: str) -> None:
    """Remove a step's result, as pruning may."""
    [outcome] = [o for o in summary.outcomes.values() if o.step.name == name]
    store.result_path(outcome.step.id).unlink()


class TestHits:
    def test_each_step_runs_once_after_its_inputs(self, store: Store, log: Path) -> None:
        summary = build(store, diamond(log))
        assert ran(log)[0] == "base"
        assert sorted(ran(log)[1:3]) == ["left", "right"]
        assert ran(log)[3] == "top"
        assert str(summary) == "4 steps: 4 ran, 0 hit, 0 failed"

    def test_nothing_runs_the_second_time(self, store: Store, log: Path) -> None:
        first = build(store, diamond(log))
        recorder = Recorder()
        second = build(store, diamond(log), recorder=recorder)
        assert len(ran(log)) == 4
        assert str(second) == "4 steps: 0 ran, 1 hit, 0 failed, 3 not needed"
        assert recorder.begun == []
        top = diamond(log)
        assert first.output(top, OUT) == second.output(top, OUT)

    def test_what_a_hit_is_made_of_need_not_be_there(self, store: Store, log: Path) -> None:
        first = build(store, diamond(log))
        for name in ("base", "left", "right"):
            lose(store, first, name)
        build(store, diamond(log))
        assert len(ran(log)) == 4

    def test_only_what_a_miss_reads_is_looked_for(self, store: Store, log: Path) -> None:
        first = build(store, diamond(log))
        for name in ("base", "left", "top"):
            lose(store, first, name)
        summary = build(store, diamond(log))
        assert ran(log)[4:] == ["base", "left", "top"]
        assert endings(summary)["right"] == "hit"

    def test_equal_steps_of_two_cages_run_once(self, store: Store, log: Path) -> None:
        summary = execute(
            {"//one": [diamond(log)], "//two": [step("two", inputs={"top": diamond(log)})]},
            store=store,
            executor=ProcessExecutor(load),
            reporter=Recorder(),
            jobs=4,
        )
        assert sorted(ran(log)) == ["base", "left", "right", "top"]
        assert summary.count("ran") == 5

    def test_outputs_do_not_depend_on_the_number_of_jobs(self, tmp_path: Path, log: Path) -> None:
        made = set()
        for jobs in (1, 2, 8):
            store = Store(tmp_path / str(jobs))
            made.add(content(store, build(store, diamond(log), jobs=jobs), diamond(log)))
        assert len(made) == 1

    def test_independent_steps_run_at_the_same_time(self, store: Store) -> None:
        together = threading.Barrier(3, timeout=60)

        class Meeting:
            def run(self, task: Task) -> Mapping[str, Path]:
                together.wait()
                return ProcessExecutor(load).run(task)

        steps = [step(str(n)) for n in range(3)]
        summary = execute({"": steps}, store=store, executor=Meeting(), reporter=Recorder(), jobs=3)
        assert summary.ok

    def test_never_more_at_once_than_jobs(self, store: Store) -> None:
        lock = threading.Lock()
        running = most = 0

        class Counting:
            def run(self, task: Task) -> Mapping[str, Path]:
                nonlocal running, most
                with lock:
                    running += 1
                    most = max(most, running)
                time.sleep(0.005)
                with lock:
                    running -= 1
                return ProcessExecutor(load).run(task)

        steps = [step(str(n)) for n in range(12)]
        execute({"": steps}, store=store, executor=Counting(), reporter=Recorder(), jobs=3)
        assert most <= 3

    def test_no_targets(self, store: Store) -> None:
        assert str(build(store)) == "0 steps: 0 ran, 0 hit, 0 failed"

    def test_hints_reach_the_step_and_leave_its_id_alone(self, store: Store, log: Path) -> None:
        assert diamond(log).id == diamond(log.with_name("other")).id
        seen: list[Mapping[str, object]] = []

        class Looking:
            def run(self, task: Task) -> Mapping[str, Path]:
                seen.append(task.hints)
                return ProcessExecutor(load).run(task)

        one = step("a", log=log)
        execute({"": [one]}, store=store, executor=Looking(), reporter=Recorder(), jobs=1)
        own = {name: str(store.root / name) for name in ("logs", "partials")}
        assert seen == [{"log": str(log), **own}]

    def test_an_expected_output_is_known_however_it_is_made(self, store: Store, log: Path) -> None:
        made = step("a", log=log)
        output = build(store, made).output(made, made.outputs[0]).digest
        known = replace(made, expected={made.outputs[0]: output})
        other = replace(known, name="b", kind="another", params={"text": "anything"}, inputs={})
        assert made.id != known.id == other.id
        assert str(build(store, known)) == "1 step: 1 ran, 0 hit, 0 failed"
        assert str(build(store, other)) == "1 step: 0 ran, 1 hit, 0 failed"

    def test_another_output_than_the_expected_one_is_refused(self, store: Store, log: Path) -> None:
        one = step("a", log=log)
        expected = Digest.of(b"something else")
        wrong = replace(one, expected={one.outputs[0]: expected})
        recorder = Recorder()
        summary = build(store, wrong, recorder=recorder)
        error = summary.outcomes[wrong.id].error
        assert isinstance(error, DigestMismatchError)
        assert f"expected {expected}" in error.message
        assert store.lookup(wrong.id) is None

    def test_what_makes_a_known_output_is_not_asked_for(self, store: Store, log: Path) -> None:
        top = diamond(log)
        made = build(store, top)
        known = replace(top, expected={name: made.output(top, name).digest for name in top.outputs})
        build(store, known)
        lose(store, made, "left")
        summary = build(store, known)
        assert summary.count("ran") == 0
        assert summary.count("unneeded") == 3


class TestRepair:
    @pytest.mark.parametrize("name", ["left", "right"])
    def test_a_damaged_input_is_made_again(self, store: Store, log: Path, name: str) -> None:
        first = build(store, diamond(log))
        good = content(store, first, diamond(log))
        damage(store, first, name)
        lose(store, first, "top")
        recorder = Recorder()
        summary = build(Store(store.root), diamond(log), recorder=recorder)
        assert content(store, summary, diamond(log)) == good
        assert ran(log)[4:] == [name, "top"]
        assert recorder.notes == [
            f"{name}: its output out is no longer in the store; it runs again"
        ]

    def test_damage_all_the_way_down(self, store: Store, log: Path) -> None:
        first = build(store, diamond(log))
        good = content(store, first, diamond(log))
        for name in ("base", "left", "right"):
            damage(store, first, name)
        lose(store, first, "top")
        summary = build(Store(store.root), diamond(log))
        assert content(store, summary, diamond(log)) == good
        assert summary.count("ran") == 4

    def test_a_damaged_target_is_made_again_for_an_export(
        self, store: Store, log: Path, tmp_path: Path
    ) -> None:
        top = diamond(log)
        export = Export(step=top, output=OUT, path=tmp_path / "dist" / "top")
        first = build(store, top, exports=[export])
        good = export.path.read_bytes()
        assert good == content(store, first, top)
        damage(store, first, "top")
        export.path.unlink()
        summary = build(Store(store.root), top, exports=[export])
        assert export.path.read_bytes() == good
        assert endings(summary)["top"] == "ran"

    def test_a_damaged_record_is_named_and_the_step_runs_again(
        self, store: Store, log: Path
    ) -> None:
        build(store, diamond(log))
        store.result_path(diamond(log).id).write_bytes(b"{}")
        recorder = Recorder()
        build(store, diamond(log), recorder=recorder)
        assert recorder.notes == ["top: its record in the store was damaged; it runs again"]
        assert recorder.outcomes[-1].why == "its record in the store was damaged"

    def test_a_store_that_keeps_losing_files_is_given_up(self, store: Store, log: Path) -> None:
        """No endless loop."""
        base = step("base", log=log)
        top = step("top", inputs={"base": base}, log=log)

        class Losing:
            def run(self, task: Task) -> Mapping[str, Path]:
                if task.step.name == "top":
                    pytest.fail("its input is lost each time")
                return ProcessExecutor(load).run(task)

        recorder = Recorder()
        checkout = store.checkout

        def lose_first(blob: object, target: Path) -> None:
            for path in (store.root / "blobs").rglob("*/*"):
                path.unlink()
            checkout(blob, target)  # type: ignore[arg-type]

        store.checkout = lose_first  # type: ignore[method-assign]
        summary = execute({"": [top]}, store=store, executor=Losing(), reporter=recorder, jobs=1)
        assert endings(summary)["top"] == "failed"
        error = summary.outcomes[top.id].error
        assert isinstance(error, StoreError)
        assert "keeps losing files" in error.message


class TestFailures:
    def test_what_needs_it_is_skipped(self, store: Store) -> None:
        bad = step("bad", "fail")
        middle = step("middle", inputs={"bad": bad})
        top = step("top", inputs={"middle": middle})
        recorder = Recorder()
        summary = build(store, top, recorder=recorder)
        assert endings(summary) == {"bad": "failed", "middle": "skipped", "top": "skipped"}
        assert [o.why for o in recorder.outcomes[1:]] == ["needs bad", "needs bad"]
        assert isinstance(recorder.outcomes[0].error, FetchError)
        assert not summary.ok
        with pytest.raises(BuildFailedError, match="the build failed in: bad"):
            summary.raise_for_failures()

    def test_nothing_new_starts_after_a_failure(self, store: Store, log: Path) -> None:
        steps = [step("bad", "fail"), *(step(str(n), log=log) for n in range(5))]
        summary = build(store, *steps, jobs=1)
        assert ran(log) == []
        assert summary.count("cancelled") == 5

    def test_keep_going_does_all_that_can_be_done(self, store: Store, log: Path) -> None:
        bad = step("bad", "fail")
        steps = [step("top", inputs={"bad": bad}), *(step(str(n), log=log) for n in range(5))]
        summary = build(store, *steps, jobs=1, keep_going=True)
        assert len(ran(log)) == 5
        assert str(summary) == "7 steps: 5 ran, 0 hit, 1 failed, 1 skipped"

    def test_a_failed_step_has_no_result(self, store: Store) -> None:
        build(store, step("bad", "fail"))
        assert store.lookup(step("bad", "fail").id) is None
        assert endings(build(store, step("bad", "fail"))) == {"bad": "failed"}

    def test_a_bug_goes_to_a_file_not_to_the_screen(self, store: Store) -> None:
        bad = step("bad", "bug")
        outcome = build(store, bad).outcomes[bad.id]
        assert outcome.error
        assert outcome.log
        assert "a bug in the step's code: ZeroDivisionError" in outcome.error.message
        assert "Traceback" not in outcome.error.render()
        assert str(outcome.log) in outcome.error.hint
        assert "Traceback" in outcome.log.read_text()
        assert store.lookup(bad.id) is None

    def test_a_full_disk_in_the_code_of_a_step_is_the_stores_error(self, store: Store) -> None:
        bad = step("bad", "no-space")
        error = build(store, bad).outcomes[bad.id].error
        assert isinstance(error, StoreError)
        assert "no space is left" in error.message

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("writes-nothing", "declared outputs were not written: ['out']"),
            ("writes-more", "files beside the declared outputs: ['extra']"),
            ("asks-for-more", "output 'other' is not declared"),
            ("writes-link", "output 'out' is not a regular file"),
            ("no such kind", "KeyError: 'no such kind'"),
        ],
    )
    def test_code_that_does_not_keep_to_its_step(self, store: Store, kind: str, words: str) -> None:
        bad = step("bad", kind)
        error = build(store, bad).outcomes[bad.id].error
        assert error
        assert words in error.message
        assert not list((store.root / "tmp").iterdir())

    def test_an_export_that_cannot_be_written_fails_its_step(
        self, store: Store, tmp_path: Path
    ) -> None:
        (tmp_path / "dist").write_text("a file")
        one = step("a")
        export = Export(step=one, output=OUT, path=tmp_path / "dist" / "a")
        outcome = build(store, one, exports=[export]).outcomes[one.id]
        assert outcome.status == "failed"
        assert outcome.error
        assert "cannot be written" in outcome.error.message


class TestInputs:
    def test_the_code_sees_an_order_that_its_id_covers(self, store: Store, tmp_path: Path) -> None:
        a, b = source(tmp_path / "a", b"a"), source(tmp_path / "b", b"b")
        one = step("x", "order", params={"p": 1, "o": 2}, inputs={"b": b, "a": a})
        other = step("x", "order", params={"o": 2, "p": 1}, inputs={"a": a, "b": b})
        assert one.id == other.id
        assert content(store, build(store, one), one) == b"a b | o p"

    def test_a_source_file_that_changed_since_the_plan(self, store: Store, tmp_path: Path) -> None:
        given = source(tmp_path / "file", b"planned")
        (tmp_path / "file").write_bytes(b"changed")
        top = step("top", inputs={"file": given})
        error = build(store, top).outcomes[top.id].error
        assert isinstance(error, SourceError)
        assert "changed while the build went on" in error.message
        assert store.lookup(top.id) is None

    @pytest.mark.parametrize("settled", [True, False])
    def test_a_source_file_that_changes_while_it_is_read(
        self, store: Store, tmp_path: Path, settled: bool
    ) -> None:
        given = source(tmp_path / "file", b"planned")
        if settled:
            os.utime(tmp_path / "file", (0, 0))
        top = step("top", "edits-source", inputs={"file": given})
        error = build(store, top).outcomes[top.id].error
        assert isinstance(error, SourceError)
        assert store.lookup(top.id) is None

    def test_a_source_file_that_is_gone(self, store: Store, tmp_path: Path) -> None:
        given = source(tmp_path / "file", b"planned")
        (tmp_path / "file").unlink()
        top = step("top", inputs={"file": given})
        assert isinstance(build(store, top).outcomes[top.id].error, SourceError)

    def test_a_pipe_in_a_source_files_place_is_refused_not_waited_for(
        self, store: Store, tmp_path: Path
    ) -> None:
        given = source(tmp_path / "file", b"planned")
        (tmp_path / "file").unlink()
        os.mkfifo(tmp_path / "file")
        top = step("top", inputs={"file": given})
        assert isinstance(build(store, top).outcomes[top.id].error, SourceError)

    def test_a_source_file_of_a_hit_is_not_read(self, store: Store, tmp_path: Path) -> None:
        top = step("top", inputs={"file": source(tmp_path / "file", b"planned")})
        build(store, top)
        (tmp_path / "file").unlink()
        assert endings(build(store, top)) == {"top": "hit"}

    def test_an_output_that_is_a_link_to_an_input(self, store: Store) -> None:
        base = step("base")
        top = step("top", "links-input", inputs={"base": base})
        summary = build(store, top)
        assert content(store, summary, top) == b"base out\n"
        assert store.blob_path(summary.output(top, OUT).digest).stat().st_nlink == 1

    def test_several_outputs_of_one_step(self, store: Store) -> None:
        base = step("base", params={"text": "t", "outputs": ["a", "b"]}, outputs=("a", "b"))
        top = step("top", inputs={n: StepInput(step=base, output=n) for n in ("a", "b")})
        assert content(store, build(store, top), top) == b"top out\n[a]t a\n[b]t b\n"


class TestExports:
    def test_a_file_with_the_right_content_is_left_alone(
        self, store: Store, tmp_path: Path
    ) -> None:
        one = step("a")
        export = Export(step=one, output=OUT, path=tmp_path / "a")
        build(store, one, exports=[export])
        before = export.path.stat()
        build(store, one, exports=[export])
        assert export.path.stat() == before

    @pytest.mark.parametrize("change", ["content", "length", "gone", "link"])
    def test_a_file_that_was_changed_is_put_right(
        self, store: Store, tmp_path: Path, change: str
    ) -> None:
        one = step("a")
        export = Export(step=one, output=OUT, path=tmp_path / "a")
        build(store, one, exports=[export])
        match change:
            case "content":
                export.path.write_bytes(b"A out\n")
            case "length":
                export.path.write_bytes(b"")
            case "gone":
                export.path.unlink()
            case "link":
                export.path.rename(tmp_path / "b")
                export.path.symlink_to("b")
        build(store, one, exports=[export])
        assert export.path.read_bytes() == b"a out\n"
        assert not export.path.is_symlink()

    def test_an_output_that_no_target_has_is_asked_for(self, store: Store, tmp_path: Path) -> None:
        base = step("base")
        top = step("top", inputs={"base": base})
        build(store, top)
        export = Export(step=base, output=OUT, path=tmp_path / "base")
        assert endings(build(store, top, exports=[export]))["base"] == "hit"
        assert export.path.read_bytes() == b"base out\n"

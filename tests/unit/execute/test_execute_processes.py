"""Real processes: many at one store, killed at any moment, interrupted as a person does it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cagebuild.store import Store
from tests.support.graphs import ran

ROOT = Path(__file__).parents[3]


def start(store: Path, log: Path, *words: str) -> subprocess.Popen[str]:
    """The program of ``tests.support.run_graph``, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.run_graph", store, log, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Its standard output, when it ended well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def leftovers(store: Path) -> list[str]:
    """Files of running builds."""
    folders = [store / name for name in ("tmp", "active", "locks")]
    return [path.name for folder in folders if folder.exists() for path in folder.iterdir()]


def wait_for(log: Path, lines: int) -> None:
    """Until so many steps have begun."""
    end = time.monotonic() + 60
    while len(ran(log)) < lines:
        assert time.monotonic() < end, f"only {ran(log)} began"
        time.sleep(0.01)


def wait_for_results(store: Path, count: int) -> None:
    """Until so many steps are done, not only begun."""
    end = time.monotonic() + 60
    while len(list((store / "results").rglob("*/*"))) < count:
        assert time.monotonic() < end, "the step that should be over is not"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an undisturbed build comes to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return finish(start(folder / "store", folder / "log"))


def test_processes_at_one_store_do_each_step_once(tmp_path: Path, expected: str) -> None:
    processes = [start(tmp_path / "store", tmp_path / "log") for _ in range(5)]
    assert [finish(process) for process in processes] == [expected] * 5
    assert set(Counter(ran(tmp_path / "log")).values()) == {1}
    assert leftovers(tmp_path / "store") == []


def test_a_process_waits_for_another_and_takes_its_result(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    first = start(store, log, "shape=slow", "seconds=2")
    wait_for(log, 2)
    second = start(store, log, "shape=slow", "seconds=2")
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (0, finish(first))
    assert set(Counter(ran(log)).values()) == {1}
    assert "another build is running 'slow" in err


def test_killed_at_any_moment_then_built_right(tmp_path: Path, expected: str) -> None:
    """One store through many kills, so that what one leaves meets the next."""
    store, log = tmp_path / "store", tmp_path / "log"
    dice = random.Random(20260711)
    killed = 0
    began = time.monotonic()
    assert finish(start(tmp_path / "other", tmp_path / "other log", "jobs=2")) == expected
    whole = time.monotonic() - began
    for _ in range(20):
        process = start(store, log, "jobs=2")
        try:
            process.wait(timeout=whole * dice.uniform(0.05, 0.95))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.communicate()
        if process.returncode == 0:
            # Built before the kill: begin anew, or the rest of the kills would meet hits only.
            for path in sorted((store / "results").rglob("*/*"))[:: dice.choice((1, 2))]:
                path.unlink()
    assert killed > 0
    assert finish(start(store, log)) == expected
    assert finish(start(store, log)) == expected
    assert leftovers(store) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    process = start(store, log, "shape=slow", "seconds=60", "jobs=3")
    wait_for(log, 3)
    wait_for_results(store, 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "4 steps: 1 ran, 0 hit, 0 failed, 3 cancelled" in err
    assert leftovers(store) == []
    assert len(list((store / "results").rglob("*/*"))) == 1


def test_a_second_interrupt_does_not_wait_for_code_that_will_not_stop(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    process = start(store, log, "shape=stubborn", "seconds=300", "jobs=3")
    wait_for(log, 3)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    seen = ""
    while "once more to leave at once" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not list((store / "tmp").iterdir())
    assert not list((store / "active").iterdir())
    again = start(store, log, "shape=stubborn", "seconds=300", "jobs=3")
    wait_for(log, 5)  # nothing is locked
    again.kill()
    again.communicate()


def test_what_was_finished_before_an_interrupt_is_kept(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    process = start(store, log, "shape=slow", "seconds=60", "jobs=3")
    wait_for(log, 3)
    wait_for_results(store, 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    again = start(store, log, "shape=slow", "seconds=60", "jobs=3")
    wait_for(log, 5)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=30)
    assert Counter(ran(log))["quick"] == 1


def test_an_interrupted_wait_for_another_process(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    first = start(store, log, "shape=slow", "seconds=60")
    wait_for(log, 3)
    second = start(store, log, "shape=slow", "seconds=60")
    active = Store(store).root / "active"
    while len(list(active.iterdir())) < 2:
        time.sleep(0.01)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=30)
    assert second.returncode == 130
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert first.returncode == 130
    assert leftovers(store) == []

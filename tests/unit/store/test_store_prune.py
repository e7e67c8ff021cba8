"""Bounding the store: the oldest goes first, what is in use stays, what is left is still right."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cagebuild.execute import ProcessExecutor, execute
from cagebuild.store import Result, Session, Store
from cagebuild.store.prune import Pruned, prune, usage
from tests.support.graphs import OUT, Recorder, build, content, endings, load, step

KIB = 1024
ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, name: str, *, size: int = KIB, age: float = 0) -> str:
    """A result of that size, last used so many seconds ago; its step's id."""
    made = step(name)
    with Session(store, [made.id]) as session, session.scratch() as scratch:
        (scratch / OUT).write_bytes(name.encode().ljust(size, b"."))
        session.commit(made, {OUT: scratch / OUT})
    last = time.time() - age
    os.utime(store.result_path(made.id), (last, last))
    return made.id


def test_usage_counts_by_kind_and_each_file_once(store: Store) -> None:
    base = step("base", params={"text": "base", "size": KIB})
    same = step("same", "slow", params={"text": "base", "size": KIB, "seconds": "0"})
    build(store, base, same)
    (store.root / "blobs" / "00").mkdir(exist_ok=True)
    (store.root / "blobs" / "00" / ("0" * 64)).write_bytes(b"left by a killed run")
    found = usage(store)
    size = len("base out\n") + KIB
    assert (found.results, found.blobs) == (2, 2)
    assert found.bytes == size + 20
    assert found.unreferenced == 20
    assert found.kinds == {"join": (1, size), "slow": (1, size)}


def test_too_old_goes(store: Store) -> None:
    old, new = add(store, "old", age=100), add(store, "new", age=10)
    assert prune(store, max_age=50) == Pruned(results=1, blobs=1, bytes=KIB)
    assert store.lookup(old) is None
    assert store.lookup(new)


def test_too_much_goes_oldest_first(store: Store) -> None:
    ids = [add(store, f"step {n}", age=100 - n) for n in range(10)]
    pruned = prune(store, max_bytes=4 * KIB)
    assert pruned == Pruned(results=6, blobs=6, bytes=6 * KIB)
    assert [bool(store.lookup(step_id)) for step_id in ids] == [False] * 6 + [True] * 4


def test_a_hit_is_a_use(store: Store) -> None:
    first, second = add(store, "first", age=100), add(store, "second", age=90)
    assert store.lookup(first)
    prune(store, max_bytes=KIB)
    assert store.lookup(first)
    assert not store.lookup(second)


def test_what_a_hit_was_made_of_counts_as_used_with_it(store: Store) -> None:
    below = step("below")
    above = step("above", inputs={"below": below})
    build(store, above)
    for path in (store.root / "results").rglob("*/*"):
        os.utime(path, (0, 0))
    build(store, above)
    prune(store, max_age=1000)
    assert store.lookup(below.id)


def test_a_file_that_a_kept_result_shares_stays(store: Store) -> None:
    old = step("old", params={"text": "same"})
    new = step("new", params={"text": "same", "more": 1})
    build(store, old, owner="one")
    summary = build(store, new, owner="two")
    os.utime(store.result_path(old.id), (0, 0))
    os.utime(store.run_path("one"), (0, 0))
    assert prune(store, max_age=1000) == Pruned(results=1, blobs=0, bytes=0)
    assert content(store, summary, new) == b"same out\n"


def test_a_dry_run_removes_nothing(store: Store) -> None:
    old = add(store, "old", age=100)
    assert prune(store, max_age=50, dry_run=True) == Pruned(results=1, blobs=1, bytes=KIB)
    assert store.lookup(old)


def test_nothing_that_a_running_build_needs_goes(store: Store) -> None:
    mine, other = add(store, "mine", age=100), add(store, "other", age=50)
    with Session(store, [mine]):
        prune(store, max_bytes=0)
        assert store.lookup(mine)
        assert not store.lookup(other)
    prune(store, max_bytes=0)
    assert not store.lookup(mine)


def test_files_without_a_result_go_only_when_no_build_runs(store: Store) -> None:
    """One may be about to get a result."""
    orphan = store.root / "blobs" / "00" / ("0" * 64)
    orphan.parent.mkdir()
    orphan.write_bytes(b"x")
    with Session(store, []):
        prune(store)
        assert orphan.exists()
    assert prune(store) == Pruned(results=0, blobs=1, bytes=1)
    assert not orphan.exists()


def test_damaged_results_go(store: Store) -> None:
    step_id = add(store, "a")
    store.result_path(step_id).write_bytes(b"{}")
    assert prune(store).results == 1
    assert not store.result_path(step_id).exists()


def test_a_run_keeps_the_store_within_its_bound(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=10 * KIB)
    for number in range(30):
        build(store, step(f"step {number}", params={"text": str(number), "size": KIB}))
        assert usage(store).bytes <= 10 * KIB
    assert store.lookup(step("step 29", params={"text": "29", "size": KIB}).id)


def test_a_run_larger_than_the_bound_keeps_its_own(tmp_path: Path) -> None:
    """Else the same build would do all its work again every time."""
    store = Store(tmp_path / "store", max_bytes=KIB)
    steps = [step(str(n), params={"text": str(n), "size": KIB}) for n in range(5)]
    build(store, *steps)
    assert set(endings(build(store, *steps)).values()) == {"hit"}


def test_old_tracebacks_and_half_fetched_files_go(store: Store) -> None:
    for folder in ("logs", "partials"):
        for name, age in (("old", 365 * 86400), ("new", 60)):
            path = store.root / folder / name
            path.write_text("x")
            os.utime(path, (time.time() - age, time.time() - age))
    prune(store)
    assert [p.name for f in ("logs", "partials") for p in (store.root / f).iterdir()] == ["new"] * 2


KILLED = """
import os, signal, sys
from pathlib import Path
from cagebuild.store import Session, Store
with Session(Store(Path(sys.argv[1])), ["id"]) as session, session.scratch() as scratch:
    (scratch / "half").write_bytes(b"x" * 1000)
    (scratch / "locked").mkdir()
    (scratch / "locked" / "file").touch()
    (scratch / "locked").chmod(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_goes_with_the_next(store: Store) -> None:
    subprocess.run([sys.executable, "-c", KILLED, store.root], cwd=ROOT, check=False)
    assert list((store.root / "tmp").rglob("half"))
    assert list((store.root / "active").iterdir())
    with Session(store, []):
        assert len(list((store.root / "tmp").iterdir())) == 1
        assert len(list((store.root / "active").iterdir())) == 1
    assert not list((store.root / "tmp").iterdir())


def test_locks_of_killed_runs_go_and_held_ones_stay(store: Store) -> None:
    (store.root / "locks" / "free").touch()
    with Session(store, []) as session, session.alone("held", lambda: None):
        prune(store)
        assert [path.name for path in (store.root / "locks").iterdir()] == ["held"]


def test_a_killed_run_protects_nothing(store: Store) -> None:
    step_id = add(store, "a", age=100)
    (store.root / "active" / "0123456789abcdef").write_text(f"{step_id}\n")
    prune(store, max_age=50)
    assert not store.lookup(step_id)


PRUNER = """
import sys, time
from pathlib import Path
from cagebuild.store import Store
from cagebuild.store.prune import prune
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    prune(store, max_bytes=0)
"""


def test_builds_go_on_while_another_process_prunes_all_it_may(store: Store, tmp_path: Path) -> None:
    """Each build sees every file that it counts on."""
    pruner = subprocess.Popen(
        [sys.executable, "-c", PRUNER, store.root], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert pruner.stdout
        assert pruner.stdout.readline() == b"ready\n"
        below = step("below")
        for number in range(25):
            above = step(f"above {number}", inputs={"below": below})
            recorder = Recorder()
            summary = execute(
                {"//cage": [above]},
                store=store,
                executor=ProcessExecutor(load),
                reporter=recorder,
                jobs=2,
            )
            assert summary.ok
            assert recorder.notes == []
    finally:
        pruner.kill()
        pruner.communicate()
    assert isinstance(store.probe(below.id), (Result, str))

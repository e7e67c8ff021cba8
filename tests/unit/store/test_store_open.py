"""Folders that are no store, or one that cannot be used: a StoreError that says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cagebuild.errors import StoreError
from cagebuild.store import Session, Store

ROOT = Path(__file__).parents[3]


def test_a_store_is_made_where_there_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b")
    assert (store.root / "VERSION").read_text() == "cagebuild store 1\n"
    Store(store.root)


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    Store(tmp_path)
    assert (tmp_path / "VERSION").exists()


def test_what_a_kill_left_of_a_first_start_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".VERSION.0123456789abcdef").write_text("cage")
    Store(tmp_path)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match=r"not a store, and not empty: it holds 'thesis.tex'"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("version", ["cagebuild store 2\n", "", "\xff\x00"])
def test_another_format_is_refused(tmp_path: Path, version: str) -> None:
    (tmp_path / "VERSION").write_text(version)
    with pytest.raises(StoreError, match="format") as caught:
        Store(tmp_path)
    assert "remove the folder" in caught.value.hint


def test_a_file_in_the_stores_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "file")
    assert "store.path" in caught.value.hint


def test_relative_paths_stay_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("store"))
    monkeypatch.chdir("/")
    assert store.root == tmp_path / "store"


PERMISSION = """
import os, sys
from pathlib import Path
from cagebuild.errors import StoreError
from cagebuild.store import Session, Store
if os.geteuid() == 0:
    os.setuid(65534)
try:
    with Session(Store(Path(sys.argv[1])), []):
        pass
except StoreError as error:
    print(error.render())
"""


@pytest.mark.parametrize("made_before", [True, False])
def test_a_folder_that_may_not_be_written_is_an_error_with_a_next_step(
    tmp_path: Path, made_before: bool
) -> None:
    folder = tmp_path / "store"
    if made_before:
        Store(folder)
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o555)
    done = subprocess.run(
        [sys.executable, "-c", PERMISSION, folder],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    assert done.stderr == ""
    assert "cannot be written" in done.stdout
    assert "make it writable for this user" in done.stdout


FULL = """
import sys
from pathlib import Path
from cagebuild.store import Store
from tests.support.graphs import Recorder, build, step
recorder = Recorder()
store = Store(Path(sys.argv[1]))
steps = [step("small"), step("large", params={"text": "large", "size": 3 << 20})]
build(store, *steps, recorder=recorder, keep_going=True, jobs=1)
for outcome in recorder.outcomes:
    print(outcome.step.name, outcome.status, outcome.error.render() if outcome.error else "")
print("left:", len(list((store.root / "tmp").iterdir())))
"""


def test_a_full_disk_fails_the_step_and_says_how_to_get_room(tmp_path: Path) -> None:
    """On a real file system of 1 MiB."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and util-linux, to mount a small file system")
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && shift && exec "$@"'
    program = [sys.executable, "-c", FULL, str(tmp_path / "store")]
    done = subprocess.run(
        [unshare, "-m", "sh", "-ec", script, "sh", str(tmp_path), *program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "permission denied" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("may not mount here: run the container with CAP_SYS_ADMIN")
    assert done.stderr == ""
    assert "small ran" in done.stdout
    assert "large failed no space is left for the store" in done.stdout
    assert "invoke cache --prune" in done.stdout
    assert "left: 0" in done.stdout


def test_a_session_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "tmp").rmdir()
    with pytest.raises(StoreError), Session(store, ["x"]):
        pytest.fail("no tmp folder, no session")
    assert not list((tmp_path / "active").iterdir())

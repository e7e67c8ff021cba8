"""Locks: one holder, between threads and processes, gone with the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cagebuild.store import filelock

ROOT = Path(__file__).parents[3]

HOLDER = """
import sys
from pathlib import Path
from cagebuild.store import filelock
filelock.acquire(Path(sys.argv[1]), shared=sys.argv[2] == "shared")
print("held", flush=True)
sys.stdin.read()
"""


class GivenUpError(Exception):
    pass


def give_up() -> None:
    raise GivenUpError


def hold(path: Path, mode: str = "exclusive") -> subprocess.Popen[bytes]:
    """Another process that holds the lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, mode],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_another_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path)
    assert filelock.try_acquire(path) is None
    with pytest.raises(GivenUpError):
        filelock.acquire(path, wait=give_up)
    end(holder)
    with filelock.holding(path, wait=give_up):
        pass


def test_shared_with_shared_but_not_with_exclusive(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path, "shared")
    with filelock.holding(path, shared=True, wait=give_up):
        assert filelock.try_acquire(path) is None
    end(holder)


def test_giving_up_leaves_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with filelock.holding(path):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(10):
            with pytest.raises(GivenUpError):
                filelock.acquire(path, wait=give_up)
            assert filelock.try_acquire(path) is None
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_one_at_a_time_though_the_file_is_removed_each_time(tmp_path: Path) -> None:
    """Who waits at a file that its holder removes must not hold a lock that nobody else can see."""
    path = tmp_path / "lock"
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(20):
            with filelock.holding(path, temporary=True):
                inside.append(1)
                most = max(most, len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not path.exists()


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        filelock.acquire(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()

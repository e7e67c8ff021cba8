"""Builds at the same time, builds that are stopped, and disks that are full."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.e2e import OWN_BOOT, Repo
from tests.support.images import sha256
from tests.support.registry import Response, scripted_server
from tests.support.runtime import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

CAGE = f"""\
runtime = false

[base]
scratch = true

[app]
command = ["/srv/run"]

[[app.files]]
source = "src"
destination = "/srv"

[epoch]
policy = "zero"

{OWN_BOOT}"""


def repo_of(folder: Path, *names: str, size: int = 1000) -> Repo:
    """A repository with these cages, locked by a store that is not used again."""
    repo = Repo(folder / "repo", folder / "store")
    repo.boot()
    repo.write("cage.toml", '[workspace]\ncages = ["services/*"]\n')
    for name in names:
        repo.write(f"services/{name}/cage.toml", CAGE)
        data = f"program of {name}\n".encode().ljust(size, b"\0")
        repo.write(f"services/{name}/src/run", data, mode=0o755)
    repo.commit()
    repo.invoke("lock", CAGEBUILD_STORE=str(folder / "used-once"))
    repo.commit()
    return repo


def leftovers(repo: Repo) -> list[str]:
    """What a build that was stopped must not leave: parts of results, temporary files."""
    found = [path for path in repo.root.rglob("dist/*/*") if path.name.startswith(".")]
    if (repo.store / "tmp").exists():
        found += (repo.store / "tmp").rglob("*")
    return [str(path) for path in found]


def test_two_builds_at_once_in_one_workspace_and_store(tmp_path: Path) -> None:
    repo = repo_of(tmp_path, "pay", "mail", size=2_000_000)
    started = [repo.start("build") for _ in range(3)]
    ended = [each.end() for each in started]
    assert [each.code for each in ended] == [0, 0, 0], [each.screen for each in ended]
    assert ended[0].out == ended[1].out == ended[2].out
    assert ended[0].out.count("as in cage.lock") == 2
    ran = [name for each in ended for name in each.ran()]
    assert len(ran) == len(set(ran)) + 1, f"app files of two cages, and all else once: {ran}"
    assert not leftovers(repo)


def test_a_lock_and_a_build_at_once(tmp_path: Path) -> None:
    repo = repo_of(tmp_path, "pay")
    before = (repo.root / "services/pay/cage.lock").read_bytes()
    started = [repo.start(command) for command in ("lock", "build", "pcr", "lock")]
    ended = [each.end() for each in started]
    assert [each.code for each in ended] == [0] * 4, [each.screen for each in ended]
    assert (repo.root / "services/pay/cage.lock").read_bytes() == before


@contextmanager
def slow_server(data: bytes) -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """A server that answers when told; its URL, an event for 'was asked', and one to let it go."""
    asked, go = threading.Event(), threading.Event()

    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        asked.set()
        go.wait(60)
        return Response(body=data)

    with scripted_server(respond) as base:
        try:
            yield base, asked, go
        finally:
            go.set()


ARCHIVE_CAGE = """\
[base]
scratch = true

[app]
command = ["/srv/run"]

[[app.files]]
source = "src"
destination = "/srv"

[epoch]
policy = "zero"

[runtime]
installer = "{digest}"
url = "{url}"

{boot}"""


def waiting_repo(folder: Path, url: str, data: bytes) -> Repo:
    """A cage whose lock is there and whose installer has yet to come from ``url``."""
    repo = repo_of(folder, "pay")
    text = ARCHIVE_CAGE.format(digest=sha256(data), url=url, boot=OWN_BOOT)
    repo.write("services/pay/cage.toml", text)
    return repo


def test_ctrl_c_stops_with_130_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    with slow_server(b"no installer, but nobody gets that far") as (url, asked, go):
        repo = waiting_repo(tmp_path, url, b"an installer")
        before = (repo.root / "services/pay/cage.lock").read_bytes()
        started = repo.start("lock")
        assert asked.wait(60)
        started.interrupt()
        time.sleep(0.5)
        go.set()
        ended = started.end()
    assert ended.code == 130, ended.screen
    # One, or two where the machine was too busy for the other one to have ended.
    assert re.search("stopping: waiting for (1 step|2 steps); once more to leave at", ended.err)
    assert (repo.root / "services/pay/cage.lock").read_bytes() == before
    assert not (repo.root / "dist").exists()
    assert not leftovers(repo)


def test_ctrl_c_twice_leaves_at_once(tmp_path: Path) -> None:
    with slow_server(b"never sent") as (url, asked, _):
        repo = waiting_repo(tmp_path, url, b"an installer")
        started = repo.start("lock")
        assert asked.wait(60)
        started.interrupt()
        time.sleep(0.5)
        started.interrupt()
        ended = started.end()
    assert ended.code == 130, ended.screen
    # The next command sweeps what that one had no time for, and goes its way.
    repo.checkout.git("checkout", "--", ".")
    built = repo.invoke("build")
    assert "as in cage.lock" in built.out
    assert not leftovers(repo)


def test_ctrl_c_at_any_moment_of_a_build(tmp_path: Path) -> None:
    """Stopped earlier and later: each ends with 130 or is done, and the next build is right."""
    repo = repo_of(tmp_path, "pay", "mail", size=20_000_000)
    expected = {
        f"//services/{name}": repo.lock(f"services/{name}/cage.lock")["expected"]
        for name in ("pay", "mail")
    }
    stopped = 0
    for moment in range(6):
        repo.forget()
        started = repo.start("build", CAGEBUILD_STORE=f"{repo.store}{moment}")
        running = Path(f"{repo.store}{moment}/active")
        while not running.exists() or not any(running.iterdir()):
            assert started.process.poll() is None, started.end().screen
            time.sleep(0.005)
        time.sleep(moment * 0.05)
        started.interrupt()
        ended = started.end()
        # By the signal itself when it comes while Python closes down, with all work done.
        assert ended.code in (0, 130, -signal.SIGINT), ended.screen
        stopped += ended.code == 130
        assert not [path for path in repo.root.rglob("dist/*/*") if path.name.startswith(".")]
        for file in repo.root.rglob("dist/*/*.eif"):
            repo.invoke("describe", str(file))
        built = repo.invoke("build", CAGEBUILD_STORE=f"{repo.store}{moment}")
        assert built.pcrs() == expected
    assert stopped, "never stopped: the moments are too late"


def test_ctrl_c_before_the_first_step_is_a_stop_as_well(tmp_path: Path) -> None:
    repo = repo_of(tmp_path, "pay")
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\nexec sleep 100\n")
    slow.chmod(0o755)
    started = repo.start("build", PATH=f"{slow.parent}:{repo.environment['PATH']}")
    while not (tmp_path / "asked").exists():
        assert started.process.poll() is None, started.end().screen
        time.sleep(0.01)
    started.interrupt()
    assert started.end().code == 130


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Take all space that is left."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space left"):
        write_without_end(descriptor)
    os.close(descriptor)


def write_without_end(descriptor: int) -> None:
    while True:
        os.write(descriptor, bytes(4096))


@needs_root
def test_a_full_disk_is_told_and_space_is_all_that_it_takes(tmp_path: Path) -> None:
    repo = repo_of(tmp_path, "pay", size=6_000_000)
    with small_disk(tmp_path / "disk", "8m") as disk:
        repo.environment["CAGEBUILD_STORE"] = str(disk / "store")
        full = repo.invoke("build", code=71)
        assert f"no space is left for the store at {disk}/store" in full.err
        assert "invoke cache --prune" in full.err
        assert "a bug" not in full.err
        assert not (repo.dist("pay") / "pay.eif").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        built = repo.invoke("build")
        assert "as in cage.lock" in built.out


@needs_root
def test_a_full_disk_of_the_results_is_told(tmp_path: Path) -> None:
    repo = repo_of(tmp_path, "pay", size=6_000_000)
    with small_disk(repo.root / "dist", "1m") as disk:
        full = repo.invoke("build", code=71)
        assert f"{disk}/pay/pay.eif cannot be written: No space left" in full.err
        assert not [path for path in disk.rglob("*") if "pay.eif" in path.name]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert "as in cage.lock" in repo.invoke("build").out


@needs_root
def test_a_store_on_a_full_disk_from_the_start_is_told(tmp_path: Path) -> None:
    repo = repo_of(tmp_path, "pay")
    with small_disk(tmp_path / "disk", "64k") as disk:
        fill(disk / "filler")
        for command in ("build", "lock", "cache"):
            full = repo.invoke(command, code=70, CAGEBUILD_STORE=str(disk / "store"))
            assert f"no space is left for the store at {disk}/store" in full.err


def test_a_store_that_was_pruned_or_damaged_costs_time_only(tmp_path: Path) -> None:
    repo = repo_of(tmp_path, "pay")
    expected = repo.invoke("build").pcrs()
    repo.invoke("cache", "--prune", "--older-than", "0d")
    repo.forget()
    assert repo.invoke("build").pcrs() == expected
    for blob in (repo.store / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o644)
            blob.write_bytes(b"x" * blob.stat().st_size)
    repo.forget()
    assert repo.invoke("build").pcrs() == expected
    measured = json.loads((repo.dist("pay") / "measurements.json").read_text())
    assert measured["Measurements"]["PCR0"] == expected["//services/pay"]["PCR0"]

"""Remembered digests: never one of another content."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import StoreError
from cagebuild.store.statcache import StatCache

ROOT = Path(__file__).parents[3]
LONG_AGO = 1_000_000_000


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute has passed since whatever the test wrote: ctime cannot be set."""
    now = time.time_ns
    monkeypatch.setattr("cagebuild.store.statcache.time.time_ns", lambda: now() + 60_000_000_000)


class Reads:
    """Counts how often a file's content is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        whole = Digest.of_file.__func__  # type: ignore[attr-defined]

        def of_file(path: Path, algorithm: str = "sha256") -> Digest:
            self.count += 1
            found = whole(Digest, path, algorithm)
            assert isinstance(found, Digest)
            return found

        monkeypatch.setattr(Digest, "of_file", of_file)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.mark.usefixtures("later")
def test_a_file_is_read_once_in_two_runs(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    for _ in range(3):
        cache = StatCache(tmp_path / "digests")
        assert cache.digest(path) == Digest.of(b"content")
        cache.save()
    assert reads.count == 1


@pytest.mark.usefixtures("later")
def test_same_size_and_same_mtime_but_other_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, (LONG_AGO, LONG_AGO))
    cache = StatCache(tmp_path / "digests")
    assert cache.digest(path) == Digest.of(b"one")
    path.write_bytes(b"two")
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert cache.digest(path) == Digest.of(b"two")


@pytest.mark.usefixtures("later")
def test_another_file_moved_over_it(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    for each, text in ((path, b"one"), (other, b"two")):
        each.write_bytes(text)
        os.utime(each, (LONG_AGO, LONG_AGO))
    cache = StatCache(tmp_path / "digests")
    cache.digest(path)
    other.rename(path)
    assert cache.digest(path) == Digest.of(b"two")


@pytest.mark.usefixtures("later")
def test_a_link_turned_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")
    link = tmp_path / "link"
    link.symlink_to("one")
    cache = StatCache(tmp_path / "digests")
    assert cache.digest(link) == Digest.of(b"one")
    link.unlink()
    link.symlink_to("two")
    assert cache.digest(link) == Digest.of(b"two")


def test_a_file_changed_just_now_is_read_again(tmp_path: Path, reads: Reads) -> None:
    """A change within the clock's step after reading would look the same."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    cache = StatCache(tmp_path / "digests")
    cache.digest(path)
    cache.digest(path)
    cache.save()
    assert reads.count == 2
    assert not (tmp_path / "digests").exists()


@pytest.mark.usefixtures("later")
def test_a_file_from_the_future_is_read_again(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    cache = StatCache(tmp_path / "digests")
    cache.digest(path)
    cache.digest(path)
    assert reads.count == 2


@pytest.mark.usefixtures("later")
def test_a_damaged_cache_is_an_empty_one_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    file = tmp_path / "digests"
    cache = StatCache(file)
    cache.digest(path)
    cache.save()
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert StatCache(file).digest(path) == Digest.of(b"one")
        file.write_bytes(whole[:position])
        assert StatCache(file).digest(path) == Digest.of(b"one")


@pytest.mark.usefixtures("later")
def test_names_that_are_not_unicode(tmp_path: Path, reads: Reads) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff\n"'))
    path.write_bytes(b"one")
    for _ in range(2):
        cache = StatCache(tmp_path / "digests")
        assert cache.digest(path) == Digest.of(b"one")
        cache.save()
    assert reads.count == 1


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StatCache(tmp_path / "digests").digest(tmp_path / "missing")


@pytest.mark.usefixtures("later")
def test_a_folder_that_is_gone_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    cache = StatCache(tmp_path / "file" / "digests")
    cache.digest(path)
    with pytest.raises(StoreError, match="cannot be written"):
        cache.save()


WRITER = """
import sys, time
from pathlib import Path
from cagebuild.store import statcache
now = time.time_ns
statcache.time.time_ns = lambda: now() + 60_000_000_000
folder, name = Path(sys.argv[1]), sys.argv[2]
for number in range(20):
    path = folder / f"{name}-{number}"
    path.write_text(path.name)
    cache = statcache.StatCache(folder / "digests")
    cache.digest(path)
    cache.save()
"""


@pytest.mark.usefixtures("later")
def test_writers_do_not_lose_what_others_learnt(tmp_path: Path, reads: Reads) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, name], cwd=ROOT)
        for name in ("a", "b", "c")
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    cache = StatCache(tmp_path / "digests")
    for name in ("a", "b", "c"):
        for number in range(20):
            text = f"{name}-{number}"
            assert cache.digest(tmp_path / text) == Digest.of(text.encode())
    assert reads.count == 0

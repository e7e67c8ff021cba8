"""Servers that do everything wrong: each download ends in the right file or the right error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError, FetchError, InterruptedBuildError, StoreError
from cagebuild.fetch.download import download_from
from cagebuild.fetch.failure import Policy
from cagebuild.fetch.http import location_of
from tests.support.http_server import FAULTS, HELD_AFTER, Fault, FaultyServer, faulty_server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
CONTENT = os.urandom(1 << 14) * 24
DIGEST = Digest.of(CONTENT)
QUICK = Policy(
    connect_timeout=5,
    read_timeout=0.5,
    slowest=1 << 20,
    patience=0.3,
    rounds=3,
    back_off=0.01,
    longest_wait=0.02,
)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with faulty_server(CONTENT) as running:
        yield running


@pytest.fixture(autouse=True)
def _forget(server: FaultyServer) -> None:
    server.requests.clear()


def fetch(
    target: Path,
    *urls: str,
    digest: Digest = DIGEST,
    size: int | None = len(CONTENT),
    limit: int = 1 << 24,
) -> None:
    download_from(
        [location_of(url, QUICK) for url in urls],
        target,
        digest=digest,
        size=size,
        limit=limit,
        progress=lambda done, total: None,
        policy=QUICK,
    )


RIGHT_IN_THE_END: tuple[Fault, ...] = (
    "answers 500 once",
    "drops the connection midway once",
    "drops the connection midway without a length",
    "ignores ranges and drops once",
    "sends another range",
    "redirects to the good file",
)
CAUSES: dict[Fault, str] = {
    "answers 404": "404 not found",
    "answers 403": "403 access denied",
    "answers 503 always": "HTTP status 503",
    "drops the connection midway always": "the connection broke off",
    "sends wrong bytes": "wrong content: it has 25 bytes, expected",
    "sends wrong bytes of the right length": f"wrong content: got {Digest.of(bytes(len(CONTENT)))}",
    "announces fewer bytes": "wrong content: it has",
    "announces more bytes": "wrong content: it has",
    "never ends": "wrong content: longer than",
    "never answers": "timeout",
    "drips": "slower than",
    "redirects in circles": "more than 5 redirects",
    "redirects to a file": "not an http or https URL",
    "redirects to nowhere": "without saying where to",
    "closes without an answer": "the connection broke off",
    "speaks no http": "the connection broke off",
}
ELSEWHERE: set[Fault] = {
    "redirects to plain http",
    "changes the file between two parts",
    "holds back the rest",
}


def test_every_fault_has_a_test() -> None:
    assert {*RIGHT_IN_THE_END, *CAUSES} | ELSEWHERE == set(FAULTS)


@pytest.mark.parametrize(
    ("fault", "size"),
    [
        (fault, size)
        for fault in RIGHT_IN_THE_END
        for size in (len(CONTENT), None)
        # With no length anywhere, a cut cannot be told from the end.
        if size is not None or "without a length" not in fault
    ],
)
def test_a_fault_that_passes_ends_in_the_right_file(
    server: FaultyServer, tmp_path: Path, fault: Fault, size: int | None
) -> None:
    fetch(tmp_path / "file", server.url(fault), size=size)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("fault", CAUSES)
def test_a_fault_that_stays_is_an_error_with_its_cause(
    server: FaultyServer, tmp_path: Path, fault: Fault
) -> None:
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path / "file", server.url(fault))
    assert f"{server.url(fault)}: " in caught.value.message
    assert CAUSES[fault] in caught.value.message
    assert isinstance(caught.value, DigestMismatchError) == ("wrong content" in CAUSES[fault])
    assert caught.value.hint
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("fault", CAUSES)
def test_a_good_location_behind_a_faulty_one_is_used(
    server: FaultyServer, tmp_path: Path, fault: Fault
) -> None:
    fetch(tmp_path / "file", server.url(fault), server.url())
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.count() == 1


def test_a_dead_location_is_asked_once_before_the_next(
    server: FaultyServer, tmp_path: Path
) -> None:
    fetch(tmp_path / "file", server.url("answers 503 always"), server.url())
    assert server.count("answers 503 always") == 1


def test_a_failure_for_good_is_not_tried_again(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(FetchError):
        fetch(tmp_path / "file", server.url("answers 404"), server.url("answers 503 always"))
    assert server.count("answers 404") == 1
    assert server.count("answers 503 always") == QUICK.rounds


def test_every_location_is_named_with_its_cause(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(DigestMismatchError) as caught:
        fetch(
            tmp_path / "file",
            server.url("answers 404"),
            server.url("sends wrong bytes of the right length"),
            "http://127.0.0.1:1/refused",
            (tmp_path / "absent").as_uri(),
            "ftp://mirror.example/file",
            "http://[::1/broken",
        )
    lines = caught.value.message.splitlines()
    assert lines[0] == f"cannot fetch {DIGEST}:"
    assert [line.strip().partition(": ")[2] for line in lines[1:]] == [
        "404 not found",
        f"wrong content: got {Digest.of(bytes(len(CONTENT)))}, expected {DIGEST}",
        "connection refused",
        "no such file",
        "not an http or https URL",
        "not a URL",
    ]
    assert "invoke lock --update" in caught.value.hint


def test_right_bytes_are_taken_whatever_length_was_announced(
    server: FaultyServer, tmp_path: Path
) -> None:
    """Where the lock does not say the size, the digest alone decides."""
    fetch(tmp_path / "file", server.url("announces more bytes"), size=None)
    assert (tmp_path / "file").read_bytes() == CONTENT
    with pytest.raises(DigestMismatchError):
        fetch(tmp_path / "other", server.url("announces fewer bytes"), size=None)


def test_a_drop_is_resumed_where_it_broke_off(server: FaultyServer, tmp_path: Path) -> None:
    fetch(tmp_path / "file", server.url("drops the connection midway once"))
    headers = server.requests[1].headers
    assert headers["Range"] == f"bytes={len(CONTENT) // 2}-"
    assert headers["If-Range"] == '"v1"'


def test_bytes_of_one_location_are_completed_by_another(
    server: FaultyServer, tmp_path: Path
) -> None:
    fetch(tmp_path / "file", server.url("drops the connection midway always"), server.url())
    assert server.requests[1].headers["Range"] == "bytes=7-"
    assert "If-Range" not in server.requests[1].headers
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_file_replaced_between_two_parts_starts_again(
    server: FaultyServer, tmp_path: Path
) -> None:
    """The server's entity tag says so; without If-Range the two would have been mixed."""
    fetch(tmp_path / "file", server.url("changes the file between two parts"))
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_part_of_wrong_bytes_does_not_cost_the_good_location(
    server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "file.part").write_bytes(bytes(1000))
    fetch(tmp_path / "file", server.url())
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [request.headers.get("Range") for request in server.requests] == ["bytes=1000-", None]


@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["size known", "size unknown"])
def test_a_part_that_is_whole_needs_no_network(tmp_path: Path, size: int | None) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(tmp_path / "file", "http://127.0.0.1:1/refused", size=size)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert not (tmp_path / "file.part").exists()


@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["size known", "size unknown"])
def test_a_part_that_is_too_long_is_thrown_away(
    server: FaultyServer, tmp_path: Path, size: int | None
) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    fetch(tmp_path / "file", server.url(), size=size)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_that_is_a_symlink_is_refused(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "file.part").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError):
        fetch(tmp_path / "file", server.url())
    assert (tmp_path / "victim").read_bytes() == b"untouched"


def test_an_empty_file_can_be_fetched(tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    fetch(tmp_path / "file", (tmp_path / "source").as_uri(), digest=Digest.of(b""), size=0)
    assert (tmp_path / "file").read_bytes() == b""


def test_other_digest_algorithms_are_checked_too(server: FaultyServer, tmp_path: Path) -> None:
    fetch(tmp_path / "file", server.url(), digest=Digest.of(CONTENT, "sha512"))
    with pytest.raises(DigestMismatchError):
        fetch(tmp_path / "other", server.url(), digest=Digest.of(b"x", "sha512"))


@pytest.mark.parametrize("fault", ["never ends", "sends wrong bytes of the right length", None])
def test_never_is_more_kept_than_the_limit(
    server: FaultyServer, tmp_path: Path, fault: Fault | None
) -> None:
    seen: list[int] = []
    with pytest.raises(FetchError, match="longer than"):
        download_from(
            [location_of(server.url(fault), QUICK)],
            tmp_path / "file",
            digest=DIGEST,
            size=None,
            limit=100_000,
            progress=lambda done, total: seen.append(done),
            policy=QUICK,
        )
    assert max(seen, default=0) <= 100_000
    assert not list(tmp_path.iterdir())


def test_a_size_above_the_limit_is_refused_before_anything_is_asked(
    server: FaultyServer, tmp_path: Path
) -> None:
    with pytest.raises(FetchError, match="more than the limit of 10"):
        fetch(tmp_path / "file", server.url(), limit=10)
    assert not server.requests


def test_no_location_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no location is known"):
        fetch(tmp_path / "file")


def test_credentials_and_queries_stay_out_of_messages(server: FaultyServer, tmp_path: Path) -> None:
    url = server.url("answers 404").replace("http://", "http://joe:hunter2@") + "?token=hunter3"
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path / "file", url, "https://joe:hunter2@127.0.0.1:1/?a=hunter3#hunter4")
    text = caught.value.render() + repr(caught.value)
    assert "hunter" not in text
    assert "***@127.0.0.1" in text
    assert server.requests[0].headers["Authorization"].startswith("Basic ")


def test_what_steers_a_terminal_stays_out_of_messages(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path / "file", "http://127.0.0.1:1/\x1b[2Jgone")
    assert "\x1b" not in caught.value.message


def test_a_local_mirror_is_read(tmp_path: Path) -> None:
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    (mirror / DIGEST.hex).write_bytes(CONTENT)
    (tmp_path / "file.part").write_bytes(CONTENT[:5000])
    fetch(tmp_path / "file", (mirror / DIGEST.hex).as_uri())
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_local_mirror_with_something_that_is_no_file(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "odd").mkdir()
    else:
        os.mkfifo(tmp_path / "odd")
    with pytest.raises(FetchError, match="not a regular file"):
        fetch(tmp_path / "file", (tmp_path / "odd").as_uri())


@pytest.mark.parametrize("url", ["file://host/x", "file:x", "file:///a%00b", "file:///x?y"])
def test_a_file_url_that_names_no_local_file(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError, match=r"not a (URL|path)"):
        fetch(tmp_path / "file", url)


def test_a_folder_that_cannot_be_written_is_an_error_of_the_store(
    server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write"):
        fetch(tmp_path / "file" / "below-a-file", server.url())


def test_stopping_keeps_what_has_arrived(server: FaultyServer, tmp_path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done:
            raise InterruptedBuildError("stopped")

    with pytest.raises(InterruptedBuildError):
        download_from(
            [location_of(server.url(), QUICK)],
            tmp_path / "file",
            digest=DIGEST,
            size=len(CONTENT),
            limit=len(CONTENT),
            progress=stop,
            policy=QUICK,
        )
    part = (tmp_path / "file.part").read_bytes()
    assert part
    assert CONTENT.startswith(part)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.part"]
    fetch(tmp_path / "file", server.url())
    assert server.requests[-1].headers["Range"] == f"bytes={len(part)}-"


def test_two_downloads_of_one_file_do_not_disturb_each_other(
    server: FaultyServer, tmp_path: Path
) -> None:
    failures: list[BaseException] = []

    def one() -> None:
        try:
            fetch(tmp_path / "file", server.url("drops the connection midway always"), server.url())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


_DOWNLOAD = """
import sys
from pathlib import Path
from cagebuild.digest import Digest
from cagebuild.fetch.download import download_from
from cagebuild.fetch.http import location_of

def progress(done, total):
    if done > 3000:
        print("under way", flush=True)

download_from([location_of(sys.argv[1])], Path(sys.argv[2]), digest=Digest.parse(sys.argv[3]),
              size=int(sys.argv[4]), limit=1 << 24, progress=progress)
"""


def test_a_killed_download_leaves_a_part_that_is_resumed(tmp_path: Path) -> None:
    content = os.urandom(1 << 16)
    digest = Digest.of(content)
    target = tmp_path / "file"
    with faulty_server(content) as server:
        arguments = [server.url("holds back the rest"), str(target), str(digest), str(len(content))]
        process = subprocess.Popen(
            [sys.executable, "-c", _DOWNLOAD, *arguments], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"under way\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert [entry.name for entry in tmp_path.iterdir()] == ["file.part"]
        assert (tmp_path / "file.part").read_bytes() == content[:HELD_AFTER]
        fetch(target, server.url(), digest=digest, size=len(content))
        assert server.requests[-1].headers["Range"] == f"bytes={HELD_AFTER}-"
    assert target.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

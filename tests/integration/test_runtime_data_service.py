"""The service ``data`` under runit: what the app waits for, restarts, the order of the end."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import runtime
from tests.support.runtime import assert_soon, cage, make_root, needs_root, shared_work

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_work(tmp_path_factory)


@pytest.fixture
def root(work: Path, tmp_path: Path) -> Path:
    return make_root(work, tmp_path / "root", cage("heed-term"))


class _Control(http.client.HTTPConnection):
    """HTTP over a control stream, as the host speaks it."""

    def __init__(self, path: Path) -> None:
        super().__init__("cage", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))
        hello = json.dumps({"version": 1, "stream": "control"}).encode()
        self.sock.sendall(struct.pack(">H", len(hello)) + hello)
        size = struct.unpack(">H", self.sock.recv(2, socket.MSG_WAITALL))[0]
        assert self.sock.recv(size, socket.MSG_WAITALL) == b"{}"


@pytest.fixture
def listen(root: Path) -> Iterator[Path]:
    (root / "wall").mkdir()
    with tempfile.TemporaryDirectory(prefix="cage-") as name:
        # The path of a unix socket has 107 bytes at most.
        link = Path(name) / "wall"
        link.symlink_to(root / "wall")
        yield link / "guest"


def start(root: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> runtime.Guest:
    enter = runtime._ENTER.replace("cage-guest boot", "cage-guest boot --listen unix:///wall/guest")
    monkeypatch.setattr(runtime, "_ENTER", enter)
    return runtime.start(root, content)


def ask(
    listen: Path, method: str, path: str, body: bytes = b"", kind: str = ""
) -> tuple[int, bytes]:
    assert_soon(listen.exists)
    with contextlib.closing(_Control(listen)) as control:
        control.request(method, path, body, {"Content-Type": kind})
        answer = control.getresponse()
        return answer.status, answer.read()


def put(listen: Path, **bundle: Any) -> None:
    status, said = ask(
        listen, "PUT", "/v1/secrets", json.dumps(bundle).encode(), "application/json"
    )
    assert status == 204, said


def test_the_app_waits_for_its_secrets_and_has_them_as_its_user(
    root: Path, listen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"env": ["KEY"], "files": ["cert.pem"]}
    content = cage("report", uid=1000, gid=1000, env=["A=b"], secrets=wanted)
    with start(root, content, monkeypatch) as guest:
        guest.until("^cage: app: waiting for secrets: KEY, cert.pem$")
        assert ask(listen, "GET", "/v1/health")[0] == 503
        put(listen, env={"KEY": "it's\n%s"})
        guest.until("^cage: app: waiting for secrets: cert.pem$")
        put(listen, files={"cert.pem": base64.b64encode(b"\0\1").decode()})
        found = json.loads(guest.until(r"^app: (\{.*\})$")[1])
        assert found["env"] == ["A=b", "KEY=it's\n%s"]
        inside = Path(f"/proc/{guest.boot}/root/run/secrets")
        assert (inside / "cert.pem").read_bytes() == b"\0\1"
        assert (inside / "cert.pem").stat().st_uid == 1000
        assert (inside / "cert.pem").stat().st_mode & 0o777 == 0o400
        status, body = ask(listen, "GET", "/v1/health")
        assert (status, json.loads(body)["status"]) == (200, "up")
        assert guest.stop() == 0
    assert "%s" not in "".join(line for line in guest.lines if not line.startswith("app: "))


def test_an_end_while_the_app_waits_is_at_once_and_in_order(
    root: Path, listen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = cage("report", secrets={"env": ["KEY"], "files": []})
    with start(root, content, monkeypatch) as guest:
        guest.until("waiting for secrets: KEY$")
        assert guest.stop() == 0
        assert guest.lines[-2:] == [
            "cage: got signal 15 (terminated): stopping\n",
            "cage: stopped\n",
        ]


def test_other_secrets_start_the_app_again(
    root: Path, listen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = cage("heed-term", secrets={"env": ["KEY"], "files": []})
    with start(root, content, monkeypatch) as guest:
        put(listen, env={"KEY": "one"})
        guest.until("^app: ready$")
        put(listen, env={"KEY": "two"})
        guest.until("^cage: data: other secrets were delivered: starting the app again$")
        guest.until("^app: got terminated$")
        guest.until("^app: ready$")
        app = guest.find("/probe", "heed-term")
        assert b"KEY=two" in Path(f"/proc/{app}/environ").read_bytes().split(b"\0")
        assert json.loads(ask(listen, "GET", "/v1/health")[1])["app"] == {"restarts": 1}
        assert guest.stop() == 0


def test_a_killed_data_service_comes_back_and_the_app_runs_on(
    root: Path, listen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(root, cage("heed-term", logs=True), monkeypatch) as guest:
        guest.until("^app: ready$")
        app = guest.find("/probe", "heed-term")
        words = ("/cage/bin/cage-guest", "data", "--supervised")
        first = guest.find(*words)
        os.kill(first, signal.SIGKILL)
        guest.until(r"^cage: data ended: killed by signal 9 \(killed\); next start in 1 s$")
        assert_soon(lambda: guest.find(*words) != first and _answers(listen))
        assert guest.find("/probe", "heed-term") == app
        assert guest.stop() == 0


def _answers(listen: Path) -> bool:
    try:
        return ask(listen, "GET", "/v1/health")[0] == 200
    except OSError:
        return False


def test_the_log_is_read_by_the_parent(
    root: Path, listen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(root, cage("exit", "41", logs=True), monkeypatch) as guest:
        guest.until("^cage: app ended: exit status 41; next start in 1 s$")
        assert_soon(lambda: b"cage: app ended: exit status 41" in ask(listen, "GET", "/v1/logs")[1])
        assert guest.stop() == 0


def test_the_parent_ends_it_in_order(
    root: Path, listen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(root, cage("heed-term"), monkeypatch) as guest:
        guest.until("^app: ready$")
        assert ask(listen, "POST", "/v1/stop")[0] == 202
        console = guest.rest()
        assert "app: got terminated\n" in console
        assert console.endswith("cage: stopped\n")
        assert guest.returncode == 0


def test_a_panic_of_the_data_service_is_marked_as_its_own(
    root: Path, listen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(root, cage("heed-term"), monkeypatch) as guest:
        guest.until("^app: ready$")
        os.kill(guest.find("/cage/bin/cage-guest", "data", "--supervised"), signal.SIGQUIT)
        guest.until("^data: SIGQUIT: quit$")
        guest.until("^cage: data ended: exit status 2; next start in 1 s$")
        assert guest.stop() == 0
        assert not [line for line in guest.lines if not line.startswith(("cage: ", "app", "data"))]

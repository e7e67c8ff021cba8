"""Peers that break off, stall or answer garbage, and either program without the other."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.data_plane import (
    ADMIN,
    PUBLIC,
    RAW,
    WEB,
    Cage,
    Programs,
    Wanted,
    build_programs,
    egress,
    ingress,
)
from tests.support.data_plane_clients import (
    PATIENCE,
    after_all,
    connect,
    pattern,
    read_all,
    read_exactly,
    request,
    serving_at,
)
from tests.support.runtime import assert_soon, needs_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() a reset."""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build_programs(tmp_path_factory)


@pytest.fixture
def cage(programs: Programs, tmp_path: Path) -> Iterator[Cage]:
    wanted = Wanted(
        ingress=[ingress(WEB), ingress(RAW)], egress=egress("public.test:80", "*.wild.test:80")
    )
    with Cage(tmp_path, programs, wanted) as made:
        yield made


def frame(message: object) -> bytes:
    """A message of package wire."""
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">H", len(text)) + text


def hello(stream: str, **more: object) -> bytes:
    return frame({"version": 1, "stream": stream, **more})


def reply(connection: socket.socket) -> dict[str, object]:
    size = struct.unpack(">H", read_exactly(connection, 2))[0]
    found: dict[str, object] = json.loads(read_exactly(connection, size))
    return found


@contextlib.contextmanager
def unix_server(path: str, answer: Callable[[socket.socket], object]) -> Iterator[None]:
    """A server at a unix socket; each connection in a thread, all closed at the end."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(4096)
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def attend(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError, struct.error):
            answer(connection)

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(connection)
            threads.append(threading.Thread(target=attend, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=run)
    accepting.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        accepting.join()
        server.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        Path(path).unlink()


def garbage(connection: socket.socket) -> None:
    connection.sendall(pattern(100_000))


def garbage_after_hello(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(pattern(100_000))


def say(*messages: bytes) -> Callable[[socket.socket], object]:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        for message in messages:
            connection.sendall(message)

    return answer


WRONG: dict[str, Callable[[socket.socket], object]] = {
    "ends at once": lambda _: None,
    "garbage": garbage,
    "garbage after the hello": garbage_after_hello,
    "a long frame": say(b"\xff\xff" + b"{" * 0xFFFF),
    "no JSON": say(frame(b"{")),
    "deep JSON": say(frame(b"[" * 2048)),
    "an unknown key": say(frame({"wrong": 1})),
    "a wrong type": say(frame({"code": 1})),
    "two objects": say(frame(b"{}{}")),
    "half a frame": say(b"\x00\x10{"),
    "an unknown code": say(frame({"code": "\x1b[2J" * 50, "message": "\n" * 200})),
    "busy": say(frame({"code": "busy", "message": "all in use"})),
    "HTTP": say(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
}


# A host that is none.


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
def test_a_host_that_answers_garbage(cage: Cage, answer: Callable[[socket.socket], object]) -> None:
    cage.start_app()
    with unix_server(f"{cage.shared}/host", answer):
        cage.start_guest()
        cage.guest_listens()
        for _ in range(20):
            with contextlib.suppress(OSError), connect_inside(cage, "public.test", 80) as client:
                client.sendall(b"x")
                assert read_all(client) == b""
        assert not any("\x1b" in line for line in cage.guest.lines)
    # With a host that is one, all is well.
    cage.start_host()
    with serving_at(cage.outside, PUBLIC, 80, after_all(b"here")):
        cage.await_web()
        assert cage.dial("public.test:80").body == b"here"
    assert cage.guest.poll() is None


def connect_inside(cage: Cage, name: str, port: int) -> socket.socket:
    """A connection of the app's to a name, by the address that the enclave's resolver gives."""
    address = cage.inside.output("dig", "+short", name).strip()
    return connect(cage.inside, address, port)


def test_a_host_that_never_answers_holds_up_nobody(cage: Cage) -> None:
    waiting = threading.Event()

    def stall(connection: socket.socket) -> None:
        asked = reply(connection)
        if asked.get("host") == "stalled.wild.test" or asked["stream"] != "egress":
            waiting.wait(PATIENCE)
        else:
            connection.sendall(frame({}))
            connection.sendall(read_all(connection))

    cage.start_app()
    with unix_server(f"{cage.shared}/host", stall):
        cage.start_guest()
        cage.guest_listens()
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connect_inside(cage, "stalled.wild.test", 80))
            with connect_inside(cage, "public.test", 80) as client:
                client.sendall(b"x" * 10_000)
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == b"x" * 10_000
        waiting.set()


def test_no_host_at_all(cage: Cage) -> None:
    """Streams that can't be opened are reset; the guest waits for a host and then works."""
    cage.start_app()
    cage.start_guest()
    cage.guest_listens()
    with contextlib.suppress(OSError), connect_inside(cage, "public.test", 80) as client:
        assert read_all(client) == b""
    cage.start_host()
    cage.await_healthy()
    with serving_at(cage.outside, PUBLIC, 80, after_all(b"here")):
        assert cage.dial("public.test:80").body == b"here"


HELLOS = {
    "nothing": b"",
    "half a length": b"\x00",
    "half a frame": b"\x00\x50{",
    "a long frame": b"\xff\xff" + b"{" * 0xFFFF,
    "no JSON": frame(b"\x00" * 50),
    "another version": frame({"version": 2, "stream": "ingress", "port": WEB}),
    "an unknown key": hello("ingress", port=WEB, wrong=1),
    "an unknown stream": hello("upgrade"),
    "a stream of the other side": hello("time"),
    "a port that is not published": hello("ingress", port=22),
    "port 0": hello("ingress"),
    "a wrong peer": hello("ingress", port=WEB, peer="nobody", local="::")
    + b"GET / HTTP/1.0\r\n\r\n",
    "a port above 65535": hello("ingress", port=65_536),
    "HTTP to the control": hello("control") + b"GARBAGE\r\n\r\n" + pattern(100_000),
    "much to the control": hello("control") + b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
}


def send_each(path: str, messages: Iterable[bytes], times: int) -> list[socket.socket]:
    """Streams to a unix socket, each with a message and kept open."""
    streams = []
    for message in messages:
        for _ in range(times):
            streams.append(socket.socket(socket.AF_UNIX))
            streams[-1].settimeout(PATIENCE)
            with contextlib.suppress(OSError):
                streams[-1].connect(path)
                streams[-1].sendall(message)
    return streams


def ends(stream: socket.socket) -> bytes:
    """What comes until the end, which has to come, or until it breaks off."""
    seen = b""
    with stream, contextlib.suppress(ConnectionError):
        while part := stream.recv(1 << 16):
            seen += part
    return seen


def test_a_hostile_host_does_not_hurt_the_guest(cage: Cage) -> None:
    cage.start()
    streams = send_each(f"{cage.shared}/guest", HELLOS.values(), 20)
    assert cage.ask("GET", "/bytes?count=4").body == pattern(4)
    # All end, those that say nothing too: whoever accepts sets a deadline.
    for stream in streams:
        ends(stream)
    assert cage.ask("GET", "/bytes?count=4").body == pattern(4)
    assert cage.guest.poll() is None


# A guest that is none.


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
def test_a_guest_that_answers_garbage(
    cage: Cage, answer: Callable[[socket.socket], object]
) -> None:
    with unix_server(f"{cage.shared}/guest", answer):
        cage.start_host()
        cage.host.until("admin: ")
        for _ in range(20):
            with contextlib.suppress(OSError), cage.connect() as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert read_all(client) == b""
        assert cage.admin("/health").status == 503
        assert cage.admin("/metrics").status == 200
        assert not any("\x1b" in line for line in cage.host.lines)
    cage.start_app()
    cage.start_guest()
    cage.await_healthy()
    assert cage.ask("GET", "/bytes?count=4").body == pattern(4)
    assert cage.host.poll() is None


def http(*parts: bytes) -> Callable[[socket.socket], object]:
    """A guest that opens every stream and answers any request with these bytes."""

    def answer(connection: socket.socket) -> None:
        reply(connection)
        connection.sendall(frame({}))
        connection.recv(4096)
        for part in parts:
            connection.sendall(part)

    return answer


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WRONG_CONTROL: dict[str, Callable[[socket.socket], object]] = {
    "no HTTP": http(pattern(100_000)),
    "headers without end": http(OK, *([b"A: b\r\n" * 10_000] * 100)),
    "a body without end": http(OK, b"\r\n", *([b"x" * 1_000_000] * 100)),
    "no JSON": http(OK, b"Content-Length: 1\r\n\r\n{"),
    "other JSON": http(OK, b"Content-Length: 2\r\n\r\n[]"),
    "an unknown status": http(OK, b'Content-Length: 15\r\n\r\n{"status":"ok"}'),
    "control characters": http(
        OK, b'\r\n{"status":"down","app":{"restarts":-1},"ports":[{"port":1,"error":"\\u001b[2J"}]}'
    ),
    "a redirect": http(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n"),
    "metrics that are none": http(OK, b"\r\ncage_host_info 7\nfoo{\n\x00\xff 1\n# TYPE x y z\n"),
}


@pytest.mark.parametrize("answer", WRONG_CONTROL.values(), ids=WRONG_CONTROL.keys())
def test_a_guest_whose_control_answers_are_wrong(
    cage: Cage, answer: Callable[[socket.socket], object]
) -> None:
    with unix_server(f"{cage.shared}/guest", answer):
        cage.start_host()
        cage.host.until("admin: ")
        health = cage.admin("/health")
        assert health.status == 503
        metrics = cage.admin("/metrics")
        assert metrics.status == 200
        assert b"\x1b" not in health.body + metrics.body
        assert b"cage_host_info 7" not in metrics.body
        assert b"\xff" not in metrics.body
        done = cage.outside.run("/cage-host", "health", "--guest", cage.guest_url)
        assert done.returncode == 1
        assert "\x1b" not in done.stdout + done.stderr


HOST_HELLOS = {
    **HELLOS,
    "ingress": hello("ingress", port=WEB),
    "control": hello("control"),
    "a name that no rule allows": hello("egress", host="other.test", port=80),
    "a port that no rule allows": hello("egress", host="public.test", port=81),
    "an address": hello("egress", host=PUBLIC, port=80),
    "the host itself": hello("egress", host="127.0.0.1", port=ADMIN),
    "the host by another name": hello("egress", host="::ffff:127.0.0.1", port=ADMIN),
    "localhost": hello("egress", host="localhost", port=80),
    "metadata": hello("egress", host="169.254.169.254", port=80),
    "a name with NUL": hello("egress", host="public.test\0.wild.test", port=80),
    "an empty label": hello("egress", host="a..wild.test", port=80),
    "a long name": hello("egress", host="a" * 300 + ".wild.test", port=80),
    "a name with a slash": hello("egress", host="a/b.wild.test", port=80),
    "no name": hello("egress", port=80),
}


def test_a_hostile_guest_does_not_hurt_the_host(cage: Cage) -> None:
    cage.start()
    reached: list[int] = []
    with contextlib.ExitStack() as stack:
        for address in ("127.0.0.1", PUBLIC, "169.254.169.254"):
            stack.enter_context(serving_at(cage.outside, address, 80, lambda _: reached.append(1)))
        streams = send_each(f"{cage.shared}/host", HOST_HELLOS.values(), 10)
        assert cage.ask("GET", "/bytes?count=4").body == pattern(4)
        for stream in streams:
            if answer := ends(stream):
                found = json.loads(answer[2:])
                assert found.get("code") or "unix_ns" in found, found
    assert reached == []
    assert cage.host.poll() is None
    assert {*cage.zone.asked} <= {"public.test"}


# Peers that end in mid-stream.


def test_a_client_that_is_gone_is_gone_for_the_app(cage: Cage) -> None:
    """The app writes without end; it is told when nobody is there any more."""
    cage.start()
    client = cage.connect()
    client.sendall(b"GET /bytes?count=100000000000 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert read_exactly(client, 1_000_000)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    cage.until_metric("cage_host_ingress_open", 0)
    established = ("ss", "-Htn", "state", "established", f"( sport = :{WEB} )")
    assert_soon(lambda: cage.inside.output(*established) == "")


@pytest.mark.parametrize("who", ["app", "guest", "host"])
def test_a_program_that_is_killed_breaks_the_stream_off(cage: Cage, who: str) -> None:
    """Of a data plane that is killed the host knows; a killed process's own ends look orderly."""
    cage.start()
    with cage.connect(RAW) as client:
        client.sendall(b"x" * 1000)
        assert read_exactly(client, 1000) == b"x" * 1000
        program = {"app": cage.app, "guest": cage.guest, "host": cage.host}[who]
        program.kill()
        program.ended()
        if who == "guest":
            with pytest.raises(ConnectionResetError):
                read_all(client)
        else:
            with contextlib.suppress(ConnectionResetError):
                json.loads(read_all(client) or b"{}")


@pytest.mark.parametrize("who", ["app", "guest", "host"])
def test_a_program_that_is_started_again_works_again(cage: Cage, who: str) -> None:
    cage.start()
    with serving_at(cage.outside, PUBLIC, 80, after_all(b"here")):
        before = cage.ask("GET", "/lookup?name=public.test").json()["addresses"]
        for _ in range(3):
            match who:
                case "app":
                    cage.app.kill()
                    cage.app.ended()
                    cage.start_app()
                case "guest":
                    cage.guest.kill()
                    cage.guest.ended()
                    cage.start_guest()
                    cage.guest_listens()
                case _:
                    cage.host.kill()
                    cage.host.ended()
                    cage.start_host()
            cage.await_web()
            assert cage.ask("GET", "/bytes?count=4").body == pattern(4)
            assert cage.dial("public.test:80").body == b"here"
            assert cage.ask("GET", "/lookup?name=public.test").json()["addresses"] == before


def test_an_app_that_does_not_listen(cage: Cage) -> None:
    cage.start_host()
    cage.start_guest()
    cage.guest_listens()
    cage.host.until("clients: ")
    for _ in range(10):
        with contextlib.suppress(ConnectionResetError), cage.connect() as client:
            assert read_all(client) == b""
    cage.start_app()
    cage.await_healthy()
    assert cage.ask("GET", "/bytes?count=4").body == pattern(4)


def test_a_thousand_egress_connections_opened_and_dropped(cage: Cage) -> None:
    cage.start()
    with serving_at(cage.outside, PUBLIC, 80, lambda connection: connection.recv(1)):
        address = cage.ask("GET", "/lookup?name=public.test").json()["addresses"][0]
        for number in range(1000):
            client = connect(cage.inside, address, 80)
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        cage.until_metric("cage_host_egress_open", 0)
        cage.until_metric("cage_egress_connections", 0)
    with serving_at(cage.outside, PUBLIC, 80, after_all(b"here")):
        assert cage.dial("public.test:80").body == b"here"


def test_idle_clients_take_no_place_of_others(cage: Cage) -> None:
    cage.start()
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(cage.connect(RAW))
        assert cage.ask("GET", "/bytes?count=4").body == pattern(4)
        cage.until_metric("cage_host_ingress_open", 500)
    cage.until_metric("cage_host_ingress_open", 0)


def test_more_clients_than_the_host_may_have(cage: Cage) -> None:
    cage.start_app()
    cage.start_host("--max-connections", "10")
    cage.start_guest()
    cage.await_healthy()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(cage.connect(RAW)) for _ in range(10)]
        for client in held:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        with cage.connect(RAW) as one_more:
            one_more.settimeout(1)
            with contextlib.suppress(OSError):
                one_more.sendall(b"x")
                assert one_more.recv(1) == b""
        for client in held:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
    cage.until_metric("cage_host_ingress_open", 0)
    assert request(cage.connect(), "GET", "/bytes?count=4").body == pattern(4)

"""What clients and the app have from the data plane, the same on every transport."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support import emulator
from tests.support.data_plane import (
    OTHER,
    PRIVATE,
    PUBLIC,
    PUBLIC6,
    RAW,
    WEB,
    Cage,
    Programs,
    Transport,
    Wanted,
    build_programs,
    egress,
    ingress,
)
from tests.support.data_plane_clients import (
    PATIENCE,
    WebSocket,
    after_all,
    pattern,
    read_all,
    read_exactly,
    request,
    serving_at,
)
from tests.support.enclave_cage import EnclaveCage
from tests.support.runtime import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

MIB = 1 << 20
LARGE = 64 * MIB
RULES = (
    *("public.test:80", "public.test:81", "*.wild.test:80", f"{PUBLIC}:80", f"{OTHER}:83"),
    *(f"[{PUBLIC6}]:80", "10.1.0.0/16:85"),
)
WANTED = Wanted(ingress=[ingress(WEB), ingress(RAW)], egress=egress(*RULES))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build_programs(tmp_path_factory)


@pytest.fixture(
    scope="module", params=["unix", "tcp", pytest.param("vsock", marks=emulator.needs_emulator)]
)
def cage(
    programs: Programs, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Cage]:
    folder = tmp_path_factory.mktemp("cage")
    with make_cage(folder, programs, request.param) as made:
        made.zone.addresses["a.wild.test"] = [OTHER]
        made.zone.addresses["six.wild.test"] = [PUBLIC6]
        made.start()
        yield made


def make_cage(folder: Path, programs: Programs, transport: Transport) -> Cage:
    if transport == "vsock":
        return EnclaveCage(folder, programs, WANTED)
    return Cage(folder, programs, WANTED, transport)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Ingress: HTTP.


def test_a_request_and_its_answer(cage: Cage) -> None:
    answer = cage.ask("POST", "/request?a=b", b"body", **{"X-Of-Test": "yes"})
    said = answer.json()
    assert (said["method"], said["bytes"], said["sha256"]) == ("POST", 4, digest(b"body"))
    assert said["headers"]["X-Of-Test"] == ["yes"]
    assert said["peer"].startswith("127.0.0.1:")


def test_a_body_without_content_length_arrives(cage: Cage) -> None:
    parts = [b"x" * size for size in (1, 4096, 70_000)]
    said = cage.ask("POST", "/request", iter(parts)).json()
    assert said["encoding"] == ["chunked"]
    assert (said["bytes"], said["sha256"]) == (74_097, digest(b"".join(parts)))


def test_headers_that_are_there_twice_stay_two(cage: Cage) -> None:
    with cage.connect() as client:
        client.sendall(
            b"GET /request HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            b"X-Twice: 1\r\nX-Twice: 2\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"
        )
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.count(b"\r\nSet-Cookie: ") == 2
    headers = json.loads(body)["headers"]
    assert headers["X-Twice"] == ["1", "2"]
    assert headers["Cookie"] == ["a=1", "b=2"]


def test_a_chunk_of_an_answer_comes_before_the_next_one_is_made(cage: Cage) -> None:
    with cage.connect() as client:
        client.sendall(b"GET /drip?key=chunk HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        seen = b""
        while b"first\n" not in seen:
            seen += client.recv(4096)
        assert b"second" not in seen
        assert cage.ask("POST", "/release?key=chunk").status == 200
        assert b"second\n" in read_all(client)


def test_an_echo_in_lockstep_over_one_request(cage: Cage) -> None:
    """Both directions of one connection at once, each part answered before the next is sent."""
    with cage.connect() as client:
        client.sendall(
            b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n"
        )
        for number in range(20):
            part = b"part %02d;" % number
            client.sendall(b"8\r\n" + part + b"\r\n")
            seen = b""
            while part not in seen:
                more = client.recv(4096)
                assert more
                seen += more
        client.sendall(b"0\r\n\r\n")
        assert read_all(client).endswith(b"0\r\n\r\n")


def test_many_requests_over_one_connection(cage: Cage) -> None:
    with cage.connect() as client:
        for number in range(100):
            client.sendall(b"GET /bytes?count=%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += read_exactly(client, 1)
            assert b"Content-Length: %d\r\n" % number in head
            assert read_exactly(client, number) == pattern(number)


def test_web_sockets(cage: Cage) -> None:
    with cage.connect() as connection:
        web_socket = WebSocket(connection, "/websocket")
        for message in (b"", b"hello", bytes(range(125))):
            web_socket.send(message)
            assert web_socket.receive() == message


def test_http_2_with_prior_knowledge(cage: Cage) -> None:
    said = cage.outside.output(
        *("curl", "--silent", "--show-error", "--http2-prior-knowledge", "--data-binary", "body"),
        f"http://127.0.0.1:{WEB}/request",
    )
    assert json.loads(said)["protocol"] == "HTTP/2.0"
    assert json.loads(said)["bytes"] == 4


def test_http_2_with_many_streams(cage: Cage) -> None:
    urls = [f"http://127.0.0.1:{WEB}/bytes?count={100_000 + number}" for number in range(20)]
    said = cage.outside.output("nghttp", "--stat", "--null-out", *urls)
    assert said.count(" 200 ") == 20


def test_a_large_upload(cage: Cage) -> None:
    data = pattern(LARGE)
    said = cage.ask("POST", "/request", data).json()
    assert (said["bytes"], said["sha256"]) == (LARGE, digest(data))


def test_a_large_download(cage: Cage) -> None:
    answer = cage.ask("GET", f"/bytes?count={LARGE}")
    assert answer.body == pattern(LARGE)


# Ingress: plain TCP.


def send_in_background(client: socket.socket, data: bytes) -> threading.Thread:
    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def split_report(answer: bytes, size: int) -> tuple[bytes, dict[str, object]]:
    return answer[:size], json.loads(answer[size:])


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65_536, 1_000_000])
def test_a_first_payload_of_any_size_and_a_half_closed_connection(cage: Cage, size: int) -> None:
    """The app says how much it was only after the client's end, and the client still hears it."""
    data = pattern(size)
    with cage.connect(RAW) as client:
        sending = send_in_background(client, data)
        echoed, report = split_report(read_all(client), size)
        sending.join()
    assert echoed == data
    assert report == {"bytes": size, "sha256": digest(data)}


def test_64_mib_both_ways_at_once(cage: Cage) -> None:
    data = pattern(LARGE)
    with cage.connect(RAW) as client:
        sending = send_in_background(client, data)
        echoed, report = split_report(read_all(client), LARGE)
        sending.join()
    assert echoed == data
    assert report == {"bytes": LARGE, "sha256": digest(data)}


def test_a_client_that_does_not_read_holds_up_nobody_and_loses_nothing(cage: Cage) -> None:
    data = pattern(8 * MIB)
    with cage.connect(RAW) as stalled:
        sending = send_in_background(stalled, data)
        # Everything on the way is full now or will be; others are served.
        for _ in range(10):
            assert cage.ask("GET", "/bytes?count=100000").body == pattern(100_000)
        echoed, report = split_report(read_all(stalled), len(data))
        sending.join()
    assert echoed == data
    assert report["bytes"] == len(data)


def test_a_hundred_connections_at_once(cage: Cage) -> None:
    data = pattern(100_000)
    together = threading.Barrier(100)

    def client(number: int) -> bool:
        mine = data[number:]
        with cage.connect(RAW) as connection:
            together.wait(PATIENCE)  # all are open now
            sending = send_in_background(connection, mine)
            echoed, report = split_report(read_all(connection), len(mine))
            sending.join()
            return echoed == mine and report["sha256"] == digest(mine)

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(client, range(100)))


def test_connections_that_are_dropped_leave_nothing(cage: Cage) -> None:
    for number in range(1000):
        client = cage.connect(RAW if number % 2 else WEB)
        if number % 3 == 0:
            client.sendall(b"GET /bytes?count=1000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        if number % 5 == 0:
            # A reset instead of an end.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    assert cage.ask("GET", "/bytes?count=3").body == pattern(3)
    cage.until_metric("cage_host_ingress_open", 0)


# Egress.


def test_egress_by_name(cage: Cage) -> None:
    with serving_at(cage.outside, PUBLIC, 80, after_all(b"public ")):
        assert cage.dial("public.test:80", b"question").body == b"public question"
        assert cage.dial("PUBLIC.Test.:80", b"question").body == b"public question"


def test_the_name_is_resolved_outside_for_each_connection(cage: Cage) -> None:
    cage.zone.addresses["moving.wild.test"] = [PUBLIC]
    with (
        serving_at(cage.outside, PUBLIC, 80, after_all(b"one ")),
        serving_at(cage.outside, OTHER, 80, after_all(b"two ")),
    ):
        first = cage.ask("GET", "/lookup?name=moving.wild.test").json()["addresses"]
        assert cage.dial("moving.wild.test:80").body == b"one "
        cage.zone.addresses["moving.wild.test"] = [OTHER]
        # An old address is as good as it was.
        assert cage.dial(f"{first[0]}:80").body == b"two "
        assert cage.dial("moving.wild.test:80").body == b"two "
        assert cage.ask("GET", "/lookup?name=moving.wild.test").json()["addresses"] == first


def test_egress_to_wildcards_addresses_and_networks(cage: Cage) -> None:
    for host, port, target in (
        (OTHER, 80, "a.wild.test:80"),
        (PUBLIC6, 80, "six.wild.test:80"),
        (PUBLIC, 80, f"{PUBLIC}:80"),
        (OTHER, 83, f"{OTHER}:83"),
        (PUBLIC6, 80, f"[{PUBLIC6}]:80"),
        (PRIVATE, 85, f"{PRIVATE}:85"),
    ):
        with serving_at(cage.outside, host, port, after_all(b"here ")):
            answer = cage.dial(target, b"question")
            assert (target, answer.body) == (target, b"here question")


@pytest.mark.parametrize(
    "target",
    [
        *("public.test:82", "other.test:80", "wild.test:80", "evilwild.test:80", "test:80"),
        *("a.wild.test:81", f"{OTHER}:80", f"{PUBLIC}:81", "10.2.0.1:85", "169.254.169.254:80"),
        *("public.test.evil.test:80", "localhost.wild.example:80"),
    ],
)
def test_what_no_rule_allows_does_not_leave(cage: Cage, target: str) -> None:
    host, _, port = target.rpartition(":")
    reached = []
    asked = len(cage.zone.asked)
    with contextlib.ExitStack() as stack:
        for address in {PUBLIC, OTHER, host if host[0].isdigit() else PUBLIC}:
            with contextlib.suppress(OSError):  # the internet of the test doesn't have it
                stack.enter_context(
                    serving_at(cage.outside, address, int(port), lambda _: reached.append(1))
                )
        answer = cage.dial(target)
    assert answer.status == 502, answer.body
    assert reached == []
    assert len(cage.zone.asked) == asked


def test_a_name_that_no_rule_allows_does_not_exist(cage: Cage) -> None:
    said = cage.ask("GET", "/lookup?name=other.test").json()
    assert said["addresses"] is None
    assert "no such host" in said["error"]


def test_large_transfers_out_and_back(cage: Cage) -> None:
    data = pattern(LARGE)

    def report(connection: socket.socket) -> None:
        hashed = hashlib.sha256()
        while part := connection.recv(MIB):
            hashed.update(part)
        connection.sendall(hashed.digest() + data)

    with serving_at(cage.outside, PUBLIC, 80, report):
        answer = cage.dial("public.test:80", data)
    assert answer.status == 200, answer.body
    assert answer.body[:32] == hashlib.sha256(data).digest()
    assert answer.body[32:] == data


def test_a_server_that_does_not_read_holds_up_nobody_and_loses_nothing(cage: Cage) -> None:
    data = pattern(8 * MIB)
    goes_on = threading.Event()

    def stall(connection: socket.socket) -> None:
        goes_on.wait(PATIENCE)
        connection.sendall(hashlib.sha256(read_all(connection)).digest())

    with (
        serving_at(cage.outside, PUBLIC, 81, stall),
        serving_at(cage.outside, PUBLIC, 80, after_all(b"")),
        ThreadPoolExecutor(1) as pool,
    ):
        stalled = pool.submit(cage.dial, "public.test:81", data)
        for _ in range(10):
            assert cage.dial("public.test:80", data[:100_000]).body == data[:100_000]
        assert not stalled.done()
        goes_on.set()
        assert stalled.result().body == hashlib.sha256(data).digest()


def test_a_server_that_breaks_off_is_seen_as_that(cage: Cage) -> None:
    def break_off(connection: socket.socket) -> None:
        read_exactly(connection, 1)
        connection.sendall(b"a part")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving_at(cage.outside, PUBLIC, 80, break_off):
        answer = cage.dial("public.test:80&open=1", b"x")
    assert answer.status == 502, answer.body


# The host ends, and another one is there.


def test_a_new_host_takes_over(cage: Cage) -> None:
    with serving_at(cage.outside, PUBLIC, 80, after_all(b"public ")):
        assert cage.dial("public.test:80").body == b"public "
        cage.host.kill()
        cage.host.ended()
        cage.start_host()
        cage.await_web()
        assert cage.dial("public.test:80").body == b"public "
        assert request(cage.connect(), "GET", "/bytes?count=5").body == pattern(5)

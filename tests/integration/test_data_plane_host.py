"""What cage-host has for whoever runs a cage: ports, client addresses, health, metrics, the end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.data_plane import (
    PUBLIC,
    PUBLIC6,
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
    after_all,
    connect,
    pattern,
    read_all,
    read_exactly,
    request,
    serving_at,
)
from tests.support.nsm_device import check_document
from tests.support.runtime import assert_soon, needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

PROXIED = 7100
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build_programs(tmp_path_factory)


@pytest.fixture
def cage(programs: Programs, tmp_path: Path) -> Iterator[Cage]:
    ports = [ingress(WEB, health="/healthz"), ingress(RAW), ingress(PROXIED, proxy_protocol=True)]
    with Cage(tmp_path, programs, Wanted(ingress=ports, egress=egress("public.test:80"))) as made:
        yield made


# Ports and addresses.


def proxy_header(peer: tuple[str, int], local: tuple[str, int]) -> bytes:
    """Version 2, a proxied stream (haproxy: doc/proxy-protocol.txt, section 2.2)."""
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, host) for host, _ in (peer, local))
    addresses += struct.pack(">HH", peer[1], local[1])
    kind = 0x21 if family == socket.AF_INET6 else 0x11
    return SIGNATURE + struct.pack(">BBH", 0x21, kind, len(addresses)) + addresses


@pytest.mark.parametrize("host", ["127.0.0.1", PUBLIC, PUBLIC6, "::1"])
def test_the_app_sees_the_client_s_address(cage: Cage, host: str) -> None:
    with serving_at(cage.inside, "127.0.0.1", PROXIED, after_all(b"")):
        cage.start()
        with connect(cage.outside, host, PROXIED) as client:
            own = client.getsockname()[:2]
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == proxy_header(own, (host, PROXIED)) + b"hello"


def test_a_load_balancer_says_whose_connection_it_is(cage: Cage) -> None:
    with serving_at(cage.inside, "127.0.0.1", PROXIED, after_all(b"")):
        cage.start_app()
        cage.start_guest()
        cage.start_host("--accept-proxy-protocol")
        cage.guest_listens()
        cage.host.until("clients: ")
        header = proxy_header(("192.0.2.7", 4711), ("192.0.2.1", 443))
        for first in (len(header), 1, 20):
            with cage.connect(PROXIED) as client:
                client.sendall(header[:first])
                client.sendall(header[first:] + b"hello")
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == header + b"hello"
        with cage.connect(PROXIED) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 10)
            with pytest.raises(ConnectionResetError):
                read_all(client)


def test_ports_are_published_where_the_operator_wants(cage: Cage) -> None:
    cage.start_app()
    cage.start_guest()
    socket_file = cage.shared / "clients"
    cage.start_host("--publish", f"{PUBLIC}:80={WEB}", "--publish", f"unix://{socket_file}={RAW}")
    cage.host.until("clients: ")
    with serving_at(cage.inside, "127.0.0.1", PROXIED, after_all(b"")):
        cage.guest_listens()
    client = connect(cage.outside, PUBLIC, 80)
    assert request(client, "GET", "/bytes?count=4").body == pattern(4)
    with pytest.raises(ConnectionRefusedError):
        cage.connect(WEB)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(str(socket_file))
        unix.sendall(b"x")
        unix.shutdown(socket.SHUT_WR)
        assert json.loads(read_all(unix)[1:])["bytes"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--publish", "22"), "the cage has no port 22: it has 8080, 7000, 7100"),
        (("--publish", "x=8080"), "neither a URL nor ADDRESS:PORT"),
        (("--listen", "vsock://any:10016"), "CID"),
        (("--guest", "unix://relative"), "absolute"),
        (("--eif", "/etc/hostname"), "/etc/hostname"),
    ],
)
def test_mistakes_of_the_operator(cage: Cage, words: tuple[str, ...], said: str) -> None:
    cage.start_host(*words)
    assert cage.host.ended() in {1, 2}
    assert said in "\n".join(cage.host.lines)


# Health.


def test_health_as_a_load_balancer_sees_it(cage: Cage) -> None:
    cage.start_host()
    cage.host.until("admin: ")
    assert cage.admin("/health").status == 503
    cage.start_guest()
    assert_soon(lambda: cage.admin("/ready").status == 200)
    # The app isn't there yet.
    assert cage.admin("/health").status == 503
    with serving_at(cage.inside, "127.0.0.1", PROXIED, after_all(b"")):
        cage.start_app()
        cage.await_healthy()
        assert cage.ask("POST", "/healthz?status=500").status == 200
        assert_soon(lambda: cage.admin("/health").status == 503)
        said = cage.admin("/health").body.decode()
        assert f"port {WEB}: not healthy" in said
        assert "500" in said
        assert f"port {RAW}: healthy" in said
        assert cage.ask("POST", "/healthz?status=204").status == 200
        cage.await_healthy()
        cage.guest.kill()
        cage.guest.ended()
        assert_soon(lambda: cage.admin("/ready").status == 503)
    done = cage.outside.run("/cage-host", "health", "--guest", cage.guest_url)
    assert done.returncode == 1


# Metrics.


def test_metrics_count_what_went_through(cage: Cage) -> None:
    cage.start()
    before = cage.metric("cage_ingress_connections_total")
    for _ in range(3):
        with cage.connect(RAW) as client:
            client.sendall(b"x" * 1000)
            client.shutdown(socket.SHUT_WR)
            answered = len(read_all(client))
    cage.until_metric("cage_host_ingress_open", 0)
    text = cage.admin("/metrics").body.decode()
    # The bytes of a port are counted at a connection's end; this port had no others.
    cage.until_metric_line(f'cage_ingress_bytes_total{{port="{RAW}",direction="in"}} 3000')
    cage.until_metric_line(
        f'cage_ingress_bytes_total{{port="{RAW}",direction="out"}} {3 * answered}'
    )
    assert cage.metric("cage_ingress_connections_total") == before + 3
    assert f'cage_host_ingress_connections_total{{port="{RAW}",result="ok"}} 3' in text
    with serving_at(cage.outside, PUBLIC, 80, after_all(b"12345")):
        assert cage.dial("public.test:80", b"x" * 100).body == b"12345" + b"x" * 100
    cage.dial("other.test:80")
    cage.until_metric_line('cage_egress_bytes_total{direction="out"} 100')
    cage.until_metric_line('cage_egress_bytes_total{direction="in"} 105')
    cage.until_metric_line('cage_host_egress_bytes_total{way="out"} 100')
    cage.until_metric_line('cage_host_egress_bytes_total{way="in"} 105')
    assert cage.metric("cage_egress_connections_total") == 1
    assert cage.metric("cage_egress_names_denied_total") >= 1


def test_no_metric_is_there_twice(cage: Cage) -> None:
    """Prometheus refuses a page where a series or its type comes twice."""
    cage.start()
    lines = cage.admin("/metrics").body.decode().splitlines()
    names = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    types = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len({*names}) == len(names) > 20
    assert len({*types}) == len(types)


# Attestation and the local API.


def test_attestation_for_the_operator(cage: Cage) -> None:
    cage.start()
    nonce = os.urandom(20)
    target = cage.shared / "document"
    cage.outside.output(
        *("/cage-host", "attestation", "--guest", cage.guest_url),
        *("--nonce", nonce.hex(), "-o", str(target)),
    )
    found = check_document(target.read_bytes(), cage.device.root)
    assert found["nonce"] == nonce


def test_attestation_for_the_app(cage: Cage) -> None:
    cage.start()
    given = {"nonce": "AQIDBA==", "public_key": "BQY=", "user_data": "Bwg="}
    answer = cage.ask(
        "POST", "/local?method=POST&path=/attestation",
        json.dumps(given).encode(), **{"Content-Type": "application/json"},
    )  # fmt: skip
    assert answer.status == 200, answer.body
    found = check_document(answer.body, cage.device.root)
    assert (found["nonce"], found["public_key"], found["user_data"]) == (
        b"\x01\x02\x03\x04",
        b"\x05\x06",
        b"\x07\x08",
    )
    pcrs = cage.ask("POST", "/local?method=GET&path=/pcrs").json()
    assert cage.device.pcrs[0].hex() in json.dumps(pcrs)
    assert cage.ask("POST", "/local?method=GET&path=/metrics").status == 200


# The log.


def test_the_log_stays_inside_unless_the_settings_say_otherwise(cage: Cage) -> None:
    cage.start()
    done = cage.outside.run("/cage-host", "logs", "--guest", cage.guest_url)
    assert done.returncode == 1
    assert "inside" in done.stderr


# The end.


def is_refused(cage: Cage) -> bool:
    """Whether a new client gets no answer of the app any more."""
    try:
        return cage.ask("GET", "/bytes?count=1").body != pattern(1)
    except (OSError, http.client.HTTPException):
        return True


def test_clients_are_served_to_their_end(cage: Cage) -> None:
    cage.start()
    with cage.connect(RAW) as client:
        client.sendall(b"before")
        assert read_exactly(client, 6) == b"before"
        cage.host.terminate()
        cage.host.until("ending")
        assert_soon(lambda: is_refused(cage))
        client.sendall(b"after")
        client.shutdown(socket.SHUT_WR)
        answer = read_all(client)
        assert answer.startswith(b"after")
        assert json.loads(answer[5:])["bytes"] == 11
    assert cage.host.ended() == 0


def test_clients_that_stay_too_long_are_cut_off(cage: Cage) -> None:
    cage.start_app()
    cage.start_guest()
    cage.start_host("--drain-timeout", "100ms")
    cage.await_web()
    with cage.connect(RAW) as client:
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
        assert cage.host.stop() == 0
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_second_signal_ends_the_host_at_once(cage: Cage) -> None:
    cage.start()
    with cage.connect(RAW) as client:
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
        cage.host.terminate()
        cage.host.until("ending in order")
        cage.host.send_signal(signal.SIGINT)
        assert cage.host.ended() == 0


def test_the_guest_drains_too(cage: Cage) -> None:
    cage.start()
    with cage.connect(RAW) as client:
        client.sendall(b"before")
        assert read_exactly(client, 6) == b"before"
        stopping = threading.Thread(target=cage.guest.stop)
        stopping.start()
        assert_soon(lambda: is_refused(cage))
        client.sendall(b"after")
        client.shutdown(socket.SHUT_WR)
        answer = read_all(client)
        stopping.join()
        assert answer.startswith(b"after")
        assert json.loads(answer[5:])["bytes"] == 11
    assert cage.guest.returncode == 0

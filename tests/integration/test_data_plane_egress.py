"""Egress with programs that people use, and what it refuses, rule by rule."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import make_certificates
from tests.support.data_plane import (
    METADATA,
    OTHER,
    PRIVATE,
    PUBLIC,
    PUBLIC6,
    WEB,
    Cage,
    Programs,
    Wanted,
    build_programs,
    egress,
    ingress,
)
from tests.support.data_plane_clients import after_all, connect, serving_at
from tests.support.namespaces import Program
from tests.support.runtime import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

REDIS, TLS = 6379, 8443
RULES = (
    f"public.test:{REDIS}", f"public.test:{TLS}", "public.test:80", "*.wild.test:80",
    "xn--bcher-kva.test:80", "inner.test:80", "inner.test:90", "metadata.test:80",
    f"{PRIVATE}:90", f"{OTHER}:80", "mixed.test:80", "8.0.0.0/6:80",
)  # fmt: skip
NAMES = {
    "public.test": [PUBLIC, PUBLIC6],
    "a.wild.test": [PUBLIC],
    "b.a.wild.test": [PUBLIC],
    "xn--bcher-kva.test": [PUBLIC],
    "inner.test": [PRIVATE],
    "metadata.test": [METADATA],
    "mixed.test": [METADATA, PRIVATE, PUBLIC],
    "other.test": [OTHER],
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build_programs(tmp_path_factory)


@pytest.fixture(scope="module")
def cage(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cage]:
    wanted = Wanted(ingress=[ingress(WEB)], egress=egress(*RULES))
    with Cage(tmp_path_factory.mktemp("cage"), programs, wanted) as made:
        made.zone.addresses.update(NAMES)
        made.start()
        yield made


def addresses(text: str) -> list[str]:
    return re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)


def is_of_the_pool(address: str) -> bool:
    first, second, *_ = map(int, address.split("."))
    return first == 127 and 64 <= second < 128


# Resolvers.


@pytest.mark.parametrize("over", ["+notcp", "+tcp"])
def test_dig(cage: Cage, over: str) -> None:
    dig = ("dig", over, "+tries=1", "+time=20")
    said = cage.inside.output(*dig, "public.test")
    assert "status: NOERROR" in said
    assert "ANSWER: 1" in said
    (address,) = addresses(cage.inside.output(*dig, "+short", "public.test"))
    assert is_of_the_pool(address)
    assert cage.inside.output(*dig, "+short", "PUBLIC.test.").split() == [address]
    assert cage.inside.output(*dig, "+short", "-x", address).split() == ["public.test."]
    # It is there, without such an address.
    empty = cage.inside.output(*dig, "public.test", "AAAA")
    assert "status: NOERROR" in empty
    assert "ANSWER: 0" in empty
    assert "status: NXDOMAIN" in cage.inside.output(*dig, "other.test")
    assert "status: NXDOMAIN" in cage.inside.output(*dig, "wild.test")


def test_dig_with_cookies_and_small_buffers(cage: Cage) -> None:
    said = cage.inside.output("dig", "+cookie", "+bufsize=512", "+dnssec", "a.wild.test")
    assert "status: NOERROR" in said
    assert len(addresses(said.partition("ANSWER SECTION")[2].partition("\n\n")[0])) == 1


def test_names_have_addresses_of_their_own_that_stay(cage: Cage) -> None:
    names = ("public.test", "a.wild.test", "b.a.wild.test", "xn--bcher-kva.test")
    found = [cage.inside.output("dig", "+short", name).strip() for name in names]
    assert len({*found}) == len(names)
    assert all(map(is_of_the_pool, found))
    assert found == [cage.inside.output("dig", "+short", name).strip() for name in names]


def test_the_c_library_s_resolver(cage: Cage) -> None:
    (address,) = addresses(cage.inside.output("getent", "ahostsv4", "public.test").splitlines()[0])
    assert is_of_the_pool(address)
    assert addresses(cage.inside.output("getent", "hosts", address)) == [address]
    assert addresses(cage.inside.output("getent", "ahosts", "a.wild.test"))[0] != address
    assert cage.inside.run("getent", "hosts", "other.test").returncode == 2


def test_go_s_resolver(cage: Cage) -> None:
    (address,) = addresses(cage.inside.output("/app", "lookup", "public.test"))
    assert is_of_the_pool(address)
    assert "no such host" in cage.inside.run("/app", "lookup", "other.test").stderr


def test_busybox_s_resolver(cage: Cage) -> None:
    said = cage.inside.output("busybox", "nslookup", "-type=a", "public.test", "127.0.0.1")
    assert any(map(is_of_the_pool, addresses(said)))


def test_what_is_refused_gets_a_line(cage: Cage) -> None:
    since = len(cage.guest.lines)
    cage.inside.run("getent", "ahostsv4", "never.seen.test")
    cage.guest.until("never.seen.test", since=since)
    assert "never.seen.test" not in cage.zone.asked


# Programs.


def test_redis(cage: Cage) -> None:
    redis = ("redis-server", "--port", str(REDIS), "--bind", PUBLIC, "--save", "",
             "--daemonize", "no", "--protected-mode", "no", "--dir", "/run")  # fmt: skip
    with Program(cage.outside, *redis) as server:
        server.until("Ready to accept connections")
        client = ("redis-cli", "-h", "public.test")
        assert cage.inside.output(*client, "set", "key", "value") == "OK\n"
        assert cage.inside.output(*client, "get", "key") == "value\n"
        said = cage.inside.output(*client, "--pipe", input="".join(
            f"set {number} {'x' * 100}\r\n" for number in range(20_000)), stdin=None)  # fmt: skip
        assert "errors: 0, replies: 20000" in said
        assert cage.inside.output(*client, "dbsize") == "20001\n"
        bench = (
            "redis-benchmark",
            "-h",
            "public.test",
            "-c",
            "50",
            "-n",
            "5000",
            "-q",
            "-t",
            "get",
        )
        assert "requests per second" in cage.inside.output(*bench)


def test_tls_by_name(cage: Cage, tmp_path: Path) -> None:
    """The certificate is checked by the name in the URL: the app needs no proxy settings."""
    made = make_certificates(cage.shared, names=("public.test",))
    openssl = (
        "openssl",
        "s_server",
        "-accept",
        f"{PUBLIC}:{TLS}",
        "-cert",
        str(made.server),
        "-www",
    )
    with Program(cage.outside, *openssl) as server:
        server.until("ACCEPT")
        curl = ("curl", "--silent", "--show-error", "--cacert", str(made.authority))
        said = cage.inside.output(*curl, f"https://public.test:{TLS}/")
        assert "Cipher" in said
        # The other end is the server itself, not somebody on the way.
        assert cage.inside.run(*curl, f"https://a.wild.test:{TLS}/").returncode != 0


def test_curl_with_an_idn(cage: Cage) -> None:
    with serving_at(cage.outside, PUBLIC, 80, http_hello):
        curl = ("curl", "--silent", "--show-error")
        said = cage.inside.output(*curl, "http://bücher.test/")
        assert said == "xn--bcher-kva.test"


def http_hello(connection: socket.socket) -> None:
    """Answers a request with the name in its Host header."""
    asked = b""
    while not asked.endswith(b"\r\n\r\n"):
        more = connection.recv(4096)
        if not more:
            return
        asked += more
    found = re.search(rb"\r\nHost: ([^\r:]*)", asked)
    host = found[1] if found else b""
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(host) + host)


# Rules, one by one.


@pytest.mark.parametrize(
    ("target", "at"),
    [
        ("public.test:80", PUBLIC),
        ("Public.TEST:80", PUBLIC),
        ("public.test.:80", PUBLIC),
        ("a.wild.test:80", PUBLIC),
        ("b.a.wild.test:80", PUBLIC),
        (f"{OTHER}:80", OTHER),
        (f"{PRIVATE}:90", PRIVATE),
        ("inner.test:90", PRIVATE),  # a rule for the address and port is there, too
        ("mixed.test:80", PUBLIC),  # of its addresses, the one that isn't special
    ],
)
def test_allowed(cage: Cage, target: str, at: str) -> None:
    port = int(target.rpartition(":")[2])
    with serving_at(cage.outside, at, port, after_all(b"here ")):
        assert cage.dial(target, b"x").body == b"here x"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("inner.test:80", "special address"),
        ("metadata.test:80", "special address"),
        # 8.0.0.0/6 holds 10.1.2.3, but doesn't mean it.
        (f"{PRIVATE}:80", "special address"),
    ],
)
def test_the_host_refuses_what_leads_to_special_addresses(
    cage: Cage, target: str, said: str
) -> None:
    reached: list[int] = []
    since = len(cage.host.lines)
    with contextlib.ExitStack() as stack:
        for address in (PRIVATE, METADATA):
            stack.enter_context(serving_at(cage.outside, address, 80, lambda _: reached.append(1)))
        assert cage.dial(target).status == 502
    assert reached == []
    cage.host.until(said, since=since)


@pytest.mark.parametrize("name", ["silent.wild.test", "broken.wild.test", "missing.wild.test"])
def test_names_that_cannot_be_resolved_outside(cage: Cage, name: str) -> None:
    cage.zone.silent.add("silent.wild.test")
    cage.zone.broken.add("broken.wild.test")
    answer = cage.dial(f"{name}:80")
    assert answer.status == 502
    assert b"reset" in answer.body or b"refused" in answer.body


def test_nobody_listens_there(cage: Cage) -> None:
    assert cage.dial("public.test:80").status == 502


def test_the_app_s_own_loopback_is_not_in_the_way(cage: Cage) -> None:
    """Addresses that no name has are nobody's."""
    assert cage.dial("127.127.255.1:80").status == 502
    with pytest.raises(OSError, match=r"refused|reset"):
        connect(cage.inside, "127.99.0.1", 4444)


def test_without_rules_nothing_listens(programs: Programs, tmp_path: Path) -> None:
    with Cage(tmp_path, programs, Wanted(ingress=[ingress(WEB)])) as cage:
        cage.start()
        listening = cage.inside.output("ss", "-Hlntu")
        ports = {int(line.split()[4].rpartition(":")[2]) for line in listening.splitlines()}
        assert 53 not in ports, listening
        said = cage.ask("GET", "/lookup?name=public.test").json()
        assert said["addresses"] is None
        assert cage.dial("public.test:80").status == 502
        assert cage.zone.asked == []
        assert "127.64" not in listening

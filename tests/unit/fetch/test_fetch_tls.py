"""Trust in servers, and documents of a bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import FetchError
from cagebuild.fetch.download import download_from
from cagebuild.fetch.failure import Policy
from cagebuild.fetch.http import NotFoundError, get, location_of
from tests.support.certificates import TestCertificates, make_certificates
from tests.support.http_server import Fault, FaultyServer, faulty_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"a small document\n"
QUICK = Policy(read_timeout=0.5, rounds=2, back_off=0.01, longest_wait=0.02)
VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _no_trust_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TestCertificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def plain() -> Iterator[FaultyServer]:
    with faulty_server(CONTENT) as server:
        yield server


@pytest.fixture(scope="module")
def secure(certificates: TestCertificates, plain: FaultyServer) -> Iterator[FaultyServer]:
    with faulty_server(CONTENT, certificate=certificates.server, plain_base=plain.base) as server:
        yield server


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_ca_that_the_user_names_is_trusted(
    secure: FaultyServer,
    certificates: TestCertificates,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    monkeypatch.setenv(variable, str(certificates.authority))
    assert get(secure.url(), limit=100, policy=QUICK) == CONTENT


def test_an_unknown_ca_is_refused_with_the_way_out(secure: FaultyServer) -> None:
    with pytest.raises(FetchError, match="TLS: the certificate is not trusted") as caught:
        get(secure.url(), limit=100, policy=QUICK)
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def test_a_missing_ca_file_is_an_error(
    secure: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    with pytest.raises(FetchError, match="cannot fetch"):
        get(secure.url(), limit=100, policy=QUICK)


def test_https_is_never_left_for_http(
    secure: FaultyServer,
    plain: FaultyServer,
    certificates: TestCertificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.authority))
    plain.requests.clear()
    with pytest.raises(FetchError, match="redirected from https to http"):
        download_from(
            [location_of(secure.url("redirects to plain http"), QUICK)],
            tmp_path / "file",
            digest=Digest.of(CONTENT),
            size=None,
            limit=100,
            progress=lambda done, total: None,
            policy=QUICK,
        )
    assert not plain.requests
    assert not list(tmp_path.iterdir())


def test_plain_http_where_https_is_asked_for_is_an_error(plain: FaultyServer) -> None:
    with pytest.raises(FetchError, match="TLS: "):
        get(plain.url().replace("http:", "https:"), limit=100, policy=QUICK)


def test_a_document_is_read_up_to_its_limit_and_no_further(plain: FaultyServer) -> None:
    assert get(plain.url(), limit=len(CONTENT), policy=QUICK) == CONTENT
    with pytest.raises(FetchError, match=f"longer than the limit of {len(CONTENT) - 1} bytes"):
        get(plain.url(), limit=len(CONTENT) - 1, policy=QUICK)
    with pytest.raises(FetchError, match="longer than the limit of 1000000 bytes"):
        get(plain.url("never ends"), limit=1_000_000, policy=QUICK)


def test_a_document_that_is_not_there_can_be_told_apart(
    plain: FaultyServer, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="404 not found"):
        get(plain.url("answers 404"), limit=100, policy=QUICK)
    with pytest.raises(NotFoundError, match="no such file"):
        get((tmp_path / "absent").as_uri(), limit=100, policy=QUICK)


@pytest.mark.parametrize("fault", ["answers 500 once", "drops the connection midway once"])
def test_a_document_is_tried_again(plain: FaultyServer, fault: Fault) -> None:
    plain.requests.clear()
    assert get(plain.url(fault), limit=100, policy=QUICK) == CONTENT
    assert plain.count(fault) == 2


def test_a_document_of_a_local_mirror(tmp_path: Path) -> None:
    (tmp_path / "Release").write_bytes(CONTENT)
    assert get((tmp_path / "Release").as_uri(), limit=100) == CONTENT
    with pytest.raises(FetchError, match="longer than the limit"):
        get((tmp_path / "Release").as_uri(), limit=3)


def test_credentials_are_not_taken_to_another_host(
    plain: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A redirect keeps a password within its origin only."""
    with faulty_server(CONTENT, plain_base=plain.base) as first:
        plain.requests.clear()
        url = first.url("redirects to plain http").replace("http://", "http://joe:hunter2@")
        assert get(url, limit=100, policy=QUICK) == CONTENT
        assert "Authorization" in first.requests[0].headers
        assert "Authorization" not in plain.requests[0].headers

"""TLS through the data plane, and TLS that ends in it, attested."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import json
import os
import ssl
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tests.support.certificates import make_certificates
from tests.support.data_plane import Cage, Programs, Wanted, build_programs, ingress
from tests.support.data_plane_clients import (
    Answer,
    WebSocket,
    connect,
    over_tls,
    pattern,
    read_exactly,
    request,
)
from tests.support.namespaces import Program
from tests.support.nsm_device import check_document
from tests.support.runtime import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

PASSED, HTTP, H2C, TCP = 8443, 8081, 8082, 8083
ATTESTATION = "/.well-known/attestation"
EVIDENCE = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.35")
MIB = 1 << 20


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build_programs(tmp_path_factory)


@pytest.fixture(scope="module")
def cage(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cage]:
    wanted = Wanted(
        ingress=[
            ingress(PASSED),
            ingress(HTTP, tls="terminate", health="/healthz"),
            ingress(H2C, tls="terminate", protocol="h2c"),
            ingress(TCP, tls="terminate", protocol="tcp"),
        ]
    )
    with (
        Cage(tmp_path_factory.mktemp("cage"), programs, wanted) as made,
        contextlib.ExitStack() as apps,
    ):
        files = make_certificates(made.shared, names=("cage.test",))
        own = (str(files.server), str(files.server))
        for web, raw, keys in ((HTTP, TCP, ()), (H2C, 7002, ()), (PASSED, 7003, own)):
            words = ("/app", "serve", f"127.0.0.1:{web}", f"127.0.0.1:{raw}", *keys)
            apps.enter_context(Program(made.inside, *words)).until("ready")
        made.start_host()
        made.start_guest()
        made.await_healthy()
        yield made


def secure(cage: Cage, port: int, **context: Any) -> ssl.SSLSocket:
    return over_tls(connect(cage.outside, "127.0.0.1", port), **context)


def ask(cage: Cage, port: int, method: str, target: str, body: bytes | None = None) -> Answer:
    return request(secure(cage, port), method, target, body)


def public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def peer(connection: ssl.SSLSocket) -> x509.Certificate:
    der = connection.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der)


def curl(cage: Cage, port: int, target: str, *words: str) -> str:
    argv = ("curl", "--silent", "--show-error", *words, f"https://127.0.0.1:{port}{target}")
    return cage.outside.output(*argv)


# TLS of the app's own.


def test_tls_of_the_app_passes_through(cage: Cage) -> None:
    trust = ("--cacert", str(cage.shared / "ca.pem"))
    said = json.loads(curl(cage, PASSED, "/request", *trust))
    assert said["protocol"] == "HTTP/2.0"
    assert json.loads(curl(cage, PASSED, "/request", "--http1.1", *trust))["protocol"] == "HTTP/1.1"


# TLS that ends in the enclave.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_of_tls(cage: Cage, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    for port in (HTTP, H2C, TCP):
        with context.wrap_socket(connect(cage.outside, "127.0.0.1", port)) as connection:
            assert connection.version() == version.name.replace("_", ".")


def test_older_versions_are_refused(cage: Cage) -> None:
    words = ("openssl", "s_client", "-connect", f"127.0.0.1:{HTTP}", "-tls1_1",
             "-cipher", "ALL:@SECLEVEL=0")  # fmt: skip
    done = cage.outside.run(*words)
    assert done.returncode != 0
    assert "Cipher is (NONE)" in done.stdout


def test_http_1_to_an_app_of_http_1(cage: Cage) -> None:
    data = pattern(100_000)
    said = ask(cage, HTTP, "POST", "/request", data).json()
    assert said["protocol"] == "HTTP/1.1"
    assert said["sha256"] == hashlib.sha256(data).hexdigest()
    answer = ask(cage, HTTP, "GET", "/request")
    assert [value for name, value in answer.headers if name == "Set-Cookie"] == ["a=1", "b=2"]


@pytest.mark.parametrize(("port", "behind"), [(HTTP, "HTTP/1.1"), (H2C, "HTTP/2.0")])
def test_http_2_is_spoken_where_it_is_offered(cage: Cage, port: int, behind: str) -> None:
    words = ("--insecure", "--http2", "--data-binary", "body", "--write-out", "%{http_version}")
    said, version = curl(cage, port, "/request", *words).rsplit("\n", 1)
    assert version == "2"
    assert json.loads(said)["protocol"] == behind
    assert json.loads(said)["bytes"] == 4


def test_http_1_to_an_app_of_http_2(cage: Cage) -> None:
    said = json.loads(curl(cage, H2C, "/request", "--insecure", "--http1.1"))
    assert said["protocol"] == "HTTP/2.0"


@pytest.mark.parametrize("port", [HTTP, H2C])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_headers_and_a_body_without_length_arrive_as_sent(
    cage: Cage, port: int, version: str
) -> None:
    words = ("--insecure", version, "--header", "X-Twice: 1", "--header", "X-Twice: 2")
    url = f"https://127.0.0.1:{port}/request"
    said = json.loads(
        cage.outside.output(
            *("curl", "--silent", "--show-error", *words, "--request", "POST"),
            *("--upload-file", "-", url),
            input="x" * 200_000,
            stdin=None,
        )
    )
    assert said["headers"]["X-Twice"] == ["1", "2"]
    assert (said["length"], said["bytes"]) == (-1, 200_000)
    # The app hears of the client, as far as the parent tells the truth.
    assert said["headers"]["X-Forwarded-For"] == ["127.0.0.1"]
    assert said["headers"]["X-Forwarded-Proto"] == ["https"]
    assert said["host"] == f"127.0.0.1:{port}"


def test_nghttp_with_many_streams_at_once(cage: Cage) -> None:
    urls = [f"https://127.0.0.1:{H2C}/bytes?count={100_000 + number}" for number in range(20)]
    said = cage.outside.output("nghttp", "--no-verify-peer", "--stat", "--null-out", *urls)
    assert said.count(" 200 ") == 20


@pytest.mark.parametrize("port", [HTTP, H2C])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_chunked_answer_comes_at_once(cage: Cage, port: int, version: str) -> None:
    key = f"{port}{version}"
    words = ("curl", "--silent", "--insecure", "--no-buffer", version)
    url = f"https://127.0.0.1:{port}"
    with Program(cage.outside, *words, f"{url}/drip?key={key}") as dripping:
        dripping.until("first")
        assert "second" not in dripping.lines
        curl(cage, port, f"/release?key={key}", "--insecure", "--request", "POST")
        dripping.until("second")
        assert dripping.ended() == 0


def test_web_sockets(cage: Cage) -> None:
    with secure(cage, HTTP) as connection:
        web_socket = WebSocket(connection, "/websocket")
        for message in (b"hello", bytes(100)):
            web_socket.send(message)
            assert web_socket.receive() == message


def test_plain_tcp_in_tls(cage: Cage) -> None:
    data = pattern(300_000)
    with secure(cage, TCP) as connection:
        for start in range(0, len(data), 10_000):
            part = data[start : start + 10_000]
            connection.sendall(part)
            assert read_exactly(connection, len(part)) == part


@pytest.mark.parametrize("port", [HTTP, H2C])
def test_64_mib_up_and_down(cage: Cage, port: int) -> None:
    data = pattern(64 * MIB)
    file = cage.shared / "body"
    file.write_bytes(data)
    words = ("--insecure", "--data-binary", f"@{file}", "--header", "Expect:")
    said = json.loads(curl(cage, port, "/request", *words))
    assert said["sha256"] == hashlib.sha256(data).hexdigest()
    curl(cage, port, f"/bytes?count={len(data)}", "--insecure", "--output", f"{file}.back")
    assert (cage.shared / "body.back").read_bytes() == data


def test_clients_that_speak_no_tls_or_nothing(cage: Cage) -> None:
    with contextlib.ExitStack() as stack:
        for beginning in (b"", b"\x16\x03", b"\x16\x03\x01\x02\x00\x01") * 100:
            silent = stack.enter_context(connect(cage.outside, "127.0.0.1", HTTP))
            silent.sendall(beginning)
        with connect(cage.outside, "127.0.0.1", HTTP) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert b"200" not in plain.recv(4096)
        assert ask(cage, HTTP, "GET", "/bytes?count=3").body == pattern(3)


# Attestation.


def evidence(certificate: x509.Certificate) -> bytes:
    """The document in a certificate: an OCTET STRING with a CBOR array of media type and value."""
    extension = certificate.extensions.get_extension_for_oid(EVIDENCE).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    raw = extension.value
    assert raw[0] == 0x04
    size = raw[1]
    start = 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(raw[2:start], "big")
    assert len(raw) == start + size
    media_type, document = cbor2.loads(raw[start:])
    assert media_type == 'application/cose; cose-type="cose-sign1"'
    assert isinstance(document, bytes)
    return document


@pytest.mark.parametrize("port", [HTTP, H2C, TCP])
def test_the_certificate_holds_a_document_that_holds_the_key(cage: Cage, port: int) -> None:
    with secure(cage, port) as connection:
        certificate = peer(connection)
    found = check_document(evidence(certificate), cage.device.root)
    assert found["public_key"] == public_key(certificate)
    assert {index: found["pcrs"][index] for index in range(3)} == {
        index: cage.device.pcrs[index] for index in range(3)
    }


@pytest.mark.parametrize("port", [HTTP, H2C])
@pytest.mark.parametrize("write", ["hex", "base64"])
def test_a_fresh_document_has_the_client_s_nonce(cage: Cage, port: int, write: str) -> None:
    nonce = os.urandom(32)
    text = nonce.hex() if write == "hex" else base64.urlsafe_b64encode(nonce).decode().rstrip("=")
    connection = secure(cage, port)
    certificate = peer(connection)
    answer = request(connection, "GET", f"{ATTESTATION}?nonce={text}")
    assert answer.status == 200
    found = check_document(answer.body, cage.device.root)
    assert found["nonce"] == nonce
    assert found["public_key"] == public_key(certificate)


def test_a_fresh_document_by_http_2(cage: Cage) -> None:
    nonce = os.urandom(20)
    file = cage.shared / "document"
    words = ("--insecure", "--http2", "--output", str(file))
    curl(cage, H2C, f"{ATTESTATION}?nonce={nonce.hex()}", *words)
    assert check_document(file.read_bytes(), cage.device.root)["nonce"] == nonce


@pytest.mark.parametrize("port", [HTTP, TCP])
def test_a_fresh_document_by_a_protocol_of_its_own(cage: Cage, port: int) -> None:
    """Where the app's protocol isn't HTTP, the TLS handshake says what is wanted."""
    nonce = os.urandom(16)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["cagebuild-attestation/1"])
    connection = context.wrap_socket(connect(cage.outside, "127.0.0.1", port))
    assert connection.selected_alpn_protocol() == "cagebuild-attestation/1"
    certificate = peer(connection)
    answer = request(connection, "GET", f"{ATTESTATION}?nonce={nonce.hex()}")
    found = check_document(answer.body, cage.device.root)
    assert (found["nonce"], found["public_key"]) == (nonce, public_key(certificate))


@pytest.mark.parametrize(
    "query",
    ["", "?nonce=", "?nonce=00", f"?nonce={'00' * 15}", f"?nonce={'00' * 513}", "?nonce=!!!!",
     f"?nonce={'00' * 16}&nonce={'00' * 16}", f"?nonce={'00' * 16}&other=1"],
)  # fmt: skip
def test_nonces_that_are_none(cage: Cage, query: str) -> None:
    before = cage.device.documents
    assert ask(cage, HTTP, "GET", ATTESTATION + query).status == 400
    assert cage.device.documents == before


def test_the_app_never_sees_the_path(cage: Cage) -> None:
    answer = ask(cage, HTTP, "POST", f"{ATTESTATION}?nonce={'00' * 16}")
    assert answer.status == 405


# A certificate of the operator's.


def test_a_certificate_of_an_authority_for_the_key_in_the_enclave(cage: Cage) -> None:
    at = ("--guest", cage.guest_url)
    with secure(cage, HTTP) as connection:
        own = public_key(peer(connection))
    text = cage.outside.output("/cage-host", "csr", *at, "pay.example.test")
    wanted = x509.load_pem_x509_csr(text.encode())
    assert wanted.is_signature_valid
    assert public_key_of(wanted) == own
    chain, authority = sign(wanted)
    (cage.shared / "chain.pem").write_bytes(chain)
    (cage.shared / "authority.pem").write_bytes(authority)
    cage.outside.output("/cage-host", "certificate", *at, f"{cage.shared}/chain.pem")
    assert (
        cage.outside.output(
            *("curl", "--silent", "--show-error", "--cacert", f"{cage.shared}/authority.pem"),
            *("--connect-to", f"::127.0.0.1:{HTTP}", "https://pay.example.test/bytes?count=0"),
        )
        == ""
    )
    # The key is the same, and attested as before.
    nonce = os.urandom(16)
    connection = secure(cage, HTTP)
    certificate = peer(connection)
    answer = request(connection, "GET", f"{ATTESTATION}?nonce={nonce.hex()}")
    assert check_document(answer.body, cage.device.root)["public_key"] == own
    assert public_key(certificate) == own


def public_key_of(wanted: x509.CertificateSigningRequest) -> bytes:
    return wanted.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(wanted: x509.CertificateSigningRequest) -> tuple[bytes, bytes]:
    """What an authority makes of a request: a certificate, and the authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
    now = dt.datetime.now(dt.UTC)

    def builder() -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    authority = (
        builder()
        .subject_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = wanted.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    names = wanted.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    certificate = (
        builder()
        .subject_name(wanted.subject)
        .public_key(public)
        .add_extension(names.value, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), authority.public_bytes(Encoding.PEM)


def test_the_operator_cannot_send_a_key(cage: Cage, tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    target = cage.shared / "with-key.pem"
    target.write_bytes(files.server.read_bytes())
    done = cage.outside.run("/cage-host", "certificate", "--guest", cage.guest_url, str(target))
    assert done.returncode == 1
    assert "PRIVATE KEY" in done.stderr

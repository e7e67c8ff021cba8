"""Registries on loopback: Debian's docker-registry, a token server for it, and one that lies."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from cagebuild.fetch.download import download_from
from cagebuild.fetch.failure import DEFAULT_POLICY, Policy
from cagebuild.fetch.registry import BlobLocation
from cagebuild.image.manifest import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.support.http_server import QuietServer
from tests.support.images import sha256
from tests.support.tars import archive, regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cagebuild.digest import Digest
    from cagebuild.image.reference import Reference
    from tests.support.certificates import TestCertificates

USER, PASSWORD = "joe", "open sesame"
_HTPASSWD = "joe:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
"""What ``htpasswd -B`` makes of the two: the only kind of hash that docker-registry takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRegistry:
    """A docker-registry of its own."""

    host: str
    """``127.0.0.1:port``"""
    url: str
    folder: Path
    certificates: TestCertificates | None

    def log(self) -> str:
        """What it has said, the requests among it."""
        return (self.folder / "log").read_text()


@contextmanager
def docker_registry(
    folder: Path,
    *,
    certificates: TestCertificates | None = None,
    password: bool = False,
    tokens: TokenServer | None = None,
) -> Iterator[RunningRegistry]:
    """Debian's docker-registry: https when there are certificates; open, or with a kind of auth."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.fail("needs the program docker-registry: apt-get install docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    http: dict[str, Any] = {"addr": f"127.0.0.1:{port}"}
    if certificates is not None:
        pem = str(certificates.server)
        http["tls"] = {"certificate": pem, "key": pem}
    config: dict[str, Any] = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": http,
    }
    if password:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if tokens is not None:
        config["auth"] = {
            "token": {
                "realm": tokens.realm,
                "service": tokens.service,
                "issuer": tokens.issuer,
                "rootcertbundle": str(tokens.authority),
            }
        }
    # YAML takes JSON.
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        )
    scheme = "http" if certificates is None else "https"
    running = RunningRegistry(
        host=f"127.0.0.1:{port}",
        url=f"{scheme}://127.0.0.1:{port}",
        folder=folder,
        certificates=certificates,
    )
    try:
        _wait_for(port, process, running)
        yield running
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def _wait_for(port: int, process: subprocess.Popen[bytes], running: RunningRegistry) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"docker-registry did not start:\n{running.log()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleImage:
    """A small image with a gzip layer, a zstd layer and a plain one, as bytes."""

    manifest: bytes
    media_type: str
    config: bytes
    tars: tuple[bytes, ...]
    blobs: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    def descriptor(self, **more: object) -> dict[str, object]:
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.manifest),
            **more,
        }


def example_image(
    architecture: str = "amd64", *, docker: bool = False, variant: str = "", size: int = 1000
) -> ExampleImage:
    """In OCI's or in Docker's words; Docker's has the gzip layer alone."""
    tars = [archive(regular("etc/arch", architecture.encode()), regular("big", os.urandom(size)))]
    blobs = [gzip.compress(tars[0], mtime=0)]
    if docker:
        kinds = ["application/vnd.docker.image.rootfs.diff.tar.gzip"]
    else:
        tars += [archive(regular("second", b"2")), archive(regular("third", b"3"))]
        blobs += [zstandard.compress(tars[1]), tars[2]]
        base = "application/vnd.oci.image.layer.v1.tar"
        kinds = [base + "+gzip", base + "+zstd", base]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": architecture,
            **({"variant": variant} if variant else {}),
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
        }
    ).encode()
    config_type = (
        "application/vnd.docker.container.image.v1+json"
        if docker
        else "application/vnd.oci.image.config.v1+json"
    )
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": config_type, "digest": sha256(config), "size": len(config)},
        "layers": [
            {"mediaType": kind, "digest": sha256(blob), "size": len(blob)}
            for kind, blob in zip(kinds, blobs, strict=True)
        ],
    }
    return ExampleImage(
        manifest=json.dumps(manifest).encode(),
        media_type=media_type,
        config=config,
        tars=tuple(tars),
        blobs=tuple(blobs),
    )


def example_index(*images: tuple[str, ExampleImage], docker: bool = False) -> bytes:
    """An index over images by platform, such as ``linux/arm64/v8``."""
    entries = []
    for platform, image in images:
        names = ("os", "architecture", "variant")
        said = dict(zip(names, platform.split("/"), strict=False))
        entries.append(image.descriptor(platform=said))
    media_type = DOCKER_INDEX if docker else OCI_INDEX
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()


class Pusher:
    """Puts images into a registry over its HTTP API."""

    def __init__(
        self, registry: RunningRegistry, repository: str, headers: dict[str, str] | None = None
    ) -> None:
        self._base = f"{registry.url}/v2/{repository}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(headers or {})
        if registry.certificates is not None:
            self._session.verify = str(registry.certificates.authority)

    def blob(self, data: bytes) -> None:
        started = self._session.post(f"{self._base}/blobs/uploads/", timeout=20)
        started.raise_for_status()
        place = started.headers["Location"]
        joined = f"{place}{'&' if '?' in place else '?'}digest={sha256(data)}"
        self._session.put(joined, data=data, timeout=20).raise_for_status()

    def manifest(self, name: str, data: bytes, media_type: str) -> None:
        headers = {"Content-Type": media_type}
        answer = self._session.put(
            f"{self._base}/manifests/{name}", data=data, headers=headers, timeout=20
        )
        assert answer.status_code == 201, answer.text

    def image(self, name: str, image: ExampleImage) -> None:
        for blob in (*image.blobs, image.config):
            self.blob(blob)
        self.manifest(name, image.manifest, image.media_type)

    def close(self) -> None:
        self._session.close()


def fetch_blob(
    repository: Reference,
    target: Path,
    *,
    digest: Digest,
    size: int | None,
    limit: int = 1 << 20,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    policy: Policy = DEFAULT_POLICY,
) -> None:
    """Get one blob as the step ``fetch`` does."""
    download_from(
        [BlobLocation(repository.registry, repository.repository, digest, policy)],
        target,
        digest=digest,
        size=size,
        limit=limit,
        progress=progress,
        policy=policy,
    )


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass(slots=True)
class TokenServer:
    """Gives bearer tokens as the distribution project specifies, and remembers who asked for what.

    Repositories below ``public/`` are for everybody, others for USER with PASSWORD, or with the
    identity token ``refresh-me``.
    """

    realm: str
    authority: Path
    certificate: Path
    key: ec.EllipticCurvePrivateKey
    service: str = "a test registry"
    issuer: str = "a test issuer"
    asked: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    """Method, query or form, Authorization header."""

    def token(self, access: list[dict[str, object]]) -> str:
        """A signed token (JWT, ES256) for these accesses."""
        chain = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        encoded = base64.b64encode(chain.public_bytes(serialization.Encoding.DER)).decode()
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": USER,
            "aud": self.service,
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": "1",
            "access": access,
        }
        parts = [{"typ": "JWT", "alg": "ES256", "x5c": [encoded]}, claims]
        signed = b".".join(_url64(json.dumps(part).encode()) for part in parts)
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA256())))
        signature = _url64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return (signed + b"." + signature).decode()

    def answer(self, method: str, asked: dict[str, str], authorization: str) -> tuple[int, bytes]:
        """Status and body for one request."""
        self.asked.append((method, asked, authorization))
        kind, name, actions = asked.get("scope", "::").split(":")
        known = (
            authorization == basic(USER, PASSWORD)
            or asked.get("refresh_token") == "refresh-me"
            or (not authorization and name.startswith("public/"))
        )
        if not known:
            return 401, b'{"errors": [{"code": "UNAUTHORIZED"}]}'
        access: list[dict[str, object]] = [
            {"type": kind, "name": name, "actions": actions.split(",")}
        ]
        key = "access_token" if method == "POST" else "token"
        return 200, json.dumps({key: self.token(access)}).encode()


def _url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def token_server(certificates: TestCertificates) -> Iterator[TokenServer]:
    """A token server on loopback whose tokens are signed with the test server's key."""
    pem = certificates.server.read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)

    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        query = body.decode() if method == "POST" else urlsplit(path).query
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        status, answer = tokens.answer(method, asked, headers.get("Authorization", ""))
        return Response(status=status, body=answer)

    with scripted_server(respond) as base:
        tokens = TokenServer(
            realm=f"{base}/token",
            authority=certificates.authority,
            certificate=certificates.server,
            key=key,
        )
        yield tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a scripted server sends."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@contextmanager
def scripted_server(
    respond: Callable[[str, str, dict[str, str], bytes], Response],
) -> Iterator[str]:
    """A server on loopback that answers (method, path, headers, body) as told; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing on the terminal."""

        def do_POST(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            given = respond(self.command, self.path, dict(self.headers.items()), body)
            self.send_response(given.status)
            for name, value in given.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            self.wfile.write(given.body)

    server = QuietServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_HELPER = """#!/bin/sh
# A credential helper that says how it was called.
read -r server
echo "$1 $server" >>"{log}"
case "$server" in
{answers}
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


def credential_helper(folder: Path, name: str, answers: dict[str, str]) -> Path:
    """Write ``docker-credential-<name>``; returns the log of its calls: action and server a line.

    ``answers`` are shell commands by server.
    """
    log = folder / f"{name}.log"
    cases = "\n".join(f"{server}) {command} ;;" for server, command in answers.items())
    program = folder / f"docker-credential-{name}"
    program.write_text(_HELPER.format(log=log, answers=cases))
    program.chmod(0o755)
    return log

"""Real packages of Debian 12: locked, built into a layer, and run in a chroot."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from cagebuild.debian.base import Named
from cagebuild.debian.kernel import extract
from cagebuild.debian.locking import lock_base, lock_kernel, lock_package, lock_source
from cagebuild.digest import Digest
from cagebuild.fetch.http import get
from tests.support.packages import Wanted, closure, fetched, layer
from tests.support.unpacking import unpack

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.integration, pytest.mark.network]

SERVICE = """
import json, http.server, ssl, sqlite3, ctypes, lzma, pwd, subprocess, threading, urllib.request

assert len(ssl.create_default_context().get_ca_certs()) > 100
assert pwd.getpwnam("nobody").pw_uid == 65534

subprocess.run(
    ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
     "-keyout", "/tmp/key", "-out", "/tmp/cert", "-subj", "/CN=localhost",
     "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
    check=True, capture_output=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"path": self.path}).encode())

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/cert", "/tmp/key")
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"https://127.0.0.1:{server.server_address[1]}/x"
trusting = ssl.create_default_context(cafile="/tmp/cert")
print(json.load(urllib.request.urlopen(url, context=trusting))["path"])
try:
    urllib.request.urlopen(url)
except urllib.error.URLError as error:
    assert "CERTIFICATE_VERIFY_FAILED" in str(error), error
else:
    raise SystemExit("a certificate of nobody was trusted")
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Named]:
    return closure(tmp_path_factory.mktemp("debs"), "python3", "ca-certificates")


def test_a_python_service_with_tls_runs_from_the_layer(
    packages: list[Named], tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("chroot needs root: run this test as root, or in CI's container")
    root = tmp_path / "root"
    unpack(layer(packages, tmp_path / "built"), root)
    done = subprocess.run(
        ["chroot", root, "/usr/bin/python3", "-c", SERVICE],
        env={"PATH": "/usr/sbin:/usr/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "/x\n"), done.stderr


def test_the_order_of_packages_makes_no_difference(packages: list[Named], tmp_path: Path) -> None:
    one = layer(packages, tmp_path / "one")
    other = layer(packages[::-1], tmp_path / "other")
    assert Digest.of_file(one) == Digest.of_file(other)
    origins = json.loads((tmp_path / "one/origins.json").read_text())
    assert origins["usr/bin/python3.11"].startswith("package python3.11-minimal 3.11.2-")


def test_every_suite_and_architecture_of_the_release_resolves() -> None:
    wanted = Wanted(
        packages=("ca-certificates", "python3", "base-files"),
        updates=("bookworm-updates", "bookworm-security"),
    )
    for architecture, debian in (("x86_64", "amd64"), ("aarch64", "arm64")):
        pins = lock_base(wanted, architecture, get)  # type: ignore[arg-type]
        assert {pin.architecture for pin in pins.packages} == {debian, "all"}
        assert "mawk" in {pin.name for pin in pins.packages}


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_the_kernel_is_one_that_an_enclave_can_boot(
    architecture: Literal["x86_64", "aarch64"], tmp_path: Path
) -> None:
    pins = lock_kernel(architecture, get)
    (pin,) = pins.packages
    kernel = tmp_path / "kernel"
    extract(fetched(pins, pin, tmp_path), architecture, scratch=tmp_path, kernel=kernel)
    assert kernel.stat().st_size > 10_000_000


def test_busybox_and_the_kernel_can_be_had_as_sources() -> None:
    busybox = lock_source("busybox", "bookworm", "main", get)
    assert busybox.version.startswith("1:1.35.0-4")
    for archive in (busybox.orig, busybox.debian):
        data = get(busybox.locations(archive)[0], limit=archive.size)
        assert (len(data), Digest.of(data)) == (archive.size, archive.sha256)
    (kernel,) = lock_package("linux-source-6.12", "bookworm-security", "x86_64", get).packages
    assert (kernel.architecture, kernel.version.startswith("6.12.")) == ("all", True)

"""A cage in the emulated enclave with cage-host beside it: attested, given secrets, ended.

QEMU's NSM measures the image as AWS's does, but doesn't sign its documents.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import emulator
from tests.support.data_plane import (
    ADMIN,
    PUBLIC,
    RAW,
    WEB,
    Programs,
    Wanted,
    build_programs,
    egress,
    ingress,
)
from tests.support.data_plane_clients import (
    Answer,
    after_all,
    connect,
    over_tls,
    pattern,
    read_all,
    request,
    serving_at,
)
from tests.support.enclave_cage import EnclaveCage, write_enclave
from tests.support.namespaces import Namespace, Program
from tests.support.runtime import assert_soon, needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.nitro.pcr import Measured

pytestmark = [
    *(pytest.mark.integration, pytest.mark.network),
    *(needs_root, emulator.needs_emulator),
]

WANTED = Wanted(
    ingress=[ingress(WEB, tls="terminate", health="/healthz"), ingress(RAW)],
    egress=egress("public.test:80"),
    secrets={"env": ["TOKEN"], "files": ["key.pem"]},
    logs=True,
)
SECRETS = {"TOKEN": "s3cret \"'$(id)", "key.pem": bytes(range(256))}
OTHERS = {"TOKEN": "another", "key.pem": b"another"}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build_programs(tmp_path_factory)


@pytest.fixture(scope="module")
def cage(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnclaveCage]:
    with EnclaveCage(tmp_path_factory.mktemp("cage"), programs, WANTED) as made:
        made.start_host()
        made.boot()
        made.zone.addresses["public.test"] = [PUBLIC]
        yield made


def secure(cage: EnclaveCage) -> ssl.SSLSocket:
    return over_tls(cage.connect())


def ask(cage: EnclaveCage, method: str, target: str, body: bytes = b"") -> Answer:
    return request(secure(cage), method, target, body)


def bundle(values: dict[str, Any]) -> str:
    files = {"key.pem": base64.b64encode(values["key.pem"]).decode()}
    return json.dumps({"env": {"TOKEN": values["TOKEN"]}, "files": files})


def payload(document: bytes) -> dict[str, Any]:
    """What a document says. It isn't verified: nobody vouches for an emulator."""
    outer = cbor2.loads(document)
    outer = outer.value if isinstance(outer, cbor2.CBORTag) else outer
    return cast("dict[str, Any]", cbor2.loads(outer[2]))


def attest(cage: EnclaveCage, *words: str) -> dict[str, Any]:
    """A fresh document, got by the operator."""
    nonce = os.urandom(20)
    file = cage.shared / "document"
    cage.operate("attestation", "--nonce", nonce.hex(), "-o", str(file), *words)
    found = payload(file.read_bytes())
    assert found["nonce"] == nonce
    return found


def assert_measured(found: dict[str, Any], measured: Measured) -> None:
    expected = measured.measurements
    assert found["pcrs"][0].hex() == expected.pcr0
    assert found["pcrs"][1].hex() == expected.pcr1
    assert found["pcrs"][2].hex() == expected.pcr2


# Before the app, in this order.


def test_the_app_waits_for_secrets(cage: EnclaveCage) -> None:
    assert_soon(lambda: cage.admin("/ready").status == 200)
    said = cage.admin("/health")
    assert said.status == 503
    for word in (b"waiting-for-secrets", b"TOKEN", b"key.pem"):
        assert word in said.body


def test_secrets_that_are_none_are_refused(cage: EnclaveCage) -> None:
    file = cage.shared / "bundle"
    for wrong in ("{", "[]", '{"env": {"OTHER": "x"}, "files": {}}'):
        file.write_text(wrong)
        done = cage.outside.run("/cage-host", "secrets", "put", *cage.at, str(file))
        assert done.returncode != 0, wrong
    assert b"waiting-for-secrets" in cage.admin("/health").body


def test_sealed_secrets_start_the_app(cage: EnclaveCage) -> None:
    """The operator encrypts to the key in a document, so that the parent never sees a value."""
    found = attest(cage, "--key", "secrets")
    assert_measured(found, cage.measured)
    names = ("key", "plain", "sealed")
    key, plain, sealed = (cage.shared / name for name in names)
    key.write_bytes(found["public_key"])
    plain.write_text(bundle(SECRETS))
    cage.outside.output(
        *("/cage-host", "secrets", "seal", "--key", str(key), "-o", str(sealed), str(plain))
    )
    assert b"s3cret" not in sealed.read_bytes()
    cage.operate("secrets", "put", "--sealed", str(sealed))
    cage.machine.until("^app: ready$")
    cage.await_healthy()
    assert_given(cage, SECRETS)
    assert "s3cret" not in cage.machine.console


def assert_given(cage: EnclaveCage, values: dict[str, Any]) -> None:
    said = ask(cage, "GET", "/environment").json()
    assert f"TOKEN={values['TOKEN']}" in said["env"]
    assert said["files"] == {"key.pem": base64.b64encode(values["key.pem"]).decode()}


# With the app.


def test_the_certificate_holds_a_document_of_this_enclave(cage: EnclaveCage) -> None:
    nonce = os.urandom(32)
    with secure(cage) as connection:
        der = connection.getpeercert(binary_form=True)
        assert der
        key = x509.load_der_x509_certificate(der).public_key()
        target = f"/.well-known/attestation?nonce={nonce.hex()}"
        found = payload(request(connection, "GET", target).body)
    assert_measured(found, cage.measured)
    assert found["nonce"] == nonce
    assert found["public_key"] == key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_tls_carries_much(cage: EnclaveCage) -> None:
    assert ask(cage, "GET", "/bytes?count=8000000").body == pattern(8_000_000)
    said = ask(cage, "POST", "/request", pattern(8_000_000)).json()
    assert said["bytes"] == 8_000_000


def test_the_way_out(cage: EnclaveCage) -> None:
    with serving_at(cage.outside, PUBLIC, 80, after_all(b"here ")):
        assert ask(cage, "POST", "/dial?address=public.test:80", b"x").body == b"here x"
    assert ask(cage, "POST", "/dial?address=other.test:80").status == 502
    assert ask(cage, "POST", f"/dial?address={PUBLIC}:80").status == 502


def test_the_log_is_read_by_the_parent(cage: EnclaveCage) -> None:
    assert "app: ready" in cage.operate("logs").splitlines()


def test_the_operator_s_own_questions(cage: EnclaveCage) -> None:
    assert cage.operate("health").startswith("up\n")
    assert "-----BEGIN CERTIFICATE REQUEST-----" in cage.operate("csr", "pay.example.test")


def test_other_secrets_start_the_app_again(cage: EnclaveCage) -> None:
    file = cage.shared / "bundle"
    file.write_text(bundle(OTHERS))
    cage.operate("secrets", "put", str(file))
    cage.machine.until("^app: ready$")
    cage.await_healthy()
    assert_given(cage, OTHERS)


def test_the_operator_ends_the_enclave(cage: EnclaveCage) -> None:
    cage.operate("stop")
    ended = cage.machine.end()
    assert "cage: stopped" in ended.console.splitlines()
    assert ended.status == 0
    assert_soon(lambda: cage.admin("/ready").status == 503)


# cage-host starts the enclave itself.


DEVICE = (
    f"{sys.executable} -m cagebuild.emulator --cid {{cid}} --device {{device}} --vsock {{vsock}}"
)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Namespace]:
    with (
        tempfile.TemporaryDirectory(prefix="cage-") as shared,
        Namespace(tmp_path / "outside", Path(shared)) as made,
    ):
        yield made


def test_run_starts_ends_and_starts_again(programs: Programs, outside: Namespace) -> None:
    image = outside.shared / "cage.eif"
    folder = outside.shared / "parts"
    folder.mkdir()
    write_enclave(folder, image, programs, Wanted())
    host = outside.shared / "cage-host"
    host.write_bytes(programs.host.read_bytes())
    host.chmod(0o755)
    words = (
        *(str(host), "run", "--eif", str(image), "--emulator", "--admin", f"127.0.0.1:{ADMIN}"),
        *("--qemu", str(emulator.EMULATOR / "qemu-system-x86_64")),
        *("--firmware", str(emulator.EMULATOR / "firmware"), "--parent-cid", "3"),
        *("--vsock-device", DEVICE, "--state", str(outside.shared / "state")),
    )
    project = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": project}
    with Program(outside, *words, env=environment) as program:
        program.until("guest: up")
        assert answers(outside)
        # The enclave breaks down.
        (machine,) = machines(image)
        os.kill(machine, signal.SIGKILL)
        program.until("next start in 1s")
        before = len(program.lines)
        program.until("guest: up", since=before)
        assert answers(outside)
        # The end is in order, and leaves nothing.
        with connect(outside, "127.0.0.1", RAW) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            program.terminate()
            program.until("ending")
            client.shutdown(1)
            assert json.loads(read_all(client))["bytes"] == 1
        assert program.ended() == 0
        assert any("the enclave is gone" in line for line in program.lines)
    assert machines(image) == []


def machines(image: Path) -> list[int]:
    """The processes of QEMU that run an image."""
    words = ["pgrep", "-f", "--", f"-kernel {image}"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return [int(number) for number in found.stdout.split()]


def answers(outside: Namespace) -> bool:
    with contextlib.suppress(OSError):
        client = connect(outside, "127.0.0.1", WEB)
        return request(client, "GET", "/bytes?count=4").body == pattern(4)
    return False

"""An app has KMS decrypt: through the local API, egress and TLS, for its enclave alone."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.data_plane import (
    OTHER,
    PUBLIC,
    Cage,
    Programs,
    Wanted,
    build_programs,
    egress,
)
from tests.support.data_plane_clients import connect, request, serving_at
from tests.support.kms import ACCESS_KEY, KEY_ID, SECRET_KEY, TOKEN, Kms
from tests.support.runtime import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

KNOWN, UNKNOWN = "kms.eu-west-1.amazonaws.com", "kms.eu-north-1.amazonaws.com"
"""Names of servers: one whose authority the image has, and one of another's."""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build_programs(tmp_path_factory)


@pytest.fixture(scope="module")
def cage(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cage]:
    wanted = Wanted(egress=egress(f"{KNOWN}:443", f"{UNKNOWN}:443"))
    with pytest.MonkeyPatch.context() as environment, contextlib.ExitStack() as ends:
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            environment.delenv(name, raising=False)
        made = ends.enter_context(Cage(tmp_path_factory.mktemp("cage"), programs, wanted))
        made.zone.addresses |= {KNOWN: [PUBLIC], UNKNOWN: [OTHER]}
        yield made


@pytest.fixture(scope="module")
def servers(cage: Cage) -> Iterator[dict[str, Kms]]:
    made = {
        name: Kms(
            name=name,
            region=name.split(".")[1],
            module=cage.device.root,
            pcr0=cage.device.pcrs[0],
        )
        for name in (KNOWN, UNKNOWN)
    }
    bundle = cage.inside.root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(made[KNOWN].authority)
    with (
        serving_at(cage.outside, PUBLIC, 443, made[KNOWN].answer),
        serving_at(cage.outside, OTHER, 443, made[UNKNOWN].answer),
    ):
        cage.start()
        yield made
    assert not made[KNOWN].problems


def decrypt(cage: Cage, plaintext: bytes, **changes: object) -> tuple[int, Any]:
    """Status and body of the local API's answer."""
    given = {
        "region": "eu-west-1",
        "ciphertext": base64.b64encode(b"sealed:" + plaintext).decode(),
        "credentials": {
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "session_token": TOKEN,
        },
        **changes,
    }
    answer = request(
        connect(cage.inside, "127.0.0.1", 9001), "POST", "/kms/decrypt", json.dumps(given).encode(),
        {"Host": "127.0.0.1:9001", "Content-Type": "application/json"},
    )  # fmt: skip
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize("plaintext", [b"", b"a secret", bytes(range(256)) * 16])
def test_what_kms_decrypts_arrives(cage: Cage, servers: dict[str, Kms], plaintext: bytes) -> None:
    given = {"key_id": KEY_ID, "encryption_context": {"purpose": "tëst"}, "grant_tokens": ["t"]}
    said = decrypt(cage, plaintext, **given)
    assert said == (200, {"plaintext": base64.b64encode(plaintext).decode(), "key_id": KEY_ID})
    asked = servers[KNOWN].requests[-1]
    assert (asked["KeyId"], asked["GrantTokens"]) == (KEY_ID, ["t"])
    assert asked["EncryptionContext"] == {"purpose": "tëst"}


def test_another_enclave_is_refused_by_the_policy(cage: Cage, servers: dict[str, Kms]) -> None:
    servers[KNOWN].pcr0, before = bytes(48), servers[KNOWN].pcr0
    try:
        status, said = decrypt(cage, b"a secret")
    finally:
        servers[KNOWN].pcr0 = before
    assert status == 400
    assert said["error"] == {
        "type": "AccessDeniedException",
        "message": "not authorized to perform: kms:Decrypt",
        "request_id": "a-request",
    }


def test_a_server_that_the_image_has_no_authority_for_is_told_nothing(
    cage: Cage, servers: dict[str, Kms]
) -> None:
    status, said = decrypt(cage, b"a secret", region="eu-north-1")
    assert status == 502
    assert "certificate signed by unknown authority" in said["error"]["message"]
    assert servers[UNKNOWN].requests == []


def test_egress_that_is_denied_is_said_to_be(cage: Cage, servers: dict[str, Kms]) -> None:
    status, said = decrypt(cage, b"a secret", region="us-east-1")
    assert (status, said["error"]["type"]) == (403, "EgressDenied")
    assert '"kms.us-east-1.amazonaws.com:443"' in said["error"]["message"]


def test_no_credential_is_in_the_log(cage: Cage, servers: dict[str, Kms]) -> None:
    decrypt(cage, b"a secret")
    decrypt(cage, b"a secret", region="nowhere")
    for program in (cage.guest, cage.host):
        for line in program.lines:
            assert SECRET_KEY not in line
            assert TOKEN not in line

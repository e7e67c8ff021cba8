"""The local API of the data plane is what its description says, path by path."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.support.data_plane import Cage, Programs, Wanted, build_programs
from tests.support.data_plane_clients import connect, request
from tests.support.golang import MODULE
from tests.support.nsm_device import check_document
from tests.support.runtime import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.data_plane_clients import Answer

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

DESCRIPTION: Final[dict[str, Any]] = yaml.safe_load((MODULE / "api/openapi.yaml").read_text())
PORT: Final = 9001
JSON: Final = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build_programs(tmp_path_factory)


@pytest.fixture(scope="module")
def cage(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cage]:
    with Cage(tmp_path_factory.mktemp("cage"), programs, Wanted()) as made:
        made.start()
        made.await_healthy()
        yield made


def described(part: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for, or the part itself."""
    while "$ref" in part:
        found: Any = DESCRIPTION
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def ask(
    cage: Cage, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[Answer, Any]:
    """An answer, which is held to the description; and its JSON, if it is that."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    names.setdefault("Host", f"127.0.0.1:{PORT}")
    answer = request(connect(cage.inside, "127.0.0.1", PORT), method, path, body, names)
    responses = DESCRIPTION["paths"][path][method.lower()]["responses"]
    response = described(responses.get(str(answer.status)) or responses["default"])
    media, _, _ = dict(answer.headers)["Content-Type"].partition(";")
    assert media in response["content"], (answer.status, media)
    if media != "application/json":
        return answer, None
    schema = {**response["content"][media]["schema"], "components": DESCRIPTION["components"]}
    found = json.loads(answer.body)
    Draft202012Validator(schema).validate(found)
    return answer, found


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_schemas_are_schemas() -> None:
    for schema in DESCRIPTION["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_path_is_tested_here() -> None:
    assert set(DESCRIPTION["paths"]) == {
        "/attestation", "/pcrs", "/health", "/metrics", "/kms/decrypt",
    }  # fmt: skip


def test_a_document_has_what_the_app_put_into_it(cage: Cage) -> None:
    given = {"nonce": b"n" * 32, "public_key": b"k" * 91, "user_data": b"u" * 512}
    body = json.dumps({name: text(value) for name, value in given.items()}).encode()
    answer, _ = ask(cage, "POST", "/attestation", body, **JSON)
    assert answer.status == 200
    payload = check_document(answer.body, cage.device.root)
    assert {name: payload[name] for name in given} == given
    assert payload["pcrs"][0] == cage.device.pcrs[0]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {**JSON, "Host": "attacker.example"}, 403),
        (b"not JSON", JSON, 400),
        (b"[]", JSON, 400),
        (b'{"nonce": "!"}', JSON, 400),
        (b'{"unknown": ""}', JSON, 400),
        (json.dumps({"nonce": text(b"n" * 513)}).encode(), JSON, 400),
        (json.dumps({"public_key": text(b"k" * 1025)}).encode(), JSON, 400),
        (b'{"nonce": "' + b"A" * (1 << 20) + b'"}', JSON, 413),
    ],
)
def test_what_is_no_request_for_a_document(
    cage: Cage, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer, found = ask(cage, "POST", "/attestation", body, **headers)
    assert answer.status == status
    assert found["error"]


def test_the_registers_are_those_of_the_module(cage: Cage) -> None:
    answer, found = ask(cage, "GET", "/pcrs")
    assert answer.status == 200
    assert found["PCR0"] == cage.device.pcrs[0].hex()


def test_health(cage: Cage) -> None:
    answer, found = ask(cage, "GET", "/health")
    assert (answer.status, found["status"]) == (200, "up")
    assert {port["port"] for port in found["ports"]} == {7000, 8080}


def test_metrics(cage: Cage) -> None:
    answer, _ = ask(cage, "GET", "/metrics")
    assert answer.status == 200
    assert b"\n# TYPE cage_" in answer.body


@pytest.mark.parametrize("path", ["/pcrs", "/health", "/metrics"])
def test_a_page_of_another_host_learns_nothing(cage: Cage, path: str) -> None:
    answer, _ = ask(cage, "GET", path, Host="rebound.example")
    assert answer.status == 403


def test_kms_that_no_rule_allows_is_denied(cage: Cage) -> None:
    secret = hashlib.sha256(b"secret").hexdigest()
    body = {
        "region": "eu-west-1",
        "ciphertext": text(b"x"),
        "credentials": {"access_key_id": "AKIDEXAMPLEEXAMPLE00", "secret_access_key": secret},
    }
    answer, found = ask(cage, "POST", "/kms/decrypt", json.dumps(body).encode(), **JSON)
    assert answer.status == 403
    assert "kms.eu-west-1.amazonaws.com:443" in found["error"]["message"]
    assert secret not in answer.body.decode()


def test_a_request_to_kms_that_is_none(cage: Cage) -> None:
    answer, _ = ask(cage, "POST", "/kms/decrypt", b"{}", **JSON)
    assert answer.status == 400

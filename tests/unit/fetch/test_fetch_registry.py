"""Registries that lie, and documents made to mislead."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import (
    CageError,
    DigestMismatchError,
    FetchError,
    ImageError,
    LockError,
)
from cagebuild.fetch.failure import Policy
from cagebuild.fetch.registry import parse_challenges
from cagebuild.image.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from cagebuild.image.reference import Reference
from cagebuild.image.registry import ImagePin, LayerPin, resolve
from tests.support.images import sha256
from tests.support.registry import (
    ExampleImage,
    Response,
    example_image,
    example_index,
    fetch_blob,
    scripted_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMAGE = example_image("amd64")
QUICK = Policy(read_timeout=2, rounds=2, back_off=0.01, longest_wait=0.02)
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


class Lying:
    """A registry of one image, whose answers a test replaces."""

    def __init__(self) -> None:
        self.host = ""
        self.answers: dict[str, Response | Callable[[dict[str, str]], Response]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.manifest("1", IMAGE.manifest)
        self.manifest(IMAGE.digest, IMAGE.manifest)
        for blob in (*IMAGE.blobs, IMAGE.config):
            self.answers[f"/v2/app/blobs/{sha256(blob)}"] = Response(body=blob)

    def manifest(
        self, name: str, data: bytes, media_type: str = OCI_MANIFEST, said: str = ""
    ) -> None:
        headers = [("Content-Type", media_type)]
        if said:
            headers.append(("Docker-Content-Digest", said))
        self.answers[f"/v2/app/manifests/{name}"] = Response(headers=tuple(headers), body=data)

    def respond(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        self.seen.append((path, headers))
        answer = self.answers.get(path.partition("?")[0], Response(status=404))
        return answer if isinstance(answer, Response) else answer(headers)

    def resolve(self, name: str = "app:1") -> ImagePin:
        return resolve(f"{self.host}/{name}", "x86_64", policy=QUICK)

    def blob(self, target: Path, digest: str) -> None:
        fetch_blob(
            Reference.parse(f"{self.host}/app"),
            target,
            digest=Digest.parse(digest),
            size=None,
            policy=QUICK,
        )


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lying]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    registry = Lying()
    with scripted_server(registry.respond) as base:
        registry.host = base.removeprefix("http://")
        yield registry


def login(tmp_path: Path, host: str) -> None:
    (tmp_path / ".docker").mkdir()
    auth = "am9lOmh1bnRlcjI="  # joe:hunter2
    (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


def test_the_honest_form_of_this_registry_is_pinned(lying: Lying) -> None:
    assert str(lying.resolve().manifest) == IMAGE.digest


def test_a_manifest_other_than_its_digest_is_refused(lying: Lying) -> None:
    wanted = sha256(b"another")
    lying.manifest(wanted, IMAGE.manifest)
    with pytest.raises(DigestMismatchError, match=f"sent {IMAGE.digest}, expected '{wanted}'"):
        lying.resolve(f"app@{wanted}")


@pytest.mark.parametrize(
    "said", [sha256(b"x"), "sha512:" + "0" * 128, "md5:00", "nonsense", "\x1b[2J"]
)
def test_a_digest_header_other_than_the_bytes_is_refused(lying: Lying, said: str) -> None:
    lying.manifest("1", IMAGE.manifest, said=said)
    with pytest.raises(DigestMismatchError) as caught:
        lying.resolve()
    assert "\x1b" not in caught.value.message


def test_a_digest_header_of_another_algorithm_is_checked(lying: Lying) -> None:
    lying.manifest("1", IMAGE.manifest, said=str(Digest.of(IMAGE.manifest, "sha512")))
    assert str(lying.resolve().manifest) == IMAGE.digest


def test_a_config_of_other_bytes_is_refused(lying: Lying) -> None:
    other = IMAGE.config.replace(b"/bin/true", b"/bin/evil")
    lying.answers[f"/v2/app/blobs/{sha256(IMAGE.config)}"] = Response(body=other)
    with pytest.raises(DigestMismatchError, match=f"sent {sha256(other)}"):
        lying.resolve()


def test_a_config_longer_than_announced_is_not_read_to_its_end(lying: Lying) -> None:
    longer = Response(body=IMAGE.config + bytes(1 << 20))
    lying.answers[f"/v2/app/blobs/{sha256(IMAGE.config)}"] = longer
    with pytest.raises(FetchError, match=f"longer than the limit of {len(IMAGE.config)} bytes"):
        lying.resolve()


def test_a_manifest_beyond_all_bounds_is_not_read(lying: Lying) -> None:
    lying.manifest("1", b" " * ((4 << 20) + 1))
    with pytest.raises(FetchError, match="longer than the limit"):
        lying.resolve()


@pytest.mark.parametrize("change", ["size", "media type"])
def test_a_manifest_other_than_the_index_announces_is_refused(lying: Lying, change: str) -> None:
    entry = IMAGE.descriptor(platform={"os": "linux", "architecture": "amd64"})
    entry |= {"size": 7} if change == "size" else {"mediaType": DOCKER_MANIFEST}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    lying.manifest("1", index, OCI_INDEX)
    with pytest.raises(ImageError, match="not as the index announces it"):
        lying.resolve()


def test_an_index_in_an_index_is_followed(lying: Lying) -> None:
    inner = replace(IMAGE, manifest=example_index(("linux/amd64", IMAGE)), media_type=OCI_INDEX)
    lying.manifest(inner.digest, inner.manifest, OCI_INDEX)
    outer = json.dumps({"schemaVersion": 2, "manifests": [inner.descriptor()]}).encode()
    lying.manifest("1", outer, OCI_INDEX)
    pin = lying.resolve()
    assert (pin.index, str(pin.manifest)) == (Digest.of(outer), IMAGE.digest)
    lying.manifest(inner.digest, inner.manifest + b" ", OCI_INDEX)
    with pytest.raises(DigestMismatchError):
        lying.resolve()


def test_indexes_in_indexes_have_an_end(lying: Lying) -> None:
    inner = IMAGE
    for _ in range(6):
        data = json.dumps({"schemaVersion": 2, "manifests": [inner.descriptor()]}).encode()
        inner = replace(IMAGE, manifest=data, media_type=OCI_INDEX)
        lying.manifest(inner.digest, data, OCI_INDEX)
    lying.manifest("1", inner.manifest, OCI_INDEX)
    with pytest.raises(ImageError, match="nested too deeply"):
        lying.resolve()
    assert len(lying.seen) < 6


def test_an_image_whose_index_names_no_platform_is_looked_into(lying: Lying) -> None:
    other = example_image("arm64")
    entries = [other.descriptor(), IMAGE.descriptor()]
    lying.manifest("1", json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), OCI_INDEX)
    lying.manifest(other.digest, other.manifest)
    lying.answers[f"/v2/app/blobs/{sha256(other.config)}"] = Response(body=other.config)
    assert str(lying.resolve().manifest) == IMAGE.digest


def test_nothing_is_looked_into_when_an_index_says_what_suits(lying: Lying) -> None:
    says = IMAGE.descriptor(platform={"os": "linux", "architecture": "amd64"})
    entries = [example_image("arm64").descriptor(), says]
    lying.manifest("1", json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), OCI_INDEX)
    assert str(lying.resolve().manifest) == IMAGE.digest


def test_a_registry_that_is_short_of_breath_is_asked_again(lying: Lying) -> None:
    good = lying.answers["/v2/app/manifests/1"]
    assert isinstance(good, Response)
    answers = iter([Response(status=503), good])
    lying.answers["/v2/app/manifests/1"] = lambda headers: next(answers)
    assert str(lying.resolve().manifest) == IMAGE.digest


def test_a_password_does_not_follow_a_redirect_to_another_host(
    lying: Lying, tmp_path: Path
) -> None:
    """As registries do it that keep their blobs in an object store."""
    login(tmp_path, lying.host)
    elsewhere: list[dict[str, str]] = []
    blob = IMAGE.blobs[0]

    def store(method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        elsewhere.append(headers)
        return Response(body=blob)

    def guarded(headers: dict[str, str]) -> Response:
        if "Authorization" not in headers:
            return Response(status=401, headers=(("WWW-Authenticate", 'Basic realm="x"'),))
        return Response(status=307, headers=(("Location", f"{base}/blob?signature=hunter3"),))

    with scripted_server(store) as base:
        lying.answers[f"/v2/app/blobs/{sha256(blob)}"] = guarded
        lying.blob(tmp_path / "blob", sha256(blob))
    assert (tmp_path / "blob").read_bytes() == blob
    assert [set(headers) & {"Authorization"} for headers in elsewhere] == [set()]
    assert lying.seen[-1][1]["Authorization"] == "Basic am9lOmh1bnRlcjI="


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ('Bearer realm="http://token.example/"', "which is not https"),
        ('Bearer realm="file:///etc/passwd"', "which is not https"),
        ('Bearer realm="http://[broken"', "which is not https"),
        ("Bearer service=x", "which is not https"),
        ("Negotiate", "a kind of authentication that is not known"),
        ("", "a kind of authentication that is not known"),
    ],
)
def test_a_challenge_that_is_not_met(
    lying: Lying, tmp_path: Path, challenge: str, said: str
) -> None:
    login(tmp_path, lying.host)
    lying.answers["/v2/app/manifests/1"] = Response(
        status=401, headers=(("WWW-Authenticate", challenge),)
    )
    with pytest.raises(FetchError, match=said) as caught:
        lying.resolve()
    assert "hunter2" not in caught.value.render()
    assert all("Authorization" not in headers for _, headers in lying.seen)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 7}',
        b'{"token": "a\\r\\nX-Injected: 1"}',
        b'{"token": "\\u0131"}',
        b"[" * 100_000,
        b" " * (1 << 21),
    ],
    ids=["empty", "list", "none", "number", "header", "not ascii", "nested", "endless"],
)
def test_a_token_that_is_none_is_refused(lying: Lying, answer: bytes) -> None:
    lying.answers["/token"] = Response(body=answer)
    lying.answers["/v2/app/manifests/1"] = Response(
        status=401,
        headers=(("WWW-Authenticate", f'Bearer realm="http://{lying.host}/token"'),),
    )
    with pytest.raises(FetchError, match=r"answered without a token|longer than the limit"):
        lying.resolve()


def test_a_token_that_is_never_accepted_ends(lying: Lying) -> None:
    lying.answers["/token"] = Response(body=b'{"token": "secret-token"}')
    lying.answers["/v2/app/manifests/1"] = Response(
        status=401,
        headers=(("WWW-Authenticate", f'Bearer realm="http://{lying.host}/token"'),),
    )
    with pytest.raises(FetchError, match=r"401: .* denied access to app") as caught:
        lying.resolve()
    assert "secret-token" not in caught.value.render()
    assert sum(path.startswith("/token") for path, _ in lying.seen) == 1


def test_only_pulling_from_this_repository_is_asked_for(lying: Lying) -> None:
    """Whatever scope the registry would like to have."""
    lying.answers["/token"] = Response(body=b'{"access_token": "t"}')
    realm = f"http://{lying.host}/token?account=1"
    challenge = f'Bearer realm="{realm}",service="a, b",scope="registry:catalog:*"'
    good = lying.answers["/v2/app/manifests/1"]
    assert isinstance(good, Response)
    lying.answers["/v2/app/manifests/1"] = lambda headers: (
        good
        if headers.get("Authorization") == "Bearer t"
        else Response(status=401, headers=(("WWW-Authenticate", challenge),))
    )
    lying.resolve()
    asked = next(path for path, _ in lying.seen if path.startswith("/token"))
    assert asked == "/token?account=1&scope=repository%3Aapp%3Apull&service=a%2C+b"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Bearer realm="a",service="b c"', {"bearer": {"realm": "a", "service": "b c"}}),
        ('bearer Realm = "a" , service=b', {"bearer": {"realm": "a", "service": "b"}}),
        (
            r'Basic realm="a \"b\", Bearer realm=\"c"',
            {"basic": {"realm": 'a "b", Bearer realm="c'}},
        ),
        (
            'Basic realm="x", Bearer realm="y",scope="a,b"',
            {"basic": {"realm": "x"}, "bearer": {"realm": "y", "scope": "a,b"}},
        ),
        ("Digest realm=x", {}),
        ("", {}),
    ],
)
def test_challenges_are_read(header: str, found: dict[str, dict[str, str]]) -> None:
    assert parse_challenges(header) == found


def test_a_challenge_made_to_keep_a_parser_busy_ends() -> None:
    parse_challenges("Bearer " + "a=b," * 100_000)
    parse_challenges('Bearer a="' + '\\"' * 100_000)
    parse_challenges(", bearer a" * 100_000)


def test_layers_and_diff_ids_of_other_numbers_are_refused(lying: Lying) -> None:
    config, manifest = json.loads(IMAGE.config), json.loads(IMAGE.manifest)
    config["rootfs"]["diff_ids"].pop()
    data = json.dumps(config).encode()
    manifest["config"] |= {"digest": sha256(data), "size": len(data)}
    lying.manifest("1", json.dumps(manifest).encode())
    lying.answers[f"/v2/app/blobs/{sha256(data)}"] = Response(body=data)
    with pytest.raises(ImageError, match="it has 2 diff ids for 3 layers"):
        lying.resolve()


PIN = ImagePin(
    reference="registry.example/app:1",
    index=None,
    manifest=Digest.of(b"m"),
    config=Descriptor(media_type="c", digest=Digest.of(b"c"), size=1),
    layers=(LayerPin(media_type="l", digest=Digest.of(b"l"), size=2, diff_id=Digest.of(b"d")),),
)


@pytest.mark.parametrize("index", [None, Digest.of(b"i")])
def test_a_pin_survives_the_lock(index: Digest | None) -> None:
    pin = replace(PIN, index=index)
    assert ImagePin.from_json(json.loads(json.dumps(pin.to_json()))) == pin


@pytest.mark.parametrize(
    "change",
    [
        {"reference": 7},
        {"reference": "Not A Name"},
        {"manifest": "x"},
        {"manifest": None},
        {"index": 7},
        {"config": None},
        {"config": {"media_type": "x", "digest": str(Digest.of(b"")), "size": "1"}},
        {"config": {"media_type": "x", "digest": str(Digest.of(b"")), "size": -1}},
        {"layers": 7},
        {"layers": [{}]},
        {"layers": [7]},
    ],
)
def test_a_pin_that_was_edited_by_hand_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(LockError, match="cannot be read"):
        ImagePin.from_json(PIN.to_json() | change)


def test_every_field_of_a_pin_is_needed() -> None:
    for key in PIN.to_json():
        with pytest.raises(CageError):
            ImagePin.from_json({k: v for k, v in PIN.to_json().items() if k != key})


def test_examples_differ_by_architecture() -> None:
    """So that a test which takes the wrong one fails."""
    assert isinstance(IMAGE, ExampleImage)
    assert example_image("arm64").digest != IMAGE.digest

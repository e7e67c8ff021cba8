"""Access to registries: https, passwords, tokens, and where the credentials come from."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import FetchError
from cagebuild.image.reference import Reference
from cagebuild.image.registry import resolve
from tests.support.certificates import TestCertificates, make_certificates
from tests.support.registry import (
    PASSWORD,
    USER,
    Pusher,
    RunningRegistry,
    TokenServer,
    basic,
    credential_helper,
    docker_registry,
    example_image,
    fetch_blob,
    token_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

IMAGE = example_image("amd64")
AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
WRONG = base64.b64encode(f"{USER}:guessed".encode()).decode()
HELPED = f'echo \'{{"Username": "{USER}", "Secret": "{PASSWORD}"}}\''


class DockerConfig:
    """``config.json`` of a test, and a folder on PATH for helpers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "config.json"

    def write(self, **settings: object) -> None:
        self.file.write_text(json.dumps(settings))


@pytest.fixture
def docker_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DockerConfig:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return DockerConfig(tmp_path)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TestCertificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificates: TestCertificates
) -> Iterator[RunningRegistry]:
    """https and a password."""
    folder = tmp_path_factory.mktemp("secure")
    with docker_registry(folder, certificates=certificates, password=True) as running:
        pusher = Pusher(running, "team/app", {"Authorization": basic(USER, PASSWORD)})
        pusher.image("1", IMAGE)
        pusher.close()
        yield running


@pytest.fixture
def _trusted(certificates: TestCertificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.authority))


@pytest.fixture(scope="module")
def tokens(certificates: TestCertificates) -> Iterator[TokenServer]:
    with token_server(certificates) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, tokens: TokenServer
) -> Iterator[RunningRegistry]:
    """Plain http on loopback, and bearer tokens."""
    with docker_registry(tmp_path_factory.mktemp("guarded"), tokens=tokens) as running:
        for name in ("public/app", "private/app"):
            access: list[dict[str, object]] = [
                {"type": "repository", "name": name, "actions": ["pull", "push"]}
            ]
            pusher = Pusher(running, name, {"Authorization": f"Bearer {tokens.token(access)}"})
            pusher.image("1", IMAGE)
            pusher.close()
        yield running


@pytest.mark.usefixtures("_trusted")
def test_a_password_of_the_docker_config(
    secure: RunningRegistry, docker_config: DockerConfig, tmp_path: Path
) -> None:
    docker_config.write(auths={secure.host: {"auth": AUTH}})
    pin = resolve(f"{secure.host}/team/app:1", "x86_64")
    assert str(pin.manifest) == IMAGE.digest
    fetch_blob(
        Reference.of_location(pin.location),
        tmp_path / "config",
        digest=pin.config.digest,
        size=pin.config.size,
    )
    assert (tmp_path / "config").read_bytes() == IMAGE.config


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_a_password_of_a_credential_helper(
    secure: RunningRegistry, docker_config: DockerConfig, key: str
) -> None:
    log = credential_helper(docker_config.folder, "fake", {secure.host: HELPED})
    docker_config.write(**{key: {secure.host: "fake"} if key == "credHelpers" else "fake"})
    assert str(resolve(f"{secure.host}/team/app:1", "x86_64").manifest) == IMAGE.digest
    assert log.read_text() == f"get {secure.host}\n"


@pytest.mark.usefixtures("_trusted")
def test_a_helper_of_one_registry_is_not_asked_for_another(
    secure: RunningRegistry, docker_config: DockerConfig
) -> None:
    log = credential_helper(docker_config.folder, "fake", {"registry.example": HELPED})
    docker_config.write(
        credHelpers={"registry.example": "fake"}, auths={f"https://{secure.host}": {"auth": AUTH}}
    )
    resolve(f"{secure.host}/team/app:1", "x86_64")
    assert not log.exists()


@pytest.mark.usefixtures("_trusted")
def test_a_helper_without_an_entry_leaves_it_to_the_config(
    secure: RunningRegistry, docker_config: DockerConfig
) -> None:
    log = credential_helper(docker_config.folder, "fake", {})
    docker_config.write(credsStore="fake", auths={secure.host: {"auth": AUTH}})
    resolve(f"{secure.host}/team/app:1", "x86_64")
    assert log.read_text() == f"get {secure.host}\n"


def denied(reference: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        resolve(reference, "x86_64")
    text = caught.value.render() + repr(caught.value.__cause__)
    assert "guessed" not in text
    assert PASSWORD not in text
    assert AUTH not in text
    assert WRONG not in text
    return caught.value


@pytest.mark.usefixtures("_trusted")
def test_a_wrong_password_names_its_source(
    secure: RunningRegistry, docker_config: DockerConfig
) -> None:
    docker_config.write(auths={secure.host: {"auth": WRONG}})
    error = denied(f"{secure.host}/team/app:1")
    assert f"401: {secure.host} denied access to team/app" in error.message
    assert f"(credentials from {docker_config.file})" in error.message
    assert f"docker login {secure.host}" in error.hint


@pytest.mark.usefixtures("_trusted")
def test_a_wrong_password_of_a_helper_names_the_helper(
    secure: RunningRegistry, docker_config: DockerConfig
) -> None:
    guessed = HELPED.replace(PASSWORD, "guessed")
    credential_helper(docker_config.folder, "fake", {secure.host: guessed})
    docker_config.write(credsStore="fake")
    error = denied(f"{secure.host}/team/app:1")
    assert f"credentials from docker-credential-fake, which {docker_config.file}" in error.message


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "no credentials: there is no Docker config file"),
        ({}, "no credentials: none in"),
        ({"HttpHeaders": {"X": "y"}}, "no credentials: none in"),
        ({"auths": {"registry.example": {"auth": AUTH}}}, "no credentials: none in"),
    ],
    ids=["no config", "empty config", "a config without auths", "only another registry's"],
)
def test_no_credentials_say_where_was_looked(
    secure: RunningRegistry,
    docker_config: DockerConfig,
    config: dict[str, object] | None,
    said: str,
) -> None:
    if config is not None:
        docker_config.write(**config)
    assert said in denied(f"{secure.host}/team/app:1").message


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": [1]}',
        '{"auths": {"x": 1}}',
        '{"auths": {"x": {"auth": "!"}}}',
        '{"auths": {"x": {"auth": 7}}}',
        '{"credHelpers": "fake"}',
        '{"credsStore": {"x": "y"}}',
    ],
)
def test_a_broken_config_is_named(
    secure: RunningRegistry, docker_config: DockerConfig, text: str
) -> None:
    docker_config.file.write_text(text)
    error = denied(f"{secure.host}/team/app:1")
    assert f"the Docker config {docker_config.file} cannot be read" in error.message


@pytest.mark.usefixtures("_trusted")
def test_a_helper_that_is_not_there_is_named(
    secure: RunningRegistry, docker_config: DockerConfig
) -> None:
    docker_config.write(credsStore="nowhere")
    error = denied(f"{secure.host}/team/app:1")
    assert "docker-credential-nowhere is not on PATH" in error.message
    assert "install docker-credential-nowhere" in error.hint


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(
    "answer",
    [
        f"echo 'the password {PASSWORD} is stale'; exit 1",
        f"echo '{PASSWORD}'",
        "echo '[]'",
        "echo '{}'",
        """echo '{"Username": 1, "Secret": null}'; exit 3""",
    ],
)
def test_a_helper_that_fails_is_named_without_its_words(
    secure: RunningRegistry, docker_config: DockerConfig, answer: str
) -> None:
    credential_helper(docker_config.folder, "fake", {secure.host: answer})
    docker_config.write(credsStore="fake")
    error = denied(f"{secure.host}/team/app:1")
    assert "the credential helper docker-credential-fake gave no credentials" in error.message
    assert f"echo {secure.host} | docker-credential-fake get" in error.hint


def test_a_registry_whose_ca_is_unknown_is_not_spoken_to_in_plain_http(
    secure: RunningRegistry,
    docker_config: DockerConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    docker_config.write(auths={secure.host: {"auth": AUTH}})
    error = denied(f"{secure.host}/team/app:1")
    assert "TLS: the certificate is not trusted" in error.message


def test_an_anonymous_token(
    guarded: RunningRegistry, tokens: TokenServer, docker_config: DockerConfig
) -> None:
    tokens.asked.clear()
    assert str(resolve(f"{guarded.host}/public/app:1", "x86_64").manifest) == IMAGE.digest
    scope = {"scope": "repository:public/app:pull", "service": tokens.service}
    assert tokens.asked == [("GET", scope, "")]


def test_a_token_by_password(
    guarded: RunningRegistry, tokens: TokenServer, docker_config: DockerConfig, tmp_path: Path
) -> None:
    docker_config.write(auths={guarded.host: {"auth": AUTH}})
    tokens.asked.clear()
    pin = resolve(f"{guarded.host}/private/app:1", "x86_64")
    scope = {"scope": "repository:private/app:pull", "service": tokens.service}
    assert tokens.asked == [("GET", scope, basic(USER, PASSWORD))]
    fetch_blob(
        Reference.of_location(pin.location),
        tmp_path / "layer",
        digest=pin.layers[0].digest,
        size=pin.layers[0].size,
    )
    assert Digest.of_file(tmp_path / "layer") == pin.layers[0].digest


def test_a_token_by_identity_token(
    guarded: RunningRegistry, tokens: TokenServer, docker_config: DockerConfig
) -> None:
    answer = """echo '{"Username": "<token>", "Secret": "refresh-me"}'"""
    credential_helper(docker_config.folder, "fake", {guarded.host: answer})
    docker_config.write(credHelpers={guarded.host: "fake"})
    tokens.asked.clear()
    assert str(resolve(f"{guarded.host}/private/app:1", "x86_64").manifest) == IMAGE.digest
    [(method, form, authorization)] = tokens.asked
    assert (method, authorization) == ("POST", "")
    assert form["grant_type"] == "refresh_token"


@pytest.mark.parametrize("auth", [None, WRONG], ids=["anonymous", "wrong password"])
def test_a_refused_token(
    guarded: RunningRegistry, docker_config: DockerConfig, auth: str | None
) -> None:
    docker_config.write(**({"auths": {guarded.host: {"auth": auth}}} if auth else {}))
    error = denied(f"{guarded.host}/private/app:1")
    assert f"401: {guarded.host} denied access to private/app" in error.message

"""Images in Debian's docker-registry: pinned by content, fetched, taken apart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, get_args

import pytest

from cagebuild.config.model import Architecture
from cagebuild.digest import Digest
from cagebuild.errors import FetchError, ImageError, InterruptedBuildError, ResolveError
from cagebuild.image.manifest import DOCKER_INDEX, OCI_INDEX
from cagebuild.image.reference import Reference
from cagebuild.image.registry import ImagePin, resolve
from cagebuild.steps import fetch, unpack
from tests.support.registry import (
    ExampleImage,
    Pusher,
    RunningRegistry,
    docker_registry,
    example_image,
    example_index,
    fetch_blob,
)
from tests.support.steps import Context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

AMD64, ARM64 = example_image("amd64"), example_image("arm64", variant="v8")
DOCKER = example_image("amd64", docker=True)
LARGE = example_image("amd64", size=3 << 20)
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        pusher = Pusher(running, "team/app")
        images = (("linux/amd64", AMD64), ("linux/arm64/v8", ARM64))
        for name, image in (("amd64", AMD64), ("arm64", ARM64), ("docker", DOCKER)):
            pusher.image(name, image)
        pusher.image("large", LARGE)
        pusher.manifest("multi", example_index(*images), OCI_INDEX)
        docker_index = example_index(("linux/amd64", DOCKER), docker=True)
        pusher.manifest("docker-multi", docker_index, DOCKER_INDEX)
        pusher.close()
        yield running


@pytest.fixture(autouse=True)
def _no_docker_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    monkeypatch.setenv("HOME", str(tmp_path))


def blobs_of(pin: ImagePin, tmp_path: Path, architecture: str = "x") -> list[bytes]:
    """Every layer's tar, by the steps that a build has for it."""
    tars = []
    for number, layer in enumerate(pin.layers):
        folder = tmp_path / f"{architecture}{number}"
        got = Context(
            folder / "fetch",
            params={"digest": str(layer.digest)},
            hints={"locations": [pin.location], "size": layer.size},
        )
        fetch.run(got)
        tar = Context(
            folder / "unpack",
            params={"diff_id": str(layer.diff_id)},
            inputs={"layer": got.output("file")},
        )
        unpack.run(tar)
        tars.append(tar.output("layer.tar").read_bytes())
    return tars


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_index_gives_the_image_of_the_architecture(
    registry: RunningRegistry, tmp_path: Path, architecture: Architecture
) -> None:
    image = {"x86_64": AMD64, "aarch64": ARM64}[architecture]
    pin = resolve(f"{registry.host}/team/app:multi", architecture)
    index = example_index(("linux/amd64", AMD64), ("linux/arm64/v8", ARM64))
    assert pin.index == Digest.of(index)
    assert pin.manifest == Digest.of(image.manifest)
    assert pin.config.digest == Digest.of(image.config)
    assert [layer.digest for layer in pin.layers] == [Digest.of(blob) for blob in image.blobs]
    assert blobs_of(pin, tmp_path) == list(image.tars)


@pytest.mark.parametrize(
    ("name", "image", "index"),
    [("amd64", AMD64, False), ("docker", DOCKER, False), ("docker-multi", DOCKER, True)],
)
def test_every_kind_of_manifest_is_read(
    registry: RunningRegistry, tmp_path: Path, name: str, image: ExampleImage, index: bool
) -> None:
    pin = resolve(f"{registry.host}/team/app:{name}", "x86_64")
    assert pin.manifest == Digest.of(image.manifest)
    assert (pin.index is not None) == index
    assert blobs_of(pin, tmp_path) == list(image.tars)
    assert ImagePin.from_json(json.loads(json.dumps(pin.to_json()))) == pin


def test_a_digest_counts_more_than_a_tag(registry: RunningRegistry) -> None:
    pin = resolve(f"{registry.host}/team/app:docker@{AMD64.digest}", "x86_64")
    assert str(pin.manifest) == AMD64.digest


def test_an_architecture_that_is_not_there_lists_what_is(registry: RunningRegistry) -> None:
    message = r"no image for linux/arm64; it has:\n  \S+ \(linux/amd64\)"
    with pytest.raises(ResolveError, match=message):
        resolve(f"{registry.host}/team/app:docker-multi", "aarch64")


def test_a_single_image_of_another_architecture_is_refused(registry: RunningRegistry) -> None:
    with pytest.raises(ResolveError, match="is an image for linux/arm64/v8, not for linux/amd64"):
        resolve(f"{registry.host}/team/app:arm64", "x86_64")


@pytest.mark.parametrize(
    "name", ["team/app:absent", "team/nothing:1", f"team/app@sha256:{'0' * 64}"]
)
def test_an_image_that_is_not_there(registry: RunningRegistry, name: str) -> None:
    with pytest.raises(ResolveError, match="there is no image"):
        resolve(f"{registry.host}/{name}", "x86_64")


def test_a_blob_is_resumed_where_it_was_stopped(registry: RunningRegistry, tmp_path: Path) -> None:
    blob = LARGE.blobs[0]
    target = tmp_path / "blob"

    def stop(done: int, total: int | None) -> None:
        if done > 1 << 20:
            raise InterruptedBuildError("stopped")

    def get(progress: object) -> None:
        assert callable(progress)
        fetch_blob(
            Reference.parse(f"{registry.host}/team/app"),
            target,
            digest=Digest.of(blob),
            size=len(blob),
            limit=len(blob),
            progress=progress,
        )

    with pytest.raises(InterruptedBuildError):
        get(stop)
    arrived = (tmp_path / "blob.part").stat().st_size
    seen: list[int] = []
    get(lambda done, total: seen.append(done))
    assert target.read_bytes() == blob
    assert min(done for done in seen if done) > arrived > 1 << 20


def test_a_blob_that_is_not_there(registry: RunningRegistry, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"oci://{registry.host}/team/app: 404 not found"):
        fetch_blob(
            Reference.parse(f"{registry.host}/team/app"),
            tmp_path / "blob",
            digest=Digest.of(b"nothing"),
            size=None,
        )


def test_the_next_location_is_asked_when_the_registry_lacks_a_blob(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    (tmp_path / "mirror").write_bytes(b"only here")
    context = Context(
        tmp_path / "step",
        params={"digest": str(Digest.of(b"only here"))},
        hints={
            "locations": [f"oci://{registry.host}/team/app", (tmp_path / "mirror").as_uri()],
            "size": None,
            "partials": str(tmp_path / "partials"),
        },
    )
    fetch.run(context)
    assert context.output("file").read_bytes() == b"only here"


def test_a_layer_that_is_not_what_the_config_says_is_refused(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    (tmp_path / "layer").write_bytes(AMD64.blobs[0])
    context = Context(
        tmp_path / "step",
        params={"diff_id": str(Digest.of(b"other"))},
        inputs={"layer": tmp_path / "layer"},
    )
    with pytest.raises(ImageError, match="not what the image's config says"):
        unpack.run(context)
    assert not context.output("layer.tar").exists()

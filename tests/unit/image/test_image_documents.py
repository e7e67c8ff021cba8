"""Manifests and indexes that are malformed or made to mislead, and which image of several."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import ImageError, ResolveError, UnsupportedError
from cagebuild.image.choice import first_image, only_image, same_name
from cagebuild.image.manifest import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    parse_document,
    parse_index,
)
from cagebuild.image.platform import Platform
from cagebuild.image.strictjson import load_object
from tests.support.images import encode, platform

DIGEST = "sha256:" + "a" * 64
CONFIG: dict[str, object] = {"mediaType": OCI_CONFIG, "digest": DIGEST, "size": 2}
LAYER: dict[str, object] = {"mediaType": OCI_LAYER, "digest": DIGEST, "size": 1024}
GOOD: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": CONFIG,
    "layers": [LAYER],
}
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"manifests": []}, "an index and a manifest at once"),
        ({"schemaVersion": 3}, "schemaVersion must be 2"),
        ({"schemaVersion": None}, "schemaVersion must be 2"),
        ({"mediaType": OCI_INDEX}, "it says that it is"),
        ({"mediaType": DOCKER_MANIFEST}, "it says that it is"),
        ({"mediaType": 7}, "it says that it is"),
        ({"mediaType": None}, "it says that it is"),
        ({"mediaType": ["x"] * 100_000}, "it says that it is"),
        ({"layers": None}, "layers must be a list"),
        ({"layers": [LAYER] * 501}, "layers has 501 entries, more than 500"),
        ({"layers": [7]}, r"layers\[0\] must be an object"),
        ({"layers": [LAYER | {"size": -1}]}, r"layers\[0\].size must be a whole number"),
        ({"layers": [LAYER | {"size": True}]}, r"layers\[0\].size must be a whole number"),
        ({"layers": [LAYER | {"size": 1.0}]}, r"layers\[0\].size must be a whole number"),
        ({"layers": [LAYER, LAYER | {"size": 1 << 62}]}, r"layers\[1\].size is .* more than"),
        ({"layers": [LAYER | {"digest": "sha256:x"}]}, "must be a digest"),
        ({"layers": [LAYER | {"digest": "../../x"}]}, "must be a digest"),
        ({"layers": [LAYER | {"digest": 7}]}, "digest must be a string"),
        ({"layers": [LAYER | {"digest": "sha384:" + "a" * 96}]}, "sha256 or sha512 digest"),
        ({"layers": [LAYER | {"mediaType": None}]}, "mediaType must be a string"),
        ({"config": None}, "config must be an object"),
        ({"config": CONFIG | {"size": 9 << 20}}, "config.size is .* more than"),
    ],
)
def test_a_malformed_manifest_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        parse_document(encode(GOOD | change), "an image", OCI_MANIFEST)
    assert caught.value.hint
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("change", "media_type", "said"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, SCHEMA_1, "schema 1"),
        ({"schemaVersion": 1}, OCI_MANIFEST, "schema 1"),
        ({"fsLayers": []}, OCI_MANIFEST, "schema 1"),
        ({"layers": [LAYER | {"mediaType": FOREIGN}]}, OCI_MANIFEST, "media type .*foreign"),
        ({"layers": [LAYER | {"mediaType": "x" * 100_000}]}, OCI_MANIFEST, "media type"),
        ({"config": CONFIG | {"mediaType": "x"}}, OCI_MANIFEST, "not a container image"),
        ({"artifactType": "x"}, OCI_MANIFEST, "not a container image"),
        ({"mediaType": "text/html"}, "text/html", "not a container image"),
    ],
)
def test_what_is_understood_but_no_image_is_refused(
    change: dict[str, object], media_type: str, said: str
) -> None:
    with pytest.raises(UnsupportedError, match=said) as caught:
        parse_document(encode(GOOD | change), "an image", media_type)
    assert caught.value.hint
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"platform": []}, "platform must be an object"),
        ({"platform": {}}, "platform.os must be a string"),
        ({"platform": {"os": "linux", "architecture": "\x1b[2J"}}, "must be a word"),
        ({"platform": platform("amd64", "v" * 100_000)}, "platform.variant must be a word"),
        ({"annotations": {"a": 1}}, "annotations.a must be a string"),
        ({"annotations": {"a" * 100_000: 1}}, "annotations.a* must be a string"),
        ({"size": (4 << 20) + 1}, r"manifests\[0\].size is .* more than"),
    ],
)
def test_a_malformed_index_is_refused(entry: dict[str, object], said: str) -> None:
    data = encode({"schemaVersion": 2, "manifests": [LAYER | entry]})
    with pytest.raises(ImageError, match=said) as caught:
        parse_index(data, "an index")
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": 1} {"a": 1}',
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_strict_json_is_refused(text: bytes) -> None:
    with pytest.raises(ImageError):
        load_object(text, "a document", 1 << 20)


@pytest.mark.parametrize(
    ("name", "suits"),
    [
        ("linux/amd64", True),
        ("linux/amd64/v1", True),
        ("linux/amd64/v3", False),
        ("linux/amd64/v8", False),
        ("windows/amd64", False),
        ("linux/386", False),
        ("unknown/unknown", False),
    ],
)
def test_which_platforms_an_enclave_runs(name: str, suits: bool) -> None:
    os, architecture, variant = (*name.split("/"), "")[:3]
    found = Platform(os=os, architecture=architecture, variant=variant)
    assert found.suits("x86_64") == suits
    assert str(found) == name


class NoDocuments:
    """For indexes that say everything."""

    def index(self, descriptor: Descriptor) -> Index:
        raise AssertionError(descriptor)

    def platform(self, descriptor: Descriptor) -> Platform:
        raise AssertionError(descriptor)


def index_of(*entries: tuple[bytes, dict[str, object]]) -> Index:
    """Manifests by their bytes, each with what the index says of it."""
    described = [
        {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(data)), "size": len(data), **more}
        for data, more in entries
    ]
    return parse_index(json.dumps({"schemaVersion": 2, "manifests": described}).encode(), "x")


NOTE = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
SEVERAL = index_of(
    (b"unknown", {"platform": {"os": "unknown", "architecture": "unknown"}}),
    (b"attestation", {"platform": platform("amd64"), **NOTE}),
    (b"signature", {"platform": platform("amd64"), "artifactType": "x"}),
    (b"v3", {"platform": platform("amd64", "v3")}),
    (b"first", {"platform": platform("amd64")}),
    (b"second", {"platform": platform("amd64", "v1")}),
)


def test_the_first_that_suits_is_taken_where_all_are_one_image() -> None:
    found = first_image(SEVERAL, "x86_64", "an image", NoDocuments())
    assert found.descriptor.digest == Digest.of(b"first")
    with pytest.raises(ResolveError) as caught:
        first_image(SEVERAL, "aarch64", "an image", NoDocuments())
    first, *listed = caught.value.message.splitlines()
    assert first == "an image has no image for linux/arm64; it has:"
    assert [line.partition(" (")[2] for line in listed] == [
        "linux/amd64/v3)",
        "linux/amd64)",
        "linux/amd64/v1)",
    ]


def test_none_is_taken_because_it_comes_first_where_they_are_several_images() -> None:
    with pytest.raises(ResolveError, match="more than one image for linux/amd64"):
        only_image(SEVERAL, "x86_64", "a layout", NoDocuments(), None)
    plain: dict[str, object] = {"platform": platform("amd64")}
    twice = index_of((b"same", plain), (b"same", plain))
    found = only_image(twice, "x86_64", "a layout", NoDocuments(), None)
    assert found.descriptor.digest == Digest.of(b"same")


def test_a_long_list_of_images_is_cut() -> None:
    other: dict[str, object] = {"platform": platform("riscv64")}
    many = index_of(*((b"%d" % number, other) for number in range(500)))
    with pytest.raises(ResolveError, match="and 480 more") as caught:
        first_image(many, "x86_64", "an image", NoDocuments())
    assert len(caught.value.message.splitlines()) == 22


@pytest.mark.parametrize(
    ("wanted", "given", "same"),
    [
        ("a", "docker.io/library/a:latest", True),
        ("docker.io/team/a:1", "team/a:1", True),
        ("1.4", "1.4", True),
        ("a:1", "a:2", False),
        ("registry.example/a", "a", False),
    ],
)
def test_which_names_are_one_to_docker(wanted: str, given: str, same: bool) -> None:
    assert same_name(wanted, given) == same

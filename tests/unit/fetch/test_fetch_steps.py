"""The steps that get a file and take a layer out of its compression."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cagebuild.digest import Digest
from cagebuild.errors import CageError, ImageError, ResolveError
from cagebuild.image.config import parse_config
from cagebuild.image.manifest import OCI_INDEX, OCI_MANIFEST, parse_document
from cagebuild.steps import fetch, unpack
from tests.support.http_server import faulty_server
from tests.support.images import sha256
from tests.support.registry import example_image, example_index
from tests.support.steps import Context
from tests.support.tars import archive, regular

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = os.urandom(100_000)
TAR = archive(regular("etc/hostname", b"cage\n"), regular("big", bytes(100_000)))
IMAGE = example_image()


def test_a_file_is_resumed_from_the_folder_that_outlives_the_run(tmp_path: Path) -> None:
    digest = Digest.of(CONTENT)
    partials = tmp_path / "partials"
    partials.mkdir()
    (partials / f"{digest.hex}.part").write_bytes(CONTENT[:60_000])
    with faulty_server(CONTENT) as server:
        hints = {"locations": [server.url()], "size": len(CONTENT), "partials": str(partials)}
        context = Context(tmp_path / "step", params={"digest": str(digest)}, hints=hints)
        fetch.run(context)
    assert server.requests[0].headers["Range"] == "bytes=60000-"
    assert context.output("file").read_bytes() == CONTENT
    assert not list(partials.iterdir())


def test_a_location_of_no_known_form_is_an_error(tmp_path: Path) -> None:
    context = Context(
        tmp_path, params={"digest": str(Digest.of(b""))}, hints={"locations": ["oci://nothing"]}
    )
    with pytest.raises(ResolveError, match="oci://host/repository"):
        fetch.run(context)


@pytest.mark.parametrize(
    "blob",
    [
        TAR,
        gzip.compress(TAR, mtime=0),
        zstandard.compress(TAR),
        gzip.compress(TAR[:512], mtime=0) + gzip.compress(TAR[512:], mtime=0),
    ],
    ids=["plain", "gzip", "zstd", "two gzip members"],
)
def test_a_layer_comes_out_of_its_compression(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "layer").write_bytes(blob)
    context = Context(
        tmp_path / "step",
        params={"diff_id": sha256(TAR)},
        inputs={"layer": tmp_path / "layer"},
    )
    unpack.run(context)
    assert context.output("layer.tar").read_bytes() == TAR


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        TAR[:-1],
        gzip.compress(TAR, mtime=0)[:-5],
        gzip.compress(TAR, mtime=0) + b"x",
        zstandard.compress(TAR)[:-1],
    ],
    ids=["empty", "cut tar", "cut gzip", "gzip and more", "cut zstd"],
)
def test_a_damaged_layer_is_refused_and_leaves_nothing(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "layer").write_bytes(blob)
    context = Context(
        tmp_path / "step",
        params={"diff_id": sha256(TAR)},
        inputs={"layer": tmp_path / "layer"},
    )
    with pytest.raises(ImageError) as caught:
        unpack.run(context)
    assert caught.value.hint
    assert not context.output("layer.tar").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
MANIFEST, INDEX = json.loads(IMAGE.manifest), json.loads(example_index(("linux/amd64", IMAGE)))


@given(
    document=st.sampled_from([MANIFEST, INDEX, MANIFEST["layers"][0], json.loads(IMAGE.config)]),
    key=st.sampled_from([*MANIFEST, *INDEX, "platform", "size", "digest", "rootfs", "os"]),
    value=JSON,
)
def test_whatever_a_registry_sends_is_read_or_refused(
    document: dict[str, object], key: str, value: object
) -> None:
    changed = document | {key: value}
    for one in (changed, MANIFEST | {"layers": [changed]}, INDEX | {"manifests": [changed]}):
        data = json.dumps(one).encode()
        for media_type in (OCI_MANIFEST, OCI_INDEX):
            with contextlib.suppress(CageError):
                parse_document(data, "an image", media_type)
        with contextlib.suppress(CageError):
            parse_config(data, "a config")


@given(st.binary(max_size=200))
def test_whatever_bytes_a_registry_sends_are_refused(data: bytes) -> None:
    with pytest.raises(CageError):
        parse_document(data, "an image", OCI_MANIFEST)

"""Images in files: layouts, archives, choosing one of several, and what is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Literal

import pytest
import zstandard

from cagebuild.digest import Digest
from cagebuild.errors import ImageError, ResolveError, UnsupportedError
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.layout import Image, open_image
from cagebuild.image.tree import walk
from tests.support.images import LAYER, OCI, Files, encode, named, platform, sha256
from tests.support.tars import Item, archive, hard_link, pad, regular, symlink

ONE = archive(regular("a", b"1"))
TWO = archive(regular("b", b"2" * 5000))


def _open(
    path: Path,
    scratch: Path,
    *,
    name: str | None = None,
    architecture: Literal["x86_64", "aarch64"] = "x86_64",
) -> Image:
    scratch.mkdir(exist_ok=True)
    return open_image(path, architecture=architecture, scratch=scratch, name=name)


def _names(image: Image, scratch: Path) -> list[bytes]:
    layers = [
        Layer(region=layer.open(scratch), name=layer.name, origin="") for layer in image.layers
    ]
    return [path for path, _ in walk(flatten(layers))]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _layout(*layers: bytes, media_type: str = LAYER) -> Files:
    files = Files()
    return files.layout(files.image(*layers, media_type=media_type))


# What can be opened


def test_an_oci_layout_folder(tmp_path: Path) -> None:
    image = _open(_layout(ONE, TWO).folder(tmp_path / "layout"), tmp_path / "scratch")
    assert [layer.diff_id for layer in image.layers] == [Digest.of(ONE), Digest.of(TWO)]
    assert [layer.digest for layer in image.layers] == [Digest.of(ONE), Digest.of(TWO)]
    assert [layer.size for layer in image.layers] == [len(ONE), len(TWO)]
    assert {layer.media_type for layer in image.layers} == {LAYER}
    assert image.config.architecture == "amd64"
    assert _names(image, tmp_path / "scratch") == [b"a", b"b"]


def test_blobs_in_an_archive_are_read_where_they_stand(tmp_path: Path) -> None:
    path = _write(tmp_path / "image.tar", _layout(ONE, TWO).tar())
    image = _open(path, tmp_path / "scratch")
    assert _names(image, tmp_path / "scratch") == [b"a", b"b"]
    assert list((tmp_path / "scratch").iterdir()) == []
    region = image.layers[1].open(tmp_path / "scratch")
    assert path.read_bytes()[region.offset : region.offset + region.size] == TWO


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_compressed_archive_whatever_its_name(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    path = _write(tmp_path / "image.tar", compress(_layout(ONE).tar()))
    assert _names(_open(path, tmp_path / "scratch"), tmp_path / "scratch") == [b"a"]


@pytest.mark.parametrize(
    ("media_type", "compressed"),
    [
        (LAYER + "+gzip", gzip.compress(ONE, mtime=0)),
        (LAYER + "+zstd", zstandard.compress(ONE)),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress(ONE, mtime=0)),
        (LAYER + "+gzip", gzip.compress(ONE[:512], mtime=0) + gzip.compress(ONE[512:], mtime=0)),
    ],
)
def test_compressed_layers(tmp_path: Path, media_type: str, compressed: bytes) -> None:
    files = Files()
    files.layout(files.image(ONE, stored=[compressed], media_type=media_type))
    image = _open(files.folder(tmp_path / "layout"), tmp_path / "scratch")
    layer = image.layers[0]
    assert layer.compressed
    assert (layer.digest, layer.diff_id) == (Digest.of(compressed), Digest.of(ONE))
    region = layer.open(tmp_path / "scratch")
    assert b"".join(region.chunks()) == ONE


def _docker_archive(*names: str, layers: tuple[bytes, ...] = (ONE, TWO)) -> Files:
    config = encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        }
    )
    files = {sha256(config)[7:] + ".json": config}
    paths = [f"{number:064x}/layer.tar" for number in range(len(layers))]
    files |= dict(zip(paths, layers, strict=True))
    item = {"Config": sha256(config)[7:] + ".json", "RepoTags": list(names), "Layers": paths}
    files["manifest.json"] = encode([item])
    return Files(files)


def test_an_old_docker_archive(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tar", _docker_archive("app:1").tar())
    image = _open(path, tmp_path / "scratch", name="docker.io/library/app:1")
    assert image.name == "app:1"
    assert image.layers[0].digest is None
    assert image.manifest_digest is None
    assert _names(image, tmp_path / "scratch") == [b"a", b"b"]


def test_an_old_docker_archive_whose_layers_are_links_to_others(tmp_path: Path) -> None:
    files = _docker_archive(layers=(ONE, TWO, ONE)).files
    first, third = f"{0:064x}", f"{2:064x}"
    items = [regular(name, data) for name, data in files.items() if not name.startswith(third)]
    items.append(symlink(f"{third}/layer.tar", f"../{first}/layer.tar"))
    image = _open(_write(tmp_path / "a.tar", archive(*items)), tmp_path / "scratch")
    assert b"".join(image.layers[2].open(tmp_path).chunks()) == ONE
    items[-1] = hard_link(f"{third}/layer.tar", f"{first}/layer.tar")
    image = _open(_write(tmp_path / "a.tar", archive(*items)), tmp_path / "scratch")
    assert b"".join(image.layers[2].open(tmp_path).chunks()) == ONE


def test_a_new_docker_archive_has_both_files(tmp_path: Path) -> None:
    files = Files()
    descriptor = files.image(ONE, config={"Cmd": ["/a"]})
    files.layout(named(descriptor, "1", "docker.io/library/app:1"))
    config = next(name for name, data in files.files.items() if b'"Cmd"' in data)
    item = {"Config": config, "RepoTags": ["app:1"], "Layers": ["blobs/sha256/" + sha256(ONE)[7:]]}
    files.files["manifest.json"] = encode([item])
    path = _write(tmp_path / "a.tar", files.tar())
    for name in (None, "app:1", "1", "library/app:1"):
        image = _open(path, tmp_path / "scratch", name=name)
        assert image.config.cmd == ("/a",)
        assert image.manifest_digest == Digest.parse(str(descriptor["digest"]))
    other = files.image(TWO)
    files.layout(named(other, "1"))
    with pytest.raises(ImageError, match="name different images"):
        _open(_write(tmp_path / "a.tar", files.tar()), tmp_path / "scratch")


# Choosing


def test_the_platform_is_chosen_through_nested_indexes(tmp_path: Path) -> None:
    files = Files()
    amd = {**files.image(ONE), "platform": platform("amd64")}
    arm = {**files.image(TWO, architecture="arm64"), "platform": platform("arm64", "v8")}
    note = {
        **files.image(ONE, TWO),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    inner = files.blob(files.index(amd, arm, note), OCI + "index.v1+json")
    path = files.layout(named(inner, "v1")).folder(tmp_path / "layout")
    image = _open(path, tmp_path / "scratch", architecture="x86_64")
    assert (_names(image, tmp_path), image.name) == ([b"a"], "v1")
    image = _open(path, tmp_path / "scratch", architecture="aarch64")
    assert (_names(image, tmp_path), image.name) == ([b"b"], "v1")


def test_a_manifest_without_a_platform_is_looked_into(tmp_path: Path) -> None:
    files = Files()
    files.layout(files.image(ONE), files.image(TWO, architecture="arm64"))
    path = files.folder(tmp_path / "layout")
    image = _open(path, tmp_path / "scratch", architecture="aarch64")
    assert _names(image, tmp_path) == [b"b"]


def test_the_plain_variant_is_preferred(tmp_path: Path) -> None:
    files = Files()
    files.layout(
        {**files.image(TWO), "platform": platform("amd64", "v3")},
        {**files.image(ONE), "platform": platform("amd64")},
    )
    image = _open(files.folder(tmp_path / "layout"), tmp_path / "scratch")
    assert _names(image, tmp_path) == [b"a"]


def test_a_name_chooses_and_the_error_lists_what_there_is(tmp_path: Path) -> None:
    files = Files()
    files.layout(named(files.image(ONE), "one"), named(files.image(TWO), "two"))
    path = files.folder(tmp_path / "layout")
    assert _names(_open(path, tmp_path / "scratch", name="two"), tmp_path) == [b"b"]
    with pytest.raises(ResolveError, match=r"more than one image .*\n  one .*\n  two ") as caught:
        _open(path, tmp_path / "scratch")
    assert caught.value.hint == "name one of them"
    with pytest.raises(ResolveError, match=r"no image 'three' .*\n  one .*linux/amd64"):
        _open(path, tmp_path / "scratch", name="three")
    with pytest.raises(ResolveError, match="no image for linux/arm64"):
        _open(path, tmp_path / "scratch", architecture="aarch64")


def test_a_docker_archive_of_several_images_wants_a_name(tmp_path: Path) -> None:
    one, two = _docker_archive("a:1"), _docker_archive("b:1", layers=(TWO,))
    both = {**one.files, **two.files}
    both["manifest.json"] = b"[%s,%s]" % tuple(
        files.files["manifest.json"][1:-1] for files in (one, two)
    )
    # Both archives number their layers from 0.
    both[f"{0:064x}/layer.tar"] = TWO
    path = Files(both).folder(tmp_path / "archive")
    assert _names(_open(path, tmp_path / "scratch", name="b:1"), tmp_path) == [b"b"]
    with pytest.raises(ResolveError, match=r"2 images.*\n  a:1\n  b:1"):
        _open(path, tmp_path / "scratch")
    with pytest.raises(ResolveError, match=r"no images with the name 'c'"):
        _open(path, tmp_path / "scratch", name="c")


# What is refused


def _refused(files: Files, tmp_path: Path, reason: str) -> None:
    path, scratch = _write(tmp_path / "a.tar", files.tar()), tmp_path / "scratch"
    with pytest.raises(ImageError, match=reason) as caught:
        _names(_open(path, scratch), scratch)
    assert caught.value.hint


def _blob(files: Files, part: bytes) -> str:
    return next(
        name for name, data in files.files.items() if part in data and name.startswith("blobs")
    )


@pytest.mark.parametrize("part", [b'"rootfs"', b'"layers": ['])
def test_a_changed_document(tmp_path: Path, part: bytes) -> None:
    files = _layout(ONE)
    name = _blob(files, part)
    files.files[name] = files.files[name].replace(b'"', b" ", 1)
    _refused(files, tmp_path, "its digest is sha256:")


def test_a_document_of_another_size(tmp_path: Path) -> None:
    files = _layout(ONE)
    name = _blob(files, b'"rootfs"')
    files.files[name] += b" "
    _refused(files, tmp_path, "bytes, not")


def test_a_changed_layer(tmp_path: Path) -> None:
    files = _layout(ONE)
    files.files["blobs/sha256/" + sha256(ONE)[7:]] = ONE[:-1] + b"x"
    _refused(files, tmp_path, "its diff id is sha256:")


def test_a_compressed_layer_with_another_content(tmp_path: Path) -> None:
    files = Files()
    files.layout(files.image(ONE, stored=[gzip.compress(TWO, mtime=0)], media_type=LAYER + "+gzip"))
    _refused(files, tmp_path, f"its diff id is {sha256(TWO)}, not {sha256(ONE)}")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_layer_compressed_otherwise_than_its_digest_says(tmp_path: Path) -> None:
    files = Files()
    stored, other = gzip.compress(ONE, 9, mtime=0), gzip.compress(ONE, 9, mtime=1)
    files.layout(files.image(ONE, stored=[stored], media_type=LAYER + "+gzip"))
    files.files["blobs/sha256/" + sha256(stored)[7:]] = other
    _refused(files, tmp_path, "its digest is")


def test_a_missing_blob(tmp_path: Path) -> None:
    files = _layout(ONE)
    del files.files["blobs/sha256/" + sha256(ONE)[7:]]
    _refused(files, tmp_path, "is not there")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+encrypted",
        "application/vnd.in-toto+json",
    ],
)
def test_layers_of_other_kinds(tmp_path: Path, media_type: str) -> None:
    path = _layout(ONE, media_type=media_type).folder(tmp_path / "layout")
    with pytest.raises(UnsupportedError, match="media type"):
        _open(path, tmp_path / "scratch")


def test_layers_and_diff_ids_that_do_not_match(tmp_path: Path) -> None:
    files = Files()
    files.layout(files.image(ONE, TWO, stored=[ONE]))
    _refused(files, tmp_path, "2 diff ids for 1 layers")


def test_an_image_for_another_architecture_than_its_descriptor_says(tmp_path: Path) -> None:
    files = Files()
    files.layout({**files.image(ONE, architecture="arm64"), "platform": platform("amd64")})
    path = files.folder(tmp_path / "layout")
    with pytest.raises(ResolveError, match="linux/arm64, not for linux/amd64"):
        _open(path, tmp_path / "scratch")


def test_an_image_for_newer_processors_than_every_host_has(tmp_path: Path) -> None:
    files = Files()
    files.layout({**files.image(ONE), "platform": platform("amd64", "v3")})
    with pytest.raises(ResolveError, match=r"no image for linux/amd64; it has:\n.*amd64/v3"):
        _open(files.folder(tmp_path / "layout"), tmp_path / "scratch")


def test_a_blob_by_another_digest_than_layouts_have(tmp_path: Path) -> None:
    files = Files()
    descriptor = files.image(ONE)
    data = files.files["blobs/sha256/" + str(descriptor["digest"])[7:]]
    files.layout({**descriptor, "digest": str(Digest.of(data, "sha512"))})
    _refused(files, tmp_path, "must have a sha256 digest")


def test_a_manifest_of_another_kind_than_its_descriptor_says(tmp_path: Path) -> None:
    files = _layout(ONE)
    data = files.files[_blob(files, b'"schemaVersion"')]
    said = data[:-1] + b', "mediaType": "%s"}' % (OCI + "manifest.v1+json").encode()
    other = "application/vnd.docker.distribution.manifest.v2+json"
    _refused(files.layout(files.blob(said, other)), tmp_path, "but came as")


def test_a_layout_of_schema_1(tmp_path: Path) -> None:
    files = _layout(ONE)
    files.files["index.json"] = b'{"schemaVersion":1,"manifests":[]}'
    with pytest.raises(UnsupportedError, match="schema 1"):
        _open(files.folder(tmp_path / "layout"), tmp_path / "scratch")


def test_indexes_that_go_on_for_ever(tmp_path: Path) -> None:
    files = Files()
    descriptor = files.image(ONE)
    for _ in range(10):
        descriptor = files.blob(files.index(descriptor), OCI + "index.v1+json")
    _refused(files.layout(descriptor), tmp_path, "nested too deeply")
    wide = files.blob(files.index(*[descriptor] * 100), OCI + "index.v1+json")
    _refused(files.layout(*[wide] * 100), tmp_path, "nested too deeply|more than 1000")
    _refused(files.layout(*[descriptor] * 1001), tmp_path, "more than 1000")


def test_a_manifest_that_is_an_index_too(tmp_path: Path) -> None:
    files = Files()
    files.image(ONE)
    data = files.files[_blob(files, b'"schemaVersion"')]
    both = data[:-1] + b', "manifests": []}'
    _refused(
        files.layout(files.blob(both, OCI + "manifest.v1+json")),
        tmp_path,
        "an index and a manifest at once",
    )


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be an object"),
        (b'{"schemaVersion":3,"manifests":[]}', "schemaVersion must be 2"),
        (b'{"schemaVersion":2}', "manifests must be a list"),
        (b'{"schemaVersion":2,"manifests":[],"manifests":[]}', "given twice"),
        (b'{"schemaVersion":2,"manifests":[{}]}', "mediaType must be a string"),
        (
            b'{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"md5:0","size":1}]}',
            "a digest",
        ),
        (b"[" * 100_000, "nested too deeply|not valid"),
        (b'{"schemaVersion":NaN}', "not JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b" " * (4 << 20) + b"{}", "more than 4194304"),
    ],
)
def test_an_index_that_makes_no_sense(tmp_path: Path, index: bytes, reason: str) -> None:
    files = _layout(ONE)
    files.files["index.json"] = index
    _refused(files, tmp_path, reason)


def test_a_descriptor_with_a_negative_or_broken_size(tmp_path: Path) -> None:
    files = Files()
    descriptor = files.image(ONE)
    for size in (-1, 1.5, True, "7", 1 << 63, None):
        _refused(files.layout({**descriptor, "size": size}), tmp_path, "size must be a whole")


def test_another_version_of_layouts(tmp_path: Path) -> None:
    files = _layout(ONE)
    files.files["oci-layout"] = encode({"imageLayoutVersion": "2.0.0"})
    _refused(files, tmp_path, "imageLayoutVersion")


def test_what_is_no_image(tmp_path: Path) -> None:
    _refused(Files({"x": b"1"}), tmp_path, "is no image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="is no image"):
        _open(tmp_path / "empty", tmp_path / "scratch")
    with pytest.raises(ImageError, match="checksum"):
        _open(_write(tmp_path / "b", b"x" * 1000), tmp_path / "scratch")


def test_a_path_that_is_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo"):
        with pytest.raises(ImageError, match="there is no image at"):
            _open(tmp_path / name, tmp_path / "scratch")


def test_a_docker_archive_with_a_changed_config(tmp_path: Path) -> None:
    files = _docker_archive()
    name = next(name for name in files.files if name.endswith(".json") and name[0] != "m")
    files.files[name] += b" "
    _refused(files, tmp_path, "the digest of")


def test_links_in_an_archive_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(ONE)
    files = _docker_archive(layers=(ONE,)).files
    layer = f"{0:064x}/layer.tar"
    for target in (str(tmp_path / "secret"), "../../secret", "layer.tar", "../" + layer):
        items: list[Item | bytes] = [
            regular(name, data) for name, data in files.items() if name != layer
        ]
        path = _write(tmp_path / "a.tar", archive(*items, symlink(layer, target)))
        with pytest.raises(ImageError, match="is not there"):
            _open(path, tmp_path / "scratch")


def test_a_name_twice_in_an_archive(tmp_path: Path) -> None:
    files = _layout(ONE)
    data = archive(files.tar()[:-1024], regular("./index.json", b"{}"))
    with pytest.raises(ImageError, match=r"'index.json' twice"):
        _open(_write(tmp_path / "a.tar", pad(data)), tmp_path / "scratch")


def test_a_blob_that_is_a_folder_or_a_fifo_is_not_read(tmp_path: Path) -> None:
    path = _layout(ONE).folder(tmp_path / "layout")
    blob = path / "blobs/sha256" / sha256(ONE)[7:]
    blob.unlink()
    blob.mkdir()
    with pytest.raises(ImageError, match="is not there"):
        _open(path, tmp_path / "scratch")

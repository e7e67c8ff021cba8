"""Contents stay where they are: an image costs memory by the number of its entries."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from cagebuild.errors import ImageError
from cagebuild.image.tree import FileSource, Kind, Node, Region, new_root, walk
from tests.support.dockerfile_golden import lines
from tests.support.embedded import built
from tests.support.tars import archive, regular

BIG = b"\0" * (3 << 20) + b"end"


def on_disk(folder: Path, **files: bytes) -> Node:
    """A context whose files are read from disk."""
    root = new_root()
    for name, data in files.items():
        path = folder / name
        path.write_bytes(data)
        region = Region.of_file(path)
        assert root.children is not None
        root.children[name.encode()] = Node(
            Kind.FILE, mode=0o644, size=region.size, source=region.source
        )
    return root


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def source_of(root: Node, path: bytes) -> tuple[Path, int]:
    node = dict(walk(root))[path]
    assert isinstance(node.source, FileSource)
    return node.source.path, node.offset


def test_a_copy_reads_from_the_context(tmp_path: Path, scratch: Path) -> None:
    context = on_disk(tmp_path, big=BIG)
    image = built("FROM scratch\nCOPY big /a\n", scratch, context=context)
    assert source_of(image.root, b"a") == (tmp_path / "big", 0)
    assert not list(scratch.iterdir())


def test_a_plain_archive_is_read_in_place(tmp_path: Path, scratch: Path) -> None:
    context = on_disk(tmp_path, t=archive(regular("big", BIG)))
    image = built("FROM scratch\nADD t /\n", scratch, context=context)
    assert source_of(image.root, b"big") == (tmp_path / "t", 512)
    assert not list(scratch.iterdir())


def two_streams(data: bytes) -> bytes:
    return bz2.compress(data[:99]) + bz2.compress(data[99:])


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, two_streams])
def test_a_compressed_archive_goes_to_scratch(
    compress: Callable[[bytes], bytes], tmp_path: Path, scratch: Path
) -> None:
    data = archive(regular("big", BIG))
    context = on_disk(tmp_path, t=compress(data))
    image = built("FROM scratch\nADD t /one/\nADD t /two/\n", scratch, context=context)
    first, second = (source_of(image.root, path)[0] for path in (b"one/big", b"two/big"))
    assert {first, second} == set(scratch.iterdir())
    assert first.read_bytes() == data
    node = dict(walk(image.root))[b"one/big"]
    assert b"".join(node.read()) == BIG


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_a_compressed_archive_that_is_cut(
    compress: Callable[[bytes], bytes], tmp_path: Path, scratch: Path
) -> None:
    data = b"".join(n.to_bytes(4, "little") for n in range(1 << 18))
    context = on_disk(tmp_path, t=compress(archive(regular("a", data)))[:-200])
    with pytest.raises(ImageError, match=r"Dockerfile:2: t: the .* stream"):
        built("FROM scratch\nADD t /\n", scratch, context=context)


def test_a_bomb(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cagebuild.embedded import archives
    from cagebuild.image.compression import Limits

    monkeypatch.setattr(archives, "_LIMITS", Limits(max_bytes=1 << 20))
    context = on_disk(tmp_path, t=bz2.compress(archive(regular("big", BIG))))
    with pytest.raises(ImageError, match="unpack to more than 1048576"):
        built("FROM scratch\nADD t /\n", scratch, context=context)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BZh",
        b"BZh9junk",
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0junk",
        b"\x28\xb5\x2f\xfd",
        bytes(1024),
    ],
)
def test_what_is_no_archive_is_copied(data: bytes, tmp_path: Path, scratch: Path) -> None:
    context = on_disk(tmp_path, t=data)
    image = built("FROM scratch\nADD t /x/\n", scratch, context=context)
    assert lines(image.root)[1].startswith("x/t file 0644 0:0 ")

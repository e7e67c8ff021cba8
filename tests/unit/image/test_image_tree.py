"""Trees: order of the walk, contents with and without holes, hard links."""

from __future__ import annotations

from pathlib import Path

import pytest

from cagebuild.errors import ImageError
from cagebuild.image.tree import FileSource, Kind, MemorySource, Node, new_root, walk


def _file(data: bytes) -> Node:
    return Node(Kind.FILE, mode=0o644, size=len(data), source=MemorySource(data))


def _directory(**children: Node) -> Node:
    node = new_root()
    node.children = {name.encode(): child for name, child in children.items()}
    return node


def test_walk_sorts_components_not_paths() -> None:
    root = new_root()
    assert root.children is not None
    root.children[b"foo-bar"] = _file(b"")
    root.children[b"foo"] = _directory(x=_file(b""))
    root.children[b"\xff"] = _file(b"")
    root.children[b"a"] = _directory(b=_directory(), c=_directory(d=_file(b"")))
    assert [path for path, _ in walk(root)] == [
        b"a",
        b"a/b",
        b"a/c",
        b"a/c/d",
        b"foo",
        b"foo/x",
        b"foo-bar",
        b"\xff",
    ]


def test_walk_puts_the_prefix_before_every_path() -> None:
    root = _directory(a=_directory(b=_file(b"")))
    assert [path for path, _ in walk(root, b"rootfs/")] == [b"rootfs/a", b"rootfs/a/b"]


def test_walk_sees_what_the_caller_adds_to_the_directory_just_given() -> None:
    root = _directory(a=_directory())
    paths = []
    for path, node in walk(root):
        paths.append(path)
        if path == b"a":
            assert node.children is not None
            node.children[b"late"] = _file(b"")
    assert paths == [b"a", b"a/late"]


def test_walk_of_a_very_deep_tree_needs_no_recursion() -> None:
    root = deepest = new_root()
    for _ in range(2000):
        child = new_root()
        deepest.children = {b"d": child}
        deepest = child
    assert sum(1 for _ in walk(root)) == 2000


def test_read_gives_the_content_in_chunks() -> None:
    node = Node(Kind.FILE, mode=0o644, size=7, source=MemorySource(b"..0123456.."), offset=2)
    assert list(node.read(3)) == [b"012", b"345", b"6"]


def test_read_fills_holes_with_zeros() -> None:
    node = Node(
        Kind.FILE,
        mode=0o644,
        size=12,
        source=MemorySource(b"-abcDE"),
        extents=((2, 1, 3), (9, 4, 2)),
    )
    assert b"".join(node.read(2)) == b"\0\0abc\0\0\0\0DE\0"
    assert max(map(len, node.read(2))) == 2


def test_read_of_an_all_hole_file() -> None:
    node = Node(Kind.FILE, mode=0o644, size=5, source=MemorySource(b""), extents=())
    assert b"".join(node.read(4)) == bytes(5)


def test_read_says_when_the_source_ends_early() -> None:
    node = Node(Kind.FILE, mode=0o644, size=9, source=MemorySource(b"12345"), origin="app")
    with pytest.raises(ImageError, match="from app ends early: 4 bytes are missing at offset 5"):
        list(node.read())


def test_a_file_source_reads_at_any_offset(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"0123456789")
    source = FileSource(path)
    assert source.pread(3, 4) == b"456"
    assert source.pread(30, 8) == b"89"
    source.close()


def test_rare_attributes_can_be_set_without_leaking_to_others() -> None:
    one, other = _file(b""), _file(b"")
    one.rdev, one.xattrs, one.extents = (1, 3), True, ()
    assert (one.rdev, one.xattrs, one.extents) == ((1, 3), True, ())
    assert (other.rdev, other.xattrs, other.extents) == ((0, 0), False, None)

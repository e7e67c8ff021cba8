"""Random trees to ramdisks and image files, read back by parsers that share no code with the
writers."""

from __future__ import annotations

import contextlib
import stat
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cagebuild.errors import CageError
from cagebuild.image.tree import Kind, MemorySource, Node
from cagebuild.nitro import crc, newc, ramdisk, reader
from cagebuild.nitro.build import build
from cagebuild.nitro.cpio import Entry, archive_size, pack
from cagebuild.nitro.manifest import eif_entries
from tests.support import eif_by_spec as spec
from tests.support.nitro import job, tree

NUMBER = st.integers(0, 2**32 - 1)
PERMISSIONS = st.integers(0, 0o7777)
NAME = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
ENTRY = st.builds(
    lambda name, kind, permissions, numbers, content, rdev: Entry(
        name,
        kind | permissions,
        numbers[0],
        numbers[1],
        numbers[2],
        content if kind in (stat.S_IFREG, stat.S_IFLNK) else b"",
        rdev,
    ),
    NAME,
    st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO]),
    PERMISSIONS,
    st.tuples(NUMBER, NUMBER, NUMBER),
    st.binary(min_size=1, max_size=40).filter(lambda data: b"\0" not in data),
    st.tuples(NUMBER, NUMBER),
)


def files() -> st.SearchStrategy[Node]:
    def node(data: bytes, mode: int, owner: tuple[int, int], mtime: int) -> Node:
        return Node(
            Kind.FILE,
            mode=mode,
            uid=owner[0],
            gid=owner[1],
            mtime=mtime,
            size=len(data),
            source=MemorySource(data),
        )

    return st.builds(node, st.binary(max_size=50), PERMISSIONS, st.tuples(NUMBER, NUMBER), NUMBER)


def directories(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    def node(mode: int, mtime: int, below: dict[bytes, Node]) -> Node:
        made = Node(Kind.DIRECTORY, mode=mode, mtime=mtime)
        assert made.children is not None
        made.children.update(below)
        return made

    return st.builds(node, PERMISSIONS, NUMBER, st.dictionaries(NAME, children, max_size=4))


SYMLINKS = st.builds(
    lambda target, mtime: Node(Kind.SYMLINK, mode=0o777, target=target, mtime=mtime),
    st.binary(min_size=1, max_size=20).filter(lambda target: b"\0" not in target),
    NUMBER,
)
TREES = st.dictionaries(
    NAME, st.recursive(st.one_of(files(), SYMLINKS), directories, max_leaves=12), max_size=5
)


@given(st.lists(ENTRY, max_size=8))
def test_what_is_packed_is_read_back(entries: list[Entry]) -> None:
    if any(entry.name == b"TRAILER!!!" for entry in entries):
        return
    data = b"".join(pack(entries))
    assert len(data) == archive_size(entries)
    read = spec.cpio(data).entries
    assert [(e.name, e.mode, e.uid, e.gid, e.mtime, e.data, e.rdev, e.ino) for e in read] == [
        (e.name, e.mode, e.uid, e.gid, e.mtime, e.content, e.rdev, 721 + number)
        for number, e in enumerate(entries)
    ]


def listed(prefix: bytes, children: dict[bytes, Node]) -> list[tuple[bytes, Node]]:
    """The order by the rule's words: sorted by component, a directory just before its contents."""
    found = []
    for name in sorted(children):
        node = children[name]
        below = node.children
        found.append((prefix + name + (b"/" if below is not None else b""), node))
        if below is not None:
            found += listed(prefix + name + b"/", below)
    return found


@given(TREES)
def test_a_tree_keeps_its_order_and_attributes(children: dict[bytes, Node]) -> None:
    reserved = {b"dev", b"etc", b"proc", b"sys", b".dockerenv", b"Dockerfile"}
    children = {name: node for name, node in children.items() if name not in reserved}
    entries = ramdisk.image_entries(tree(children), cmd=(), env=(), warnings=ramdisk.Warnings())
    read = spec.cpio(b"".join(pack(entries))).entries[1:-9]
    wanted = listed(b"rootfs/", children)
    assert [entry.name for entry in read] == [name for name, _ in wanted]
    for entry, (_, node) in zip(read, wanted, strict=True):
        mode = 0o777 if node.kind is Kind.SYMLINK else node.mode
        assert stat.S_IMODE(entry.mode) == mode
        assert (entry.uid, entry.gid, entry.mtime) == (node.uid, node.gid, node.mtime)
        content = node.target if node.kind is Kind.SYMLINK else b"".join(node.read())
        assert entry.data == (b"" if node.kind is Kind.DIRECTORY else content)


@settings(max_examples=40, deadline=None)
@given(TREES, st.lists(st.text(max_size=9).filter(lambda t: "\n" not in t and "\0" not in t)))
def test_an_image_file_is_read_back(children: dict[bytes, Node], env: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = replace(job(folder, tree(children)), env=tuple(env))
        path = folder / "x.eif"
        measured = build(made, output=path).measured
        image = reader.read(path)
        assert image.measurements == measured.measurements
        by_spec = spec.image(path.read_bytes())
        assert measured.measurements.pcrs() == spec.pcrs(by_spec)
        entries = [entry for disk in by_spec.ramdisks for entry in spec.cpio(disk).entries]
        assert [e.path for e in eif_entries(image)] == [e.name for e in entries]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_crcs_combine(first: bytes, second: bytes) -> None:
    combined = crc.combine(zlib.crc32(first), zlib.crc32(second), len(second))
    assert combined == zlib.crc32(first + second)


@given(st.lists(ENTRY, max_size=4), st.integers(0), st.binary(max_size=5), st.booleans())
def test_a_damaged_archive_is_read_or_refused(
    entries: list[Entry], position: int, patch: bytes, cut: bool
) -> None:
    data = bytearray(b"".join(pack(entries)))
    at = position % len(data)
    data[at : at + len(patch)] = patch
    if cut:
        del data[at:]
    left = memoryview(bytes(data))

    def read(size: int) -> bytes:
        nonlocal left
        piece, left = left[:size], left[size:]
        return bytes(piece)

    with contextlib.suppress(CageError):
        list(newc.members(newc.Stream(read, "ramdisk 0"), digests=True))


@given(st.binary(max_size=200))
def test_metadata_is_an_object_or_refused(data: bytes) -> None:
    with contextlib.suppress(CageError):
        assert isinstance(reader.parse_metadata(data), dict)

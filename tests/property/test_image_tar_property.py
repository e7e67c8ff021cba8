"""Archives: written and read again, read as Python's tarfile reads them, refused when damaged."""

from __future__ import annotations

import io
import math
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cagebuild.errors import ImageError
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.tar import Entry, read_tar
from cagebuild.image.tarwriter import TarWriter, write_tree
from cagebuild.image.tree import Kind, MemorySource, Node, Region, new_root, walk
from tests.support.trees import facts

if TYPE_CHECKING:
    from collections.abc import Sequence

# Whole trees: written, read, flattened

_component = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.binary(min_size=90, max_size=255),
    st.sampled_from([b"a", b"b", b"\xff", b" ", b"\n", b"...", b"PaxHeader"]),
).filter(
    lambda name: not set(name) & {0, 0x2F} and name not in (b".", b"..") and name[:4] != b".wh."
)
_target = st.binary(min_size=1, max_size=300).filter(lambda target: 0 not in target)
_id = st.integers(0, 0xFFFF_FFFF)
_time = st.integers(-(1 << 40), 1 << 62)


@st.composite
def _leaves(draw: st.DrawFn) -> Node:
    kind = draw(st.sampled_from([Kind.FILE, Kind.FILE, *Kind]))
    data = draw(st.binary(max_size=1200)) if kind is Kind.FILE else b""
    device = kind in (Kind.CHARACTER, Kind.BLOCK)
    return Node(
        kind,
        mode=0o777 if kind is Kind.SYMLINK else draw(st.integers(0, 0o7777)),
        uid=draw(_id),
        gid=draw(_id),
        mtime=draw(_time),
        size=len(data),
        source=MemorySource(data),
        target=draw(_target) if kind is Kind.SYMLINK else b"",
        rdev=(draw(st.integers(1, 4095)), draw(st.integers(0, (1 << 20) - 1)))
        if device
        else (0, 0),
    )


@st.composite
def _trees(draw: st.DrawFn) -> Node:
    root = new_root()
    folders = [root]
    leaves: list[Node] = []
    for node in draw(st.lists(_leaves(), max_size=12)):
        folder = draw(st.sampled_from(folders))
        assert folder.children is not None
        name = draw(_component)
        if name in folder.children:
            continue
        folder.children[name] = node
        (folders if node.kind is Kind.DIRECTORY else leaves).append(node)
        more = draw(st.booleans())
        if leaves and more:
            linked, other = draw(st.sampled_from(leaves)), draw(_component)
            if other not in folder.children:
                folder.children[other] = linked
                linked.links += 1
    return root


@given(_trees())
@settings(deadline=None)
def test_a_tree_written_and_flattened_is_the_same_tree(root: Node) -> None:
    out = io.BytesIO()
    write_tree(root, out.write)
    layer = Layer(region=Region.of_bytes(out.getvalue()), name="layer", origin="")
    again = flatten([layer])
    assert facts(again) == facts(root)
    second = io.BytesIO()
    write_tree(again, second.write)
    assert second.getvalue() == out.getvalue()


# Against Python's tarfile

_text = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=150
).filter(lambda name: name.strip("/") and not name.endswith("/"))
_TYPES = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
]


@st.composite
def _members(draw: st.DrawFn, form: int) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(draw(_text))
    member.type = draw(st.sampled_from(_TYPES))
    member.mode = draw(st.integers(0, 0o7777))
    member.uname, member.gname = draw(st.sampled_from(["", "root", "ü"])), ""
    large = form != tarfile.USTAR_FORMAT
    member.uid = draw(st.integers(0, 0xFFFF_FFFF if large else 0o7777777))
    member.gid = draw(st.integers(0, 0xFFFF_FFFF if large else 0o7777777))
    member.mtime = draw(st.integers(-(1 << 33) if large else 0, 1 << 33))
    if form == tarfile.PAX_FORMAT:
        fraction = draw(st.sampled_from([0, 0.25, 0.5]))
        member.mtime = float(member.mtime) + fraction
    if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        member.linkname = draw(_text)
    data = draw(st.binary(max_size=1100)) if member.type == tarfile.REGTYPE else b""
    member.size = len(data)
    return member, data


def _as_tarfile_has_it(member: tarfile.TarInfo) -> tuple[object, ...]:
    symlink = member.type == tarfile.SYMTYPE
    return (
        member.name.encode("utf-8", "surrogateescape"),
        member.type,
        0o777 if symlink else member.mode,
        member.uid,
        member.gid,
        math.floor(member.mtime),
        member.size,
        member.linkname.encode("utf-8", "surrogateescape"),
    )


def _as_read(entry: Entry) -> tuple[object, ...]:
    node = entry.node
    types = {
        Kind.FILE: tarfile.REGTYPE,
        Kind.DIRECTORY: tarfile.DIRTYPE,
        Kind.SYMLINK: tarfile.SYMTYPE,
        Kind.CHARACTER: tarfile.CHRTYPE,
        Kind.FIFO: tarfile.FIFOTYPE,
    }
    return (
        entry.name.rstrip(b"/") if node.kind is Kind.DIRECTORY else entry.name,
        tarfile.LNKTYPE if entry.link is not None else types[node.kind],
        node.mode,
        node.uid,
        node.gid,
        node.mtime,
        node.size,
        node.target if entry.link is None else entry.link,
    )


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(data=st.data())
@settings(deadline=None)
def test_archives_of_tarfile_read_as_tarfile_reads_them(form: int, data: st.DataObject) -> None:
    out = io.BytesIO()
    contents = []
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for member, content in data.draw(st.lists(_members(form), max_size=5)):
            try:
                made.addfile(member, io.BytesIO(content))
            except ValueError:
                # ustar cannot hold every name.
                assert form == tarfile.USTAR_FORMAT
            else:
                contents.append(content)
    entries = list(read_tar(Region.of_bytes(out.getvalue()), "archive"))
    out.seek(0)
    with tarfile.open(fileobj=out) as opened:
        expected = [_as_tarfile_has_it(member) for member in opened.getmembers()]
    assert [_as_read(entry) for entry in entries] == expected
    assert [_content(entry) for entry in entries] == contents


def _content(entry: Entry) -> bytes:
    return b"".join(entry.node.read()) if entry.node.kind is Kind.FILE else b""


@given(_trees())
@settings(deadline=None)
def test_tarfile_reads_what_is_written(root: Node) -> None:
    out = io.BytesIO()
    write_tree(root, out.write)
    out.seek(0)
    with tarfile.open(fileobj=out, encoding="utf-8", errors="surrogateescape") as opened:
        found = [
            (
                member.name.encode("utf-8", "surrogateescape"),
                member.uid,
                member.gid,
                member.mtime,
                member.mode,
            )
            for member in opened.getmembers()
        ]
    # tarfile has PAX times as floats, which hold 53 bits.
    assert found == [
        (path, node.uid, node.gid, float(node.mtime), node.mode) for path, node in walk(root)
    ]


# Noise


def _sample() -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out.write)
    writer.add(b"d", new_root())
    writer.add_bytes(b"d/" + b"n" * 200, b"content" * 100, mtime=-5)
    writer.add(b"l", Node(Kind.SYMLINK, mode=0o777, target=b"t" * 120))
    writer.add_bytes(b"e", b"", mtime=1)
    writer.close()
    return out.getvalue()


_SAMPLE = _sample()


@given(st.lists(st.tuples(st.integers(0, len(_SAMPLE) - 1), st.integers(0, 255)), max_size=4))
@settings(deadline=None)
def test_damage_is_refused_or_lands_in_contents(changes: Sequence[tuple[int, int]]) -> None:
    data = bytearray(_SAMPLE)
    for position, value in changes:
        data[position] = value
    try:
        entries = list(read_tar(Region.of_bytes(bytes(data)), "archive"))
    except ImageError:
        return
    assert [entry.node.kind for entry in entries] == [
        Kind.DIRECTORY,
        Kind.FILE,
        Kind.SYMLINK,
        Kind.FILE,
    ]


@given(st.integers(0, len(_SAMPLE) - 1))
@settings(deadline=None)
def test_a_cut_archive_is_refused(length: int) -> None:
    # Nothing at all is an empty archive, and one of the end mark's two blocks is enough.
    if length in (0, len(_SAMPLE) - 512):
        return
    with pytest.raises(ImageError):
        list(read_tar(Region.of_bytes(_SAMPLE[:length]), "archive"))

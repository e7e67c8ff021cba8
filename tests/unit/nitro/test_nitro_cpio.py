"""The newc writer, against a parser written from the specification and against GNU cpio."""

from __future__ import annotations

import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from cagebuild.errors import ImageError
from cagebuild.image.tree import Kind, MemorySource, Node
from cagebuild.nitro.cpio import Entry, archive_size, pack
from tests.support import eif_by_spec as spec
from tests.support import nitro

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

REGULAR = stat.S_IFREG | 0o644


def packed(*entries: Entry) -> bytes:
    data = b"".join(pack(entries))
    assert len(data) == archive_size(entries)
    return data


def test_an_entry_byte_for_byte() -> None:
    data = packed(Entry(b"ab", stat.S_IFREG | 0o4755, 1, 4294967295, 10, b"hello", (0, 0)))
    # magic, ino 721, mode, uid, gid, nlink, mtime, size, 3, 1, rdev, name length with NUL, 0
    header = (
        b"070701"
        b"000002d1"
        b"000089ed"
        b"00000001"
        b"ffffffff"
        b"00000001"
        b"0000000a"
        b"00000005"
        b"00000003"
        b"00000001"
        b"00000000"
        b"00000000"
        b"00000003"
        b"00000000"
    )
    trailer = (
        b"070701"
        b"000002d2"
        b"00000000"
        b"00000000"
        b"00000000"
        b"00000001"
        b"00000000"
        b"00000000"
        b"00000003"
        b"00000001"
        b"00000000"
        b"00000000"
        b"0000000b"
        b"00000000"
    )
    expected = header + b"ab\0" + b"\0" * 3 + b"hello" + b"\0" * 3 + trailer + b"TRAILER!!!\0"
    assert data == expected + b"\0" * (512 - len(expected))


def test_fields_of_every_type() -> None:
    entries = spec.cpio(
        packed(
            Entry(b"d", stat.S_IFDIR | 0o1777, 0, 0, 1),
            Entry(b"f", REGULAR, 0, 0, 2, b"x"),
            Entry(b"l", stat.S_IFLNK | 0o777, 0, 0, 3, b"target"),
            Entry(b"c", stat.S_IFCHR | 0o600, 0, 5, 4, b"", (5, 1)),
            Entry(b"b", stat.S_IFBLK | 0o660, 0, 6, 5, b"", (4294967295, 0)),
            Entry(b"p", stat.S_IFIFO | 0o600, 0, 0, 6),
        )
    )
    assert [e.ino for e in entries.entries] == [721, 722, 723, 724, 725, 726]
    assert entries.trailer.ino == 727
    assert (entries.trailer.mode, entries.trailer.nlink) == (0, 1)
    assert [e.nlink for e in entries.entries] == [2, 1, 1, 1, 1, 1]
    assert [e.rdev for e in entries.entries][3:5] == [(5, 1), (4294967295, 0)]
    assert {e.dev for e in entries.entries} == {(3, 1)}
    assert {e.check for e in entries.entries} == {0}
    assert entries.entries[2].data == b"target"


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("size", range(5))
def test_padding_by_position(length: int, size: int) -> None:
    given = [Entry(b"n" * length, REGULAR, 0, 0, 0, b"x" * size) for _ in range(3)]
    read = spec.cpio(packed(*given)).entries
    assert [(e.name, e.data) for e in read] == [(b"n" * length, b"x" * size)] * 3


def test_no_entries_still_make_a_block() -> None:
    assert len(packed()) == 512


def test_large_and_small_contents_are_streamed_in_order() -> None:
    large = bytes(range(256)) * 12_000
    entries = [Entry(b"large", REGULAR, 0, 0, 0, nitro.file(large))]
    entries += [Entry(b"%d" % i, REGULAR, 0, 0, 0, nitro.file(b"%d" % i * 50)) for i in range(999)]
    entries.append(Entry(b"last", REGULAR, 0, 0, 0, nitro.file(large)))
    chunks = list(pack(entries))
    assert max(map(len, chunks)) <= 2 << 20
    read = spec.cpio(b"".join(chunks)).entries
    assert read[0].data == large
    assert read[-1].data == large
    assert [e.data for e in read[1:-1]] == [b"%d" % i * 50 for i in range(999)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Entry(b"old", REGULAR, 0, 0, -1), "its time"),
        (Entry(b"future", REGULAR, 0, 0, 1 << 32), "its time"),
        (Entry(b"owner", REGULAR, 1 << 32, 0, 0), "its owner"),
        (Entry(b"group", REGULAR, 0, -1, 0), "its group"),
        (Entry(b"device", stat.S_IFCHR, 0, 0, 0, b"", (1 << 32, 0)), "its device's major"),
        (Entry(b"huge", REGULAR, 0, 0, 0, Node(Kind.FILE, mode=0, size=1 << 32)), "its size"),
        (Entry(b"nul\0byte", REGULAR, 0, 0, 0), "cannot hold an entry of this name"),
        (Entry(b"", REGULAR, 0, 0, 0), "cannot hold an entry of this name"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(entry: Entry, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        list(pack([entry]))
    assert entry.name.split(b"\0")[0].decode() in caught.value.message


@pytest.mark.parametrize("size", [10, 3 << 20])
def test_content_shorter_than_announced(size: int) -> None:
    node = Node(Kind.FILE, mode=0o644, size=size, source=MemorySource(b"x" * (size - 1)))
    with pytest.raises(ImageError):
        list(pack([Entry(b"short", REGULAR, 0, 0, 0, node)]))


def test_gnu_cpio_reads_what_is_written(tmp_path: Path) -> None:
    program = shutil.which("cpio")
    if program is None:
        pytest.skip("GNU cpio is not here; apt-get install cpio")
    names = [b"rootfs", b"rootfs/a/", b"rootfs/a/f", "rootfs/ä".encode(), b"rootfs/link"]
    modes = [stat.S_IFDIR | 0o755, stat.S_IFDIR | 0o700, REGULAR, REGULAR, stat.S_IFLNK | 0o777]
    contents: Iterable[bytes] = [b"", b"", b"content", b"", b"a/f"]
    data = packed(
        *(Entry(n, m, 0, 0, 9, c) for n, m, c in zip(names, modes, contents, strict=True))
    )
    run = subprocess.run(
        [program, "-t", "--quiet"], input=data, capture_output=True, check=True, cwd=tmp_path
    )
    assert run.stderr == b""
    assert run.stdout.splitlines() == names
    subprocess.run([program, "-id", "--quiet"], input=data, check=True, cwd=tmp_path)
    assert (tmp_path / "rootfs/link").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "rootfs/a").stat().st_mode) == 0o700

"""Reading tar: formats, numbers, names; and everything that is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cagebuild.errors import ImageError
from cagebuild.image.tar import MAX_EXTENSION, Entry, read_tar
from cagebuild.image.tarfields import parse_number, parse_time
from cagebuild.image.tree import Kind, Region
from tests.support.tars import (
    END,
    Fields,
    Item,
    archive,
    base256,
    device,
    gnu_long,
    octal,
    pad,
    pax,
    record,
    regular,
    symlink,
)


def _read(data: bytes, **options: int | bool) -> list[Entry]:
    return list(
        read_tar(
            Region.of_bytes(data),
            "archive",
            origin="o",
            apply_globals=bool(options.get("apply_globals", True)),
            max_entries=int(options.get("max_entries", 1000)),
        )
    )


def _one(data: bytes) -> Entry:
    (entry,) = _read(data)
    return entry


def _content(entry: Entry) -> bytes:
    return b"".join(entry.node.read())


# Formats


def test_an_empty_file_is_an_empty_archive() -> None:
    assert _read(b"") == []
    assert _read(END) == []
    assert _read(bytes(10240)) == []


def test_a_single_zero_block_at_the_end_will_do() -> None:
    assert len(_read(regular("x").encoded() + bytes(512))) == 1


def test_every_field_of_a_ustar_header() -> None:
    item = Item(name=b"dir/x", mode=0o4751, uid=0o1234567, gid=12, mtime=1700000000, data=b"abc")
    entry = _read(archive(regular("before", b"1" * 513), item))[1]
    node = entry.node
    assert (entry.name, entry.link, entry.offset) == (b"dir/x", None, 1536)
    assert (node.kind, node.mode, node.uid, node.gid) == (Kind.FILE, 0o4751, 0o1234567, 12)
    assert (node.mtime, node.size, node.origin, node.xattrs) == (1700000000, 3, "o", False)
    assert _content(entry) == b"abc"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"0", Kind.FILE),
        (b"\0", Kind.FILE),
        (b"7", Kind.FILE),
        (b"2", Kind.SYMLINK),
        (b"3", Kind.CHARACTER),
        (b"4", Kind.BLOCK),
        (b"5", Kind.DIRECTORY),
        (b"6", Kind.FIFO),
    ],
)
def test_types(kind: bytes, expected: Kind) -> None:
    entry = _one(archive(Item(name=b"x", kind=kind, link=b"t", rdev=(5, 9))))
    assert entry.node.kind is expected
    assert entry.link is None
    assert entry.node.target == (b"t" if expected is Kind.SYMLINK else b"")
    special = expected in (Kind.CHARACTER, Kind.BLOCK)
    assert entry.node.rdev == ((5, 9) if special else (0, 0))


def test_a_hard_link() -> None:
    entry = _one(archive(Item(name=b"x", kind=b"1", link=b"../y", uid=4)))
    assert (entry.link, entry.node.uid) == (b"../y", 4)


def test_v7_directories_are_files_with_a_slash() -> None:
    assert _one(archive(Item(name=b"d/", kind=b"\0"))).node.kind is Kind.DIRECTORY
    assert _one(archive(Item(name=b"d/", kind=b"0"))).node.kind is Kind.FILE


def test_type_bits_in_the_mode_are_dropped() -> None:
    assert _one(archive(Item(name=b"x", mode=0o104755))).node.mode == 0o4755


def test_symlinks_have_the_mode_that_linux_gives_them() -> None:
    assert _one(archive(Item(name=b"x", kind=b"2", link=b"t", mode=0o600))).node.mode == 0o777


def test_the_prefix_field_belongs_to_ustar_alone() -> None:
    prefix = b"p" * 155
    assert _one(archive(Fields(rest=prefix).header())).name == prefix + b"/x"
    gnu = Fields(rest=prefix, magic=b"ustar  \0").header()
    assert _one(archive(gnu)).name == b"x"
    v7 = Fields(rest=prefix, magic=b"").header()
    assert _one(archive(v7)).name == b"x"
    star = Fields(rest=(b"p" * 131 + b"12345678901 1234567890 ").ljust(163, b"\0") + b"tar\0")
    assert _one(archive(star.header())).name == b"p" * 131 + b"/x"


def test_names_may_fill_their_fields() -> None:
    entry = _one(archive(Fields(name=b"n" * 100, kind=b"2", link=b"l" * 100).header()))
    assert (entry.name, entry.node.target) == (b"n" * 100, b"l" * 100)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"0000644 ", 0o644),
        (b"   644 \0", 0o644),
        (b"644\0\0\0\0\0", 0o644),
        (b"00000644", 0o644),
        (b"        ", 0),
        (bytes(8), 0),
        (b"644\0junk", 0o644),
        (base256(0, 8), 0),
        (base256(1 << 40, 8), 1 << 40),
        (base256(-2, 12), -2),
        (base256((1 << 90) + 7, 12), (1 << 90) + 7),
    ],
)
def test_number_fields(field: bytes, value: int) -> None:
    assert parse_number(field) == value


@pytest.mark.parametrize(
    "field", [b"0x1\0", b"8\0", b"-1\0", b"1_0\0", b"+7\0", b"0o7\0", b"1 2\0"]
)
def test_what_is_no_number(field: bytes) -> None:
    with pytest.raises(ValueError, match="not an octal number"):
        parse_number(field.ljust(8, b"\0"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"0", 0),
        (b"1700000000.999999999", 1700000000),
        (b"-1", -1),
        (b"-1.5", -2),
        (b"-0.1", -1),
        (b"-1.000", -1),
        (b"12.", 12),
        (b"9223372036854775808", 1 << 63),
    ],
)
def test_pax_times_round_down(text: bytes, seconds: int) -> None:
    assert parse_time(text) == seconds
    assert _one(archive(pax({b"mtime": text}), regular("x"))).node.mtime == seconds


def test_base_256_fields() -> None:
    header = Fields(uid=base256(4_000_000_000, 8), mtime=base256(-5, 12), size=base256(3, 12))
    entry = _one(archive(header.header() + pad(b"abc")))
    assert (entry.node.uid, entry.node.mtime, _content(entry)) == (4_000_000_000, -5, b"abc")


def test_signed_checksums_are_right_too() -> None:
    header = Fields(name=b"\xff\xfe").header()
    total = sum(header) - sum(header[148:156]) + 8 * 32 - 2 * 256
    assert _one(archive(header[:148] + b"%06o\0 " % total + header[156:])).name == b"\xff\xfe"


# Extended headers


def test_pax_records_replace_fields() -> None:
    records = {
        b"path": b"long/\xff" + b"n" * 300,
        b"linkpath": b"t" * 200,
        b"uid": b"4294967295",
        b"gid": b"3000000",
        b"mtime": b"5.25",
        b"comment": b"=a=\n",
        b"SCHILY.xattr.security.capability": b"\0\1\n",
    }
    entry = _one(archive(pax(records), symlink("x", "y")))
    node = entry.node
    assert (entry.name, node.target) == (records[b"path"], b"t" * 200)
    assert (node.uid, node.gid, node.mtime, node.xattrs) == (0xFFFFFFFF, 3000000, 5, True)


def test_a_pax_size_replaces_the_field() -> None:
    first = pax({b"size": b"600"}) + Fields(name=b"a", size=octal(0, 12)).header()
    entries = _read(archive(first + pad(b"c" * 600), regular("b", b"2")))
    assert [(entry.name, _content(entry)) for entry in entries] == [
        (b"a", b"c" * 600),
        (b"b", b"2"),
    ]


def test_pax_records_hold_for_one_entry_and_empty_ones_for_none() -> None:
    entries = _read(
        archive(pax({b"path": b"p", b"uid": b""}), Item(name=b"a", uid=3), regular("b"))
    )
    assert [(entry.name, entry.node.uid) for entry in entries] == [(b"p", 3), (b"b", 0)]


def test_global_records_hold_until_they_are_taken_back() -> None:
    parts = (
        pax({b"uid": b"7", b"mtime": b"9"}, b"g"),
        regular("a"),
        pax({b"uid": b"8"}),
        regular("b"),
        pax({b"uid": b""}, b"g"),
        regular("c"),
    )
    found = [(entry.node.uid, entry.node.mtime) for entry in _read(archive(*parts))]
    assert found == [(7, 9), (8, 9), (0, 9)]
    ignored = _read(archive(*parts), apply_globals=False)
    assert [entry.node.uid for entry in ignored] == [0, 8, 0]


def test_gnu_long_names() -> None:
    long = b"d/" * 100 + b"\xfe"
    data = archive(gnu_long(long), gnu_long(long[:150], b"K"), symlink("x", "y"), regular("z"))
    first, second = _read(data)
    assert (first.name, first.node.target) == (long, long[:150])
    assert second.name == b"z"


# Sparse files


def _map(*pieces: tuple[int, int]) -> bytes:
    return b"".join(octal(start, 12) + octal(length, 12) for start, length in pieces)


def _old_sparse(size: int, pieces: list[tuple[int, int]], data: bytes) -> bytes:
    first, rest = pieces[:4], pieces[4:]
    tail = bytes(41) + _map(*first).ljust(96, b"\0") + bytes([bool(rest)]) + octal(size, 12)
    header = Fields(kind=b"S", magic=b"ustar  \0", size=octal(len(data), 12), rest=tail).header()
    while rest:
        block, rest = rest[:21], rest[21:]
        header += (_map(*block).ljust(504, b"\0") + bytes([bool(rest)])).ljust(512, b"\0")
    return header + pad(data)


def test_old_gnu_sparse() -> None:
    pieces = [(10 * number, 2) for number in range(1, 41)]
    data = b"".join(b"%02d" % number for number in range(40))
    entry = _read(archive(_old_sparse(1000, pieces, data), regular("after")))[0]
    expected = bytearray(1000)
    for number, (start, _) in enumerate(pieces):
        expected[start : start + 2] = b"%02d" % number
    assert _content(entry) == bytes(expected)


def test_pax_sparse_0_0_and_0_1() -> None:
    header = Fields(name=b"f", size=octal(5, 12)).header() + pad(b"abcde")
    old = pax(
        [
            (b"GNU.sparse.size", b"20"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.offset", b"3"),
            (b"GNU.sparse.numbytes", b"2"),
            (b"GNU.sparse.offset", b"10"),
            (b"GNU.sparse.numbytes", b"3"),
        ]
    )
    new = pax(
        {
            b"GNU.sparse.size": b"20",
            b"GNU.sparse.numblocks": b"2",
            b"GNU.sparse.map": b"3,2,10,3",
            b"GNU.sparse.name": b"real",
        }
    )
    expected = b"\0\0\0ab\0\0\0\0\0cde" + bytes(7)
    assert _content(_one(archive(old, header))) == expected
    entry = _one(archive(new, header))
    assert (entry.name, _content(entry)) == (b"real", expected)


def _sparse_1_0(numbers: bytes, data: bytes, size: int = 20) -> bytes:
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": b"real",
        b"GNU.sparse.realsize": b"%d" % size,
    }
    stored = pad(numbers) + data
    return pax(records) + Fields(name=b"f", size=octal(len(stored), 12)).header() + pad(stored)


def test_pax_sparse_1_0() -> None:
    entries = _read(archive(_sparse_1_0(b"2\n3\n2\n10\n3\n", b"abcde"), regular("after")))
    assert [entry.name for entry in entries] == [b"real", b"after"]
    assert _content(entries[0]) == b"\0\0\0ab\0\0\0\0\0cde" + bytes(7)


def test_a_sparse_map_of_several_blocks() -> None:
    numbers = b"300\n" + b"".join(b"%d\n1\n" % (4 * number) for number in range(300))
    assert len(numbers) > 1024
    (entry,) = _read(archive(_sparse_1_0(numbers, b"x" * 300, 1200)))
    assert _content(entry) == b"x\0\0\0" * 300


@pytest.mark.parametrize("flags", [["gnu"], ["posix"], ["posix", "0.0"], ["posix", "0.1"]])
def test_sparse_archives_of_gnu_tar(tmp_path: Path, flags: list[str]) -> None:
    with (tmp_path / "holes").open("wb") as out:
        for number in range(60):
            out.seek(number * 65536)
            out.write(b"data %d" % number)
        out.truncate(60 * 65536 + 12345)
    (tmp_path / "all-hole").touch()
    with (tmp_path / "all-hole").open("r+b") as out:
        out.truncate(1 << 20)
    (tmp_path / "plain").write_bytes(b"plain")
    names = ["holes", "all-hole", "plain"]
    version = [f"--sparse-version={flags[1]}"] if len(flags) > 1 else []
    command = ["tar", "-C", str(tmp_path), "-S", f"--format={flags[0]}", *version, "-cf"]
    made = tmp_path / "a.tar"
    subprocess.run([*command, str(made), *names], check=True)
    entries = _read(made.read_bytes())
    assert [entry.name.decode() for entry in entries] == names
    for entry in entries:
        assert _content(entry) == (tmp_path / entry.name.decode()).read_bytes()
    assert entries[0].node.extents


# Refusals


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


_FILE = regular("x", b"content").encoded()
_PAX_X = Fields(name=b"pax", kind=b"x")

REFUSED: dict[str, tuple[bytes, str]] = {
    "a wrong checksum": (_flip(_FILE, 0) + END, "checksum"),
    "no checksum": (_FILE[:148] + bytes(8) + _FILE[156:] + END, "checksum"),
    "not a tar": (b"hello" * 200, "checksum"),
    "less than a block": (b"x" * 100, "ends in the middle"),
    "cut in a header": (_FILE + _FILE[:300], "ends in the middle"),
    "cut in the data": (_FILE[:515], "cut"),
    "cut in the padding": (_FILE[:520], "padding"),
    "no end mark": (_FILE, "without an end mark"),
    "garbage after the end mark": (_FILE + END + b"x", "follows the end mark"),
    "an entry after a zero block": (_FILE + bytes(512) + _FILE + END, "follows the end mark"),
    "a size beyond the end": (Fields(size=octal(1 << 30, 12)).header() + END, "cut"),
    "a negative size": (Fields(size=base256(-1, 12)).header() + END, "size of an entry is -1"),
    "a size beyond 63 bits": (Fields(size=base256(1 << 63, 12)).header() + END, "size of an entry"),
    "a size that is no number": (Fields(size=b"12345678901x").header() + END, "not a number"),
    "a negative owner": (Fields(uid=base256(-1, 8)).header() + END, "owner of an entry is -1:0"),
    "an owner beyond 32 bits": (Fields(gid=base256(1 << 32, 8)).header() + END, "Linux can't hold"),
    "a mode that is no number": (Fields(mode=b"rwxr-xr-").header() + END, "mode"),
    "a time that is no number": (Fields(mtime=b"yesterday!!!").header() + END, "time"),
    "an unknown type": (Fields(kind=b"Z").header() + END, "unknown type 'Z'"),
    "a multi-volume archive": (Fields(kind=b"M").header() + END, "unknown type 'M'"),
    "a directory with data": (
        Fields(kind=b"5", size=octal(512, 12)).header() + bytes(512) + END,
        "512 bytes of data",
    ),
    "a hard link with data": (Fields(kind=b"1", size=octal(1, 12)).header() + END, "of data"),
    "no name": (Fields(name=b"").header() + END, "no name"),
    "a device number beyond Linux": (archive(device("d", 4096, 0)), "Linux can't hold"),
    "a PAX header at the end": (pax({b"path": b"y"}) + END, "after an extended header"),
    "a long name at the end": (gnu_long(b"y") + END, "after an extended header"),
    "two PAX headers": (archive(pax({b"path": b"y"}), pax({b"uid": b"1"}), _FILE), "two PAX"),
    "two long names": (archive(gnu_long(b"y"), gnu_long(b"z"), _FILE), "two GNU long names"),
    "a PAX path and another long name": (
        archive(pax({b"path": b"y"}), gnu_long(b"z"), _FILE),
        "two values of path",
    ),
    "a huge PAX header": (
        Fields(name=b"pax", kind=b"x", size=octal(MAX_EXTENSION + 1, 12)).header()
        + bytes(MAX_EXTENSION + 512)
        + END,
        "more than 1048576",
    ),
    "a PAX header beyond the end": (Fields(kind=b"x", size=octal(9000, 12)).header() + END, "cut"),
    "a NUL in a PAX path": (archive(pax({b"path": b"a\0b"}), _FILE), "NUL"),
    "a PAX size that is no number": (archive(pax({b"size": b"-1"}), _FILE), "size"),
    "a PAX size with a sign": (archive(pax({b"size": b"+7"}), _FILE), "size"),
    "a PAX size beyond the end": (archive(pax({b"size": b"99999999"}), _FILE), "cut"),
    "a PAX time that is no number": (archive(pax({b"mtime": b"1e9"}), _FILE), "time"),
    "a PAX owner beyond 32 bits": (archive(pax({b"uid": b"4294967296"}), _FILE), "Linux can't"),
    "a global path": (archive(pax({b"path": b"y"}, b"g"), _FILE), "global header sets 'path'"),
    "a global sparse map": (archive(pax({b"GNU.sparse.size": b"1"}, b"g"), _FILE), "global"),
    "a sparse symlink": (
        archive(pax({b"GNU.sparse.name": b"y"}), symlink("x", "t")),
        "not a regular file",
    ),
    "a sparse map out of order": (
        archive(pax([(b"GNU.sparse.numbytes", b"1"), (b"GNU.sparse.offset", b"1")]), _FILE),
        "out of order",
    ),
    "a sparse map with half a piece": (
        archive(pax({b"GNU.sparse.map": b"1", b"GNU.sparse.size": b"9"}), _FILE),
        "half a piece",
    ),
    "a sparse file without its size": (archive(pax({b"GNU.sparse.map": b"0,7"}), _FILE), "number"),
    "a sparse file of an unknown format": (
        archive(pax({b"GNU.sparse.major": b"2"}), _FILE),
        "format",
    ),
    "sparse pieces that overlap": (archive(_sparse_1_0(b"2\n3\n3\n5\n2\n", b"abcde")), "overlaps"),
    "sparse pieces beyond the size": (archive(_sparse_1_0(b"1\n18\n5\n", b"abcde")), "beyond"),
    "more in the map than stored": (archive(_sparse_1_0(b"1\n3\n9\n", b"abcde")), "add up"),
    "less in the map than stored": (archive(_sparse_1_0(b"1\n3\n2\n", b"abcde")), "add up"),
    "a sparse map with a negative number": (
        archive(_sparse_1_0(b"1\n-3\n5\n", b"abcde")),
        "number",
    ),
    "a sparse map that doesn't end": (archive(_sparse_1_0(b"9\n1\n", b"")), "map is cut"),
    "a sparse map in one endless line": (archive(_sparse_1_0(b"1" * 2000, b"")), "map is cut"),
    "a sparse map longer than its data": (
        archive(
            pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}),
            Fields(size=octal(1 << 32, 12)).header(),
        ),
        "map is cut",
    ),
    "an old sparse map that is cut": (
        Fields(kind=b"S", rest=bytes(137) + b"\1" + octal(9, 12)).header(),
        "ends in the middle",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        _read(data)
    assert caught.value.message.startswith("archive: ")
    assert "at offset" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"9 a=b\n",
        b"06 a=b\n",
        b"6 a=bX",
        b"x a=b\n",
        b"4 ab\n",
        b"3 =\n",
        b"6 a=b",
        b"2 \n",
        b"1 ",
        b" 6 a=b\n",
        b"99999999 a=b\n",
        record(b"a", b"b") + b"\0",
    ],
)
def test_malformed_pax_records(data: bytes) -> None:
    header = Fields(name=b"pax", kind=b"x", size=octal(len(data), 12)).header()
    with pytest.raises(ImageError, match="in a PAX header a record"):
        _read(archive(header + pad(data), regular("x")))


def test_errors_name_the_entry_and_its_offset() -> None:
    data = archive(regular("fine", b"1"), Item(name=b"b\xff\n", kind=b"Z"))
    with pytest.raises(ImageError) as caught:
        _read(data)
    assert "at offset 1024" in caught.value.message
    assert "'b\\\\xff\\n'" in caught.value.message


def test_entries_and_pieces_are_counted() -> None:
    assert len(_read(archive(regular("a"), regular("b")), max_entries=2)) == 2
    with pytest.raises(ImageError, match="more than 1 entries"):
        _read(archive(regular("a"), regular("b")), max_entries=1)
    sparse = _sparse_1_0(b"2\n3\n2\n10\n3\n", b"abcde")
    assert len(_read(archive(sparse, regular("b")), max_entries=4)) == 2
    with pytest.raises(ImageError, match="more than 3 entries"):
        _read(archive(sparse, regular("b")), max_entries=3)


def test_reading_is_lazy_so_that_a_caller_may_stop_early() -> None:
    entries = read_tar(Region.of_bytes(_FILE + b"garbage" * 100), "archive")
    assert next(entries).name == b"x"
    with pytest.raises(ImageError):
        next(entries)

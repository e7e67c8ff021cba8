"""The strict reader: what it says of good files, and that nothing bad gets past it."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from cagebuild.errors import EifError
from cagebuild.image.tree import Kind, Node
from cagebuild.nitro import reader
from cagebuild.nitro.describe import describe
from tests.support import eif_by_spec as spec
from tests.support.nitro import built, bzimage, directory, file, job, symlink, tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

METADATA = b'{"ImageName":"x"}'
Section = tuple[int, bytes]
GOOD: tuple[Section, ...] = (
    (spec.KERNEL, bzimage()),
    (spec.CMDLINE, b"console=ttyS0"),
    (spec.METADATA, METADATA),
    (spec.RAMDISK, b"ramdisk 0"),
    (spec.RAMDISK, b"ramdisk 1"),
)


def crafted(
    sections: Sequence[Section] = GOOD,
    *,
    version: int = 4,
    flags: int = 0,
    reserved: int = 0,
    count: int | None = None,
    offsets: dict[int, int] | None = None,
    sizes: dict[int, int] | None = None,
    section_flags: int = 0,
    tail: bytes = b"",
) -> bytes:
    """A file with a right CRC and whatever else is wrong with it."""
    places, lengths, body, at = [0] * 32, [0] * 32, b"", 548
    for number, (kind, data) in enumerate(sections[:32]):
        places[number], lengths[number] = at, len(data)
        body += struct.pack(">HHQ", kind, section_flags, len(data)) + data
        at += 12 + len(data)
    for number, value in (offsets or {}).items():
        places[number] = value
    for number, value in (sizes or {}).items():
        lengths[number] = value
    count = len(sections) if count is None else count
    head = struct.pack(">4sHHQQHH", b".eif", version, flags, 1 << 30, 2, reserved, count)
    head += struct.pack(">64QI", *places, *lengths, 0)
    body += tail
    return head + struct.pack(">I", zlib.crc32(head + body)) + body


def read(folder: Path, data: bytes) -> reader.Eif:
    path = folder / "given.eif"
    path.write_bytes(data)
    return reader.read(path)


def test_a_good_file(tmp_path: Path) -> None:
    path, measured = built(tmp_path)
    image = reader.read(path)
    assert image.measurements == measured.measurements
    assert image.sections == measured.sections
    assert image.header.architecture == "x86_64"
    assert image.signature is None
    assert image.metadata == spec.image(path.read_bytes()).metadata
    names = [(number, member.name) for number, member in reader.ramdisk_members(image)]
    assert names[:4] == [(0, b"dev"), (0, b"init"), (0, b"nsm.ko"), (1, b"rootfs")]
    assert names[-1] == (1, b"env")


def test_crafted_files_are_right_but_for_what_is_changed(tmp_path: Path) -> None:
    image = read(tmp_path, crafted())
    assert image.measurements.pcrs() == spec.pcrs(spec.image(crafted()))


def without(kind: int) -> list[Section]:
    return [section for section in GOOD if section[0] != kind]


LAST = len(crafted()) - len(b"ramdisk 1") - 12


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not start with"),
        (b"\x7fELF" + bytes(1000), "does not start with"),
        (b".eif" + bytes(100), "the header has 548 bytes"),
        (crafted(version=1), "version 1 "),
        (crafted(version=5), "version 5 "),
        (crafted(flags=2), "flags or reserved"),
        (crafted(reserved=1), "flags or reserved"),
        (crafted(count=0), "0 sections"),
        (crafted(count=1), "1 sections"),
        (crafted(count=33), "33 sections"),
        (crafted(count=4), "beyond its 4 sections"),
        (crafted(offsets={9: 600}), "beyond its 5 sections"),
        (crafted(sizes={31: 1}), "beyond its 5 sections"),
        (crafted(offsets={0: 0}), "section 0 at offset 0 overlaps"),
        (crafted(offsets={4: LAST - 1}), "overlaps what is before it"),
        (crafted(offsets={4: LAST + 1}), "leaves a gap"),
        (crafted(offsets={4: (1 << 64) - 1}), "leaves a gap"),
        (crafted(sizes={4: 10}), "reaches past the file's end"),
        (crafted(sizes={4: (1 << 64) - 1}), "reaches past the file's end"),
        (crafted(sizes={4: 8}), r"section 4 \(ramdisk\) .* says 9 bytes, the header 8"),
        (crafted(section_flags=1), "has flags"),
        (crafted(tail=b"x"), "1 bytes after the last section"),
        (crafted([*GOOD, (0, b"")]), "unknown type 0"),
        (crafted([*GOOD, (6, b"")]), "unknown type 6"),
        (crafted(without(spec.KERNEL)), "no kernel section"),
        (crafted(without(spec.CMDLINE)), "no cmdline section"),
        (crafted(without(spec.RAMDISK)), "no ramdisk section"),
        (crafted(without(spec.METADATA)), "no metadata section"),
        (crafted(GOOD, version=3), "a metadata section"),
        (crafted([*GOOD, (spec.KERNEL, b"k")]), "more than one kernel"),
        (crafted([*GOOD, (spec.METADATA, METADATA)]), "more than one metadata"),
        (crafted([*GOOD, (spec.SIGNATURE, b""), (spec.SIGNATURE, b"")]), "more than one signature"),
        (crafted([GOOD[3], *GOOD[:3]]), "a ramdisk section comes before the kernel"),
        (crafted([*without(spec.METADATA), (spec.SIGNATURE, b"x")], version=2), "a signature"),
        (crafted([*GOOD, (spec.SIGNATURE, bytes(32_769))]), "at most 32768"),
        (crafted([*GOOD, (spec.SIGNATURE, b"x")]), "signature section"),
        (crafted([*without(spec.METADATA), (spec.METADATA, bytes(1 << 20) + b"x")]), "at most"),
    ],
)
def test_malformed_files(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(EifError, match=said) as caught:
        read(tmp_path, data)
    assert "given.eif" in caught.value.message


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"a":NaN}',
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"[" * 500_000,
        b'{"n":' + b"9" * 5000 + b"}",
    ],
)
def test_metadata_that_is_not_a_modest_object(tmp_path: Path, metadata: bytes) -> None:
    with pytest.raises(EifError, match="metadata section"):
        read(tmp_path, crafted([*without(spec.METADATA), (spec.METADATA, metadata)]))


@pytest.mark.parametrize("version", [2, 3])
def test_older_versions_without_metadata(tmp_path: Path, version: int) -> None:
    image = read(tmp_path, crafted(without(spec.METADATA), version=version))
    assert image.metadata is None


def test_three_ramdisks_count_for_their_pcrs(tmp_path: Path) -> None:
    data = crafted([*GOOD, (spec.RAMDISK, b"third")])
    assert read(tmp_path, data).measurements.pcrs() == spec.pcrs(spec.image(data))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    given = job(tmp_path, tree({b"app": file(b"x" * 50)}))
    path, _ = built(tmp_path, given)
    good = path.read_bytes()
    positions = [*range(548), *range(548, len(good), 61), len(good) - 1]
    for position in positions:
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        with pytest.raises(EifError):
            read(tmp_path, bytes(bad))


@pytest.mark.parametrize("keep", [0, 3, 547, 548, 560, 5000, -1])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    good = built(tmp_path)[0].read_bytes()
    with pytest.raises(EifError):
        read(tmp_path, good[:keep])


def test_what_is_no_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, tmp_path / "missing"):
        with pytest.raises(EifError):
            reader.read(path)


def test_a_file_replaced_after_the_check(tmp_path: Path) -> None:
    image = read(tmp_path, crafted())
    image.path.write_bytes(crafted())
    with pytest.raises(EifError, match="replaced"):
        list(reader.ramdisk_members(image))


def entry(name: bytes, mode: int = 0o100644, data: bytes = b"", **fields: int) -> bytes:
    numbers = {"ino": 1, "mode": mode, "uid": 0, "gid": 0, "nlink": 1, "mtime": 0}
    numbers |= {"size": len(data), "major": 3, "minor": 1, "rmajor": 0, "rminor": 0}
    numbers |= {"namesize": len(name) + 1, "check": 0, **fields}
    head = b"070701" + b"".join(b"%08x" % n for n in numbers.values()) + name + b"\0"
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


TRAILER = entry(b"TRAILER!!!", 0)


def members(folder: Path, ramdisk: bytes) -> list[bytes]:
    image = read(folder, crafted([*GOOD[:3], (spec.RAMDISK, ramdisk)]))
    return [member.name for _, member in reader.ramdisk_members(image, digests=True)]


@pytest.mark.parametrize(
    ("ramdisk", "said"),
    [
        (b"", "ends 110 bytes early"),
        (b"x" * 110, "no newc header"),
        (entry(b"a"), "ends 110 bytes early"),
        (entry(b"a").replace(b"000081a4", b"0000 1a4"), "not 8 hex digits"),
        (entry(b"a").replace(b"000081a4", b"+00081a4"), "not 8 hex digits"),
        (entry(b"a", namesize=0), "a name of 0 bytes"),
        (entry(b"a", namesize=1), "a name of 1 bytes"),
        (entry(b"a", namesize=0xFFFFFFFF), "a name of 4294967295 bytes"),
        (entry(b"ab", namesize=2) + bytes(200), "does not end at its NUL"),
        (entry(b"a\0b") + TRAILER, "does not end at its NUL"),
        (entry(b"a/../b") + TRAILER, "'..' component"),
        (entry(b"..") + TRAILER, "'..' component"),
        (entry(b"a", size=0xFFFFFFFF), "early"),
        (entry(b"a", 0o150644) + TRAILER, "unknown type"),
        (entry(b"a", 0o1100644) + TRAILER, "out of range"),
        (entry(b"a", check=1) + TRAILER, "checksum"),
        (entry(b"d", 0o040755, b"data") + TRAILER, "a directory with content"),
        (entry(b"l", 0o120777) + TRAILER, "target of 0 bytes"),
        (entry(b"l", 0o120777, b"a\0b") + TRAILER, "NUL byte"),
        (entry(b"l", 0o120777, size=1 << 20), "target of 1048576 bytes"),
        (entry(b"TRAILER!!!", 0, b"data"), "trailer has content"),
        (TRAILER + b"x", "data after the archive's trailer"),
        (TRAILER + TRAILER, "data after the archive's trailer"),
        (entry(b"ab")[:-1] + b"x" + TRAILER, "padding that is not zero"),
        (gzip.compress(TRAILER, mtime=0)[:-4], "ends early"),
        (gzip.compress(TRAILER, mtime=0) + b"x", "data after the gzip data"),
        (b"\x1f\x8b" + bytes(50), "damaged gzip data"),
    ],
)
def test_hostile_ramdisks(tmp_path: Path, ramdisk: bytes, said: str) -> None:
    with pytest.raises(EifError, match=said) as caught:
        members(tmp_path, ramdisk)
    assert "ramdisk 0" in caught.value.message


def test_compressed_ramdisks_of_older_files(tmp_path: Path) -> None:
    plain = entry(b"a", data=b"x" * (3 << 20)) + entry(b"b/", 0o040755) + TRAILER + bytes(77)
    assert members(tmp_path, plain) == [b"a", b"b/"]
    assert members(tmp_path, gzip.compress(plain, mtime=0) + bytes(3)) == [b"a", b"b/"]


def test_a_description(tmp_path: Path) -> None:
    root = tree(
        {
            b"app": file(b"12345"),
            b"d": directory({b"l": symlink(b"/x")}),
            b"null": Node(Kind.CHARACTER, mode=0o666, rdev=(1, 3)),
        }
    )
    path, measured = built(tmp_path, job(tmp_path, root))
    description = describe(path)
    found = json.loads(json.dumps(description.to_json()))
    assert found["Measurements"]["PCR0"] == measured.measurements.pcr0
    assert found["Measurements"]["HashAlgorithm"] == "Sha384 { ... }"
    assert [s["section"] for s in found["sections"]] == [
        "kernel",
        "cmdline",
        "metadata",
        "ramdisk",
        "ramdisk",
    ]
    kinds = found["ramdisks"][1]["kinds"]
    assert (kinds["character"], kinds["symlink"]) == (1, 3)
    app, hosts, cmd, env = 5, 160, len("/app\n--serve\n"), len("PATH=/bin\n")
    assert found["ramdisks"][1]["content"] == app + hosts + cmd + env
    text = description.render()
    assert measured.measurements.pcr2 in text
    assert "EIF version 4, x86_64" in text


@pytest.mark.parametrize(
    ("custom", "lines"),
    [
        (b"null", []),
        (b'{"a":1,"cagebuild":{}}', ['  CustomMetadata: {"a": 1, "cagebuild": {}}']),
        (b'{"cagebuild":[1]}', ['  CustomMetadata: {"cagebuild": [1]}']),
        (b'"\\u001b[2J"', ["  CustomMetadata: \\x1b[2J"]),
        (b'"' + b"x" * 1001 + b'"', ["  CustomMetadata: " + "x" * 1000 + "…"]),
        (
            b'{"cagebuild":{"name":"pay","egress":[{"port":1},"\\u001b"],"ingress":[],"\\u0007":{}}}',
            [
                "  CustomMetadata, for the host (not measured):",
                "    name: pay",
                '    egress: {"port": 1}',
                "    egress: \\x1b",
                "    \\x07: {}",
            ],
        ),
    ],
)
def test_a_description_shows_any_custom_metadata(
    tmp_path: Path, custom: bytes, lines: list[str]
) -> None:
    metadata = b'{"ImageName":"x","CustomMetadata":' + custom + b"}"
    (tmp_path / "x.eif").write_bytes(
        crafted([*GOOD[:2], (spec.METADATA, metadata), (spec.RAMDISK, TRAILER)])
    )
    shown = describe(tmp_path / "x.eif").render().splitlines()
    assert shown[shown.index("  ImageVersion: None") + 1 :] == lines


def test_a_description_cannot_steer_the_terminal(tmp_path: Path) -> None:
    metadata = b'{"ImageName":"\\u001b[2J\\u202e\\ud800","BuildMetadata":{"\\u009b":[1]}}'
    (tmp_path / "x.eif").write_bytes(
        crafted([*GOOD[:2], (spec.METADATA, metadata), (spec.RAMDISK, TRAILER)])
    )
    description = describe(tmp_path / "x.eif")
    text = description.render()
    assert all(c.isprintable() or c == "\n" for c in text)
    text.encode()
    json.dumps(description.to_json())

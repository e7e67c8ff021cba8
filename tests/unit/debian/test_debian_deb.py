"""The reader of packages: what dpkg-deb writes, and nothing else."""

from __future__ import annotations

import shutil
import struct
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cagebuild.debian.deb import unpack
from cagebuild.errors import ImageError
from tests.support.debian import ar, compress, control_text, file, folder, make_deb, symlink, tar

if TYPE_CHECKING:
    from pathlib import Path

BINARY = ("debian-binary", b"2.0\n")
CONTROL_TAR = tar(file("./control", control_text("a", "1.0", "all", {}).encode()))
CONTROL = ("control.tar.xz", compress(CONTROL_TAR, ".xz"))
DATA_TAR = tar(folder("./"), file("./x", b"content"))
DATA = ("data.tar.xz", compress(DATA_TAR, ".xz"))


def read(tmp_path: Path, deb: bytes, limit: int = 1 << 20) -> bytes:
    """What a package's data.tar unpacks to."""
    path = tmp_path / "a.deb"
    path.write_bytes(deb)
    return unpack(path, tmp_path / "data.tar", limit=limit).data.read_bytes()


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_every_compression_that_debian_uses_is_read(tmp_path: Path, suffix: str) -> None:
    deb = ar(
        BINARY,
        (f"control.tar{suffix}", compress(CONTROL_TAR, suffix)),
        (f"data.tar{suffix}", compress(DATA_TAR, suffix)),
    )
    assert read(tmp_path, deb) == DATA_TAR


def test_the_control_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(make_deb("a", version="1:2-3", architecture="arm64", fields={"Replaces": "b"}))
    deb = unpack(path, tmp_path / "data.tar")
    assert (deb.name, deb.version, deb.architecture) == ("a", "1:2-3", "arm64")
    assert deb.fields["Replaces"] == "b"
    assert deb.control.startswith(b"Package: a\n")
    assert str(deb) == "a 1:2-3"


def test_members_with_an_underscore_are_skipped(tmp_path: Path) -> None:
    deb = ar(BINARY, ("_gpgorigin", b"odd"), CONTROL, ("_x", b""), DATA)
    assert read(tmp_path, deb) == DATA_TAR


def test_a_slash_after_a_member_is_the_ar_of_other_systems(tmp_path: Path) -> None:
    deb = ar(*((f"{name}/", content) for name, content in (BINARY, CONTROL, DATA)))
    assert read(tmp_path, deb) == DATA_TAR


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb, a part of Debian")
def test_what_dpkg_deb_writes_is_read_as_it_reads_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: real\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\n"
        "Description: d\n"
    )
    (tree / "usr/share").mkdir(parents=True)
    (tree / "usr/share" / ("long" * 40)).write_bytes(bytes(3_000_000))
    for kind in ("xz", "gzip", "zstd", "none"):
        path = tmp_path / f"{kind}.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", f"-Z{kind}", "--build", tree, path],
            check=True,
            capture_output=True,
        )
        expected = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", path], check=True, capture_output=True
        ).stdout
        deb = unpack(path, tmp_path / "data.tar")
        assert deb.data.read_bytes() == expected
        assert deb.name == "real"


def big(suffix: str) -> bytes:
    """A package that unpacks to 50 MB out of a few kB."""
    return ar(BINARY, CONTROL, (f"data.tar{suffix}", compress(bytes(50_000_000), suffix)))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_bomb_stops_at_the_limit(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ImageError, match="unpacks to more than 1048576 bytes"):
        read(tmp_path, big(suffix))
    assert (tmp_path / "data.tar").stat().st_size <= 1 << 20


def test_a_bomb_in_the_control_archive_stops_at_its_limit(tmp_path: Path) -> None:
    deb = ar(BINARY, ("control.tar.xz", compress(bytes(50_000_000), ".xz")), DATA)
    with pytest.raises(ImageError, match="unpacks to more than"):
        read(tmp_path, deb)


def test_a_window_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    # A zstd frame whose header asks for a window of 2 GiB.
    frame = struct.pack("<IBB", 0xFD2FB528, 0x00, (31 - 10) << 3) + b"\x01\x00\x00"
    with pytest.raises(ImageError, match="decompressed"):
        read(tmp_path, ar(BINARY, CONTROL, ("data.tar.zst", frame)))


def control_deb(text: bytes) -> bytes:
    return ar(BINARY, ("control.tar.xz", compress(tar(file("control", text)), ".xz")), DATA)


GOOD = ar(BINARY, CONTROL, DATA)
XZ = DATA[1]
GZ = compress(DATA_TAR, ".gz")


@pytest.mark.parametrize(
    ("wrong", "deb"),
    [
        ("nothing in it", b""),
        ("another magic", b"!<arch>\r" + GOOD[8:]),
        ("no members", b"!<arch>\n"),
        ("a cut header", GOOD[:40]),
        ("a cut member", GOOD[:-20]),
        ("rubbish after its end", GOOD + b"rubbish"),
        ("a header without its end mark", GOOD.replace(b"`\n", b"``", 1)),
        ("a member of negative size", GOOD.replace(b"4         `", b"-4        `", 1)),
        ("a member larger than the file", GOOD.replace(b"4         `", b"4000000000`", 1)),
        ("no padding", ar(BINARY, ("_x", b"1"), CONTROL, DATA).replace(b"`\n1\n", b"`\n1x")),
        ("no control.tar", ar(BINARY, DATA)),
        ("no data.tar", ar(BINARY, CONTROL)),
        ("members in another order", ar(BINARY, DATA, CONTROL)),
        ("two data.tar", ar(BINARY, CONTROL, DATA, DATA)),
        ("something after data.tar", ar(BINARY, CONTROL, DATA, ("x", b""))),
        ("too many members", ar(BINARY, *[("_x", b"")] * 20, CONTROL, DATA)),
        ("another format", ar(("debian-binary", b"3.0\n"), CONTROL, DATA)),
        ("no format", ar(("debian-binary", b""), CONTROL, DATA)),
        ("a compression not known here", ar(BINARY, CONTROL, ("data.tar.bz2", b""))),
        ("xz that is gzip", ar(BINARY, CONTROL, ("data.tar.xz", GZ))),
        ("gzip that is xz", ar(BINARY, CONTROL, ("data.tar.gz", XZ))),
        ("zst that is xz", ar(BINARY, CONTROL, ("data.tar.zst", XZ))),
        ("cut xz", ar(BINARY, CONTROL, ("data.tar.xz", XZ[:-4]))),
        ("cut gzip", ar(BINARY, CONTROL, ("data.tar.gz", GZ[:-4]))),
        ("empty xz", ar(BINARY, CONTROL, ("data.tar.xz", b""))),
        ("something after the xz", ar(BINARY, CONTROL, ("data.tar.xz", XZ + b"more"))),
        ("something after the gzip", ar(BINARY, CONTROL, ("data.tar.gz", GZ + b"more"))),
        ("damaged xz", ar(BINARY, CONTROL, ("data.tar.xz", XZ[:40] + b"\xff" + XZ[41:]))),
        ("no control file", ar(BINARY, ("control.tar", tar(file("./other"))), DATA)),
        (
            "two control files",
            ar(BINARY, ("control.tar", tar(file("./control"), file("control"))), DATA),
        ),
        (
            "a control file that is a link",
            ar(BINARY, ("control.tar", tar(symlink("control", "x"))), DATA),
        ),
        ("a control archive that is no tar", ar(BINARY, ("control.tar", b"x" * 1024), DATA)),
        ("no package name", control_deb(b"Version: 1\nArchitecture: all\n")),
        ("no version", control_deb(b"Package: a\nArchitecture: all\n")),
        ("a name that is a path", control_deb(b"Package: ../a\nVersion: 1\nArchitecture: all\n")),
        ("a version that is none", control_deb(b"Package: a\nVersion: /\nArchitecture: all\n")),
        ("a control file that isn't UTF-8", control_deb(b"Package: \xff\n")),
        ("two paragraphs", control_deb(b"Package: a\n\nVersion: 1\n")),
    ],
)
def test_a_package_is_refused_that_has(tmp_path: Path, wrong: str, deb: bytes) -> None:
    with pytest.raises(ImageError):
        read(tmp_path, deb)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_anywhere_is_an_error_or_harmless_but_never_a_crash(
    tmp_path: Path, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(["", ".gz", ".xz", ".zst"]))
    damaged = bytearray(ar(BINARY, CONTROL, (f"data.tar{suffix}", compress(DATA_TAR, suffix))))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)) | st.none())
    with suppress(ImageError):
        read(tmp_path, bytes(damaged[:cut]))

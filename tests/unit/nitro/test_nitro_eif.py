"""The image file's writer, against a parser written from the specification."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cagebuild.errors import CageError, EifError
from cagebuild.nitro import crc, ramdisk
from cagebuild.nitro.build import build, expected_size
from cagebuild.nitro.cmdline import CMDLINE
from cagebuild.nitro.metadata import Identity, metadata_json
from cagebuild.nitro.newfile import new_file, write_all
from cagebuild.nitro.parallel import fan_out
from tests.support import eif_by_spec as spec
from tests.support.nitro import EPOCH, arm_image, built, bzimage, file, job, tree

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.nitro.pcr import Architecture


@pytest.mark.parametrize(("architecture", "flags"), [("x86_64", 0), ("aarch64", 1)])
def test_an_image_file_to_the_letter(
    tmp_path: Path, architecture: Architecture, flags: int
) -> None:
    given = job(tmp_path, architecture=architecture)
    path, measured = built(tmp_path, given)
    image = spec.image(path.read_bytes())
    assert (image.version, image.flags) == (4, flags)
    assert (image.default_mem, image.default_cpus) == (1 << 30, 2)
    assert image.kinds == [spec.KERNEL, spec.CMDLINE, spec.METADATA, spec.RAMDISK, spec.RAMDISK]
    assert image.only(spec.KERNEL) == given.boot.kernel.read_bytes()
    assert image.only(spec.CMDLINE) == b"console=ttyS0 reboot=k"
    assert measured.measurements.pcrs() == spec.pcrs(image)
    assert [(s.size, s.sha384) for s in measured.sections] == [
        (len(data), hashlib.sha384(data).hexdigest()) for data in image.data
    ]
    assert measured.size == len(path.read_bytes()) == expected_size(given)
    assert [e.name for e in spec.cpio(image.ramdisks[0]).entries] == [b"dev", b"init", b"nsm.ko"]
    assert spec.cpio(image.ramdisks[1]).entries[-2].data == b"/app\n--serve\n"


def test_measuring_is_building_without_a_file(tmp_path: Path) -> None:
    given = job(tmp_path)
    _, measured = built(tmp_path, given)
    assert build(given, output=None).measured == measured


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        files.append(built(folder)[0].read_bytes())
    assert files[0] == files[1]


def test_the_metadata(tmp_path: Path) -> None:
    path, _ = built(tmp_path)
    found = spec.image(path.read_bytes()).metadata
    assert isinstance(found, dict)
    assert list(found) == [
        "ImageName",
        "ImageVersion",
        "BuildMetadata",
        "DockerInfo",
        "CustomMetadata",
    ]
    assert list(found["BuildMetadata"]) == [
        "BuildTime",
        "BuildTool",
        "BuildToolVersion",
        "OperatingSystem",
        "KernelVersion",
    ]
    assert found["BuildMetadata"]["BuildTime"] == "2023-11-14T22:13:20+00:00"
    assert found["DockerInfo"] == {}
    assert found["CustomMetadata"] is None


@pytest.mark.parametrize(
    "identity",
    [
        Identity(name="x", version="1", epoch=1 << 60),
        Identity(name="x", version="1", epoch=-(1 << 60)),
        Identity(name="\udcff", version="1", epoch=0),
        Identity(name="x", version="1", epoch=0, custom=float("nan")),
        Identity(name="x", version="1", epoch=0, custom=object()),
    ],
)
def test_metadata_that_is_not_json(identity: Identity) -> None:
    with pytest.raises(EifError, match="metadata"):
        metadata_json(identity)


@pytest.mark.parametrize(
    ("architecture", "size", "sha256"),
    [
        ("x86_64", 120, "10d7d9dd205d4596d45997d17434f26207525f129d171a51f9859b1af9f4a07a"),
        ("aarch64", 85, "e3a26db3f0375d58ed9756cb986a717a6286f38c6e54e82b457527467fc5ae4c"),
    ],
)
def test_awss_command_lines(architecture: Architecture, size: int, sha256: str) -> None:
    line = CMDLINE[architecture].encode()
    # AWS's files end in a line break or not; the published digest says which.
    published = [text for text in (line, line + b"\n") if len(text) == size]
    assert [hashlib.sha256(text).hexdigest() for text in published] == [sha256]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x1f\x8b" + bytes(2000), r"compressed \(gzip\)"),
        (b"\x7fELF" + bytes(2000), "an ELF file"),
        (b"MZ\0\0zimg" + bytes(2000), "zboot"),
        (arm_image(), "an aarch64 Image"),
        (bzimage()[:0x205], "of no known form"),
        (bzimage()[:0x211] + b"\0" + bytes(2000), "of no known form"),
    ],
)
def test_kernels_that_x86_64_cannot_boot(tmp_path: Path, content: bytes, said: str) -> None:
    given = job(tmp_path)
    given.boot.kernel.write_bytes(content)
    with pytest.raises(EifError, match=said):
        build(given, output=tmp_path / "out.eif")
    assert not (tmp_path / "out.eif").exists()


def test_a_kernel_of_the_other_architecture(tmp_path: Path) -> None:
    given = job(tmp_path, architecture="aarch64")
    given.boot.kernel.write_bytes(bzimage())
    with pytest.raises(EifError, match="is an x86_64 bzImage; an enclave of aarch64"):
        build(given, output=None)


@pytest.mark.parametrize("name", ["init", "nsm.ko"])
def test_a_boot_program_of_the_other_architecture(tmp_path: Path, name: str) -> None:
    given = job(tmp_path)
    elf = bytearray(b"\x7fELF\x02\x01" + bytes(58))
    elf[18:20] = (183).to_bytes(2, "little")
    (tmp_path / name).write_bytes(elf)
    with pytest.raises(EifError, match="is built for aarch64, the enclave for x86_64"):
        build(given, output=None)
    elf[18:20] = (62).to_bytes(2, "little")
    (tmp_path / name).write_bytes(elf)
    build(given, output=None)


@pytest.mark.parametrize("name", ["kernel", "init", "nsm.ko"])
def test_a_missing_boot_file(tmp_path: Path, name: str) -> None:
    given = job(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(EifError, match=name):
        build(given, output=tmp_path / "out.eif")
    assert not list(tmp_path.glob("*out.eif*"))


@pytest.mark.parametrize("cmdline", [b"a\0b", b"x" * 2048])
def test_command_lines_that_the_kernel_would_cut(tmp_path: Path, cmdline: bytes) -> None:
    given = job(tmp_path)
    with pytest.raises(EifError, match="command line"):
        build(replace(given, boot=replace(given.boot, cmdline=cmdline)), output=None)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path, _ = built(tmp_path)
    before = path.read_bytes()
    listed = sorted(tmp_path.iterdir())
    bad = job(tmp_path, tree({b"f": file(mtime=1 << 33)}))
    with pytest.raises(CageError):
        build(bad, output=path, manifest_file=tmp_path / "manifest.json")
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == listed


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    given = job(tmp_path)
    listed = sorted(tmp_path.iterdir())
    threads = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        build(given, output=tmp_path / "out.eif", progress=stop)
    assert sorted(tmp_path.iterdir()) == listed
    assert set(threading.enumerate()) <= threads


def test_progress_ends_at_the_size(tmp_path: Path) -> None:
    given = job(tmp_path, tree({b"f": file(bytes(5 << 20))}))
    seen: list[int] = []
    path, _ = built(tmp_path, given)
    build(given, output=None, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] in (path.stat().st_size, path.stat().st_size - 12)


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for output in (link, tmp_path):
        with pytest.raises(EifError, match="not a regular file"):
            build(job(tmp_path), output=output)


def test_through_a_symlink_the_file_is_replaced(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(real)
    build(job(tmp_path), output=link)
    assert link.is_symlink()
    spec.image(real.read_bytes())


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(EifError, match="cannot write"):
        build(job(tmp_path), output=tmp_path / "missing" / "out.eif")


def test_a_full_disk_is_an_error_with_a_cause(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(EifError, match="No space left"), new_file(tmp_path / "x"):
        write_all(full, b"x")
    os.close(full)
    assert not list(tmp_path.iterdir())


def test_a_consumers_error_reaches_the_producer() -> None:
    def refuse(_chunk: bytes) -> None:
        raise ValueError("no more")

    def feed() -> None:
        with fan_out(refuse, len) as put:
            for _ in range(100):
                put(b"x")

    threads = set(threading.enumerate())
    with pytest.raises(ValueError, match="no more"):
        feed()
    assert set(threading.enumerate()) <= threads


def test_every_consumer_gets_everything_in_order() -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    chunks = [b"%d" % i for i in range(500)]
    with fan_out(first.append, second.append) as put:
        for chunk in chunks:
            put(chunk)
    assert first == second == chunks


@pytest.mark.parametrize("length", [0, 1, 2, 3, 255, 256, 65_537])
def test_crcs_combine(length: int) -> None:
    first, second = b"header" * 9, bytes(i * 31 & 0xFF for i in range(length))
    combined = crc.combine(zlib.crc32(first), zlib.crc32(second), length)
    assert combined == zlib.crc32(first + second)


def test_a_crc_over_more_than_fits_memory() -> None:
    zeros, state = bytes(1 << 20), zlib.crc32(b"x")
    for _ in range(64):
        state = zlib.crc32(zeros, state)
    part = 0
    for _ in range(64):
        part = zlib.crc32(zeros, part)
    assert crc.combine(zlib.crc32(b"x"), part, 64 << 20) == state


def test_the_hosts_file_is_160_bytes() -> None:
    assert len(ramdisk.HOSTS) == 160


def test_the_epoch_is_reported(tmp_path: Path) -> None:
    assert build(job(tmp_path), output=None).measured.epoch == EPOCH

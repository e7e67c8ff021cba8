"""AWS's boot files: what is known of them, pinning them, and the pins in a lock."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError, FetchError, LockError, MeasurementError
from cagebuild.fetch.http import get
from cagebuild.nitro import aws, cpio, eif, ramdisk
from cagebuild.nitro.aws import BOOT_FILES, AwsPins, check_pcr1, git_blob_id, lock_aws, published
from cagebuild.nitro.cmdline import CMDLINE
from cagebuild.nitro.pcr import Architecture
from tests.support import eif_by_spec
from tests.support.aws import COMMIT, FILES, KERNEL_NAME, known, publish
from tests.support.http_server import serving
from tests.support.nitro import file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cagebuild.nitro.aws import BootFile

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
NAMES: dict[BootFile, str] = {"init": "init", "nsm": "nsm.ko", "cmdline": "cmdline"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the server has."""
    return publish(tmp_path / "served")


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


def no_network(url: str, *, limit: int) -> bytes:
    raise AssertionError(f"asked for {url}")


# What this version knows


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_published_file_is_known_by_a_digest(architecture: Architecture) -> None:
    files = published().files[architecture]
    assert tuple(files) == BOOT_FILES
    assert files["kernel"].name == KERNEL_NAME[architecture]
    assert re.fullmatch("[0-9a-f]{40}", files["kernel"].git_blob or "")
    for name in NAMES:
        assert files[name].sha256 is not None
        assert files[name].size
    assert re.fullmatch("[0-9a-f]{40}", published().commit)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_published_command_line_is_the_one_that_goes_with_other_kernels(
    architecture: Architecture,
) -> None:
    """The digests of AWS's files are those of files that this project knows to the byte, too."""
    line = f"{CMDLINE[architecture]}\n".encode()
    facts = published().files[architecture]["cmdline"]
    assert (facts.sha256, facts.size) == (Digest.of(line), len(line))


def test_a_location_names_commit_architecture_and_file() -> None:
    url = published().location("aarch64", "nsm")
    assert url.startswith("https://")
    assert url.endswith(f"/{published().commit}/blobs/aarch64/nsm.ko")
    mirror = replace(published(), url="https://mirror.example/{architecture}-{name}")
    assert mirror.location("x86_64", "kernel") == "https://mirror.example/x86_64-bzImage"


# Pinning


def test_a_git_blob_id_is_gits_own(tmp_path: Path) -> None:
    data = bytes(range(256)) * 33
    (tmp_path / "data").write_bytes(data)
    told = subprocess.run(
        ["git", "hash-object", "--no-filters", tmp_path / "data"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert git_blob_id(data) == told.stdout.strip()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pins_are_digests_of_what_the_server_has(server: str, architecture: Architecture) -> None:
    pins = lock_aws(architecture, get, known=known(server))
    assert tuple(pins.files) == BOOT_FILES
    for name, served in {"kernel": KERNEL_NAME[architecture], **NAMES}.items():
        data = FILES[architecture][served]
        pin = pins.to_json()[name]
        assert pin["sha256"] == hashlib.sha256(data).hexdigest()
        assert pin["size"] == len(data)
        assert pin["url"] == f"{server}/{COMMIT}/{architecture}/{served}"


def test_only_the_kernel_is_downloaded(server: str) -> None:
    asked: list[tuple[str, int]] = []

    def noted(url: str, *, limit: int) -> bytes:
        asked.append((url, limit))
        return get(url, limit=limit)

    lock_aws("x86_64", noted, known=known(server))
    assert asked == [(f"{server}/{COMMIT}/x86_64/bzImage", 64 << 20)]


def test_a_kernel_with_a_known_sha256_is_pinned_without_a_download() -> None:
    digest = Digest.of(b"kernel")
    all_known = known("http://mirror.example")
    kernel = replace(all_known.files["x86_64"]["kernel"], sha256=digest, size=6)
    files = {"x86_64": {**all_known.files["x86_64"], "kernel": kernel}}
    pins = lock_aws("x86_64", no_network, known=replace(all_known, files=files))
    assert pins.files["kernel"].sha256 == digest


@pytest.mark.parametrize("change", [b"", b"\0", b"another kernel of another length"])
def test_another_kernel_is_refused_with_both_ids(folder: Path, server: str, change: bytes) -> None:
    kernel = folder / COMMIT / "x86_64" / "bzImage"
    right = git_blob_id(kernel.read_bytes())
    kernel.write_bytes(kernel.read_bytes()[:-1] + change)
    with pytest.raises(DigestMismatchError) as caught:
        lock_aws("x86_64", get, known=known(server))
    assert f"got git blob {git_blob_id(kernel.read_bytes())}" in caught.value.message
    assert f"expected {right}" in caught.value.message
    assert caught.value.hint


def test_a_kernel_that_nothing_is_known_of_is_refused(server: str) -> None:
    knows = known(server)
    kernel = replace(knows.files["x86_64"]["kernel"], git_blob=None)
    files = {"x86_64": {**knows.files["x86_64"], "kernel": kernel}}
    with pytest.raises(DigestMismatchError):
        lock_aws("x86_64", get, known=replace(knows, files=files))


def test_a_kernel_that_is_not_there_is_a_fetch_error(folder: Path, server: str) -> None:
    (folder / COMMIT / "x86_64" / "bzImage").unlink()
    with pytest.raises(FetchError, match="404 not found"):
        lock_aws("x86_64", get, known=known(server))


def test_a_kernel_beyond_the_limit_is_a_fetch_error(folder: Path, server: str) -> None:
    with (folder / COMMIT / "x86_64" / "bzImage").open("wb") as large:
        large.truncate(aws.LIMIT + 1)
    with pytest.raises(FetchError, match="longer than the limit"):
        lock_aws("x86_64", get, known=known(server))


# In a lock

PINS = AwsPins(
    commit=COMMIT,
    files={
        name: aws.FilePin(
            url=f"https://mirror.example/{name}", sha256=Digest.of(name.encode()), size=number
        )
        for number, name in enumerate(BOOT_FILES)
    },
)


def test_pins_are_the_same_again_after_json() -> None:
    text = json.dumps(PINS.to_json(), sort_keys=True)
    again = AwsPins.from_json(json.loads(text))
    assert again == PINS
    assert tuple(again.files) == BOOT_FILES
    assert json.dumps(again.to_json(), sort_keys=True) == text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("commit", "main"),
        ("commit", "C0FFEE" + "0" * 34),
        ("commit", None),
        ("init", None),
        ("init", {}),
        ("init", []),
        ("more", {}),
        ("kernel.more", 1),
        ("kernel.url", None),
        ("kernel.url", "file:///etc/passwd"),
        ("kernel.url", "https://mirror.example/a b"),
        ("kernel.url", "https://mirror.example/\n"),
        ("kernel.url", "https://mirror.example/" + "a" * 2000),
        ("kernel.sha256", None),
        ("kernel.sha256", "sha256:" + "0" * 64),
        ("kernel.sha256", "0" * 63),
        ("kernel.size", None),
        ("kernel.size", "1"),
        ("kernel.size", True),
        ("kernel.size", 1.0),
        ("kernel.size", -1),
        ("kernel.size", aws.LIMIT + 1),
    ],
)
def test_pins_of_another_form_are_a_lock_error(key: str, value: object) -> None:
    data: dict[str, Any] = copy.deepcopy(PINS.to_json())
    table, _, last = key.rpartition(".")
    (data[table] if table else data)[last] = value
    with pytest.raises(LockError) as caught:
        AwsPins.from_json(data)
    assert "invoke lock" in caught.value.hint


@pytest.mark.parametrize("key", ["commit", *BOOT_FILES])
def test_pins_without_a_key_are_a_lock_error(key: str) -> None:
    data = PINS.to_json()
    del data[key]
    with pytest.raises(LockError):
        AwsPins.from_json(data)


@pytest.mark.parametrize("data", [None, [], "pins", {"kernel": {}, "cmdline": "console=ttyS0"}])
def test_what_is_no_table_of_pins_is_a_lock_error(data: object) -> None:
    with pytest.raises(LockError):
        AwsPins.from_json(data)


# PCR1


def pcr1_of(tmp_path: Path, architecture: Architecture) -> str:
    """PCR1 as the product measures it, with an image's ramdisk that must not count."""
    data = FILES[architecture]
    kernel = tmp_path / "kernel"
    kernel.write_bytes(data[KERNEL_NAME[architecture]])
    measured = eif.measure(
        eif.Contents(
            architecture=architecture,
            kernel=kernel,
            cmdline=data["cmdline"].strip(),
            metadata=b"{}",
            boot_ramdisk=cpio.pack(ramdisk.boot_entries(file(data["init"]), file(data["nsm.ko"]))),
            image_ramdisk=cpio.pack(iter(())),
            epoch=0,
        )
    )
    return measured.measurements.pcr1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pcr1_is_of_kernel_trimmed_command_line_and_boot_ramdisk(
    tmp_path: Path, architecture: Architecture
) -> None:
    data = FILES[architecture]
    sections = (
        data[KERNEL_NAME[architecture]],
        data["cmdline"].rstrip(b"\n"),
        boot_ramdisk(init=data["init"], nsm=data["nsm.ko"]),
    )
    by_hand = hashlib.sha384(bytes(48) + hashlib.sha384(b"".join(sections)).digest()).hexdigest()
    assert eif_by_spec.pcr(*sections) == by_hand
    assert pcr1_of(tmp_path, architecture) == by_hand


def boot_ramdisk(*, init: bytes, nsm: bytes) -> bytes:
    """Ramdisk 0 written out by hand: ``dev``, ``init``, ``nsm.ko`` and the end, in 'newc'."""
    archive = b""
    directory, regular, year = 0o040755, 0o100755, 1492533000
    entries = [
        (b"dev", b"", directory, 2, year),
        (b"init", init, regular, 1, year),
        (b"nsm.ko", nsm, regular, 1, year),
        (b"TRAILER!!!", b"", 0, 1, 0),
    ]
    for number, (name, data, mode, links, time) in enumerate(entries):
        fields = (721 + number, mode, 0, 0, links, time, len(data), 3, 1, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0"
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return archive + bytes(-len(archive) % 512)


def test_the_published_pcr1_passes_and_another_does_not() -> None:
    right, wrong = "a" * 96, "b" * 96
    knows = known("http://mirror.example", x86_64=right)
    check_pcr1(right, "x86_64", known=knows)
    check_pcr1(wrong, "aarch64", known=knows)  # none was published
    with pytest.raises(MeasurementError, match=f"got {wrong}, expected {right}"):
        check_pcr1(wrong, "x86_64", known=knows)


def test_the_pcr1_that_is_published_for_awss_own_files_is_known() -> None:
    assert re.fullmatch("[0-9a-f]{96}", published().pcr1["x86_64"])
    check_pcr1(published().pcr1["x86_64"], "x86_64")
    with pytest.raises(MeasurementError):
        check_pcr1("0" * 96, "x86_64")

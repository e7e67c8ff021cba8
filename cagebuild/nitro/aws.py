"""AWS's published boot files: kernel, init, driver and command line, by digest.

Source: aws/aws-nitro-enclaves-cli, folder ``blobs``, at the commit that ``pins/aws.json`` names. Of
the kernels only git's blob id is known beforehand, so locking downloads the kernel, knows it again
by that id, and pins its SHA-256; the other files' SHA-256 are in the pins file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cagebuild import lockjson
from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError, MeasurementError

if TYPE_CHECKING:
    from typing import Protocol

    from cagebuild.nitro.pcr import Architecture

    class Get(Protocol):
        """How bytes come over the network: FetchError for none, or more than ``limit``."""

        def __call__(self, url: str, *, limit: int) -> bytes:
            """The whole body of ``url``."""


BootFile = Literal["kernel", "init", "nsm", "cmdline"]
BOOT_FILES: tuple[BootFile, ...] = get_args(BootFile)
LIMIT = 64 << 20
"""Bytes of the largest file that is taken for a boot file; AWS's kernels have less than 10 MiB."""

_PINS_FILE = Path(__file__).parents[1] / "pins" / "aws.json"
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_URL = re.compile(r"https?://[!-~]{1,2000}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """What is known of one file before it was ever fetched."""

    name: str
    """Its name in the folder of its architecture."""
    sha256: Digest | None = None
    size: int | None = None
    """Bytes; known where ``sha256`` is."""
    git_blob: str | None = None
    """SHA-1 over ``blob <size>``, a NUL and the content, in hex: its id in git."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The content of ``pins/aws.json``."""

    commit: str
    url: str
    """Of a file, with ``{commit}``, ``{architecture}`` and ``{name}`` to be filled in. A mirror is
    another one: ``replace(published(), url=…)``."""
    files: Mapping[str, Mapping[BootFile, PublishedFile]]
    """By architecture."""
    pcr1: Mapping[str, str]
    """PCR1 of an enclave with these files, in hex, for the architectures where it was published."""

    def location(self, architecture: Architecture, file: BootFile) -> str:
        """Where a file can be had."""
        name = self.files[architecture][file].name
        return self.url.format(commit=self.commit, architecture=architecture, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePin:
    """One file, as a lock names it."""

    url: str
    sha256: Digest
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsPins:
    """What cage.lock holds of ``enclave.boot = "aws"``."""

    commit: str
    files: Mapping[BootFile, FilePin]
    """All of ``BOOT_FILES``, in that order."""

    def to_json(self) -> dict[str, Any]:
        """What the lock holds; equal pins give equal values."""
        files: dict[str, Any] = {
            file: {"url": pin.url, "sha256": pin.sha256.hex, "size": pin.size}
            for file, pin in self.files.items()
        }
        return {"commit": self.commit, **files}

    @classmethod
    def from_json(cls, data: object) -> AwsPins:
        """Read what ``to_json`` gave; raise LockError for anything else."""
        with lockjson.reading("AWS boot files", command="invoke lock --update boot"):
            top = lockjson.table(data, "commit", *BOOT_FILES)
            return cls(
                commit=lockjson.text(top["commit"], _COMMIT),
                files={file: _file_pin(top[file]) for file in BOOT_FILES},
            )


@cache
def published() -> Published:
    """What this version knows of AWS's boot files."""
    return parse_published(_PINS_FILE.read_bytes())


def parse_published(raw: bytes) -> Published:
    """Read the format of ``pins/aws.json``."""
    data = json.loads(raw)
    architectures = data["architectures"]
    return Published(
        commit=data["commit"],
        url=data["url"],
        files={
            architecture: {file: _published_file(each["files"][file]) for file in BOOT_FILES}
            for architecture, each in architectures.items()
        },
        pcr1={name: each["pcr1"] for name, each in architectures.items() if each["pcr1"]},
    )


def lock_aws(architecture: Architecture, get: Get, *, known: Published | None = None) -> AwsPins:
    """Pin the boot files of an architecture; only what has no known SHA-256 is downloaded.

    ``known`` is what this version knows, unless given. Raises FetchError when a file
    cannot be had, and DigestMismatchError when it is not the one of the commit.
    """
    known = known or published()
    return AwsPins(
        commit=known.commit,
        files={file: _pin(known, architecture, file, get) for file in BOOT_FILES},
    )


def git_blob_id(data: bytes) -> str:
    """The id, in hex, that git gives to a file's content."""
    head = b"blob %d\0" % len(data)
    return hashlib.sha1(head + data, usedforsecurity=False).hexdigest()


def check_pcr1(pcr1: str, architecture: Architecture, *, known: Published | None = None) -> None:
    """Compare the PCR1 (hex) of an enclave that boots with these files to the published one.

    PCR1 is of the boot files alone, so it is the same whatever the app. Raises MeasurementError
    when it differs; passes where none was published.
    """
    expected = (known or published()).pcr1.get(architecture)
    if expected not in (None, pcr1):
        raise MeasurementError(
            f"PCR1 is not the one that is published for AWS's {architecture} boot files:"
            f" got {pcr1}, expected {expected}"
        )


def _pin(known: Published, architecture: Architecture, file: BootFile, get: Get) -> FilePin:
    facts = known.files[architecture][file]
    url = known.location(architecture, file)
    if facts.sha256 is not None and facts.size is not None:
        return FilePin(url=url, sha256=facts.sha256, size=facts.size)
    data = get(url, limit=LIMIT)
    got = git_blob_id(data)
    if got != facts.git_blob:
        raise DigestMismatchError(
            f"{url} is not AWS's {file} of commit {known.commit[:12]}:"
            f" got git blob {got}, expected {facts.git_blob}",
            hint="whatever answers for that address does not have AWS's file: do not trust it, and"
            " look for a proxy in between",
        )
    return FilePin(url=url, sha256=Digest.of(data), size=len(data))


def _published_file(each: Mapping[str, Any]) -> PublishedFile:
    sha256 = each.get("sha256")
    return PublishedFile(
        name=each["name"],
        sha256=None if sha256 is None else Digest("sha256", sha256),
        size=each.get("size"),
        git_blob=each.get("git_blob"),
    )


def _file_pin(data: object) -> FilePin:
    each = lockjson.table(data, "url", "sha256", "size")
    return FilePin(
        url=lockjson.text(each["url"], _URL),
        sha256=Digest("sha256", lockjson.text(each["sha256"])),
        size=lockjson.number(each["size"], LIMIT),
    )

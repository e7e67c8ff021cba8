"""manifest.json: every entry of an image's ramdisks, so that a moved PCR is traced to a file.

The file is JSON. Its first line holds what is known of the whole image, then comes one entry a line
in the order of the ramdisks, so that it can be written and read as a stream:

    {"format": 1, "architecture": …, "Measurements": {…}, "sections": […], "entries": [
    {"ramdisk": 0, "path": "dev", "kind": "directory", "mode": "0755", …},
    …
    ]}

Names and symlinks' targets that are not UTF-8 are in ``path_b64`` and ``target_b64`` (base64).
"""

from __future__ import annotations

import base64
import contextlib
import json
import stat
import tempfile
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, TypeVar, get_args

from cagebuild.errors import EifError
from cagebuild.nitro import reader
from cagebuild.nitro.newc import KINDS, MemberKind
from cagebuild.nitro.newfile import new_file, write_all
from cagebuild.nitro.pcr import (
    HASH_ALGORITHM,
    Architecture,
    Measured,
    Measurements,
    Section,
    SectionName,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from cagebuild.nitro.cpio import Entry

FORMAT = 1
_COPY = 1 << 20
_BATCH = 512  # lines held before they are written
_MAX_LINE = 1 << 20
_LAST_LINE = b"]}\n"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a manifest says of the whole image."""

    architecture: Architecture
    measurements: Measurements
    sections: tuple[Section, ...]
    """In file order, without the signature."""

    @classmethod
    def of(cls, measured: Measured) -> Head:
        """That of a build."""
        return cls(
            architecture=measured.architecture,
            measurements=measured.measurements,
            sections=measured.sections,
        )

    def to_json(self) -> dict[str, object]:
        """The first line's keys, but ``entries``."""
        return {
            "format": FORMAT,
            "architecture": self.architecture,
            **self.measurements.to_json(),
            "sections": [section.to_json() for section in self.sections],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """One entry of a ramdisk."""

    ramdisk: int
    """Number of the ramdisk, from 0."""
    path: bytes
    """The name as it is in the ramdisk: ``rootfs/bin/`` for a directory of the image."""
    kind: MemberKind
    mode: int
    """Permission bits."""
    uid: int
    gid: int
    mtime: int
    size: int = 0
    """Bytes of a regular file."""
    sha256: str = ""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    origin: str = ""

    def line(self) -> str:
        """As JSON, without a line break."""
        parts = [
            f'{{"ramdisk": {self.ramdisk}',
            _text("path", self.path),
            f'"kind": "{self.kind}", "mode": "{self.mode:04o}"',
            f'"uid": {self.uid}, "gid": {self.gid}, "mtime": {self.mtime}',
        ]
        if self.kind == "file":
            parts.append(f'"size": {self.size}, "sha256": "{self.sha256}"')
        elif self.kind == "symlink":
            parts.append(_text("target", self.target))
        elif self.kind in ("character", "block"):
            parts.append(f'"rdev": [{self.rdev[0]}, {self.rdev[1]}]')
        if self.origin:
            parts.append(f'"origin": {quoted(self.origin)}')
        return ", ".join(parts) + "}"


class Writer:
    """Collects entries while a ramdisk is packed; ``save`` puts the manifest in place.

    Entries wait in an unnamed temporary file in ``folder``, so memory stays bounded.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._spool: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise EifError(f"cannot write a manifest in {folder}: {error.strerror}") from error
        self._lines: list[str] = []
        self._first = True

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def recorder(self, ramdisk: int) -> Recorder:
        """What ``cpio.pack`` of that ramdisk tells its entries to."""
        return Recorder(self, ramdisk)

    def add(self, entry: ManifestEntry) -> None:
        """Append an entry."""
        self._lines.append(entry.line())
        if len(self._lines) >= _BATCH:
            self._flush()

    def save(self, output: Path, head: Head) -> None:
        """Write the manifest; it appears under its name only when it is whole."""
        self._flush()
        first = json.dumps(head.to_json())[:-1] + ', "entries": [\n'
        with new_file(output) as descriptor:
            write_all(descriptor, first.encode())
            self._spool.seek(0)
            while data := self._spool.read(_COPY):
                write_all(descriptor, data)
            write_all(descriptor, (b"" if self._first else b"\n") + _LAST_LINE)

    def _flush(self) -> None:
        if not self._lines:
            return
        text = ("" if self._first else ",\n") + ",\n".join(self._lines)
        self._first = False
        self._lines.clear()
        try:
            self._spool.write(text.encode())
        except OSError as error:
            raise EifError(f"cannot write the manifest: {error.strerror}") from error


class Recorder:
    """Turns the entries of one ramdisk into entries of a manifest."""

    def __init__(self, writer: Writer, ramdisk: int) -> None:
        self._writer = writer
        self._ramdisk = ramdisk

    def record(self, entry: Entry, sha256: str) -> None:
        """See ``cpio.Recorder``."""
        content = entry.content
        self._writer.add(
            ManifestEntry(
                ramdisk=self._ramdisk,
                path=entry.name,
                kind=KINDS[stat.S_IFMT(entry.mode)],
                mode=stat.S_IMODE(entry.mode),
                uid=entry.uid,
                gid=entry.gid,
                mtime=entry.mtime,
                size=entry.size if sha256 else 0,
                sha256=sha256,
                target=content if isinstance(content, bytes) and not sha256 else b"",
                rdev=entry.rdev,
                origin=entry.origin,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest on disk, with its head already read."""

    path: Path
    head: Head

    def entries(self) -> Iterator[ManifestEntry]:
        """Its entries in order, read as a stream; raises EifError naming the line."""
        with _opened(self.path) as stream:
            _line(stream, self.path, 1)
            number = 2
            while (line := _line(stream, self.path, number)) != _LAST_LINE:
                try:
                    yield _entry(json.loads(line.rstrip(b",\n").decode()))
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    raise EifError(
                        f"{self.path}: line {number} is not an entry of a manifest: {error}"
                    ) from error
                number += 1


def load(path: Path) -> Manifest:
    """Open a manifest; raises EifError when it is not one."""
    with _opened(path) as stream:
        line = _line(stream, path, 1)
    try:
        if not line.endswith(b', "entries": [\n'):
            raise ValueError("it does not end in a list of entries")
        return Manifest(path=path, head=_head(json.loads(line.decode() + "]}")))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EifError(f"{path}: line 1 is not the start of a manifest: {error}") from error


def from_eif(path: Path, output: Path) -> Head:
    """Write the manifest of an image file, which knows no origins; raises EifError."""
    image = reader.read(path)
    head = Head(
        architecture=image.header.architecture,
        measurements=image.measurements,
        sections=tuple(section for section in image.sections if section.name != "signature"),
    )
    with Writer(output.parent) as writer:
        for entry in eif_entries(image):
            writer.add(entry)
        writer.save(output, head)
    return head


def eif_entries(image: reader.Eif) -> Iterator[ManifestEntry]:
    """The entries that an image file's manifest has; raises EifError."""
    for ramdisk, member in reader.ramdisk_members(image, digests=True):
        yield ManifestEntry(
            ramdisk=ramdisk,
            path=member.name,
            kind=member.kind,
            mode=member.mode,
            uid=member.uid,
            gid=member.gid,
            mtime=member.mtime,
            size=member.size if member.kind == "file" else 0,
            sha256=member.sha256,
            target=member.target,
            rdev=member.rdev,
        )


def _text(key: str, value: bytes) -> str:
    try:
        return f'"{key}": {quoted(value.decode())}'
    except UnicodeDecodeError:
        return f'"{key}_b64": "{base64.b64encode(value).decode()}"'


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise EifError(f"cannot read {path}: {error.strerror}") from error


def _line(stream: BinaryIO, path: Path, number: int) -> bytes:
    line = stream.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        raise EifError(f"{path}: line {number} is not that of a manifest: cut off, or too long")
    return line


class _Fields:
    """A JSON object whose keys are taken one by one; ValueError says what is wrong with one."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise ValueError("not an object")
        self._left: dict[str, object] = dict(value)

    def has(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str) -> object:
        if key not in self._left:
            raise ValueError(f"{key!r} is missing")
        return self._left.pop(key)

    def number(self, key: str) -> int:
        value = self.take(key)
        if type(value) is not int or value < 0:
            raise ValueError(f"{key!r} is not a number")
        return value

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str):
            raise ValueError(f"{key!r} is not a text")
        return value

    def items(self, key: str) -> list[object]:
        value = self.take(key)
        if not isinstance(value, list):
            raise ValueError(f"{key!r} is not a list")
        return value

    def octets(self, key: str) -> bytes:
        if self.has(f"{key}_b64"):
            return base64.b64decode(self.text(f"{key}_b64"), validate=True)
        return self.text(key).encode()

    def end(self) -> None:
        if self._left:
            raise ValueError(f"unknown key {min(self._left)!r}")


def _head(value: object) -> Head:
    fields = _Fields(value)
    if fields.take("format") != FORMAT:
        raise ValueError("its format is not known")
    pcrs = _Fields(fields.take("Measurements"))
    if pcrs.take("HashAlgorithm") != HASH_ALGORITHM:
        raise ValueError("the hash algorithm is not SHA-384")
    head = Head(
        architecture=_one_of(get_args(Architecture), fields.text("architecture")),
        measurements=Measurements(
            pcr0=pcrs.text("PCR0"),
            pcr1=pcrs.text("PCR1"),
            pcr2=pcrs.text("PCR2"),
            pcr8=pcrs.text("PCR8") if pcrs.has("PCR8") else None,
        ),
        sections=tuple(map(_section, fields.items("sections"))),
    )
    if fields.items("entries"):
        raise ValueError("it holds entries")
    pcrs.end()
    fields.end()
    return head


def _section(value: object) -> Section:
    fields = _Fields(value)
    section = Section(
        name=_one_of(get_args(SectionName), fields.text("section")),
        size=fields.number("size"),
        sha384=fields.text("sha384"),
    )
    fields.end()
    return section


def _entry(value: object) -> ManifestEntry:
    fields = _Fields(value)
    ramdisk, path = fields.number("ramdisk"), fields.octets("path")
    kind: MemberKind = _one_of(get_args(MemberKind), fields.text("kind"))
    major, minor = 0, 0
    if kind in ("character", "block"):
        match fields.items("rdev"):
            case [int(major), int(minor)]:
                pass
            case _:
                raise ValueError("'rdev' is not two numbers")
    entry = ManifestEntry(
        ramdisk=ramdisk,
        path=path,
        kind=kind,
        mode=int(fields.text("mode"), 8),
        uid=fields.number("uid"),
        gid=fields.number("gid"),
        mtime=fields.number("mtime"),
        size=fields.number("size") if kind == "file" else 0,
        sha256=fields.text("sha256") if kind == "file" else "",
        target=fields.octets("target") if kind == "symlink" else b"",
        rdev=(major, minor),
        origin=fields.text("origin") if fields.has("origin") else "",
    )
    fields.end()
    return entry


def _one_of(allowed: tuple[T, ...], value: str) -> T:
    for candidate in allowed:
        if candidate == value:
            return candidate
    raise ValueError(f"{value[:100]!r} is not one of {', '.join(map(str, allowed))}")

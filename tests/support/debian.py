"""Small Debian archives with a key of their own, and packages both well-formed and not."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from pysequoia import ArmorKind, Profile, SignatureMode, Tsk, armor, sign
from pysequoia.packet import PacketPile

from cagebuild.debian.index import Universe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DATE = "Sat, 11 Jul 2026 10:16:37 UTC"
DATE_SECONDS = 1783764997


@cache
def key(name: str) -> Tsk:
    """A signing key; the same one for the same name within a run."""
    return Tsk.generate(f"{name} <{name}@example.org>", profile=Profile.RFC4880)


def keyring(*names: str) -> bytes:
    """The public certificates of keys, one after the other."""
    return b"".join(bytes(key(name).extract_certificate()) for name in names)


def clear_sign(text: bytes, *names: str) -> bytes:
    """A cleartext-signed message with a signature of each key."""
    messages = [sign(key(name).signer(), text, mode=SignatureMode.CLEAR) for name in names]
    begin = b"-----BEGIN PGP SIGNATURE-----"
    packets = b""
    for message in messages:
        packets += b"".join(
            bytes(packet) for packet in PacketPile.from_bytes(begin + message.partition(begin)[2])
        )
    return messages[0].partition(begin)[0] + armor(packets, ArmorKind.Signature).encode()


# Packages


def member(name: str, **attributes: object) -> tarfile.TarInfo:
    """The header of an entry: 0644, 0:0, mtime 1 unless said otherwise."""
    info = tarfile.TarInfo(name)
    info.mtime = 1
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def folder(name: str, mode: int = 0o755, **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=mode, **attributes), b""


def file(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, size=len(content), **attributes), content


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777), b""


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target), b""


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def ar(*members: tuple[str, bytes]) -> bytes:
    """An ar archive as dpkg-deb writes it."""
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{1:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".xz":
        return lzma.compress(data, preset=0)
    if suffix == ".gz":
        return gzip.compress(data, mtime=0)
    if suffix == ".zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return data


def control_text(name: str, version: str, architecture: str, fields: Mapping[str, str]) -> str:
    lines = {"Package": name, "Version": version, "Architecture": architecture, **fields}
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


def make_deb(
    name: str,
    *entries: tuple[tarfile.TarInfo, bytes],
    version: str = "1.0",
    architecture: str = "amd64",
    fields: Mapping[str, str] | None = None,
    suffix: str = ".xz",
) -> bytes:
    """A .deb whose data.tar has these entries below ``./``."""
    control = control_text(name, version, architecture, fields or {})
    return ar(
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", compress(tar(file("./control", control.encode())), ".xz")),
        (f"data.tar{suffix}", compress(tar(*entries), suffix)),
    )


# Indexes


def stanza(name: str, version: str = "1.0", *, architecture: str = "amd64", **fields: str) -> str:
    """A paragraph of a Packages file; ``pre_depends="x"`` becomes ``Pre-Depends: x``."""
    digest = hashlib.sha256(f"{name} {version}".encode()).hexdigest()
    values = {
        "Package": name,
        "Version": version,
        "Architecture": architecture,
        "Filename": f"pool/main/{name[0]}/{name}/{name}_{version.replace(':', '%3a')}.deb",
        "Size": "1000",
        "SHA256": digest,
        **{_field(key): value for key, value in fields.items()},
    }
    return "".join(f"{key}: {value}\n" for key, value in values.items())


def source_stanza(
    name: str, version: str, files: Mapping[str, bytes], /, **fields: str | None
) -> str:
    """A paragraph of a Sources file; a field that is None is left out."""
    checksums = "".join(
        f"\n {hashlib.sha256(content).hexdigest()} {len(content)} {file_name}"
        for file_name, content in files.items()
    )
    values = {
        "Package": name,
        "Format": "3.0 (quilt)",
        "Binary": f"{name}, {name}-doc",
        "Version": version,
        "Checksums-Sha256": checksums,
        "Directory": f"pool/main/{name}",
        **{_field(key): value for key, value in fields.items()},
    }
    return "".join(f"{key}: {value}\n" for key, value in values.items() if value is not None)


def _field(keyword: str) -> str:
    return "SHA256" if keyword == "sha256" else keyword.replace("_", "-").title()


def universe(*stanzas: str, suite: str = "trial") -> Universe:
    """Packages for amd64."""
    made = Universe("amd64")
    made.add("\n".join(stanzas).encode(), suite)
    return made


@dataclass(slots=True)
class Archive:
    """A Debian archive in a folder: fill, then ``publish``."""

    root: Path
    suite: str = "trial"
    component: str = "main"
    signers: Sequence[str] = ("archive",)
    release: dict[str, str] = field(default_factory=dict)
    by_hash: bool = True
    stanzas: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    """Paragraphs of the source index; without any there is none."""

    def add(self, deb: bytes, name: str, version: str = "1.0", **fields: str) -> None:
        """Put a package into the pool and the index."""
        path = self.root / f"pool/main/{name}_{version}.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(deb)
        self.stanzas.append(
            stanza(
                name,
                version,
                **{
                    "filename": f"pool/main/{path.name}",
                    "size": str(len(deb)),
                    "sha256": hashlib.sha256(deb).hexdigest(),
                    **fields,
                },
            )
        )

    def add_source(self, name: str, version: str, **archives: bytes) -> None:
        """Put a source package into the pool and the index: ``orig`` and ``debian``."""
        stem = f"{name}_{version.partition(':')[2] or version}"
        upstream = stem.rpartition("-")[0]
        names = {"orig": f"{upstream}.orig.tar.xz", "debian": f"{stem}.debian.tar.xz"}
        folder = self.root / f"pool/main/{name}"
        folder.mkdir(parents=True, exist_ok=True)
        files = {names[key]: content for key, content in archives.items()}
        for file_name, content in files.items():
            (folder / file_name).write_bytes(content)
        files[f"{stem}.dsc"] = b"described"
        self.sources.append(source_stanza(name, version, files))

    def publish(self, *, architecture: str = "amd64", suffix: str = ".xz") -> None:
        """Write the indexes and a signed InRelease."""
        indexes = {f"{self.component}/binary-{architecture}/Packages": self.stanzas}
        if self.sources:
            indexes[f"{self.component}/source/Sources"] = self.sources
        dists = self.root / "dists" / self.suite
        files: dict[str, bytes] = {}
        for path, stanzas in indexes.items():
            index = "\n".join(stanzas).encode()
            packed = compress(index, suffix)
            files |= {path: index, path + suffix: packed}
            folder = (dists / path).parent
            (folder / "by-hash/SHA256").mkdir(parents=True, exist_ok=True)
            (dists / f"{path}{suffix}").write_bytes(packed)
            if self.by_hash:
                digest = hashlib.sha256(packed).hexdigest()
                (folder / "by-hash/SHA256" / digest).write_bytes(packed)
        text = release_text(
            files,
            Suite=self.suite,
            Codename=self.suite,
            Architectures=architecture,
            **{"Acquire-By-Hash": "yes", **self.release},
        )
        (dists / "InRelease").write_bytes(clear_sign(text, *self.signers))


def release_text(files: Mapping[str, bytes], **fields: str) -> bytes:
    """The text of a Release file."""
    lines = [f"{name}: {value}" for name, value in {"Date": DATE, **fields}.items() if value]
    lines.append("SHA256:")
    lines += [
        f" {hashlib.sha256(content).hexdigest()} {len(content):8} {path}"
        for path, content in files.items()
    ]
    return ("\n".join(lines) + "\n").encode()

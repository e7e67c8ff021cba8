"""Source packages: found in a signed index, pinned by digest, refused when malformed."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.debian.locking import lock_package, lock_source
from cagebuild.debian.pins import SuitePin
from cagebuild.debian.sourceindex import find_source
from cagebuild.debian.sourcepins import SourceArchive, SourcePins
from cagebuild.digest import Digest
from cagebuild.errors import (
    DigestMismatchError,
    FetchError,
    LockError,
    ResolveError,
    SignatureError,
)
from cagebuild.fetch.http import get
from tests.support.debian import Archive, keyring, source_stanza
from tests.support.http_server import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RING = keyring("archive")
FILES = {
    "busy_1.0-4.dsc": b"d",
    "busy_1.0.orig.tar.bz2": b"orig",
    "busy_1.0.orig.tar.bz2.asc": b"signature",
    "busy_1.0-4.debian.tar.xz": b"debian",
}
GOOD = source_stanza("busy", "1:1.0-4", FILES)


def found(*stanzas: str, name: str = "busy") -> Any:
    return find_source("\n".join(stanzas).encode(), name, "trial")


def test_a_source_package_is_its_two_archives() -> None:
    source = found(source_stanza("busy-box", "1.0-4", {}), GOOD, source_stanza("z", "1-1", {}))
    assert (source.name, source.version) == ("busy", "1:1.0-4")
    assert source.orig == SourceArchive(
        filename="pool/main/busy/busy_1.0.orig.tar.bz2", size=4, sha256=Digest.of(b"orig")
    )
    assert source.debian.filename == "pool/main/busy/busy_1.0-4.debian.tar.xz"


@pytest.mark.parametrize("turned", [False, True])
def test_the_newest_version_counts_as_debian_orders_them(turned: bool) -> None:
    files = {"busy_1.0.orig.tar.xz": b"o", "busy_1.0-10.debian.tar.xz": b"new"}
    newest = source_stanza("busy", "1:1.0-10", files)
    stanzas = (GOOD, newest, source_stanza("busy", "1:2.0-1", {}, extra_source_only="yes"))
    assert found(*(stanzas[::-1] if turned else stanzas)).version == "1:1.0-10"


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_end_of_the_index_makes_no_difference(end: str) -> None:
    assert find_source((GOOD.rstrip("\n") + end).encode(), "busy", "trial").version == "1:1.0-4"


def test_a_name_within_another_field_is_not_a_package() -> None:
    other = source_stanza("z", "1-1", {}, description="x\n Package: busy")
    with pytest.raises(ResolveError, match="has no source package busy"):
        found(other, source_stanza("busy.", "1-1", {}))
    with pytest.raises(ResolveError, match="has no source package"):
        found(GOOD, name=".*")


def changed(**fields: str | None) -> str:
    return source_stanza("busy", "1:1.0-4", FILES, **fields)


def checksums(line: str) -> str:
    return changed(checksums_sha256=f"\n {line}")


HASH = Digest.of(b"").hex
BAD = {
    "no version": changed(version=None),
    "no format": changed(format=None),
    "no directory": changed(directory=None),
    "no checksums": changed(checksums_sha256=None),
    "another format": changed(format="1.0"),
    "native": changed(format="3.0 (native)"),
    "version that is none": changed(version="1/2"),
    "parent as directory": changed(directory="pool/../.."),
    "absolute directory": changed(directory="/pool"),
    "URL as directory": changed(directory="http://evil.example"),
    "directory with a query": changed(directory="pool?x"),
    "empty directory": changed(directory=""),
    "path as file": checksums(f"{HASH} 1 ../busy_1.0.orig.tar.xz"),
    "folder in a file": checksums(f"{HASH} 1 a/busy_1.0.orig.tar.xz"),
    "short hash": checksums(f"{HASH[:-1]} 1 busy_1.0.orig.tar.xz"),
    "hash in capitals": checksums(f"{HASH.upper()} 1 busy_1.0.orig.tar.xz"),
    "size that is none": checksums(f"{HASH} -1 busy_1.0.orig.tar.xz"),
    "empty archive": checksums(f"{HASH} 0 busy_1.0.orig.tar.xz"),
    "huge archive": checksums(f"{HASH} {1 << 39} busy_1.0.orig.tar.xz"),
    "no name": checksums(f"{HASH} 1"),
    "another compression": checksums(f"{HASH} 1 busy_1.0.orig.tar.zst"),
    "file in the field's line": changed(checksums_sha256=f"{HASH} 1 busy_1.0.orig.tar.xz"),
    "name twice": changed(
        checksums_sha256="".join(f"\n {HASH} {n} busy_1.0.orig.tar.xz" for n in (1, 2))
    ),
    "no orig": source_stanza("busy", "1:1.0-4", {"busy_1.0-4.debian.tar.xz": b"x"}),
    "no debian": source_stanza("busy", "1:1.0-4", {"busy_1.0.orig.tar.xz": b"x"}),
    "two origs": source_stanza("busy", "1:1.0-4", {**FILES, "busy_1.0.orig.tar.xz": b"x"}),
    "a further archive": source_stanza(
        "busy", "1:1.0-4", {**FILES, "busy_1.0.orig-more.tar.xz": b"x"}
    ),
    "archives of another version": source_stanza("busy", "1:1.1-4", FILES),
    "field twice": GOOD + "Version: 1:1.0-5\n",
    "package twice": GOOD + "Package: busy\n",
    "no field": GOOD + "rubbish\n",
    "line of blanks": GOOD + " \n",
}


@pytest.mark.parametrize("stanza", BAD.values(), ids=BAD.keys())
def test_a_bad_paragraph_is_refused(stanza: str) -> None:
    with pytest.raises(ResolveError, match="busy"):
        found(stanza, GOOD)


def test_a_paragraph_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ResolveError, match="malformed"):
        find_source(GOOD.encode() + b"Maintainer: \xff\n", "busy", "trial")


# Over HTTP


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(tmp_path / "debian")
    made.add_source("busy", "1:1.0-4", orig=b"the authors'", debian=b"patches")
    made.add(b"a package", "linux-source", "6.12.1", architecture="all")
    made.add(b"newer", "linux-source", "6.12.10", architecture="all", depends="not-there")
    return made


@pytest.fixture
def base_url(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path) as url:
        yield url


def locked(url: str, name: str = "busy", component: str = "main") -> SourcePins:
    return lock_source(name, "trial", component, get, mirror=f"{url}/debian", keyring=RING)


def test_a_source_package_is_pinned_and_can_be_had(archive: Archive, base_url: str) -> None:
    archive.publish()
    pins = locked(base_url)
    assert (pins.name, pins.version, pins.suite.suite) == ("busy", "1:1.0-4", "trial")
    for pin, content in ((pins.orig, b"the authors'"), (pins.debian, b"patches")):
        mirror, snapshot = pins.locations(pin)
        assert get(mirror, limit=pin.size) == content
        assert pin.sha256 == Digest.of(content)
        assert snapshot.endswith(f"/archive/debian/20260711T221637Z/{pin.filename}")


def test_a_source_of_the_security_archive_is_found_beside(base_url: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "debian-security", suite="trial-security")
    archive.add_source("busy", "1:1.0-4+deb1", orig=b"the authors'", debian=b"patches")
    archive.publish()
    pins = lock_source(
        "busy", "trial-security", "main", get, mirror=f"{base_url}/debian", keyring=RING
    )
    mirror, snapshot = pins.locations(pins.debian)
    assert get(mirror, limit=pins.debian.size) == b"patches"
    assert "/archive/debian-security/" in snapshot


def stranger(archive: Archive) -> None:
    archive.signers = ("stranger",)
    archive.publish()


def changed_index(archive: Archive) -> None:
    """An index that has its size, but not its digest."""
    archive.by_hash = False
    archive.publish()
    index = archive.root / "dists/trial/main/source/Sources.xz"
    index.write_bytes(bytes(index.stat().st_size))


def no_index(archive: Archive) -> None:
    archive.by_hash = False
    archive.publish()
    (archive.root / "dists/trial/main/source/Sources.xz").unlink()


def no_sources(archive: Archive) -> None:
    archive.sources = []
    archive.publish()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (stranger, SignatureError),
        (changed_index, DigestMismatchError),
        (no_index, FetchError),
        (no_sources, ResolveError),
    ],
)
def test_an_index_that_is_not_the_signed_one_is_refused(
    archive: Archive, base_url: str, change: Callable[[Archive], None], error: type[Exception]
) -> None:
    change(archive)
    with pytest.raises(error):
        locked(base_url)


def test_a_name_that_would_become_another_url_is_refused(archive: Archive, base_url: str) -> None:
    archive.publish()
    with pytest.raises(ResolveError):
        locked(base_url, component="../main")
    with pytest.raises(ResolveError):
        lock_source("busy", "../trial", "main", get, mirror=f"{base_url}/debian", keyring=RING)
    with pytest.raises(ResolveError):
        locked(base_url, name="../busy")


def test_one_package_is_pinned_without_what_it_needs(archive: Archive, base_url: str) -> None:
    archive.publish()
    url = f"{base_url}/debian/"
    pins = lock_package("linux-source", "trial", "x86_64", get, mirror=url, keyring=RING)
    (pin,) = pins.packages
    assert (pin.version, pin.architecture) == ("6.12.10", "all")
    assert get(pins.locations(pin)[0], limit=pin.size) == b"newer"
    with pytest.raises(ResolveError, match="trial has no package other"):
        lock_package("other", "trial", "x86_64", get, mirror=url, keyring=RING)


# In a lock


PINS = SourcePins(
    mirror="https://mirror.example/debian",
    suite=SuitePin(
        suite="bookworm", date=1, snapshot="20260711T221637Z", release=Digest.of(b"release")
    ),
    name="busy",
    version="1:1.0-4",
    orig=SourceArchive(filename="pool/a.orig.tar.xz", size=4, sha256=Digest.of(b"o")),
    debian=SourceArchive(filename="pool/a.debian.tar.xz", size=5, sha256=Digest.of(b"d")),
)


def test_pins_are_the_same_again_after_json() -> None:
    text = json.dumps(PINS.to_json(), sort_keys=True)
    assert SourcePins.from_json(json.loads(text)) == PINS


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("orig", "filename"), "../a.tar.xz"),
        (("orig", "filename"), "/a.tar.xz"),
        (("orig", "filename"), "pool/a.deb"),
        (("debian", "filename"), "pool//a.tar.xz"),
        (("debian", "sha256"), "0" * 63),
        (("debian", "size"), "4"),
        (("debian", "more"), 1),
        (("suite", "snapshot"), "../.."),
        (("suite",), None),
        (("name",), "a/b"),
        (("version",), "1/2"),
        (("mirror",), 1),
        (("more",), 1),
    ],
)
def test_pins_that_were_edited_are_refused(path: tuple[str, ...], value: object) -> None:
    data = copy.deepcopy(PINS.to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(LockError):
        SourcePins.from_json(data)

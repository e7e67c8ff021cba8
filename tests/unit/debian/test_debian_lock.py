"""From names to pins over HTTP: a local archive with a key of its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from cagebuild.debian import sources
from cagebuild.debian.locking import lock_base, lock_kernel
from cagebuild.errors import FetchError, ResolveError, SignatureError
from cagebuild.fetch.http import get
from tests.support.debian import DATE_SECONDS, Archive, keyring, make_deb
from tests.support.http_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RING = keyring("archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a cage says of its base."""

    packages: tuple[str, ...]
    mirror: str
    suite: str = "trial"
    updates: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    snapshot: str | None = None


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(tmp_path / "debian")
    made.add(make_deb("app"), "app", depends="lib (>= 1)")
    made.add(make_deb("lib", version="1.2"), "lib", "1.2")
    return made


@pytest.fixture
def base_url(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path) as url:
        yield url


def test_names_become_pins_of_what_the_mirror_has(archive: Archive, base_url: str) -> None:
    archive.publish()
    pins = lock_base(
        Wanted(packages=("app",), mirror=f"{base_url}/debian/"), "x86_64", get, keyring=RING
    )
    assert [(pin.name, pin.version) for pin in pins.packages] == [("app", "1.0"), ("lib", "1.2")]
    for pin in pins.packages:
        data = get(pins.locations(pin)[0], limit=pin.size)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (pin.size, pin.sha256.hex)
    (suite,) = pins.suites
    assert (suite.date, suite.snapshot) == (DATE_SECONDS, "20260711T221637Z")
    release = (archive.root / "dists/trial/InRelease").read_bytes()
    assert suite.release.hex == hashlib.sha256(release).hexdigest()


def test_the_order_of_names_and_of_the_index_makes_no_difference(
    archive: Archive, base_url: str
) -> None:
    archive.add(make_deb("zed"), "zed", depends="virtual | app")
    archive.add(make_deb("one"), "one", provides="virtual")
    results = set()
    for names in (("zed", "app"), ("app", "zed")):
        for stanzas in (archive.stanzas, archive.stanzas[::-1]):
            archive.stanzas = stanzas
            archive.publish()
            wanted = Wanted(packages=names, mirror=f"{base_url}/debian")
            pins = lock_base(wanted, "x86_64", get, keyring=RING).to_json()
            results.add(json.dumps(pins["packages"]))
    assert len(results) == 1


def test_security_updates_come_from_the_archive_beside(
    archive: Archive, base_url: str, tmp_path: Path
) -> None:
    archive.publish()
    security = Archive(tmp_path / "debian-security", suite="trial-security")
    security.add(make_deb("lib", version="1.2+deb1"), "lib", "1.2+deb1")
    security.publish()
    wanted = Wanted(
        packages=("app",), mirror=f"{base_url}/debian", updates=("trial-security", "trial")
    )
    pins = lock_base(wanted, "x86_64", get, keyring=RING)
    assert [each.suite for each in pins.suites] == ["trial", "trial-security"]
    pin = pins.packages[1]
    assert (pin.name, pin.version, pin.suite) == ("lib", "1.2+deb1", "trial-security")
    assert get(pins.locations(pin)[0], limit=pin.size)


def test_a_snapshot_is_read_from_the_snapshot_archive(
    archive: Archive, base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.root = tmp_path / "archive/debian/20260712T000000Z"
    archive.release = {"Valid-Until": "Sun, 12 Jul 2026 10:16:37 UTC"}
    archive.add(make_deb("app"), "app", "0.9")
    archive.publish()
    local = replace(sources.defaults(), snapshot=f"{base_url}/archive")
    monkeypatch.setattr(sources, "defaults", lambda: local)
    wanted = Wanted(
        packages=("app",), mirror="http://127.0.0.1:1/debian", snapshot="20260712T000000Z"
    )
    pins = lock_base(wanted, "x86_64", get, keyring=RING)
    assert pins.suites[0].snapshot == "20260712T000000Z"
    assert pins.locations(pins.packages[0])[1].startswith(f"{base_url}/archive/debian/20260712T0")


def test_a_mirror_without_the_suite_is_an_error(archive: Archive, base_url: str) -> None:
    with pytest.raises(FetchError):
        lock_base(Wanted(packages=("app",), mirror=f"{base_url}/none"), "x86_64", get, keyring=RING)


def test_a_mirror_with_a_key_of_its_own_is_refused(archive: Archive, base_url: str) -> None:
    archive.signers = ("stranger",)
    archive.publish()
    wanted = Wanted(packages=("app",), mirror=f"{base_url}/debian")
    with pytest.raises(SignatureError):
        lock_base(wanted, "x86_64", get, keyring=RING)
    with pytest.raises(SignatureError):
        lock_base(wanted, "x86_64", get)


@pytest.mark.parametrize(
    ("field", "value"),
    [("suite", "../trial"), ("components", ("../main",)), ("snapshot", "../2026"), ("suite", "")],
)
def test_a_name_that_would_become_another_url_is_refused(
    archive: Archive, base_url: str, field: str, value: object
) -> None:
    archive.publish()
    values = {"packages": ("app",), "mirror": f"{base_url}/debian", field: value}
    with pytest.raises(ResolveError):
        lock_base(Wanted(**values), "x86_64", get, keyring=RING)  # type: ignore[arg-type]


def test_a_snapshot_older_than_the_release_that_comes_is_refused(
    archive: Archive, base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.root = tmp_path / "archive/debian/20260711T000000Z"
    archive.publish()
    local = replace(sources.defaults(), snapshot=f"{base_url}/archive")
    monkeypatch.setattr(sources, "defaults", lambda: local)
    wanted = Wanted(packages=("app",), mirror="http://x", snapshot="20260711T000000Z")
    with pytest.raises(ResolveError, match="made 20260711T101637Z"):
        lock_base(wanted, "x86_64", get, keyring=RING)


def test_the_kernel_is_what_the_meta_package_depends_on(tmp_path: Path, base_url: str) -> None:
    archive = Archive(tmp_path / "debian", suite="bookworm")
    kernel = "linux-image-6.1.0-50-cloud-amd64"
    archive.add(b"x", "linux-image-cloud-amd64", depends=f"{kernel} (= 1.0), other")
    archive.add(b"the kernel", kernel, recommends="firmware")
    archive.publish()
    pins = lock_kernel("x86_64", get, mirror=f"{base_url}/debian", keyring=RING)
    (pin,) = pins.packages
    assert pin.name == kernel
    assert get(pins.locations(pin)[0], limit=pin.size) == b"the kernel"


def test_a_suite_without_the_kernel_is_an_error(tmp_path: Path, base_url: str) -> None:
    archive = Archive(tmp_path / "debian", suite="bookworm")
    archive.add(b"x", "linux-image-amd64")
    archive.publish()
    with pytest.raises(ResolveError, match="no kernel"):
        lock_kernel("x86_64", get, mirror=f"{base_url}/debian", keyring=RING)

"""Pins in a lock: the same again after JSON, and strict about it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from cagebuild.debian.pins import DebianPins, PackagePin, SuitePin
from cagebuild.digest import Digest
from cagebuild.errors import LockError


def pin(name: str, suite: str = "bookworm", **changes: Any) -> PackagePin:
    values: dict[str, Any] = {
        "name": name,
        "version": "1:2.0~rc1+b1-3",
        "architecture": "amd64",
        "filename": f"pool/main/{name[0]}/{name}/{name}_2.0~rc1+b1-3_amd64.deb",
        "size": 1234,
        "sha256": Digest.of(name.encode()),
        "suite": suite,
    }
    return PackagePin(**(values | changes))


def suite_pin(suite: str) -> SuitePin:
    return SuitePin(
        suite=suite, date=1783764997, snapshot="20260711T221637Z", release=Digest.of(b"release")
    )


PINS = DebianPins(
    mirror="https://mirror.example/debian",
    suites=(suite_pin("bookworm"), suite_pin("bookworm-security")),
    packages=(pin("a"), pin("b", "bookworm-security")),
)


def test_pins_are_the_same_again_after_json() -> None:
    text = json.dumps(PINS.to_json(), sort_keys=True)
    again = DebianPins.from_json(json.loads(text))
    assert again == PINS
    assert json.dumps(again.to_json(), sort_keys=True) == text
    assert again.suite == "bookworm"


def test_a_package_is_on_the_mirror_and_in_the_snapshot_archive() -> None:
    mirror, snapshot = PINS.locations(PINS.packages[0])
    path = "pool/main/a/a/a_2.0~rc1+b1-3_amd64.deb"
    assert mirror == f"https://mirror.example/debian/{path}"
    assert snapshot.endswith(f"/archive/debian/20260711T221637Z/{path}")


def test_a_security_update_is_in_the_archive_beside() -> None:
    mirror, snapshot = PINS.locations(PINS.packages[1])
    assert mirror.startswith("https://mirror.example/debian-security/pool/")
    assert "/archive/debian-security/20260711T221637Z/pool/" in snapshot


def change(path: str, value: object) -> dict[str, Any]:
    data = copy.deepcopy(PINS.to_json())
    *way, last = path.split(".")
    at: Any = data
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    if value is None:
        del at[last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mirror", None),
        ("mirror", 1),
        ("extra", "x"),
        ("suites", []),
        ("suites", {}),
        ("suites.0.suite", "../x"),
        ("suites.0.snapshot", "yesterday"),
        ("suites.0.release", "sha256:0"),
        ("suites.0.date", -1),
        ("suites.0.date", "1"),
        ("suites.1.suite", "bookworm"),
        ("packages.0", "a"),
        ("packages.0.name", "../a"),
        ("packages.0.name", "c"),
        ("packages.1.name", "a"),
        ("packages.0.version", "1 0"),
        ("packages.0.architecture", "i386"),
        ("packages.0.filename", "/etc/passwd.deb"),
        ("packages.0.filename", "pool/../../x.deb"),
        ("packages.0.filename", "http://evil/x.deb"),
        ("packages.0.size", True),
        ("packages.0.size", 1.5),
        ("packages.0.sha256", "0" * 63),
        ("packages.0.suite", "sid"),
        ("packages.0.suite", None),
        ("packages.0.more", 1),
    ],
)
def test_a_changed_lock_is_refused(path: str, value: object) -> None:
    with pytest.raises(LockError):
        DebianPins.from_json(change(path, value))


@pytest.mark.parametrize("data", [None, [], "x", 1, {}])
def test_what_are_no_pins_is_refused(data: object) -> None:
    with pytest.raises(LockError):
        DebianPins.from_json(data)

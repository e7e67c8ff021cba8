"""Differences of two locks: which pins moved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import LockError
from cagebuild.explain import Difference, NamedLock, explain, load, lock_from, text
from cagebuild.explain.model import PinChange
from cagebuild.lock import Lock, LockedEpoch, LockedRuntime, Pinned
from tests.support.manifests import file_entry, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

A, B = "a" * 64, "b" * 64


def package(name: str, version: str, sha256: str = A, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": version, "sha256": sha256, "filename": f"pool/{name}", **more}


def make_lock(*packages: dict[str, Any]) -> Lock:
    return Lock(
        cage="pay",
        config=Digest("sha256", A),
        architecture="x86_64",
        epoch=LockedEpoch(policy="commit", time=0, inputs=Digest("sha256", A)),
        base=Pinned(
            made_from=Digest("sha256", A),
            kind="debian",
            pins={
                "mirror": "http://mirror.test/debian",
                "suites": [{"suite": "bookworm", "date": 1, "release": f"sha256:{A}"}],
                "packages": list(packages),
            },
        ),
        boot=Pinned(made_from=Digest("sha256", A), kind="own", pins={"kernel": {"sha256": A}}),
        runtime=None,
        expected={"PCR0": "0" * 96, "PCR1": "1" * 96, "PCR2": "2" * 96},
    )


LOCK = make_lock(package("libc6", "2.36-9"), package("zlib1g", "1.2.13"))


def differ(got: Lock, expected: Lock = LOCK) -> Difference:
    return explain(NamedLock(name="A", lock=expected), NamedLock(name="B", lock=got))


def test_equal_locks_do_not_differ() -> None:
    assert not differ(LOCK)


def test_a_package_that_moved_one_that_came_and_one_that_went() -> None:
    got = make_lock(package("libc6", "2.36-10", B), package("tzdata", "2026a"))
    difference = differ(got)
    assert difference.pins == (
        PinChange(
            subject="package libc6", got=f"2.36-10 sha256 {B}", expected=f"2.36-9 sha256 {A}"
        ),
        PinChange(subject="package zlib1g", got=None, expected=f"1.2.13 sha256 {A}"),
        PinChange(subject="package tzdata", got=f"2026a sha256 {A}", expected=None),
    )
    shown = text.render(difference)
    assert f"package libc6:\n  got      2.36-10 sha256 {B}\n  expected 2.36-9" in shown
    assert "package zlib1g: removed, 1.2.13" in shown
    assert "package tzdata: added, 2026a" in shown


def test_what_the_summary_leaves_out_is_shown_when_nothing_else_moved() -> None:
    got = make_lock(package("libc6", "2.36-9", size=1), package("zlib1g", "1.2.13"))
    (pin,) = differ(got).pins
    assert pin.got != pin.expected
    assert "size 1" in (pin.got or "")


@pytest.mark.parametrize(
    ("changes", "subject", "got", "expected"),
    [
        ({"config": Digest("sha256", B)}, "configuration", f"sha256:{B}", f"sha256:{A}"),
        ({"architecture": "aarch64"}, "architecture", "aarch64", "x86_64"),
        ({"epoch": replace(LOCK.epoch, time=86400)}, "epoch time", "86400", "0"),
        (
            {"runtime": LockedRuntime(installer=Digest("sha256", B), name="installer 1")},
            "runtime installer",
            f"sha256:{B}",
            None,
        ),
        (
            {"boot": replace(LOCK.boot, pins={"kernel": {"sha256": B}})},
            "boot kernel sha256",
            B,
            A,
        ),
    ],
)
def test_one_pin(
    changes: dict[str, Any], subject: str, got: str | None, expected: str | None
) -> None:
    pins = differ(replace(LOCK, **changes)).pins
    assert PinChange(subject=subject, got=got, expected=expected) in pins


def test_expected_measurements_that_moved_are_registers() -> None:
    difference = differ(replace(LOCK, expected={**(LOCK.expected or {}), "PCR2": "3" * 96}))
    assert [(pcr.name, pcr.got, pcr.expected) for pcr in difference.pcrs] == [
        ("PCR2", "3" * 96, "2" * 96)
    ]
    assert difference.pins == ()


def test_a_lock_without_measurements_yet() -> None:
    difference = differ(replace(LOCK, expected=None))
    assert [pcr.got for pcr in difference.pcrs] == [None, None, None]
    assert "got      none" in text.render(difference)


def test_a_lock_and_an_image_have_registers_in_common(tmp_path: Path) -> None:
    image = load(write_manifest(tmp_path, "manifest.json", [file_entry("rootfs/x")]))
    difference = explain(NamedLock(name="lock", lock=LOCK), image)
    assert [pcr.name for pcr in difference.pcrs] == ["PCR0", "PCR1", "PCR2"]
    assert difference.sections == ()


def test_a_lock_on_disk_and_one_from_a_revision(tmp_path: Path) -> None:
    (tmp_path / "cage.lock").write_text(LOCK.text())
    assert not explain(load(tmp_path / "cage.lock"), lock_from(LOCK.text().encode(), "HEAD"))


def test_a_damaged_lock_is_named(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"HEAD:cage\.lock"):
        lock_from(b'{"version": 1}', "HEAD:cage.lock")

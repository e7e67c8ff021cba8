"""Differences of two images: which register, which section, which file, which field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cagebuild.errors import UsageError
from cagebuild.explain import Difference, Image, explain, load, text
from cagebuild.explain import ramdisks as ramdisks_module
from cagebuild.explain.model import FieldChange
from cagebuild.nitro import cpio, eif, manifest
from cagebuild.nitro.metadata import Identity, metadata_json
from cagebuild.nitro.pcr import Section
from tests.support.manifests import directory_entry, file_entry, symlink_entry, write_manifest
from tests.support.nitro import bzimage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cagebuild.nitro.manifest import ManifestEntry

LIBC = "package libc6 2.36-9"
NEWER_LIBC = "package libc6 2.36-10"

ENTRIES = (
    directory_entry("rootfs/"),
    directory_entry("rootfs/lib/", origin=LIBC),
    file_entry("rootfs/lib/libc.so.6", b"libc", origin=LIBC),
    symlink_entry("rootfs/lib/libc.so", "libc.so.6", origin=LIBC),
    file_entry("rootfs/srv/server.py", b"print()"),
)


def differ(
    folder: Path,
    expected: Sequence[ManifestEntry],
    got: Sequence[ManifestEntry],
    *,
    limit: int = 10,
) -> Difference:
    before = load(write_manifest(folder, "expected.json", expected))
    after = load(write_manifest(folder, "got.json", got))
    return explain(before, after, limit=limit)


def image_of(path: Path) -> Image:
    found = load(path)
    assert isinstance(found, Image)
    return found


def with_changes(path: str, **changes: object) -> list[ManifestEntry]:
    changed = [
        replace(entry, **changes) if entry.path == path.encode() else entry  # type: ignore[arg-type]
        for entry in ENTRIES
    ]
    assert changed != list(ENTRIES)
    return changed


def only_fields(difference: Difference) -> list[FieldChange]:
    (section,) = difference.sections
    (origin,) = section.origins
    (file,) = (*origin.files, *origin.attributes)
    return list(file.fields)


def test_equal_images_do_not_differ(tmp_path: Path) -> None:
    difference = differ(tmp_path, ENTRIES, ENTRIES)
    assert not difference
    assert text.render(difference).startswith("no difference")


def test_content_of_a_package_that_moved(tmp_path: Path) -> None:
    newer = file_entry("rootfs/lib/libc.so.6", b"newer libc", origin=NEWER_LIBC)
    got = [newer if entry.path == newer.path else entry for entry in ENTRIES]
    difference = differ(tmp_path, ENTRIES, got)
    assert [(pcr.name, pcr.sections) for pcr in difference.pcrs] == [
        ("PCR0", ("ramdisk 1",)),
        ("PCR2", ("ramdisk 1",)),
    ]
    (section,) = difference.sections
    (origin,) = section.origins
    assert origin.origin == "package libc6 2.36-9 → 2.36-10"
    (file,) = origin.files
    assert file.path == "rootfs/lib/libc.so.6"
    assert file.fields == (
        FieldChange(
            field="content",
            got=f"sha256:{newer.sha256} (10 bytes)",
            expected=f"sha256:{ENTRIES[2].sha256} (4 bytes)",
        ),
    )
    shown = text.render(difference)
    assert "PCR2 moved: ramdisk 1" in shown
    assert "package libc6 2.36-9 → 2.36-10: 1 changed" in shown
    assert f"content: got sha256:{newer.sha256}" in shown


@pytest.mark.parametrize(
    ("path", "changes", "field", "got", "expected"),
    [
        ("rootfs/srv/server.py", {"mode": 0o664}, "mode", "0664", "0644"),
        ("rootfs/srv/server.py", {"gid": 1000}, "owner", "0:1000", "0:0"),
        (
            "rootfs/srv/server.py",
            {"mtime": 86400},
            "mtime",
            "86400 (1970-01-02T00:00:00Z)",
            "0 (1970-01-01T00:00:00Z)",
        ),
        ("rootfs/lib/libc.so", {"target": b"libc-2.so"}, "target", "libc-2.so", "libc.so.6"),
        (
            "rootfs/srv/server.py",
            {"kind": "fifo", "size": 0, "sha256": ""},
            "kind",
            "fifo",
            "file",
        ),
    ],
)
def test_one_field_of_one_file(
    tmp_path: Path, path: str, changes: dict[str, object], field: str, got: str, expected: str
) -> None:
    difference = differ(tmp_path, ENTRIES, with_changes(path, **changes))
    assert only_fields(difference) == [
        FieldChange(field=field, got=got, expected=expected)  # type: ignore[arg-type]
    ]
    assert f"{field}: got {got}, expected {expected}" in text.render(difference)


def test_another_device_number(tmp_path: Path) -> None:
    null = replace(file_entry("rootfs/dev/null"), kind="character", sha256="", rdev=(1, 3))
    zero = replace(null, rdev=(1, 5))
    assert only_fields(differ(tmp_path, [null], [zero])) == [
        FieldChange(field="device", got="1:5", expected="1:3")
    ]


def test_a_file_that_came_and_one_that_went(tmp_path: Path) -> None:
    difference = differ(tmp_path, ENTRIES, [*ENTRIES[:-1], file_entry("rootfs/srv/other.py")])
    (section,) = difference.sections
    (origin,) = section.origins
    assert (origin.added, origin.removed, origin.changed) == (1, 1, 0)
    assert [(file.change, file.path) for file in origin.files] == [
        ("added", "rootfs/srv/other.py"),
        ("removed", "rootfs/srv/server.py"),
    ]


def test_a_file_in_place_of_a_directory_is_a_change_of_kind(tmp_path: Path) -> None:
    before, after = directory_entry("rootfs/data/"), file_entry("rootfs/data")
    fields = only_fields(differ(tmp_path, [before], [after]))
    assert [change.field for change in fields] == ["kind", "mode"]


def test_names_that_stand_twice_are_compared_in_their_order(tmp_path: Path) -> None:
    twice = [file_entry("rootfs/etc/hosts", b"1"), file_entry("rootfs/etc/hosts", b"2")]
    assert not differ(tmp_path, twice, twice)
    (section,) = differ(tmp_path, twice, twice[:1]).sections
    assert [origin.removed for origin in section.origins] == [1]


def test_only_the_order_moved(tmp_path: Path) -> None:
    swapped = [*ENTRIES[:3], ENTRIES[4], ENTRIES[3]]
    difference = differ(tmp_path, ENTRIES, swapped)
    (section,) = difference.sections
    assert section.origins == ()
    assert section.order is not None
    assert (section.order.first, section.order.expected, section.order.got) == (
        "rootfs/srv/server.py",
        4,
        3,
    )
    assert "another order" in text.render(difference)


def test_files_that_came_do_not_count_as_another_order(tmp_path: Path) -> None:
    (section,) = differ(tmp_path, ENTRIES[1:], ENTRIES).sections
    assert section.order is None


def test_many_changes_of_one_origin_are_summed_up(tmp_path: Path) -> None:
    before = [file_entry(f"rootfs/usr/{n:03}", b"1", origin=LIBC) for n in range(222)]
    after = [file_entry(f"rootfs/usr/{n:03}", b"2", origin=NEWER_LIBC) for n in range(222)]
    difference = differ(tmp_path, before, after)
    shown = text.render(difference)
    assert "package libc6 2.36-9 → 2.36-10: 222 changed" in shown
    assert "rootfs/usr/009" in shown
    assert "rootfs/usr/010" not in shown
    assert "and 212 more" in shown


def test_one_changed_file_is_not_buried_under_another_epoch(tmp_path: Path) -> None:
    before = [file_entry(f"rootfs/usr/{n:03}", b"1") for n in range(100)]
    after = [replace(entry, mtime=86400) for entry in before]
    after[90] = replace(file_entry("rootfs/usr/090", b"2"), mtime=86400)
    difference = differ(tmp_path, before, after, limit=5)
    (section,) = difference.sections
    (shift,) = section.shifts
    assert (shift.count, shift.first) == (100, "rootfs/usr/000")
    assert [file.path for file in section.origins[0].files] == ["rootfs/usr/090"]
    shown = text.render(difference)
    assert "mtime of 100 entries" in shown
    assert shown.count("mtime") == 1
    assert "changed  rootfs/usr/090\n      content: got" in shown


def test_the_app_comes_before_hundreds_of_packages(tmp_path: Path) -> None:
    names = [f"package p{n:03} 1" for n in range(150)]
    before = [file_entry(f"rootfs/{name}/{n}", origin=name) for name in names for n in (1, 2)]
    after = [file_entry(f"rootfs/{name}/{n}", b"2", origin=name) for name in names for n in (1, 2)]
    difference = differ(tmp_path, [*before, file_entry("rootfs/z")], [*after])
    shown = text.render(difference).splitlines()
    origins = [line.strip() for line in shown if line.startswith("  app") or "  package" in line]
    assert origins[0] == "app: 1 removed"
    assert len(origins) == 100
    assert shown[-1] == "  and 102 changes of 51 more origins"
    assert sum("content: got" in line for line in shown) == 2 * 19


@pytest.mark.parametrize("section", ["kernel", "cmdline"])
def test_what_is_not_a_ramdisk_moves_two_registers(tmp_path: Path, section: str) -> None:
    before = load(write_manifest(tmp_path, "a.json", ENTRIES))
    others = {section: b"another"}
    after = load(
        write_manifest(
            tmp_path,
            "b.json",
            ENTRIES,
            kernel=others.get("kernel", b"kernel"),
            cmdline=others.get("cmdline", b"cmdline"),
        )
    )
    difference = explain(before, after)
    assert [(pcr.name, pcr.sections) for pcr in difference.pcrs] == [
        ("PCR0", (section,)),
        ("PCR1", (section,)),
    ]
    assert [change.section for change in difference.sections] == [section]


def test_the_boot_ramdisk_moves_pcr_0_and_1(tmp_path: Path) -> None:
    init = replace(file_entry("init", b"1", origin="boot files"), ramdisk=0)
    other = replace(file_entry("init", b"2", origin="boot files"), ramdisk=0)
    difference = differ(tmp_path, [init, *ENTRIES], [other, *ENTRIES])
    assert [pcr.name for pcr in difference.pcrs] == ["PCR0", "PCR1"]
    (section,) = difference.sections
    assert section.section == "ramdisk 0"
    assert [file.path for file in section.origins[0].files] == ["init"]


def test_bytes_that_no_entry_shows_are_said_to_be_that(tmp_path: Path) -> None:
    before = load(write_manifest(tmp_path, "a.json", ENTRIES))
    after = load(write_manifest(tmp_path, "b.json", ENTRIES, salt=b"inode numbers"))
    difference = explain(before, after)
    assert not difference.sections[0].explained
    assert "every entry is the same" in text.render(difference)


def test_sections_in_another_order(tmp_path: Path) -> None:
    before = image_of(write_manifest(tmp_path, "a.json", ENTRIES))
    kernel, cmdline, *others = before.sections
    after = replace(before, sections=(cmdline, kernel, *others))
    (change,) = explain(before, after).sections
    assert change.section == "order of sections"
    assert change.got == "cmdline, kernel, ramdisk 0, ramdisk 1, metadata"


def test_a_ramdisk_more(tmp_path: Path) -> None:
    before = image_of(write_manifest(tmp_path, "a.json", ENTRIES))
    more = Section(name="ramdisk", size=3, sha384="0" * 96)
    after = replace(before, sections=(*before.sections, more))
    (change,) = explain(before, after).sections
    assert (change.section, change.expected) == ("ramdisk 2", None)


def test_what_exceeds_a_run_of_the_sort_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"rootfs/{n * 37 % 100:02}/\udcff{n}" for n in range(100)]
    before = [file_entry(name, b"1") for name in names]
    after = [file_entry(name, b"2" if n % 7 else b"1") for n, name in enumerate(names)][5:]
    whole = differ(tmp_path, before, after, limit=1000)
    monkeypatch.setattr(ramdisks_module, "_RUN", 7)
    assert differ(tmp_path, before, after, limit=1000) == whole
    assert whole.sections[0].origins[0].changed == sum(1 for n in range(5, 100) if n % 7)


def test_hostile_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    evil = file_entry("rootfs/\x1b[2Jx\n\udcff", b"1", origin="package x\x1b[0m 1")
    shown = text.render(differ(tmp_path, [], [evil]))
    assert "\x1b" not in shown
    assert "rootfs/\\x1b[2Jx\\n\\xff" in shown
    shown.encode("utf-8")


def test_more_origins_than_are_kept_are_still_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ramdisks_module, "_MOST_ORIGINS", 2)
    added = [file_entry(f"rootfs/{n}", origin=f"layer {n}") for n in range(5)]
    (section,) = differ(tmp_path, [], added).sections
    assert sum(origin.added for origin in section.origins) == 5
    assert "other origins" in [origin.origin for origin in section.origins]


def test_the_difference_is_json(tmp_path: Path) -> None:
    difference = differ(tmp_path, ENTRIES, with_changes("rootfs/srv/server.py", mode=0o600))
    data = json.loads(json.dumps(difference.to_json()))
    assert data["sections"][0]["origins"][0]["attributes"][0]["fields"] == [
        {"field": "mode", "got": "0600", "expected": "0644"}
    ]


def write_image(folder: Path, content: bytes) -> tuple[Path, Path]:
    """A real image file with its manifest: an init, and one file of the app."""
    kernel = folder / "kernel"
    kernel.write_bytes(bzimage())
    image = folder / f"{len(content)}.eif"
    listed = folder / f"{len(content)}.json"
    init = cpio.Entry(b"init", 0o100755, 0, 0, 0, b"init", (0, 0), "boot files")
    program = cpio.Entry(b"rootfs/program", 0o100755, 0, 0, 7, content, (0, 0), "app")
    with manifest.Writer(folder) as writer:
        measured = eif.write(
            eif.Contents(
                architecture="x86_64",
                kernel=kernel,
                cmdline=b"console=ttyS0",
                metadata=metadata_json(Identity(name="x", version="1", epoch=0)),
                boot_ramdisk=cpio.pack([init], writer.recorder(0)),
                image_ramdisk=cpio.pack([program], writer.recorder(1)),
                epoch=0,
            ),
            image,
        )
        writer.save(listed, manifest.Head.of(measured))
    return image, listed


def test_an_image_file_and_its_own_manifest_do_not_differ(tmp_path: Path) -> None:
    image, listed = write_image(tmp_path, b"program")
    assert not explain(load(image), load(listed))
    assert not explain(load(listed), load(image))


def test_an_image_file_against_the_manifest_of_another(tmp_path: Path) -> None:
    image, _ = write_image(tmp_path, b"program")
    _, listed = write_image(tmp_path, b"another program")
    (section,) = explain(load(listed), load(image)).sections
    (origin,) = section.origins
    assert origin.origin == "app"
    assert [file.path for file in origin.files] == ["rootfs/program"]


def test_a_folder_of_results_stands_for_its_manifest(tmp_path: Path) -> None:
    listed = write_manifest(tmp_path, "manifest.json", ENTRIES)
    assert load(tmp_path).name == str(listed)
    assert not explain(load(tmp_path), load(listed))


@pytest.mark.parametrize("content", [b"", b"ELF", b"[]"])
def test_what_cannot_be_compared_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UsageError, match="neither a manifest"):
        load(tmp_path / "x")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "x")

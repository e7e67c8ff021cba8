"""Files and results: found again, never wrong, whatever became of the disk meanwhile."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import StoreError
from cagebuild.store import Blob, DamagedBlobError, Result, Session, Store
from tests.support.graphs import OUT, step

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.step import Step

CONTENT = bytes(range(256)) * 5000  # more than one chunk


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def commit(store: Store, made: Step, content: bytes = CONTENT) -> Result:
    """Put a result into the store as a run does."""
    with Session(store, [made.id]) as session, session.scratch() as scratch:
        files = {}
        for name in made.outputs:
            files[name] = scratch / name
            files[name].write_bytes(content)
        return session.commit(made, files)


def test_what_is_committed_is_found_by_another_process(store: Store) -> None:
    made = step("a", outputs=(OUT, "more"))
    result = commit(store, made)
    found = Store(store.root).lookup(made.id)
    assert found == result
    assert found.facts == made.facts()
    blob = found.outputs["more"]
    assert blob == Blob(digest=Digest.of(CONTENT), size=len(CONTENT))
    assert store.read(blob) == CONTENT


def test_blobs_are_read_only_and_kept_once(store: Store) -> None:
    made = step("a", outputs=(OUT, "more"))
    blob = commit(store, made).outputs[OUT]
    assert store.blob_path(blob.digest).stat().st_mode & 0o777 == 0o444
    assert len(list((store.root / "blobs").rglob("*/*"))) == 1


def test_nothing_temporary_is_left(store: Store) -> None:
    commit(store, step("a"))
    assert not list((store.root / "tmp").iterdir())
    assert not list((store.root / "active").iterdir())
    assert not list((store.root / "locks").iterdir())


def test_an_unknown_step_is_a_miss_without_a_reason(store: Store) -> None:
    assert store.lookup(step("a").id) is None
    assert store.probe(step("a").id) == ""


@pytest.mark.parametrize("change", ["flip", "cut", "grow", "empty", "gone", "directory", "symlink"])
def test_a_damaged_blob_is_refused_and_removed(store: Store, change: str, tmp_path: Path) -> None:
    made = step("a")
    blob = commit(store, made).outputs[OUT]
    path = store.blob_path(blob.digest)
    damage(path, change)
    store = Store(store.root)
    for use in (store.read, lambda b: store.export(b, tmp_path / "x")):
        with pytest.raises(DamagedBlobError):
            use(blob)
    with pytest.raises(DamagedBlobError):
        store.checkout(blob, tmp_path / "y")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()
    if change != "directory":
        assert not os.path.lexists(path)
        assert store.probe(made.id) == "its output out is no longer in the store"


def damage(path: Path, change: str) -> None:
    content = path.read_bytes()
    path.unlink()
    match change:
        case "flip":
            path.write_bytes(content[:-1] + b"?")
        case "cut":
            path.write_bytes(content[:-1])
        case "grow":
            path.write_bytes(content + b"?")
        case "empty":
            path.write_bytes(b"")
        case "directory":
            path.mkdir()
        case "symlink":
            other = path.with_name("other")
            other.write_bytes(content)
            path.symlink_to(other)


def test_a_flipped_byte_anywhere_in_a_blob_is_found(store: Store) -> None:
    made = step("a")
    small = b"0123456789" * 3
    blob = commit(store, made, small).outputs[OUT]
    path = store.blob_path(blob.digest)
    for position in range(len(small)):
        path.unlink(missing_ok=True)
        path.write_bytes(small[:position] + b"?" + small[position + 1 :])
        with pytest.raises(DamagedBlobError):
            store.read(blob)


def test_every_damaged_byte_of_a_result_makes_it_a_miss(store: Store) -> None:
    made = step("a", params={"text": "some words"})
    commit(store, made)
    path = store.result_path(made.id)
    whole = path.read_bytes()
    for position in range(len(whole)):
        for byte in (whole[position] ^ 1, whole[position] ^ 0x80, 0):
            changed = whole[:position] + bytes([byte]) + whole[position + 1 :]
            if changed == whole:
                continue
            path.write_bytes(changed)
            assert store.probe(made.id) == "its record in the store was damaged", position
            assert not path.exists()
    path.write_bytes(whole)
    assert store.lookup(made.id)


def test_every_truncation_of_a_result_makes_it_a_miss(store: Store) -> None:
    made = step("a")
    commit(store, made)
    path = store.result_path(made.id)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert store.lookup(made.id) is None, length
        assert not path.exists()


def test_a_result_under_another_steps_name_is_a_miss(store: Store) -> None:
    one, other = step("a"), step("b")
    commit(store, one)
    target = store.result_path(other.id)
    target.parent.mkdir(exist_ok=True)
    store.result_path(one.id).rename(target)
    assert store.lookup(other.id) is None


def test_damage_while_a_run_goes_on_is_found_too(store: Store, tmp_path: Path) -> None:
    """A file that was read in full before is trusted only as long as stat says the same."""
    blob = commit(store, step("a")).outputs[OUT]
    store.checkout(blob, tmp_path / "first")
    path = store.blob_path(blob.digest)
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.write(b"?")
    with pytest.raises(DamagedBlobError):
        store.checkout(blob, tmp_path / "second")


def test_what_was_handed_out_stays_when_the_store_loses_it(store: Store, tmp_path: Path) -> None:
    blob = commit(store, step("a")).outputs[OUT]
    store.checkout(blob, tmp_path / "first")
    store.blob_path(blob.digest).unlink()
    assert (tmp_path / "first").read_bytes() == CONTENT


@pytest.mark.parametrize("reason", [errno.EPERM, errno.EMLINK, errno.ENOENT])
def test_where_files_cannot_have_two_names_a_step_gets_a_copy(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    """Other users' files, file systems without links, and a file that is pruned at that moment."""
    blob = commit(store, step("a")).outputs[OUT]

    def link(*_: object, **__: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", link)
    store.checkout(blob, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_committing_again_repairs_a_damaged_blob(store: Store) -> None:
    blob = commit(store, step("a")).outputs[OUT]
    damage(store.blob_path(blob.digest), "flip")
    commit(store, step("b"))
    assert store.read(blob) == CONTENT


def test_an_output_that_has_another_name_elsewhere_is_copied(store: Store, tmp_path: Path) -> None:
    """Who edits the other name must not edit the store."""
    outside = tmp_path / "outside"
    outside.write_bytes(CONTENT)
    made = step("a")
    with Session(store, [made.id]) as session, session.scratch() as scratch:
        os.link(outside, scratch / OUT)
        blob = session.commit(made, {OUT: scratch / OUT}).outputs[OUT]
    outside.write_bytes(b"edited")
    assert store.read(blob) == CONTENT
    assert outside.stat().st_mode & 0o222


class TestExport:
    def test_puts_a_copy(self, store: Store, tmp_path: Path) -> None:
        blob = commit(store, step("a")).outputs[OUT]
        target = tmp_path / "new" / "folder" / "file"
        store.export(blob, target)
        assert target.read_bytes() == CONTENT
        assert target.stat().st_nlink == 1
        target.write_bytes(b"edited")
        assert store.read(blob) == CONTENT

    def test_a_damaged_blob_leaves_the_old_file(self, store: Store, tmp_path: Path) -> None:
        blob = commit(store, step("a")).outputs[OUT]
        damage(store.blob_path(blob.digest), "flip")
        target = tmp_path / "file"
        target.write_bytes(b"old")
        with pytest.raises(DamagedBlobError):
            store.export(blob, target)
        assert target.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir() if p.name != "store"] == ["file"]

    def test_a_link_in_the_targets_place_is_replaced_not_followed(
        self, store: Store, tmp_path: Path
    ) -> None:
        blob = commit(store, step("a")).outputs[OUT]
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        (tmp_path / "file").symlink_to(victim)
        store.export(blob, tmp_path / "file")
        assert victim.read_bytes() == b"precious"
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_what_a_killed_export_left_is_removed_when_it_is_old(
        self, store: Store, tmp_path: Path
    ) -> None:
        blob = commit(store, step("a")).outputs[OUT]
        old, new = tmp_path / f".file.{'0' * 16}", tmp_path / f".file.{'1' * 16}"
        other = tmp_path / ".file.notes"
        for path in (old, new, other):
            path.write_bytes(b"half")
            os.utime(path, (0, 0))
        os.utime(new)
        store.export(blob, tmp_path / "file")
        assert not old.exists()
        assert new.exists()
        assert other.exists()

    def test_a_folder_in_the_targets_place_is_an_error(self, store: Store, tmp_path: Path) -> None:
        blob = commit(store, step("a")).outputs[OUT]
        (tmp_path / "file").mkdir()
        with pytest.raises(StoreError, match="file cannot be written"):
            store.export(blob, tmp_path / "file")

"""Sizes and ages as people write them, and reading and writing files whole."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft202012Validator

from cagebuild import schema, storage
from cagebuild.errors import UsageError
from cagebuild.files import replacing, write_atomically
from cagebuild.store import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (20 << 30, "20.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert storage.shown(size) == text


@pytest.mark.parametrize(
    "text", ["30", "d", "-1d", "1.5d", "30 d", "30D", "30days", "1d1h", "٣d", "1" * 13 + "d", "d\n"]
)
def test_an_age_that_is_none_is_refused_with_an_example(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path / "store", max_bytes=1)
    with pytest.raises(UsageError, match="such as 30d or 12h"):
        storage.remove(store, older_than=text, max_size="", dry_run=True)


@pytest.mark.parametrize("text", ["10", "GiB", "10GB", "10 GiB", "1.5GiB", "-1GiB", "10gib"])
def test_a_size_that_is_none_is_refused_with_an_example(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path / "store", max_bytes=1)
    with pytest.raises(UsageError, match="such as 10GiB or 500MiB"):
        storage.remove(store, older_than="", max_size=text, dry_run=True)


@pytest.mark.parametrize("older_than", ["0m", "12h", "30d", "999999999999d", ""])
@pytest.mark.parametrize("max_size", ["0KiB", "500MiB", "10GiB", "1TiB", ""])
def test_bounds_may_be_given_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], older_than: str, max_size: str
) -> None:
    store = Store(tmp_path / "store", max_bytes=1 << 30)
    storage.remove(store, older_than=older_than, max_size=max_size, dry_run=False)
    assert capsys.readouterr().out == "removed 0 bytes: 0 files, 0 results\n"


def test_an_empty_store_is_shown_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage.show(Store(tmp_path / "store", max_bytes=1 << 30))
    expected = f"{tmp_path / 'store'}: 0 bytes in 0 files, 0 results\n"
    assert capsys.readouterr().out == expected


# files


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file"
    write_atomically(file, b"first")

    def fail() -> None:
        with replacing(file) as stream:
            stream.write(b"half of the sec")
            stream.flush()
            assert file.read_bytes() == b"first"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_bytes() == b"first"
    assert list(file.parent.iterdir()) == [file]


def test_a_new_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_symlink_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "file").symlink_to("other")
    write_atomically(tmp_path / "file", b"mine")
    assert (tmp_path / "other").read_bytes() == b"other"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize(("umask", "mode", "got"), [(0o022, 0o644, 0o644), (0o077, 0o755, 0o700)])
def test_permissions_are_those_asked_for_less_the_umask(
    tmp_path: Path, umask: int, mode: int, got: int
) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == got


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "file", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# schemas


@pytest.mark.parametrize("name", ["cage", "lock", "measurements", "settings"])
def test_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(json.loads(schema.raw(name)))


def test_a_mistake_is_told_with_its_place() -> None:
    assert schema.first_mistake("measurements", []) is not None
    pins = {"sha256": "x" * 10_000}
    lock = {"epoch": {"policy": pins}}
    said = schema.first_mistake("lock", lock)
    assert said is not None
    assert len(said) <= 400

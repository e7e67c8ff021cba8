"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cagebuild.files import left_behind, replacing, write_atomically

if TYPE_CHECKING:
    from pathlib import Path


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")

    def fail() -> None:
        with replacing(target) as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"before"}


def test_nothing_appears_before_the_end(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with replacing(target) as stream:
        stream.write(b"all")
        assert not target.exists()
        assert len(list(left_behind(target))) == 1
    assert target.read_bytes() == b"all"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "🦊" * 63, "[a-z]*?"])
def test_every_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name):
        assert len(list(left_behind(tmp_path / name))) == 1
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_permissions_are_those_of_a_file_made_in_the_usual_way(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new" / "file", b"", 0o666)
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o640

"""What the lock holds of a base that is a file or a folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import LockError
from cagebuild.image.archivepin import ArchivePin, pin_archive
from tests.support.images import Files
from tests.support.tars import archive, regular

if TYPE_CHECKING:
    from pathlib import Path

LAYER = archive(regular("a", b"1"))
PIN = ArchivePin(
    archive=Digest.of(b"archive"),
    config=Digest.of(b"config"),
    layers=((Digest.of(b"stored"), Digest.of(b"tar")), (None, Digest.of(b"other"))),
)


@pytest.mark.parametrize("pin", [PIN, ArchivePin(archive=None, config=PIN.config, layers=())])
def test_a_pin_survives_the_lock(pin: ArchivePin) -> None:
    assert ArchivePin.from_json(json.loads(json.dumps(pin.to_json()))) == pin


@pytest.mark.parametrize(
    "change",
    [
        {"archive": 7},
        {"archive": "sha256:x"},
        {"config": None},
        {"layers": None},
        {"layers": {}},
        {"layers": [7]},
        {"layers": [{}]},
        {"layers": [{"digest": None, "diff_id": None}]},
        {"layers": [{"digest": 7, "diff_id": str(PIN.config)}]},
        {"more": 1},
    ],
)
def test_a_pin_that_was_edited_by_hand_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(LockError, match="base archive cannot be read"):
        ArchivePin.from_json(PIN.to_json() | change)


@pytest.mark.parametrize("key", PIN.to_json())
def test_every_field_of_a_pin_is_needed(key: str) -> None:
    with pytest.raises(LockError):
        ArchivePin.from_json({k: v for k, v in PIN.to_json().items() if k != key})


def test_an_archive_is_pinned_by_its_bytes_and_a_folder_by_its_blobs(tmp_path: Path) -> None:
    files = Files()
    files.layout(files.image(LAYER))
    packed, folder = tmp_path / "image.tar", files.folder(tmp_path / "image")
    packed.write_bytes(files.tar())
    pins = [pin_archive(path, name=None, architecture="x86_64") for path in (packed, folder)]
    assert [pin.archive for pin in pins] == [Digest.of_file(packed), None]
    assert {pin.layers for pin in pins} == {((Digest.of(LAYER), Digest.of(LAYER)),)}
    assert pins[0].diff_ids == [str(Digest.of(LAYER))]

"""What builds came to, and what is remembered of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.results import Built, Memory, Result, outputs
from cagebuild.store import Blob, Store
from tests.support.workspaces import Workspace, tree_files

if TYPE_CHECKING:
    from cagebuild.config.model import Cage

PCRS = {"PCR0": "a" * 96, "PCR1": "b" * 96, "PCR2": "c" * 96}
BUILT = Built(
    key="key",
    files={"image.eif": "sha256:1", "manifest.json": "sha256:2"},
    pcrs=PCRS,
    expected=None,
    warnings=("one", "größe"),
)
OWNER = "/work/größe\n//pay"


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """Of nothing yet."""
    return Memory(Store(tmp_path / "store", max_bytes=1 << 30))


@pytest.fixture
def cage(tmp_path: Path) -> Cage:
    """A cage ``pay`` in a folder of another name."""
    workspace = Workspace(tmp_path)
    workspace.add("services/payment")
    return replace(workspace.cage("//services/payment"), name="pay")


def test_results_go_to_a_folder_of_the_cages_name(cage: Cage) -> None:
    assert outputs(Path("/root"), cage) == {
        "image.eif": Path("/root/dist/pay/pay.eif"),
        "measurements.json": Path("/root/dist/pay/measurements.json"),
        "manifest.json": Path("/root/dist/pay/manifest.json"),
    }


SIGNED = {**PCRS, "PCR8": "d" * 96}


@pytest.mark.parametrize(
    ("pcrs", "expected", "same"),
    [
        (PCRS, PCRS, True),
        (PCRS, dict(reversed(list(PCRS.items()))), True),
        (SIGNED, SIGNED, True),
        (PCRS, {**PCRS, "PCR2": "0" * 96}, False),
        (PCRS, SIGNED, False),
        (SIGNED, PCRS, False),
        (PCRS, {}, False),
        (PCRS, None, False),
    ],
)
def test_as_locked_means_every_register(
    cage: Cage, pcrs: dict[str, str], expected: dict[str, str] | None, same: bool
) -> None:
    result = Result(cage=cage, pcrs=pcrs, expected=expected, warnings=(), eif=None)
    assert result.as_locked is same


def test_a_build_is_remembered_by_its_owner(memory: Memory) -> None:
    assert memory.built(OWNER) is None
    memory.remember_built(OWNER, BUILT)
    assert memory.built(OWNER) == BUILT
    assert memory.built(OWNER + "x") is None
    other = replace(BUILT, key="other", expected=PCRS)
    memory.remember_built(OWNER, other)
    assert memory.built(OWNER) == other


def test_an_owner_in_a_folder_whose_name_is_no_text(memory: Memory) -> None:
    memory.remember_built("/work/\udcff\n//pay", BUILT)
    assert memory.built("/work/\udcff\n//pay") == BUILT


def test_one_owners_record_is_not_anothers(memory: Memory, tmp_path: Path) -> None:
    """Even under the other's name."""
    memory.remember_built("one", BUILT)
    memory.remember_built("two", replace(BUILT, key="two"))
    first, second = tree_files(tmp_path / "store" / "built")
    second.write_bytes(first.read_bytes())
    assert [memory.built(owner) for owner in ("one", "two")].count(None) == 1


def test_any_changed_byte_makes_a_record_none(memory: Memory, tmp_path: Path) -> None:
    memory.remember_built(OWNER, BUILT)
    (record,) = tree_files(tmp_path / "store" / "built")
    data = record.read_bytes()
    for place in range(len(data)):
        record.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert memory.built(OWNER) is None, place
    for length in range(len(data)):
        record.write_bytes(data[:length])
        assert memory.built(OWNER) is None, length


BLOB = Blob(digest=Digest.of(b"manifest"), size=8)


def test_a_manifest_is_remembered_by_all_that_it_measures(memory: Memory) -> None:
    assert memory.manifest(PCRS) is None
    memory.remember_manifest(PCRS, BLOB)
    assert memory.manifest(dict(reversed(list(PCRS.items())))) == BLOB
    for register in PCRS:
        assert memory.manifest({**PCRS, register: "0" * 96}) is None
    assert memory.manifest(SIGNED) is None


def test_a_manifest_that_is_remembered_is_not_written_again(memory: Memory, tmp_path: Path) -> None:
    memory.remember_manifest(PCRS, BLOB)
    (record,) = tree_files(tmp_path / "store" / "built")
    before = record.stat()
    memory.remember_manifest(PCRS, BLOB)
    assert record.stat().st_ino == before.st_ino
    memory.remember_manifest(PCRS, replace(BLOB, size=9))
    assert memory.manifest(PCRS) == replace(BLOB, size=9)


def test_a_record_that_cannot_be_written_is_done_without(memory: Memory, tmp_path: Path) -> None:
    (tmp_path / "store" / "built").write_bytes(b"a file where a folder should be")
    memory.remember_built(OWNER, BUILT)
    memory.remember_manifest(PCRS, BLOB)
    assert memory.built(OWNER) is None
    assert memory.manifest(PCRS) is None

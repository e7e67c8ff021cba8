"""cage.lock as a file: read back as written, refused with the place of what is wrong."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild import lock
from cagebuild.digest import Digest
from cagebuild.errors import LockError, StaleLockError
from cagebuild.lock import Lock, LockedEpoch, LockedRuntime, Pinned
from tests.support.workspaces import Workspace

if TYPE_CHECKING:
    from cagebuild.config.model import Cage

FULL = Lock(
    cage="pay",
    config=Digest.of(b"config"),
    architecture="x86_64",
    epoch=LockedEpoch(policy="commit", time=1_700_000_000, inputs=Digest.of(b"inputs")),
    base=Pinned(made_from=Digest.of(b"base"), kind="image", pins={"z": [1, {"b": None}], "a": "é"}),
    boot=Pinned(made_from=Digest.of(b"boot"), kind="own", pins={}),
    runtime=LockedRuntime(installer=Digest.of(b"installer"), name="runtime installer"),
    expected={"PCR0": "0" * 96, "PCR1": "1" * 96, "PCR2": "2" * 96, "PCR8": "8" * 96},
)
LEAST = replace(FULL, runtime=None, expected=None)
FILE = Path("cage.lock")


def document(**changes: Any) -> dict[str, Any]:
    """The full lock's JSON, with changes at places such as ``epoch.time``; ``...`` removes."""
    data: dict[str, Any] = json.loads(FULL.text())
    for place, value in changes.items():
        *way, last = place.split("__")
        table = data
        for key in way:
            table = table[key]
        if value is ...:
            del table[last]
        else:
            table[last] = value
    return data


def mistake(data: object) -> LockError:
    """What is said of a lock."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(LockError) as caught:
        lock.parse(raw, FILE)
    assert type(caught.value) is LockError
    assert caught.value.message.startswith("cage.lock: ")
    assert "invoke lock" in caught.value.hint
    return caught.value


@pytest.mark.parametrize("given", [FULL, LEAST], ids=["full", "least"])
def test_what_is_written_is_read_back(given: Lock) -> None:
    assert lock.parse(given.text().encode(), FILE) == given


def test_text_is_the_same_for_equal_locks_in_any_order() -> None:
    pins = dict(reversed(list(FULL.base.pins.items())))
    expected = dict(reversed(list((FULL.expected or {}).items())))
    other = replace(FULL, base=replace(FULL.base, pins=pins), expected=expected)
    assert other.text() == FULL.text()
    assert lock.parse(FULL.text().encode(), FILE).text() == FULL.text()


def test_text_is_ascii_with_one_key_a_line_and_a_line_end() -> None:
    text = FULL.text()
    assert text.isascii()
    assert text.endswith("}\n")
    assert ' "cage": "pay",\n' in text


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"extra": 1}, "'extra'"),
    "an unknown key of the epoch": ({"epoch__extra": 1}, "epoch: "),
    "an unknown key of a part": ({"base__extra": 1}, "base: "),
    "an unknown key of the runtime": ({"runtime__extra": 1}, "runtime: "),
    "an unknown register": ({"expected__PCR3": "0" * 96}, "expected: "),
    "a missing key": ({"boot": ...}, "'boot'"),
    "a missing epoch": ({"epoch": ...}, "'epoch'"),
    "a missing register": ({"expected__PCR1": ...}, "'PCR1'"),
    "a later version": ({"version": 2}, "version: "),
    "no version": ({"version": ...}, "'version'"),
    "a version that is true": ({"version": True}, "version: "),
    "another architecture": ({"architecture": "arm64"}, "architecture: "),
    "another policy": ({"epoch__policy": "now"}, "epoch.policy: "),
    "a time before 1970": ({"epoch__time": -1}, "epoch.time: "),
    "a time after 2106": ({"epoch__time": 2**32}, "epoch.time: "),
    "a time that is text": ({"epoch__time": "5"}, "epoch.time: "),
    "a time that is true": ({"epoch__time": True}, "epoch.time: "),
    "a pin with a fraction": ({"base__pins": {"a": 1e3}}, "1000.0 is no whole number"),
    "a time that is a whole fraction": ({"epoch__time": 5.0}, "5.0 is no whole number"),
    "a digest in capitals": ({"config": "sha256:" + "A" * 64}, "config: "),
    "a short digest": ({"config": "sha256:" + "a" * 63}, "config: "),
    "a digest with a line end": ({"config": "sha256:" + "a" * 64 + "\n"}, "config: "),
    "a digest of another kind": ({"base__from": "sha512:" + "a" * 128}, "base.from: "),
    "a digest without its kind": ({"epoch__inputs": "a" * 64}, "epoch.inputs: "),
    "a register in capitals": ({"expected__PCR0": "A" * 96}, "expected.PCR0: "),
    "a short register": ({"expected__PCR0": "a" * 95}, "expected.PCR0: "),
    "a register with a line end": ({"expected__PCR0": "a" * 96 + "\n"}, "expected.PCR0: "),
    "pins that are a list": ({"base__pins": []}, "base.pins: "),
    "an installer that is none": ({"runtime__installer": "x"}, "runtime.installer: "),
    "a runtime that is false": ({"runtime": False}, "runtime: "),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_lock_is_refused_with_the_place(what: str) -> None:
    changes, said = WRONG[what]
    assert said in mistake(document(**changes)).message


NO_LOCKS: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"<<<<<<< HEAD\n{}",
    "cut short": FULL.text().encode()[:-3],
    "two documents": FULL.text().encode() * 2,
    "not text": b"\xff\xfe{",
    "another encoding": FULL.text().encode("utf-16"),
    "nested too deep": b"[" * 200_000,
    "a list": b"[]",
    "null": b"null",
    "a number that is none": FULL.text().replace("1700000000", "NaN").encode(),
    "a number without an end": FULL.text().replace("1700000000", "1" * 5000).encode(),
    "a key twice": FULL.text().replace('"cage": "pay"', '"cage": "x",\n "cage": "pay"').encode(),
}


@pytest.mark.parametrize("what", NO_LOCKS)
def test_what_is_no_lock_is_refused(what: str) -> None:
    if what == "another encoding":
        # JSON may be UTF-16, and says the same then.
        assert lock.parse(NO_LOCKS[what], FILE) == FULL
        return
    mistake(NO_LOCKS[what])


def test_a_message_is_bounded_however_long_the_mistake() -> None:
    assert len(mistake(document(config="x" * 100_000)).message) < 1000


# reading and writing


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert lock.read(tmp_path / "cage.lock") is None


@pytest.mark.parametrize("what", ["a folder", "a loop"])
def test_a_file_that_cannot_be_read(tmp_path: Path, what: str) -> None:
    file = tmp_path / "cage.lock"
    file.mkdir() if what == "a folder" else file.symlink_to(file)
    with pytest.raises(LockError, match=r"cage\.lock: cannot be read"):
        lock.read(file)


def test_a_file_without_an_end_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "cage.lock"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(LockError, match="larger than 64 MiB"):
        lock.read(file)


def test_a_lock_is_written_when_its_text_changes_only(tmp_path: Path) -> None:
    file = tmp_path / "cage.lock"
    assert lock.write(FULL, file)
    before = file.stat()
    assert not lock.write(FULL, file)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert lock.write(LEAST, file)
    assert lock.read(file) == LEAST


def test_a_lock_is_replaced_whole(tmp_path: Path) -> None:
    """Whoever has the old one open reads the old one to its end."""
    file = tmp_path / "cage.lock"
    lock.write(FULL, file)
    with file.open() as old:
        lock.write(LEAST, file)
        assert old.read() == FULL.text()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_lock_has_the_permissions_of_any_new_file(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        lock.write(FULL, tmp_path / "cage.lock")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "cage.lock").stat().st_mode) == mode


def test_a_lock_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for file in (tmp_path, tmp_path / "file" / "cage.lock"):
        with pytest.raises(LockError, match="cannot be written"):
            lock.write(FULL, file)


# what a build asks for


@pytest.fixture
def cage(tmp_path: Path) -> Cage:
    """A cage without a lock."""
    workspace = Workspace(tmp_path)
    workspace.add("pay")
    return workspace.cage("//pay")


def test_a_missing_lock_names_the_command(cage: Cage) -> None:
    with pytest.raises(LockError, match="//pay has no lock") as caught:
        lock.require(cage)
    assert caught.value.hint.endswith("invoke lock //pay")
    assert caught.value.exit_code == 20


def test_a_stale_lock_names_the_command_and_both_checksums(cage: Cage) -> None:
    lock.write(FULL, cage.lock_file)
    with pytest.raises(StaleLockError) as caught:
        lock.require(cage)
    assert caught.value.exit_code == 21
    assert caught.value.hint.endswith("invoke lock //pay")
    assert f"got {cage.checksum}, expected {FULL.config}" in caught.value.message


def test_a_lock_of_this_configuration_is_taken(cage: Cage) -> None:
    made = replace(FULL, config=cage.checksum)
    lock.write(made, cage.lock_file)
    assert lock.require(cage) == made

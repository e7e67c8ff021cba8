"""cage.lock: every pin of one cage, the resolved epoch and the expected measurements.

Reading and writing only; what the pins are resolved to is the business of ``cagebuild.pinning``.
The format is ``schemas/lock.schema.json``; keys are sorted, so that equal locks are equal bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cagebuild.digest import Digest
from cagebuild.errors import LockError, StaleLockError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cagebuild.config.model import Architecture, Cage, EpochPolicy

VERSION = 1
_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedEpoch:
    """The time stamp of a build, in seconds since 1970, and the sources it was resolved for."""

    policy: EpochPolicy
    time: int
    inputs: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """Pins of one kind, as JSON, with the checksum of the settings they answer."""

    made_from: Digest
    kind: str
    pins: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedRuntime:
    """The installer archive, and its human name."""

    installer: Digest
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """One cage.lock."""

    cage: str
    config: Digest
    architecture: Architecture
    epoch: LockedEpoch
    base: Pinned
    boot: Pinned
    runtime: LockedRuntime | None
    expected: Mapping[str, str] | None
    """PCR0, PCR1, PCR2 and, when signed, PCR8 in lower-case hex; None before the first build."""

    def to_json(self) -> dict[str, Any]:
        """The lock as the schema has it."""
        runtime = self.runtime and {
            "installer": str(self.runtime.installer),
            "name": self.runtime.name,
        }
        return {
            "version": VERSION,
            "cage": self.cage,
            "config": str(self.config),
            "architecture": self.architecture,
            "epoch": {
                "policy": self.epoch.policy,
                "time": self.epoch.time,
                "inputs": str(self.epoch.inputs),
            },
            "base": _pinned_to_json(self.base),
            "boot": _pinned_to_json(self.boot),
            "runtime": runtime,
            "expected": dict(self.expected) if self.expected else None,
        }

    def text(self) -> str:
        """What is written to the file."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def _pinned_to_json(pinned: Pinned) -> dict[str, Any]:
    return {"from": str(pinned.made_from), "kind": pinned.kind, "pins": dict(pinned.pins)}


def _pinned_from_json(data: Mapping[str, Any]) -> Pinned:
    return Pinned(made_from=Digest.parse(data["from"]), kind=data["kind"], pins=data["pins"])


def from_json(data: Mapping[str, Any]) -> Lock:
    """A lock from JSON that the schema has accepted."""
    runtime = data["runtime"]
    return Lock(
        cage=data["cage"],
        config=Digest.parse(data["config"]),
        architecture=data["architecture"],
        epoch=LockedEpoch(
            policy=data["epoch"]["policy"],
            time=data["epoch"]["time"],
            inputs=Digest.parse(data["epoch"]["inputs"]),
        ),
        base=_pinned_from_json(data["base"]),
        boot=_pinned_from_json(data["boot"]),
        runtime=runtime
        and LockedRuntime(installer=Digest.parse(runtime["installer"]), name=runtime["name"]),
        expected=data["expected"],
    )


def parse(raw: bytes, file: Path) -> Lock:
    """Read a lock from bytes; raise LockError naming the place of the first mistake."""
    from cagebuild.schema import first_mistake

    hint = "take the file from git again, or make it anew: invoke lock"
    try:
        data = json.loads(raw, object_pairs_hook=_once, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise LockError(f"{file}: not JSON: {error}", hint=hint) from None
    mistake = first_mistake("lock", data)
    if mistake is not None:
        raise LockError(f"{file}: {mistake}", hint=hint)
    return from_json(data)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table; a key that stands twice, as after a bad merge, would be one or the other."""
    table = dict(pairs)
    if len(table) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return table


def _refuse(number: str) -> None:
    raise ValueError(f"{number[:100]} is no whole number")


def read(file: Path) -> Lock | None:
    """The lock in a file, or None when there is no file; LockError when it can't be used."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LockError(f"{file}: cannot be read: {error.strerror}") from None
    if len(raw) > _LIMIT:
        raise LockError(f"{file}: larger than {_LIMIT >> 20} MiB; not a lock")
    return parse(raw, file)


def require(cage: Cage) -> Lock:
    """The lock that a build of ``cage`` uses; LockError when missing, StaleLockError when old."""
    command = f"invoke lock {cage.address}"
    lock = read(cage.lock_file)
    if lock is None:
        raise LockError(
            f"{cage.address} has no lock: {cage.lock_file} does not exist",
            hint=f"pin what it is built from: {command}",
        )
    if lock.config != cage.checksum:
        raise StaleLockError(
            f"{cage.address}: {cage.file.name} was changed after {cage.lock_file.name} was made"
            f" (got {cage.checksum}, expected {lock.config})",
            hint=f"look at the change, then renew the lock: {command}",
        )
    return lock


def write(lock: Lock, file: Path) -> bool:
    """Write the lock when its text changes, whole or not at all; True when it was written.

    Raises LockError when it cannot be written.
    """
    from cagebuild.files import write_atomically

    text = lock.text().encode()
    try:
        if file.exists() and file.read_bytes() == text:
            return False
        write_atomically(file, text)
    except OSError as error:
        raise LockError(f"{file}: cannot be written: {error.strerror}") from None
    return True

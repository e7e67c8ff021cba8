"""What builds came to, and remembering it: files in dist/, and records beside the store."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cagebuild.digest import Digest
from cagebuild.files import write_atomically
from cagebuild.store import Blob
from cagebuild.store.records import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cagebuild.config.model import Cage
    from cagebuild.store import Store

EIF: Final = "image.eif"
MEASUREMENTS: Final = "measurements.json"
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a cage came to."""

    cage: Cage
    pcrs: Mapping[str, str]
    """PCR0, PCR1, PCR2 and, when signed, PCR8, in lower-case hex."""
    expected: Mapping[str, str] | None
    """Those of the lock; None while it has none."""
    warnings: tuple[str, ...]
    """What of the image the enclave cannot hold."""
    eif: Path | None
    """None when it was only measured."""

    @property
    def as_locked(self) -> bool:
        """Whether every PCR is the lock's."""
        return dict(self.pcrs) == dict(self.expected or {})


def outputs(root: Path, cage: Cage) -> dict[str, Path]:
    """Where the files of a cage go, by output: ``<root>/dist/<name>/…``."""
    folder = root / "dist" / cage.name
    return {
        EIF: folder / f"{cage.name}.eif",
        MEASUREMENTS: folder / MEASUREMENTS,
        MANIFEST: folder / MANIFEST,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A build that was finished: all that went in, as one key, and what came out."""

    key: str
    files: Mapping[str, str]
    """Digest of each output."""
    pcrs: Mapping[str, str]
    expected: Mapping[str, str] | None
    warnings: tuple[str, ...]


class Memory:
    """Records of finished builds and of manifests by what they measure, in the store's folder.

    A record that is missing or damaged costs time only: what it says is made again.
    """

    def __init__(self, store: Store) -> None:
        self._folder = store.root / "built"

    def _file(self, kind: str, name: str) -> Path:
        return self._folder / kind / f"{hashlib.sha256(os.fsencode(name)).hexdigest()}.json"

    def _read(self, kind: str, name: str) -> dict[str, Any] | None:
        file = self._file(kind, name)
        try:
            found = unseal(file.read_bytes(), file.stem)
        except OSError:
            return None
        return found if isinstance(found, dict) else None

    def _write(self, kind: str, name: str, record: dict[str, Any]) -> None:
        file = self._file(kind, name)
        with suppress(OSError):
            write_atomically(file, seal(file.stem, record))

    def built(self, owner: str) -> Built | None:
        """The last build of the cage of that owner (workspace and address)."""
        found = self._read("cages", owner)
        if found is None:
            return None
        try:
            return Built(
                key=found["key"],
                files=found["files"],
                pcrs=found["pcrs"],
                expected=found["expected"],
                warnings=tuple(found["warnings"]),
            )
        except (KeyError, TypeError):
            return None

    def remember_built(self, owner: str, built: Built) -> None:
        """Note a finished build."""
        record = {
            "key": built.key,
            "files": dict(built.files),
            "pcrs": dict(built.pcrs),
            "expected": built.expected and dict(built.expected),
            "warnings": list(built.warnings),
        }
        self._write("cages", owner, record)

    def manifest(self, pcrs: Mapping[str, str]) -> Blob | None:
        """The manifest of an image that came to just these PCRs; the blob may be gone by now."""
        found = self._read("manifests", _one(pcrs))
        if found is None:
            return None
        try:
            return Blob(digest=Digest.parse(found["digest"]), size=found["size"])
        except (KeyError, TypeError, ValueError):
            return None

    def remember_manifest(self, pcrs: Mapping[str, str], manifest: Blob) -> None:
        """Note which manifest belongs to these PCRs."""
        record = {"digest": str(manifest.digest), "size": manifest.size}
        if self._read("manifests", _one(pcrs)) != record:
            self._write("manifests", _one(pcrs), record)


def _one(pcrs: Mapping[str, str]) -> str:
    return " ".join(f"{name}={pcrs[name]}" for name in sorted(pcrs))

"""What every part of a plan is made with: steps, fetches and the cage's own files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from cagebuild.errors import LockError, SourceError, StaleLockError
from cagebuild.step import FileInput, Input, StepInput
from cagebuild.stepmaker import StepMaker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cagebuild.config.model import Cage
    from cagebuild.digest import Digest
    from cagebuild.lock import Lock
    from cagebuild.sources import SourceFile

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of the image: its tar, and words or a file that say where its entries came from."""

    tar: Input
    origin: str
    origins: Input | None = None


def short(digest: Digest) -> str:
    """Enough of a digest to tell layers apart in names."""
    return digest.hex[:12]


class Maker(StepMaker):
    """Makes the steps of one cage."""

    def __init__(
        self,
        cage: Cage,
        lock: Lock,
        mirrors: tuple[str, ...],
        digest: Callable[[Path], Digest],
    ) -> None:
        super().__init__(lock.architecture, mirrors)
        self.cage = cage
        self.lock = lock
        self.digest = digest

    def pins(self, part: Literal["base", "boot"], read: Callable[[object], T], data: object) -> T:
        """Pins of a part of the lock; raises LockError naming the lock and what makes them anew."""
        try:
            return read(data)
        except LockError as error:
            # They answer the settings as they are, so 'invoke lock' alone would keep them.
            raise LockError(
                f"{self.cage.address}: {self.cage.lock_file.name}: {error.message}",
                hint="take the file from git again, or pin anew:"
                f" invoke lock --update {part} {self.cage.address}",
            ) from None

    def files_layer(self, name: str, files: tuple[SourceFile, ...]) -> StepInput:
        """The cage's own files as one layer."""
        step = self.step(
            "app-layer",
            name,
            params={"files": [file.facts() for file in files]},
            inputs={
                f"file:{file.destination}": FileInput(digest=file.digest, path=file.path)
                for file in files
                if file.digest is not None
            },
            outputs=("layer.tar",),
        )
        return StepInput(step=step, output="layer.tar")

    def pinned_file(self, key: str, path: Path, digest: Digest) -> FileInput:
        """A file of the cage's own that the lock names by digest."""
        given = self.own_file(key, path)
        if given.digest != digest:
            raise StaleLockError(
                f"{self.cage.address}: {path} was changed after {self.cage.lock_file.name} was made"
                f" (got {given.digest}, expected {digest})",
                hint=f"renew the lock: invoke lock {self.cage.address}",
            )
        return given

    def own_file(self, key: str, path: Path) -> FileInput:
        """A file of the cage's own as it is now; raises SourceError."""
        try:
            return FileInput(digest=self.digest(path), path=path)
        except OSError as error:
            raise self.unreadable(key, path, error) from None

    def unreadable(self, key: str, path: Path, error: OSError) -> SourceError:
        return SourceError(
            f"{self.cage.address}: {key} names {path}, which cannot be read: {error.strerror}"
        )

    def bad_pins(self, what: str) -> LockError:
        return LockError(
            f"{self.cage.address}: {self.cage.lock_file.name} has no {what} that can be read",
            hint=f"make it anew: invoke lock --update {self.cage.address}",
        )

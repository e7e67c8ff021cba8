"""What every part of a plan is made with: steps, fetches and the cage's own files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from cagebuild import code
from cagebuild.errors import LockError, SourceError, StaleLockError
from cagebuild.step import FileInput, Input, Step, StepInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from cagebuild.config.model import Cage
    from cagebuild.digest import Digest
    from cagebuild.lock import Lock

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


class Maker:
    """Makes the steps of one cage."""

    def __init__(
        self,
        cage: Cage,
        lock: Lock,
        mirrors: tuple[str, ...],
        digest: Callable[[Path], Digest],
    ) -> None:
        self.cage = cage
        self.lock = lock
        self.mirrors = mirrors
        self.digest = digest
        self.code = code.version()

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

    def step(
        self,
        kind: str,
        name: str,
        *,
        outputs: Iterable[str],
        params: Mapping[str, object] | None = None,
        inputs: Mapping[str, Input] | None = None,
    ) -> Step:
        return Step(
            kind=kind,
            code=self.code,
            name=name,
            params=params or {},
            inputs=inputs or {},
            outputs=tuple(outputs),
            platform=self.lock.architecture,
        )

    def fetch(self, name: str, digest: Digest, size: int | None, locations: Iterable[str]) -> Input:
        """A locked file. Its id is its digest: the same file is fetched once for all cages."""
        step = Step(
            kind="fetch",
            code="",
            name=f"fetch {name}",
            params={"digest": str(digest)},
            inputs={},
            outputs=("file",),
            hints={
                "size": size,
                "locations": [*(f"{m}/{digest.hex}" for m in self.mirrors), *locations],
            },
        )
        return StepInput(step=step, output="file")

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

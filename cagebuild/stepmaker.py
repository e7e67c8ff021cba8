"""Makes steps: what every graph is built with, that of a cage and those of what is pinned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild import code
from cagebuild.step import Step, StepInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cagebuild.digest import Digest
    from cagebuild.step import Input


class StepMaker:
    """Makes steps for one platform, with this version's code."""

    def __init__(self, platform: str, mirrors: tuple[str, ...]) -> None:
        """``mirrors`` are URLs that are asked first for any file with a known SHA-256."""
        self.platform = platform
        self.mirrors = mirrors
        self.code = code.version()

    def step(
        self,
        kind: str,
        name: str,
        *,
        outputs: Iterable[str],
        params: Mapping[str, object] | None = None,
        inputs: Mapping[str, Input] | None = None,
        expected: Mapping[str, Digest] | None = None,
        hints: Mapping[str, object] | None = None,
    ) -> Step:
        """A step of this platform; see ``Step``."""
        return Step(
            kind=kind,
            code=self.code,
            name=name,
            params=params or {},
            inputs=inputs or {},
            outputs=tuple(outputs),
            platform=self.platform,
            expected=expected,
            hints=hints or {},
        )

    def fetch(self, name: str, digest: Digest, size: int | None, locations: Iterable[str]) -> Input:
        """A file that is known by its digest, from the first location that has it."""
        step = Step(
            kind="fetch",
            code="",
            name=f"fetch {name}",
            params={"digest": str(digest)},
            inputs={},
            outputs=("file",),
            expected={"file": digest},
            hints={
                "size": size,
                "locations": [*(f"{m}/{digest.hex}" for m in self.mirrors), *locations],
            },
        )
        return StepInput(step=step, output="file")

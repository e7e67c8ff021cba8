"""A step's context, as an executor makes it, for running one step by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Context:
    """Outputs go below ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        params: Mapping[str, object] | None = None,
        hints: Mapping[str, object] | None = None,
        inputs: Mapping[str, Path] | None = None,
    ) -> None:
        self.params = params or {}
        self.hints = hints or {}
        self.inputs = inputs or {}
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        self._outputs = folder

    def output(self, name: str) -> Path:
        return self._outputs / name

    def progress(self, done: int, total: int | None) -> None:
        assert 0 <= done <= (done if total is None else total)

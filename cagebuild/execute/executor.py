"""Where steps run: one Protocol, and the executor that calls their code in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cagebuild.digest import Digest
    from cagebuild.step import Step, StepFunction


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A step that is to be run, with all that it needs."""

    step: Step
    inputs: Mapping[str, Path]
    """Verified, read-only."""
    digests: Mapping[str, Digest]
    """Of the inputs, for executors that send them elsewhere."""
    hints: Mapping[str, object]
    """The step's hints and those of this machine."""
    scratch: Path
    """An empty folder for this run alone; the caller removes it."""
    progress: Callable[[int, int | None], None]
    """Bytes done and in all; raises InterruptedBuildError when the run is to stop."""


class Executor(Protocol):
    """Runs steps, several at once."""

    def run(self, task: Task) -> Mapping[str, Path]:
        """Run one step; return a file for each output, below ``task.scratch``.

        Raises CageError for what a user can act on; anything else is a bug of the step.
        """


class ProcessExecutor:
    """Calls the code of a step in this process, in the thread that asks."""

    def __init__(self, load: Callable[[str], StepFunction]) -> None:
        """``load`` gives the function behind a kind of step: ``cagebuild.steps.load``."""
        self._load = load

    def run(self, task: Task) -> Mapping[str, Path]:
        """Call the step's function with a context that has what the step declares, and no more."""
        raise NotImplementedError

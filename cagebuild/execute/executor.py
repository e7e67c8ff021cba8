"""Where steps run: one Protocol, and the executor that calls their code in this process."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from cagebuild.step import canonical

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
    say: Callable[[str], None]
    """Takes a line of what a program says, for the user to follow."""


class Executor(Protocol):
    """Runs steps, several at once."""

    def run(self, task: Task) -> Mapping[str, Path]:
        """Run one step; return a file for each output, below ``task.scratch``.

        Raises CageError for what a user can act on; anything else is a bug of the step.
        """


class BrokenStepError(Exception):
    """The code of a step did not keep to what the step declares: a bug."""


class ProcessExecutor:
    """Calls the code of a step in this process, in the thread that asks."""

    def __init__(self, load: Callable[[str], StepFunction]) -> None:
        """``load`` gives the function behind a kind of step: ``cagebuild.steps.load``."""
        self._load = load

    def run(self, task: Task) -> Mapping[str, Path]:
        """Call the step's function with a context that has what the step declares, and no more.

        Raises what the function raises, and BrokenStepError for a missing or undeclared output.
        """
        function = self._load(task.step.kind)
        outputs = task.scratch / "outputs"
        outputs.mkdir()
        function(_Context(task, outputs))
        return collect(task.step, outputs)


class _Context:
    """``cagebuild.step.StepContext`` for code that runs in this process."""

    def __init__(self, task: Task, outputs: Path) -> None:
        # Sorted, as the step's id sees them: an order that it doesn't cover must not show.
        self.params: Mapping[str, object] = json.loads(canonical(task.step.params))
        self.inputs = MappingProxyType(dict(sorted(task.inputs.items())))
        self.hints = task.hints
        self._scratch = task.scratch / "scratch"
        self._declared = task.step.outputs
        self._outputs = outputs
        self._progress = task.progress

    @property
    def scratch(self) -> Path:
        """An empty directory for this run alone, made when it is asked for."""
        self._scratch.mkdir(exist_ok=True)
        return self._scratch

    def output(self, name: str) -> Path:
        """Where to write the output of that name."""
        if name not in self._declared:
            raise BrokenStepError(f"output {name!r} is not declared, only {self._declared}")
        return self._outputs / name

    def progress(self, done: int, total: int | None) -> None:
        """Say how far the work is, in bytes; raises InterruptedBuildError when asked to stop."""
        self._progress(done, total)


def collect(step: Step, outputs: Path) -> dict[str, Path]:
    """Every declared output, a regular file, and nothing else; BrokenStepError otherwise."""
    found = {path.name: path for path in outputs.iterdir()}
    if missing := sorted(set(step.outputs) - found.keys()):
        raise BrokenStepError(f"declared outputs were not written: {missing}")
    if extra := sorted(found.keys() - set(step.outputs)):
        raise BrokenStepError(f"files beside the declared outputs: {extra}")
    for name, path in found.items():
        if not stat.S_ISREG(path.stat(follow_symlinks=False).st_mode):
            raise BrokenStepError(f"output {name!r} is not a regular file")
    return found

"""The executor of steps that are a program in a root filesystem.

Such a step is of kind ``container``. Its parameter ``argv`` is what runs, its input ``root`` the
layer that it runs in, every other input a file ``/in/<name>``, and ``/out/<name>`` each output.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from cagebuild import process
from cagebuild.errors import ToolFailedError
from cagebuild.execute.executor import collect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.execute.executor import Executor, Task
    from cagebuild.sandbox.job import Sandbox

KIND: Final = "container"
ROOT: Final = "root"


class FindSandbox(Protocol):
    """How a sandbox is come by, when the first step needs one."""

    def __call__(self, *, needed_for: str) -> Sandbox:
        """Raises ToolMissingError and UsageError."""


class ContainerExecutor:
    """Runs steps of kind ``container`` in a sandbox, all others where ``others`` does."""

    def __init__(
        self, others: Executor, find: FindSandbox, *, processes: int | None = None
    ) -> None:
        """``processes``: how many a job may run at once; None: one for each CPU."""
        self._others = others
        self._find = find
        self._processes = processes or len(os.sched_getaffinity(0))

    def run(self, task: Task) -> Mapping[str, Path]:
        """See ``Executor``; raises ToolFailedError, with the last lines, when the program fails."""
        if task.step.kind != KIND:
            return self._others.run(task)
        from cagebuild.sandbox.job import Job

        sandbox = self._find(needed_for=f"'{task.step.name}'")
        outputs, scratch = task.scratch / "outputs", task.scratch / "sandbox"
        outputs.mkdir()
        scratch.mkdir()
        log = task.scratch / "log"
        with log.open("x+b") as stream:
            status = sandbox.run(
                Job(
                    root=task.inputs[ROOT],
                    argv=cast("list[str]", task.step.params["argv"]),
                    inputs={name: path for name, path in task.inputs.items() if name != ROOT},
                    outputs=outputs,
                    scratch=scratch,
                    jobs=self._processes,
                    log=stream,
                    watcher=lambda said: task.progress(said, None),
                )
            )
        if status != 0:
            raise _failed(task, sandbox, status, log)
        return collect(task.step, outputs)


def _failed(task: Task, sandbox: Sandbox, status: int, log: Path) -> ToolFailedError:
    """The last lines that the program said, and where all of them are."""
    with log.open("rb") as stream:
        said = process.last_lines(stream)
    hint = ""
    if folder := task.hints.get("logs"):
        kept = log.replace(Path(str(folder)) / f"{task.step.id}.txt")
        hint = f"all that it said is in {kept}"
    argv = cast("list[str]", task.step.params["argv"])
    return ToolFailedError(
        "\n  ".join([f"exit status {status} from {' '.join(argv)} ({sandbox.name})", *said]),
        hint=hint,
    )

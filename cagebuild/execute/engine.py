"""The executor of steps that an engine for Dockerfiles carries out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from cagebuild.execute.executor import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cagebuild.engine.job import Engine
    from cagebuild.execute.executor import Executor, Task


KIND: Final = "engine"


class FindEngine(Protocol):
    """How an engine is come by, when the first step needs one."""

    def __call__(self, hints: Mapping[str, object], *, needed_for: str) -> Engine:
        """``hints`` are the step's; raises ToolMissingError."""


class EngineExecutor:
    """Runs steps of kind ``engine`` by an engine, all others where ``others`` does."""

    def __init__(
        self,
        others: Executor,
        find: FindEngine,
        *,
        variable: Callable[[str], bytes | None],
        use_cache: bool,
    ) -> None:
        """``variable`` reads a secret; ``use_cache``: whether engines may use their own caches."""
        self._others = others
        self._find = find
        self._variable = variable
        self._use_cache = use_cache

    def run(self, task: Task) -> Mapping[str, Path]:
        """See ``Executor``; raises ToolMissingError and what ``cagebuild.engine.run`` does."""
        # Not at the top: most builds need no engine.
        if task.step.kind != KIND:
            return self._others.run(task)
        from cagebuild.engine.run import CONTEXT, Order, build

        outputs, scratch = task.scratch / "outputs", task.scratch / "engine"
        outputs.mkdir()
        scratch.mkdir()

        def say(line: str) -> None:
            task.progress(0, None)
            if line:
                task.say(line)

        build(
            self._find(task.hints, needed_for=f"'{task.step.name}'"),
            Order(
                params=cast("Mapping[str, Any]", task.step.params),
                hints=cast("Mapping[str, Any]", task.hints),
                context=task.inputs[CONTEXT],
                output=lambda name: outputs / name,
                scratch=scratch,
            ),
            say=say,
            variable=self._variable,
            use_cache=self._use_cache,
        )
        return collect(task.step, outputs)

"""The steps of many targets as one graph, each step once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cagebuild.step import StepInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cagebuild.execute.outcome import Outcome
    from cagebuild.step import Step
    from cagebuild.store import Result

State = Literal["new", "waiting", "ready", "running", "done", "over"]
"""``done``: it has a result. ``over``: it will not get one in this run."""


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """A step in a run, and how far it has come."""

    step: Step
    state: State = "new"
    owner: str = ""
    """On whose behalf it was asked for first."""
    needed: set[str] = field(default_factory=set)
    """The outputs that somebody wants."""
    readers: set[str] = field(default_factory=set)
    """Ids of the steps that have asked for it."""
    waiting_for: set[str] = field(default_factory=set)
    """Ids of inputs that are not done."""
    result: Result | None = None
    why: str = ""
    repairs: int = 0
    """How often something that it had read or made was found damaged."""
    outcome: Outcome | None = None

    def makers(self) -> Mapping[str, set[str]]:
        """The steps that it reads from, by id, and which of their outputs."""
        found: dict[str, set[str]] = {}
        for given in self.step.inputs.values():
            if isinstance(given, StepInput):
                found.setdefault(given.step.id, set()).add(given.output)
        return found


def in_order(targets: Iterable[Step]) -> dict[str, Step]:
    """All steps that the targets need, by id, inputs before what reads them."""
    found: dict[str, Step] = {}
    entered: set[str] = set()
    stack = [(target, False) for target in reversed(list(targets))]
    while stack:
        step, left = stack.pop()
        if left:
            found[step.id] = step
        elif step.id not in entered:
            entered.add(step.id)
            stack.append((step, True))
            stack.extend(
                (given.step, False)
                for given in reversed(list(step.inputs.values()))
                if isinstance(given, StepInput) and given.step.id not in entered
            )
    return found


def build(targets: Mapping[str, Sequence[Step]]) -> dict[str, Node]:
    """One node for each step of all owners' targets, inputs before what reads them."""
    everything = in_order(step for steps in targets.values() for step in steps)
    return {step_id: Node(step=step) for step_id, step in everything.items()}

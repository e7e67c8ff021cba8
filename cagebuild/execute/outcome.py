"""What became of each step of a run, and who is told of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from cagebuild.errors import BuildFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cagebuild.errors import CageError
    from cagebuild.step import Step
    from cagebuild.store import Blob

Status = Literal["ran", "hit", "failed", "skipped", "cancelled", "unneeded"]
"""``skipped``: something that it needs failed. ``cancelled``: the run stopped before it was done.
``unneeded``: what it makes is needed by hits only, so nobody looked."""

STATUSES: tuple[Status, ...] = ("ran", "hit", "failed", "skipped", "cancelled", "unneeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one step."""

    step: Step
    status: Status
    seconds: float = 0.0
    """Wall-clock time that it ran; 0 for what did not run."""
    why: str = ""
    """For ran and failed: what changed since the last run. For skipped: what failed."""
    outputs: Mapping[str, Blob] = field(default_factory=dict)
    """For ran and hit: every output, by name."""
    error: CageError | None = None
    log: Path | None = None
    """Where the traceback of an error is that is a bug of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What became of a run."""

    outcomes: Mapping[str, Outcome]
    """By step id; every step of the graph, inputs before what reads them."""

    def count(self, status: Status) -> int:
        """How many steps ended that way."""
        return self.counts()[status]

    def counts(self) -> Counter[Status]:
        """How many steps ended each way."""
        return Counter(outcome.status for outcome in self.outcomes.values())

    def output(self, step: Step, name: str) -> Blob:
        """Digest and size of an output of a target that ran or was a hit; KeyError for others."""
        return self.outcomes[step.id].outputs[name]

    @property
    def ok(self) -> bool:
        """Whether every target is there."""
        return not any(
            outcome.status in ("failed", "skipped", "cancelled")
            for outcome in self.outcomes.values()
        )

    def raise_for_failures(self) -> None:
        """Raise BuildFailedError, naming the steps that failed, unless every target is there."""
        failed = [o.step.name for o in self.outcomes.values() if o.status == "failed"]
        if not self.ok:
            names = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if failed[5:] else "")
            raise BuildFailedError(f"the build failed in: {names or 'no step of its own'}")

    def __str__(self) -> str:
        """``12 steps: 3 ran, 9 hit, 0 failed``; other endings only where there are some."""
        counts = self.counts()
        total = sum(counts.values())
        always = [f"{counts[status]} {status}" for status in ("ran", "hit", "failed")]
        named = {"skipped": "skipped", "cancelled": "cancelled", "unneeded": "not needed"}
        others = [f"{counts[s]} {named[s]}" for s in STATUSES if s in named and counts[s]]
        return f"{total} step{'' if total == 1 else 's'}: {', '.join(always + others)}"


class Reporter(Protocol):
    """What a run tells as it goes on. ``progress`` is called from any thread, the rest from one."""

    def begin(self, total: int) -> None:
        """The run has that many steps."""

    def started(self, step: Step) -> None:
        """The step runs now."""

    def progress(self, step: Step, done: int, total: int | None) -> None:
        """How far a running step is, in bytes."""

    def said(self, step: Step, text: str) -> None:
        """A line of what a program says that a running step has started for the user to follow."""

    def finished(self, outcome: Outcome) -> None:
        """The step is over."""

    def note(self, text: str) -> None:
        """Something worth knowing: damage that is repaired, waiting for another build."""

    def end(self, summary: Summary) -> None:
        """The run is over, well or not."""

"""Steps: frozen values that say what runs, on what, and what comes out.

A step's id is the SHA-256 of everything that can change its outputs: the kind, the version of the
code behind the kind, the parameters, and for each input either the digest of its bytes or the id
and output name of the step that makes it. Where an input's bytes lie on this machine is not part of
the id, and neither are hints: what may help to get the outputs but cannot change them, such as
where a file that is known by its digest can be had.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cagebuild.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInput:
    """Bytes that exist before the build: a source file, known by its digest."""

    digest: Digest
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """An output of another step."""

    step: Step
    output: str


Input = FileInput | StepInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One unit of work. ``params`` is JSON; ``outputs`` are the names of the files that it makes.

    ``hints`` is JSON that cannot change the outputs (locations of a file with known digest), so it
    is in neither the id nor ``facts()``.
    """

    kind: str
    code: str
    name: str
    params: Mapping[str, object]
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    platform: str = "any"
    hints: Mapping[str, object] = field(default_factory=dict, compare=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", hashlib.sha256(canonical(self.facts())).hexdigest())

    def facts(self) -> dict[str, object]:
        """All that the id covers, as JSON: also what is compared to explain a miss."""
        return {
            "kind": self.kind,
            "code": self.code,
            "params": dict(self.params),
            "inputs": {
                name: str(given.digest)
                if isinstance(given, FileInput)
                else f"step:{given.step.id}/{given.output}"
                for name, given in self.inputs.items()
            },
            "outputs": list(self.outputs),
            "platform": self.platform,
        }


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no white space, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


class StepContext(Protocol):
    """What an executor gives to the code of a step."""

    @property
    def params(self) -> Mapping[str, object]:
        """The step's parameters."""

    @property
    def hints(self) -> Mapping[str, object]:
        """The step's hints, with those that the executor adds for this machine (``partials``)."""

    @property
    def inputs(self) -> Mapping[str, Path]:
        """Input files by name: verified, read-only."""

    @property
    def scratch(self) -> Path:
        """An empty directory for this run alone; removed afterwards."""

    def output(self, name: str) -> Path:
        """Where to write the output of that name."""

    def progress(self, done: int, total: int | None) -> None:
        """Say how far the work is, in bytes; raises InterruptedBuildError when asked to stop."""


StepFunction: TypeAlias = "Callable[[StepContext], None]"
"""The code of a step: reads ``inputs``, writes every declared output, returns when all is done."""

"""Steps: frozen values that say what runs, on what, and what comes out.

A step's id is the SHA-256 of everything that can change its outputs: the kind, the version of the
code behind the kind, the parameters, and for each input either the digest of its bytes or the id
and output name of the step that makes it. Where an input's bytes lie on this machine is not part of
the id, and neither are hints: what may help to get the outputs but cannot change them, such as
where a file that is known by its digest can be had.

A step whose outputs are all known beforehand (``expected``), such as a locked file or a kernel that
is pinned and built from source, is those outputs: its id is the hash of their digests alone. How
they are come by makes no difference, for they are checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cagebuild.digest import Digest

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}", re.ASCII)


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Step:
    """One unit of work. ``params`` is JSON; ``outputs`` are the names of the files that it makes.

    ``hints`` is JSON that cannot change the outputs (locations of a file with known digest), so it
    is in neither the id nor ``facts()``. Steps of one id are equal. Raises TypeError for params
    that are not JSON, ValueError for outputs without a file's name, inputs that nothing makes, and
    digests expected of some outputs but not of all.
    """

    kind: str
    code: str
    name: str
    params: Mapping[str, object]
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    platform: str = "any"
    hints: Mapping[str, object] = field(default_factory=dict, compare=False)
    expected: Mapping[str, Digest] | None = None
    """Digests of all outputs by name, where they are known before the step runs."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        _require_json(self.params)
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"{self.name}: two outputs of one name: {self.outputs}")
        for name in self.outputs:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"{self.name}: output {name!r} is not a file's name")
        for given in self.inputs.values():
            if isinstance(given, StepInput) and given.output not in given.step.outputs:
                raise ValueError(f"{self.name}: {given.step.name} has no output {given.output!r}")
        if self.expected is not None and self.expected.keys() != set(self.outputs):
            raise ValueError(f"{self.name}: digests are expected of {sorted(self.expected)} only")
        object.__setattr__(self, "id", hashlib.sha256(canonical(self.facts())).hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Step {self.name!r} {self.id[:12]}>"

    def facts(self) -> dict[str, object]:
        """All that the id covers, as JSON: also what is compared to explain a miss."""
        if self.expected is None:
            return self.recipe()
        digests = {name: str(digest) for name, digest in self.expected.items()}
        return {"kind": "pinned", "params": digests}

    def recipe(self) -> dict[str, object]:
        """What the outputs are made from and how, as JSON."""
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


def _require_json(value: object) -> None:
    """Refuse what could be written like another value, such as a key 1 beside a key "1"."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a key of a step's params is not a string: {key!r}")
            _require_json(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _require_json(inner)
    elif value is not None and not isinstance(value, (bool, int, str)):
        raise TypeError(f"a value of a step's params is not JSON: {value!r}")


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

"""What the store's small files say: results of steps, and what a cage's last run was made of.

Each is one line of JSON, ``{"check":"…","tag":"…","value":…}``. ``check`` is the SHA-256 of tag and
value as they stand there, so that a file that is cut short or changed in any byte counts as none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from cagebuild.digest import Digest
from cagebuild.step import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

_START = b'{"check":"'
_TAG = b'","tag":"'
_VALUE = b'","value":'
_END = b"}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file in the store: its SHA-256 and its size in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a step made: its outputs by name, and the facts that its id covers."""

    step_id: str
    name: str
    outputs: Mapping[str, Blob]
    facts: Mapping[str, object]

    def encode(self) -> bytes:
        """The result's file."""
        outputs = {
            name: {"digest": str(blob.digest), "size": blob.size}
            for name, blob in self.outputs.items()
        }
        return seal(
            self.step_id,
            {"name": self.name, "outputs": outputs, "facts": dict(self.facts)},
        )

    @classmethod
    def decode(cls, data: bytes, step_id: str) -> Result | None:
        """Read a result's file; None if it is damaged or another step's."""
        value = unseal(data, step_id)
        if not isinstance(value, dict):
            return None
        try:
            outputs = {
                name: Blob(digest=Digest.parse(given["digest"]), size=int(given["size"]))
                for name, given in value["outputs"].items()
            }
            return cls(step_id=step_id, name=value["name"], outputs=outputs, facts=value["facts"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The steps of an owner's last run: ids by name, to compare the next run with."""

    graph: str
    """SHA-256 over the ids of the targets, which cover all else."""
    steps: Mapping[str, str]

    def encode(self) -> bytes:
        """The run's file."""
        return seal(self.graph, {"steps": dict(self.steps)})

    @classmethod
    def decode(cls, data: bytes) -> Run | None:
        """Read a run's file; None if it is damaged."""
        graph = tag_of(data)
        value = unseal(data, graph)
        if not isinstance(value, dict) or not isinstance(value.get("steps"), dict):
            return None
        return cls(graph=graph, steps=cast("dict[str, str]", value["steps"]))


def seal(tag: str, value: object) -> bytes:
    """The file for a value; ``tag`` is plain ASCII and says what the value belongs to."""
    body = canonical(value)
    name = tag.encode("ascii")
    return _START + _check(name, body) + _TAG + name + _VALUE + body + _END


def tag_of(data: bytes) -> str:
    """The tag of a file, from its first bytes, unchecked; empty if there is none."""
    start = len(_START) + 64 + len(_TAG)
    return data[start : start + 64].decode("ascii", errors="replace")


def unseal(data: bytes, tag: str) -> object:
    """The value of a file with that tag; None if it is damaged or another's."""
    name = tag.encode("ascii", errors="replace")
    head = len(_START) + 64
    start = head + len(_TAG) + len(name) + len(_VALUE)
    body = data[start : -len(_END)]
    check = data[len(_START) : head]
    whole = _START + check + _TAG + name + _VALUE + body + _END
    if data != whole or check != _check(name, body):
        return None
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value


def _check(tag: bytes, body: bytes) -> bytes:
    return hashlib.sha256(tag + b"\n" + body).hexdigest().encode()

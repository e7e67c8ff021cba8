"""What the store's small files say: results of steps, and what a cage's last run was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.digest import Digest


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

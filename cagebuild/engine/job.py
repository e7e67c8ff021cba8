"""What builds a Dockerfile: one Protocol, and what an engine is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cagebuild.config.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A build secret: what a RUN sees with ``--mount=type=secret,id=…``, and no layer has."""

    id: str
    value: bytes
    """Never written but to a file that only this user can read and that is gone after the build."""

    def __repr__(self) -> str:
        return f"<Secret {self.id}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One stage of one Dockerfile to build."""

    context: Path
    """A folder that is this job's own: modes are 0644, 0755 and 0777, times are the epoch."""
    dockerfile: Path
    """Outside the context. Every image in it is named by digest."""
    target: str
    """Name of the stage to build."""
    args: Mapping[str, str]
    """Build arguments, SOURCE_DATE_EPOCH among them."""
    architecture: Architecture
    epoch: int
    """Seconds since 1970."""
    network: bool
    """Whether RUN may use the network."""
    secrets: tuple[Secret, ...]
    cache_from: tuple[str, ...]
    """In BuildKit's words: ``type=registry,ref=…``."""
    cache_to: tuple[str, ...]
    use_cache: bool
    """False: every instruction runs anew."""
    scratch: Path
    """An empty folder for this job alone; the caller removes it."""
    say: Callable[[str], None]
    """Takes each line of the build's own progress as it comes. It has to be called at least twice a
    second, with an empty line when there is nothing new: what it raises ends the build."""


class Engine(Protocol):
    """Builds Dockerfiles."""

    @property
    def name(self) -> str:
        """``buildkit``, ``buildah`` or ``kaniko``."""

    @property
    def unavailable(self) -> str:
        """Why it cannot be used here, and how to get it; empty where it can."""

    def describe(self) -> str:
        """Program and versions, in a line: ``Docker 26.1.5, buildx 0.29.1``."""

    def build(self, job: EngineJob) -> Path:
        """Build; return an OCI layout, OCI archive or docker-archive below the job's scratch.

        It has all layers, and the history in its config.

        Nothing else is left behind, however it ends. Raises FailedInstructionError,
        ToolFailedError, and what ``job.say`` raises.
        """


class FailedInstructionError(Exception):
    """An instruction of the Dockerfile failed."""

    def __init__(self, *, line: int | None, instruction: str, said: tuple[str, ...]) -> None:
        """``line`` of the Dockerfile, where the engine's words tell it; ``said``: last output."""
        super().__init__(instruction)
        self.line = line
        self.instruction = instruction
        self.said = said

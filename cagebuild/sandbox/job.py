"""What is run in a sandbox, and what every sandbox gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

USER: Final = 1000
"""User and group of the job, which own nothing but ``/build``, ``/out`` and ``/tmp``."""
HOSTNAME: Final = "cagebuild"
UMASK: Final = 0o022
ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/build",
    "LC_ALL": "C",
    "TZ": "UTC",
    "SOURCE_DATE_EPOCH": "1",
}
JOBS: Final = "CAGEBUILD_JOBS"
"""The variable with the number of processes to run at once. It must not change the result."""

INPUTS: Final = "in"
OUTPUTS: Final = "out"
BUILD: Final = "build"
MAX_OUTPUT: Final = 1 << 30
"""Bytes of all that a job may leave in ``/out``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One program to run to its end."""

    root: Path
    """The root filesystem: an uncompressed layer, as the step ``debian-base`` writes it."""
    argv: Sequence[str]
    inputs: Mapping[str, Path]
    """By path below ``/in``."""
    outputs: Path
    """An empty folder, for what the job leaves in ``/out``: regular files, and no more."""
    scratch: Path
    """An empty folder for this job alone; whoever made it removes it."""
    jobs: int
    """How many processes to run at once."""
    log: BinaryIO
    """Gets what the job says."""
    watcher: Callable[[int], None]
    """Is told the bytes said so far; what it raises ends the job."""

    def command(self) -> list[str]:
        """The argument vector with the environment set, and nothing else in it."""
        variables = {**ENVIRONMENT, JOBS: str(self.jobs)}
        return [
            *("/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items())),
            *("/bin/sh", "-c", f'umask {UMASK:03o}; exec "$@"', "sh", *self.argv),
        ]


class Sandbox(Protocol):
    """A way to run jobs."""

    @property
    def name(self) -> str:
        """As the user would call it."""

    def run(self, job: Job) -> int:
        """Run a job and return its exit status, 0 for success, when its outputs are in place.

        Nothing of it is left behind, whatever happens. Raises ImageError for outputs that are no
        regular files, ToolFailedError when the sandbox itself fails.
        """


def check_name(name: str) -> str:
    """A path below ``/in`` if it is a plain one; ValueError otherwise."""
    if any(part in {"", ".", ".."} for part in name.split("/")) or "\0" in name:
        raise ValueError(f"not the name of an input: {name!r}")
    return name

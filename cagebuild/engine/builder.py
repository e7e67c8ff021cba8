"""Which BuildKit the user's Docker client builds with, and what it can.

All is asked of the command line: it knows contexts, TLS, ssh and builders in the way that the build
itself does. Nothing is changed, and no builder is started.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild import process
from cagebuild.errors import CageError, ToolFailedError, ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUESTION = 10
"""Seconds to wait for an answer."""
_OLDEST_BUILDX = (0, 8)
_OLDEST_DOCKER = (20, 10)
_HINTS = {
    "permission denied while trying to connect": "this user may not use Docker's socket: join the"
    " group 'docker', or set DOCKER_HOST to a rootless daemon",
    "no builder": "BUILDX_BUILDER names none that there is; 'docker buildx ls' lists them",
    "context not found": "'docker context ls' lists what DOCKER_CONTEXT can name",
}
_START = "start the daemon (systemctl start docker), or set DOCKER_HOST to one that runs"
_INSTALL = "install Docker 20.10 or newer with its plugin buildx: docs.docker.com/engine/install"


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """A builder that answers."""

    name: str
    driver: str
    """``docker`` for the BuildKit in a Docker daemon, ``docker-container``, ``remote``, …"""
    endpoint: str
    """Of the driver ``docker``: the name of the context with the daemon."""
    buildx: str
    buildkit: str
    """Version; of the driver ``docker``: the daemon's."""
    exports: bool
    """Whether it writes OCI archives. A Docker daemon does with the containerd store alone."""

    @property
    def docker(self) -> tuple[str, ...]:
        """The command that asks the daemon behind the driver ``docker``."""
        return docker_at(self.endpoint)

    def describe(self) -> str:
        """Versions in a line."""
        if self.driver == "docker":
            return f"Docker {self.buildkit}, buildx {self.buildx}"
        version = f"BuildKit {self.buildkit}" if self.buildkit else "BuildKit"
        return f"{version} (builder {self.name}, {self.driver}), buildx {self.buildx}"


def docker_at(endpoint: str) -> tuple[str, ...]:
    """``docker``, for the daemon of a context. The default one is what DOCKER_HOST says."""
    if endpoint == "default":
        return ("docker",)
    return ("docker", "--host" if "://" in endpoint else "--context", endpoint)


def find() -> Builder:
    """The builder that ``docker buildx build`` would use here.

    Raises ToolMissingError without docker, without buildx, or where they are too old, and
    ToolFailedError where the builder does not answer; both say what to do.
    """
    buildx = _buildx()
    inspected = parse_inspect(_must("docker", "buildx", "inspect"))
    if problem := inspected.get("error"):
        raise _unreachable(problem)
    driver, endpoint = inspected.get("driver", ""), inspected.get("endpoint", "")
    if driver != "docker":
        if driver == "remote" and inspected.get("status") != "running":
            raise ToolFailedError(
                f"the builder '{inspected.get('name')}' does not answer at {endpoint}",
                hint="start it, or choose another: 'docker buildx ls', BUILDX_BUILDER",
            )
        return Builder(
            name=inspected.get("name", ""),
            driver=driver,
            endpoint=endpoint,
            buildx=buildx,
            buildkit=inspected.get("buildkit", ""),
            exports=True,
        )
    docker = docker_at(endpoint)
    version = _must(*docker, "version", "--format", "{{.Server.Version}}")[-1]
    if too_old(version, _OLDEST_DOCKER):
        raise ToolMissingError(f"Docker {version} is too old: 20.10 has BuildKit", hint=_INSTALL)
    status = _must(*docker, "info", "--format", "{{json .DriverStatus}}")
    return Builder(
        name=inspected.get("name", ""),
        driver=driver,
        endpoint=endpoint,
        buildx=buildx,
        buildkit=version,
        exports=any(map(has_containerd_store, status)),
    )


def parse_inspect(lines: Iterable[str]) -> dict[str, str]:
    """Of ``docker buildx inspect``: name, driver, error; endpoint, status, buildkit of a node.

    Sources: docker/buildx commands/inspect.go, 0.8 (``Buildkit:``) to 0.29 (``BuildKit version:``).
    """
    found: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if line == "Nodes:":
            found["nodes"] = "yes"
        elif colon and not line.startswith(" "):
            key = {"buildkit version": "buildkit"}.get(key.lower(), key.lower())
            if key in ("name", "driver", "error", "endpoint", "status", "buildkit"):
                found.setdefault(key, value.strip())
    return found


def has_containerd_store(driver_status: str) -> bool:
    """Told by ``docker info``'s DriverStatus, as JSON."""
    try:
        pairs = json.loads(driver_status)
        return any(key == "driver-type" and "containerd" in value for key, value in pairs or ())
    except (ValueError, TypeError):
        return False


def too_old(version: str, oldest: tuple[int, int]) -> bool:
    """One that says no numbers was built by somebody who knows what they do."""
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers is None or numbers[0] in ("0.0", "v0.0"):
        return False
    return (int(numbers[1]), int(numbers[2])) < oldest


def _buildx() -> str:
    """Version of the plugin."""
    try:
        status, said = _ask("docker", "buildx", "version")
    except ToolMissingError as error:
        raise ToolMissingError("there is no program 'docker'", hint=_INSTALL) from error
    found = next((line.split() for line in said if "/buildx " in line), None)
    if status != 0 or found is None:
        raise ToolMissingError("the client 'docker' has no plugin 'buildx'", hint=_INSTALL)
    version = found[1].removeprefix("v")
    if too_old(version, _OLDEST_BUILDX):
        raise ToolMissingError(f"buildx {version} is too old: 0.8 is expected", hint=_INSTALL)
    return version


def _must(*argv: str) -> list[str]:
    """The lines of an answer."""
    status, said = _ask(*argv)
    if status != 0 or not said:
        raise _unreachable(said[-1] if said else f"exit status {status} from: {' '.join(argv)}")
    return said


def _ask(*argv: str) -> tuple[int, list[str]]:
    """Exit status, and what was said, warnings of the client among it. In bounded time.

    The client has its plugin ask, which would outlive it.
    """
    said: list[str] = []
    end = time.monotonic() + _QUESTION

    def heard(line: str) -> None:
        if line:
            said.append(line)
        if time.monotonic() > end:
            raise ToolFailedError(
                f"'{' '.join(argv[:3])}' had no answer after {_QUESTION} s", hint=_START
            )

    return process.follow(argv, say=heard, env=process.builder_settings()), said


def _unreachable(said: str) -> CageError:
    """From what the client says."""
    reason = re.sub(r"^(ERROR|error): ", "", said.strip())
    hint = next((hint for words, hint in _HINTS.items() if words in reason), _START)
    return ToolFailedError(reason, hint=hint)

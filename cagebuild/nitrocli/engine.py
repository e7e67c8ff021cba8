"""The user's Docker, by its Engine API."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.transport import UnixHTTPAdapter
from requests.exceptions import RequestException

from cagebuild.errors import ToolFailedError, ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker.client import DockerClient

_QUESTION = 10
"""Seconds to wait for a Docker that is asked whether it is there."""
_WORK = 3600
"""Seconds without a sign of life: loading an image of some GiB answers nothing for a while."""
_CLEARING = 60
SOCKET: Final = "/var/run/docker.sock"
"""Where Docker's socket is on its own machine, and in every container that is given it."""


@contextmanager
def connected() -> Iterator[DockerClient]:
    """Docker where the user's own settings have it; raises ToolMissingError."""
    try:
        client = docker.from_env(timeout=_QUESTION)
    except DockerException as error:
        raise ToolMissingError(
            f"nitro-cli needs Docker, which cannot be reached: {_reason(error)}",
            hint="start it, or say where it is (docker context use, DOCKER_HOST); a user has to be"
            " allowed to use it (group docker)",
        ) from error
    try:
        client.api.timeout = _WORK
        yield client
    finally:
        client.close()


@contextmanager
def doing(what: str, *, hint: str = "") -> Iterator[None]:
    """Make Docker's failures in the block ToolFailedErrors: ``Docker could not <what>: …``."""
    try:
        yield
    except (DockerException, RequestException) as error:
        raise ToolFailedError(f"Docker could not {what}: {_reason(error)}", hint=hint) from error


@contextmanager
def soon(client: DockerClient) -> Iterator[None]:
    """Wait a minute for each answer and no longer: for what Ctrl-C can't break off."""
    client.api.timeout = _CLEARING
    try:
        yield
    finally:
        client.api.timeout = _WORK


def socket_of(client: DockerClient) -> str:
    """Docker's socket, by its path on the machine that Docker runs on."""
    adapter = client.api.get_adapter(client.api.base_url)
    machine = client.info().get("OperatingSystem")
    if not isinstance(adapter, UnixHTTPAdapter) or machine == "Docker Desktop":
        # Elsewhere, or in a virtual machine: its path there is not how we reach it.
        return SOCKET
    return str(adapter.socket_path)


def image_id(client: DockerClient, name: str) -> str | None:
    """The id of an image that Docker has, by any name; raises docker's errors."""
    try:
        return str(client.images.get(name).id)
    except ImageNotFound:
        return None


def remove_image(client: DockerClient, tag: str) -> None:
    """Take a tag away, with its image if that has no other, and what was made of it by that name.

    nitro-cli's own container is there when it was stopped in the middle; it may write the name in
    full, with docker.io/library.
    """
    try:
        for container in client.api.containers(all=True, filters={"ancestor": tag}):
            if container["Image"].endswith(tag):
                client.api.remove_container(container["Id"], v=True, force=True)
        client.images.remove(tag, force=True)
    except NotFound:
        pass


def progress(line: Mapping[str, object]) -> str:
    """What a line of a pull or build says; empty for bars. Raises ToolFailedError for a failure."""
    if "error" in line:
        raise ToolFailedError(str(line["error"]).strip())
    if line.get("progressDetail"):
        return ""
    return str(line.get("stream") or line.get("status") or "").rstrip()


def _reason(error: Exception) -> str:
    said = error.explanation if isinstance(error, APIError) and error.explanation else error
    return str(said).strip() or type(error).__name__

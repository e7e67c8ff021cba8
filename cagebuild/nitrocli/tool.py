"""The image that nitro-cli is in: one that the user names, or the one of the Dockerfile here."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cagebuild.errors import ResolveError, ToolFailedError, ToolMissingError, UsageError
from cagebuild.image.reference import Reference
from cagebuild.nitrocli import engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from docker.client import DockerClient

DOCKERFILE: Final = Path(__file__).parent / "Dockerfile"
REPOSITORY: Final = "cagebuild-nitro-cli"
"""What images of the Dockerfile are called; the tag is a digest of it."""
_BLOBS = "/usr/share/nitro_enclaves/blobs"
_ID = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_LAST_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """An image with nitro-cli on its PATH, and linuxkit where nitro-cli looks for it."""

    image: str
    """Docker's id of it."""
    name: str
    """As a person knows it."""
    blobs: str
    """The folder of its own boot files and linuxkit."""


def check_reference(text: str) -> None:
    """Raise UsageError unless the text says which image is meant for good: a digest, or an id."""
    if _ID.fullmatch(text):
        return
    try:
        reference = Reference.parse(text)
    except ResolveError as error:
        raise UsageError(f"--nitro-image: {error.message}", hint=error.hint) from None
    if reference.digest is None:
        raise UsageError(
            f"--nitro-image {text}: a tag may mean another image tomorrow",
            hint="give the digest, as REF@sha256:…, or for an image that was never in a registry"
            f" its id: docker image inspect --format '{{{{.Id}}}}' {text}",
        )


def find(client: DockerClient, reference: str, tell: Callable[[str], None]) -> Tool:
    """The image that was named, pulled if it isn't there, or that of the Dockerfile, built if not.

    ``tell`` is given lines of what Docker does meanwhile. Raises UsageError, ToolMissingError and
    ToolFailedError.
    """
    if not reference:
        return look_at(client, *of_dockerfile(client, DOCKERFILE.read_bytes(), tell))
    check_reference(reference)
    with engine.doing(f"look for {reference}"):
        found = engine.image_id(client, reference)
    if found is None and _ID.fullmatch(reference):
        raise ToolMissingError(
            f"Docker has no image {reference}",
            hint="an id is of an image that is there (docker image ls --no-trunc); one that has to"
            " be pulled is named REF@sha256:…",
        )
    if found is None:
        tell(f"pulling {reference}")
        with engine.doing(f"pull {reference}", hint="check the name, and docker login"):
            _follow(client.api.pull(reference, stream=True, decode=True), tell)
            found = engine.image_id(client, reference)
    return look_at(client, found or reference, reference)


def of_dockerfile(
    client: DockerClient, dockerfile: bytes, tell: Callable[[str], None]
) -> tuple[str, str]:
    """Id and name of the image of a Dockerfile that needs no files."""
    name = f"{REPOSITORY}:{hashlib.sha256(dockerfile).hexdigest()[:16]}"
    with engine.doing(f"look for {name}"):
        found = engine.image_id(client, name)
    if found is not None:
        return found, name
    tell(f"building {name}, once, from {DOCKERFILE}")
    hint = (
        "it is made from Docker Hub and Amazon Linux's packages; without them, build it elsewhere"
        " and name it: --nitro-image REF@sha256:…"
    )
    with engine.doing(f"build {name}", hint=hint):
        lines = client.api.build(
            fileobj=io.BytesIO(dockerfile), tag=name, rm=True, forcerm=True, decode=True
        )
        try:
            _follow(lines, tell)
        except ToolFailedError as error:
            raise ToolFailedError(f"{name} was not built: {error.message}", hint=hint) from None
        found = engine.image_id(client, name)
    if found is None:
        raise ToolFailedError(f"Docker built {name}, but has no such image", hint=hint)
    return found, name


def _follow(lines: Iterable[dict[str, object]], tell: Callable[[str], None]) -> None:
    """Pass on what Docker says; a failure has the last of it."""
    last: list[str] = []
    try:
        for line in lines:
            for said in engine.progress(line).splitlines():
                last = [*last[1 - _LAST_LINES :], said]
                tell(said)
    except ToolFailedError as error:
        raise ToolFailedError("\n  ".join([error.message, *last])) from None


def look_at(client: DockerClient, image: str, name: str) -> Tool:
    with engine.doing(f"look at {name}"):
        config = client.images.get(image).attrs.get("Config") or {}
    own = dict(pair.partition("=")[::2] for pair in config.get("Env") or ())
    return Tool(image=image, name=name, blobs=own.get("NITRO_CLI_BLOBS", _BLOBS).rstrip("/"))

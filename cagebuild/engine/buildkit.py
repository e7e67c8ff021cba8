"""BuildKit, by the command line of buildx: in a Docker daemon, a container, or far away.

The user's choice of builder holds (DOCKER_HOST, DOCKER_CONTEXT, BUILDX_BUILDER, ``docker buildx
use``) and is never changed. A builder that can writes the image as an OCI archive. A Docker daemon
with the older store ("overlay2") cannot: there the image is in the daemon's store for a moment,
under a name that nothing else has, and is saved from it and removed.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild import process
from cagebuild.dockerfile.parse import parse
from cagebuild.engine import builder as builders
from cagebuild.engine import buildkitgaps, failures
from cagebuild.engine.progress import Progress
from cagebuild.errors import CageError, DockerfileError, ToolFailedError
from cagebuild.image.platform import OCI_ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cagebuild.dockerfile.model import Dockerfile
    from cagebuild.engine.builder import Builder
    from cagebuild.engine.job import EngineJob, Secret

_NO_ATTESTATIONS = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
_HAS_PROVENANCE = (0, 10)
_HAS_HEREDOCS = {True: (23, 0), False: (0, 10)}
_HAS_MODES = {True: (28, 0), False: (0, 20)}
"""The first Docker, and the first BuildKit by itself, whose own frontend knows them."""
_NOTHING = "<none>:<none>"
_ANSWER = 60
"""Seconds that the daemon has to say what it has, or to remove an image."""
_EMPTY_ARCHIVE = bytes(1024)


class BuildKit:
    """See ``Engine``. What there is, is asked once."""

    name = "buildkit"

    @cached_property
    def _builder(self) -> Builder | CageError:
        try:
            return builders.find()
        except CageError as error:
            return error

    @property
    def unavailable(self) -> str:
        """See ``Engine``."""
        found = self._builder
        if not isinstance(found, CageError):
            return ""
        return found.message + (f"; {found.hint}" if found.hint else "")

    def describe(self) -> str:
        """See ``Engine``."""
        return self._ready().describe()

    def build(self, job: EngineJob) -> Path:
        """See ``Engine``. Raises ToolMissingError where it is not available."""
        builder = self._ready()
        dockerfile = _read(job.dockerfile)
        _check_heredocs(dockerfile, builder)
        if dockerfile is not None:
            buildkitgaps.refuse(
                dockerfile,
                builder.describe(),
                old=_lacks(builder, _HAS_MODES),
                very_old=_lacks(builder, _HAS_HEREDOCS),
            )
        archive = job.scratch / "image.tar"
        try:
            if builder.exports:
                output = _fields("type=oci", f"dest={archive}")
                _run(job, builder, dockerfile, ["--output", output])
            else:
                with _name_in_store(builder) as name:
                    _run(job, builder, dockerfile, ["--load", "--tag", name])
                    _save(job, builder, name, archive)
        except BaseException:
            archive.unlink(missing_ok=True)
            raise
        return archive

    def _ready(self) -> Builder:
        if isinstance(self._builder, CageError):
            raise self._builder
        return self._builder


def arguments(job: EngineJob, builder: Builder) -> list[str]:
    """The command up to output and secrets; the context comes last, after ``--``."""
    words = [
        *("docker", "buildx", "build", "--progress", "plain"),
        *("--file", str(job.dockerfile), "--target", job.target),
        *("--platform", f"linux/{OCI_ARCHITECTURE[job.architecture]}"),
    ]
    if not job.network:
        words += ["--network", "none"]
    if not builders.too_old(builder.buildx, _HAS_PROVENANCE):
        words += ["--provenance=false", "--sbom=false"]
    for key, value in sorted(job.args.items()):
        words += ["--build-arg", f"{key}={value}"]
    for place in job.cache_from:
        words += ["--cache-from", place]
    for place in job.cache_to:
        words += ["--cache-to", place]
    if not job.use_cache:
        words.append("--no-cache")
    return words


def _run(
    job: EngineJob,
    builder: Builder,
    dockerfile: Dockerfile | None,
    output: Sequence[str],
) -> None:
    progress = Progress()

    def heard(line: str) -> None:
        progress.take(line)
        job.say(line)

    with _handed_over(job.secrets) as handed:
        status = process.follow(
            [*arguments(job, builder), *handed.words, *output, "--", str(job.context)],
            say=heard,
            env={**process.builder_settings(), **_NO_ATTESTATIONS},
            pass_fds=handed.fds,
        )
    if status != 0:
        raise failures.from_progress(progress, dockerfile, job.dockerfile, builder.describe())


def _save(job: EngineJob, builder: Builder, name: str, archive: Path) -> None:
    said: list[str] = []

    def heard(line: str) -> None:
        if line:
            said.append(line)
        job.say("")

    status = process.follow(
        [*builder.docker, "image", "save", "--output", str(archive), name],
        say=heard,
        env=process.builder_settings(),
    )
    if status != 0:
        reason = said[-1] if said else f"exit status {status}"
        raise ToolFailedError(f"{builder.describe()} could not save the image:\n  {reason}")


@contextmanager
def _name_in_store(builder: Builder) -> Iterator[str]:
    """A name for an image in the daemon's store; afterwards neither is there.

    Two builds at once may make one image: each has a name of its own for it, and it is gone with
    the last. An image that was there before without any name stays, so its name is moved away.
    """
    name = f"cagebuild-{secrets.token_hex(8)}"
    before = unnamed(_ask(builder, "image", "ls", "--no-trunc", "--format", _LISTED))
    try:
        yield name
    finally:
        made = _ask(builder, "image", "inspect", "--format", "{{.Id}}", name, default="").strip()
        if made in before:
            _ask(builder, "import", "-", name, default="", stdin=_EMPTY_ARCHIVE)
        if made:
            _ask(builder, "image", "rm", name, default="")


_LISTED = "{{.ID}} {{.Repository}}:{{.Tag}}"


def unnamed(listing: str) -> set[str]:
    """Ids of images that have no name at all, from ``docker image ls`` as ``_LISTED`` has it."""
    pairs = [line.split(" ", 1) for line in listing.splitlines() if " " in line]
    named = {image for image, name in pairs if name != _NOTHING}
    return {image for image, _ in pairs} - named


def _ask(builder: Builder, *words: str, default: str | None = None, stdin: bytes = b"") -> str:
    """What the daemon answers; ``default``, if there is one, where it does not."""
    try:
        return process.run(
            [*builder.docker, *words], env=process.builder_settings(), stdin=stdin, timeout=_ANSWER
        ).decode(errors="replace")
    except ToolFailedError:
        if default is None:
            raise
        return default


class _Handed:
    """How the client is given the secrets."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.fds: list[int] = []


@contextmanager
def _handed_over(given: Sequence[Secret]) -> Iterator[_Handed]:
    """In memory that has no name, or where the system has none such, in files of this user alone.

    Memory is gone with the client, however this process ends.
    """
    handed = _Handed()
    with ExitStack() as stack:
        for secret in given:
            if sys.platform.startswith("linux"):
                fd = os.memfd_create("secret", os.MFD_CLOEXEC)
                stack.callback(os.close, fd)
                handed.fds.append(fd)
                path = f"/dev/fd/{fd}"
                with os.fdopen(os.dup(fd), "wb") as stream:
                    stream.write(secret.value)
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cagebuild-"))
                path = f"{folder}/secret"
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
                Path(path).write_bytes(secret.value)
            handed.words += ["--secret", _fields(f"id={secret.id}", f"src={path}")]
        yield handed


def _fields(*fields: str) -> str:
    """Comma-separated, as Go's encoding/csv reads it."""
    quoted = [
        '"' + field.replace('"', '""') + '"' if set(field) & set(',"\n\r') else field
        for field in fields
    ]
    return ",".join(quoted)


def _read(file: Path) -> Dockerfile | None:
    """For what it says about lines. One that cannot be read is the builder's to complain of."""
    try:
        return parse(file.read_bytes(), file)
    except DockerfileError:
        return None


def _lacks(builder: Builder, first: dict[bool, tuple[int, int]]) -> bool:
    """Whether it is older than the first that has something."""
    return builders.too_old(builder.buildkit, first[builder.driver == "docker"])


def _check_heredocs(dockerfile: Dockerfile | None, builder: Builder) -> None:
    """An older frontend would take the lines of a heredoc for instructions, and might run them."""
    if dockerfile is None or dockerfile.syntax or not _lacks(builder, _HAS_HEREDOCS):
        return
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            inner = instruction.inner
            if instruction.heredocs or (inner and inner.heredocs):
                raise ToolFailedError(
                    f"{dockerfile.file.name}:{instruction.line}: the frontend of"
                    f" {builder.describe()} knows no heredocs, such as this one",
                    hint=failures.NEWER_FRONTEND,
                )

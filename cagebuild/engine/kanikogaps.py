"""What kaniko has not, or builds otherwise than BuildKit without a word: refused.

Found by building the same files with both: kaniko 1.24, BuildKit of Docker 28.
"""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING

from cagebuild.dockerfile.problems import Problems
from cagebuild.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cagebuild.dockerfile.model import Dockerfile, Instruction, Stage
    from cagebuild.engine.job import EngineJob

OTHER = 'build with engine = "buildkit" or "buildah"'
_FLAGS = {"COPY": {"from", "chown"}, "ADD": {"chown"}, "FROM": {"platform"}}
_RANGE = re.compile(r"[0-9]+-[0-9]+(?:/\w+)?")
_ROOT = frozenset(["", "0", "root", "0:0", "root:root"])
_UNSEEN = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/var/run", "/proc", "/sys", "/dev")
"""What kaniko takes for a part of its container, not of the image."""
_DOCKERS_FRONTENDS = re.compile(r"(docker\.io/)?docker/dockerfile(-upstream)?([:@].*)?")


def refuse(dockerfile: Dockerfile, needed: Sequence[Stage], job: EngineJob) -> None:
    """Raise UnsupportedError or DockerfileError for what cannot be built as it is meant."""
    if job.secrets:
        raise UnsupportedError("kaniko has no build secrets", hint=OTHER)
    if job.cache_from or job.cache_to:
        raise UnsupportedError("kaniko shares no cache with other engines", hint=OTHER)
    found = Problems(dockerfile.file, dockerfile.data)
    syntax = dockerfile.syntax
    if syntax and not _DOCKERS_FRONTENDS.fullmatch(syntax.image):
        what = "kaniko reads the file itself, not with the frontend that it asks for"
        found.add(syntax.line, what, OTHER)
    for stage in needed:
        user, volume = "", False
        for given in stage.instructions:
            instruction = given.inner or given if given.keyword == "ONBUILD" else given
            for what in _alone(instruction, dockerfile.escape, job):
                found.add(given.line, f"with kaniko {what}", OTHER)
            user = instruction.words[0] if instruction.keyword == "USER" else user
            volume = volume or instruction.keyword == "VOLUME"
            if what := _in_order(instruction, user, volume=volume):
                found.add(given.line, f"with kaniko {what}", OTHER)
    if found:
        raise found.error()


def refuse_volumes(dockerfile: Dockerfile, needed: Sequence[Stage], volumes: Sequence[str]) -> None:
    """Raise UnsupportedError where RUN may have written into a volume of a base image.

    ``volumes`` are those of the image that was built.
    """
    instructions = [each for stage in needed for each in stage.instructions]
    own: set[str] = set()
    for each in instructions:
        if each.keyword == "VOLUME":
            own |= {*each.words, *(each.exec_form or ())}
    inherited = [volume for volume in volumes if volume not in own]
    if inherited and any(each.keyword == "RUN" for each in instructions):
        raise UnsupportedError(
            f"{dockerfile.file.name}: the base image has a volume ({inherited[0]}), and what RUN"
            " writes there kaniko loses",
            hint=OTHER,
        )


def _in_order(instruction: Instruction, user: str, *, volume: bool) -> str:
    """What an instruction and those before it tell; empty where there is nothing."""
    if instruction.keyword == "RUN" and volume:
        return "what RUN writes into a VOLUME is lost: move VOLUME to the end"
    deep = instruction.keyword == "WORKDIR" and "/" in instruction.words[0].strip("/")
    if deep and user not in _ROOT:
        return "the upper folders of a new WORKDIR are root's: make them before USER"
    return ""


def _alone(instruction: Instruction, escape: str, job: EngineJob) -> Iterator[str]:
    """What one instruction tells, wherever it stands."""
    if instruction.heredocs:
        yield "there are no heredocs"
    if instruction.keyword != "HEALTHCHECK":
        for name, _ in instruction.flags:
            if name not in _FLAGS.get(instruction.keyword, ()):
                yield f"{instruction.keyword} has no --{name}"
    match instruction.keyword:
        case "EXPOSE" if any(_RANGE.fullmatch(word) for word in instruction.words):
            yield "a range of ports is taken as a name: list them"
        case "ENV" | "LABEL" | "ARG" if escape != "\\" and set("`\\") & set(instruction.text):
            yield "a back-tick escapes line ends alone"
        case "COPY" | "ADD":
            yield from _files(instruction, job)
        case _:
            pass


def _files(instruction: Instruction, job: EngineJob) -> Iterator[str]:
    owner = instruction.flag("chown")
    if owner and ":" not in owner and not owner.isdecimal():
        yield f"--chown={owner} gives another group: write --chown={owner}:GROUP"
    if instruction.keyword == "ADD" and owner is not None:
        for word in instruction.words[:-1]:
            paths = job.context.glob(word.lstrip("/") or ".")
            if any(path.is_file() and tarfile.is_tarfile(path) for path in paths):
                yield "--chown leaves the owners in an archive"
    target = instruction.words[-1] if instruction.words else ""
    if target.startswith(_UNSEEN):
        yield f"{target} is not taken for a part of the image"

"""Which instruction brought which layer of an image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cagebuild.dockerfile.flags import mount
from cagebuild.dockerfile.model import Stage
from cagebuild.dockerfile.naming import origin
from cagebuild.dockerfile.parse import parse
from cagebuild.dockerfile.stages import base_of, find, global_scope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cagebuild.config.model import Architecture
    from cagebuild.dockerfile.model import Dockerfile, Instruction
    from cagebuild.image.config import ImageConfig

_NO_OPERATION: Final = re.compile(r"^(/bin/sh -c )?#\(nop\)\s*")
_INSTRUCTION: Final = re.compile(
    "(ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|RUN|SHELL"
    r"|STOPSIGNAL|USER|VOLUME|WORKDIR)\s"
)


def layer_origins(config: ImageConfig, params: Mapping[str, Any]) -> list[str]:
    """For each layer, lowest first, the instruction that made it, as the history tells.

    ``params`` are those of ``cagebuild.engine.run``. The history names instructions but no lines;
    they come in the order of the Dockerfile. What can't be told is named by its number.
    """
    waiting = _of_target(params)
    origins: list[str] = list(params["base_layers"])[: len(config.diff_ids)]
    entries = _entries(config)
    for made_by in _after_base(entries, len(origins)):
        found = _next(waiting, made_by[0])
        if made_by[1]:
            origins.append(
                origin(params["name"], found) if found else f"{params['name']}: {made_by[0][:60]}"
            )
    count = len(config.diff_ids)
    if len(origins) != count:
        # A history that doesn't speak of every layer.
        origins = origins[: len(params["base_layers"])]
        origins += [f"{params['name']} layer {n + 1}" for n in range(len(origins), count)]
    return origins


def mount_targets(params: Mapping[str, Any]) -> list[bytes]:
    """Where a RUN of the target mounts something: Docker 20.10 leaves those folders behind.

    ``params`` as above. A target that isn't absolute, or has a variable, is passed over.
    """
    found = []
    for instruction in _of_target(params):
        for name, value in instruction.flags:
            if instruction.keyword == "RUN" and name == "mount":
                options = mount(value)
                given = [options.get(key) for key in ("target", "dst", "destination")]
                target = next((text for text in given if text), "")
                if target.startswith("/") and "$" not in target:
                    found.append(target.encode("utf-8", "surrogateescape"))
    return found


def _of_target(params: Mapping[str, Any]) -> list[Instruction]:
    """The instructions that the target's own layers come from, in order."""
    text: bytes = params["dockerfile"].encode("utf-8", "surrogateescape")
    dockerfile = parse(text, Path(params["name"]))
    return _instructions(dockerfile, params["target"], params["args"], params["architecture"])


def _entries(config: ImageConfig) -> list[tuple[str, bool]]:
    """What made each step of the history, and whether it made a layer."""
    history = config.raw.get("history")
    return [
        (str(entry.get("created_by", "")), not entry.get("empty_layer"))
        for entry in (history if isinstance(history, list) else [])
        if isinstance(entry, dict)
    ]


def _after_base(entries: Sequence[tuple[str, bool]], layers: int) -> Iterator[tuple[str, bool]]:
    """The entries after those of so many layers."""
    for entry in entries:
        if layers:
            layers -= entry[1]
        else:
            yield entry


def _next(waiting: list[Instruction], made_by: str) -> Instruction | None:
    """Take the next instruction of the kind that the history speaks of, and all before it."""
    match = _INSTRUCTION.match(_NO_OPERATION.sub("", made_by))
    # What names none is what a RUN runs.
    keyword = match[1] if match else "RUN"
    for place, instruction in enumerate(waiting):
        if instruction.keyword == keyword:
            del waiting[: place + 1]
            return instruction
    return None


def _instructions(
    dockerfile: Dockerfile, target: str, args: Mapping[str, str], architecture: Architecture
) -> list[Instruction]:
    """Those of the target's stage and of the stages that it is built on, lowest first."""
    scope = global_scope(dockerfile, args, architecture)
    chain: list[Stage] = []
    below: Stage | str | None = find(dockerfile, target)
    while isinstance(below, Stage):
        chain.append(below)
        below = base_of(dockerfile, below, scope)
    return [each for stage in reversed(chain) for each in stage.instructions]

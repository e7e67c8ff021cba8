"""Which instruction brought which layer of an image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cagebuild.dockerfile.flags import mount
from cagebuild.dockerfile.model import Stage
from cagebuild.dockerfile.naming import origin
from cagebuild.dockerfile.stages import base_of, global_scope, lineage, needed, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cagebuild.dockerfile.model import Dockerfile, Instruction
    from cagebuild.image.config import ImageConfig

_NO_OPERATION: Final = re.compile(r"^(/bin/sh -c )?#\(nop\)\s*")
_INSTRUCTION: Final = re.compile(
    "(ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|RUN|SHELL"
    r"|STOPSIGNAL|USER|VOLUME|WORKDIR)\s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What made a layer."""

    origin: str
    by_run: bool
    """Whether a RUN did, or files come from a stage with a RUN: there may be leftovers in it."""


def layers_made(
    dockerfile: Dockerfile, config: ImageConfig, params: Mapping[str, Any]
) -> list[Made]:
    """For each layer, lowest first, the instruction that made it, as the history tells.

    ``params`` are those of ``cagebuild.engine.run``. The history names instructions but no lines;
    they come in the order of the Dockerfile. What can't be told is named by its number.
    """
    name: str = params["name"]
    waiting = _of_target(dockerfile, params)
    ran = _stages_with_run(dockerfile, params)
    below = [Made(origin=each, by_run=False) for each in params["base_layers"]]
    made = below[: len(config.diff_ids)]
    for made_by, is_layer in _after_base(_entries(config), len(made)):
        found = _next(waiting, made_by)
        if is_layer and found:
            by_run = _is_by_run(dockerfile, *found, ran)
            made.append(Made(origin=origin(name, found[1]), by_run=by_run))
        elif is_layer:
            made.append(Made(origin=f"{name}: {made_by[:60]}", by_run=bool(ran)))
    count = len(config.diff_ids)
    if len(made) != count:
        # A history that doesn't speak of every layer.
        rest = range(len(below), count)
        made = below + [Made(origin=f"{name} layer {n + 1}", by_run=bool(ran)) for n in rest]
    return made[:count]


def mount_targets(dockerfile: Dockerfile) -> list[bytes]:
    """Where a RUN mounts something: Docker 20.10 leaves those folders behind.

    A target that isn't absolute, or has a variable, is passed over.
    """
    found = []
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            for name, value in instruction.flags:
                if instruction.keyword == "RUN" and name == "mount":
                    options = mount(value)
                    given = [options.get(key) for key in ("target", "dst", "destination")]
                    target = next((text for text in given if text), "")
                    if target.startswith("/") and "$" not in target:
                        found.append(target.encode("utf-8", "surrogateescape"))
    return found


def _stages_with_run(dockerfile: Dockerfile, params: Mapping[str, Any]) -> set[int]:
    """Numbers of the stages whose files a RUN has had to do with, if only those that they copy."""
    given = (params["args"], params["architecture"])
    scope = global_scope(dockerfile, *given, params["target"])
    found: set[int] = set()
    # The others may be mistaken: nobody builds them.
    for stage in needed(dockerfile, params["target"], *given):
        below = base_of(dockerfile, stage, scope)
        if (isinstance(below, Stage) and below.index in found) or any(
            _is_by_run(dockerfile, stage, each, found) for each in stage.instructions
        ):
            found.add(stage.index)
    return found


def _is_by_run(
    dockerfile: Dockerfile, stage: Stage, instruction: Instruction, ran: set[int]
) -> bool:
    named = instruction.flag("from")
    if instruction.keyword != "COPY" or named is None:
        return instruction.keyword == "RUN"
    source = source_of(dockerfile, stage, named)
    return isinstance(source, Stage) and source.index in ran


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


def _next(
    waiting: list[tuple[Stage, Instruction]], made_by: str
) -> tuple[Stage, Instruction] | None:
    """Take the next instruction of the kind that the history speaks of, and all before it."""
    match = _INSTRUCTION.match(_NO_OPERATION.sub("", made_by))
    # What names none is what a RUN runs.
    keyword = match[1] if match else "RUN"
    for place, found in enumerate(waiting):
        if found[1].keyword == keyword:
            del waiting[: place + 1]
            return found
    return None


def _of_target(
    dockerfile: Dockerfile, params: Mapping[str, Any]
) -> list[tuple[Stage, Instruction]]:
    """Instructions of the target's stage and of the stages that it is built on, lowest first."""
    stages, _ = lineage(dockerfile, params["target"], params["args"], params["architecture"])
    return [(stage, each) for stage in reversed(stages) for each in stage.instructions]

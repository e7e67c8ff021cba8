"""Stages: which are needed for a target, and which images from outside they are made of.

Source of the rules: moby/buildkit, frontend/dockerfile/dockerfile2llb/convert.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cagebuild.dockerfile.expand import Expander, ExpandError
from cagebuild.dockerfile.model import ImageUse
from cagebuild.dockerfile.problems import at_line, did_you_mean
from cagebuild.errors import ResolveError
from cagebuild.image.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cagebuild.config.model import Architecture
    from cagebuild.dockerfile.model import Dockerfile, Instruction, Origin, Stage, Syntax
    from cagebuild.errors import DockerfileError

_GIVEN_NAME = "cage-app"
_SCRATCH = "scratch"
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)
_MACHINES: dict[Architecture, str] = {"x86_64": "amd64", "aarch64": "arm64"}


def find(dockerfile: Dockerfile, target: str | None) -> Stage:
    """The stage of a name or number; the last one for None. Raises DockerfileError."""
    if target is None:
        return dockerfile.stages[-1]
    for stage in dockerfile.stages:
        if target.lower() == stage.name or target == str(stage.index):
            return stage
    names = [stage.name for stage in dockerfile.stages if stage.name]
    hint = did_you_mean(target.lower(), names)
    if not hint:
        hint = f"there are: {', '.join(names[:20])}" if names else "its stages have no names"
    raise at_line(dockerfile, 0, f"there is no stage '{target[:100]}'", hint)


def target_name(dockerfile: Dockerfile, stage: Stage) -> str:
    """What an engine is told to build: the stage's name, or the one that staging gives it."""
    if stage.name:
        return stage.name
    taken = {other.name for other in dockerfile.stages}
    name, number = _GIVEN_NAME, 1
    while name in taken:
        number += 1
        name = f"{_GIVEN_NAME}-{number}"
    return name


def global_scope(
    dockerfile: Dockerfile,
    args: Mapping[str, str],
    architecture: Architecture,
    target: str | None = None,
) -> dict[str, str]:
    """What FROM sees: the ARGs before the first one, and those that describe the platform.

    Arguments that are given win over defaults. Raises DockerfileError.
    """
    machine = _MACHINES[architecture]
    scope: dict[str, str] = {}
    for side in ("BUILD", "TARGET"):
        scope[f"{side}PLATFORM"] = f"linux/{machine}"
        scope[f"{side}OS"] = "linux"
        scope[f"{side}OSVERSION"] = ""
        scope[f"{side}ARCH"] = machine
        scope[f"{side}VARIANT"] = ""
    scope["TARGETSTAGE"] = target_name(dockerfile, find(dockerfile, target))
    scope |= {name: args[name] for name in scope.keys() & args.keys()}
    expander = Expander(dockerfile.escape)
    for instruction in dockerfile.global_args:
        for name, default in instruction.pairs:
            if name in args:
                scope[name] = args[name]
            elif default is not None:
                try:
                    scope[name] = expander.word(default, scope)
                except ExpandError as error:
                    raise at_line(dockerfile, instruction.line, f"ARG {name}: {error}") from None
    return scope


def base_of(dockerfile: Dockerfile, stage: Stage, scope: Mapping[str, str]) -> Stage | str | None:
    """What a stage starts from: an earlier stage, an image's full reference, None for scratch.

    ``scope`` is that of ``global_scope``. Raises DockerfileError.
    """
    name = _expanded(dockerfile, stage, stage.image, scope)
    if not name:
        raise _empty(dockerfile, stage, stage.image, scope)
    for earlier in dockerfile.stages[: stage.index]:
        if earlier.name == name:
            return earlier
        if earlier.name == name.lower():
            raise at_line(
                dockerfile,
                stage.from_instruction.line,
                f"FROM {name}: the stage is called '{earlier.name}', and FROM minds capitals",
                f"write FROM {earlier.name}",
            )
    if name == _SCRATCH:
        return None
    try:
        return str(Reference.parse(name))
    except ResolveError as error:
        unset = Expander(dockerfile.escape).unset(stage.image, scope)
        if unset:
            raise _empty(dockerfile, stage, stage.image, scope) from None
        line = stage.from_instruction.line
        raise at_line(dockerfile, line, error.message, error.hint) from None


def platform_of(dockerfile: Dockerfile, stage: Stage, scope: Mapping[str, str]) -> str | None:
    """What ``FROM --platform=`` says, expanded; raises DockerfileError."""
    given = stage.from_instruction.flag("platform")
    if given is None:
        return None
    platform = _expanded(dockerfile, stage, given, scope)
    if not platform:
        raise _empty(dockerfile, stage, given, scope)
    return platform


def source_of(
    dockerfile: Dockerfile, stage: Stage, name: str, *, numbers: bool = True, line: int = 0
) -> Stage | str | None:
    """What ``--from=name`` means in a stage: a stage, an image's full reference, None for scratch.

    COPY takes a stage's number too; the mounts of RUN do not (``numbers=False``). ``line`` is for
    the message of the DockerfileError.
    """
    at = line or stage.from_instruction.line
    found = next((other for other in dockerfile.stages if other.name == name.lower()), None)
    if numbers and _NUMBER.fullmatch(name):
        index = int(name)
        if not 0 <= index < len(dockerfile.stages):
            raise at_line(dockerfile, at, f"there is no stage number {index}")
        found = dockerfile.stages[index]
    if found is not None:
        if found.index >= stage.index:
            where = "this very stage" if found is stage else "a later stage"
            raise at_line(
                dockerfile, at, f"from={name} is {where}", "take files from an earlier stage"
            )
        return found
    if name == _SCRATCH:
        return None
    try:
        return str(Reference.parse(name))
    except ResolveError as error:
        near = did_you_mean(name.lower(), [s.name for s in dockerfile.stages if s.name])
        raise at_line(dockerfile, at, error.message, near or error.hint) from None


def executed(stage: Stage, base: Stage | str | None) -> tuple[Instruction, ...]:
    """The instructions that run when a stage is built: first what ONBUILD left in its base.

    ONBUILD itself runs nothing, but it is among them, as its text goes into the image's config.
    """
    if base is None or isinstance(base, str):
        return stage.instructions
    left = tuple(each.inner for each in base.instructions if each.keyword == "ONBUILD")
    return tuple(inner for inner in left if inner) + stage.instructions


def needed(
    dockerfile: Dockerfile,
    target: str | None,
    args: Mapping[str, str],
    architecture: Architecture,
) -> tuple[Stage, ...]:
    """The stages that a target is made of, itself included, in file order."""
    scope = global_scope(dockerfile, args, architecture, target)
    wanted = {find(dockerfile, target).index}
    # Everything that a stage can use stands above it, so one pass upwards finds all.
    for stage in reversed(dockerfile.stages):
        if stage.index in wanted:
            base = base_of(dockerfile, stage, scope)
            used = [base, *(source for _, _, source in _sources(dockerfile, stage, base))]
            wanted |= {
                each.index for each in used if each is not None and not isinstance(each, str)
            }
    return tuple(stage for stage in dockerfile.stages if stage.index in wanted)


def lineage(
    dockerfile: Dockerfile,
    target: str | None,
    args: Mapping[str, str],
    architecture: Architecture,
) -> tuple[list[Stage], str | None]:
    """The stages that a target is built on, itself first, and the image below the last of them.

    The image is a full reference, None for scratch. Raises DockerfileError.
    """
    scope = global_scope(dockerfile, args, architecture, target)
    found = [find(dockerfile, target)]
    while True:
        below = base_of(dockerfile, found[-1], scope)
        if below is None or isinstance(below, str):
            return found, below
        found.append(below)


def images(
    dockerfile: Dockerfile,
    target: str | None,
    args: Mapping[str, str],
    architecture: Architecture,
) -> tuple[ImageUse, ...]:
    """Every image from outside that a build of the target needs, in file order.

    The image of ``# syntax=`` is among them. Raises DockerfileError.
    """
    if "BUILDKIT_SYNTAX" in args:
        raise at_line(
            dockerfile,
            0,
            "the argument BUILDKIT_SYNTAX would have another image read the file, one not pinned",
            "say '# syntax=…' in its first line",
        )
    scope = global_scope(dockerfile, args, architecture, target)
    found: dict[tuple[int, int], ImageUse] = {}
    for use in _uses(dockerfile, needed(dockerfile, target, args, architecture), scope):
        found.setdefault(use.span, use)
    return tuple(found[span] for span in sorted(found))


def _uses(
    dockerfile: Dockerfile, stages: tuple[Stage, ...], scope: Mapping[str, str]
) -> Iterator[ImageUse]:
    if dockerfile.syntax:
        yield _syntax(dockerfile, dockerfile.syntax)
    for stage in stages:
        base = base_of(dockerfile, stage, scope)
        if isinstance(base, str):
            platform = platform_of(dockerfile, stage, scope)
            yield _use(dockerfile, base, stage.image_span, "FROM", platform)
        for keyword, origin, source in _sources(dockerfile, stage, base):
            if isinstance(source, str):
                yield _use(dockerfile, source, origin.span, keyword, None)


def _sources(
    dockerfile: Dockerfile, stage: Stage, base: Stage | str | None
) -> Iterator[tuple[str, Origin, Stage | str | None]]:
    for instruction in executed(stage, base):
        for origin in instruction.origins:
            numbers = instruction.keyword == "COPY"
            line = instruction.line
            source = source_of(dockerfile, stage, origin.name, numbers=numbers, line=line)
            yield instruction.keyword, origin, source


def _syntax(dockerfile: Dockerfile, syntax: Syntax) -> ImageUse:
    try:
        reference = str(Reference.parse(syntax.image))
    except ResolveError as error:
        raise at_line(dockerfile, syntax.line, error.message, error.hint) from None
    return _use(dockerfile, reference, syntax.span, "syntax", None)


def _use(
    dockerfile: Dockerfile,
    reference: str,
    span: tuple[int, int],
    keyword: str,
    platform: str | None,
) -> ImageUse:
    line = dockerfile.data.count(b"\n", 0, span[0]) + 1
    return ImageUse(reference=reference, span=span, line=line, keyword=keyword, platform=platform)


def _expanded(dockerfile: Dockerfile, stage: Stage, text: str, scope: Mapping[str, str]) -> str:
    try:
        return Expander(dockerfile.escape).word(text, scope)
    except ExpandError as error:
        line = stage.from_instruction.line
        raise at_line(dockerfile, line, f"FROM {text[:100]}: {error}") from None


def _empty(
    dockerfile: Dockerfile, stage: Stage, text: str, scope: Mapping[str, str]
) -> DockerfileError:
    unset = Expander(dockerfile.escape).unset(text, scope)
    names = " and ".join(unset)
    inside = {
        name
        for other in dockerfile.stages
        for instruction in other.instructions
        if instruction.keyword == "ARG"
        for name, _ in instruction.pairs
    }
    hint = "give it in base.dockerfile args or a default"
    if inside & set(unset):
        hint = "FROM sees only the ARGs above the first FROM: move it there"
    return at_line(
        dockerfile,
        stage.from_instruction.line,
        f"FROM {text[:100]}: {names} has no value" if unset else f"FROM {text[:100]} is empty",
        hint if unset else "name an image",
    )

"""What engines make different things of: the same words, another image.

Each version of an engine is right by its own rules, so that none of this is a mistake. A pinned
image stays what it is, but another machine's engine may not come to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cagebuild.dockerfile.problems import diagnostic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.dockerfile.model import Dockerfile, Instruction, Stage
    from cagebuild.errors import Diagnostic

_AS_MADE: Final = re.compile(r"0?755")
_OCTAL: Final = re.compile(r"[0-7]{1,4}")
_ARCHIVE: Final = re.compile(r"\.(tar|t[gbxz]z2?|tar\.\w+)$", re.IGNORECASE)
_MAKE_IT: Final = "make the folder before, by WORKDIR or in a RUN, or copy into one that is there"


def differences(dockerfile: Dockerfile, stages: tuple[Stage, ...]) -> Iterator[Diagnostic]:
    """Each with its line and the cure, in file order."""
    names = {stage.name: stage for stage in stages if stage.name}
    for stage in stages:
        found = [
            (instruction, *each)
            for instruction in stage.instructions
            for each in _of(instruction.inner or instruction)
        ]
        found += _of_arguments(stage, names.get(stage.image.lower()))
        for instruction, what, cure in sorted(found, key=lambda each: each[0].line):
            line = instruction.line
            yield diagnostic(dockerfile.file, dockerfile.data, line, what, hint=cure)


def _of_arguments(stage: Stage, below: Stage | None) -> Iterator[tuple[Instruction, str, str]]:
    """ARGs that win or lose against ENV, and those of the stage that this one is built on."""
    inherited = set() if below is None else _names(below, "ARG")
    variables: set[str] = set() if below is None else _names(below, "ENV")
    for instruction in stage.instructions:
        names = {name for name, _ in instruction.pairs}
        match instruction.keyword:
            case "ARG":
                for name in sorted(names & variables):
                    what = f"ARG {name} after ENV {name}: BuildKit keeps the variable, buildah not"
                    yield instruction, what, "give one of them another name"
                inherited -= names
            case "ENV":
                variables |= names
        for name in sorted(inherited):
            if re.search(rf"\$\{{?{re.escape(name)}\b", instruction.text):
                what = (
                    f"${name} is an ARG of the stage '{stage.image}': BuildKit knows it here,"
                    " buildah does not"
                )
                yield instruction, what, f"ARG {name} in this stage"


def _names(stage: Stage, keyword: str) -> set[str]:
    """What the instructions of that kind name."""
    return {
        name
        for instruction in stage.instructions
        if instruction.keyword == keyword
        for name, _ in instruction.pairs
    }


def _of(instruction: Instruction) -> Iterator[tuple[str, str]]:
    if instruction.keyword not in {"COPY", "ADD"}:
        return
    mode = instruction.flag("chmod")
    if mode is not None and not _OCTAL.fullmatch(mode):
        what = f"--chmod={mode}: engines before Docker 28 know octal digits only"
        yield what, "write it as digits, such as --chmod=755"
    elif mode is not None and not _AS_MADE.fullmatch(mode):
        what = (
            f"--chmod={mode}: folders that have to be made for it get this mode too from newer"
            " engines, and 0755 from others"
        )
        yield what, _MAKE_IT
    archives = instruction.keyword == "ADD" and any(
        _ARCHIVE.search(source) for source in instruction.words[:-1]
    )
    if archives and instruction.flag("chown") is not None:
        what = "--chown of an archive: some engines keep the owners that the archive has"
        yield what, "unpack it in a RUN, or COPY its files"

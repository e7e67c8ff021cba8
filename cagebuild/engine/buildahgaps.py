"""Where buildah builds something else than BuildKit without a word: that is refused.

Found by building the same files with both: buildah 1.28, 1.39 and 1.43, BuildKit of Docker 28.
What buildah refuses itself is not here, but where its own words would not be understood.
"""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING

from cagebuild.dockerfile import flags
from cagebuild.dockerfile.model import Stage
from cagebuild.dockerfile.problems import Problems
from cagebuild.engine.buildahwords import Version, is_remote
from cagebuild.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cagebuild.dockerfile.model import Dockerfile, Instruction

Base = Stage | str | None
"""What a stage starts from: a stage, an image, nothing."""

_HEREDOCS: Version = (1, 33)
_VOLUMES: Version = (1, 37)
_REMEDY = 'build with engine = "buildkit"'
_EXPANDED = frozenset(
    ["ADD", "ARG", "COPY", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"]
)
_ERROR_IF_UNSET = re.compile(r"\$\{\w+:?\?")
_PATTERN = re.compile(r"\$\{\w+(?:##?|%%?|//?)(?P<pattern>[^}/]*)")
_RANGE = re.compile(r"[0-9]+-[0-9]+(?:/\w+)?")
_QUOTES = frozenset("'\"\\")
_DOCKERS_FRONTENDS = re.compile(r"(docker\.io/)?docker/dockerfile(-upstream)?([:@].*)?")


def _remedy(words: str) -> str:
    return f"{words}, or {_REMEDY}" if words else _REMEDY


class Gaps:
    """Looks for them in one Dockerfile. Its methods raise DockerfileError."""

    def __init__(self, dockerfile: Dockerfile, version: Version, context: Path) -> None:
        self._dockerfile = dockerfile
        self._escape = dockerfile.escape
        self._version = version
        self._context = context
        self._found = Problems(dockerfile.file, dockerfile.data)

    def check_file(self, needed: Sequence[Stage], bases: Mapping[int, Base]) -> None:
        """What the instructions themselves tell, of the stages that are built."""
        syntax = self._dockerfile.syntax
        if syntax and not _DOCKERS_FRONTENDS.fullmatch(syntax.image):
            what = "buildah reads the file itself, not with the frontend that it asks for"
            self._found.add(syntax.line, what, _remedy(""))
        for instruction in [
            each for stage in self._dockerfile.stages for each in stage.instructions
        ]:
            if instruction.heredocs and self._version < _HEREDOCS:
                what = "before 1.33 the lines of a heredoc are read as instructions"
                self._say(instruction, what, "get a newer one")
        for stage in needed:
            for instruction in stage.instructions:
                # What ONBUILD holds runs in the stages that start from this one.
                if instruction.inner and instruction.inner.keyword == "WORKDIR":
                    self._say(instruction, "ONBUILD WORKDIR makes no folder", "write it in stages")
                self._alone(instruction.inner or instruction)
            before = _before(stage, bases)
            shell = any(each.keyword == "SHELL" for each in before)
            self._in_order(stage, shell=shell, volume=any(e.keyword == "VOLUME" for e in before))
        self._end()

    def check_base(
        self,
        stage: Stage,
        needed: Sequence[Stage],
        bases: Mapping[int, Base],
        config: Mapping[str, object],
    ) -> None:
        """What the config of a stage's image tells besides."""
        shell, volume = bool(config.get("Shell")), bool(config.get("Volumes"))
        for other in needed:
            if stage in _stages_below(other, bases):
                self._in_order(other, shell=shell, volume=volume)
        self._end()

    def check_network(self, needed: Sequence[Stage], *, caches: bool) -> None:
        """What buildah cannot do when it has to be without network for RUN to have none."""
        runtime = "install the package runc or crun"
        if caches:
            raise UnsupportedError(
                "buildah reaches no cache while RUN is without network: there is no OCI runtime",
                hint=_remedy(runtime),
            )
        for stage in needed:
            for instruction in stage.instructions:
                if instruction.keyword == "ADD" and any(map(is_remote, instruction.words)):
                    what = "ADD can fetch nothing while RUN is without network"
                    self._say(instruction, what, runtime)
        self._end()

    def _end(self) -> None:
        if self._found:
            raise self._found.error()

    def _in_order(self, stage: Stage, *, shell: bool, volume: bool) -> None:
        for instruction in stage.instructions:
            shell = shell or instruction.keyword == "SHELL"
            volume = volume or instruction.keyword == "VOLUME"
            if instruction.keyword == "RUN" and volume and self._version < _VOLUMES:
                self._say(
                    instruction,
                    "before 1.37 what RUN writes into a VOLUME is lost",
                    "get a newer one, move VOLUME to the end",
                )
            is_text = instruction.exec_form is None
            if instruction.keyword in ("CMD", "ENTRYPOINT") and shell and is_text:
                self._say(
                    instruction,
                    f"{instruction.keyword} as a text runs in /bin/sh, whatever SHELL says",
                    'write it as a list: ["/bin/bash", "-c", "…"]',
                )

    def _say(self, instruction: Instruction, what: str, hint: str = "") -> None:
        self._found.add(instruction.line, f"with buildah {what}", _remedy(hint))

    def _alone(self, instruction: Instruction) -> None:
        """What one instruction tells, wherever it stands."""
        match instruction.keyword:
            case "RUN":
                self._run(instruction)
            case "COPY" | "ADD":
                self._files(instruction)
            case "EXPOSE" if any(_RANGE.fullmatch(word) for word in instruction.words):
                self._say(instruction, "a range of ports is taken as a name", "list the ports")
            case _:
                pass
        if instruction.keyword not in _EXPANDED:
            return
        text = instruction.text
        if _ERROR_IF_UNSET.search(text):
            self._say(instruction, "${name:?…} lets a variable be unset", "give it a default")
        if any(set("*?") & set(found["pattern"]) for found in _PATTERN.finditer(text)):
            self._say(
                instruction, "wildcards in ${name#…} match otherwise", "write the value itself"
            )
        if self._escape != "\\" and set("`\\") & set(text):
            self._say(
                instruction,
                "a back-tick escapes line ends alone",
                "write the value without escapes",
            )

    def _run(self, instruction: Instruction) -> None:
        if instruction.flag("network") == "host":
            self._say(
                instruction,
                "--network=host opens the network, whatever the cage allows",
                "leave it out",
            )
        for name, value in instruction.flags:
            options = flags.mount(value) if name == "mount" else {}
            writes = {"rw", "readwrite"} & options.keys()
            if options.get("type") == "bind" and any(options[key] != "false" for key in writes):
                self._say(
                    instruction,
                    "a bind mount that is written to changes what later instructions copy",
                    "COPY the files and remove them",
                )

    def _files(self, instruction: Instruction) -> None:
        mode = instruction.flag("chmod")
        if mode is not None and mode not in ("755", "0755"):
            self._say(
                instruction,
                "--chmod leaves the mode of folders that are made",
                "run chmod, or have git keep the mode",
            )
        if instruction.flag("exclude") is not None:
            self._say(instruction, "--exclude leaves out other files", "use .dockerignore")
        for heredoc in instruction.heredocs:
            if heredoc.expand and set(heredoc.content) & _QUOTES:
                self._say(
                    instruction,
                    "quotes and backslashes in a heredoc that is expanded are read otherwise",
                    "quote its name (<<'EOF')",
                )
        chowned = instruction.keyword == "ADD" and instruction.flag("chown") is not None
        if chowned and any(self._is_archive(word) for word in instruction.words[:-1]):
            self._say(instruction, "--chown leaves the owners in an archive", "run chown after it")

    def _is_archive(self, source: str) -> bool:
        """Whether ADD unpacks one of the files that a source may be."""
        paths = self._context.glob(source.lstrip("/") or ".")
        return any(path.is_file() and tarfile.is_tarfile(path) for path in paths)


def _stages_below(stage: Stage, bases: Mapping[int, Base]) -> list[Stage]:
    """The stage itself, the one that it starts from, and so on."""
    found = [stage]
    while isinstance(base := bases.get(found[-1].index), Stage):
        found.append(base)
    return found


def _before(stage: Stage, bases: Mapping[int, Base]) -> list[Instruction]:
    below = _stages_below(stage, bases)[1:]
    return [instruction for base in below for instruction in base.instructions]

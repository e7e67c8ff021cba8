"""A Dockerfile without RUN, built in this process: stages are trees, and nothing is run.

The result is what BuildKit makes of it, with one time stamp on everything. Where BuildKit and other
engines make different things of an instruction, it is refused with its line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cagebuild.dockerfile import naming, stages
from cagebuild.dockerfile.model import Instruction, Stage
from cagebuild.dockerfile.parse import parse
from cagebuild.dockerfile.problems import at_line, diagnostic
from cagebuild.embedded import files
from cagebuild.embedded.refused import Refused
from cagebuild.embedded.scope import Scope
from cagebuild.embedded.settings import SETTINGS
from cagebuild.embedded.state import State, empty, of_image, triggers_of
from cagebuild.errors import CageError, DockerfileError, ImageError, UnsupportedError
from cagebuild.image.layers import set_times
from cagebuild.image.tree import new_root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cagebuild.config.model import Architecture
    from cagebuild.dockerfile.model import Dockerfile
    from cagebuild.image.config import ImageConfig
    from cagebuild.image.tree import Node

ENGINES_HINT: Final = (
    "install Docker with buildx, or buildah, and leave [build] engine at 'auto' or name it there"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """An image from outside."""

    root: Node
    """Flattened; it belongs to whoever asked for it."""
    config: ImageConfig
    """As it was read: its ONBUILD and SHELL are looked for in ``raw``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The image of a stage."""

    root: Node
    config: ImageConfig


def build(
    dockerfile: Dockerfile,
    *,
    target: str | None,
    context: Node,
    images: Callable[[str], Base],
    args: Mapping[str, str],
    architecture: Architecture,
    epoch: int,
    scratch: Path,
) -> Built:
    """Build a stage: that named ``target``, by default the last.

    ``context`` is what COPY and ADD see, .dockerignore having had its say; it isn't changed.
    ``images`` gives an image by its normalised reference, a tree of its own each time. ``scratch``
    is an empty folder that stays as long as the result is read: archives are uncompressed there.

    Each node that an instruction brings has the origin ``Dockerfile:12 COPY src /app``. Raises
    UnsupportedError for what needs an engine, DockerfileError for mistakes, ImageError for archives
    that are damaged or hostile, and what ``images`` raises.
    """
    scope = stages.global_scope(dockerfile, args, architecture, target)
    builder = _Builder(dockerfile, context, images, args, scope, scratch)
    needed = stages.needed(dockerfile, target, args, architecture)
    for stage in needed:
        builder.check(stage)
    for stage in needed:
        builder.state(stage)
    state = builder.state(stages.find(dockerfile, target))
    set_times(state.root, epoch)
    return Built(root=state.root, config=state.config(architecture))


class _Builder:
    def __init__(
        self,
        dockerfile: Dockerfile,
        context: Node,
        images: Callable[[str], Base],
        args: Mapping[str, str],
        global_args: Mapping[str, str],
        scratch: Path,
    ) -> None:
        self._dockerfile = dockerfile
        self._context = files.Origin(root=context, context=True)
        self._images = images
        self._args = args
        self._globals = global_args
        self._scratch = files.Scratch(folder=scratch)
        self._done: dict[int, State] = {}
        self._read_only: dict[str, Node] = {}

    def check(self, stage: Stage) -> None:
        """Refuse RUN before anything is done."""
        self._check(stages.executed(stage, self._base(stage)))

    def state(self, stage: Stage) -> State:
        """A stage when all its instructions are done."""
        done = self._done.get(stage.index)
        if done is None:
            done = self._done[stage.index] = self._built(stage)
        return done

    def _base(self, stage: Stage) -> Stage | str | None:
        return stages.base_of(self._dockerfile, stage, self._globals)

    def _check(self, instructions: tuple[Instruction, ...]) -> None:
        for instruction in instructions:
            if instruction.keyword == "RUN":
                raise self._unsupported(
                    instruction.line, "RUN runs a program, which needs an engine", ENGINES_HINT
                )

    def _built(self, stage: Stage) -> State:
        base = self._base(stage)
        scope = Scope(self._dockerfile.escape, {})
        triggers: tuple[Instruction, ...] = ()
        if base is None:
            state = empty(scope)
        elif isinstance(base, Stage):
            below = self.state(base)
            scope.variables |= below.scope.variables
            state = below.child(scope)
        else:
            image = self._images(base)
            state = of_image(image.root, image.config, scope)
            triggers = tuple(self._trigger(text, stage) for text in triggers_of(image.config))
        scope.set_env(state.env)
        instructions = (*triggers, *stages.executed(stage, base))
        # Again: triggers of an image may run something, or need a stage that nothing else needs.
        self._check(instructions)
        for instruction in instructions:
            self._carried_out(stage, state, instruction)
        return state

    def _trigger(self, text: str, stage: Stage) -> Instruction:
        """An ONBUILD of an image, which happens where its FROM stands."""
        data = b"FROM scratch\n" + text.encode("utf-8", "surrogateescape")
        place = stage.from_instruction
        try:
            instructions = parse(data, self._dockerfile.file).stages[0].instructions
        except DockerfileError:
            instructions = ()
        if len(instructions) != 1:
            what = f"ONBUILD of {stage.image} cannot be read: {text}"
            raise at_line(self._dockerfile, place.line, what)
        return replace(instructions[0], line=place.line, last_line=place.last_line)

    def _carried_out(self, stage: Stage, state: State, instruction: Instruction) -> None:
        line = instruction.line
        try:
            self._carry_out(stage, state, instruction)
        except Refused as refused:
            if refused.unsupported:
                raise self._unsupported(line, refused.message, refused.hint) from refused
            raise at_line(self._dockerfile, line, refused.message, refused.hint) from refused
        except ImageError as error:
            where = f"{self._dockerfile.file}:{line}"
            raise ImageError(f"{where}: {error.message}", hint=error.hint) from error

    def _carry_out(self, stage: Stage, state: State, instruction: Instruction) -> None:
        keyword = instruction.keyword
        origin = naming.origin(self._dockerfile.file.name, instruction)
        match keyword:
            case "ARG":
                self._arg(state, instruction)
            case "COPY" | "ADD":
                source = self._source(stage, instruction)
                files.copy(state, instruction, source, origin, self._scratch)
            case "WORKDIR":
                files.workdir(state, instruction, origin)
            case "ONBUILD":
                pass  # for stages and images that are built from this one
            case _:
                SETTINGS[keyword](state, instruction)

    def _arg(self, state: State, instruction: Instruction) -> None:
        """ARG: what was asked for, else its default, else what stands before the first FROM."""
        for name, default in instruction.pairs:
            if name in self._args:
                value: str | None = self._args[name]
            elif default is not None:
                value = state.scope.word(default)
            else:
                value = self._globals.get(name)
            if value is not None:
                state.scope.variables[name] = value

    def _source(self, stage: Stage, instruction: Instruction) -> files.Origin:
        name = instruction.flag("from")
        if not name:
            return self._context
        source = stages.source_of(self._dockerfile, stage, name, line=instruction.line)
        if source is None:
            return files.Origin(root=new_root(), context=False)
        if isinstance(source, Stage):
            return files.Origin(root=self.state(source).root, context=False)
        if source not in self._read_only:
            self._read_only[source] = self._images(source).root
        return files.Origin(root=self._read_only[source], context=False)

    def _unsupported(self, line: int, message: str, hint: str) -> CageError:
        place = diagnostic(self._dockerfile.file, self._dockerfile.data, line, message)
        return UnsupportedError(place.render(), hint=hint)

"""Writing ``Dockerfile.cage`` and all that it copies to a folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, assert_never, cast

from cagebuild.config.model import ArchiveBase, DebianBase
from cagebuild.digest import Digest
from cagebuild.errors import SourceError, StoreError
from cagebuild.files import new_folder
from cagebuild.image import ondisk
from cagebuild.image.config import parse_config
from cagebuild.image.layers import Layer, flatten, set_times
from cagebuild.image.tarwriter import write_tree
from cagebuild.image.tree import Region
from cagebuild.pipeline import one_cage, plans, require_lock, run
from cagebuild.stage import text
from cagebuild.steps import finished
from cagebuild.steps.image import RUNTIME
from cagebuild.store import Session as StoreSession

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from cagebuild.config.model import Cage
    from cagebuild.image.tree import Node
    from cagebuild.pipeline import How
    from cagebuild.plan import Plan
    from cagebuild.session import Session
    from cagebuild.sources import SourceFile

_ADDED: Final = frozenset({"app", "runtime", "settings"})
"""Origins of the layers that are put on top of a base."""


def dockerfile(session: Session, cages: Sequence[Cage]) -> bytes:
    """The Dockerfile of one cage; nothing runs. UsageError for several cages."""
    return text.dockerfile(_subject(session, one_cage(cages, "stage")))


def write(session: Session, cages: Sequence[Cage], how: How, output: Path) -> str:
    """Write the folder of one cage, whole or not at all; the command that builds it by hand.

    What it takes is built: the settings name the user by number, which only the built image tells.
    Raises UsageError for several cages or a folder of another kind, and as ``pipeline.build`` does.
    """
    subject = _subject(session, one_cage(cages, "stage"))
    (plan,) = plans(session, [subject.cage])
    wanted = plan.image_inputs()
    summary = run(session, {subject.cage: [given.step for given in wanted.values()]}, how)
    blobs = {name: summary.output(given.step, given.output) for name, given in wanted.items()}
    steps = {given.step.id for given in wanted.values()}
    with StoreSession(session.store, steps) as kept, kept.scratch() as scratch:
        inputs = {name: scratch / name for name in blobs}
        for name, blob in blobs.items():
            session.store.checkout(blob, inputs[name])
        try:
            with new_folder(output, marker=text.NAME, what="folder of this command") as folder:
                _Folder(subject, plan, inputs, folder).write()
        except OSError as error:
            raise StoreError(
                f"{output} cannot be written: {error.strerror or error}",
                hint="choose another place, make room, or make the folder writable",
            ) from error
    return text.command(subject)


def _subject(session: Session, cage: Cage) -> text.Subject:
    return text.Subject(
        cage=cage,
        lock=require_lock(cage),
        sources=session.sources(cage),
        context=session.context(cage),
    )


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder that is being written."""

    subject: text.Subject
    plan: Plan
    inputs: Mapping[str, Path]
    """Layers and config of the finished image, by the names that steps have for them."""
    folder: Path

    def write(self) -> None:
        config = parse_config(self.inputs["config.json"].read_bytes(), "the finished image")
        (self.folder / text.NAME).write_bytes(text.dockerfile(self.subject, config))
        ours = self.folder / text.OURS
        ours.mkdir()
        self._base(ours / text.BASE)
        epoch = self.subject.lock.epoch.time
        for number, entry in enumerate(self.subject.cage.app.files):
            files = text.of_entry(entry, self.subject.sources)
            folder = ours / text.APP / str(number)
            _copy_all(files, str(entry.destination), folder, epoch)
            if (entry.uid, entry.gid) != (0, 0):
                _copy_folders(folder, ours / text.FOLDERS / str(number), epoch)
        if self.subject.lock.runtime is not None:
            for origin in ("runtime", "settings"):
                # A working directory that has to be made is beside the settings: WORKDIR makes it.
                tree = self._layers([origin])
                children = tree.children or {}
                tree.children = {RUNTIME: children[RUNTIME]}
                ondisk.write(tree, ours / origin, lambda: None)
        # Their times are as they are: BuildKit goes by them, and all get the epoch in the end.
        for path in ours.rglob("*"):
            os.utime(path, follow_symlinks=False)
        if self.subject.context is not None:
            context = self.folder / text.context_folder(self.subject)
            _copy_all(self.subject.context.files, "/", context, epoch)

    def _base(self, file: Path) -> None:
        """The base's files, where no registry has them."""
        if isinstance(self.subject.cage.base, DebianBase | ArchiveBase):
            with file.open("wb") as stream:
                write_tree(self._layers(set(self._origins()) - _ADDED), stream.write)

    def _origins(self) -> list[str]:
        return cast("list[str]", self.plan.measure.params["origins"])

    def _layers(self, origins: Collection[str]) -> Node:
        """The layers of those origins as one tree."""
        layers = [
            Layer(
                region=Region.of_file(self.inputs[finished.layer_input(number)]),
                name=f"{origin} layer",
                origin=origin,
            )
            for number, origin in enumerate(self._origins())
            if origin in origins
        ]
        root = flatten(layers)
        set_times(root, self.subject.lock.epoch.time)
        return root


def _copy_all(files: Iterable[SourceFile], top: str, folder: Path, epoch: int) -> None:
    """Copy files that go below ``top`` of the image into ``folder``; one that goes there: ``file``.

    Raises SourceError for one that was changed meanwhile.
    """
    folder.mkdir(parents=True)
    made = {folder}
    for file in files:
        inside = PurePosixPath("/", file.destination).relative_to(top)
        target = folder / (inside if inside.parts else text.FILE)
        made |= {parent for parent in target.parents if parent.is_relative_to(folder)}
        target.parent.mkdir(parents=True, exist_ok=True)
        match file.kind:
            case "symlink":
                target.symlink_to(file.target)
            case "directory":
                target.mkdir(exist_ok=True)
                made.add(target)
            case "file":
                shutil.copyfile(file.path, target, follow_symlinks=False)
                target.chmod(file.mode)
                if Digest.of_file(target) != file.digest:
                    raise SourceError(f"{file.path} was changed while it was read")
            case _:
                assert_never(file.kind)
        os.utime(target, (epoch, epoch), follow_symlinks=False)
    for each in made:
        each.chmod(0o755)
        os.utime(each, (epoch, epoch))


def _copy_folders(source: Path, target: Path, epoch: int) -> None:
    """The folders below one, without the files in them."""
    made = [target, *(target / path.relative_to(source) for path in source.rglob("*/"))]
    for path in made:
        path.mkdir(parents=True, exist_ok=True)
    for path in made:
        path.chmod(0o755)
        os.utime(path, (epoch, epoch))

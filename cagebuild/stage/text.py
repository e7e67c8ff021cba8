"""The text of ``Dockerfile.cage``, which can be read before anything runs.

Built by hand it gives the image that ``invoke build`` measures. It is the app's own Dockerfile with
every image by digest, or one made from cage.toml, and a last stage that adds what the runtime
consists of. Files of ours come from a build context of their own, so that a ``COPY . .`` of the
app's never meets them.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, assert_never

from cagebuild.config.model import (
    ArchiveBase,
    DebianBase,
    DockerfileBase,
    ImageBase,
    ScratchBase,
)
from cagebuild.digest import Digest
from cagebuild.image.platform import OCI_ARCHITECTURE
from cagebuild.plan.dockerfile import arguments
from cagebuild.step import canonical
from cagebuild.steps.image import ENTRYPOINT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cagebuild.config.model import AppFiles, Cage
    from cagebuild.image.config import ImageConfig
    from cagebuild.lock import Lock
    from cagebuild.sources import BuildContext, SourceFile

NAME: Final = "Dockerfile.cage"
OURS: Final = "cage"
"""Folder of the files that are added, and in Dockerfiles of ours the place to copy them from."""
STAGE: Final = "cagebuild-image"
_NAMED_CONTEXT: Final = "cagebuild-files"
BASE: Final = "base.tar"
APP: Final = "app"
"""Of a folder for each entry of app.files: the files themselves."""
FOLDERS: Final = "folders"
"""The same: the folders that they are in, with nothing in them."""
FILE: Final = "file"
"""What a file is called that is a whole entry."""
_PLAIN: Final = re.compile(r"[\w./@+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One cage, as far as it is known before anything runs."""

    cage: Cage
    lock: Lock
    sources: tuple[SourceFile, ...]
    context: BuildContext | None


def dockerfile(subject: Subject, finished: ImageConfig | None = None) -> bytes:
    """The text of ``Dockerfile.cage``.

    ``finished`` is how the finished image is run. Only a base that is an archive, or a cage without
    the runtime, has lines that need it; without it a comment stands in their place. Raises
    DockerfileError and LockError.
    """
    base = subject.cage.base
    if isinstance(base, DockerfileBase):
        text, target, escape = _own(subject, base)
        write = _Writer(subject, finished, f"--from={_NAMED_CONTEXT} ", escape)
        lines = ["", f"# Added by cagebuild. {_by_hand(subject)}", f"FROM {target} AS {STAGE}"]
        return text + _text([*lines, *write.additions()])
    write = _Writer(subject, finished, f"{OURS}/", "\\")
    head = f"# Made by cagebuild from {subject.cage.file.name}. {_by_hand(subject)}"
    return _text([head, *write.base(), *write.additions()])


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def command(subject: Subject) -> str:
    """The line that builds the image by hand, in the folder that was written."""
    base = subject.cage.base
    words = ["docker", "build", "--file", NAME]
    if not isinstance(base, DockerfileBase):
        return shlex.join([*words, "."])
    words += ["--platform", f"linux/{OCI_ARCHITECTURE[subject.lock.architecture]}"]
    words += ["--build-context", f"{_NAMED_CONTEXT}={OURS}"]
    if not base.build.network:
        words += ["--network", "none"]
    for name, value in arguments(base, subject.lock.epoch.time).items():
        words += ["--build-arg", f"{name}={value}"]
    for secret in base.build.secrets:
        words += ["--secret", f"id={secret.id},{_source(secret.env, secret.file)}"]
    return shlex.join([*words, context_folder(subject)])


def context_folder(subject: Subject) -> str:
    """What the folder of the app's context is called: another content, another name.

    BuildKit takes a file of an earlier build for the same if folder, name, size and time are, and
    the times in it are always the epoch.
    """
    files = subject.context.files if subject.context else ()
    parts = [
        [[file.facts(), str(file.digest)] for file in files],
        subject.lock.text(),
        str(Digest.of(subject.context.data)) if subject.context else None,
    ]
    return f"context-{Digest.of(canonical(parts)).hex[:16]}"


def _source(env: str | None, file: Path | None) -> str:
    return f"env={env}" if env else f"src={file}"


def _by_hand(subject: Subject) -> str:
    # A line break in an argument would end the comment.
    return f"By hand: {command(subject)}".replace("\n", "\\n")


def _own(subject: Subject, base: DockerfileBase) -> tuple[bytes, str, str]:
    """The app's Dockerfile with its images by digest, the target's stage, the escape character."""
    from cagebuild.dockerfile.parse import parse
    from cagebuild.dockerfile.staging import stage
    from cagebuild.image.dockerfilepin import DockerfilePins

    if subject.context is None:
        raise TypeError(f"{subject.cage.address}: no context")
    parsed = parse(subject.context.data, subject.context.file)
    staged = stage(
        parsed,
        target=base.target,
        pins=DockerfilePins.from_json(subject.lock.base.pins).by_digest(),
        args=arguments(base, subject.lock.epoch.time),
        architecture=subject.lock.architecture,
    )
    return staged.text, staged.target, parsed.escape


@dataclass(frozen=True, slots=True)
class _Writer:
    """Lines of a Dockerfile."""

    subject: Subject
    finished: ImageConfig | None
    ours: str
    """What stands before the path of a file of ours."""
    escape: str

    def base(self) -> Iterator[str]:
        """What the image is built on, for all but a Dockerfile."""
        base = self.subject.cage.base
        match base:
            case DebianBase():
                yield "FROM scratch"
                yield f"# Debian {base.suite}: {', '.join(base.packages)}, and what they need"
                yield f"ADD {self.ours}{BASE} /"
            case ImageBase():
                from cagebuild.image.registry import ImagePin

                pin = ImagePin.from_json(self.subject.lock.base.pins)
                yield f"FROM {pin.location.removeprefix('oci://')}@{pin.index or pin.manifest}"
            case ArchiveBase():
                yield "FROM scratch"
                yield f"# The image in {base.path.name}"
                yield f"ADD {self.ours}{BASE} /"
                yield from self._environment()
            case ScratchBase():
                yield "FROM scratch"
            case DockerfileBase():
                raise TypeError("the app's own Dockerfile is not made from cage.toml")
            case _:
                assert_never(base)

    def _environment(self) -> Iterator[str]:
        if self.finished is None:
            yield "# ENV …: the image's own, written with the files"
            return
        for item in self.finished.env:
            name, _, value = item.partition("=")
            yield f"ENV {name}={self._quoted(value)}"

    def additions(self) -> Iterator[str]:
        """What is put on top, the same for every base: files, then how the image is run."""
        app = self.subject.cage.app
        for number, entry in enumerate(app.files):
            yield from self._entry(number, entry)
        if app.workdir is not None:
            yield f"WORKDIR {self._quoted(str(app.workdir))}"
        for name, value in app.env:
            yield f"ENV {name}={self._quoted(value)}"
        if self.subject.lock.runtime is not None:
            yield f"COPY {self.ours}runtime/ /"
            yield f"COPY {self.ours}settings/ /"
            yield "USER 0:0"
            yield f"ENTRYPOINT {json.dumps(list(ENTRYPOINT))}"
        elif self.finished is None:
            yield "# ENTRYPOINT and CMD as one list, as an init wants it: written with the files"
        else:
            yield "ENTRYPOINT []"
            yield f"CMD {json.dumps(list(self.finished.cmd or ()), ensure_ascii=False)}"

    def _entry(self, number: int, entry: AppFiles) -> Iterator[str]:
        """The files of an entry. As in what is measured, folders don't have their owner."""
        files = list(of_entry(entry, self.subject.sources))
        whole = any(file.path == entry.source for file in files)
        destination = str(entry.destination)
        top = f"{destination.rpartition('/')[0] if whole else destination.rstrip('/')}/"
        owner = "" if (entry.uid, entry.gid) == (0, 0) else f"--chown={entry.uid}:{entry.gid} "
        if owner:
            # --chown gives away the folders that it makes, too: they are made before.
            yield self._copy([f"{FOLDERS}/{number}/"], top)
        if whole:
            yield self._copy([f"{APP}/{number}/{FILE}"], destination, owner)
        elif not owner:
            yield self._copy([f"{APP}/{number}/"], top)
        else:
            for folder, names in _by_folder(entry, files).items():
                sources = [f"{APP}/{number}/{folder}{name}" for name in names]
                yield self._copy(sources, top + folder, owner)

    def _copy(self, sources: list[str], destination: str, owner: str = "") -> str:
        flags, _, folder = self.ours.rpartition(" ")
        words = f"COPY {owner}{flags + ' ' if flags else ''}"
        paths = [*(folder + re.sub(r"([*?[\\])", r"\\\1", path) for path in sources), destination]
        if all(_PLAIN.fullmatch(path) for path in paths):
            return words + " ".join(paths)
        # As a list, where white space splits nothing.
        return words + json.dumps([self._literal(path) for path in paths], ensure_ascii=False)

    def _quoted(self, value: str) -> str:
        """A word that is taken as it is: neither quotes nor variables in it mean anything."""
        return f'"{self._literal(value)}"'

    def _literal(self, text: str) -> str:
        for special in (self.escape, '"', "$"):
            text = text.replace(special, self.escape + special)
        return text


def _by_folder(entry: AppFiles, files: Iterable[SourceFile]) -> dict[str, list[str]]:
    """Names of an entry's files by the folder that they are in: ``deep/`` or nothing."""
    folders: dict[str, list[str]] = {}
    for file in files:
        inside = PurePosixPath("/", file.destination).relative_to(entry.destination)
        folder = "" if inside.parent == PurePosixPath() else f"{inside.parent}/"
        folders.setdefault(folder, []).append(inside.name)
    return folders


def of_entry(entry: AppFiles, sources: Iterable[SourceFile]) -> Iterator[SourceFile]:
    """Those of the app's files that an entry of app.files stands for."""
    for file in sources:
        if file.path == entry.source or entry.source in file.path.parents:
            inside = PurePosixPath(file.path.relative_to(entry.source))
            if str(entry.destination / inside).lstrip("/") == file.destination:
                yield file

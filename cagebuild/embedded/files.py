"""COPY, ADD and WORKDIR: the instructions that change a stage's tree.

Source of the rules: BuildKit's dockerfile2llb/convert_copy.go and convert.go (dispatchWorkdir).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

from cagebuild.dockerfile import heredocs
from cagebuild.embedded import archives, linking, modes, owners
from cagebuild.embedded.copying import Attributes, Copied, Copier, Destination, matches, not_there
from cagebuild.embedded.patterns import Patterns, has_wildcards
from cagebuild.embedded.places import Parts, children, make_directories, node_at, resolve
from cagebuild.embedded.refused import Refused
from cagebuild.image.layers import components
from cagebuild.image.tree import Kind, Node, Region, new_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cagebuild.dockerfile.model import Instruction
    from cagebuild.embedded.modes import Mode
    from cagebuild.embedded.owners import Owner
    from cagebuild.embedded.scope import Scope
    from cagebuild.embedded.state import State

_REMOTE: Final = re.compile(r"(https?|git|ssh)://|[A-Za-z0-9_-]+@[A-Za-z0-9.-]+:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where files come from."""

    root: Node
    context: bool
    """It is the build context, whose files belong to root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """Names for new files in a folder."""

    folder: Path
    _numbers: Iterator[int] = field(default_factory=count)

    def new(self) -> Path:
        """A path of a file that isn't there yet."""
        return self.folder / f"archive-{next(self._numbers)}.tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One thing to copy."""

    path: Parts
    include: Patterns | None = None


def workdir(state: State, instruction: Instruction, origin: str) -> None:
    """WORKDIR: made where it isn't there, for the stage's user."""
    text = state.scope.word(instruction.words[0])
    if not text.startswith("/"):
        parts = components(_bytes(f"{state.workdir}/{text}"))
        text = "/" + b"/".join(parts).decode("utf-8", "surrogateescape")
    state.workdir = text
    parts = components(_bytes(text))
    if not parts:
        return
    uid, gid = owners.read(state.user, state.root) if state.user else (0, 0)
    pattern = Node(Kind.DIRECTORY, mode=0o755, uid=uid, gid=gid, origin=origin)
    make_directories(state.root, resolve(state.root, parts), pattern)


def copy(
    state: State, instruction: Instruction, source: Origin, origin: str, scratch: Scratch
) -> None:
    """COPY and ADD; raises Refused, and ImageError for archives."""
    scope = state.scope
    chown, chmod = (scope.word(instruction.flag(name) or "") for name in ("chown", "chmod"))
    linked = _switch(instruction, "link") and not chmod
    if linked and owners.names(chown):
        raise Refused("--link knows no names of users and groups", hint="give --chown as numbers")
    target = new_root() if linked else state.root
    copied = Copied()
    items = _items(source, instruction, scope)
    inline = _heredocs(instruction, scope)
    job = _Job(
        target=target,
        destination=Destination.read(
            _bytes(scope.word(instruction.words[-1])), _bytes(state.workdir)
        ),
        owner=owners.read(chown, state.root) if chown else None,
        mode=modes.parse(chmod) if chmod else None,
        origin=origin,
        alone=len(items) + len(inline) == 1,
        copied=copied,
    )
    _copy_items(job, source, instruction, items, scratch)
    _copy_inline(job, inline)
    if linked:
        linking.lay_over(target, state.root, copied)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Where files go, and with what attributes."""

    target: Node
    destination: Destination
    owner: Owner | None
    mode: Mode | None
    origin: str
    alone: bool
    copied: Copied

    def attributes(self, default: Owner | None) -> Attributes:
        """``default`` owns what --chown gives to nobody; None: as the source has it."""
        return Attributes(
            owner=self.owner or default,
            parent_owner=self.owner or (0, 0),
            mode=self.mode,
            origin=self.origin,
        )


def _copy_items(
    job: _Job, source: Origin, instruction: Instruction, items: list[_Item], scratch: Scratch
) -> None:
    excluded = [value for name, value in instruction.flags if name == "exclude"]
    copier = Copier(
        source.root,
        job.target,
        job.attributes((0, 0) if source.context else None),
        exclude=Patterns(excluded),
        copied=job.copied,
    )
    unpacks = _switch(instruction, "unpack", default=instruction.keyword == "ADD")
    for item in items:
        archive = _archive(source.root, item.path) if unpacks else None
        if archive is None:
            copier.copy(item.path, job.destination, include=item.include, alone=job.alone)
            continue
        # Neither --chmod nor --exclude is for what is unpacked.
        copier.make(job.destination.parts, mode=0o755)
        job.copied.on_the_way |= archives.unpack(
            archive,
            job.target,
            resolve(job.target, job.destination.parts),
            job.attributes(None),
            label=b"/".join(item.path).decode("utf-8", "backslashreplace"),
            scratch=scratch.new(),
        )


def _copy_inline(job: _Job, inline: list[tuple[bytes, bytes]]) -> None:
    for name, content in inline:
        root = new_root()
        region = Region.of_bytes(content)
        file = Node(Kind.FILE, mode=0o644, size=region.size, source=region.source)
        children(root, ())[name] = file
        copier = Copier(root, job.target, job.attributes((0, 0)), copied=job.copied)
        copier.copy((name,), job.destination, alone=job.alone)


def _items(source: Origin, instruction: Instruction, scope: Scope) -> list[_Item]:
    """All that an instruction copies but heredocs."""
    words = instruction.words[:-1]
    texts = [scope.word(word) for word in words if not _is_heredoc(instruction, word)]
    _check_local(instruction, texts)
    if _switch(instruction, "parents"):
        return [item for text in texts for item in _with_parents(source, text)]
    paths = [path for text in texts for path in matches(source.root, _bytes(text))]
    return [_Item(path=path) for path in paths]


def _with_parents(source: Origin, text: str) -> list[_Item]:
    """What a source of COPY --parents means: what stands after ``/./`` keeps its directories."""
    root = source.root
    before, pivot, pattern = text.partition("/./")
    if not pivot:
        before, pattern = "/", text
    below = b"/".join(components(_bytes(pattern)))
    if not below:
        raise Refused(f"--parents needs a path in {text!r}, not only a directory")
    if not has_wildcards(before + pattern):
        whole = tuple(components(_bytes(f"{before}/{pattern}")))
        # Not through symlinks, which the search for the pattern doesn't follow either.
        if node_at(root, whole) is None:
            raise not_there(whole)
    include = Patterns([below.decode("utf-8", "surrogateescape")])
    paths = matches(root, _bytes(before))
    if not has_wildcards(before) and not _is_directory(root, paths[0]):
        raise Refused(f"{before} is not a directory")
    if source.context:
        # BuildKit is sent only what can match, which a file is not that has nothing in it.
        paths = [path for path in paths if _is_directory(root, path)]
    return [_Item(path=path, include=include) for path in paths]


def _is_directory(root: Node, path: Parts) -> bool:
    node = node_at(root, resolve(root, path))
    return node is not None and node.kind is Kind.DIRECTORY


def _archive(root: Node, path: Parts) -> Node | None:
    """The file at a path if it is one that ADD unpacks."""
    node = node_at(root, resolve(root, path))
    if node is None or node.kind is not Kind.FILE:
        return None
    return node if archives.is_archive(node) else None


def _heredocs(instruction: Instruction, scope: Scope) -> list[tuple[bytes, bytes]]:
    """Names and contents of the files that stand in the Dockerfile."""
    found = []
    for heredoc in instruction.heredocs:
        content = scope.heredoc(heredoc.content) if heredoc.expand else heredoc.content
        name = _bytes(heredoc.name).lstrip(b"/")
        if b"/" in name or name in (b"", b".", b".."):
            raise Refused(f"no file can have the name {heredoc.name!r}")
        found.append((name, _bytes(content)))
    return found


def _is_heredoc(instruction: Instruction, word: str) -> bool:
    return instruction.exec_form is None and heredocs.marker(word) is not None


def _check_local(instruction: Instruction, texts: list[str]) -> None:
    """Refuse sources that are not in the context, or a checksum of what is."""
    for text in texts:
        if not _REMOTE.match(text):
            continue
        if instruction.keyword == "COPY":
            raise Refused(f"{text} is no file", hint="ADD takes URLs")
        raise Refused(
            f"ADD of {text} needs an engine with a network",
            hint="put the file into the repository, or build with an engine and "
            "`[build] network = true`",
            unsupported=True,
        )
    if instruction.flag("checksum"):
        raise Refused("--checksum is for URLs only")


def _switch(instruction: Instruction, name: str, *, default: bool = False) -> bool:
    value = instruction.flag(name)
    return default if value is None else value != "false"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

"""COPY, ADD and WORKDIR: the instructions that change a stage's tree.

Source of the rules: BuildKit's dockerfile2llb/convert_copy.go and convert.go (dispatchWorkdir).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Final

from cagebuild.dockerfile import heredocs
from cagebuild.embedded import archives, linking, modes, owners
from cagebuild.embedded.copying import Attributes, Copier, Destination, matches, not_there
from cagebuild.embedded.patterns import Patterns, has_wildcards
from cagebuild.embedded.places import Parts, children, make_directories, node_at, resolve
from cagebuild.embedded.refused import Refused
from cagebuild.image.layers import components
from cagebuild.image.tree import Kind, Node, Region, new_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cagebuild.dockerfile.model import Instruction
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
    owner = owners.read(chown, state.root) if chown else None
    attributes = Attributes(
        owner=owner or ((0, 0) if source.context else None),
        parent_owner=owner or (0, 0),
        mode=modes.parse(chmod) if chmod else None,
        origin=origin,
    )
    target = new_root() if linked else state.root
    inline = _heredocs(state, instruction)
    *words, last = instruction.words
    texts = [scope.word(word) for word in words if not _is_heredoc(instruction, word)]
    destination = Destination.read(_bytes(scope.word(last)), _bytes(state.workdir))
    _check_local(instruction, texts)
    parents = _switch(instruction, "parents")
    items = [item for text in texts for item in _items(source, text, parents=parents)]
    copier = Copier(
        source.root,
        target,
        attributes,
        exclude=Patterns([value for name, value in instruction.flags if name == "exclude"]),
    )
    alone = len(items) + len(inline) == 1
    unpacks = _switch(instruction, "unpack", default=instruction.keyword == "ADD")
    for item in items:
        archive = _archive(source.root, item.path) if unpacks else None
        if archive is None:
            copier.copy(item.path, destination, include=item.include, alone=alone)
            continue
        copier.make(destination.parts, mode=0o755)
        archives.unpack(
            archive,
            target,
            resolve(target, destination.parts),
            replace(attributes, owner=owner),
            label=b"/".join(item.path).decode("utf-8", "backslashreplace"),
            scratch=scratch.new(),
        )
    for name, content in inline:
        root = new_root()
        region = Region.of_bytes(content)
        file = Node(Kind.FILE, mode=0o644, size=region.size, source=region.source)
        children(root, ())[name] = file
        given = replace(attributes, owner=owner or (0, 0))
        one = Copier(root, target, given, copied=copier.copied)
        one.copy((name,), destination, alone=alone)
    if linked:
        linking.lay_over(target, state.root, copier.copied)


def _items(source: Origin, text: str, *, parents: bool) -> list[_Item]:
    """What one source means."""
    root = source.root
    if not parents:
        return [_Item(path=path) for path in matches(root, _bytes(text))]
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


def _heredocs(state: State, instruction: Instruction) -> list[tuple[bytes, bytes]]:
    """Names and contents of the files that stand in the Dockerfile."""
    found = []
    for heredoc in instruction.heredocs:
        content = state.scope.heredoc(heredoc.content) if heredoc.expand else heredoc.content
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

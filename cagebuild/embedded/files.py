"""COPY, ADD and WORKDIR: the instructions that change a stage's tree.

Source of the rules: BuildKit's dockerfile2llb/convert_copy.go and convert.go (dispatchWorkdir).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Final

from cagebuild.embedded import archives, linking, modes, owners
from cagebuild.embedded.copying import Attributes, Copier, Destination, matches, not_there
from cagebuild.embedded.patterns import Patterns, has_wildcards
from cagebuild.embedded.places import Parts, make_directories, node_at, resolve
from cagebuild.embedded.refused import Refused
from cagebuild.image.layers import components
from cagebuild.image.tree import Kind, Node, Region, new_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cagebuild.dockerfile.model import Instruction
    from cagebuild.embedded.state import State

_HEREDOC: Final = re.compile(r"\d*<<-?\s*[^<]*")
_REMOTE: Final = re.compile(r"(https?|git|ssh)://|[A-Za-z0-9_-]+@[A-Za-z0-9.-]+:")
_FLAGS: Final = {
    "COPY": frozenset({"from", "chown", "chmod", "link", "parents", "exclude"}),
    "ADD": frozenset({"chown", "chmod", "link", "keep-git-dir", "checksum", "unpack", "exclude"}),
}
_SWITCH: Final = {"": True, "true": True, "false": False}


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
    _check_flags(instruction)
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
    heredocs = _heredocs(state, instruction)
    *words, last = instruction.words
    texts = [scope.word(text) for text in words if not _HEREDOC.fullmatch(text)]
    destination = Destination.read(_bytes(scope.word(last)), _bytes(state.workdir))
    _check_local(instruction, texts)
    parents = _switch(instruction, "parents")
    items = [item for text in texts for item in _items(source.root, text, parents=parents)]
    copier = Copier(
        source.root,
        target,
        attributes,
        exclude=Patterns([value for name, value in instruction.flags if name == "exclude"]),
    )
    alone = len(items) + len(heredocs) == 1
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
    inline = replace(attributes, owner=owner or (0, 0))
    for name, content in heredocs:
        root = new_root()
        region = Region.of_bytes(content)
        (root.children or {})[name] = Node(
            Kind.FILE, mode=0o644, size=region.size, source=region.source
        )
        one = Copier(root, target, inline, copied=copier.copied)
        one.copy((name,), destination, alone=alone)
    if linked:
        linking.lay_over(target, state.root, copier.copied)


def _items(root: Node, text: str, *, parents: bool) -> list[_Item]:
    """What one source means."""
    if not parents:
        return [_Item(path=path) for path in matches(root, _bytes(text))]
    before, pivot, pattern = text.partition("/./")
    if not pivot:
        before, pattern = "/", text
    whole = components(_bytes(f"{before}/{pattern}"))
    if not has_wildcards(before + pattern) and node_at(root, resolve(root, whole)) is None:
        raise not_there(whole)
    below = b"/".join(components(_bytes(pattern))).decode("utf-8", "surrogateescape")
    include = Patterns([below])
    return [_Item(path=path, include=include) for path in matches(root, _bytes(before))]


def _archive(root: Node, path: Parts) -> Node | None:
    """The file at a path if it is one that ADD unpacks."""
    node = node_at(root, resolve(root, path))
    if node is None or node.kind is not Kind.FILE:
        return None
    return node if archives.is_archive(node) else None


def _heredocs(state: State, instruction: Instruction) -> list[tuple[bytes, bytes]]:
    """Names and contents of the files that stand in the Dockerfile."""
    marked = [word for word in instruction.words[:-1] if _HEREDOC.fullmatch(word)]
    if len(marked) != len(instruction.heredocs):
        raise Refused("a heredoc can only be a source")
    found = []
    for heredoc in instruction.heredocs:
        content = state.scope.heredoc(heredoc.content) if heredoc.expand else heredoc.content
        name = _bytes(heredoc.name).lstrip(b"/")
        if b"/" in name or name in (b"", b".", b".."):
            raise Refused(f"no file can have the name {heredoc.name!r}")
        found.append((name, _bytes(content)))
    return found


def _check_flags(instruction: Instruction) -> None:
    for name, _ in instruction.flags:
        if name not in _FLAGS[instruction.keyword]:
            raise Refused(f"{instruction.keyword} has no --{name}")
    if len(instruction.words) < 2:
        raise Refused(f"{instruction.keyword} needs a source and a destination")


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
    if value is None:
        return default
    if value.lower() not in _SWITCH:
        raise Refused(f"--{name}={value} is neither true nor false")
    return _SWITCH[value.lower()]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

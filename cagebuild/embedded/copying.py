"""COPY on trees: what lands where, with which owner and mode.

A source is copied as ``cp -a`` would: a directory's contents go into the destination, symlinks in
it stay symlinks, hard links stay hard links. Directories that are there already are filled, and
get the attributes of the source's unless they are the destination itself. Source of the rules:
tonistiigi/fsutil copy (Copy) with BuildKit's solver/llbsolver/file (docopy).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

from cagebuild.embedded.patterns import Patterns, glob, has_wildcards
from cagebuild.embedded.places import (
    Parts,
    check_name,
    children,
    make_directories,
    node_at,
    resolve,
    twin,
)
from cagebuild.embedded.refused import Refused, shown
from cagebuild.image.layers import components
from cagebuild.image.tree import Kind, Node, release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.dockerfile.globs import Glob
    from cagebuild.embedded.modes import Mode
    from cagebuild.embedded.owners import Owner
    from cagebuild.embedded.patterns import Matched


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What an instruction gives to the nodes that it brings."""

    owner: Owner | None
    """None: as the source has it."""
    parent_owner: Owner
    """Of directories that are made on the way."""
    mode: Mode | None
    origin: str

    def put_on(self, node: Node, source: Node) -> None:
        """Give a node what its source has, or the instruction says instead."""
        node.uid, node.gid = self.owner or (source.uid, source.gid)
        node.mode = source.mode
        if self.mode is not None and source.kind is not Kind.SYMLINK:
            node.mode = self.mode.apply(source.mode, directory=source.kind is Kind.DIRECTORY)
        node.origin = self.origin
        if node.xattrs != source.xattrs:
            node.xattrs = source.xattrs

    def parent(self) -> Node:
        """A directory on the way."""
        mode = 0o755 if self.mode is None else self.mode.for_parents
        uid, gid = self.parent_owner
        return Node(Kind.DIRECTORY, mode=mode, uid=uid, gid=gid, origin=self.origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where an instruction copies to: an absolute path."""

    parts: Parts
    folder: bool
    """It ended in a slash: it is a directory, or becomes one."""

    @classmethod
    def read(cls, text: bytes, workdir: bytes) -> Destination:
        """A destination as written, relative to ``workdir``."""
        absolute = text.startswith(b"/")
        return cls(
            parts=tuple(components(text if absolute else workdir + b"/" + text)),
            folder=text in (b"", b".") or text.endswith((b"/", b"/.")),
        )


@dataclass(slots=True, kw_only=True)
class Copied:
    """What became of the nodes that an instruction made; see ``linking``."""

    on_the_way: set[Node] = field(default_factory=set)
    """Directories that were made to hold something."""
    named: set[Node] = field(default_factory=set)
    """Files that have the destination's own name."""


def matches(root: Node, source: bytes) -> list[Parts]:
    """The paths that a source means: itself, or those that its pattern matches, sorted.

    None at all is no mistake. Raises Refused.
    """
    parts = components(source)
    texts = [part.decode("utf-8", "surrogateescape") for part in parts]
    first = next((at for at, text in enumerate(texts) if has_wildcards(text)), None)
    if first is None:
        return [tuple(parts)]
    start = resolve(root, parts[:first])
    top = node_at(root, start)
    if top is None:
        raise not_there(parts[:first])
    pattern = glob("/".join(texts[first:]))
    return [(*start, *path) for path in _matching(top, pattern)]


def _matching(top: Node, pattern: Glob) -> Iterator[Parts]:
    """Paths below a directory that match; not what is in a directory that does."""
    pending: list[tuple[Parts, Iterator[tuple[bytes, Node]]]] = [((), _sorted(top))]
    while pending:
        before, entries = pending[-1]
        for name, node in entries:
            path = (*before, name)
            if pattern.matches(b"/".join(path).decode("utf-8", "surrogateescape")):
                yield path
            elif node.children:
                pending.append((path, _sorted(node)))
                break
        else:
            pending.pop()


def _sorted(node: Node) -> Iterator[tuple[bytes, Node]]:
    return iter(sorted((node.children or {}).items(), key=itemgetter(0)))


def not_there(parts: Parts | list[bytes]) -> Refused:
    """The error for a source that is missing."""
    return Refused(
        f"{shown(b'/'.join(parts))} is not there",
        hint="is it in the build context, tracked by git, and not in .dockerignore?",
    )


@dataclass(slots=True)
class _Folder:
    """A directory that is being copied."""

    source: Node
    entries: Iterator[tuple[bytes, Node]]
    path: bytes
    """Below the source that was named."""
    name: bytes
    target: Node | None
    """None as long as nothing of it is wanted."""
    include: Matched
    exclude: Matched


class Copier:
    """Copies sources of one tree to places of another."""

    def __init__(
        self,
        source: Node,
        target: Node,
        attributes: Attributes,
        *,
        copied: Copied,
        exclude: Patterns | None = None,
    ) -> None:
        """``exclude`` is for what is in directories, not for what is named itself."""
        self._source = source
        self._target = target
        self._attributes = attributes
        self._include: Patterns | None = None
        self._exclude = exclude
        self._inodes: dict[Node, Node] = {}
        self._copied = copied

    def copy(
        self,
        path: Parts,
        destination: Destination,
        *,
        include: Patterns | None = None,
        alone: bool,
    ) -> None:
        """Copy what is at a path, through symlinks; raises Refused.

        ``include``: of a directory only what matches, and the directories on the way to it.
        ``alone``: nothing else is copied to this destination.
        """
        self._include = include
        self.make(destination.parts if destination.folder else destination.parts[:-1])
        node = node_at(self._source, resolve(self._source, path))
        if node is None:
            raise not_there(path)
        place = resolve(self._target, destination.parts)
        there = node_at(self._target, place)
        self._inodes.clear()
        if node.kind is Kind.DIRECTORY:
            self.make(place)
            self._contents(node, _required(node_at(self._target, place)))
            return
        named = there is None or there.kind is not Kind.DIRECTORY
        if not named:
            place = (*place, path[-1])
        elif not alone:
            raise Refused(
                f"several sources, and the destination {shown(b'/'.join(destination.parts))} is "
                "no directory",
                hint="end the destination with a slash",
            )
        self.make(place[:-1])
        new = self._file(node, _required(node_at(self._target, place[:-1])), place[-1])
        if named:
            self._copied.named.add(new)

    def make(self, parts: Parts, *, mode: int | None = None) -> None:
        """Make the directories of a path that are missing."""
        pattern = self._attributes.parent()
        if mode is not None:
            pattern.mode = mode
        made = make_directories(self._target, resolve(self._target, parts), pattern)
        self._copied.on_the_way.update(made)

    def _contents(self, source: Node, target: Node) -> None:
        """Everything in a directory, as far as patterns want it."""
        opened = [_Folder(source, _sorted(source), b"", b"", target, (), ())]
        while opened:
            folder = opened[-1]
            for name, node in folder.entries:
                path = folder.path + b"/" + name if folder.path else name
                text = path.decode("utf-8", "surrogateescape")
                wanted, include = True, folder.include
                excluded, exclude = False, folder.exclude
                if self._include is not None:
                    wanted, include = self._include.match(text, include)
                if self._exclude is not None:
                    excluded, exclude = self._exclude.match(text, exclude)
                wanted = wanted and not excluded
                if node.kind is not Kind.DIRECTORY:
                    if wanted:
                        self._file(node, self._opened(opened), name)
                    continue
                into = self._directory(node, self._opened(opened), name) if wanted else None
                if excluded and (self._exclude is None or not self._exclude.exceptions):
                    continue
                opened.append(_Folder(node, _sorted(node), path, name, into, include, exclude))
                break
            else:
                opened.pop()

    def _opened(self, opened: list[_Folder]) -> Node:
        """The target of the innermost directory, made now if nothing was wanted of it so far."""
        above = opened[0]
        for folder in opened[1:]:
            if folder.target is None:
                folder.target = self._late(folder, _required(above.target))
            above = folder
        return _required(above.target)

    def _late(self, folder: _Folder, parent: Node) -> Node:
        """A directory that is there only for what is in it: one that exists keeps its owner."""
        existing = children(parent, ()).get(folder.name)
        if existing is None:
            return self._directory(folder.source, parent, folder.name)
        if existing.kind is not Kind.DIRECTORY:
            raise _no_directory(folder.name)
        existing.mode = folder.source.mode
        return existing

    def _directory(self, node: Node, parent: Node, name: bytes) -> Node:
        inside = children(parent, ())
        new = inside.get(name)
        if new is None:
            check_name(name)
            new = inside[name] = twin(node)
        elif new.kind is not Kind.DIRECTORY:
            raise _no_directory(name)
        self._attributes.put_on(new, node)
        self._copied.on_the_way.discard(new)
        return new

    def _file(self, node: Node, parent: Node, name: bytes) -> Node:
        inside = children(parent, ())
        existing = inside.get(name)
        if existing is not None:
            if existing.kind is Kind.DIRECTORY:
                raise Refused(f"a file cannot replace the directory {shown(name)[1:]}")
            release(existing)
        check_name(name)
        new = self._inodes.get(node)
        if new is not None and new.links:
            new.links += 1
        else:
            new = twin(node)
            if node.links > 1 and node.kind is Kind.FILE:
                self._inodes[node] = new
        self._attributes.put_on(new, node)
        inside[name] = new
        return new


def _no_directory(name: bytes) -> Refused:
    return Refused(f"a directory cannot replace {shown(name)[1:]}, which is none")


def _required(node: Node | None) -> Node:
    if node is None:
        raise TypeError("the directory has just been made")
    return node

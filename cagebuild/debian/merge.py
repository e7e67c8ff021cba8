"""Packages' files as one tree, as dpkg would leave them, whatever order they come in.

The order of unpacking decides some of what dpkg does. Here it must not, so links come first: every
symlink of every package is placed, shallow ones before deep ones, then directories and files go
where the links lead. Links are followed inside the tree only, as in a chroot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from cagebuild.debian.relations import RelationSyntaxError, parse_list
from cagebuild.errors import ImageError
from cagebuild.image.tar import read_tar
from cagebuild.image.tree import Kind, Node, Region, new_root

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cagebuild.debian.deb import Deb
    from cagebuild.debian.relations import Relation
    from cagebuild.image.tree import FileSource

MAX_PATH = 4096
MAX_COMPONENT = 255
MAX_LINKS = 40
"""Limits of Linux."""

_FIRST = ("base-files", "base-passwd")
"""Of directories that several packages have, these packages say mode and owner."""

Parts = tuple[bytes, ...]


class Unpacked(NamedTuple):
    """A package, and its uncompressed data.tar opened."""

    deb: Deb
    source: FileSource


class _Item(NamedTuple):
    package: int
    parts: Parts
    node: Node
    link: Parts | None


class _Package(NamedTuple):
    name: str
    version: str
    replaces: tuple[Relation, ...]
    items: list[_Item]


def origin_of(deb: Deb) -> str:
    """What nodes of a package have as their origin: ``package libc6 2.36-9``."""
    return f"package {deb.name} {deb.version}"


def merge(packages: Iterable[Unpacked], links: Iterable[tuple[bytes, bytes, str]]) -> Node:
    """The tree of all packages. ``links`` are (path, target, origin) of symlinks made before them.

    Contents stay in the packages' sources, which must stay open. Raises ImageError: for a package
    that is hostile or malformed, and for two packages that have the same file, unless one Replaces
    the other.
    """
    merger = _Merger(packages)
    for path, target, origin in links:
        node = Node(Kind.SYMLINK, mode=0o777, target=target, origin=origin)
        merger.place_link(_Item(-1, tuple(path.split(b"/")), node, None))
    merger.run()
    return merger.root


class _Merger:
    def __init__(self, packages: Iterable[Unpacked]) -> None:
        self.root = new_root()
        self._owner: dict[Node, int] = {}
        self._declared: set[Node] = set()
        self._followed = 0
        """Links on the way to the directory that was found last."""
        self._packages = [
            _read(number, each) for number, each in enumerate(sorted(packages, key=_rank))
        ]

    def run(self) -> None:
        items = [item for package in self._packages for item in package.items]
        symlinks = [i for i in items if i.link is None and i.node.kind is Kind.SYMLINK]
        for item in sorted(symlinks, key=lambda i: (len(i.parts), i.parts)):
            self.place_link(item)
        directories = [i for i in items if i.link is None and i.node.kind is Kind.DIRECTORY]
        for through_links in (False, True):
            for item in directories:
                self._place_directory(item, through_links)
        for package in self._packages:
            own: dict[Parts, Node] = {}
            for item in package.items:
                if item.link is not None:
                    self._place_hard_link(item, own)
                elif item.node.kind is Kind.FILE:
                    own[item.parts] = item.node
                    self._place(item)

    # Placing

    def place_link(self, item: _Item) -> None:
        """Several packages may have the same link."""
        parent = self._directory(item, item.parts[:-1])
        existing = _children(parent).get(item.parts[-1])
        if existing is None or existing.target != item.node.target:
            self._place(item)

    def _place_directory(self, item: _Item, through_links: bool) -> None:
        """Make a directory. The first entry for it says its attributes, if it can be one that
        leads there without a link."""
        node = self._directory(item, item.parts)
        if bool(self._followed) != through_links or node in self._declared or node is self.root:
            return
        self._declared.add(node)
        new = item.node
        node.mode, node.uid, node.gid, node.mtime = new.mode, new.uid, new.gid, new.mtime
        node.origin = new.origin

    def _place_hard_link(self, item: _Item, own: dict[Parts, Node]) -> None:
        node = own.get(item.link or ())
        if node is None:
            self._fail(item, "it is a hard link to what its package does not have before it")
        own[item.parts] = node
        if self._place(item._replace(node=node)):
            node.links += 1

    def _place(self, item: _Item) -> bool:
        """Put a node at its place, unless another package's file replaces it."""
        parent = self._directory(item, item.parts[:-1])
        children = _children(parent)
        existing = children.get(item.parts[-1])
        if existing is not None:
            if existing.kind is Kind.DIRECTORY:
                self._fail(item, "there is a directory at its place")
            if not self._replaces(item, existing):
                if item.link is None:
                    # Its other names count it up again.
                    item.node.links = 0
                return False
            existing.links -= 1
        children[item.parts[-1]] = item.node
        self._owner[item.node] = item.package
        return True

    def _replaces(self, item: _Item, existing: Node) -> bool:
        """Which of two packages' files stays: that of the one that Replaces the other."""
        other = self._owner.get(existing, -1)
        if other == item.package:
            self._fail(item, "its package has it twice")
        if other < 0:
            self._fail(item, f"there is a link to {_shown(existing.target)} that the base needs")
        mine, theirs = self._packages[item.package], self._packages[other]
        wins, loses = _does_replace(mine, theirs), _does_replace(theirs, mine)
        if wins == loses:
            self._fail(item, f"{theirs.name} {theirs.version} has it too")
        return wins

    # Finding

    def _directory(self, item: _Item, parts: Parts) -> Node:
        """The directory at a path, through symlinks; what is missing is made, 0755 0:0."""
        trail = [self.root]
        left = list(reversed(parts))
        self._followed = 0
        while left:
            part = left.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            node = _children(trail[-1]).get(part)
            if node is None:
                node = Node(Kind.DIRECTORY, mode=0o755, origin=item.node.origin)
                _children(trail[-1])[part] = node
            if node.kind is Kind.DIRECTORY:
                trail.append(node)
                continue
            self._followed += 1
            if node.kind is not Kind.SYMLINK or self._followed > MAX_LINKS:
                self._fail(item, f"it leads through {_shown(part)}, which is no directory")
            if node.target.startswith(b"/"):
                trail = [self.root]
            left.extend(reversed(node.target.split(b"/")))
        return trail[-1]

    def _fail(self, item: _Item, reason: str) -> NoReturn:
        package = self._packages[item.package]
        _fail(f"{package.name} {package.version}", item.parts, reason)


def _rank(package: Unpacked) -> tuple[bool, bool, str]:
    name = package.deb.name
    return name != _FIRST[0], name != _FIRST[1], name


def _does_replace(one: _Package, other: _Package) -> bool:
    return any(r.name == other.name and r.accepts(other.version) for r in one.replaces)


def _read(number: int, package: Unpacked) -> _Package:
    deb = package.deb
    size = deb.data.stat().st_size
    region = Region(package.source, 0, size)
    items = []
    for entry in read_tar(region, str(deb), origin=origin_of(deb)):
        parts = _parts(str(deb), entry.name)
        if not parts:
            if entry.node.kind is not Kind.DIRECTORY:
                _fail(str(deb), parts, "the root is not a directory")
            continue
        if entry.node.kind not in (Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK):
            _fail(str(deb), parts, "it is a device or a pipe, which no package may have")
        link = None if entry.link is None else _parts(str(deb), entry.link)
        items.append(_Item(number, parts, entry.node, link))
    try:
        replaces = parse_list(deb.fields.get("Replaces", ""))
    except RelationSyntaxError as error:
        raise ImageError(f"{deb}: {error}") from None
    return _Package(deb.name, deb.version, replaces, items)


def _parts(label: str, name: bytes) -> Parts:
    """The components of a name as dpkg-deb writes it, ``./usr/bin/`` or ``usr/bin``."""
    if name in (b".", b"./"):
        return ()
    parts = tuple(name.removeprefix(b"./").removesuffix(b"/").split(b"/"))
    if any(part in (b"", b".", b"..") for part in parts):
        _fail(label, (name,), "its name is absolute, or has an empty, '.' or '..' component")
    if len(name) > MAX_PATH or any(len(part) > MAX_COMPONENT for part in parts):
        _fail(label, parts, "its name is longer than Linux allows")
    return parts


def _fail(package: str, parts: Parts, reason: str) -> NoReturn:
    raise ImageError(
        f"{package}: {_shown(b'/'.join(parts))}: {reason}",
        hint="the package is damaged or hostile, or does not go together with the others",
    )


def _children(node: Node) -> dict[bytes, Node]:
    if node.children is None:
        raise AssertionError("not a directory")
    return node.children


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")[:200]

"""Layers to one tree, as Docker unpacks and mounts them.

Each layer is unpacked into a tree of its own, then laid over those below, as overlayfs does. What
Docker refuses is refused here, and so is what its two stores make different things of:

- a name twice in a layer, or two names that land at one place;
- a hard link to what the layer doesn't have, or has only later;
- an entry through a symlink that leads to nothing in its layer, or through what is no directory;
- an entry that would remove others of its own layer;
- a whiteout of a name that its layer has before it;
- a directory that follows its own whiteout, where lower layers have that directory too: OCI hides
  what they have in it, overlayfs shows it.

Source: moby pkg/archive (Unpack, createTarFile, overlayWhiteoutConverter), OCI image-spec layer.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from cagebuild.digest import Digest
from cagebuild.errors import ImageError
from cagebuild.image.tar import MAX_ENTRIES, Entry, read_tar
from cagebuild.image.tarfields import shown
from cagebuild.image.tree import Kind, Node, Region, new_root, release, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_PATH = 4096
MAX_COMPONENT = 255
MAX_SYMLINKS = 40
"""Limits of Linux."""

_WHITEOUT_PREFIX = b".wh."
_OPAQUE = b".wh..wh..opq"
_WHITEOUT = Node(Kind.CHARACTER, mode=0)
"""Stands for what a ``.wh.`` entry hides; an entry of the same layer may take its place."""
_DEVICE = Node(Kind.CHARACTER, mode=0)
"""The same for an entry that is a character device 0:0 itself."""
_NOT_NAMES = (b"", b".", b"..")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """An uncompressed layer: where its bytes are and what to call it."""

    region: Region
    name: str
    """Names it in errors: ``layer sha256:…``."""
    origin: str | Callable[[bytes], str]
    """What its nodes get as origin, or a function of the cleaned path in the archive."""


def flatten(
    layers: Iterable[Layer],
    *,
    implied_time: int = 0,
    implied: set[Node] | None = None,
    max_entries: int = MAX_ENTRIES,
    keep_unchanged: bool = False,
) -> Node:
    """The tree that the layers, lowest first, make together.

    A directory that a layer puts something into without having an entry for it keeps what a lower
    layer says of it, or is made 0755 0:0. It has no time of its own (Docker gives it that of
    unpacking), so it gets ``implied_time``; it is added to ``implied`` if that is given. The root's
    own entry and its opaque mark do nothing. Raises ImageError with layer, entry and offset.

    ``keep_unchanged``: a name of a file with several names, which a layer has as it is below, is no
    part of that layer. A new name for a file of a lower layer makes overlayfs copy the file up; of
    the tools that write layers some then tell of both names and a link, others of one new file.
    """
    root = new_root()
    without_time: set[Node] = set()
    for layer in layers:
        unpacked = _Unpacked(layer, root, implied_time, max_entries)
        unpacked.unpack()
        _Merge(unpacked, without_time, implied_time, keep_unchanged).into(root)
        max_entries -= unpacked.count
    if implied is not None:
        implied |= without_time
    return root


def set_times(root: Node, epoch: int) -> None:
    """Give every entry, and the root, the one time stamp of the build (seconds since 1970)."""
    root.mtime = epoch
    for _, node in walk(root):
        node.mtime = epoch


def components(name: bytes) -> list[bytes]:
    """A name cleaned of ``./``, ``//``, leading slashes and ``..``, never above the root."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


class _Unpacked:
    """One layer as a tree of its own, with whiteouts in it."""

    def __init__(self, layer: Layer, below: Node, implied_time: int, max_entries: int) -> None:
        self.layer = layer
        self.root = new_root()
        self.count = 0
        self.implied: set[Node] = set()
        self.opaque: set[Node] = set()
        self.revived: dict[Node, bytes] = {}
        """Directories that followed their own whiteout, with their names in the archive."""
        self.whiteouts = False
        self._below = below
        self._implied_time = implied_time
        self._max_entries = max_entries
        self._parents: dict[bytes, Node] = {b"": self.root}
        self._entry = Entry(b"", _WHITEOUT, None, 0)

    def unpack(self) -> None:
        layer = self.layer
        entries = read_tar(
            layer.region, layer.name, apply_globals=False, max_entries=self._max_entries
        )
        for entry in entries:
            self._entry = entry
            self._add(entry)
        self._parents.clear()

    def fail(self, reason: str, hint: str = "") -> NoReturn:
        name = shown(self._entry.name)
        raise ImageError(
            f"{self.layer.name}: entry {name} at offset {self._entry.offset}: {reason}",
            hint=hint
            or "Docker refuses such a layer, or its stores disagree on it; rebuild the image",
        )

    # Placing entries

    def _add(self, entry: Entry) -> None:
        parent_name, _, base = entry.name.rstrip(b"/").rpartition(b"/")
        parent = self._parents.get(parent_name)
        if parent is None or base in _NOT_NAMES:
            parts = components(entry.name)
            if not parts:
                if entry.node.kind is not Kind.DIRECTORY or entry.link is not None:
                    self.fail("the root is not a directory")
                return
            last = parts.pop()
            parent = self._directory(parts)
            if last == base:
                self._parents[parent_name] = parent
            base = last
        if len(base) > MAX_COMPONENT or len(entry.name) > MAX_PATH:
            self.fail("the name is longer than Linux allows")
        if base.startswith(_WHITEOUT_PREFIX):
            self._hide(parent, base)
            return
        node = entry.node
        node.origin = self._origin(entry.name)
        if entry.link is not None:
            node = self._linked(entry.link, node)
        elif node.kind is Kind.SYMLINK:
            self._check_target(node.target)
        elif node.kind is Kind.CHARACTER and node.rdev == (0, 0):
            node = _DEVICE
            self.whiteouts = True
        self._place(parent, base, node)

    def _origin(self, name: bytes) -> str:
        origin = self.layer.origin
        return origin if isinstance(origin, str) else origin(b"/".join(components(name)))

    def _place(self, parent: Node, base: bytes, node: Node) -> None:
        children = _children(parent)
        existing = children.get(base)
        if existing is None:
            self._counted()
            children[base] = node
        elif existing is _WHITEOUT:
            self._counted()
            children[base] = node
            if node.kind is Kind.DIRECTORY:
                self.revived[node] = self._entry.name
        elif existing not in self.implied:
            self.fail("the layer has two entries for this place")
        elif node.kind is not Kind.DIRECTORY:
            self.fail("it would remove a directory that the same layer puts entries into")
        else:
            copy_attributes(node, existing)
            self.implied.discard(existing)

    def _counted(self) -> None:
        self.count += 1
        if self.count > self._max_entries:
            self.fail(f"the image has more than {self._max_entries} entries")

    def _hide(self, parent: Node, base: bytes) -> None:
        if base == _OPAQUE:
            self.opaque.add(parent)
            return
        hidden = base[len(_WHITEOUT_PREFIX) :]
        if hidden in _NOT_NAMES or hidden.startswith(_WHITEOUT_PREFIX):
            self.fail("it is a whiteout of no possible name")
        children = _children(parent)
        if hidden in children:
            self.fail("it is a whiteout of something that the same layer has before it")
        self.whiteouts = True
        children[hidden] = _WHITEOUT

    def _linked(self, link: bytes, attributes: Node) -> Node:
        """The target of a hard link, which gets the attributes of the link's own entry."""
        parts = components(link)
        target = self._directory(parts[:-1], make=False) if parts else None
        found = target.children.get(parts[-1]) if target is not None and target.children else None
        if found is None or found is _WHITEOUT or found is _DEVICE:
            lower = bool(parts) and find(self._below, parts) is not None
            place = "only a lower layer has" if lower else "the layer doesn't have before it"
            self.fail(f"it is a hard link to {shown(link)}, which {place}")
        if found.kind is Kind.DIRECTORY:
            self.fail(f"it is a hard link to the directory {shown(link)}")
        found.uid, found.gid = attributes.uid, attributes.gid
        if found.kind is not Kind.SYMLINK:
            found.mode, found.mtime = attributes.mode, attributes.mtime
        if attributes.xattrs:
            found.xattrs = True
        found.links += 1
        return found

    def _check_target(self, target: bytes) -> None:
        if not target or len(target) >= MAX_PATH:
            self.fail("it is a symlink whose target is empty or longer than Linux allows")

    # Finding directories

    def _directory(self, parts: list[bytes], *, make: bool = True) -> Node:
        """The directory of that cleaned name: through symlinks of this layer, never above its root.

        What is missing is made, but not where a symlink leads.
        """
        place: list[tuple[bytes, Node]] = [(b"", self.root)]
        pending = parts[::-1]
        own = len(pending)
        followed = 0
        while pending:
            through_link = len(pending) > own
            part = pending.pop()
            own = min(own, len(pending))
            if part == b".." and len(place) > 1:
                place.pop()
            if part in _NOT_NAMES:
                continue
            child = self._child(place, part, make=make and not through_link)
            if child.kind is Kind.SYMLINK:
                followed += 1
                if followed > MAX_SYMLINKS:
                    self.fail(f"it is behind more than {MAX_SYMLINKS} symlinks, or a loop of them")
                if child.target.startswith(b"/"):
                    del place[1:]
                pending += child.target.split(b"/")[::-1]
            elif child.kind is Kind.DIRECTORY:
                place.append((part, child))
            else:
                self.fail(f"{shown(part)} on the way to it is not a directory")
        if sum(len(name) + 1 for name, _ in place) > MAX_PATH:
            self.fail("its place has a name longer than Linux allows")
        return place[-1][1]

    def _child(self, place: list[tuple[bytes, Node]], part: bytes, *, make: bool) -> Node:
        children = _children(place[-1][1])
        child = children.get(part)
        if child is not None:
            return child
        if not make:
            self.fail(
                f"{shown(part)} on the way to it, or to what it links to, is not in its layer"
            )
        if len(part) > MAX_COMPONENT or part.startswith(_WHITEOUT_PREFIX):
            self.fail(f"no directory can have the name {shown(part)}")
        path = b"/".join([*(name for name, _ in place[1:]), part])
        child = Node(
            Kind.DIRECTORY, mode=0o755, mtime=self._implied_time, origin=self._origin(path)
        )
        self._counted()
        self.implied.add(child)
        children[part] = child
        return child


class _Merge:
    """Laying an unpacked layer over the tree below it."""

    def __init__(
        self, upper: _Unpacked, implied: set[Node], implied_time: int, keep_unchanged: bool
    ) -> None:
        self._upper = upper
        self._implied = implied
        self._implied_time = implied_time
        self._keep_unchanged = keep_unchanged

    def into(self, root: Node) -> None:
        implied = self._upper.implied
        self._implied |= implied
        pending = [(root, _children(self._upper.root))]
        while pending:
            lower, children = pending.pop()
            below = _children(lower)
            for name, node in children.items():
                old = below.get(name)
                inner = node.children
                if inner is not None and old is not None and old.kind is Kind.DIRECTORY:
                    self._over(node, old)
                    pending.append((old, inner))
                    continue
                if self._keep_unchanged and old is not None and _is_copy(node, old):
                    node.links -= 1
                    continue
                if old is not None:
                    self._release(old)
                if node is _WHITEOUT or node is _DEVICE:
                    below.pop(name, None)
                    continue
                below[name] = node
                if inner and self._upper.whiteouts:
                    node.children = {}
                    pending.append((node, inner))

    def _over(self, node: Node, old: Node) -> None:
        upper = self._upper
        if node in upper.revived:
            raise ImageError(
                f"{upper.layer.name}: the directory {shown(upper.revived[node])} follows its own "
                "whiteout, and a lower layer has it too",
                hint="its old contents are hidden by OCI's rules and shown by Docker's; "
                "rebuild the image with an opaque directory instead",
            )
        if node in upper.opaque:
            self._release(old)
            old.children = {}
        if node in upper.implied:
            self._implied.discard(node)
            self._implied.add(old)
            old.mtime = self._implied_time
        else:
            self._implied.discard(old)
            copy_attributes(node, old)

    def _release(self, node: Node) -> None:
        self._implied.difference_update(release(node))


def _is_copy(node: Node, old: Node) -> bool:
    """Whether a file with other names, too, is what is there already."""
    return (
        node.kind is old.kind is Kind.FILE
        and node.links > 1
        and _attributes(node) == _attributes(old)
        and Digest.of_chunks(node.read()) == Digest.of_chunks(old.read())
    )


def _attributes(node: Node) -> tuple[int, ...]:
    return node.mode, node.uid, node.gid, node.mtime, node.size


def copy_attributes(source: Node, target: Node) -> None:
    """Give a directory the attributes of another."""
    target.mode, target.uid, target.gid = source.mode, source.uid, source.gid
    target.mtime, target.origin, target.xattrs = source.mtime, source.origin, source.xattrs


def _children(directory: Node) -> dict[bytes, Node]:
    if directory.children is None:
        raise TypeError("not a directory")
    return directory.children


def find(root: Node, parts: list[bytes]) -> Node | None:
    """The node of that name, following no symlinks."""
    node: Node | None = root
    for part in parts:
        node = node.children.get(part) if node is not None and node.children else None
    return node

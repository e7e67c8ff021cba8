"""What the two ramdisks hold, entry by entry, in nitro-cli's layout.

Ramdisk 0 boots; ramdisk 1 is the image below ``rootfs`` and the files ``cmd`` and ``env``. The
rules are those of linuxkit with nitro-cli's patches, which reads `docker export` of a container
that was created from the image (linuxkit/linuxkit: src/cmd/linuxkit/moby/build/image.go;
aws/aws-nitro-enclaves-cli: enclave_build/src/).
"""

from __future__ import annotations

import posixpath
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cagebuild.errors import EifError
from cagebuild.image.tree import Kind, Node, walk
from cagebuild.nitro.cpio import Entry, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LINUXKIT_TIME = 1492533000
"""The time of whatever linuxkit adds itself: 2017-04-18T16:30:00Z."""

HOSTS = b"""\
127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
RESOLV_CONF = b"/run/resolvconf/resolv.conf"
MTAB = b"/proc/mounts"

LAYOUT = "layout"
"""Origin of what linuxkit adds; the next two are those of the boot files and of ``cmd`` and
``env``."""
BOOT = "boot files"
CONFIG = "image config"

_LAST_TIME = (2**63 - 1) // 10**9  # what fits Go's nanoseconds; later times become 0
_TYPES = {
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}
RETIMED = frozenset((b"dev", b"dev/pts", b"dev/shm", b"etc", b"proc", b"sys"))
"""Directories whose times are linuxkit's."""
_DROPPED = frozenset((b".dockerenv", b"Dockerfile", b"dev/console", b"etc/hostname"))
_REPLACED = frozenset((b"etc/hosts", b"etc/mtab", b"etc/resolv.conf"))
_MOUNT_POINTS = (b"dev", b"run", b"sys", b"var", b"proc", b"tmp")

Loss = Literal["xattrs", "mode bits", "dangling hard link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something of the image that the ramdisk's layout cannot hold."""

    loss: Loss
    path: bytes
    """In the image, without a leading slash."""

    def __str__(self) -> str:
        match self.loss:
            case "xattrs":
                said = "its extended attributes (file capabilities too) are lost in the ramdisk"
            case "mode bits":
                said = "mode bits above 07777 are lost in the ramdisk"
            case "dangling hard link":
                said = (
                    "is a hard link to /Dockerfile, which the layout leaves out: "
                    "it becomes a symlink that leads nowhere"
                )
        return f"/{printable(self.path.decode('utf-8', 'backslashreplace'))}: {said}"


@dataclass(slots=True, kw_only=True)
class Warnings:
    """Collects what is lost: the first few of each kind and how many there are."""

    kept: int = 10
    counts: dict[Loss, int] = field(default_factory=dict)
    first: list[Warned] = field(default_factory=list)

    def add(self, loss: Loss, path: bytes) -> None:
        """Count a loss and keep it while there are few of its kind."""
        count = self.counts.get(loss, 0) + 1
        self.counts[loss] = count
        if count <= self.kept:
            self.first.append(Warned(loss=loss, path=path))

    def lines(self) -> tuple[str, ...]:
        """What to print: each kept warning, then how many more there are of each kind."""
        more = [
            f"{count - self.kept} more entries with a loss of this kind: {loss}"
            for loss, count in self.counts.items()
            if count > self.kept
        ]
        return (*map(str, self.first), *more)


def boot_entries(init: Node, nsm: Node | None) -> Iterator[Entry]:
    """Ramdisk 0: ``dev``, ``init`` and, where there is one, ``nsm.ko``."""
    yield _own(b"dev", stat.S_IFDIR | 0o755)
    yield _own(b"init", stat.S_IFREG | 0o755, init, BOOT)
    if nsm is not None:
        yield _own(b"nsm.ko", stat.S_IFREG | 0o755, nsm, BOOT)


def image_entries(
    root: Node, *, cmd: Sequence[str], env: Sequence[str], warnings: Warnings
) -> Iterator[Entry]:
    """Ramdisk 1: ``root`` as ``container.create_container`` left it, then ``cmd`` and ``env``.

    Times are taken from the tree. ``warnings`` is filled on the way. Raises EifError when an item
    of ``cmd`` or ``env`` cannot be written as a line.
    """
    command, environment = lines_file("cmd", cmd), lines_file("env", env)
    yield _own(b"rootfs", stat.S_IFDIR | 0o755)
    yield from _tree_entries(root, warnings)
    yield from _beside_directories(root)
    yield _own(b"rootfs", stat.S_IFDIR | 0o755)
    for name in _MOUNT_POINTS:
        yield _own(b"rootfs/" + name, stat.S_IFDIR | 0o755)
    yield _own(b"cmd", stat.S_IFREG | 0o644, command, CONFIG)
    yield _own(b"env", stat.S_IFREG | 0o644, environment, CONFIG)


def lines_file(name: Literal["cmd", "env"], items: Sequence[str]) -> bytes:
    """One item a line; raises EifError for an item that init would read as two, or not at all."""
    for item in items:
        if "\n" in item or "\0" in item:
            what = "command" if name == "cmd" else "environment"
            raise EifError(
                f"an item of the image's {what} has a line break or NUL byte: {item[:80]!r}",
                hint="the enclave's init reads one item a line; put it into a file of the image",
            )
    return b"".join(item.encode("utf-8", "surrogateescape") + b"\n" for item in items)


def _own(name: bytes, mode: int, content: Node | bytes = b"", origin: str = LAYOUT) -> Entry:
    return Entry(name, mode, 0, 0, LINUXKIT_TIME, content, (0, 0), origin)


def _tree_entries(root: Node, warnings: Warnings) -> Iterator[Entry]:
    first_names: dict[Node, bytes] = {}
    for path, node in walk(root):
        if node.kind is Kind.DIRECTORY:
            _note_losses(path, node, warnings)
            yield _directory(path, node)
            continue
        if path in _REPLACED:
            yield _replacement(path)
            continue
        if node.links > 1:
            first = first_names.setdefault(node, path)
            if first is not path:
                if path not in _DROPPED:
                    if first in _DROPPED:
                        warnings.add("dangling hard link", path)
                    yield _hard_link(path, first, node)
                continue
        if path not in _DROPPED:
            _note_losses(path, node, warnings)
            yield _leaf(path, node)


def _directory(path: bytes, node: Node) -> Entry:
    mtime = LINUXKIT_TIME if path in RETIMED else _time(node)
    mode = stat.S_IFDIR | (node.mode & 0o7777)
    return Entry(b"rootfs/%b/" % path, mode, node.uid, node.gid, mtime, b"", (0, 0), node.origin)


def _leaf(path: bytes, node: Node) -> Entry:
    kind = node.kind
    mode, rdev = node.mode & 0o7777, (0, 0)
    data: Node | bytes = b""
    if kind is Kind.FILE:
        data = node
    elif kind is Kind.SYMLINK:
        mode, data = 0o777, node.target
    elif kind is not Kind.FIFO:
        rdev = node.rdev
    return Entry(
        b"rootfs/" + path,
        _TYPES[kind] | mode,
        node.uid,
        node.gid,
        _time(node),
        data,
        rdev,
        node.origin,
    )


def _time(node: Node) -> int:
    mtime = node.mtime
    return mtime if 0 <= mtime <= _LAST_TIME else 0


def _note_losses(path: bytes, node: Node, warnings: Warnings) -> None:
    if node.xattrs:
        warnings.add("xattrs", path)
    beyond = node.mode & ~0o7777
    if beyond and beyond != _TYPES[node.kind]:
        # Type bits that only repeat the entry's type are no loss.
        warnings.add("mode bits", path)


def _hard_link(path: bytes, first: bytes, node: Node) -> Entry:
    """A further name of an inode: a symlink to the first, with the inode's other attributes."""
    mode = 0o777 if node.kind is Kind.SYMLINK else node.mode & 0o7777
    target = posixpath.relpath(b"/" + first, b"/" + posixpath.dirname(path))
    return Entry(
        b"rootfs/" + path,
        stat.S_IFLNK | mode,
        node.uid,
        node.gid,
        _time(node),
        target,
        (0, 0),
        node.origin,
    )


def _replacement(path: bytes) -> Entry:
    """The three files that linuxkit puts in place of the container's."""
    name = b"rootfs/" + path
    if path == b"etc/hosts":
        return _own(name, stat.S_IFREG | 0o755, HOSTS)
    if path == b"etc/resolv.conf":
        return _own(name, stat.S_IFLNK | 0o755, RESOLV_CONF)
    return _own(name, stat.S_IFLNK | 0o777, MTAB)


def _beside_directories(root: Node) -> Iterator[Entry]:
    """A second entry for each of the replaced names that the image has as a directory."""
    etc = (root.children or {}).get(b"etc")
    made = {
        b"etc/hosts": (stat.S_IFREG | 0o644, HOSTS),
        b"etc/mtab": (stat.S_IFLNK | 0o755, MTAB),
        b"etc/resolv.conf": (stat.S_IFLNK | 0o644, RESOLV_CONF),
    }
    for path, (mode, content) in made.items():
        found = ((etc.children if etc else None) or {}).get(path[4:])
        if found is not None and found.kind is Kind.DIRECTORY:
            yield _own(b"rootfs/" + path, mode, content)

"""What creating a container adds to an image's tree.

nitro-cli exports a container that Docker has created but never started, so the ramdisk holds the
mount points and files that Docker makes at creation (moby/moby: daemon/initlayer/setup_unix.go,
container/container_unix.go).
"""

from __future__ import annotations

import posixpath

from cagebuild.errors import ImageError
from cagebuild.image.tree import Kind, Node

_DIRECTORIES = (b"dev/pts", b"dev/shm", b"proc", b"sys")
_FILES = (b".dockerenv", b"etc/resolv.conf", b"etc/hosts", b"etc/hostname", b"dev/console")
_MTAB = b"etc/mtab"
_MTAB_TARGET = b"/proc/mounts"
_MAX_LINKS = 255
ORIGIN = "container"


def create_container(root: Node, *, workdir: str, epoch: int) -> bool:
    """Change ``root`` as creating a container from its image does.

    ``workdir`` is the image's WORKDIR ('' for none); where it is missing it is made, and what is
    made has the time ``epoch`` (seconds since 1970), as has the directory it is made in. Returns
    whether it had to be. Raises ImageError when the WORKDIR is not a directory or lies behind a
    loop of symlinks.
    """
    for path in _DIRECTORIES:
        _ensure(root, path, Node(Kind.DIRECTORY, mode=0o755, mtime=epoch, origin=ORIGIN))
    for path in _FILES:
        _ensure(root, path, Node(Kind.FILE, mode=0o755, mtime=epoch, origin=ORIGIN))
    mtab = Node(Kind.SYMLINK, mode=0o777, mtime=epoch, target=_MTAB_TARGET, origin=ORIGIN)
    _ensure(root, _MTAB, mtab)
    return _make_workdir(root, workdir, epoch)


def unlink(directory: Node, name: bytes) -> None:
    """Remove a name; other names of the same inode stay."""
    _children(directory).pop(name).links -= 1


def _children(directory: Node) -> dict[bytes, Node]:
    if directory.children is None:
        raise ImageError("the root of an image's tree is not a directory")
    return directory.children


def _ensure(root: Node, path: bytes, made: Node) -> None:
    """Put ``made`` at ``path``. Directories on the way and at the end stay; all else makes room."""
    *parents, last = path.split(b"/")
    directory = root
    for name in parents:
        directory = _directory(directory, name, made.mtime)
    present = _children(directory).get(last)
    if present is not None:
        if present.kind is Kind.DIRECTORY:
            return
        unlink(directory, last)
    _children(directory)[last] = made


def _directory(parent: Node, name: bytes, mtime: int) -> Node:
    present = _children(parent).get(name)
    if present is not None:
        if present.kind is Kind.DIRECTORY:
            return present
        unlink(parent, name)
    made = Node(Kind.DIRECTORY, mode=0o755, mtime=mtime, origin=ORIGIN)
    _children(parent)[name] = made
    return made


def _make_workdir(root: Node, workdir: str, epoch: int) -> bool:
    """Make the directory that ``workdir`` leads to in the image, with those on the way."""
    here = root
    made = False
    for name in resolve(root, workdir):
        found = _children(here).get(name)
        if found is None:
            found = Node(Kind.DIRECTORY, mode=0o755, mtime=epoch, origin=ORIGIN)
            _children(here)[name] = found
            here.mtime = epoch
            made = True
        elif found.kind is not Kind.DIRECTORY:
            raise ImageError(
                f"the image's WORKDIR {workdir!r} is not a directory",
                hint="set another WORKDIR in the image, or remove the file of that name",
            )
        here = found
    return made


def resolve(root: Node, workdir: str) -> list[bytes]:
    """The components of ``workdir`` with symlinks followed; ``..`` never leads above the root."""
    cleaned = posixpath.normpath("/" + workdir)
    waiting = _components(cleaned.encode("utf-8", "surrogateescape"))
    names: list[bytes] = []
    nodes: list[Node | None] = [root]
    links = 0
    while waiting:
        name = waiting.pop()
        if name == b"..":
            if names:
                names.pop()
                nodes.pop()
            continue
        here = nodes[-1]
        found = here.children.get(name) if here is not None and here.children else None
        if found is None or found.kind is not Kind.SYMLINK:
            names.append(name)
            nodes.append(found)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise ImageError(f"the image's WORKDIR {workdir!r} leads through a loop of symlinks")
        if found.target.startswith(b"/"):
            names.clear()
            del nodes[1:]
        waiting.extend(_components(found.target))
    return names


def _components(path: bytes) -> list[bytes]:
    """The path's components, last first."""
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]

"""What engines leave behind in an image for their own sake.

Each mounts files of its own into the container that a RUN runs in, and some leave the mount points
in the layer. An image built by one engine would differ from that of another by them alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cagebuild.image.layers import components
from cagebuild.image.tree import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cagebuild.image.tree import Node

LABEL: Final = "io.buildah.version"
"""What buildah says of itself in an image's config."""

_MOUNT_POINTS: Final = (
    b".dockerenv",
    b"dev/console",
    b"dev/mqueue",
    b"dev/pts",
    b"dev/shm",
    b"dev",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/mtab",
    b"etc/resolv.conf",
    b"etc",
    b"proc",
    b"run/.containerenv",
    b"run/secrets",
    b"run",
    b"sys",
)
"""Where they may be; what is in a folder comes before it."""


class Seen:
    """Which mount points the base image has, or a file that is copied: those stay."""

    def __init__(self, targets: Iterable[bytes] = ()) -> None:
        """``targets``: where the Dockerfile's own RUN mount something, as absolute paths."""
        self._paths: set[bytes] = set()
        own = {
            b"/".join(parts[:length])
            for parts in map(components, targets)
            for length in range(1, len(parts) + 1)
        }
        self.mount_points = (*sorted(own, key=lambda path: -path.count(b"/")), *_MOUNT_POINTS)
        """What is in a folder comes before it."""

    def watching(self, origin: str) -> Callable[[bytes], str]:
        """The origin of a layer's entries, as a function that looks at their paths."""

        def seen(path: bytes) -> str:
            for mount_point in self.mount_points:
                if path == mount_point or path.startswith(mount_point + b"/"):
                    self._paths.add(mount_point)
            return origin

        return seen

    def __contains__(self, path: bytes) -> bool:
        return path in self._paths


def remove(root: Node, seen: Seen) -> None:
    """Take mount points that are empty, and that nobody but a RUN has made, out of a tree."""
    for path in seen.mount_points:
        if path not in seen:
            _remove_if_empty(root, path.split(b"/"))


def _remove_if_empty(root: Node, parts: list[bytes]) -> None:
    here = root
    for part in parts[:-1]:
        found = (here.children or {}).get(part)
        if found is None or found.kind is not Kind.DIRECTORY:
            return
        here = found
    node = (here.children or {}).get(parts[-1])
    if node is None or here.children is None:
        return
    empty = not node.children if node.kind is Kind.DIRECTORY else node.size == 0 and not node.target
    if empty and node.kind in {Kind.DIRECTORY, Kind.FILE}:
        del here.children[parts[-1]]
        node.links -= 1

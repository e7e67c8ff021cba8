"""What engines leave behind in an image for their own sake.

Each mounts files of its own into the container that a RUN runs in, and some leave the mount points
in the layer. An image built by one engine would differ from that of another by them alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cagebuild.image.tree import Node

LABEL: Final = "io.buildah.version"


def remove(root: Node) -> None:
    """Take the leftovers out of a tree."""

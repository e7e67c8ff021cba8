"""The step ``unpack``: a layer's tar out of a blob that may be compressed.

Input: ``layer``. Parameter: ``diff_id``, the SHA-256 of the tar. Output: ``layer.tar``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.errors import ImageError
from cagebuild.image.compression import unpack_to
from cagebuild.image.tree import Region

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Run the step; raises ImageError, also when the tar is not the one that the image names."""
    expected = context.params["diff_id"]
    if not isinstance(expected, str):
        raise TypeError(f"diff_id: {expected!r}")
    wanted = Digest.parse(expected)
    target = context.output("layer.tar")
    layer = Region.of_file(context.inputs["layer"])
    got = unpack_to(layer, target, f"layer {wanted}")
    if got.digest != wanted:
        target.unlink()
        raise ImageError(
            f"a layer's content is not what the image's config says: got {got.digest}, "
            f"expected {wanted}",
            hint="the image is inconsistent: push it again, or use another",
        )

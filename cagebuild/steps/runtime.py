"""Step ``runtime``: what an installer adds to the image, and the init program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.runtime.installer import split_installer

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Split ``installer.tar`` into ``layer.tar`` (all below ``cage/``) and ``init``.

    Raises ImageError for an archive that is not a runtime installer.
    """
    split_installer(
        context.inputs["installer.tar"], context.output("layer.tar"), context.output("init")
    )

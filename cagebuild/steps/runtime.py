"""Step ``runtime``: what an installer adds to the image, and the init program.

Outputs: ``layer.tar``, ``init``, and ``origins.json``, entry → what it was made from.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cagebuild.runtime.installer import INIT, split_installer

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Split ``installer.tar`` into ``layer.tar`` (all below ``cage/``) and ``init``.

    Raises ImageError for an archive that is not a runtime installer.
    """
    manifest = split_installer(
        context.inputs["installer.tar"], context.output("layer.tar"), context.output("init")
    )
    origins = {
        item.path: f"runtime, from {manifest.origins_of(item)[0]}"
        for item in manifest.files
        if item.path != INIT
    }
    context.output("origins.json").write_text(json.dumps(origins, indent=1) + "\n")

"""The step ``boot-debian``: the kernel out of its package.

Input: ``kernel.deb``. Parameter: ``architecture``, ``x86_64`` or ``aarch64``. Output: ``kernel``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.debian.kernel import extract

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Run the step; raises ImageError."""
    match context.params["architecture"]:
        case "x86_64" | "aarch64" as architecture:
            extract(
                context.inputs["kernel.deb"],
                architecture,
                scratch=context.scratch,
                kernel=context.output("kernel"),
            )
        case other:
            raise TypeError(f"architecture: {other!r}")

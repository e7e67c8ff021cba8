"""The step ``eif``: the enclave image file, unsigned, and its measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.steps import enclave

if TYPE_CHECKING:
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Run the step; ``cagebuild.steps.enclave`` says on what. Output too: ``image.eif``."""
    enclave.run(context, context.output("image.eif"))

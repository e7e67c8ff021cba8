"""The step ``installer``: the runtime installer, from what was built and what is a script.

Parameters: ``architecture``; ``origins``, see ``cagebuild.runtime.contents``. Inputs: ``busybox``,
``links``, ``cage-guest``, ``cage-init`` and ``service/<path>`` for each service file.
Output: ``installer.tar``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cagebuild.runtime.contents import Origins, contents
from cagebuild.runtime.installer import write_installer

if TYPE_CHECKING:
    from cagebuild.step import StepContext

SERVICE: Final = "service/"


def run(context: StepContext) -> None:
    """Run the step; raises ImageError."""
    inputs = context.inputs
    write_installer(
        context.output("installer.tar"),
        architecture=str(context.params["architecture"]),
        files=contents(
            busybox=inputs["busybox"],
            links=inputs["links"],
            guest=inputs["cage-guest"],
            init=inputs["cage-init"],
            services={
                name.removeprefix(SERVICE): path
                for name, path in inputs.items()
                if name.startswith(SERVICE)
            },
            origins=Origins.from_json(context.params["origins"]),
        ),
    )

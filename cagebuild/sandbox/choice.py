"""Which sandbox a machine has."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from cagebuild.errors import UsageError
from cagebuild.process import first_available
from cagebuild.sandbox.container import ContainerEngine
from cagebuild.sandbox.namespaces import Namespaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from cagebuild.sandbox.job import Sandbox

KINDS: Final[dict[str, Callable[[], ContainerEngine | Namespaces]]] = {
    "docker": lambda: ContainerEngine("docker"),
    "podman": lambda: ContainerEngine("podman"),
    "namespaces": Namespaces,
}
"""In the order in which they are tried."""


def choose(wanted: str | None, *, needed_for: str) -> Sandbox:
    """The sandbox that ``wanted`` names, or the first that works.

    Raises UsageError for a name that is none, and ToolMissingError with the reason for each.
    """
    if wanted is not None and wanted not in KINDS:
        raise UsageError(
            f"CAGEBUILD_SANDBOX is {wanted[:40]!r}", hint=f"expected one of: {', '.join(KINDS)}"
        )
    if not sys.platform.startswith("linux") and wanted is None:
        tried = [name for name in KINDS if name != "namespaces"]
    else:
        tried = [wanted] if wanted else list(KINDS)
    return first_available(
        (KINDS[name]() for name in tried),
        needed=f"{needed_for} needs a sandbox, and there is none to be had",
        hint="install Docker or Podman (Debian, Ubuntu: apt-get install podman), or run it as root",
    )

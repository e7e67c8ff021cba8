"""The kinds of steps: the code of each is a module here with ``run(context)``, imported late."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from cagebuild.step import StepFunction

KINDS = {
    "app-layer": "app_layer",
    "boot-debian": "boot_debian",
    "debian-base": "debian_base",
    "dockerfile": "dockerfile",
    "eif": "eif",
    "fetch": "fetch",
    "go-toolchain": "go_toolchain",
    "image": "image",
    "import": "import_image",
    "measure": "measure",
    "runtime": "runtime",
    "installer": "installer",
    "unpack": "unpack",
}
"""Module of each kind."""


def load(kind: str) -> StepFunction:
    """The function behind a kind of step; KeyError for an unknown kind."""
    return cast("StepFunction", import_module(f"{__name__}.{KINDS[kind]}").run)

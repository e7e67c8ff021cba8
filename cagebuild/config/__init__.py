"""The only reader of TOML and of the environment: files in, frozen values out."""

from __future__ import annotations

from cagebuild.config.edit import set_value
from cagebuild.config.loader import (
    address_of,
    check_names,
    declared_name,
    is_cage_file,
    load,
    load_all,
    load_workspace,
)
from cagebuild.config.validated import MarkerFiles, ValidationCache

__all__ = [
    "MarkerFiles",
    "ValidationCache",
    "address_of",
    "check_names",
    "declared_name",
    "is_cage_file",
    "load",
    "load_all",
    "load_workspace",
    "set_value",
]

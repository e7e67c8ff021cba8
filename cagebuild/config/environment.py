"""Environment variables that a build may depend on."""

from __future__ import annotations

import os
from typing import cast, get_args

from cagebuild.config.model import EngineChoice
from cagebuild.errors import UsageError


def source_date_epoch() -> int | None:
    """SOURCE_DATE_EPOCH in seconds since 1970, None when not set; UsageError when no number.

    Source: reproducible-builds.org, "SOURCE_DATE_EPOCH specification".
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {text[:40]!r}, not a number of seconds since 1970",
            hint="for the last commit's time: SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)",
        )
    return int(text)


def store_folder() -> str | None:
    """CAGEBUILD_STORE: where the store is, whatever the workspace says. Absolute, or None."""
    text = os.environ.get("CAGEBUILD_STORE", "")
    if not text:
        return None
    if not text.startswith("/"):
        raise UsageError(f"CAGEBUILD_STORE is {text[:80]!r}, not an absolute path")
    return text


def engine() -> EngineChoice | None:
    """CAGEBUILD_ENGINE: what builds Dockerfiles, whatever the cages say; UsageError."""
    text = os.environ.get("CAGEBUILD_ENGINE", "")
    if not text:
        return None
    if text not in get_args(EngineChoice):
        raise UsageError(
            f"CAGEBUILD_ENGINE is {text[:40]!r}",
            hint=f"expected one of: {', '.join(get_args(EngineChoice))}",
        )
    return cast("EngineChoice", text)


def engine_cache() -> bool:
    """CAGEBUILD_ENGINE_CACHE=off: an engine is to take nothing from its own caches of layers."""
    return os.environ.get("CAGEBUILD_ENGINE_CACHE", "") != "off"


def variable(name: str) -> bytes | None:
    """The value of a variable that a cage names, such as that of a build secret."""
    return os.environb.get(os.fsencode(name))


def sandbox() -> str | None:
    """CAGEBUILD_SANDBOX: which sandbox runs steps in containers; None: the first that works."""
    return os.environ.get("CAGEBUILD_SANDBOX") or None

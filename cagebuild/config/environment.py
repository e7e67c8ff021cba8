"""Environment variables that a build may depend on."""

from __future__ import annotations

import os

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


def sandbox() -> str | None:
    """CAGEBUILD_SANDBOX: which sandbox runs steps in containers; None: the first that works."""
    return os.environ.get("CAGEBUILD_SANDBOX") or None

"""The version of the code that makes outputs: part of every step's id."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent

MAKES_OUTPUTS = (
    "debian",
    "dockerfile",
    "embedded",
    "engine",
    "image",
    "nitro",
    "sandbox",
    "steps",
    "digest.py",
    "files.py",
    "lockjson.py",
    "runtime",
)
"""All that the code of a step may import, but for fetching, whose results are checked by digest,
and what steps in containers run in."""


@cache
def version() -> str:
    """SHA-256 over names and bytes of every module that can change what a step makes.

    Hashing the source itself, rather than a number that somebody has to remember to raise, means
    that no change of the code can be answered with a result of the code before it.
    """
    state = hashlib.sha256()
    for name in MAKES_OUTPUTS:
        top = _PACKAGE / name
        files = sorted(top.rglob("*.py")) if top.is_dir() else [top]
        for file in files:
            data = file.read_bytes()
            state.update(f"{file.relative_to(_PACKAGE).as_posix()} {len(data)}\n".encode())
            state.update(data)
    return state.hexdigest()

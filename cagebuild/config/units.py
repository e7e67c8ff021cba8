"""Times and sizes as a cage.toml writes them."""

from __future__ import annotations

import datetime as dt


def seconds(time: str | int | dt.datetime) -> int:
    """Seconds since 1970 of an epoch's time. Raises ValueError, in words for users."""
    if isinstance(time, int):
        return time
    try:
        moment = time if isinstance(time, dt.datetime) else dt.datetime.fromisoformat(time.upper())
    except ValueError:
        raise ValueError("there is no such time") from None
    if moment.tzinfo is None:
        raise ValueError("has no time zone")
    count = int(moment.timestamp())
    if not 0 <= count <= 0xFFFF_FFFF:
        raise ValueError("is not between 1970 and 2106")
    return count


def mebibytes(memory: str | int) -> int:
    """MiB of ``512``, ``"512MiB"`` or ``"2GiB"``."""
    if isinstance(memory, int):
        return memory
    return int(memory[:-3]) * (1024 if memory.endswith("GiB") else 1)

"""The command ``invoke cache``: what the store holds, and making it smaller."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cagebuild.errors import UsageError
from cagebuild.store.prune import prune, usage

if TYPE_CHECKING:
    from cagebuild.store import Store

_TIMES = {"m": 60, "h": 3600, "d": 86400}
_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def shown(size: int) -> str:
    """A size in bytes, as people write it."""
    for unit, factor in reversed(_SIZES.items()):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _number(option: str, text: str, units: dict[str, int], example: str) -> int | None:
    if not text:
        return None
    found = re.fullmatch(rf"(\d{{1,12}})({'|'.join(units)})", text, re.ASCII)
    if found is None:
        raise UsageError(f"{option} {text}: expected a number and a unit, such as {example}")
    return int(found[1]) * units[found[2]]


def show(store: Store) -> None:
    """Print what the store holds, by kind of step."""
    found = usage(store)
    print(f"{store.root}: {shown(found.bytes)} in {found.blobs} files, {found.results} results")
    for kind, (results, size) in sorted(found.kinds.items()):
        print(f"  {kind:14} {results:6} results  {shown(size):>12}")
    if found.unreferenced:
        print(f"  {shown(found.unreferenced)} belong to no result")


def remove(store: Store, *, older_than: str, max_size: str, dry_run: bool) -> None:
    """Remove what is older or more than the bounds; raises UsageError."""
    max_age = _number("--older-than", older_than, _TIMES, "30d or 12h")
    max_bytes = _number("--max-size", max_size, _SIZES, "10GiB or 500MiB")
    if max_age is None and max_bytes is None:
        max_bytes = store.max_bytes
    removed = prune(store, max_age=max_age, max_bytes=max_bytes, dry_run=dry_run)
    word = "would remove" if dry_run else "removed"
    print(f"{word} {shown(removed.bytes)}: {removed.blobs} files, {removed.results} results")

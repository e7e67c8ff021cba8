"""Getting one file, known by its digest, from the first of several locations that has it.

Locations are gone through in order, in rounds: a dead mirror costs one try before the next is
asked, not a series of waits. Bytes that are there already are kept, whichever location they came
from, since the digest decides in the end. A file gets its name only when its digest is right.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from cagebuild.errors import DigestMismatchError, FetchError
from cagebuild.fetch.failure import DEFAULT_POLICY, Failure, Policy
from cagebuild.fetch.partial import Partial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cagebuild.digest import Digest

T = TypeVar("T")
_TICK = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a location sends: from which byte of the file on, the whole file's length, the bytes."""

    start: int
    total: int | None
    chunks: Iterator[bytes]


class Location(Protocol):
    """One place where a file may be had."""

    @property
    def name(self) -> str:
        """For messages: no credentials in it."""

    def open(self, start: int) -> AbstractContextManager[Body]:
        """The file from byte ``start``, or from byte 0 where that can't be; raises Failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    digest: Digest
    size: int | None
    limit: int
    progress: Callable[[int, int | None], None]


def download_from(
    locations: Sequence[Location],
    target: Path,
    *,
    digest: Digest,
    size: int | None,
    limit: int,
    progress: Callable[[int, int | None], None],
    part: Path | None = None,
    policy: Policy = DEFAULT_POLICY,
) -> None:
    """Write the file with that digest to ``target``.

    ``size`` is its length in bytes where known; never are more than ``size``, else ``limit``, bytes
    kept. ``part`` is where the unfinished file lies and is resumed from (default: beside
    ``target``, with ``.part`` after its name); it must be on the same file system. ``progress``
    gets bytes done and in all; what it raises stops the download. Raises FetchError with the cause
    for each location, as DigestMismatchError when one had other bytes; StoreError when the file
    cannot be written.
    """
    if size is not None and size > limit:
        raise FetchError(f"{digest} has {size} bytes, more than the limit of {limit}")
    wanted = _Wanted(digest=digest, size=size, limit=limit, progress=progress)

    def wait() -> None:
        progress(0, size)
        time.sleep(_TICK)

    part = part or target.with_name(target.name + ".part")
    with Partial.at(part, digest.algorithm, wait=wait) as partial:
        if partial.length > _most(wanted):
            partial.restart()
        if partial.digest != digest:
            _fill(partial, locations, wanted, policy)
        partial.finish(target)


def _fill(partial: Partial, locations: Sequence[Location], wanted: _Wanted, policy: Policy) -> None:
    """Go through the locations until the partial file is the wanted one; raises FetchError."""
    failures: dict[int, Failure] = {}
    waiting = list(range(len(locations)))
    fruitless, reached = 0, partial.length
    while waiting:
        for index in waiting:
            failure = _attempt(partial, locations[index], wanted)
            if failure is None:
                return
            failures[index] = failure
        waiting = [index for index in waiting if failures[index].transient]
        if partial.length >= reached + policy.worthwhile:
            # Bounded all the same: the file cannot grow beyond its limit.
            reached = partial.length
        else:
            fruitless += 1
        if fruitless >= policy.rounds:
            break
        if waiting:
            asked = max(failures[index].retry_after for index in waiting)
            _pause(policy, fruitless, asked, lambda: wanted.progress(partial.length, wanted.size))
    raise _error(wanted.digest, locations, failures)


def _attempt(partial: Partial, location: Location, wanted: _Wanted) -> Failure | None:
    """Ask one location. A mix of several givers' bytes that came out wrong gets a second go."""
    while True:
        try:
            _transfer(partial, location, wanted)
        except Failure as failure:
            # All may be there, with something wrong only after it.
            return None if partial.digest == wanted.digest else failure
        got = partial.digest
        if got == wanted.digest:
            return None
        mixed = partial.mixed
        partial.restart()
        if not mixed:
            return Failure(f"wrong content: got {got}, expected {wanted.digest}", kind="content")


def _transfer(partial: Partial, location: Location, wanted: _Wanted) -> None:
    """Add what the location has; raises Failure when that is not all or too much."""
    if partial.length == wanted.size:
        partial.restart()
    most = _most(wanted)
    with location.open(partial.length) as body:
        if body.total is not None and wanted.size not in {None, body.total}:
            raise Failure(
                f"wrong content: it has {body.total} bytes, expected {wanted.size}", kind="content"
            )
        if body.total is not None and body.total > most:
            raise Failure(f"longer than the limit of {most} bytes", kind="content")
        if body.start != partial.length:
            partial.restart()
        for chunk in body.chunks:
            if partial.length + len(chunk) > most:
                partial.restart()
                raise Failure(f"wrong content: longer than {most} bytes", kind="content")
            partial.append(chunk, location.name)
            wanted.progress(partial.length, wanted.size)
    if wanted.size is not None and partial.length < wanted.size:
        raise Failure(
            f"ended after {partial.length} of {wanted.size} bytes", kind="network", transient=True
        )


def _most(wanted: _Wanted) -> int:
    return wanted.limit if wanted.size is None else wanted.size


def _pause(policy: Policy, fruitless: int, asked: float, tick: Callable[[], None]) -> None:
    """Wait before the next round, in small steps so that the user can stop it."""
    left = min(max(policy.back_off * 2 ** max(fruitless - 1, 0), asked), policy.longest_wait)
    while left > 0:
        tick()
        time.sleep(min(left, _TICK))
        left -= _TICK


def _error(
    digest: Digest, locations: Sequence[Location], failures: dict[int, Failure]
) -> FetchError:
    """All that was tried, and what to do next."""
    if not locations:
        return FetchError(
            f"cannot fetch {digest}: no location is known for it",
            hint="add a mirror that serves files by digest to [workspace] mirrors in cage.toml",
        )
    tried = [f"{locations[index].name}: {failure.cause}" for index, failure in failures.items()]
    message = "\n    ".join([f"cannot fetch {digest}:", *tried])
    kinds = {failure.kind for failure in failures.values()}
    hints = [failure.hint for failure in failures.values() if failure.hint]
    if "content" in kinds:
        return DigestMismatchError(
            message,
            hint="what a location has is not what the lock names: if the change is meant, "
            "'invoke lock --update' moves the pin; if not, do not trust that location",
        )
    if not hints and kinds == {"missing"}:
        hints = ["add a mirror that still has it to [workspace] mirrors in cage.toml"]
    elif not hints:
        hints = ["check the network and the proxy settings; what has arrived is kept and resumed"]
    return FetchError(message, hint="; ".join(dict.fromkeys(hints)))


def persist(action: Callable[[], T], policy: Policy = DEFAULT_POLICY) -> T:
    """What ``action`` returns, tried again after transient failures; raises the last Failure."""
    for fruitless in itertools.count(1):
        try:
            return action()
        except Failure as failure:
            if not failure.transient or fruitless >= policy.rounds:
                raise
            _pause(policy, fruitless, failure.retry_after, lambda: None)
    raise AssertionError  # pragma: no cover

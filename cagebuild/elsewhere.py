"""Running a build under other conditions, to show that none of them reaches the result.

``python -m cagebuild.elsewhere --clock 40000000 --umask 077 --reverse-folders -- build //cage``
is invoke with its clock moved by so many seconds, with that umask, and with every folder listed
backwards. Path, user, time zone, locale and host name are the caller's to change.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType


def move_clock(seconds: int) -> None:
    """Let this process see the wall clock moved; what it starts sees the real one."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + seconds * 1_000_000_000


class _Reversed:
    """What os.scandir gives, backwards."""

    def __init__(self, entries: Any) -> None:
        with entries:
            self._entries = list(entries)[::-1]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def __next__(self) -> Any:
        if not self._entries:
            raise StopIteration
        return self._entries.pop(0)

    def __enter__(self) -> _Reversed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def close(self) -> None:
        """As of os.scandir."""


def reverse_folders() -> None:
    """List every folder backwards."""
    listdir: Callable[..., list[Any]] = os.listdir
    scandir: Callable[..., Any] = os.scandir
    os.listdir = lambda *given: listdir(*given)[::-1]
    os.scandir = lambda *given: _Reversed(scandir(*given))  # type: ignore[assignment]


def main(argv: Sequence[str]) -> None:
    """Set the conditions, then be invoke."""
    parser = argparse.ArgumentParser(prog="cagebuild.elsewhere", description=__doc__)
    parser.add_argument("--clock", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--umask", type=lambda text: int(text, 8), metavar="OCTAL")
    parser.add_argument("--reverse-folders", action="store_true")
    parser.add_argument("words", nargs="*")
    given = parser.parse_args(argv)
    if given.umask is not None:
        os.umask(given.umask)
    if given.reverse_folders:
        reverse_folders()
    move_clock(given.clock)

    from invoke.main import program

    program.run(["invoke", *given.words])


if __name__ == "__main__":
    main(sys.argv[1:])

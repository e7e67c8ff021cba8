"""Ctrl-C and SIGTERM while something is under way in Docker that has to be cleared away."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cagebuild.errors import InterruptedBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Stops:
    """A context: in it, a stop is an InterruptedBuildError, and waits where it has to.

    Python hears of signals in its main thread only; in another one this does nothing.
    """

    def __init__(self) -> None:
        self._waiting = False
        self._held = 0

    def __enter__(self) -> Stops:
        self._before: dict[int, object] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # it came from there

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a stop wait until the end of the block."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self.check()

    def check(self) -> None:
        """Raise InterruptedBuildError if a stop is waiting, though it may be held."""
        if self._waiting:
            self._waiting = False
            raise InterruptedBuildError("stopped")

    def _came(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's
        self._waiting = True
        if not self._held:
            self.check()

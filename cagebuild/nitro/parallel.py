"""One stream of chunks to several consumers, each in a thread of its own.

hashlib, zlib and file writes let go of Python's global lock for large buffers, so they run beside
each other and beside whoever makes the chunks. Queues are short: memory stays bounded, and the
slowest sets the pace.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DEPTH = 6


class _Consumer(threading.Thread):
    def __init__(self, consume: Callable[[bytes], object]) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._consume = consume
        self._queue: queue.Queue[bytes | None] = queue.Queue(_DEPTH)

    def run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            if self.error is None:
                try:
                    self._consume(chunk)
                except BaseException as error:  # handed to the thread that feeds this one
                    self.error = error

    def put(self, chunk: bytes) -> None:
        if self.error is not None:
            raise self.error
        self._queue.put(chunk)

    def end(self) -> None:
        # Never blocks for good: after an error the thread still empties its queue.
        self._queue.put(None)
        self.join()


@contextlib.contextmanager
def fan_out(*consumers: Callable[[bytes], object]) -> Iterator[Callable[[bytes], None]]:
    """A function that hands a chunk to every consumer, in the same order to each.

    When the block ends, all of them have had everything. An error of a consumer is raised in the
    block, at the latest at its end; when the block itself fails, the consumers just stop.
    """
    threads = [_Consumer(consume) for consume in consumers]

    def put(chunk: bytes) -> None:
        for thread in threads:
            thread.put(chunk)

    for thread in threads:
        thread.start()
    try:
        yield put
    finally:
        for thread in threads:
            thread.end()
    for thread in threads:
        if thread.error is not None:
            raise thread.error

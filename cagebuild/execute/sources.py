"""Source files as inputs: the bytes that a step reads must be those that its id was made from."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.errors import SourceError

if TYPE_CHECKING:
    from cagebuild.step import FileInput

_MARGIN_NS = 2_000_000_000
"""File systems keep times in steps of up to two seconds."""

_Identity = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A source file that had the right content, to be looked at again when the step is done."""

    given: FileInput
    identity: _Identity
    settled: bool
    """Whether a later change is sure to change the times."""

    def confirm(self) -> None:
        """Raise SourceError if the file may have changed since."""
        try:
            found = self.given.path.stat()
        except OSError as error:
            raise _changed(self.given) from error
        if _identity(found) != self.identity:
            raise _changed(self.given)
        if not self.settled:
            verify(self.given)


def verify(given: FileInput) -> Verified:
    """Check that a source file still has the content it had when the plan was made; SourceError."""
    started = time.time_ns()
    try:
        # Non-blocking, so that a pipe in the file's place is refused rather than waited for.
        descriptor = os.open(given.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _changed(given)
            digest = Digest.of_stream(stream, given.digest.algorithm)
    except OSError as error:
        raise SourceError(
            f"{given.path} cannot be read: {error.strerror or error}",
            hint="it was there when the build began; run it again",
        ) from error
    if digest != given.digest:
        raise _changed(given)
    latest = max(found.st_mtime_ns, found.st_ctime_ns)
    return Verified(given=given, identity=_identity(found), settled=latest + _MARGIN_NS < started)


def _identity(found: os.stat_result) -> _Identity:
    return (
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_dev,
    )


def _changed(given: FileInput) -> SourceError:
    return SourceError(f"{given.path} changed while the build went on", hint="run it again")

"""Locations on HTTP servers and in local folders, and the two ways to get something from them.

``get`` is for small documents that are checked by other means (a signature, a digest); ``download``
is for files known by digest.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from cagebuild.errors import FetchError
from cagebuild.fetch.download import Body, Location, persist
from cagebuild.fetch.failure import DEFAULT_POLICY, Failure, Policy, redact
from cagebuild.fetch.transport import Client, read_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cagebuild.fetch.transport import Answer

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_CHUNK = 1 << 18


class NotFoundError(FetchError):
    """The server says that there is no such document (404 or 410)."""


def get(url: str, *, limit: int, policy: Policy = DEFAULT_POLICY) -> bytes:
    """A document of at most ``limit`` bytes from an https, http or file URL.

    Raises NotFoundError when it is not there, FetchError for anything else.
    """

    def once() -> bytes:
        with location_of(url, policy).open(0) as body:
            return read_whole(body.chunks, body.total, limit)

    try:
        return persist(once, policy)
    except Failure as failure:
        kind = NotFoundError if failure.kind == "missing" else FetchError
        raise kind(
            f"cannot fetch {redact(url)}: {failure.cause}",
            hint=failure.hint or "check the address, the network and the proxy settings",
        ) from failure


def location_of(url: str, policy: Policy = DEFAULT_POLICY) -> Location:
    """The location that a URL names; what is wrong with it shows when it is opened."""
    return FileLocation(url) if url.startswith("file:") else HttpLocation(url, policy)


class HttpLocation:
    """A file on an HTTP server. ~/.netrc, or the URL itself, may give credentials."""

    def __init__(self, url: str, policy: Policy = DEFAULT_POLICY) -> None:
        self._url = url
        self._policy = policy
        self._ranges = Ranges()
        self.name = redact(url)

    @contextmanager
    def open(self, start: int) -> Iterator[Body]:
        """See Location."""
        with (
            Client(self._policy) as client,
            self._ranges.ask(
                lambda headers: client.open(self._url, headers=headers), start
            ) as body,
        ):
            yield body


class Ranges:
    """Range requests to one location (RFC 9110, section 14).

    Remembers the entity tag, so that a file that was replaced in between starts from its beginning.
    """

    def __init__(self) -> None:
        self._tag = ""

    @contextmanager
    def ask(self, send: Callable[[Mapping[str, str]], Answer], start: int) -> Iterator[Body]:
        """The body from ``start`` on, or the whole where the server has no part; raises Failure."""
        headers: dict[str, str] = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self._tag:
                headers["If-Range"] = self._tag
        with send(headers) as answer:
            tag = answer.header("ETag")
            self._tag = tag if tag.startswith('"') else ""  # weak tags are not for ranges
            if answer.status == 200:
                yield Body(start=0, total=answer.length, chunks=answer.chunks())
                return
            if answer.status == 206 and _continues(answer, start):
                yield Body(start=start, total=_whole(answer), chunks=answer.chunks())
                return
            if not start or answer.status not in {206, 416}:
                raise answer.failure()
        # Nothing from there on, or another range than the one asked for: so all of it.
        with self.ask(send, 0) as body:
            yield body


def _continues(answer: Answer, start: int) -> bool:
    """Whether a part goes from ``start`` to the end of the file."""
    found = _CONTENT_RANGE.fullmatch(answer.header("Content-Range").strip())
    if found is None or not start or int(found[1]) != start:
        return False
    return found[3] == "*" or int(found[2]) == int(found[3]) - 1


def _whole(answer: Answer) -> int | None:
    """The whole file's length by Content-Range, where it says."""
    text = answer.header("Content-Range").strip().rpartition("/")[2]
    return None if text == "*" else int(text)


class FileLocation:
    """A file of a local mirror: ``file:///absolute/path``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = redact(url)

    @contextmanager
    def open(self, start: int) -> Iterator[Body]:
        """See Location."""
        try:
            # Not blocking: a named pipe must not hold up the build.
            descriptor = os.open(_path(self._url), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise _file_failure(error) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Failure("not a regular file", kind="protocol")
            begin = start if start <= status.st_size else 0
            os.lseek(descriptor, begin, os.SEEK_SET)
            yield Body(start=begin, total=status.st_size, chunks=_read(descriptor))
        finally:
            os.close(descriptor)


def _path(url: str) -> bytes:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/") or parts.query:
        raise Failure("not a URL of the form file:///absolute/path", kind="protocol")
    return unquote_to_bytes(parts.path)


def _read(descriptor: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(descriptor, _CHUNK):
            yield chunk
    except OSError as error:
        raise _file_failure(error) from error


def _file_failure(error: OSError | ValueError) -> Failure:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Failure("no such file", kind="missing")
    if isinstance(error, OSError):
        return Failure(error.strerror or "cannot be read", kind="denied")
    return Failure("not a path", kind="protocol")

"""A local HTTP server whose faults have names, to try a downloader on."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal, assert_never

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Fault = Literal[
    "answers 404",
    "answers 403",
    "answers 500 once",
    "answers 503 always",
    "drops the connection midway once",
    "drops the connection midway always",
    "drops the connection midway without a length",
    "ignores ranges and drops once",
    "sends another range",
    "changes the file between two parts",
    "sends wrong bytes",
    "sends wrong bytes of the right length",
    "announces fewer bytes",
    "announces more bytes",
    "never ends",
    "never answers",
    "drips",
    "redirects in circles",
    "redirects to a file",
    "redirects to nowhere",
    "redirects to plain http",
    "redirects to the good file",
    "holds back the rest",
    "closes without an answer",
    "speaks no http",
]

HELD_AFTER = 5000
"""Bytes that come before the rest is held back."""


@dataclass(slots=True)
class Request:
    """What came in: for tests that say what must have been asked."""

    path: str
    headers: dict[str, str]


@dataclass(slots=True)
class FaultyServer:
    """Serves ``content`` below paths that are faults: ``url("drips")``; ``url()`` has none."""

    content: bytes
    base: str
    plain_base: str = ""
    """The base URL of a plain HTTP server to be redirected to."""
    requests: list[Request] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def url(self, fault: Fault | None = None) -> str:
        return f"{self.base}/{(fault or 'good').replace(' ', '-')}"

    def count(self, fault: Fault | None = None) -> int:
        """How often a path was asked for."""
        path = "/" + (fault or "good").replace(" ", "-")
        return sum(request.path.partition("?")[0] == path for request in self.requests)


FAULTS: tuple[Fault, ...] = Fault.__args__  # type: ignore[attr-defined]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faulty: FaultyServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        server = self.faulty
        server.requests.append(Request(self.path, dict(self.headers.items())))
        name = self.path.partition("?")[0].removeprefix("/")
        if name == "good":
            self._send(server.content)
            return
        fault = next((one for one in FAULTS if one.replace(" ", "-") == name), None)
        if fault is None:
            self._status(404)
        else:
            self._fail(fault)

    def _fail(self, fault: Fault) -> None:  # noqa: C901, PLR0912, PLR0915 - one case a fault
        content = self.faulty.content
        half = len(content) // 2
        first = self.faulty.count(fault) == 1
        match fault:
            case "answers 404":
                self._status(404)
            case "answers 403":
                self._status(403)
            case "answers 500 once":
                self._status(500) if first else self._send(content)
            case "answers 503 always":
                self._status(503, ("Retry-After", "0"))
            case "drops the connection midway once":
                self._send(content, stop_after=half if first else None)
            case "drops the connection midway always":
                self._send(content, stop_after=7)
            case "drops the connection midway without a length":
                self._send_until_close(content, stop_after=half if first else None)
            case "ignores ranges and drops once":
                self._send(content, stop_after=half if first else None, ranges=False)
            case "sends another range":
                if first:
                    self._send(content, stop_after=half)
                elif "Range" in self.headers:
                    self._part(content, 0, tag='"v1"')
                else:
                    self._send(content)
            case "changes the file between two parts":
                if first:
                    self._send(bytes(len(content)), stop_after=half, tag='"old"')
                else:
                    self._send(content, tag='"new"')
            case "sends wrong bytes":
                self._send(b"something else altogether")
            case "sends wrong bytes of the right length":
                self._send(bytes(len(content)))
            case "announces fewer bytes":
                self._send(content, announced=half, ranges=False)
            case "announces more bytes":
                self._send(content, announced=len(content) + 10, ranges=False)
            case "never ends":
                self._never_ends()
            case "never answers":
                self.faulty.stop.wait(20)
                self.close_connection = True
            case "drips":
                self._drip()
            case "redirects in circles":
                self._status(302, ("Location", self.path))
            case "redirects to a file":
                self._status(302, ("Location", "file:///etc/passwd"))
            case "redirects to nowhere":
                self._status(302)
            case "redirects to plain http":
                self._status(302, ("Location", self.faulty.plain_base + "/good"))
            case "redirects to the good file":
                self._status(307, ("Location", "/good?signature=hidden"))
            case "holds back the rest":
                self._hold_back()
            case "closes without an answer":
                self._hang_up()
            case "speaks no http":
                self.wfile.write(b"220 mail.example ESMTP\r\n\r\n")
                self._hang_up()
            case _:
                assert_never(fault)

    def _status(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _start(self, content: bytes, tag: str, ranges: bool) -> int | None:
        """Where the asked range starts, None for the whole; as RFC 9110 says."""
        asked = self.headers.get("Range", "")
        condition = self.headers.get("If-Range", tag)
        if not ranges or not asked.startswith("bytes=") or condition != tag:
            return None
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _send(
        self,
        content: bytes,
        *,
        stop_after: int | None = None,
        announced: int | None = None,
        ranges: bool = True,
        tag: str = '"v1"',
    ) -> None:
        start = self._start(content, tag, ranges)
        if start is not None:
            if start >= len(content):
                self._status(416, ("Content-Range", f"bytes */{len(content)}"))
                return
            self._part(content, start, tag=tag, stop_after=stop_after)
            return
        self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        self._write(content, stop_after)
        if announced is not None:
            self._hang_up()

    def _part(self, content: bytes, start: int, *, tag: str, stop_after: int | None = None) -> None:
        self.send_response(206)
        self.send_header("ETag", tag)
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self._write(content[start:], stop_after)

    def _send_until_close(self, content: bytes, stop_after: int | None) -> None:
        start = self._start(content, '"v1"', ranges=True)
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Connection", "close")
        self.end_headers()
        self._write(content[start or 0 :], stop_after)
        self._hang_up()

    def _write(self, content: bytes, stop_after: int | None) -> None:
        try:
            self.wfile.write(content[:stop_after])
        except OSError:
            self.close_connection = True
        if stop_after is not None:
            self._hang_up()

    def _never_ends(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            while not self.faulty.stop.is_set():
                self.wfile.write(chunk)
        except OSError:
            self.close_connection = True

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.faulty.content)))
        self.end_headers()
        try:
            for value in self.faulty.content:
                self.wfile.write(bytes([value]))
                if self.faulty.stop.wait(0.02):
                    break
        except OSError:
            self.close_connection = True

    def _hold_back(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.faulty.content)))
        self.end_headers()
        self.wfile.write(self.faulty.content[:HELD_AFTER])
        self.faulty.stop.wait()
        self.close_connection = True

    def _hang_up(self) -> None:
        self.close_connection = True
        try:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class QuietServer(ThreadingHTTPServer):
    """One that says nothing of a client that goes away, or does not trust its certificate."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """That is what tests are about."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a folder, on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing on the terminal."""

    handler = partial(Quiet, directory=str(folder))
    with QuietServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def faulty_server(
    content: bytes, *, certificate: Path | None = None, plain_base: str = ""
) -> Iterator[FaultyServer]:
    """A server on loopback; https with a PEM file of certificate and key when one is given."""
    faulty = FaultyServer(content, "", plain_base)

    class Handler(_Handler):
        pass

    Handler.faulty = faulty
    server = QuietServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake belongs to the connection's own thread, not to the one that accepts.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        scheme = "https"
    faulty.base = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield faulty
    finally:
        faulty.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()

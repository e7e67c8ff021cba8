"""Clients and servers of tests, with sockets in a namespace of the test's choice."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.support.namespaces import Namespace

PATIENCE = 60.0
"""Seconds after which a test has failed, whatever it waits for."""


def connect(place: Namespace, host: str, port: int) -> socket.socket:
    """A TCP connection."""
    with place.entered():
        return socket.create_connection((host, port), timeout=PATIENCE)


@contextlib.contextmanager
def serving_at(
    place: Namespace, host: str, port: int, answer: Callable[[socket.socket], object]
) -> Iterator[None]:
    """A TCP server that gives every connection to a function, in a thread of its own.

    Connections are closed at the end of the block, which ends what waits for them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with place.entered():
        server = socket.create_server((host, port), family=family, backlog=4096)
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(connection)
            thread = threading.Thread(target=attend, args=(connection,))
            threads.append(thread)
            thread.start()

    def attend(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection)

    accepting = threading.Thread(target=run)
    accepting.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        accepting.join()
        server.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the other side's end."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes; fewer when the other side has ended."""
    parts = []
    while size and (part := connection.recv(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def after_all(begin: bytes) -> Callable[[socket.socket], object]:
    """A server that answers after the client's end: these bytes, and what the client sent."""

    def answer(connection: socket.socket) -> None:
        asked = read_all(connection)
        connection.sendall(begin + asked)

    return answer


def pattern(size: int) -> bytes:
    """Bytes that look like noise: the first of SHAKE128 of nothing."""
    return hashlib.shake_128().digest(size)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an HTTP server said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        """The body, which is JSON."""
        assert self.status == 200, (self.status, self.body)
        return json.loads(self.body)


def request(
    connection: socket.socket, method: str, target: str,
    body: bytes | Iterator[bytes] | None = None, headers: Mapping[str, str] | None = None,
) -> Answer:  # fmt: skip
    """One request of HTTP/1.1. The connection is closed."""
    with contextlib.closing(http.client.HTTPConnection("cage.test", timeout=PATIENCE)) as client:
        client.sock = connection
        client.request(method, target, body=body, headers=dict(headers or {}))
        # Also closed when the answer breaks off.
        with client.getresponse() as answer:
            return Answer(status=answer.status, headers=answer.getheaders(), body=answer.read())


def over_tls(
    connection: socket.socket, *, name: str = "cage.test", trust: bytes | None = None
) -> ssl.SSLSocket:
    """A TLS connection, with any certificate unless the only one to trust is given (DER)."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if trust is not None:
        context = ssl.create_default_context(cadata=trust)
    return context.wrap_socket(connection, server_hostname=name)


class WebSocket:
    """A client of RFC 6455, for short messages."""

    def __init__(self, connection: socket.socket, target: str) -> None:
        self._connection = connection
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: cage.test\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            assert byte, head
            head += byte
        assert head.startswith(b"HTTP/1.1 101 "), head
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        assert base64.b64encode(digest) in head

    def send(self, message: bytes) -> None:
        """Send a binary message of up to 125 bytes."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(message))
        self._connection.sendall(bytes([0x82, 0x80 | len(message)]) + mask + masked)

    def receive(self) -> bytes:
        """Wait for a binary message of up to 125 bytes."""
        kind, size = read_exactly(self._connection, 2)
        assert kind == 0x82
        return read_exactly(self._connection, size)

"""The internet's name server, for tests: A and AAAA from a table that may change."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_A, _AAAA = 1, 28
_NXDOMAIN, _SERVFAIL = 3, 2
_SIZES = {4: _A, 16: _AAAA}


@dataclass
class Zone:
    """What names lead to."""

    addresses: dict[str, list[str]] = field(default_factory=dict)
    """By lower-case name without a dot at the end. Others don't exist."""
    silent: set[str] = field(default_factory=set)
    """Names for which no answer comes."""
    broken: set[str] = field(default_factory=set)
    """Names for which the answer is a failure of the server."""
    asked: list[str] = field(default_factory=list)
    """All names that were asked for."""

    def answer(self, query: bytes) -> bytes | None:
        """The answer to a query of one question."""
        name, end = _name(query, 12)
        self.asked.append(name)
        if name in self.silent:
            return None
        kind = struct.unpack_from(">H", query, end)[0]
        question = query[12 : end + 4]
        found = self.addresses.get(name)
        code = _SERVFAIL if name in self.broken else _NXDOMAIN if found is None else 0
        packed = [ipaddress.ip_address(text).packed for text in found or []]
        records = [
            struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(each)) + each
            for each in packed
            if _SIZES[len(each)] == kind
        ]
        head = struct.pack(">HHHHHH", *struct.unpack_from(">H", query), 0x8580 | code, 1,
                           len(records), 0, 0)  # fmt: skip
        return head + question + b"".join(records)


def _name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while size := message[at]:
        labels.append(message[at + 1 : at + 1 + size].decode("ascii"))
        at += 1 + size
    return ".".join(labels).lower(), at + 1


@contextlib.contextmanager
def serving(server: socket.socket, zone: Zone) -> Iterator[None]:
    """Answer at a UDP socket, which is closed at the end of the block."""
    stop = threading.Event()
    server.settimeout(0.1)

    def run() -> None:
        while not stop.is_set():
            try:
                query, peer = server.recvfrom(4096)
            except TimeoutError:
                continue
            if (answer := zone.answer(query)) is not None:
                with contextlib.suppress(OSError):
                    server.sendto(answer, peer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        server.close()

"""A parent instance for a machine in QEMU: the other end of its vsock, in a few lines.

The device is vhost-user-vsock (QEMU: docs/interop/vhost-user.rst), its packets are those of virtio
1.2, section 5.10. Only what a heartbeat needs is there: one small answer to one small message. What
makes it worth having is the CID: the parent is 3, as on Nitro, which no packaged program can be.
"""

from __future__ import annotations

import array
import contextlib
import enum
import mmap
import os
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

PARENT: Final = 3
HEARTBEAT_PORT: Final = 9000

_VERSION_1, _PROTOCOL_FEATURES = 1 << 32, 1 << 30  # bits of the device's features
_CONFIG = 1 << 9  # bit of the protocol's features
_REPLY = 1 << 2  # bit of a message's flags
_RX, _TX = 0, 1  # queues of the device

_MESSAGE = struct.Struct("<III")  # request, flags, size
_REGION = struct.Struct("<QQQQ")  # guest address, size, QEMU's address, offset in the file
_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_NEXT, _WRITE = 1, 2  # flags of a descriptor
_PACKET = struct.Struct("<QQIIIHHIII")


class Operation(enum.IntEnum):
    """What a packet does."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet on the vsock; credits are left out, for nothing here is long."""

    source: int
    destination: int
    source_port: int
    destination_port: int
    operation: Operation
    data: bytes = b""

    @classmethod
    def parse(cls, raw: bytes) -> Packet:
        """From the header and what follows it."""
        source, destination, from_port, to_port, length, _, operation, *_ = _PACKET.unpack_from(raw)
        data = raw[_PACKET.size :][:length]
        return cls(
            source=source,
            destination=destination,
            source_port=from_port,
            destination_port=to_port,
            operation=Operation(operation),
            data=data,
        )

    def answer(self, operation: Operation, data: bytes = b"", *, taken: int = 0) -> bytes:
        """A packet back, as bytes; ``taken`` is how many were received on this connection."""
        addresses = self.destination, self.source, self.destination_port, self.source_port
        return _PACKET.pack(*addresses, len(data), 1, operation, 0, 1 << 16, taken) + data


@dataclass
class _Queue:
    size: int = 0
    descriptors: int = 0
    available: int = 0
    used: int = 0
    next: int = 0
    kick: int = -1
    call: int = -1


@dataclass
class Parent:
    """Answers heartbeats on CID 3, port 9000, and refuses every other connection."""

    cid: int
    """The machine's own."""
    heartbeats: list[bytes] = field(default_factory=list)
    """What was received, connection by connection."""
    refused: list[tuple[int, int]] = field(default_factory=list)
    """CID and port of the connections that were refused."""
    errors: list[BaseException] = field(default_factory=list)
    _queues: list[_Queue] = field(default_factory=lambda: [_Queue() for _ in range(2)])
    _regions: list[tuple[int, int, int, mmap.mmap, int]] = field(default_factory=list)
    _open: list[int] = field(default_factory=list)

    def serve(self, connection: socket.socket) -> None:
        """Do what QEMU and the machine say, until QEMU closes the connection."""
        with selectors.DefaultSelector() as ready:
            ready.register(connection, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fileobj is not connection:
                        os.read(key.fd, 8)
                        self._take()
                    elif not self._obey_next(connection):
                        return
                    kick = self._queues[_TX].kick
                    if kick >= 0 and kick not in ready.get_map():
                        ready.register(kick, selectors.EVENT_READ)

    def _obey_next(self, connection: socket.socket) -> bool:
        header = _receive(connection, _MESSAGE.size)
        if header is None:
            return False
        request, flags, size = _MESSAGE.unpack(header[0])
        body, more = _receive(connection, size) or (b"", [])
        reply = self._obey(request, body, [*header[1], *more])
        if reply is not None:
            connection.sendall(_MESSAGE.pack(request, flags & 3 | _REPLY, len(reply)) + reply)
        return True

    def close(self) -> None:
        """Give back what QEMU lent."""
        for descriptor in self._open:
            os.close(descriptor)
        for *_, memory, _ in self._regions:
            memory.close()

    def _obey(self, request: int, body: bytes, descriptors: list[int]) -> bytes | None:
        """Requests by their numbers in QEMU's vhost-user.rst. Those without effect are left out."""
        self._open.extend(descriptors)
        match request:
            case 1:  # GET_FEATURES
                return struct.pack("<Q", _VERSION_1 | _PROTOCOL_FEATURES)
            case 15:  # GET_PROTOCOL_FEATURES
                return struct.pack("<Q", _CONFIG)
            case 24:  # GET_CONFIG: the machine's CID
                return body[:12] + struct.pack("<Q", self.cid)
            case 5:  # SET_MEM_TABLE
                self._map(body, descriptors)
            case 8 | 9 | 10 | 11 | 12 | 13:
                return self._set_queue(request, body, descriptors)
        return None

    def _map(self, body: bytes, descriptors: list[int]) -> None:
        for number, descriptor in enumerate(descriptors):
            address, size, theirs, offset = _REGION.unpack_from(body, 8 + number * _REGION.size)
            self._regions.append(
                (address, size, theirs, mmap.mmap(descriptor, offset + size), offset)
            )

    def _set_queue(self, request: int, body: bytes, descriptors: list[int]) -> bytes | None:
        index = body[0]
        if index >= len(self._queues):
            return None
        queue = self._queues[index]
        value = struct.unpack_from("<I", body, 4)[0]
        match request:
            case 8:
                queue.size = value
            case 9:
                queue.descriptors, queue.used, queue.available = struct.unpack_from("<QQQ", body, 8)
            case 10:
                queue.next = value
            case 11:  # GET_VRING_BASE, which stops the queue
                return struct.pack("<II", index, queue.next)
            case 12 if descriptors:
                queue.kick = descriptors[0]
            case 13 if descriptors:
                queue.call = descriptors[0]
        return None

    def _take(self) -> None:
        queue = self._queues[_TX]
        for head, parts in self._chains(queue):
            raw = b"".join(self._read(address, length, guest=True) for address, length, _ in parts)
            self._return(queue, head, 0)
            self._handle(Packet.parse(raw))

    def _handle(self, packet: Packet) -> None:
        if (packet.destination, packet.destination_port) != (PARENT, HEARTBEAT_PORT):
            self.refused.append((packet.destination, packet.destination_port))
            self._send(packet.answer(Operation.RST))
        elif packet.operation is Operation.REQUEST:
            self.heartbeats.append(b"")
            self._send(packet.answer(Operation.RESPONSE))
        elif packet.operation is Operation.RW:
            self.heartbeats[-1] += packet.data
            self._send(packet.answer(Operation.RW, packet.data, taken=len(packet.data)))
        elif packet.operation is Operation.CREDIT_REQUEST:
            self._send(packet.answer(Operation.CREDIT_UPDATE))
        elif packet.operation is Operation.SHUTDOWN:
            self._send(packet.answer(Operation.RST))

    def _send(self, raw: bytes) -> None:
        """Put one packet into the machine's receive queue."""
        queue = self._queues[_RX]
        head, parts = next(self._chains(queue))
        left = raw
        for address, length, flags in parts:
            assert flags & _WRITE
            self._write(address, left[:length], guest=True)
            left = left[length:]
        assert not left
        self._return(queue, head, len(raw))

    def _chains(self, queue: _Queue) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        """Buffers that the machine offers: number of the first descriptor, and all of them."""
        while queue.next != struct.unpack("<H", self._read(queue.available + 2, 2))[0]:
            slot = queue.available + 4 + 2 * (queue.next % queue.size)
            head = current = struct.unpack("<H", self._read(slot, 2))[0]
            queue.next = queue.next + 1 & 0xFFFF
            parts = []
            while True:
                raw = self._read(queue.descriptors + current * _DESCRIPTOR.size, _DESCRIPTOR.size)
                address, length, flags, current = _DESCRIPTOR.unpack(raw)
                parts.append((address, length, flags))
                if not flags & _NEXT:
                    break
            yield head, parts

    def _return(self, queue: _Queue, head: int, written: int) -> None:
        index = struct.unpack("<H", self._read(queue.used + 2, 2))[0]
        entry = queue.used + 4 + 8 * (index % queue.size)
        self._write(entry, struct.pack("<II", head, written))
        self._write(queue.used + 2, struct.pack("<H", index + 1 & 0xFFFF))
        os.write(queue.call, struct.pack("<Q", 1))

    def _place(self, address: int, length: int, guest: bool) -> tuple[mmap.mmap, int]:
        """Buffers have addresses of the machine, queues those of QEMU's process."""
        for machine, size, theirs, memory, offset in self._regions:
            start = machine if guest else theirs
            if start <= address and address + length <= start + size:
                return memory, address - start + offset
        raise ValueError(f"no memory at {address:#x}")

    def _read(self, address: int, length: int, *, guest: bool = False) -> bytes:
        memory, start = self._place(address, length, guest)
        return memory[start : start + length]

    def _write(self, address: int, data: bytes, *, guest: bool = False) -> None:
        memory, start = self._place(address, len(data), guest)
        memory[start : start + len(data)] = data


def _receive(connection: socket.socket, size: int) -> tuple[bytes, list[int]] | None:
    """Exactly ``size`` bytes and the file descriptors that came with them; None at the end."""
    data = b""
    descriptors = array.array("i")
    while len(data) < size:
        space = socket.CMSG_SPACE(8 * descriptors.itemsize)
        part, ancillary, *_ = connection.recvmsg(size - len(data), space)
        for *_, block in ancillary:
            descriptors.frombytes(block)
        if not part:
            return None
        data += part
    return data, list(descriptors)


@contextlib.contextmanager
def parent_at(path: Path, *, cid: int) -> Iterator[Parent]:
    """A parent that waits for QEMU at a unix socket, until the end of the block."""
    parent = Parent(cid=cid)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)

        def run() -> None:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # QEMU never came
            try:
                with connection:
                    parent.serve(connection)
            except BaseException as error:
                parent.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield parent
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # ends the wait for a QEMU that never came
            thread.join()
            parent.close()

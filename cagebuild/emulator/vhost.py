"""A vhost-user device (QEMU: docs/interop/vhost-user.rst) and its queues (virtio 1.2, 2.7).

QEMU lends the machine's memory as file descriptors and says by eventfds when there is something in
a queue. The machine is not trusted: what it writes is checked before it is used.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION_1: Final = 1 << 32
_PROTOCOL_FEATURES: Final = 1 << 30  # a bit of the device's features
_CONFIG: Final = 1 << 9  # a bit of the protocol's

_MESSAGE = struct.Struct("<III")  # request, flags, size
_REGION = struct.Struct("<QQQQ")  # the machine's address, size, QEMU's address, offset in the file
_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_USED = struct.Struct("<II")
_U16 = struct.Struct("<H")
_NEXT = 1  # a flag of a descriptor
_NO_DESCRIPTOR = 1 << 8  # a flag beside a queue's number
_REPLY = 1 << 2  # a flag of a message
_MAX_MESSAGE = 4096
_MAX_QUEUE = 1024


class DeviceError(Exception):
    """QEMU or the machine did what it must not do; there is no way on."""


@dataclass(frozen=True, slots=True)
class _Region:
    machine: int
    size: int
    qemu: int
    view: memoryview


class Memory:
    """The machine's memory."""

    def __init__(self) -> None:
        self._regions: list[_Region] = []

    def set(self, body: bytes, descriptors: list[int]) -> None:
        """Map what SET_MEM_TABLE describes, in place of what was mapped."""
        count = struct.unpack_from("<I", body)[0]
        if count != len(descriptors):
            raise DeviceError(f"got {len(descriptors)} descriptors for {count} regions of memory")
        self._regions = []
        for number, descriptor in enumerate(descriptors):
            machine, size, qemu, offset = _REGION.unpack_from(body, 8 + number * _REGION.size)
            whole = memoryview(mmap.mmap(descriptor, offset + size))
            self._regions.append(_Region(machine, size, qemu, whole[offset:]))

    def at(self, address: int, length: int) -> memoryview:
        """Bytes at an address of the machine's."""
        for region in self._regions:
            start = address - region.machine
            if start >= 0 and start + length <= region.size:
                return region.view[start : start + length]
        raise DeviceError(f"the machine has no {length} bytes at {address:#x}")

    def at_qemus(self, address: int, length: int) -> memoryview:
        """Bytes at an address of QEMU's process."""
        for region in self._regions:
            start = address - region.qemu
            if start >= 0 and start + length <= region.size:
                return region.view[start : start + length]
        raise DeviceError(f"QEMU has no {length} bytes of the machine at {address:#x}")


@dataclass(slots=True)
class Chain:
    """A buffer of a queue, in pieces."""

    head: int
    pieces: list[memoryview]


@dataclass(slots=True)
class Queue:
    """A virtqueue, the device's side of it. ``memory`` is the machine's."""

    memory: Memory
    size: int = 0
    next: int = 0
    """The next entry to take, modulo 2^16."""
    kick: int = -1
    call: int = -1
    addresses: tuple[int, int, int] | None = None
    """Of descriptors, used and available entries, in QEMU's process."""
    _descriptors: memoryview = field(default_factory=lambda: memoryview(b""))
    _used: memoryview = field(default_factory=lambda: memoryview(b""))
    _available: memoryview = field(default_factory=lambda: memoryview(b""))
    _returned: bool = False

    @property
    def running(self) -> bool:
        """Whether the machine's driver is there."""
        return self.kick >= 0 and self.addresses is not None

    def map(self) -> None:
        """Find its parts in memory, once size, addresses and memory are known."""
        if self.addresses is None or not self.size:
            return
        descriptors, used, available = self.addresses
        self._descriptors = self.memory.at_qemus(descriptors, 16 * self.size)
        self._used = self.memory.at_qemus(used, 4 + 8 * self.size)
        self._available = self.memory.at_qemus(available, 4 + 2 * self.size)

    def stop(self) -> None:
        """Take nothing more, until QEMU sets it up again."""
        for descriptor in (self.kick, self.call):
            if descriptor >= 0:
                os.close(descriptor)
        self.kick = self.call = -1
        self.addresses = None

    def hear(self) -> None:
        """Take note of a kick: ``take`` has something."""
        os.read(self.kick, 8)

    def take(self) -> Chain | None:
        """The next buffer, if there is one."""
        if not self.running or self.next == _U16.unpack_from(self._available, 2)[0]:
            return None
        head = _U16.unpack_from(self._available, 4 + 2 * (self.next % self.size))[0]
        self.next = self.next + 1 & 0xFFFF
        pieces: list[memoryview] = []
        current, flags = head, _NEXT
        while flags & _NEXT:
            if current >= self.size or len(pieces) >= self.size:
                raise DeviceError(f"a chain of descriptors leads to {current} of {self.size}")
            place = current * _DESCRIPTOR.size
            address, length, flags, current = _DESCRIPTOR.unpack_from(self._descriptors, place)
            pieces.append(self.memory.at(address, length))
        return Chain(head, pieces)

    def put_back(self) -> None:
        """Leave the buffer that was taken last for the next time."""
        self.next = self.next - 1 & 0xFFFF

    def give(self, chain: Chain, written: int) -> None:
        """Return a buffer with so many bytes in it; ``notify`` says so."""
        index = _U16.unpack_from(self._used, 2)[0]
        _USED.pack_into(self._used, 4 + 8 * (index % self.size), chain.head, written)
        _U16.pack_into(self._used, 2, index + 1 & 0xFFFF)
        self._returned = True

    def notify(self) -> None:
        """Interrupt the machine if buffers were returned.

        It can say that it wants no interrupt, but without a memory barrier between its queue and
        that word, which Python has none of, one could get lost.
        """
        if self._returned and self.call >= 0:
            os.write(self.call, struct.pack("<Q", 1))
        self._returned = False


class Device:
    """What QEMU asks of a device with so many queues; ``config`` is its configuration space."""

    def __init__(self, connection: socket.socket, *, queues: int, config: bytes) -> None:
        self.connection: Final = connection
        self.memory: Final = Memory()
        self.queues: Final = [Queue(self.memory) for _ in range(queues)]
        self._config = config
        self._answers: dict[int, Callable[[bytes], bytes]] = {
            1: lambda _: struct.pack("<Q", VERSION_1 | _PROTOCOL_FEATURES),  # GET_FEATURES
            15: lambda _: struct.pack("<Q", _CONFIG),  # GET_PROTOCOL_FEATURES
            17: lambda _: struct.pack("<Q", queues),  # GET_QUEUE_NUM
            24: self._get_config,
            11: self._get_vring_base,
        }

    def obey(self) -> bool:
        """Do what the next message says; False when QEMU is gone."""
        header = self._receive(_MESSAGE.size)
        if header is None:
            return False
        request, flags, size = _MESSAGE.unpack(header[0])
        if size > _MAX_MESSAGE:
            raise DeviceError(f"QEMU's message has {size} bytes, at most {_MAX_MESSAGE} expected")
        body, more = self._receive(size) or (b"", [])
        descriptors = [*header[1], *more]
        if len(body) < size:
            return False
        if answer := self._answers.get(request):
            reply = answer(body)
            head = _MESSAGE.pack(request, flags & 3 | _REPLY, len(reply))
            self.connection.sendall(head + reply)
        elif request == 5:  # SET_MEM_TABLE
            self.memory.set(body, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            for queue in self.queues:
                queue.map()
        elif 8 <= request <= 14:
            self._set_queue(request, body, descriptors)
        # What is left, such as SET_OWNER and SET_VRING_ENABLE, changes nothing here.
        return True

    def _get_config(self, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<II", body)
        return body[:12] + self._config[offset : offset + size].ljust(size, b"\0")

    def _get_vring_base(self, body: bytes) -> bytes:
        """Also stops the queue."""
        index, queue = self._queue(body)
        queue.stop()
        return struct.pack("<II", index, queue.next)

    def _queue(self, body: bytes) -> tuple[int, Queue]:
        index = body[0]
        if index >= len(self.queues):
            raise DeviceError(f"got a queue {index} of {len(self.queues)}")
        return index, self.queues[index]

    def _set_queue(self, request: int, body: bytes, descriptors: list[int]) -> None:
        _, queue = self._queue(body)
        match request:
            case 8:  # SET_VRING_NUM
                queue.size = struct.unpack_from("<I", body, 4)[0]
                if not 0 < queue.size <= _MAX_QUEUE:
                    raise DeviceError(f"got a queue of {queue.size} entries")
                queue.map()
            case 9:  # SET_VRING_ADDR
                queue.addresses = struct.unpack_from("<QQQ", body, 8)
                queue.map()
            case 10:  # SET_VRING_BASE
                queue.next = struct.unpack_from("<I", body, 4)[0] & 0xFFFF
            case 12 | 13:  # SET_VRING_KICK, SET_VRING_CALL
                name = "kick" if request == 12 else "call"
                if getattr(queue, name) >= 0:
                    os.close(getattr(queue, name))
                missing = struct.unpack_from("<Q", body)[0] & _NO_DESCRIPTOR
                setattr(queue, name, -1 if missing else descriptors[0])
            case _:  # SET_VRING_ERR: nothing is reported
                for descriptor in descriptors:
                    os.close(descriptor)

    def _receive(self, size: int) -> tuple[bytes, list[int]] | None:
        """Exactly ``size`` bytes and the file descriptors that came with them; None at the end."""
        data = b""
        descriptors = array.array("i")
        while len(data) < size:
            space = socket.CMSG_SPACE(8 * descriptors.itemsize)
            part, ancillary, *_ = self.connection.recvmsg(size - len(data), space)
            for *_, block in ancillary:
                descriptors.frombytes(block)
            if not part:
                return None
            data += part
        return data, list(descriptors)


def cut(pieces: list[memoryview], start: int, length: int) -> Iterator[memoryview]:
    """The part of a buffer's pieces from ``start``, at most ``length`` bytes of it."""
    for piece in pieces:
        if length <= 0:
            return
        if start >= len(piece):
            start -= len(piece)
            continue
        part = piece[start : start + length]
        yield part
        start = 0
        length -= len(part)

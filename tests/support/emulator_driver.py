"""The machine's side of a vsock device, without a machine: memory, queues and a driver for them."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cagebuild.emulator.vhost import Device
from cagebuild.emulator.vsock import Operation, Switch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CID: Final = 4
PARENT: Final = 3
PORT: Final = 17
"""Of the machine's ends."""
HEADER: Final = struct.Struct("<QQIIIHHIII")
BUFFER: Final = 4096

_SIZE = 64
"""Entries of a queue, and buffers of each direction."""
_MEMORY = 1 << 20
_QEMU = 0x7F0000000000
"""Where QEMU would have mapped the machine's memory."""
_MACHINE = 0x1000
"""Where it begins for the machine."""
_DESCRIPTORS, _AVAILABLE, _USED, _RING = 0, 0x1000, 0x2000, 0x4000
_BUFFERS = (0x10000, 0x80000)
_MESSAGE = struct.Struct("<III")
_NEXT, _WRITE = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A packet for the machine."""

    source: int
    destination: int
    source_port: int
    destination_port: int
    kind: int
    operation: Operation
    flags: int
    credit: int
    forwarded: int
    data: bytes


class Driver:
    """Drives a device with a switch behind it, step by step."""

    def __init__(self, device: Device, switch: Switch, qemu: socket.socket) -> None:
        self.switch: Final = switch
        self._device, self._qemu = device, qemu
        self._file = os.memfd_create("machine")
        os.truncate(self._file, _MEMORY)
        self.memory: Final = mmap.mmap(self._file, _MEMORY)
        self._free: deque[int] = deque(range(_SIZE))
        self._seen = 0
        self._sent = 0
        self.credit = 1 << 16
        self.taken = 0

    def start(self, buffers: int = _SIZE) -> None:
        """Say all that QEMU says, with so many empty buffers for the device."""
        for request in (1, 15, 17):
            assert len(self.ask(request, b"")) == 8
        self.tell(3, b"")
        region = struct.pack("<IIQQQQ", 1, 0, _MACHINE, _MEMORY, _QEMU, 0)
        self.tell(5, region, self._file)
        for number in range(2):
            base = _QEMU + number * _RING
            self.tell(8, struct.pack("<II", number, _SIZE))
            self.tell(10, struct.pack("<II", number, 0))
            places = base + _DESCRIPTORS, base + _USED, base + _AVAILABLE, 0
            self.tell(9, struct.pack("<IIQQQQ", number, 0, *places))
            for request in (13, 12):
                event = os.eventfd(0, os.EFD_NONBLOCK)
                self.tell(request, struct.pack("<Q", number), event)
                os.close(event)
        for _ in range(buffers):
            self.give_buffer()
        self.step()

    def tell(self, request: int, body: bytes, *descriptors: int) -> None:
        """A message to the device."""
        message = _MESSAGE.pack(request, 1, len(body)) + body
        socket.send_fds(self._qemu, [message], descriptors)
        assert self._device.obey()

    def ask(self, request: int, body: bytes) -> bytes:
        """A message to the device, and its answer."""
        self.tell(request, body)
        head = self._qemu.recv(_MESSAGE.size)
        answered, flags, size = _MESSAGE.unpack(head)
        assert (answered, flags) == (request, 5)
        return self._qemu.recv(size) if size else b""

    def step(self) -> None:
        """Let the device do all that there is to do."""
        for _ in range(50):
            self.switch.serve_machine()
            self.switch.serve_host()

    def descriptor(
        self, queue: int, index: int, address: int, length: int, flags: int = 0, after: int = 0
    ) -> None:
        """Write a descriptor; ``address`` is the machine's."""
        place = queue * _RING + _DESCRIPTORS + 16 * index
        struct.pack_into("<QIHH", self.memory, place, address, length, flags, after)

    def offer(self, queue: int, head: int) -> None:
        """Make a chain of descriptors available."""
        place = queue * _RING + _AVAILABLE
        index = struct.unpack_from("<H", self.memory, place + 2)[0]
        struct.pack_into("<H", self.memory, place + 4 + 2 * (index % _SIZE), head)
        struct.pack_into("<H", self.memory, place + 2, index + 1 & 0xFFFF)

    def returned(self, queue: int) -> int:
        """How many buffers the device has given back, modulo 2^16."""
        count: int = struct.unpack_from("<H", self.memory, queue * _RING + _USED + 2)[0]
        return count

    def give_buffer(self, length: int = BUFFER) -> None:
        """An empty buffer for the device, if one is free."""
        index = self._free.popleft()
        self.descriptor(0, index, _MACHINE + _BUFFERS[0] + index * BUFFER, length, _WRITE)
        self.offer(0, index)

    def packets(self, *, keep: bool = False) -> list[Got]:
        """What came for the machine since the last time; the buffers are given back."""
        self.step()
        found = []
        used = _USED
        while self._seen != struct.unpack_from("<H", self.memory, used + 2)[0]:
            place = used + 4 + 8 * (self._seen % _SIZE)
            index, length = struct.unpack_from("<II", self.memory, place)
            self._seen = self._seen + 1 & 0xFFFF
            start = _BUFFERS[0] + index * BUFFER
            raw = self.memory[start : start + length]
            self._free.append(index)
            if not keep:
                self.give_buffer()
            source, destination, *ports, size, kind, operation, flags, credit, forwarded = (
                HEADER.unpack_from(raw)
            )
            assert size == length - HEADER.size
            found.append(
                Got(
                    source=source,
                    destination=destination,
                    source_port=ports[0],
                    destination_port=ports[1],
                    kind=kind,
                    operation=Operation(operation),
                    flags=flags,
                    credit=credit,
                    forwarded=forwarded,
                    data=raw[HEADER.size :],
                )
            )
        return found

    def put(self, raw: bytes, pieces: Sequence[int] = ()) -> None:
        """Send the device what a buffer of the machine holds, in pieces of these sizes."""
        sizes = [*pieces, len(raw) - sum(pieces)]
        start = _BUFFERS[1]
        self.memory[start : start + len(raw)] = raw
        for index, size in enumerate(sizes):
            last = index == len(sizes) - 1
            flags, after = (0, 0) if last else (_NEXT, index + 1)
            self.descriptor(1, index, _MACHINE + start, size, flags, after)
            start += size
        self.offer(1, 0)
        self.switch.serve_machine()

    def send(
        self,
        port: int,
        operation: Operation,
        data: bytes = b"",
        *,
        flags: int = 0,
        pieces: Sequence[int] = (),
        source: int = CID,
        destination: int = PARENT,
        kind: int = 1,
    ) -> None:
        """Send a packet to a port of the parent."""
        ends = source, destination, PORT, port
        what = len(data), kind, operation, flags, self.credit, self.taken
        self.put(HEADER.pack(*ends, *what) + data, pieces)

    def close(self) -> None:
        """Give everything back."""
        os.close(self._file)


@contextlib.contextmanager
def driver(path: Path, *, buffers: int = _SIZE) -> Iterator[Driver]:
    """A device whose host's socket is ``path``, driven."""
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        server = socket.socket(socket.AF_UNIX)
        for each in (ours, theirs, server):
            stack.enter_context(each)
        server.bind(str(path))
        server.listen()
        device = Device(theirs, queues=2, config=struct.pack("<Q", CID))
        incoming, outgoing = device.queues
        switch = Switch(incoming, outgoing, server, cid=CID, parent=PARENT, path=path)
        stack.callback(switch.close)
        driving = Driver(device, switch, ours)
        stack.callback(driving.close)
        driving.start(buffers)
        for number in range(2):
            stack.callback(driving.ask, 11, struct.pack("<II", number, 0))
        yield driving

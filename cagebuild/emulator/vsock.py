"""Streams between a machine and unix sockets of this system (virtio 1.2, 5.10).

Either side may end its direction of a stream, the other goes on. What a reader doesn't take stays
with the writer: of a stream at most BUFFER bytes wait here. A stream that is reset by the machine
ends for the host as any other, for unix sockets have no reset; one that the host closes with
unread data in it is reset for the machine.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cagebuild.emulator.vhost import DeviceError, Queue, cut

if TYPE_CHECKING:
    from pathlib import Path

BUFFER: Final = 256 << 10
"""Bytes from the machine that a stream holds until the host takes them."""
_HEADER = struct.Struct("<QQIIIHHIII")
_STREAM = 1
_MAX_PACKET = 64 << 10
_MAX_PACKETS = 1024
"""Packets without data that may wait for the machine."""
_TURN = 16
"""Packets of a stream before it is another's turn."""
_FIRST_PORT = 1 << 30
"""Ports of the host's ends, above those that anybody listens at."""
_MAX_REQUEST = 32
_NO_RECEIVE, _NO_SEND = 1, 2  # flags of a shutdown: what its sender will not do any more


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
    """A packet from the machine; ``data`` are pieces of its memory."""

    source: int
    destination: int
    source_port: int
    destination_port: int
    kind: int
    operation: int
    flags: int
    credit: int
    """Bytes that the machine can hold for the stream."""
    forwarded: int
    """Bytes of the stream that its reader took, modulo 2^32."""
    data: list[memoryview]

    @classmethod
    def parse(cls, pieces: list[memoryview]) -> Packet:
        """From a buffer of the machine's. Raises DeviceError."""
        raw = b"".join(cut(pieces, 0, _HEADER.size))
        if len(raw) < _HEADER.size:
            raise DeviceError(f"a packet of {len(raw)} bytes, its header has {_HEADER.size}")
        source, destination, *ports, length, kind, operation, flags, credit, forwarded = (
            _HEADER.unpack(raw)
        )
        data = list(cut(pieces, _HEADER.size, length))
        if length > _MAX_PACKET or sum(map(len, data)) != length:
            raise DeviceError(f"a packet says that it has {length} bytes")
        return cls(
            source=source,
            destination=destination,
            source_port=ports[0],
            destination_port=ports[1],
            kind=kind,
            operation=operation,
            flags=flags,
            credit=credit,
            forwarded=forwarded,
            data=data,
        )


@dataclass(slots=True, eq=False)
class Stream:
    """A stream, for the machine one of its connections, for the host a socket."""

    socket: socket.socket
    host_port: int
    port: int
    open: bool = False
    """Whether the machine has agreed to it."""
    waiting: bytearray = field(default_factory=bytearray)
    """From the machine, not yet taken by the host."""
    taken: int = 0
    """Bytes that the host has taken, and how many of them the machine knows of."""
    told: int = 0
    sent: int = 0
    """Bytes to the machine."""
    credit: int = 0
    forwarded: int = 0
    host_ended: bool = False
    """The host will send no more."""
    machine_ended: bool = False
    """The machine will send no more."""
    gone: bool = False
    """For the machine it is over; what waits still goes to the host."""
    interest: int | None = None
    """What is asked of epoll for it."""

    @property
    def room(self) -> int:
        """Bytes that the machine would take now."""
        return max(self.credit - (self.sent - self.forwarded & 0xFFFFFFFF), 0)


class Switch:
    """All streams of a machine. ``incoming`` and ``outgoing`` are queues, seen from the machine."""

    def __init__(
        self,
        incoming: Queue,
        outgoing: Queue,
        server: socket.socket,
        *,
        cid: int,
        parent: int,
        path: Path,
    ) -> None:
        """The host's streams come to ``server``; the machine's go to ``path`` and their port."""
        server.setblocking(False)
        self._incoming, self._outgoing, self._server = incoming, outgoing, server
        self._cid, self._parent, self._path = cid, parent, path
        self._streams: dict[tuple[int, int], Stream] = {}
        self._sockets: dict[int, Stream] = {}
        self._dialling: dict[int, socket.socket] = {}
        self._packets: deque[bytes] = deque()
        """Without data, for the machine."""
        self._starved: set[Stream] = set()
        """Which had to stop for the machine has no buffers."""
        self._next_port = _FIRST_PORT
        self._epoll = select.epoll()
        self._epoll.register(server, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when ``serve_host`` has something to do."""
        return self._epoll.fileno()

    def close(self) -> None:
        """End all streams."""
        for stream in [*self._sockets.values()]:
            self._drop(stream)
        for caller in self._dialling.values():
            caller.close()
        self._epoll.close()

    # ---- From the machine

    def serve_machine(self) -> None:
        """Handle what the machine has put into its queues, and give it what waits for it."""
        self._send_packets()
        # One that takes no answers is not asked for more of its own.
        while len(self._packets) < _MAX_PACKETS and (chain := self._outgoing.take()):
            self._handle(Packet.parse(chain.pieces))
            self._outgoing.give(chain, 0)
            self._send_packets()
        starved, self._starved = self._starved, set()
        for stream in starved:
            self._watch(stream)
        self.notify()

    def notify(self) -> None:
        """Tell the machine about its queues."""
        self._incoming.notify()
        self._outgoing.notify()

    def _handle(self, packet: Packet) -> None:
        key = packet.destination_port, packet.source_port
        known = packet.destination == self._parent and packet.source == self._cid
        stream = self._streams.get(key) if known and packet.kind == _STREAM else None
        if stream is None:
            if known and packet.kind == _STREAM and packet.operation == Operation.REQUEST:
                self._call_host(packet)
            elif packet.operation != Operation.RST:
                self._refuse(packet)
            return
        stream.credit, stream.forwarded = packet.credit, packet.forwarded
        match packet.operation:
            case Operation.RESPONSE if not stream.open:
                self._answer_host(stream)
            case Operation.RW if stream.open and not stream.machine_ended:
                self._take(stream, packet.data)
            case Operation.SHUTDOWN:
                self._end_machines(stream, packet.flags)
            case Operation.RST:
                self._forget(stream)
                if not stream.machine_ended:
                    stream.waiting.clear()
                self._finish(stream)
            case Operation.CREDIT_UPDATE:
                self._watch(stream)
            case Operation.CREDIT_REQUEST:
                self._send(stream, Operation.CREDIT_UPDATE)
            case _:
                self._reset(stream)

    def _call_host(self, packet: Packet) -> None:
        """Open a stream that the machine asks for."""
        caller = socket.socket(socket.AF_UNIX)
        caller.setblocking(False)
        try:
            caller.connect(f"{self._path}_{packet.destination_port}")
        except OSError:  # nobody listens, or too many wait already
            caller.close()
            self._refuse(packet)
            return
        stream = Stream(caller, packet.destination_port, packet.source_port, open=True)
        stream.credit, stream.forwarded = packet.credit, packet.forwarded
        self._add(stream)
        self._send(stream, Operation.RESPONSE)
        self._watch(stream)

    def _answer_host(self, stream: Stream) -> None:
        """Tell the host that the machine has agreed to its stream."""
        stream.open = True
        stream.waiting += b"OK %d\n" % stream.host_port
        stream.taken -= len(stream.waiting)  # for the machine never sent it
        stream.told = stream.taken
        self._flush(stream)

    def _take(self, stream: Stream, data: list[memoryview]) -> None:
        """Pass bytes on to the host, as many as it takes now."""
        size = sum(map(len, data))
        if len(stream.waiting) + size > BUFFER:
            self._reset(stream)
            return
        passed = 0
        if not stream.waiting:
            try:
                passed = stream.socket.sendmsg(data, [], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                pass
            except OSError:  # the host has closed it
                self._reset(stream)
                return
        stream.taken += passed
        stream.waiting += b"".join(cut(data, passed, size))
        self._tell(stream)
        self._watch(stream)

    def _tell(self, stream: Stream) -> None:
        """Announce what the host has taken, before the machine has to wait for that."""
        if stream.taken - stream.told >= BUFFER // 4 and not stream.gone:
            self._send(stream, Operation.CREDIT_UPDATE)

    def _end_machines(self, stream: Stream, flags: int) -> None:
        if flags & _NO_RECEIVE and not flags & _NO_SEND:
            with contextlib.suppress(OSError):
                stream.socket.shutdown(socket.SHUT_RD)
        if flags & _NO_SEND:
            stream.machine_ended = True
        if flags & _NO_RECEIVE and flags & _NO_SEND:
            self._send(stream, Operation.RST)
            self._forget(stream)
        self._finish(stream)

    # ---- To the machine

    def _send(self, stream: Stream, operation: Operation, flags: int = 0) -> None:
        self._packets.append(self._header(stream, operation, 0, flags))

    def _header(self, stream: Stream, operation: Operation, size: int, flags: int = 0) -> bytes:
        stream.told = stream.taken
        ports = stream.host_port, stream.port
        forwarded = max(stream.taken, 0) & 0xFFFFFFFF
        what = size, _STREAM, operation, flags
        return _HEADER.pack(self._parent, self._cid, *ports, *what, BUFFER, forwarded)

    def _refuse(self, packet: Packet) -> None:
        """Reset what there is no stream for."""
        addresses = packet.destination, packet.source, packet.destination_port, packet.source_port
        self._packets.append(_HEADER.pack(*addresses, 0, packet.kind, Operation.RST, 0, 0, 0))

    def _send_packets(self) -> None:
        while self._packets and (chain := self._incoming.take()):
            header = self._packets.popleft()
            _fill(chain.pieces, header)
            self._incoming.give(chain, len(header))

    def _read(self, stream: Stream) -> None:
        """Give the machine what the host has sent, as much as it can hold."""
        for _ in range(_TURN):
            self._send_packets()
            if not stream.room or stream.host_ended:
                break
            chain = self._incoming.take()
            if chain is None:
                self._starved.add(stream)
                break
            views = list(cut(chain.pieces, _HEADER.size, min(stream.room, _MAX_PACKET)))
            if not views:
                raise DeviceError("a buffer of the machine's has no room for data")
            try:
                size = stream.socket.recvmsg_into(views)[0]
            except BlockingIOError:
                self._incoming.put_back()
                break
            except OSError:
                self._incoming.put_back()
                self._reset(stream)
                return
            if not size:
                self._incoming.put_back()
                stream.host_ended = True
                self._send(stream, Operation.SHUTDOWN, _NO_SEND)
                break
            stream.sent += size
            _fill(chain.pieces, self._header(stream, Operation.RW, size))
            self._incoming.give(chain, _HEADER.size + size)
        self._watch(stream)

    # ---- The host

    def serve_host(self) -> None:
        """Handle what sockets have to say."""
        for descriptor, events in self._epoll.poll(0):
            if descriptor == self._server.fileno():
                self._accept()
            elif caller := self._dialling.get(descriptor):
                self._read_request(caller)
            elif stream := self._sockets.get(descriptor):
                self._serve(stream, events)
        self._send_packets()
        self.notify()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            caller, _ = self._server.accept()
            caller.setblocking(False)
            self._dialling[caller.fileno()] = caller
            # What is there stays there until all of the line is, so only news may wake this up.
            self._epoll.register(caller, select.EPOLLIN | select.EPOLLET)

    def _read_request(self, caller: socket.socket) -> None:
        """Read ``CONNECT port``; what follows its line belongs to the stream."""
        try:
            line, found, _ = caller.recv(_MAX_REQUEST, socket.MSG_PEEK).partition(b"\n")
        except BlockingIOError:
            return
        except OSError:
            line, found = b"", b""
        word, _, port = line.partition(b" ")
        if line and not found and len(line) < _MAX_REQUEST:
            return  # the rest is on its way
        del self._dialling[caller.fileno()]
        self._epoll.unregister(caller)
        caller.recv(len(line) + 1)  # all of it, or closing would be a reset
        if word != b"CONNECT" or not port.isdigit() or not self._incoming.running:
            caller.close()
            return
        while (self._next_port, int(port)) in self._streams:
            self._next_port += 1
        stream = Stream(caller, self._next_port, int(port) & 0xFFFFFFFF)
        self._next_port = max(self._next_port + 1 & 0x7FFFFFFF, _FIRST_PORT)
        self._add(stream)
        self._send(stream, Operation.REQUEST)

    def _serve(self, stream: Stream, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush(stream)
        if stream.interest is not None and events & select.EPOLLIN:
            self._read(stream)
        elif events & (select.EPOLLHUP | select.EPOLLERR) and stream.socket.fileno() >= 0:
            self._host_is_gone(stream)

    def _flush(self, stream: Stream) -> None:
        """Give the host more of what waits for it."""
        try:
            passed = stream.socket.send(stream.waiting, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            passed = 0
        except OSError:
            self._reset(stream)
            return
        stream.taken += passed
        del stream.waiting[:passed]
        self._tell(stream)
        self._finish(stream)

    def _host_is_gone(self, stream: Stream) -> None:
        """Nobody will read or write the socket, and all that was written has been read."""
        if not stream.gone:
            self._send(stream, Operation.SHUTDOWN, _NO_SEND | _NO_RECEIVE)
        self._drop(stream)

    # ---- A stream's life

    def _add(self, stream: Stream) -> None:
        self._streams[stream.host_port, stream.port] = stream
        self._sockets[stream.socket.fileno()] = stream

    def _forget(self, stream: Stream) -> None:
        """For the machine it is over."""
        stream.gone = True
        self._streams.pop((stream.host_port, stream.port), None)

    def _finish(self, stream: Stream) -> None:
        """End the machine's direction, or all of it, once the host has got everything."""
        if not stream.waiting:
            if stream.gone:
                self._drop(stream)
                return
            if stream.machine_ended:
                with contextlib.suppress(OSError):
                    stream.socket.shutdown(socket.SHUT_WR)
        self._watch(stream)

    def _reset(self, stream: Stream) -> None:
        """Something is wrong with it: tell the machine, and the host by closing."""
        if not stream.gone:
            self._send(stream, Operation.RST)
            self._forget(stream)
        self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        """Close the socket. The machine may still know the stream, and say more about it."""
        if stream.socket.fileno() < 0:
            return
        self._starved.discard(stream)
        self._ask(stream, None)
        del self._sockets[stream.socket.fileno()]
        stream.socket.close()
        self._streams.pop((stream.host_port, stream.port), None)

    def _watch(self, stream: Stream) -> None:
        """Ask epoll for what can be done with it."""
        if stream.socket.fileno() < 0:
            return
        interest: int | None = None
        if stream.waiting:
            interest = select.EPOLLOUT
        if stream.open and not stream.gone:
            if stream.host_ended:
                interest = interest or 0  # its end is heard of without asking
            elif stream.room and stream not in self._starved:
                interest = (interest or 0) | select.EPOLLIN
        self._ask(stream, interest)

    def _ask(self, stream: Stream, interest: int | None) -> None:
        if interest == stream.interest:
            return
        if interest is None:
            self._epoll.unregister(stream.socket)
        elif stream.interest is None:
            self._epoll.register(stream.socket, interest)
        else:
            self._epoll.modify(stream.socket, interest)
        stream.interest = interest


def _fill(pieces: list[memoryview], data: bytes) -> None:
    """Write to the begin of a buffer."""
    done = 0
    for piece in cut(pieces, 0, len(data)):
        piece[:] = data[done : done + len(piece)]
        done += len(piece)
    if done < len(data):
        raise DeviceError(f"the machine's buffer has {done} bytes, a packet {len(data)}")

"""The app of a cage in tests: says what devices there are, and answers at ports of the vsock.

It is a file of the image, so it imports nothing of this project.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PARENT = 3
SIZE = 8 << 20


def answer(stream: socket.socket) -> None:
    """Read to the end, then say what came: the other direction is still open."""
    digest, size = hashlib.sha256(), 0
    while part := stream.recv(1 << 20):
        digest.update(part)
        size += len(part)
    stream.sendall(f"{size} {digest.hexdigest()}".encode())


def tell(stream: socket.socket) -> None:
    """Write a lot and end that direction, then say on the console what still came."""
    stream.sendall(bytes(range(256)) * (SIZE // 256))
    stream.shutdown(socket.SHUT_WR)
    size = 0
    while part := stream.recv(1 << 20):
        size += len(part)
    print("after its own end:", size, flush=True)


def call(stream: socket.socket) -> None:
    """Open a stream to a port of the parent, and hand over what comes from there."""
    port = int(stream.recv(16))
    try:
        with socket.socket(socket.AF_VSOCK) as called:
            called.connect((PARENT, port))
            stream.sendall(called.recv(100))
    except OSError as error:
        stream.sendall(type(error).__name__.encode())


def hold(stream: socket.socket) -> None:
    """Take nothing until the word on another stream, then everything."""
    released.wait()
    answer(stream)


def release(stream: socket.socket) -> None:
    """The word."""
    released.set()


def wait(stream: socket.socket) -> None:
    """Write one byte, which nobody reads, and say on the console how the stream ends.

    Linux has no word for a reset of a vsock's stream: it is read as an end. Writing fails, though.
    """
    stream.sendall(b"?")
    read = stream.recv(1)
    try:
        stream.sendall(b"?")
        print("ended with", read, flush=True)
    except OSError as error:
        print("ended with", read, type(error).__name__, flush=True)


def stop(stream: socket.socket) -> None:
    """End the enclave."""
    for folder in Path("/proc").glob("[0-9]*"):
        if b"cage-guest\0boot\0" in (folder / "cmdline").read_bytes():
            os.kill(int(folder.name), signal.SIGTERM)


released = threading.Event()
PORTS = {5000: answer, 5001: tell, 5002: call, 5003: hold, 5004: release, 5005: wait, 5006: stop}


def serve(port: int, handle: Callable[[socket.socket], None]) -> None:
    """Handle each stream to a port in a thread of its own."""

    def handled(stream: socket.socket) -> None:
        with stream:
            handle(stream)

    with socket.socket(socket.AF_VSOCK) as server:
        server.bind((socket.VMADDR_CID_ANY, port))
        server.listen()
        ready.release()
        while True:
            stream, _ = server.accept()
            threading.Thread(target=handled, args=(stream,)).start()


ready = threading.Semaphore(0)

if __name__ == "__main__":
    for name in ("nsm", "vsock", "hwrng"):
        kind = stat.S_ISCHR(Path("/dev", name).stat().st_mode)
        print(f"/dev/{name} is {'a device' if kind else 'something else'}")
    source = Path("/sys/class/misc/hw_random/rng_current").read_text().strip()
    print("random numbers come from", source, flush=True)
    for port, handle in PORTS.items():
        threading.Thread(target=serve, args=(port, handle)).start()
        ready.acquire()
    print("ready", flush=True)

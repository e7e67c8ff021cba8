"""Enclave images in QEMU's machine `nitro-enclave`, which `nox -s emulator` makes.

The machine unpacks the image itself, has an NSM, and its vsock is sockets of this system, with the
parent at CID 3 as on Nitro.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

EMULATOR: Final = Path(__file__).parents[2] / ".nox/emulator"
GUEST_CID: Final = 4
HEARTBEAT: Final = b"\xb7"
HEARTBEAT_PORT: Final = 9000
APPENDED: Final = "reboot=t panic=1"
"""Words that QEMU adds to the image's command line, unmeasured. No other restart ends QEMU."""

_HANGS = 240
"""Seconds after which something hangs; a boot takes about three of an idle processor's."""

needs_emulator = pytest.mark.skipif(
    not (EMULATOR / "recipe").exists(), reason="there is no emulator: run `nox -s emulator`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a machine came to its end."""

    status: int
    """QEMU's own: 0 when the machine restarted."""
    console: str


class Machine:
    """An enclave that runs, seen from its parent."""

    def __init__(self, process: subprocess.Popen[str], vsock: Path, heart: Heart) -> None:
        self.vsock: Final = vsock
        """Streams to port 17 begin at ``hybrid://VSOCK:17``; the guest's own come to VSOCK_17."""
        self.heart: Final = heart
        self.process: Final = process
        self._lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="console")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def _next(self, deadline: float) -> bool:
        """Take another line of the console, waiting for it; False when it has ended."""
        try:
            line = self._queue.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            raise AssertionError(f"the machine hangs:\n{self.console}") from None
        if line is None:
            self._queue.put(None)
            return False
        self._lines.append(line)
        return True

    @property
    def console(self) -> str:
        """What was read of it so far."""
        return "\n".join(self._lines)

    def until(self, pattern: str) -> re.Match[str]:
        """Read on until a line has ``pattern``, and return the match."""
        deadline = time.monotonic() + _HANGS
        while self._next(deadline):
            if found := re.search(pattern, self._lines[-1]):
                return found
        raise AssertionError(f"the console ended without {pattern!r}:\n{self.console}")

    def end(self) -> Ended:
        """Wait until the machine ends by itself."""
        deadline = time.monotonic() + _HANGS
        while self._next(deadline):
            pass
        return Ended(status=self.process.wait(_HANGS), console=self.console)

    def connect(self, port: int) -> socket.socket:
        """Open a stream to a port of the guest; ConnectionError if nothing listens there."""
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.settimeout(_HANGS)
            stream.connect(str(self.vsock))
            stream.sendall(b"CONNECT %d\n" % port)
            answer = b""
            while not answer.endswith(b"\n"):
                byte = stream.recv(1)
                if not byte:
                    raise ConnectionRefusedError(f"nothing listens at port {port} of the guest")
                answer += byte
            assert re.fullmatch(rb"OK \d+\n", answer)
        except BaseException:
            stream.close()
            raise
        return stream

    def kill(self) -> None:
        """Turn it off, if it is still on."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdout:
            self.process.stdout.close()


class Heart:
    """Sends back what comes to the port of the heartbeat, byte by byte, one stream at a time."""

    def __init__(self, server: socket.socket) -> None:
        self.beats: Final[list[bytes]] = []
        """What came, stream by stream."""
        self._server = server
        self._thread = threading.Thread(target=self._serve, name="heartbeat")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._server.accept()
            except OSError:
                return  # stopped
            with stream, contextlib.suppress(ConnectionError, TimeoutError):
                stream.settimeout(_HANGS)
                self.beats.append(b"")
                while byte := stream.recv(1):
                    self.beats[-1] += byte
                    stream.sendall(byte)

    def stop(self) -> None:
        """End the thread. The guest, which could still hold a stream, has to be gone."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # ends the wait for a guest
        self._thread.join()


@contextlib.contextmanager
def vsock_folder() -> Iterator[Path]:
    """A path for a machine's vsock, short enough for what is appended to it."""
    with tempfile.TemporaryDirectory(prefix="cage-") as folder:
        yield Path(folder) / "vm"


@contextlib.contextmanager
def listen(vsock: Path, port: int) -> Iterator[socket.socket]:
    """Accept what the guest opens to this port of its parent; to be there before the guest."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{vsock}_{port}")
        server.listen()
        yield server


@contextlib.contextmanager
def boot(
    image: Path, vsock: Path, *, memory: int = 512, cpus: int = 2, appended: str = APPENDED
) -> Iterator[Machine]:
    """Boot an image file; machine and device are gone at the end of the block.

    ``memory`` is in MiB. Who else talks to the guest does so through ``vsock``.
    """
    with contextlib.ExitStack() as stack:
        heart = Heart(stack.enter_context(listen(vsock, HEARTBEAT_PORT)))
        stack.callback(heart.stop)
        device = stack.enter_context(_device(vsock))
        machine = Machine(
            stack.enter_context(
                _running(
                    *(EMULATOR / "qemu-system-x86_64", "-L", EMULATOR / "firmware"),
                    *("-machine", "nitro-enclave,vsock=vsock,id=emulated"),
                    *("-accel", "tcg", "-cpu", "max", "-smp", str(cpus), "-m", f"{memory}M"),
                    *("-chardev", f"socket,id=vsock,path={device}"),
                    *("-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"),
                    *("-serial", "stdio", "-kernel", image, "-append", appended),
                    stdout=subprocess.PIPE,
                )
            ),
            vsock,
            heart,
        )
        stack.callback(machine.kill)
        yield machine


@contextlib.contextmanager
def _device(vsock: Path) -> Iterator[Path]:
    """The vsock device, which waits for QEMU at a socket; the path of that."""
    device = vsock.with_name("device")
    log = vsock.with_name("device.log")
    with (
        log.open("w") as output,
        _running(
            *(sys.executable, "-m", "cagebuild.emulator", "--cid", str(GUEST_CID)),
            *("--device", device, "--vsock", vsock),
            stdout=output,
        ) as process,
    ):
        deadline = time.monotonic() + _HANGS
        while not device.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield device


@contextlib.contextmanager
def _running(*words: str | Path, stdout: int | TextIO) -> Iterator[subprocess.Popen[str]]:
    """A program that is killed at the end of the block, or when this process ends otherwise."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()

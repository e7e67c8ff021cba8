"""Machines without a machine: a network and a file system of its own for programs of a test.

What a program changes below / stays there; one folder is shared with the test. Processes end with
the namespace. The test itself can open sockets in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

# $1: a folder to mount on, $2: the shared folder.
_PREPARE = """
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
mount -t tmpfs -o mode=0755 tmpfs "$1/root/run"
mkdir -p "$1/root$2"
mount --bind "$2" "$1/root$2"
rm -f "$1/root/etc/resolv.conf"
printf 'nameserver 127.0.0.1\\n' >"$1/root/etc/resolv.conf"
printf '127.0.0.1\\tlocalhost\\n' >"$1/root/etc/hosts"
ip link set lo up
echo ready
exec chroot "$1/root" cat
"""


class Namespace:
    """A network with a loopback interface, a root that is a copy of the machine's, processes."""

    def __init__(self, scratch: Path, shared: Path) -> None:
        scratch.mkdir(exist_ok=True)
        shared.mkdir(exist_ok=True)
        self.shared = shared
        """The same folder inside and outside."""
        self._unshare = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child",
             "sh", "-euc", _PREPARE, "sh", str(scratch), str(shared)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._unshare.stdout is not None
        said = self._unshare.stdout.readline()
        if said != b"ready\n":
            self.close()
            raise RuntimeError("the namespace was not made")
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.pid = int(children.read_text())
        """Its first process."""
        self.root = Path(f"/proc/{self.pid}/root")
        """Its files, as seen from outside."""
        self._network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all that runs in it."""
        if self._unshare.poll() is None:
            self._unshare.send_signal(signal.SIGKILL)
        self._unshare.communicate()
        if hasattr(self, "_network"):
            os.close(self._network)
            del self._network

    def words(self, *argv: str) -> list[str]:
        """An argument vector that runs a program in here."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", "-p", "-r", "-w", *argv]

    def run(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and return what it wrote; nothing is checked."""
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            self.words(*argv),
            capture_output=True, encoding="utf-8", errors="replace",
            timeout=120, check=False, **options,
        )  # fmt: skip

    def output(self, *argv: str, **options: Any) -> str:
        """Run a program that succeeds, and return its standard output."""
        done = self.run(*argv, **options)
        assert done.returncode == 0, (argv, done.returncode, done.stdout, done.stderr)
        return done.stdout

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within the block, sockets that this thread makes are in here."""
        with Path("/proc/thread-self/ns/net").open("rb") as before:
            _set_network(self._network)
            try:
                yield
            finally:
                _set_network(before.fileno())

    def socket(self, make: Callable[[], socket.socket]) -> socket.socket:
        """A socket made in here."""
        with self.entered():
            return make()


def _set_network(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Program(subprocess.Popen[bytes]):
    """A program in a namespace whose standard output and error are kept, line by line."""

    def __init__(self, place: Namespace, *argv: str, **options: Any) -> None:
        super().__init__(
            place.words(*argv), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
        )  # fmt: skip
        self.lines: list[str] = []
        self._read = threading.Condition()
        self._reader = threading.Thread(target=self._keep)
        self._reader.start()

    def _keep(self) -> None:
        assert self.stdout is not None
        for line in self.stdout:
            with self._read:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._read.notify_all()

    @property
    def number(self) -> int:
        """The number, outside, of the program itself: nsenter waits for it as its child."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        deadline = time.monotonic() + 60
        while not (found := children.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return int(found)

    def send_signal(self, sig: int) -> None:
        """Send a signal to the program itself."""
        os.kill(self.number, sig)

    def until(self, text: str, *, since: int = 0) -> str:
        """The first line that holds a text, from the line of this number on; waits for it."""
        deadline = time.monotonic() + 60
        with self._read:
            while True:
                for line in self.lines[since:]:
                    if text in line:
                        return line
                ended = self.poll() is not None and not self._reader.is_alive()
                assert not ended, f"it ended without {text!r}: {self.lines}"
                assert time.monotonic() < deadline, f"no {text!r} in {self.lines}"
                self._read.wait(0.2)

    def stop(self) -> int:
        """Ask for the end and return the exit status."""
        self.terminate()
        return self.ended()

    def ended(self) -> int:
        """Wait for the end and return the exit status."""
        status = self.wait(timeout=120)
        self._reader.join()
        return status

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            with contextlib.suppress(OSError):
                self.kill()
        self.ended()
        assert self.stdout is not None
        self.stdout.close()

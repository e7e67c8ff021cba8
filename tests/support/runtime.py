"""The runtime's toolchain and installers, built once a test session, and an image to boot."""

from __future__ import annotations

import fcntl
import os
import queue
import re
import signal
import stat
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.runtime import host_architecture, settings
from tests.support import made
from tests.support.golang import compile_program
from tests.support.unpacking import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).parent / "probe"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="chroot and namespaces need root: run the tests with sudo"
)


def shared_work(factory: pytest.TempPathFactory) -> Path:
    """A folder with the Go toolchain, its cache and the probe app, for all test processes."""
    base = factory.getbasetemp()
    work = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cage-runtime"
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (work / "probe").exists():
            compile_program(work, PROBE, work / "probe")
    return work


def make_root(work: Path, root: Path, content: bytes) -> Path:
    """An image from scratch: the runtime, the cage's settings, the probe, and what init mounts."""
    root.mkdir(parents=True)
    install_runtime(root)
    (root / "cage/etc/cage.json").write_bytes(content)
    (root / "probe").write_bytes((work / "probe").read_bytes())
    (root / "probe").chmod(0o755)
    prepare_mounts(root)
    root.chmod(0o755)
    return root


def install_runtime(root: Path) -> None:
    """Put what the installer holds below ``root``."""
    unpack(made.installer(host_architecture()), root)


def prepare_mounts(root: Path) -> None:
    """The folders that a ramdisk always has, and of /dev what is needed here."""
    for folder in ("dev", "etc", "proc", "run", "sys", "tmp"):
        (root / folder).mkdir(mode=0o755, exist_ok=True)
    for name, minor in (("null", 3), ("urandom", 9)):
        if not (root / "dev" / name).exists():
            os.mknod(root / "dev" / name, stat.S_IFCHR, os.makedev(1, minor))
            (root / "dev" / name).chmod(0o666)
    for name, target in (("stdin", "0"), ("stdout", "1"), ("stderr", "2")):
        if not (root / "dev" / name).is_symlink():
            (root / "dev" / name).symlink_to(f"/proc/self/fd/{target}")


_ENTER = """
mount -t proc proc "$1/proc"
mount -t tmpfs -o nosuid,nodev,noexec,mode=0755 tmpfs "$1/run"
exec chroot "$1" /cage/bin/cage-guest boot
"""


class Guest(subprocess.Popen[str]):
    """``cage-guest boot`` in namespaces of its own, as their first process. All ends with it."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        namespaces = ("--mount", "--uts", "--net", "--ipc", "--pid", "--fork", "--kill-child")
        super().__init__(
            ["unshare", *namespaces, "sh", "-euc", _ENTER, "sh", str(root)],
            env={"PATH": os.environ["PATH"], **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.lines: list[str] = []
        """What was read of the console."""
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None

    def __exit__(self, *error: object) -> None:
        if self.poll() is None:
            super().send_signal(signal.SIGKILL)  # the namespace ends with it
        if self._reader:
            self._reader.join()
        super().__exit__(None, None, None)

    @property
    def boot(self) -> int:
        """The number of the process ``cage-guest boot``, outside."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        assert_soon(lambda: children.read_text() != "")
        return int(children.read_text())

    def send_signal(self, sig: int) -> None:
        """Send a signal to ``cage-guest boot``."""
        os.kill(self.boot, sig)

    def _read(self) -> None:
        assert self.stdout is not None
        for line in self.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def line(self, limit: float = 60) -> str | None:
        """The next line of the console, for which to wait so many seconds; None at its end."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read)
            self._reader.start()
        line = self._queue.get(timeout=limit)
        if line is None:
            self._queue.put(None)
            return None
        self.lines.append(line)
        return line

    def until(self, pattern: str) -> re.Match[str]:
        """Read on until a line matches, and return the match."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and (line := self.line()) is not None:
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"the console has no {pattern!r}:\n{''.join(self.lines)}")

    def rest(self) -> str:
        """Read to the end, wait, and return the whole console."""
        while self.line() is not None:
            pass
        self.wait(timeout=60)
        return "".join(self.lines)

    def stop(self) -> int:
        """Ask for the end, and return the exit status."""
        self.terminate()
        self.rest()
        return self.returncode

    def processes(self) -> dict[int, Process]:
        """All processes of the guest, by their numbers outside."""
        namespace = Path(f"/proc/{self.boot}/ns/pid").stat().st_ino
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and (folder / "ns/pid").stat().st_ino == namespace:
                    found[int(folder.name)] = _process(folder)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def find(self, *words: str) -> int:
        """The number, outside, of the process with this command line; waits until there is one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for number, found in self.processes().items():
                if found.words == words and found.state != "Z":
                    return number
            time.sleep(0.02)
        raise AssertionError(f"no process {words}: {self.processes()}")


@dataclass(frozen=True, kw_only=True)
class Process:
    """What /proc says of a process."""

    words: tuple[str, ...]
    state: str


def _process(folder: Path) -> Process:
    words = (folder / "cmdline").read_text(encoding="utf-8").split("\0")[:-1]
    state = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return Process(words=tuple(words), state=state)


def boot(root: Path, *, env: Mapping[str, str] | None = None) -> Guest:
    """Start ``cage-guest boot`` with ``root`` as its root."""
    return Guest(root, env or {})


def cage(*command: str, **changes: Any) -> bytes:
    """Settings that run the probe with a command, as root, with no environment."""
    values: dict[str, Any] = {
        "name": "pay",
        "argv": ["/probe", *command],
        "uid": 0,
        "gid": 0,
        "groups": [],
        "env": [],
        "workdir": "/",
        "ingress": [],
        "egress": [],
        "secrets": {"env": [], "files": []},
        "logs": False,
        "epoch": 0,
        **changes,
    }
    return settings(**values)


def start(root: Path, content: bytes) -> Guest:
    """Start the runtime with these settings, and an environment that must not leak."""
    (root / "cage/etc/cage.json").write_bytes(content)
    return boot(root, env={"LEAK": "the environment of boot"})


def assert_soon(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)

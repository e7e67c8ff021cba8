"""The runtime's toolchain and installers, built once a test session, and an image to boot."""

from __future__ import annotations

import fcntl
import os
import queue
import re
import shutil
import stat
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cagebuild.runtime.recipe import environment, provide_toolchain

from cagebuild import process
from cagebuild.runtime import build, host_architecture
from tests.support.unpacking import unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).parent / "probe"
BUSYBOX = Path(os.environ.get("CAGEBUILD_TEST_BUSYBOX", ROOT / ".nox/busybox"))

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="chroot and namespaces need root: run the tests with sudo"
)


def shared_work(factory: pytest.TempPathFactory) -> Path:
    """A folder with toolchain, Go's cache and this machine's installer, for all test processes."""
    base = factory.getbasetemp()
    work = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cage-runtime"
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (work / "ready").exists():
            build(host_architecture(), work)
            compile_probe(work)
            (work / "ready").touch()
    return work


def compile_probe(work: Path) -> None:
    """Build the probe app into ``work``."""
    goroot = provide_toolchain(work)
    process.run(
        [str(goroot / "bin" / "go"), "build", "-buildvcs=false", "-o", str(work / "probe"), "."],
        cwd=PROBE,
        env=environment(goroot, work),
    )


def run_go(work: Path, *words: str, **env: str) -> bytes:
    """Run the pinned go command in the module, with this machine's own programs on its PATH."""
    goroot = provide_toolchain(work)
    path = f"{goroot}/bin:{os.environ['PATH']}"
    return process.run(
        [str(goroot / "bin" / "go"), *words],
        cwd=ROOT / "runtime",
        env={**environment(goroot, work), "PATH": path, **env},
    )


def make_root(work: Path, root: Path, settings: bytes) -> Path:
    """An image from scratch: the runtime, the cage's settings, the probe, and what init mounts."""
    root.mkdir(parents=True)
    install_runtime(work, root)
    (root / "cage/etc/cage.json").write_bytes(settings)
    (root / "probe").write_bytes((work / "probe").read_bytes())
    (root / "probe").chmod(0o755)
    prepare_mounts(root)
    root.chmod(0o755)
    return root


def install_runtime(work: Path, root: Path) -> None:
    """Put everything that an installer holds below ``root``: programs, links, services."""
    unpack(work / f"installer-{host_architecture()}.tar", root)
    shutil.copy(BUSYBOX / f"busybox-{host_architecture()}", root / "cage/bin/busybox")
    for name in (BUSYBOX / "busybox-links").read_text(encoding="ascii").split():
        (root / "cage/bin" / name).symlink_to("busybox")
    shutil.copytree(ROOT / "runtime/service", root / "cage/service", dirs_exist_ok=True)


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
            self.kill()
        if self._reader:
            self._reader.join()
        super().__exit__(None, None, None)

    @property
    def boot(self) -> int:
        """The number of the process ``cage-guest boot``, outside."""
        (child,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(child)

    def send_signal(self, sig: int) -> None:
        """Send a signal to ``cage-guest boot``."""
        os.kill(self.boot, sig)

    def _read(self) -> None:
        assert self.stdout is not None
        for line in self.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def line(self, limit: float = 60) -> str | None:
        """The next line of the console; None when it has ended."""
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
        while (line := self.line()) is not None:
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
        namespace = os.stat(f"/proc/{self.boot}/ns/pid").st_ino
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and os.stat(folder / "ns/pid").st_ino == namespace:
                    found[int(folder.name)] = _process(folder)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def find(self, *words: str) -> int:
        """The number, outside, of the process with this command line; waits until there is one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for number, process in self.processes().items():
                if process.words == words and process.state != "Z":
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

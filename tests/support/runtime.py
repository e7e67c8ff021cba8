"""The runtime's toolchain and installers, built once a test session, and an image to boot."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
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
    """An image from scratch: the installer, the cage's settings, the probe, and /dev/null."""
    unpack(work / f"installer-{host_architecture()}.tar", root)
    (root / "cage/etc/cage.json").write_bytes(settings)
    (root / "probe").write_bytes((work / "probe").read_bytes())
    (root / "probe").chmod(0o755)
    for folder in ("dev", "etc", "proc"):
        (root / folder).mkdir(mode=0o755)
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / "dev/null").chmod(0o666)
    root.chmod(0o755)
    return root


def boot(root: Path, *, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start ``cage-guest boot`` with ``root`` as its root, host name and network its own."""
    return subprocess.Popen(
        ["unshare", "--uts", "--net", "chroot", str(root), "/cage/bin/cage-guest", "boot"],
        env={"PATH": os.environ["PATH"], **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

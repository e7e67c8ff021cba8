"""What a user has: a repository with two lines in tasks.py, a store, and a terminal.

Everything runs as real processes of ``python -m invoke`` or ``python -m nox``, with this checkout
of cagebuild on their path and a bare environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cagebuild.recipes import pins
from cagebuild.store import Store
from tests.support import eif_by_spec
from tests.support.checkout import Checkout
from tests.support.made import seed_store
from tests.support.nitro import arm_image, bzimage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

    from cagebuild.config.model import Architecture

PROJECT = Path(__file__).parents[2]
TASKS = "from cagebuild.tasks import *\n"
SESSIONS = "from cagebuild.sessions import *\n"
TIMEOUT = 400
"""Seconds after which a command hangs for sure."""

OWN_BOOT = """\
[enclave]
boot = { kernel = "//boot/kernel", init = "//boot/init", cmdline = "//boot/cmdline" }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def screen(self) -> str:
        """All that the user sees."""
        return self.out + self.err

    def pcrs(self) -> dict[str, dict[str, str]]:
        """The PCRs that were printed, by address."""
        found: dict[str, dict[str, str]] = {}
        address = ""
        for line in self.out.splitlines():
            if line.startswith("//"):
                address = line.split()[0]
            elif match := re.fullmatch(r"  (PCR\d)  ([0-9a-f]{96})", line):
                found.setdefault(address, {})[match[1]] = match[2]
        return found

    def ran(self) -> list[str]:
        """Names of the steps that were run, in their order."""
        return re.findall(r"^\[\d+/\d+\] ran    (.*) … [\d.]+s", self.err, re.MULTILINE)


class Started:
    """A command that is running, in a process group of its own."""

    def __init__(self, argv: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def interrupt(self) -> None:
        """What Ctrl-C at a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> Ended:
        """Wait for it; whatever happened, a user must not see a traceback."""
        try:
            out, err = self.process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            out, err = self.process.communicate()
            raise AssertionError(f"hangs:\n{out.decode()}\n{err.decode()}") from None
        ended = Ended(code=self.process.returncode, out=out.decode(), err=err.decode())
        assert "Traceback" not in ended.screen, ended.screen
        return ended


class Repo:
    """A repository of a user's, with boot files that pass every check and boot nothing."""

    def __init__(self, root: Path, store: Path, **environment: str) -> None:
        self.checkout = Checkout(root)
        self.root = self.checkout.root
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root.parent),
            "PYTHONPATH": str(PROJECT),
            "CAGEBUILD_STORE": str(store),
            **_network(),
            **environment,
        }
        self.write("tasks.py", TASKS)
        self.write("noxfile.py", SESSIONS)
        self.write(".gitignore", "/dist/\n__pycache__/\n")

    @property
    def store(self) -> Path:
        return Path(self.environment["CAGEBUILD_STORE"])

    def boot(self, architecture: Architecture = "x86_64") -> None:
        """Boot files for OWN_BOOT."""
        self.write("boot/kernel", (bzimage if architecture == "x86_64" else arm_image)(5000))
        self.write("boot/init", b"init program\n", mode=0o755)
        self.write("boot/cmdline", "console=ttyS0 reboot=k\n")

    def write(self, name: str, data: str | bytes, *, mode: int = 0o644) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        file.chmod(mode)
        return file

    def replace(self, name: str, old: str, new: str) -> None:
        """Edit a file; what is to be replaced has to be there."""
        text = (self.root / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def commit(self, time: int = 1_700_000_000) -> None:
        """Commit what changed, if anything did."""
        if self.checkout.git("status", "--porcelain"):
            self.checkout.commit(time)

    def clone(self, root: Path, **environment: str) -> Repo:
        """What a colleague gets from ``git clone``; environment as here."""
        root.parent.mkdir(parents=True, exist_ok=True)
        self.checkout.git("clone", "--quiet", str(self.root), str(root))
        copy = Repo.__new__(Repo)
        copy.checkout = Checkout(root)
        copy.root = copy.checkout.root
        copy.environment = {**self.environment, "HOME": str(root.parent), **environment}
        return copy

    def start(
        self,
        *words: str,
        cwd: str = ".",
        program: str = "invoke",
        prefix: tuple[str, ...] = (),
        **environment: str,
    ) -> Started:
        """Start a command in a folder of the repository; ``prefix`` is another program to run it.

        ``environment`` is added; an empty text takes a variable away.
        """
        env = {**self.environment, **environment}
        return Started(
            [*prefix, sys.executable, "-m", program, *words],
            self.root / cwd,
            {name: value for name, value in env.items() if value},
        )

    def invoke(
        self,
        *words: str,
        code: int = 0,
        cwd: str = ".",
        prefix: tuple[str, ...] = (),
        **environment: str,
    ) -> Ended:
        """Run a command that has to end with this code."""
        ended = self.start(*words, cwd=cwd, prefix=prefix, **environment).end()
        assert ended.code == code, f"exit code {ended.code}:\n{ended.screen}"
        return ended

    def lock(self, name: str = "cage.lock") -> Any:
        """A lock as it is on disk."""
        return json.loads((self.root / name).read_text())

    def dist(self, name: str) -> Path:
        return self.root / "dist" / name

    def forget(self) -> None:
        """Remove all results."""
        shutil.rmtree(self.root / "dist", ignore_errors=True)


def _network() -> dict[str, str]:
    """What this machine needs to reach a network: where a user's own settings would be."""
    names = re.compile(r"(https?|no)_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|PIP_\w+", re.I)
    return {name: value for name, value in os.environ.items() if names.fullmatch(name)}


def installer(architecture: Architecture = "x86_64") -> str:
    """The digest that a cage.toml names."""
    return str(pins.installer(architecture).digest)


class Lab:
    """What is expensive, made once a test session: a warm store, and a mirror of its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.mirror = folder / "mirror"
        self.mirror.mkdir()

    @cached_property
    def service(self) -> Repo:
        """This project's own sample cage in a repository of its own, locked, committed, built."""
        repo = Repo(self.folder / "service", self.store)
        shutil.copytree(
            PROJECT / "app", repo.root / "app", ignore=shutil.ignore_patterns("__pycache__")
        )
        repo.write("cage.toml", (PROJECT / "cage.toml").read_bytes())
        repo.commit()
        seed_store(Store(self.store))
        repo.invoke("lock", "--update", "runtime")
        repo.commit()
        repo.invoke("build")
        return repo

    @cached_property
    def runtime(self) -> str:
        """A [runtime] section whose installer comes from the mirror; nothing is there to ask."""
        _ = self.service
        self.mirror_blob(installer())
        return f'[runtime]\ninstaller = "{installer()}"\nurl = "http://127.0.0.1:9"\n'

    @property
    def workspace(self) -> str:
        """A [workspace] section with the mirror."""
        return f'[workspace]\nmirrors = ["file://{self.mirror}"]\n'

    def mirror_blob(self, digest: str) -> Path:
        """Put a file of the store into the mirror."""
        digits = digest.removeprefix("sha256:")
        target = self.mirror / digits
        if not target.exists():
            shutil.copyfile(self.store / "blobs" / digits[:2] / digits, target)
        return target


_LABS: dict[Path, Lab] = {}


def shared_lab(factory: pytest.TempPathFactory) -> Lab:
    """The one lab of this test session."""
    base = factory.getbasetemp()
    if base not in _LABS:
        _LABS[base] = Lab(factory.mktemp("lab"))
    return _LABS[base]


def image_file(path: Path) -> eif_by_spec.EnclaveImage:
    """An image file, by a reader that shares nothing with the product."""
    return eif_by_spec.image(path.read_bytes())


def rootfs(image: eif_by_spec.EnclaveImage) -> dict[str, eif_by_spec.CpioEntry]:
    """Entries of the app's ramdisk below ``rootfs/`` by path in the image, as they come first."""
    found: dict[str, eif_by_spec.CpioEntry] = {}
    for entry in eif_by_spec.cpio(image.ramdisks[1]).entries:
        name = entry.name.decode()
        if name.startswith("rootfs/"):
            found.setdefault(name.removeprefix("rootfs/").rstrip("/"), entry)
    return found


def settings(image: eif_by_spec.EnclaveImage) -> Any:
    """The cage.json that the enclave will read."""
    return json.loads(rootfs(image)["cage/etc/cage.json"].data)


def unpack(image: eif_by_spec.EnclaveImage, folder: Path) -> Path:
    """The app's ramdisk as the kernel unpacks it, entry by entry; its ``rootfs``. Needs root."""
    for entry in eif_by_spec.cpio(image.ramdisks[1]).entries:
        path = folder / entry.name.decode().rstrip("/")
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFDIR:
            path.mkdir(exist_ok=True)
        elif kind == stat.S_IFLNK:
            path.unlink(missing_ok=True)
            path.symlink_to(os.fsdecode(entry.data))
        else:
            assert kind == stat.S_IFREG
            path.unlink(missing_ok=True)
            path.write_bytes(entry.data)
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            path.chmod(stat.S_IMODE(entry.mode))
    return folder / "rootfs"


def manifest(folder: Path) -> list[dict[str, Any]]:
    """The entries of ``dist/<name>/manifest.json``."""
    entries: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())["entries"]
    return entries


def reachable_by_all(path: Path) -> bool:
    """Whether a user who is nobody in particular can get at a path."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)


def as_nobody() -> tuple[str, ...]:
    """A program that runs another as the user nobody, who may read where root alone can look."""
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if not all(reachable_by_all(Path(path)) for path in (PROJECT, sys.executable)):
        words += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    return tuple(words)


def open_folder() -> Iterator[Path]:
    """A temporary folder that every user can reach; pytest's own are for this user alone."""
    with tempfile.TemporaryDirectory(prefix="cagebuild-e2e-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder

"""Small workspaces, built in a moment: real git, boot files that boot nothing, no network."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from invoke.collection import Collection
from invoke.program import Program

from cagebuild import tasks
from cagebuild.digest import Digest
from cagebuild.lock import Lock, read
from cagebuild.runtime.installer import InstallerFile, write_installer
from cagebuild.runtime.origin import Origin, package_url
from cagebuild.session import Session
from tests.support.checkout import Checkout
from tests.support.nitro import bzimage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cagebuild.config.model import Cage

PROJECT = Path(__file__).parents[2]

ROOT = """\
[workspace.defaults]
runtime = false

[workspace.defaults.epoch]
policy = "zero"

[workspace.defaults.enclave]
boot = { kernel = "//boot/bzImage", init = "//boot/init", nsm = "//boot/nsm.ko", \
cmdline = "//boot/cmdline" }
"""

CAGE = """\
[base]
scratch = true

[app]
command = ["/srv/run", "--serve"]

[[app.files]]
source = "src"
destination = "/srv"
"""
"""Needs ``src/run``; all else is the workspace's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Of standard output."""
        return self.out.splitlines()

    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    def pcrs(self) -> dict[str, str]:
        """The PCRs that were printed, those of the last cage if there are several."""
        words = (line.split() for line in self.lines if line.startswith("  PCR"))
        return {line[0]: line[1] for line in words}


class Workspace:
    """A checkout at ``root`` with a store of its own beside it, and no cages yet."""

    def __init__(self, folder: Path, *, name: str = "work", text: str = ROOT) -> None:
        self.checkout = Checkout(folder / name)
        self.root = self.checkout.root
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self.store = folder / "cache" / "cagebuild"
        self.write("cage.toml", text)
        self.write("boot/bzImage", bzimage(2048))
        self.write("boot/init", b"init program\n")
        self.write("boot/nsm.ko", b"module\n")
        self.write("boot/cmdline", b"console=ttyS0 reboot=k\n")
        self.write("tasks.py", b"from cagebuild.tasks import *\n")
        self.commit()

    def write(self, name: str, data: str | bytes, *, mode: int = 0o644) -> Path:
        """A file of the working tree."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        file.chmod(mode)
        return file

    def commit(self, time: int = 1_700_000_000) -> None:
        """Commit all that is there."""
        self.checkout.commit(time)

    def add(self, folder: str, text: str = CAGE, **files: str) -> Path:
        """A committed cage with a program and more files, ``name="content"``; its folder."""
        self.write(f"{folder}/src/run", f"#!program of {folder}\n", mode=0o755)
        for name, data in files.items():
            self.write(f"{folder}/src/{name}", data)
        self.write(f"{folder}/cage.toml", text)
        self.commit()
        return self.root / folder

    @contextlib.contextmanager
    def _conditions(self, cwd: Path | None, env: Mapping[str, str] | None) -> Iterator[None]:
        given = {**self.environment, **(env or {})}
        with contextlib.chdir(cwd or self.root), patch.dict(os.environ, given):
            if "SOURCE_DATE_EPOCH" not in given:
                os.environ.pop("SOURCE_DATE_EPOCH", None)
            yield

    def run(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Answer:
        """A command in this process, by invoke's own program.

        What is no exit code is raised. (Invoke shows a task's help once in a process.)
        """
        out, err = io.StringIO(), io.StringIO()
        program = Program(namespace=Collection.from_module(tasks))
        code: Any = 0
        with (
            self._conditions(cwd, env),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                program.run(["invoke", *words])
            except SystemExit as end:
                code = end.code
        return Answer(code=int(code or 0), out=out.getvalue(), err=err.getvalue())

    def ok(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Answer:
        """As ``run``, for what must end well."""
        answer = self.run(*words, cwd=cwd, env=env)
        assert answer.code == 0, answer.out + answer.err
        return answer

    def start(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A command in a process of its own, with the workspace's tasks.py."""
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *words],
            cwd=cwd or self.root,
            env={**self.environment, "PYTHONPATH": str(PROJECT), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def process(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Answer:
        """As ``start``, to its end."""
        process = self.start(*words, cwd=cwd, env=env)
        out, err = process.communicate(timeout=120)
        return Answer(code=process.returncode, out=out.decode(), err=err.decode())

    def session(self) -> Session:
        """The workspace as a command sees it."""
        with self._conditions(None, None):
            session = Session(self.root)
            session.store  # noqa: B018 - opened where the environment is the workspace's
            return session

    def cage(self, word: str) -> Cage:
        """One cage, read anew."""
        with self._conditions(None, None):
            (cage,) = Session(self.root).cages([word])
            return cage

    def locked(self, word: str) -> Lock:
        """A cage's lock, as it is on disk."""
        lock = read(self.cage(word).lock_file)
        assert lock is not None
        return lock

    def result(self, name: str, file: str) -> bytes:
        """A file of ``dist/<name>``."""
        return (self.root / "dist" / name / file).read_bytes()


def measurements(workspace: Workspace, name: str) -> dict[str, str]:
    """The PCRs in ``dist/<name>/measurements.json``."""
    document = json.loads(workspace.result(name, "measurements.json"))
    return {key: value for key, value in document["Measurements"].items() if "PCR" in key}


def steps(answer: Answer) -> dict[str, int]:
    """How the steps of a run ended, by its summary: ``{"ran": 3, …}``; empty if none was needed."""
    ends = [line for line in answer.err.splitlines() if " steps: " in line or " step: " in line]
    if not ends:
        return {}
    counts = (part.split(" ", 1) for part in ends[-1].partition(": ")[2].split(", "))
    return {word: int(number) for number, word in counts}


def signing_files(folder: Path, curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """A new key and a certificate of its own, ``certificate.pem`` and ``key.pem``."""
    key = ec.generate_private_key(curve or ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer of a test")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2090, 1, 1, tzinfo=dt.UTC))
        .sign(key, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


def installer(folder: Path) -> Digest:
    """A runtime installer of programs that run nothing, in ``folder`` under its digest in hex."""
    origin = Origin(
        name="runtime", version="1", licence="Apache-2.0", purl=package_url("golang/test", "1")
    )
    files = [InstallerFile(path="cage/bin/guest", target="cage-guest", origins=(origin,))]
    for name in ("init", "cage/bin/cage-guest"):
        source = folder / name.replace("/", "-")
        source.write_bytes(f"{name} of a test\n".encode())
        files.append(InstallerFile(path=name, source=source, origins=(origin,)))
    made = folder / "installer.tar"
    write_installer(made, architecture="x86_64", files=files)
    digest = Digest.of_file(made)
    made.rename(folder / digest.hex)
    return digest


def tree_files(folder: Path) -> list[Path]:
    """All regular files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())

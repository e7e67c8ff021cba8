"""Private Docker daemons and BuildKit builders of several versions; ``.ci/engines`` gets them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ENGINES = Path(__file__).parents[2] / ".nox/engines"
DockerKind = Literal["20.10", "26-overlay2", "26-containerd", "28-overlay2", "28-containerd"]
"""Version, and what keeps the images where there is a choice."""
Kind = Literal[DockerKind, "buildkitd"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Buildx = Literal["0.13", "0.29"]
_TRIES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A daemon of its own, and what the environment needs to have for programs to use it."""

    kind: Kind
    address: str
    folder: Path
    """Holds all of the daemon's files; ``data`` in it is its store, ``log`` what it says."""
    env: dict[str, str] = field(default_factory=dict)
    """PATH, DOCKER_HOST, DOCKER_CONFIG, and BUILDX_BUILDER for a remote builder."""
    process: subprocess.Popen[bytes]

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make it what this process, and what it starts, would use."""
        for name in ("DOCKER_CONTEXT", "BUILDX_BUILDER"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)

    def docker(self, *words: str) -> str:
        """What a docker command that succeeds says."""
        environment = {**os.environ, **self.env}
        done = subprocess.run(
            ["docker", *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log(self) -> str:
        """What the daemon said."""
        return (self.folder / "log").read_text(errors="replace")

    def signal(self, number: int) -> None:
        """To the daemon itself. All that it started dies with it."""
        inner = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in inner.split():
            os.kill(int(pid), number)


@contextmanager
def docker_daemon(
    kind: DockerKind = "20.10", *, buildx: Buildx = "0.29", data: Path | None = None
) -> Iterator[Daemon]:
    """A Docker daemon without any network but the machine's own, removed at the end.

    It pulls from a registry on loopback. As it has no bridge, builds need ``--network none``.
    ``data``: where it keeps images, on a disk of the caller's.
    """
    version, _, store = kind.partition("-")
    with _folder(f"docker-{version}") as folder:
        address = f"unix://{folder}/socket"
        config: dict[str, object] = {}
        if store:
            config["features"] = {"containerd-snapshotter": store == "containerd"}
        (folder / "daemon.json").write_text(json.dumps(config))
        env = _environment(folder, f"docker-{version}", buildx) | {"DOCKER_HOST": address}
        argv = [
            *("dockerd", "--host", address, "--pidfile", str(folder / "pid")),
            *("--data-root", str(data or folder / "data"), "--exec-root", str(folder / "exec")),
            *("--bridge=none", "--iptables=false", "--ip6tables=false"),
            *("--ip-forward=false", "--config-file", str(folder / "daemon.json")),
        ]
        with _running(argv, folder, env) as process:
            daemon = Daemon(kind=kind, address=address, folder=folder, env=env, process=process)
            _wait(daemon, ["docker", "version", "--format", "{{.Server.Version}}"])
            yield daemon


@contextmanager
def buildkit_daemon(*, buildx: Buildx = "0.29") -> Iterator[Daemon]:
    """A BuildKit builder that no Docker daemon stands behind, as BUILDX_BUILDER names one."""
    with _folder("buildkitd") as folder:
        address = f"unix://{folder}/socket"
        env = _environment(folder, "docker-28", buildx) | {
            "DOCKER_HOST": f"unix://{folder}/none",
            "BUILDX_BUILDER": "elsewhere",
        }
        program = str(ENGINES / "buildkitd/buildkitd")
        argv = [program, "--addr", address, "--root", str(folder / "data"), "--group", "root"]
        argv += ["--config", os.devnull]
        with _running(argv, folder, env) as process:
            daemon = Daemon(
                kind="buildkitd", address=address, folder=folder, env=env, process=process
            )
            create = ("buildx", "create", "--name", "elsewhere", "--driver", "remote", address)
            daemon.docker(*create)
            _wait(daemon, ["docker", "buildx", "inspect", "--bootstrap"])
            yield daemon


@contextmanager
def daemon_of(kind: Kind, *, buildx: Buildx = "0.29") -> Iterator[Daemon]:
    """Either of the two."""
    if kind == "buildkitd":
        with buildkit_daemon(buildx=buildx) as daemon:
            yield daemon
    else:
        with docker_daemon(kind, buildx=buildx) as daemon:
            yield daemon


def _environment(folder: Path, engine: str, buildx: Buildx) -> dict[str, str]:
    programs = ENGINES / engine / "bin"
    plugin = ENGINES / f"buildx-{buildx}/cli-plugins/docker-buildx"
    if not programs.is_dir() or not plugin.is_file():
        pytest.fail(f"needs {programs} and {plugin}: run .ci/engines")
    (folder / "config/cli-plugins").mkdir(parents=True)
    (folder / "config/cli-plugins/docker-buildx").symlink_to(plugin)
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DOCKER_CONFIG": str(folder / "config"),
    }


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    # Short: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix=f"cagebuild-{name}-") as path:
        yield Path(path)


@contextmanager
def _running(
    argv: list[str], folder: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in namespaces of its own, so that no process and no mount outlives it.

    Nor does it outlive this process, whatever ends that.
    """
    alone = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*alone, "--kill-child", "--mount-proc", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **env},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if process.poll() is None:
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in ("data", "exec"):
            shutil.rmtree(folder / left, ignore_errors=True)


def _wait(daemon: Daemon, question: list[str]) -> None:
    for _ in range(_TRIES):
        asked = subprocess.run(
            question, env={**os.environ, **daemon.env}, capture_output=True, check=False
        )
        if asked.returncode == 0:
            return
        assert daemon.process.poll() is None, daemon.log()
        time.sleep(0.1)
    pytest.fail(f"{daemon.kind} does not answer:\n{daemon.log()}")

"""A folder for one build of buildah's: storage, configuration and temporary files of its own."""

from __future__ import annotations

import base64
import json
import os
import resource
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cagebuild import process
from cagebuild.engine.buildahwords import (
    HOSTS,
    POLICY,
    containers_conf,
    registries_conf,
    storage_conf,
)
from cagebuild.errors import ToolFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cagebuild.engine.job import Secret
    from cagebuild.engine.seclusion import Seclusion

Program = Literal["buildah", "podman"]

_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder below it is this user's alone)
_CGROUPS = Path("/sys/fs/cgroup")
_PASSED_ON = ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "CONTAINERS_HELPER_BINARY_DIR")
"""Where the user's credentials are, and programs that buildah starts."""
_CAPABILITIES = ("AUDIT_WRITE", "MKNOD", "NET_RAW")
"""What RUN has with BuildKit, but not with every buildah."""
_ELSEWHERE = "/var/tmp"  # noqa: S108 - mkdtemp makes a folder of its own in it
_SPECIAL = frozenset(":,\\\"'")
_LONGEST_RUN_ROOT = 50
_TRIES, _PAUSE = 50, 0.05
_MOST_FILES, _MOST_PROCESSES = 1 << 16, 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How RUN works on a machine."""

    seclusion: Seclusion
    driver: Literal["overlay", "vfs"]
    isolation: Literal["oci", "chroot"]
    runtime: str | None
    """An OCI runtime; ``chroot`` has none."""

    @property
    def shares_network(self) -> bool:
        """Whether RUN always has the network that buildah itself has: then both have none."""
        return self.isolation == "chroot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where one build has everything."""

    path: Path
    run_root: Path
    """Of what is true until the next boot."""
    program: Program
    way: Way

    def run(self, words: Sequence[str], say: Callable[[str], None], *, network: bool = True) -> int:
        """Run a command of buildah's; see ``process.follow``. ``network`` is that of RUN.

        Without it, and where RUN shares buildah's own, buildah has none either.
        """
        podman = ("--tmpdir", str(self.path / "podman")) if self.program == "podman" else ()
        argv = (
            *(self.program, "--root", str(self.path / "root")),
            *("--runroot", str(self.run_root), "--storage-driver", self.way.driver),
            *podman,
            *words,
        )
        return process.follow(
            self.way.seclusion.around(argv, network=network),
            say=say,
            cwd=self.path,
            env=self._environment(),
        )

    def build_words(self, *, shared: bool) -> tuple[str, ...]:
        """The options of ``build`` that say how RUN works.

        ``shared``: it has the network and the name of the machine that buildah itself has, else no
        network, and a name by chance, as --uts=host would undo --network=none.
        """
        words = ["--isolation", self.way.isolation, "--http-proxy=false"]
        if shared:
            words += ["--uts", "host"]
        # Not with the names and addresses of this machine and of a container.
        words += ["--no-hosts", "--volume", f"{self.path / 'config/hosts'}:/etc/hosts:ro"]
        for capability in _CAPABILITIES:
            words += ["--cap-add", capability]
        if self.way.runtime:
            words += ["--runtime", self.way.runtime]
        if not self.way.shares_network:
            words += ["--network", "host" if shared else "none"]
        if self.way.isolation == "oci" and not self.way.seclusion.rootless:
            words += ["--cgroup-parent", f"/{self.cgroup}"]
        # By default limits are raised, which not every machine lets them do.
        for name, kind, most in (
            ("nofile", resource.RLIMIT_NOFILE, _MOST_FILES),
            ("nproc", resource.RLIMIT_NPROC, _MOST_PROCESSES),
        ):
            hard = resource.getrlimit(kind)[1]
            limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
            words += ["--ulimit", f"{name}={limit}:{limit}"]
        return tuple(words)

    @property
    def cgroup(self) -> str:
        """Of all its containers, where this user may make one."""
        return f"cagebuild-{self.path.name}"

    def _environment(self) -> dict[str, str]:
        config = self.path / "config"
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        docker = Path(os.environ.get("DOCKER_CONFIG", "")) / "config.json"
        if "DOCKER_CONFIG" in os.environ and docker.is_file():
            kept.setdefault("REGISTRY_AUTH_FILE", str(docker))
        return {
            **process.network_settings(),
            **kept,
            **self.way.seclusion.environment(),
            "TMPDIR": str(self.path / "tmp"),
            "XDG_CACHE_HOME": str(self.path / "xdg"),
            "XDG_DATA_HOME": str(self.path / "xdg"),
            "CONTAINERS_CONF": str(config / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(config / "registries.conf"),
            "CONTAINERS_STORAGE_CONF": str(config / "storage.conf"),
        }

    def config_of(self, identity: str) -> dict[str, object]:
        """What the config of an image in the storage says of how it runs, as it came."""
        # containers/storage keeps it under its digest, in base64 as that is no name of a file.
        key = "=" + base64.b64encode(f"sha256:{identity}".encode()).decode()
        path = self.path / "root" / f"{self.way.driver}-images" / identity / key
        try:
            return dict(json.loads(path.read_bytes()).get("config") or {})
        except (OSError, ValueError) as error:
            raise ToolFailedError(f"{self.program} keeps no config of an image: {error}") from None

    @property
    def policy(self) -> tuple[str, ...]:
        """The option of pull, push and build."""
        return ("--signature-policy", str(self.path / "config/policy.json"))


@contextmanager
def room(scratch: Path, program: Program, way: Way, hosts: Iterable[str] = ()) -> Iterator[Room]:
    """Make a room in a folder; ``hosts`` are the registries that may be asked.

    Everything is removed at the end, what belongs to lent ids and empty control groups too.
    """
    path = Path(tempfile.mkdtemp(prefix="buildah-", dir=_place(scratch)))
    made = Room(path=path, run_root=_run_root(path), program=program, way=way)
    try:
        for name in ("config", "tmp", "xdg", "networks", "nothing"):
            (path / name).mkdir()
        config = path / "config"
        (config / "policy.json").write_text(POLICY)
        (config / "registries.conf").write_text(registries_conf(hosts))
        (config / "hosts").write_text(HOSTS)
        (config / "containers.conf").write_text(containers_conf(path / "networks"))
        (config / "storage.conf").write_text(storage_conf(path / "root", made.run_root, way.driver))
        yield made
    finally:
        _remove(made)


def _place(scratch: Path) -> Path:
    """The folder itself, unless overlayfs would read its path as several."""
    return Path(_ELSEWHERE) if _SPECIAL & set(str(scratch)) else scratch


def _run_root(path: Path) -> Path:
    """Below the room, where its name is not too long for podman."""
    usual = path / "run"
    if len(str(usual)) <= _LONGEST_RUN_ROOT:
        usual.mkdir()
        return usual
    return Path(tempfile.mkdtemp(prefix="cagebuild-run-", dir="/tmp"))


def _remove(made: Room) -> None:
    """Also while something fails or is stopped: so it isn't watched."""
    if made.way.seclusion.rootless:
        argv = made.way.seclusion.as_owner(("rm", "-rf", "--", str(made.path), str(made.run_root)))
        process.follow(argv, say=lambda _: None, env={})
    shutil.rmtree(made.run_root, ignore_errors=True)
    shutil.rmtree(made.path, ignore_errors=True)
    _remove_groups(made.cgroup)


def _remove_groups(name: str) -> None:
    """Remove a control group from every hierarchy; those of programs that just ended are busy."""
    for _ in range(_TRIES):
        left = [path for path in (_CGROUPS / name, *_CGROUPS.glob(f"*/{name}")) if path.is_dir()]
        if not left:
            return
        for folder in left:
            # Deepest first; the kernel's own files in them are no hindrance.
            for group in [*sorted(folder.rglob("*/"), reverse=True), folder]:
                with suppress(OSError):
                    group.rmdir()
        time.sleep(_PAUSE)


@contextmanager
def secret_files(given: Sequence[Secret], scratch: Path) -> Iterator[list[str]]:
    """Files with the secrets, in memory where there is such a place; the options that name them."""
    if not given:
        yield []
        return
    place = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else scratch
    folder = Path(tempfile.mkdtemp(prefix="cagebuild-", dir=place))
    try:
        words = []
        for number, secret in enumerate(given):
            file = folder / str(number)
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(secret.value)
            words += ["--secret", f"id={secret.id},src={file}"]
        yield words
    finally:
        shutil.rmtree(folder)

"""buildah, and podman, whose ``build`` is buildah: no daemon, and no root where the machine allows.

A build has everything of its own below the job's scratch: storage, configuration, temporary files;
and namespaces of its own, with which its processes and mounts end. The result is a docker-archive:
an OCI image made by buildah has no HEALTHCHECK.
"""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cagebuild import process
from cagebuild.dockerfile import parse, stages
from cagebuild.engine import buildahgaps, probe
from cagebuild.engine.buildahwords import (
    POLICY,
    Progress,
    Version,
    buildah_in,
    cache_repository,
    containers_conf,
    registries_conf,
    version_of,
)
from cagebuild.engine.job import FailedInstructionError
from cagebuild.engine.seclusion import Seclusion, has_subids, seclusions
from cagebuild.errors import ResolveError, ToolFailedError, ToolMissingError, UnsupportedError
from cagebuild.image.platform import OCI_ARCHITECTURE
from cagebuild.image.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.dockerfile.model import Dockerfile, ImageUse
    from cagebuild.engine.job import EngineJob

Program = Literal["buildah", "podman"]

OLDEST: Version = (1, 28)
_QUESTION = 20
"""Seconds that a program has to say its version."""
_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder below it is this user's alone)
_CGROUPS = Path("/sys/fs/cgroup")
_PASSED_ON = ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "CONTAINERS_HELPER_BINARY_DIR")
"""Where credentials are, and programs that buildah starts."""
_MOST_FILES, _MOST_PROCESSES = 1 << 16, 1 << 15
_FULL = "no space left on device"
_FULL_HINT = "make room: a build needs some times the size of its image in the temporary folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How RUN works on this machine."""

    seclusion: Seclusion
    driver: Literal["overlay", "vfs"]
    isolation: Literal["oci", "rootless", "chroot"]
    runtime: str | None
    """An OCI runtime; ``chroot`` has none."""


class Buildah:
    """Builds with buildah or podman."""

    def __init__(self, program: Program | None = None) -> None:
        """``program``: which of the two; None: buildah if it is there, else podman."""
        self._program: Program = program or ("buildah" if shutil.which("buildah") else "podman")
        self._unavailable: str | None = None

    @property
    def name(self) -> str:
        """See ``Engine``."""
        return "buildah"

    @property
    def unavailable(self) -> str:
        """See ``Engine``. A RUN is tried, once: nothing else tells whether one works."""
        if self._unavailable is None:
            self._unavailable = self._look()
        return self._unavailable

    def describe(self) -> str:
        """See ``Engine``."""
        major, minor = self._version()
        return f"{self._program} {major}.{minor}"

    def build(self, job: EngineJob) -> Path:
        """See ``Engine``."""
        dockerfile = parse.parse(job.dockerfile.read_bytes(), job.dockerfile)
        needed = stages.needed(dockerfile, job.target, job.args, job.architecture)
        images = stages.images(dockerfile, job.target, job.args, job.architecture)
        buildahgaps.refuse(dockerfile, needed, self._buildah_version())
        caches = [
            *(("--cache-from", cache_repository(c, "cache-from")) for c in job.cache_from),
            *(("--cache-to", cache_repository(c, "cache-to")) for c in job.cache_to),
        ]
        hosts = {
            Reference.parse(name).registry
            for name in (*(image.reference for image in images), *(c for _, c in caches))
        }
        with _Room(job.scratch / "buildah", hosts) as room:
            way = self._way(room, network=job.network, say=job.say)
            work = _Work(self._program, room, way)
            if way.isolation == "chroot" and not job.network:
                _refuse_network(needed, caches)
            for image in images:
                if image.keyword != "syntax":
                    work.pull(image, job)
            with _secret_files(job) as words:
                options = [word for pair in caches for word in pair]
                identity = work.build(dockerfile, job, [*options, *words])
            archive = job.scratch / "image.tar"
            work.must(job, ["push", "--quiet", identity, f"docker-archive:{archive}"])
        return archive

    def _look(self) -> str:
        if shutil.which(self._program) is None:
            return "there is no program 'buildah' or 'podman' (Debian, Fedora: package buildah)"
        if shutil.which("unshare") is None:
            return "it needs Linux and the program 'unshare' (package util-linux)"
        try:
            version = self._buildah_version()
        except ToolFailedError as error:
            return error.message
        if version < OLDEST:
            return (
                f"{self.describe()} is too old; it has to be buildah {OLDEST[0]}.{OLDEST[1]} or"
                " podman 4.3, or newer"
            )
        try:
            with tempfile.TemporaryDirectory(prefix="cagebuild-") as folder:
                with _Room(Path(folder) / "buildah", ()) as room:
                    self._way(room, network=False, say=lambda _: None)
        except ToolFailedError as error:
            return error.message + (f" ({error.hint})" if error.hint else "")
        return ""

    def _version(self) -> Version:
        said = process.run([self._program, "--version"], timeout=_QUESTION).decode().strip()
        version = version_of(said)
        if version is None:
            raise ToolFailedError(f"{self._program} does not say its version but {said[:200]!r}")
        return version

    def _buildah_version(self) -> Version:
        version = self._version()
        return version if self._program == "buildah" else buildah_in(version)

    def _way(self, room: _Room, *, network: bool, say: Callable[[str], None]) -> Way:
        """The first way in which a RUN works, tried with a program of some hundred bytes."""
        said: list[str] = []
        for number, way in enumerate(_ways()):
            work = _Work(self._program, room.inner(f"probe-{number}"), way)
            folder = room.path / f"probe-{number}" / "files"
            if not probe.write(folder):
                return way
            words = [
                *("--network", "none") if way.isolation != "chroot" else (),
                *("--quiet", "--file", str(folder / "Dockerfile"), str(folder / "context")),
            ]
            lines: list[str] = []
            if work.run(["build", *way.words(), *words], _Listener(lines, say), network=False) == 0:
                return way
            said.append(_reason(lines))
        # The best way's own reason: that of a makeshift tells little.
        raise ToolFailedError(
            f"{self._program} cannot run anything here: {said[0]}", hint=_remedy(said)
        )

"""buildah, and podman, whose ``build`` is buildah: no daemon, and no root where the machine allows.

A build has everything of its own below the job's scratch: storage, configuration, temporary files;
and namespaces of its own, with which its processes and mounts end. The result is a docker-archive:
an OCI image made by buildah has no HEALTHCHECK.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cagebuild import process
from cagebuild.dockerfile import parse, stages
from cagebuild.engine import buildahgaps, probe
from cagebuild.engine.buildahroom import Program, Room, Way, room, secret_files
from cagebuild.engine.buildahtext import NOTHING, Text, for_buildah
from cagebuild.engine.buildahwords import (
    HOSTNAME,
    Progress,
    Version,
    buildah_in,
    cache_repository,
    is_remote,
    unreadable,
    version_of,
)
from cagebuild.engine.job import FailedInstructionError
from cagebuild.engine.seclusion import has_subids, seclusions
from cagebuild.errors import ResolveError, ToolFailedError
from cagebuild.image.platform import OCI_ARCHITECTURE
from cagebuild.image.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cagebuild.dockerfile.model import ImageUse, Stage
    from cagebuild.engine.job import EngineJob

OLDEST: Version = (1, 28)
_QUESTION = 20
"""Seconds that a program has to say its version."""
_RUNTIMES = ("crun", "runc")
_LAST_LINES = 20
_LENT_IDS = (
    "install the package uidmap and have ids lent to you in /etc/subuid and /etc/subgid, by"
    " usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
)
_NO_HISTORY = "internal error: history lists"
_FULL = "no space left on device"


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
        scope = stages.global_scope(dockerfile, job.args, job.architecture, job.target)
        needed = stages.needed(dockerfile, job.target, job.args, job.architecture)
        bases = {stage.index: stages.base_of(dockerfile, stage, scope) for stage in needed}
        images = stages.images(dockerfile, job.target, job.args, job.architecture)
        gaps = buildahgaps.Gaps(dockerfile, self._buildah_version(), job.context)
        gaps.check_file(needed, bases)
        caches = [
            *(("--cache-from", cache_repository(c, "cache-from")) for c in job.cache_from),
            *(("--cache-to", cache_repository(c, "cache-to")) for c in job.cache_to),
        ]
        names = [*(image.reference for image in images), *(name for _, name in caches)]
        hosts = {Reference.parse(name).registry for name in names}
        way = self._way(job.scratch, network=job.network, say=job.say)
        fetches = bool(caches) or any(_fetches(stage) for stage in needed)
        if fetches and way.shares_network and not job.network:
            gaps.check_network(needed, caches=bool(caches))
        with room(job.scratch, self._program, way, hosts) as made:
            pulled = {
                (image.reference, image.span): _pull(made, image, job)
                for image in images
                if image.keyword != "syntax"
            }
            users = {}
            for stage in needed:
                identity = pulled.get((str(bases[stage.index]), stage.image_span))
                if identity:
                    base = made.config_of(identity)
                    gaps.check_base(stage, needed, bases, base)
                    users[stage.index] = str(base.get("User") or "")
            above = {index: base for index, base in bases.items() if not isinstance(base, str)}
            text = for_buildah(dockerfile, {**dict.fromkeys(bases), **above}, users)
            with secret_files(job.secrets, job.scratch) as words:
                words += [word for pair in caches for word in pair]
                identity = _build(made, text, job, words, fetches=fetches)
            # Relative: a colon in the path would end it.
            push = ["push", "--quiet", *made.policy, identity, "docker-archive:image.tar"]
            _must(made, push, job)
            archive = job.scratch / "image.tar"
            shutil.move(made.path / "image.tar", archive)
        return archive

    def _look(self) -> str:
        if shutil.which(self._program) is None:
            return "there is no program 'buildah' or 'podman' (the package is called buildah)"
        if shutil.which("unshare") is None:
            return "it needs Linux and the program 'unshare' (the package util-linux)"
        try:
            if self._buildah_version() < OLDEST:
                return (
                    f"{self.describe()} is too old: buildah {OLDEST[0]}.{OLDEST[1]} or podman 4.3"
                    " is the oldest that will do"
                )
            with tempfile.TemporaryDirectory(prefix="cagebuild-") as scratch:
                self._way(Path(scratch), network=False, say=lambda _: None)
        except ToolFailedError as error:
            return error.message + (f"; {error.hint}" if error.hint else "")
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

    def _way(self, scratch: Path, *, network: bool, say: Callable[[str], None]) -> Way:
        """The first way in which a RUN works, tried with a program of some hundred bytes."""
        reasons: list[str] = []
        for way in ways():
            with room(scratch, self._program, way) as made:
                listener = _Listener(say)
                files = made.path / "probe"
                words = ["build", *made.policy, *made.build_words(shared=True), "--quiet"]
                words += ["--file", str(files / "Dockerfile"), str(files / "context")]
                if not probe.write(files) or made.run(words, listener, network=network) == 0:
                    return way
                reasons.append(listener.reason())
        # The best way's own reason: that of a makeshift tells little.
        raise ToolFailedError(
            f"{self._program} can run nothing here: {reasons[0]}", hint=_remedy(reasons[0])
        )


def ways() -> Iterator[Way]:
    """The ways in which RUN may work, the best first.

    An OCI runtime comes first: ``chroot`` keeps RUN from less of the machine.
    """
    runtimes = [runtime for runtime in _RUNTIMES if shutil.which(runtime)]
    drivers: tuple[Literal["overlay", "vfs"], ...] = ("overlay", "vfs")
    for seclusion in seclusions(HOSTNAME):
        for driver in drivers:
            for runtime in runtimes if seclusion.processes else ():
                yield Way(seclusion=seclusion, driver=driver, isolation="oci", runtime=runtime)
            yield Way(seclusion=seclusion, driver=driver, isolation="chroot", runtime=None)


class _Listener:
    """Keeps the last lines, and lets the job's ``say`` end it all."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        if line:
            self.lines = [*self.lines[1 - _LAST_LINES :], line]
        self._say("")

    def reason(self) -> str:
        """What was said last, and is no log line of another matter."""
        errors = [line for line in self.lines if line.startswith("Error: ")]
        return (errors or self.lines or ["it says nothing"])[-1].removeprefix("Error: ")


def _pull(made: Room, image: ImageUse, job: EngineJob) -> str:
    """Get an image from its registry; its id."""
    platform = image.platform or f"linux/{OCI_ARCHITECTURE[job.architecture]}"
    os_name, _, rest = platform.partition("/")
    machine, _, variant = rest.partition("/")
    words = ["pull", "--quiet", *made.policy, "--os", os_name, "--arch", machine]
    if variant:
        words += ["--variant", variant]
    job.say(f"pulling {image.reference}")
    listener = _Listener(job.say)
    if made.run([*words, image.reference], listener) != 0:
        reason = listener.reason()
        _check_space(listener.lines)
        raise ResolveError(
            f"{job.dockerfile.name}:{image.line}: {image.keyword} {image.reference} cannot be had:"
            f" {reason}",
            hint="see that the registry has this digest, and that you may read it",
        )
    return listener.lines[-1]


def _fetches(stage: Stage) -> bool:
    """Whether the build of a stage needs the network itself, whatever RUN may use."""
    return any(
        instruction.keyword == "ADD" and any(is_remote(word) for word in instruction.words[:-1])
        for instruction in stage.instructions
    )


def _build(made: Room, text: Text, job: EngineJob, more: list[str], *, fetches: bool) -> str:
    """Run the build; the id of the image."""
    identity = made.path / "image-id"
    ignore = made.path / "config/ignore"
    ignore.touch()
    dockerfile = made.path / "Dockerfile"
    dockerfile.write_bytes(text.data)
    words = [
        *("build", "--layers", "--format", "docker", "--pull=never", *made.policy),
        "--identity-label=false",
        *made.build_words(shared=job.network or not fetches),
        *("--platform", f"linux/{OCI_ARCHITECTURE[job.architecture]}"),
        # The context was chosen already.
        *("--ignorefile", str(ignore), "--iidfile", str(identity)),
        *("--file", str(dockerfile), "--target", job.target, *more),
        *("--build-context", f"{NOTHING}={made.path / 'nothing'}"),
        *(() if job.use_cache else ("--no-cache",)),
    ]
    for name, value in job.args.items():
        words += ["--build-arg", f"{name}={value}"]
    context = str(job.context.absolute())
    progress = Progress(text.steps, job.say)
    status = made.run(
        [*words, context],
        lambda line: progress.line(line.replace(context, "the context")),
        network=job.network or fetches,
    )
    if status == 0:
        return identity.read_text().strip()
    _check_space(progress.last)
    if progress.failed:
        found = progress.instruction
        said = progress.last
        if made.way.seclusion.has_one_id and any("nvalid argument" in line for line in said):
            said = (*said, f"perhaps it needs other ids than this user's own: {_LENT_IDS}")
        raise FailedInstructionError(
            line=found.line if found else None, instruction=progress.step, said=said
        )
    if any(_NO_HISTORY in line for line in progress.last):
        raise ToolFailedError(
            f"this {made.program} cannot build on an image that has no history of its layers",
            hint='get a newer one (buildah 1.39 can), or build with engine = "buildkit"',
        )
    if unread := unreadable(progress.last):
        number, why = unread
        line = text.line_of(number)
        raise FailedInstructionError(line=line, instruction=why, said=progress.last)
    raise ToolFailedError(
        "\n  ".join([f"exit status {status} from: {made.program} build", *progress.last])
    )


def _must(made: Room, words: list[str], job: EngineJob) -> None:
    listener = _Listener(job.say)
    status = made.run(words, listener)
    if status != 0:
        _check_space(listener.lines)
        raise ToolFailedError(
            "\n  ".join([f"exit status {status} from: {made.program} {words[0]}", *listener.lines])
        )


def _check_space(said: Iterable[str]) -> None:
    if any(_FULL in line for line in said):
        raise ToolFailedError(
            "there is no space left for the build",
            hint="make room in the temporary folder: a build takes a few times its image's size",
        )


def _remedy(reason: str) -> str:
    if "netavark" in reason:
        return "install the package netavark, or say where it is with CONTAINERS_HELPER_BINARY_DIR"
    if not seclusions(HOSTNAME)[0].rootless:
        return ""
    if not has_subids():
        return _LENT_IDS
    return "as a user it needs namespaces for users: see sysctl user.max_user_namespaces"

"""kaniko, for who builds with it already: its executor, in a container of Docker or Podman.

No socket and no folder is handed in: context and Dockerfile are copied into the container, the
image out of it. kaniko builds in the container's own root, whatever its container sees: RUN has the
network that kaniko has. As kaniko fetches bases itself, it builds on an image from a registry only
where the cage lets RUN use the network.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cagebuild import process
from cagebuild.dockerfile import parse, stages
from cagebuild.engine import kanikogaps
from cagebuild.engine.buildahwords import HOSTNAME, is_loopback
from cagebuild.engine.job import FailedInstructionError
from cagebuild.errors import ResolveError, ToolFailedError, ToolMissingError, UnsupportedError
from cagebuild.image.layout import open_image
from cagebuild.image.platform import OCI_ARCHITECTURE
from cagebuild.image.reference import Reference
from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cagebuild.dockerfile.model import Instruction, Stage
    from cagebuild.engine.job import EngineJob

Program = Literal["docker", "podman"]

_QUESTION = 10
"""Seconds to wait for an engine that is asked whether it is there."""
_PLACE = "kaniko/cage"
"""Below what kaniko leaves out of images."""
_LAST_LINES = 20
_NOTICE = re.compile(r"error building image: (?:error building stage: )?(.*)")
_NO_FILE = re.compile(rf"/{_PLACE}/context/(\S+): no such file or directory")
_NO_HISTORY = "v1/mutate.Time("
_FULL = "no space left on device"


class Kaniko:
    """Builds with kaniko's executor."""

    def __init__(self, image: str | None, program: Program | None = None) -> None:
        """``image``: the executor, ``host/repository@sha256:…``; ``program``: None is any."""
        self._image = image
        self._programs: tuple[Program, ...] = (program,) if program else ("docker", "podman")

    @property
    def name(self) -> str:
        """See ``Engine``."""
        return "kaniko"

    @property
    def unavailable(self) -> str:
        """See ``Engine``."""
        if self._image is None:
            return (
                "no image of its executor is configured:"
                ' [build] kaniko = "host/repository@sha256:…" names one'
            )
        try:
            if Reference.parse(self._image).digest is None:
                return f"its executor is not named by digest: {self._image}"
        except ResolveError as error:
            return error.message
        reasons = {program: _why_not(program) for program in self._programs}
        if "" in reasons.values():
            return ""
        return "; ".join(reasons.values())

    def describe(self) -> str:
        """See ``Engine``."""
        return f"kaniko {self._image} in {self._program()}"

    def build(self, job: EngineJob) -> Path:
        """See ``Engine``. The executor's own image stays with Docker or Podman."""
        dockerfile = parse.parse(job.dockerfile.read_bytes(), job.dockerfile)
        needed = stages.needed(dockerfile, job.target, job.args, job.architecture)
        images = stages.images(dockerfile, job.target, job.args, job.architecture)
        kanikogaps.refuse(dockerfile, needed, job)
        hosts = {
            Reference.parse(use.reference).registry for use in images if use.keyword != "syntax"
        }
        if hosts and not job.network:
            raise UnsupportedError(
                "kaniko fetches the images of the Dockerfile itself, and what it runs has the"
                " network too: that this cage may not",
                hint=f"allow it with [build] network = true, or {kanikogaps.OTHER}",
            )
        network = "none"
        if job.network:
            network = "host" if any(map(is_loopback, hosts)) else "bridge"
        program = self._program()
        progress = _Progress(needed, job.say)
        with _container(
            program, ["--network", network, self._image or "", *_words(job, hosts)], job
        ) as name:
            _copy_in(program, name, job, hosts)
            status = process.follow(
                [program, "start", "--attach", name], say=progress.line, env=_settings()
            )
            if status != 0:
                raise progress.failure(status)
            archive = job.scratch / "image.tar"
            _must(program, ["cp", f"{name}:/{_PLACE}/image.tar", str(archive)], job.say)
        image = open_image(archive, architecture=job.architecture, scratch=job.scratch)
        kanikogaps.refuse_volumes(dockerfile, needed, image.config.volumes)
        return archive

    def _program(self) -> Program:
        return next(
            (program for program in self._programs if not _why_not(program)), self._programs[0]
        )


def _why_not(program: Program) -> str:
    # Facts that only an engine which answers can give.
    question = "{{.ID}}" if program == "docker" else "{{.Host.OS}}"
    try:
        process.run([program, "info", "--format", question], env=_settings(), timeout=_QUESTION)
    except ToolMissingError:
        return f"there is no program '{program}'"
    except ToolFailedError as error:
        return f"{program}: {error.message.splitlines()[-1].strip()}"
    return ""


def _settings() -> dict[str, str]:
    return {**process.network_settings(), **process.engine_settings()}


def _words(job: EngineJob, hosts: set[str]) -> list[str]:
    """What the executor is told."""
    words = [
        *("--force", "--no-push", "--reproducible", "--skip-unused-stages"),
        *("--snapshot-mode=full", "--log-format=json"),
        f"--context=dir:///{_PLACE}/context",
        f"--dockerfile=/{_PLACE}/Dockerfile",
        f"--target={job.target}",
        f"--custom-platform=linux/{OCI_ARCHITECTURE[job.architecture]}",
        f"--tar-path=/{_PLACE}/image.tar",
        "--destination=cage",
    ]
    words += [f"--insecure-registry={host}" for host in sorted(hosts) if is_loopback(host)]
    # An ARG with the name of one of these has its value in BuildKit, but not in kaniko.
    machine = OCI_ARCHITECTURE[job.architecture]
    args: dict[str, str] = {}
    for side in ("BUILD", "TARGET"):
        args |= {f"{side}PLATFORM": f"linux/{machine}", f"{side}OS": "linux"}
        args |= {f"{side}ARCH": machine, f"{side}VARIANT": ""}
    args |= job.args
    return words + [f"--build-arg={name}={value}" for name, value in args.items()]


@contextmanager
def _container(program: Program, words: Sequence[str], job: EngineJob) -> Iterator[str]:
    # Known before anything has it: whatever is interrupted, it can be removed.
    name = f"cagebuild-{secrets.token_hex(8)}"
    create = [
        "create",
        "--name",
        name,
        "--hostname",
        HOSTNAME,
        "--entrypoint",
        "/kaniko/executor",
        *words,
    ]
    try:
        _must(program, create, job.say)
        yield name
    finally:
        remove = [program, "rm", "--force", "--volumes", name]
        process.follow(remove, say=lambda _: None, env=_settings())


def _copy_in(program: Program, name: str, job: EngineJob, hosts: set[str]) -> None:
    packed = job.scratch / "kaniko.tar"
    try:
        with packed.open("xb") as out:
            # It may hold what opens the registries.
            packed.chmod(0o600)
            _pack(job, hosts, out.write)
        # Podman would give everything to the container's user.
        owners = ["--archive=false"] if program == "podman" else []
        with packed.open("rb") as archive, (job.scratch / "kaniko.log").open("x+b") as log:
            status = process.watch(
                [program, "cp", *owners, "-", f"{name}:/"],
                output=log,
                stdin=archive,
                watcher=lambda _: job.say(""),
            )
            if status != 0:
                said = process.last_lines(log, 5)
                raise ToolFailedError(
                    "\n  ".join([f"exit status {status} from: {program} cp", *said])
                )
    finally:
        packed.unlink(missing_ok=True)
        (job.scratch / "kaniko.log").unlink(missing_ok=True)


def _pack(job: EngineJob, hosts: set[str], write: Callable[[bytes], object]) -> None:
    """An archive of context, Dockerfile and credentials, to be unpacked at the root."""
    writer = TarWriter(write)
    folder = Node(Kind.DIRECTORY, mode=0o755)

    def add(name: str, data: bytes, mode: int) -> None:
        region = Region.of_bytes(data)
        node = Node(Kind.FILE, mode=mode, size=region.size, source=region.source)
        writer.add(name.encode(), node)

    writer.add(_PLACE.encode(), folder)
    add(f"{_PLACE}/Dockerfile", job.dockerfile.read_bytes(), 0o644)
    add("kaniko/.docker/config.json", json.dumps({"auths": credentials(hosts)}).encode(), 0o600)
    writer.add(f"{_PLACE}/context".encode(), folder)
    for path in sorted(job.context.rglob("*")):
        name = os.fsencode(f"{_PLACE}/context/{path.relative_to(job.context)}")
        mode = path.lstat().st_mode & 0o7777
        if path.is_symlink():
            target = os.fsencode(path.readlink())
            writer.add(name, Node(Kind.SYMLINK, mode=0o777, mtime=job.epoch, target=target))
        elif path.is_dir():
            writer.add(name, Node(Kind.DIRECTORY, mode=mode, mtime=job.epoch))
        else:
            region = Region.of_file(path)
            writer.add(
                name,
                Node(Kind.FILE, mode=mode, mtime=job.epoch, size=region.size, source=region.source),
            )
    writer.close()


def credentials(hosts: set[str]) -> dict[str, object]:
    """What Docker's config itself has for registries: helpers there are none in the container."""
    folder = os.environ.get("DOCKER_CONFIG") or Path(os.environ.get("HOME", "/")) / ".docker"
    try:
        known = json.loads((Path(folder) / "config.json").read_bytes()).get("auths", {})
    except (OSError, ValueError, AttributeError):
        return {}
    names = {"https://index.docker.io/v1/" if host == "docker.io" else host for host in hosts}
    return {name: entry for name, entry in known.items() if name in names}


def _must(program: Program, words: Sequence[str], say: Callable[[str], None]) -> None:
    """Run a command of the engine that has to succeed."""
    said: list[str] = []

    def keep(line: str) -> None:
        if line:
            said.append(line)
        say("")

    status = process.follow([program, *words], say=keep, env=_settings())
    if status != 0:
        raise ToolFailedError(
            "\n  ".join([f"exit status {status} from: {program} {words[0]}", *said[-5:]])
        )


class _Progress:
    """Follows what the executor says."""

    def __init__(self, needed: Sequence[Stage], say: Callable[[str], None]) -> None:
        self._left = [each for stage in needed for each in stage.instructions]
        self._at: Instruction | None = None
        self._say = say
        self._last: list[str] = []

    def line(self, text: str) -> None:
        """Take a line: a log line of the executor's, or what a RUN says."""
        logged = _logged(text)
        said = text if logged is None else logged
        self._say(said)
        if logged is None:
            if said:
                self._last = [*self._last[1 - _LAST_LINES :], said]
        elif begun := self._begun(logged):
            self._at = begun
            self._last = []

    def _begun(self, said: str) -> Instruction | None:
        for number, instruction in enumerate(self._left):
            if " ".join(_source(instruction).split()) == " ".join(said.split()):
                del self._left[: number + 1]
                return instruction
        return None

    def failure(self, status: int) -> FailedInstructionError | ToolFailedError:
        """What it means that it has failed."""
        if any(_FULL in line for line in self._last):
            return ToolFailedError(
                "there is no space left for the build",
                hint="make room where Docker or Podman keep their containers",
            )
        if any(_NO_HISTORY in line for line in self._last):
            return ToolFailedError(
                "kaniko cannot build on an image that has no history of its layers",
                hint=kanikogaps.OTHER,
            )
        found = [match for line in self._last if (match := _NOTICE.match(line))]
        said = [_NOTICE.sub(r"\1", line) for line in self._last]
        failed = self._at
        if missing := _NO_FILE.search(said[-1] if said else ""):
            failed = next((each for each in self._left if missing[1] in each.words), failed)
        if found and failed is not None:
            return FailedInstructionError(
                line=failed.line, instruction=_source(failed), said=tuple(said)
            )
        return ToolFailedError(
            "\n  ".join([f"exit status {status} from kaniko's executor", *said[-5:]])
        )


def _logged(text: str) -> str | None:
    """The message of a log line."""
    try:
        return str(json.loads(text)["msg"]) if text.startswith("{") else None
    except (ValueError, KeyError, TypeError):
        return None


def _source(instruction: Instruction) -> str:
    flags = "".join(f"--{name}={value} " for name, value in instruction.flags)
    return f"{instruction.keyword} {flags}{instruction.text}"

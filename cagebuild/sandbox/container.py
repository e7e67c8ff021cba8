"""Docker and Podman, by the commands that both have.

Nothing is mounted and no socket is handed in: files are copied into the container and out of it, so
that an engine on another machine, or in a virtual one, does as well.
"""

from __future__ import annotations

import secrets
import tarfile
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Literal

from cagebuild import process
from cagebuild.errors import ImageError, ToolFailedError, ToolMissingError
from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region
from cagebuild.sandbox.job import BUILD, HOSTNAME, INPUTS, MAX_OUTPUT, OUTPUTS, USER, check_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cagebuild.sandbox.job import Job

_QUESTION = 10
"""Seconds to wait for an engine that is asked whether it is there."""
_MAX_NAMES = 1000


class ContainerEngine:
    """Runs jobs in containers of an engine, through its command line."""

    def __init__(self, name: Literal["docker", "podman"]) -> None:
        self.name = name

    @property
    def unavailable(self) -> str:
        """Why the engine cannot be used; empty when it can."""
        try:
            # Facts that only an engine which answers can give.
            process.run(
                [
                    self.name,
                    "info",
                    "--format",
                    "{{.ID}}" if self.name == "docker" else "{{.Host.OS}}",
                ],
                env=process.engine_settings(),
                timeout=_QUESTION,
            )
        except ToolMissingError:
            return f"there is no program '{self.name}'"
        except ToolFailedError as error:
            return error.message.splitlines()[-1].strip()
        return ""

    def run(self, job: Job) -> int:
        """See ``Sandbox``."""
        # Known before anything has it: whatever is interrupted, it can be removed.
        name = f"cagebuild-{secrets.token_hex(8)}"
        with self._image(job, name), self._container(job, name):
            with (job.scratch / "inputs.tar").open("x+b") as archive:
                _pack_inputs(job.inputs, archive)
                archive.seek(0)
                # Podman would give everything to the container's user.
                owners = ["--archive=false"] if self.name == "podman" else []
                self._must(job, ["cp", *owners, "-", f"{name}:/"], stdin=archive)
            status = process.watch(
                [self.name, "start", "--attach", name], output=job.log, watcher=job.watcher
            )
            if status == 0:
                self._take_outputs(job, name)
            return status

    @contextmanager
    def _image(self, job: Job, name: str) -> Iterator[None]:
        try:
            with job.root.open("rb") as layer:
                self._must(job, ["import", "-", name], stdin=layer)
            yield
        finally:
            self._remove(["rmi", "--force", name])

    @contextmanager
    def _container(self, job: Job, name: str) -> Iterator[None]:
        try:
            self._must(
                job,
                [
                    *("create", "--name", name, "--network", "none", "--hostname", HOSTNAME),
                    *("--user", f"{USER}:{USER}", "--workdir", f"/{BUILD}"),
                    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
                    # Engines raise limits by default, which not every machine lets them do.
                    *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=32768:32768"),
                    *(name, *job.command()),
                ],
            )
            yield
        finally:
            self._remove(["rm", "--force", "--volumes", name])

    def _take_outputs(self, job: Job, name: str) -> None:
        path = job.scratch / "outputs.tar"
        with path.open("xb") as archive:
            status = process.watch(
                [self.name, "cp", f"{name}:/{OUTPUTS}", "-"],
                output=archive,
                watcher=lambda size: _check_size(size, job),
                errors=job.log,
            )
        if status != 0:
            raise self._failed(["cp"], status, job.log)
        unpack_outputs(path, job.outputs)

    def _must(self, job: Job, words: list[str], *, stdin: BinaryIO | None = None) -> None:
        """Run a command of the engine that has to succeed."""
        status = process.watch(
            [self.name, *words], output=job.log, stdin=stdin, watcher=lambda _: job.watcher(0)
        )
        if status != 0:
            raise self._failed(words, status, job.log)

    def _failed(self, words: list[str], status: int, log: BinaryIO) -> ToolFailedError:
        said = process.last_lines(log, 5)
        return ToolFailedError(
            "\n  ".join([f"exit status {status} from: {self.name} {words[0]}", *said]),
            hint="CAGEBUILD_SANDBOX=namespaces does without it, where the kernel allows that",
        )

    def _remove(self, words: list[str]) -> None:
        """Clean up, also while something fails or is stopped: so it isn't watched."""
        with tempfile.TemporaryFile() as said:
            process.watch([self.name, *words], output=said)


def _check_size(size: int, job: Job) -> None:
    job.watcher(0)
    if size > MAX_OUTPUT:
        raise ImageError(f"a step left more than {MAX_OUTPUT} bytes of outputs")


def _pack_inputs(inputs: Mapping[str, Path], archive: BinaryIO) -> None:
    """An archive to be unpacked at the root: the inputs, and the folders that the job may write."""
    writer = TarWriter(archive.write)
    folder = Node(Kind.DIRECTORY, mode=0o755)
    made = {""}
    for name, path in sorted(inputs.items()):
        parts = f"{INPUTS}/{check_name(name)}".split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent not in made:
                made.add(parent)
                writer.add(parent.encode(), folder)
        region = Region.of_file(path)
        node = Node(Kind.FILE, mode=0o444, size=region.size, source=region)
        writer.add("/".join(parts).encode(), node)
    for name in (OUTPUTS, BUILD):
        own = Node(Kind.DIRECTORY, mode=0o755, uid=USER, gid=USER)
        writer.add(name.encode(), own)
    writer.close()


def unpack_outputs(archive: Path, folder: Path) -> None:
    """Regular files directly in the outputs' folder, and nothing else; raises ImageError."""
    try:
        with tarfile.open(archive, "r:") as tar:
            count = 0
            while (member := tar.next()) is not None:
                count += 1
                name = member.name.removeprefix("./").removeprefix(f"{OUTPUTS}/")
                if member.isdir() and name in (OUTPUTS, "."):
                    continue
                if (
                    not member.isreg()
                    or "/" in name
                    or name in ("", ".", "..")
                    or count > _MAX_NAMES
                ):
                    raise ImageError(
                        f"a step left something that is no file: {member.name[:200]!r}"
                    )
                if (folder / name).exists():
                    raise ImageError(f"a step left {name[:200]!r} twice")
                source = tar.extractfile(member)
                with (folder / name).open("xb") as target:
                    while source is not None and (data := source.read(1 << 20)):
                        target.write(data)
    except (tarfile.TarError, EOFError) as error:
        raise ImageError(f"the engine's archive of outputs cannot be read: {error}") from error

"""One run of nitro-cli: image and boot files into Docker, measurements out, nothing left behind."""

from __future__ import annotations

import io
import json
import secrets
import tarfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from docker.errors import DockerException, NotFound
from docker.types import LogConfig, Mount
from requests.exceptions import RequestException

from cagebuild.errors import EifError, ToolFailedError
from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region
from cagebuild.nitro.pcr import Measurements
from cagebuild.nitrocli import engine
from cagebuild.report import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from docker.client import DockerClient
    from docker.models.containers import Container

    from cagebuild.nitro.build import BootFiles
    from cagebuild.nitrocli.stops import Stops
    from cagebuild.nitrocli.tool import Tool

PREFIX: Final = "cagebuild-verify-"
"""What the names of images and containers begin with that are there for one run."""
_FOLDER = "cagebuild"
"""All that a run adds to the tool's file system, at its root."""
_EIF = f"/{_FOLDER}/image.eif"
_LOGS = f"/{_FOLDER}/logs"
_MAX_ANSWER = 1 << 20
_LAST_LINES = 20
_MARGIN = 64 << 20
# Build tool and kernel version of the EIF's metadata, which is not measured, come from its third
# line (aws/aws-nitro-enclaves-image-format: src/utils/identity.rs).
_KERNEL_CONFIG = b"#\n# not known here\n# Linux/unknown unknown Kernel Configuration\n"


def new_tag() -> str:
    """A name that no image has, so that none of the user's is moved."""
    return f"{PREFIX}{secrets.token_hex(8)}:latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What nitro-cli is to look at."""

    archive: Path
    """The finished image as a docker-archive."""
    tag: str
    """What the archive calls it: of ``new_tag``."""
    boot: BootFiles
    """nitro-cli always puts a driver in; without one it gets an empty file."""


class Answer:
    """What nitro-cli came to; usable as long as ``asked`` lasts."""

    def __init__(self, measurements: Measurements, container: Container, limit: int) -> None:
        self.measurements = measurements
        self._container = container
        self._limit = limit

    def save(self, target: Path) -> None:
        """Copy its image file to ``target``; raises ToolFailedError and EifError."""
        with engine.doing("copy the image file"), target.open("xb") as out:
            chunks, _ = self._container.get_archive(_EIF)
            try:
                with tarfile.open(fileobj=io.BufferedReader(_Chunks(chunks)), mode="r|") as tar:
                    member = tar.next()
                    source = tar.extractfile(member) if member else None
                    if member is None or source is None or member.size > self._limit:
                        raise EifError("nitro-cli's image file is none, or far too large")
                    while data := source.read(1 << 20):
                        out.write(data)
            except tarfile.TarError as error:
                raise EifError(f"nitro-cli's image file cannot be copied: {error}") from error


class _Chunks(io.RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # as io calls it
        self._rest = self._rest or next(self._chunks, b"")
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def asked(
    client: DockerClient, tool: Tool, job: Job, *, tell: Callable[[str], None], stops: Stops
) -> Iterator[Answer]:
    """Run nitro-cli on the job; ``tell`` is given what it says.

    However this ends, Docker has no container, tag or image more than before; an image that was
    there before under another name is kept. Raises ToolFailedError and InterruptedBuildError.
    """
    with _loaded(client, job, stops), _container(client, tool, job, stops) as container:
        _copy_in(container, tool, job)
        measurements = _read(_run(container, job, tell))
        limit = 2 * (job.archive.stat().st_size + job.boot.kernel.stat().st_size) + _MARGIN
        yield Answer(measurements, container, limit)


@contextmanager
def _loaded(client: DockerClient, job: Job, stops: Stops) -> Iterator[None]:
    with _cleared(client, stops, f"remove {job.tag}", lambda: engine.remove_image(client, job.tag)):
        # Docker goes on with an image that it has got whole, whether anybody waits or not; one that
        # ends early it forgets. So it's stopped in the middle, or not at all.
        what = engine.doing("load the finished image")
        with stops.held(), what, job.archive.open("rb") as archive:
            client.images.load(_Checked(archive, stops))
        yield


@contextmanager
def _cleared(
    client: DockerClient, stops: Stops, what: str, remove: Callable[[], None]
) -> Iterator[None]:
    """Clear away after the block, however it ends; its own failure is the one to tell."""
    try:
        yield
    except BaseException:
        with suppress(ToolFailedError), stops.held(), engine.doing(what), engine.soon(client):
            remove()
        raise
    with stops.held(), engine.doing(what), engine.soon(client):
        remove()


class _Checked:
    """A file that ends with an error when a stop is waiting."""

    def __init__(self, file: BinaryIO, stops: Stops) -> None:
        self._file = file
        self._stops = stops

    def read(self, size: int = -1) -> bytes:
        self._stops.check()
        return self._file.read(size)

    def __iter__(self) -> Iterator[bytes]:
        """What the Engine API's client really uses."""
        while data := self.read(1 << 20):
            yield data


@contextmanager
def _container(client: DockerClient, tool: Tool, job: Job, stops: Stops) -> Iterator[Container]:
    # Known before anything has it: whatever is interrupted, it can be removed.
    name = job.tag.partition(":")[0]
    with engine.doing("say what it is"):
        socket = Mount(target=engine.SOCKET, source=engine.socket_of(client), type="bind")

    def remove() -> None:
        with suppress(NotFound):
            client.api.remove_container(name, v=True, force=True)

    with _cleared(client, stops, f"remove the container {name}", remove):
        with stops.held(), engine.doing(f"make a container of {tool.name}"):
            container = client.containers.create(
                tool.image,
                ["build-enclave", "--docker-uri", job.tag, "--output-file", _EIF],
                name=name,
                entrypoint=["nitro-cli"],
                user="0",
                working_dir="/",
                environment={
                    "DOCKER_HOST": f"unix://{engine.SOCKET}",
                    "HOME": f"/{_FOLDER}",
                    "NITRO_CLI_ARTIFACTS": f"/{_FOLDER}/artifacts",
                    "NITRO_CLI_BLOBS": f"/{_FOLDER}/blobs",
                    "NITRO_CLI_LOGS_PATH": _LOGS,
                },
                mounts=[socket],
                # The image is there, and the socket is all that it talks to.
                network_mode="none",
                # SELinux and mapped users keep containers from the socket, for good reason; here
                # it's asked for.
                security_opt=["label=disable"],
                userns_mode="host",
                # What it says is read from Docker's log, whatever is done with those of others.
                log_config=LogConfig(type="json-file", config={"max-size": "64m"}),
            )
        yield container


def _copy_in(container: Container, tool: Tool, job: Job) -> None:
    """The boot files as nitro-cli names them, for either architecture, and folders to write in."""
    path = job.archive.with_name("boot.tar")
    with path.open("x+b") as archive:
        writer = TarWriter(archive.write)
        for name in ("", "/artifacts", "/blobs", "/logs"):
            writer.add(f"{_FOLDER}{name}".encode(), Node(Kind.DIRECTORY, mode=0o755))
        boot = {"bzImage": job.boot.kernel, "init": job.boot.init, "nsm.ko": job.boot.nsm}
        for name, file in boot.items():
            region = Region.of_file(file) if file else Region.of_bytes(b"")
            writer.add_region(_blob(name), region, mtime=0)
        writer.add_bytes(_blob("cmdline"), job.boot.cmdline, mtime=0)
        writer.add_bytes(_blob("bzImage.config"), _KERNEL_CONFIG, mtime=0)
        # It reads the one that is named as on its own processor, not the image's.
        for name, target in (
            ("Image", "bzImage"),
            ("Image.config", "bzImage.config"),
            ("linuxkit", f"{tool.blobs}/linuxkit"),
        ):
            link = Node(Kind.SYMLINK, mode=0o777, target=target.encode())
            writer.add(_blob(name), link)
        writer.close()
        archive.seek(0)
        with engine.doing("copy the boot files in"):
            container.put_archive("/", archive)
    path.unlink()


def _blob(name: str) -> bytes:
    return f"{_FOLDER}/blobs/{name}".encode()


def _run(container: Container, job: Job, tell: Callable[[str], None]) -> bytes:
    """Its standard output; raises ToolFailedError with its last lines of the other."""
    errors = _Lines(tell)
    hint = "the image named by --nitro-image has to have nitro-cli on its PATH"
    with engine.doing("run nitro-cli", hint=hint):
        container.start()
        for said in container.logs(stdout=False, stream=True, follow=True):
            errors.add(said)
        status = int(container.wait()["StatusCode"])
    last = errors.end()
    if status != 0:
        command = f"nitro-cli build-enclave --docker-uri {job.tag}"
        raise ToolFailedError(
            "\n  ".join([f"exit status {status} from: {command}", *last, *_reasons(container)]),
            hint="the lines are nitro-cli's own; AWS lists its errors by number:"
            " https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html",
        )
    answer = b""
    with engine.doing("read what nitro-cli printed"):
        for said in container.logs(stderr=False, stream=True):
            answer = (answer + said)[: _MAX_ANSWER + 1]
    if len(answer) > _MAX_ANSWER:
        raise ToolFailedError(f"nitro-cli printed more than {_MAX_ANSWER} bytes")
    return answer


def _reasons(container: Container) -> list[str]:
    """The last lines of the file in which nitro-cli says what failed; on the screen is a number."""
    lines = _Lines(lambda _: None)
    with suppress(DockerException, RequestException, tarfile.TarError):
        chunks, _ = container.get_archive(_LOGS)
        with tarfile.open(fileobj=io.BufferedReader(_Chunks(chunks)), mode="r|") as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isreg() else None
                if source is not None and Path(member.name).name.startswith("err"):
                    lines.add(source.read(_MAX_ANSWER) + b"\n")
    return lines.end()


class _Lines:
    """Passes whole lines on, and keeps the last ones; a line is cut at some length."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""
        self._last: list[str] = []

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:4096]
        for line in lines:
            self._line(line)

    def end(self) -> list[str]:
        if self._rest:
            self._line(self._rest)
        return self._last

    def _line(self, line: bytes) -> None:
        text = printable(line[:4096].decode(errors="replace").strip())
        if not text:
            return
        self._last = [*self._last[1 - _LAST_LINES :], text]
        self._tell(text)


def _read(answer: bytes) -> Measurements:
    """The measurements that nitro-cli printed; raises ToolFailedError."""
    try:
        found = json.loads(answer)["Measurements"]
        return Measurements(pcr0=found["PCR0"], pcr1=found["PCR1"], pcr2=found["PCR2"])
    except (ValueError, KeyError, TypeError, RecursionError):
        said = printable(answer[:200].decode(errors="replace").strip()) or "nothing"
        raise ToolFailedError(
            f"nitro-cli ended well, but printed no measurements: {said}",
            hint="is what the image has for nitro-cli really that?",
        ) from None

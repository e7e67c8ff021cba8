"""Both programs of the data plane at work: an enclave and the internet as two namespaces.

Inside there is nothing but a loopback interface; what goes in and out goes through the programs.
Outside the loopback interface has all the internet's addresses, and there is a name server.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from cagebuild import process
from cagebuild.nitro import eif, metadata
from cagebuild.runtime import host_architecture, settings
from tests.support.data_plane_clients import PATIENCE, Answer, connect, request
from tests.support.dns_server import Zone, serving
from tests.support.golang import MODULE, compile_program, run_go
from tests.support.namespaces import Namespace, Program
from tests.support.nitro import EPOCH, boot_files
from tests.support.nsm_device import Device, device_at
from tests.support.runtime import shared_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pytest

APP = Path(__file__).parent / "data_plane_app"
PROGRAMS = ("cage-guest", "cage-host")
WEB, RAW = 8080, 7000
"""Ports of the app."""
ADMIN = 9100
"""Port of cage-host's own HTTP server."""

PUBLIC, OTHER, PUBLIC6 = "5.5.5.5", "5.5.5.6", "2a00:5::5"
PRIVATE, METADATA = "10.1.2.3", "169.254.169.254"
NAME_SERVER = "5.5.5.53"
_ADDRESSES = (
    *(f"{each}/32" for each in (PUBLIC, OTHER, NAME_SERVER, PRIVATE, METADATA)),
    f"{PUBLIC6}/128",
)
_WALL = ("10.99.0.1", "10.99.0.2")
"""Outside and inside, where the transport is TCP."""

Transport = Literal["unix", "tcp", "vsock"]


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Where the compiled programs are."""

    guest: Path
    host: Path
    app: Path


def build_programs(factory: pytest.TempPathFactory) -> Programs:
    """The programs from source, built by the first of all test processes."""
    work = shared_work(factory)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return compile_all(work)


def compile_all(work: Path) -> Programs:
    """The programs from source, below ``work``, if they aren't there yet."""
    for name in PROGRAMS:
        if not (work / name).exists():
            words = ("-buildvcs=false", "-trimpath", "-o", str(work / name), f"./cmd/{name}")
            run_go(work, MODULE, "build", *words)
    if not (work / "app").exists():
        compile_program(work, APP, work / "app")
    return Programs(guest=work / "cage-guest", host=work / "cage-host", app=work / "app")


def ingress(port: int, **changes: Any) -> dict[str, Any]:
    """A port as cage.json has it: passed through, without a health check."""
    given = {"health": None, "tls": "passthrough", "proxy_protocol": False, **changes}
    given.setdefault("protocol", "tcp" if given["tls"] == "passthrough" else "http")
    return {"port": port, **given}


def egress(*rules: str) -> list[dict[str, Any]]:
    """Rules ``host:port`` as cage.json has them."""
    split = [rule.rpartition(":") for rule in rules]
    return [{"host": host.strip("[]"), "port": int(port)} for host, _, port in split]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a test's cage.json says; the rest is always the same."""

    ingress: Sequence[dict[str, Any]] = (ingress(WEB), ingress(RAW))
    egress: Sequence[dict[str, Any]] = ()
    secrets: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"env": [], "files": []})
    logs: bool = False
    argv: Sequence[str] = ("/app", "serve", f"127.0.0.1:{WEB}", f"127.0.0.1:{RAW}")

    def cage_json(self) -> bytes:
        """The file in the enclave."""
        given: dict[str, Any] = {
            "name": "pay", "argv": self.argv, "uid": 0, "gid": 0, "groups": [], "env": [],
            "workdir": "/", "ingress": self.ingress, "egress": self.egress,
            "secrets": self.secrets, "logs": self.logs, "epoch": EPOCH,
        }  # fmt: skip
        return settings(**given)

    def metadata(self) -> dict[str, Any]:
        """What the host reads, in the image's metadata."""
        return {
            "version": 1, "name": "pay", "architecture": host_architecture(),
            "memory_mib": 256, "cpus": 2, "ingress": self.ingress, "egress": self.egress,
            "secrets": self.secrets, "logs": self.logs,
        }  # fmt: skip


def write_image(path: Path, custom: object) -> None:
    """An image file that boots nothing, with metadata as cagebuild writes it."""
    boot = boot_files(path.parent)
    identity = metadata.Identity(name="pay", version="1", epoch=EPOCH, custom={"cagebuild": custom})
    contents = eif.Contents(
        architecture="x86_64",
        kernel=boot.kernel,
        cmdline=b"quiet",
        metadata=metadata.metadata_json(identity),
        boot_ramdisk=[b"one"],
        image_ramdisk=[b"two"],
        epoch=EPOCH,
    )
    eif.write(contents, path)


class Cage:
    """A cage and the host around it. Close it to end all of it."""

    def __init__(
        self, folder: Path, programs: Programs, wanted: Wanted, transport: Transport = "unix"
    ) -> None:
        self.wanted = wanted
        self.transport = transport
        self.app: Program
        self.host: Program
        self.guest: Program
        self._started: list[Program] = []
        self.zone = Zone({"public.test": [PUBLIC], "other.test": [OTHER]})
        self._programs = programs
        self._ends = contextlib.ExitStack()
        try:
            self._prepare(folder)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes and servers."""
        self._ends.close()

    def _prepare(self, folder: Path) -> None:
        # Not below pytest's folder: the path of a unix socket has 107 bytes at most.
        name = self._ends.enter_context(tempfile.TemporaryDirectory(prefix="cage-"))
        self.shared = Path(name)
        self.inside = self._ends.enter_context(Namespace(folder / "inside", self.shared))
        self.outside = self._ends.enter_context(Namespace(folder / "outside", self.shared))
        self._connect()
        for name, path in (("cage-guest", self._programs.guest), ("app", self._programs.app)):
            _install(path, self.inside.root / name)
        _install(self._programs.host, self.outside.root / "cage-host")
        (self.outside.root / "etc/resolv.conf").write_text(
            f"nameserver {NAME_SERVER}\noptions timeout:2 attempts:1\n"
        )
        (self.inside.root / "cage/etc").mkdir(parents=True)
        (self.inside.root / "cage/etc/cage.json").write_bytes(self.wanted.cage_json())
        write_image(self.shared / "cage.eif", self.wanted.metadata())
        self.device: Device = self._ends.enter_context(device_at(self.shared / "nsm"))
        with self.outside.entered():
            names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            names.bind((NAME_SERVER, 53))
        self._ends.enter_context(serving(names, self.zone))

    def _connect(self) -> None:
        outside = self.outside.output
        for address in _ADDRESSES:
            outside("ip", "addr", "add", address, "dev", "lo")
        if self.transport == "tcp":
            # Not by `outside`: the number of the other namespace's process means nothing there.
            process.run(
                ["nsenter", "-t", str(self.outside.pid), "-n", "ip", "link", "add", "wall", "type",
                 "veth", "peer", "name", "wall", "netns", str(self.inside.pid)]
            )  # fmt: skip
            for side, address in zip((self.outside, self.inside), _WALL, strict=True):
                side.output("ip", "addr", "add", f"{address}/24", "dev", "wall")
                side.output("ip", "link", "set", "wall", "up")

    @property
    def guest_url(self) -> str:
        """Where the guest listens."""
        return (
            f"unix://{self.shared}/guest" if self.transport == "unix" else f"tcp://{_WALL[1]}:9001"
        )

    @property
    def host_url(self) -> str:
        """Where the host listens for its guest."""
        return (
            f"unix://{self.shared}/host" if self.transport == "unix" else f"tcp://{_WALL[0]}:10016"
        )

    # Programs.

    def start(self) -> None:
        """Start all three programs, and return when a connection goes through."""
        self.start_app()
        self.start_host()
        self.start_guest()
        self.await_web()

    def guest_listens(self) -> None:
        """Wait until the guest takes streams at its unix socket."""
        self._await(lambda: _reach(self.shared / "guest"), "the guest does not listen")

    def _start(self, place: Namespace, *words: str) -> Program:
        program = self._ends.enter_context(Program(place, *words))
        self._started.append(program)
        return program

    def start_guest(self, *more: str) -> None:
        """Start the data plane in the enclave."""
        self.guest = self._start(
            self.inside,
            *("/cage-guest", "data", "--listen", self.guest_url, "--parent", self.host_url),
            *("--nsm", f"unix://{self.shared}/nsm", *more),
        )

    def start_host(self, *more: str) -> None:
        """Start the traffic on the parent; all ports of the cage are published on all addresses."""
        self.host = self._start(
            self.outside,
            *("/cage-host", "serve", "--guest", self.guest_url, "--listen", self.host_url),
            *("--eif", str(self.shared / "cage.eif"), "--admin", f"127.0.0.1:{ADMIN}", *more),
        )

    def start_app(self, *more: str) -> None:
        """Start the app, as the runtime would."""
        self.app = self._start(self.inside, *self.wanted.argv, *more)
        self.app.until("ready")

    # Clients.

    def connect(self, port: int = WEB) -> socket.socket:
        """A client's connection to a published port."""
        return connect(self.outside, "127.0.0.1", port)

    def ask(
        self, method: str, target: str, body: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> Answer:
        """A request to the app, through both programs."""
        return request(self.connect(), method, target, body, headers)

    def dial(self, address: str, body: bytes = b"") -> Answer:
        """What the app gets from a connection of its own to an address, as ``/dial`` says it."""
        return self.ask("POST", f"/dial?address={address}", body)

    def admin(self, target: str) -> Answer:
        """A request to cage-host's own server."""
        return request(self.connect(ADMIN), "GET", target)

    def metric(self, name: str) -> float:
        """A metric's value, the sum of all its labels; of the host's and the guest's metrics."""
        lines = self.admin("/metrics").body.decode().splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert found, f"no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def until_metric_line(self, line: str) -> None:
        """Wait until the metrics have a line."""

        def holds() -> bool:
            return line in self.admin("/metrics").body.decode().splitlines()

        self._await(holds, f"the metrics have no {line}")

    def until_metric(self, name: str, value: float) -> None:
        """Wait until a metric has a value."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
            time.sleep(0.1)

    def await_healthy(self) -> None:
        """Wait until the host says that all ports of the app are healthy."""
        self._await(lambda: self.admin("/health").status == 200, "the app is not healthy")

    def await_web(self) -> None:
        """Wait until the app answers to a client."""
        self._await(lambda: self.ask("GET", "/healthz").status == 200, "the app does not answer")

    def _await(self, holds: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if holds():
                    return
            said = [program.lines for program in self._started]
            assert time.monotonic() < deadline, (otherwise, said)
            time.sleep(0.05)


def _reach(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    return True


def _install(program: Path, target: Path) -> None:
    shutil.copyfile(program, target)
    target.chmod(0o755)

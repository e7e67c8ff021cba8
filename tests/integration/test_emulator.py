"""Image files of cages, booted as enclaves in QEMU, and their vsock."""

from __future__ import annotations

import hashlib
import shutil
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support import emulator_app
from tests.support.e2e import PROJECT, Lab, shared_lab
from tests.support.emulator import (
    HEARTBEAT,
    Machine,
    boot,
    listen,
    needs_emulator,
    vsock_folder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_emulator]

NAME = "tokeniser"
PORT = {handler: port for port, handler in emulator_app.PORTS.items()}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(tmp_path_factory)


@pytest.fixture(scope="module")
def probe(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample cage with another app in it, which runs as root."""
    repo = lab.service.clone(tmp_path_factory.mktemp("emulated") / "repo")
    shutil.copyfile(PROJECT / "tests/support/emulator_app.py", repo.root / "app/server.py")
    repo.replace("cage.toml", 'user = "65534:65534"', 'user = "0:0"')
    repo.commit()
    repo.invoke("lock")
    repo.commit()
    repo.invoke("build")
    return repo.dist(NAME) / f"{NAME}.eif"


@pytest.fixture(scope="module")
def machine(probe: Path) -> Iterator[Machine]:
    with vsock_folder() as vsock, boot(probe, vsock) as machine:
        machine.until("^app: ready$")
        yield machine


def rest(stream: socket.socket) -> bytes:
    """Everything to the end of a stream."""
    parts = []
    while part := stream.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def test_the_sample_cage_boots_and_is_gone_with_its_block(lab: Lab) -> None:
    image = lab.service.dist(NAME) / f"{NAME}.eif"
    with vsock_folder() as vsock:
        with boot(image, vsock) as machine:
            machine.until(r"^app: listening on 127\.0\.0\.1:8080$")
            assert machine.process.poll() is None
            assert machine.heart.beats == [HEARTBEAT]
        assert machine.process.poll() is not None
        with pytest.raises(OSError, match=r"No such file|refused"):
            machine.connect(9001)


def test_the_machine_has_an_nsm_and_a_vsock(machine: Machine) -> None:
    assert machine.heart.beats == [HEARTBEAT]
    for name in ("nsm", "vsock", "hwrng"):
        assert f"app: /dev/{name} is a device" in machine.console.splitlines()
    assert "app: random numbers come from nsm-hwrng" in machine.console.splitlines()


def test_the_guest_answers_after_the_hosts_end(machine: Machine) -> None:
    data = bytes(range(251)) * 40_000
    with machine.connect(PORT[emulator_app.answer]) as stream:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        assert rest(stream).decode() == f"{len(data)} {hashlib.sha256(data).hexdigest()}"


def test_the_host_answers_after_the_guests_end(machine: Machine) -> None:
    with machine.connect(PORT[emulator_app.tell]) as stream:
        assert rest(stream) == bytes(range(256)) * (emulator_app.SIZE // 256)
        stream.sendall(bytes(100_000))
    machine.until("^app: after its own end: 100000$")


def test_the_guest_opens_streams_to_its_parent(machine: Machine) -> None:
    with listen(machine.vsock, 7000) as server, machine.connect(PORT[emulator_app.call]) as stream:
        stream.sendall(b"7000")
        called, _ = server.accept()
        with called:
            called.sendall(b"from the parent")
        assert rest(stream) == b"from the parent"


def test_where_nobody_listens_a_stream_is_refused_at_once(machine: Machine) -> None:
    with machine.connect(PORT[emulator_app.call]) as stream:
        stream.sendall(b"7001")
        assert rest(stream) == b"ConnectionResetError"
    with pytest.raises(ConnectionRefusedError):
        machine.connect(4999)


def test_a_reader_that_takes_nothing_stops_its_writer_and_nobody_else(machine: Machine) -> None:
    with ExitStack() as stack:
        held = stack.enter_context(machine.connect(PORT[emulator_app.hold]))
        held.setblocking(False)
        sent, waits = 0, False
        while not waits and sent < 1 << 28:
            try:
                sent += held.send(bytes(1 << 16))
            except BlockingIOError:
                with stack.enter_context(machine.connect(PORT[emulator_app.answer])) as other:
                    other.shutdown(socket.SHUT_WR)
                    assert rest(other).startswith(b"0 ")
                # Meanwhile all that there is room for has gone on.
                try:
                    sent += held.send(bytes(1))
                except BlockingIOError:
                    waits = True
        assert waits, f"{sent} bytes are somewhere"
        machine.connect(PORT[emulator_app.release]).close()
        held.setblocking(True)
        held.shutdown(socket.SHUT_WR)
        assert rest(held).decode() == f"{sent} {hashlib.sha256(bytes(sent)).hexdigest()}"


def test_a_stream_that_the_host_drops_is_over_in_both_directions(machine: Machine) -> None:
    stream = machine.connect(PORT[emulator_app.wait])
    assert stream.recv(1, socket.MSG_PEEK) == b"?"
    stream.close()
    machine.until("^app: ended with b'' BrokenPipeError$")


def test_an_enclave_that_ends_itself_ends_the_machine(machine: Machine) -> None:
    machine.connect(PORT[emulator_app.stop]).close()
    ended = machine.end()
    assert ended.status == 0, ended.console
    assert "cage: init: the first process ended: exit status 0" in ended.console
    assert "Kernel panic" not in ended.console

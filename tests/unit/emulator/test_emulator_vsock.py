"""The vsock of an emulated enclave, with a driver in the machine's place."""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cagebuild.emulator.vhost import DeviceError
from cagebuild.emulator.vsock import BUFFER, Operation
from tests.support import emulator_driver
from tests.support.emulator_driver import CID, HEADER, PARENT, PORT, Driver

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_RECEIVE, NO_SEND = 1, 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vm"


@pytest.fixture
def driver(path: Path) -> Iterator[Driver]:
    with emulator_driver.driver(path) as driving:
        yield driving


def dial(path: Path, request: bytes = b"CONNECT 17\n") -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(10)
    stream.connect(str(path))
    stream.sendall(request)
    return stream


def opened(driver: Driver, path: Path) -> tuple[socket.socket, int]:
    """A stream that the host opened: its end, and the port that the machine knows it by."""
    stream = dial(path)
    (asked,) = driver.packets()
    assert asked.operation is Operation.REQUEST
    driver.send(asked.source_port, Operation.RESPONSE)
    assert stream.recv(100) == b"OK %d\n" % asked.source_port
    return stream, asked.source_port


def called(driver: Driver, path: Path, port: int = 7000) -> socket.socket:
    """A stream that the machine opened, at the host's end."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}_{port}")
        server.listen()
        driver.send(port, Operation.REQUEST)
        (answer,) = driver.packets()
        assert answer.operation is Operation.RESPONSE
        stream, _ = server.accept()
    stream.settimeout(10)
    return stream


def data_of(driver: Driver) -> bytes:
    got = driver.packets()
    assert {(each.operation, each.kind) for each in got} <= {(Operation.RW, 1)}
    return b"".join(each.data for each in got)


def operations(driver: Driver) -> list[tuple[Operation, int]]:
    return [(each.operation, each.flags) for each in driver.packets()]


def test_the_machine_learns_its_cid(driver: Driver) -> None:
    answer = driver.ask(24, struct.pack("<III", 0, 8, 0) + bytes(8))
    assert answer[12:] == struct.pack("<Q", CID)


def test_the_host_opens_a_stream_and_what_follows_the_request_belongs_to_it(
    driver: Driver, path: Path
) -> None:
    with dial(path, b"CONNECT 17\nfirst\nsecond") as stream:
        (asked,) = driver.packets()
        assert (asked.source, asked.destination) == (PARENT, CID)
        assert asked.destination_port == PORT
        driver.send(asked.source_port, Operation.RESPONSE)
        assert data_of(driver) == b"first\nsecond"
        driver.send(asked.source_port, Operation.RW, b"answer")
        assert stream.recv(100) == b"OK %d\nanswer" % asked.source_port


def test_a_request_may_come_in_pieces(driver: Driver, path: Path) -> None:
    with dial(path, b"CON") as stream:
        for part in (b"NECT", b" 1", b"7"):
            assert driver.packets() == []
            stream.sendall(part)
        assert driver.packets() == []
        stream.sendall(b"\n")
        assert operations(driver) == [(Operation.REQUEST, 0)]


@pytest.mark.parametrize(
    "request_",
    [b"\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT -1\n", b"GET / HTTP/1.1\r\n", b"C" * 40, b""],
)
def test_what_is_no_request_is_hung_up_on(driver: Driver, path: Path, request_: bytes) -> None:
    with dial(path, request_) as stream:
        stream.shutdown(socket.SHUT_WR)
        assert driver.packets() == []
        try:
            assert stream.recv(1) == b""
        except ConnectionResetError:
            assert len(request_) > 32  # more of it was there


def test_a_stream_that_the_machine_refuses_ends_without_an_answer(
    driver: Driver, path: Path
) -> None:
    with dial(path) as stream:
        (asked,) = driver.packets()
        driver.send(asked.source_port, Operation.RST)
        assert stream.recv(1) == b""
        assert driver.packets() == []


def test_before_the_machine_is_up_nothing_listens_in_it(path: Path) -> None:
    with emulator_driver.driver(path) as driving:
        driving.ask(11, struct.pack("<II", 0, 0))
        with dial(path) as stream:
            driving.step()
            assert stream.recv(1) == b""


def test_the_machine_opens_a_stream(driver: Driver, path: Path) -> None:
    with called(driver, path) as stream:
        stream.sendall(b"from the host")
        assert data_of(driver) == b"from the host"
        driver.send(7000, Operation.RW, b"from the machine")
        assert stream.recv(100) == b"from the machine"


@pytest.mark.parametrize(
    ("operation", "source", "destination", "kind"),
    [
        (Operation.REQUEST, CID, PARENT, 1),  # nobody listens
        (Operation.REQUEST, CID, 2, 1),
        (Operation.REQUEST, 5, PARENT, 1),
        (Operation.REQUEST, CID, PARENT, 2),  # SOCK_SEQPACKET
        (Operation.RW, CID, PARENT, 1),
        (Operation.SHUTDOWN, CID, PARENT, 1),
        (Operation.CREDIT_REQUEST, CID, PARENT, 1),
    ],
)
def test_what_there_is_no_stream_for_is_reset(
    driver: Driver, operation: Operation, source: int, destination: int, kind: int
) -> None:
    driver.send(7000, operation, source=source, destination=destination, kind=kind)
    (answer,) = driver.packets()
    assert (answer.operation, answer.kind) == (Operation.RST, kind)
    ends = answer.source, answer.source_port, answer.destination, answer.destination_port
    assert ends == (destination, 7000, source, PORT)


def test_a_reset_is_not_answered(driver: Driver) -> None:
    driver.send(7000, Operation.RST)
    assert driver.packets() == []


def test_data_in_many_pieces_of_memory_comes_as_one(driver: Driver, path: Path) -> None:
    stream, port = opened(driver, path)
    with stream:
        data = bytes(range(256)) * 200
        driver.send(port, Operation.RW, data, pieces=[10, 34, 1, 999, 4096, 20_000])
        assert stream.recv(1 << 20) == data


def test_the_hosts_end_leaves_the_other_direction_open(driver: Driver, path: Path) -> None:
    stream, port = opened(driver, path)
    with stream:
        stream.sendall(b"last words")
        stream.shutdown(socket.SHUT_WR)
        words, end = driver.packets()
        assert words.data == b"last words"
        assert (end.operation, end.flags) == (Operation.SHUTDOWN, NO_SEND)
        driver.send(port, Operation.RW, b"answer")
        assert stream.recv(100) == b"answer"
        driver.send(port, Operation.SHUTDOWN, flags=NO_SEND | NO_RECEIVE)
        assert stream.recv(1) == b""
        assert operations(driver) == [(Operation.RST, 0)]


def test_the_machines_end_leaves_the_other_direction_open(driver: Driver, path: Path) -> None:
    stream, port = opened(driver, path)
    with stream:
        driver.send(port, Operation.RW, b"last words")
        driver.send(port, Operation.SHUTDOWN, flags=NO_SEND)
        assert stream.recv(100) == b"last words"
        assert stream.recv(100) == b""
        stream.sendall(b"answer")
        assert data_of(driver) == b"answer"
    # It closes, which ends its direction first.
    assert operations(driver)[-1] == (Operation.SHUTDOWN, NO_SEND | NO_RECEIVE)


def test_a_host_that_closes_ends_both_directions(driver: Driver, path: Path) -> None:
    stream, port = opened(driver, path)
    stream.sendall(b"last words")
    stream.close()
    got = driver.packets()
    assert b"".join(each.data for each in got) == b"last words"
    assert got[-1].operation is Operation.SHUTDOWN
    assert got[-1].flags == NO_SEND | NO_RECEIVE
    driver.send(port, Operation.RST)
    assert driver.packets() == []


def test_a_host_that_closes_with_unread_data_resets(driver: Driver, path: Path) -> None:
    stream, port = opened(driver, path)
    driver.send(port, Operation.RW, b"unread")
    stream.close()
    assert operations(driver) == [(Operation.RST, 0)]
    driver.send(port, Operation.RW, b"late")
    assert operations(driver) == [(Operation.RST, 0)]


def test_a_machine_that_receives_no_more_stops_the_host(driver: Driver, path: Path) -> None:
    stream, port = opened(driver, path)
    with stream:
        driver.send(port, Operation.SHUTDOWN, flags=NO_RECEIVE)
        with pytest.raises(BrokenPipeError):
            stream.sendall(b"too late")
        driver.send(port, Operation.RW, b"still")
        assert stream.recv(100) == b"still"


def test_the_host_sends_what_the_machine_has_room_for(driver: Driver, path: Path) -> None:
    driver.credit = 10
    stream, port = opened(driver, path)
    with stream:
        stream.sendall(b"0123456789abcdef")
        assert data_of(driver) == b"0123456789"
        assert driver.packets() == []
        driver.taken = 4
        driver.send(port, Operation.CREDIT_UPDATE)
        assert data_of(driver) == b"abcd"
        driver.taken = 14
        driver.send(port, Operation.CREDIT_UPDATE)
        assert data_of(driver) == b"ef"


def test_without_buffers_of_the_machine_data_waits(path: Path) -> None:
    with emulator_driver.driver(path, buffers=2) as driving:
        stream, _ = opened(driving, path)
        with stream:
            stream.sendall(bytes(3 * 4096))
            first = driving.packets(keep=True)
            assert len(first) == 2
            assert driving.packets() == []
            for _ in range(4):
                driving.give_buffer()
            rest = driving.packets()
            assert sum(len(each.data) for each in (*first, *rest)) == 3 * 4096


def test_what_the_host_does_not_take_waits_and_its_room_is_announced_when_it_does(
    driver: Driver, path: Path
) -> None:
    stream, port = opened(driver, path)
    with stream:
        stream.setblocking(False)
        sent = 0
        known = 0
        while True:
            size = min(60_000, BUFFER - (sent - known))
            if not size:
                break
            driver.send(port, Operation.RW, bytes(size))
            sent += size
            for each in driver.packets():
                assert (each.operation, each.credit) == (Operation.CREDIT_UPDATE, BUFFER)
                known = each.forwarded
            assert sent < 1 << 24, "nothing stops the machine"
        received = 0
        while received < sent:
            received += len(stream.recv(1 << 20))
            updates = driver.packets()
            assert {each.operation for each in updates} <= {Operation.CREDIT_UPDATE}
            known = updates[-1].forwarded if updates else known
        assert received == sent
        assert sent - known < BUFFER // 4


def test_a_machine_that_sends_more_than_there_is_room_for_is_reset(
    driver: Driver, path: Path
) -> None:
    stream, port = opened(driver, path)
    with stream:
        for _ in range(100):
            driver.send(port, Operation.RW, bytes(60_000))
        assert Operation.RST in [each.operation for each in driver.packets()]


def test_a_machine_that_closes_leaves_the_host_all_that_it_sent(driver: Driver, path: Path) -> None:
    stream, port = opened(driver, path)
    with stream:
        sent = 0
        while sent < BUFFER:
            driver.send(port, Operation.RW, bytes(32 << 10))
            sent += 32 << 10
        driver.send(port, Operation.SHUTDOWN, flags=NO_SEND | NO_RECEIVE)
        assert (Operation.RST, 0) in operations(driver)
        received = 0
        while part := stream.recv(1 << 20):
            received += len(part)
            driver.step()
        assert received == sent


def test_credit_is_told_when_asked_for(driver: Driver, path: Path) -> None:
    stream, port = opened(driver, path)
    with stream:
        driver.send(port, Operation.RW, b"12345")
        driver.send(port, Operation.CREDIT_REQUEST)
        (answer,) = driver.packets()
        assert answer.operation is Operation.CREDIT_UPDATE
        assert (answer.credit, answer.forwarded) == (BUFFER, 5)


def test_many_streams_have_ports_of_their_own(driver: Driver, path: Path) -> None:
    streams = [opened(driver, path) for _ in range(20)]
    assert len({port for _, port in streams}) == 20
    for _, port in streams:
        driver.send(port, Operation.RW, str(port).encode())
    for stream, port in streams:
        with stream:
            assert stream.recv(100) == str(port).encode()


def hostile(case: str, driver: Driver) -> None:
    memory = 0x1000
    match case:
        case "a loop of descriptors":
            driver.descriptor(1, 0, memory, 8, 1, 0)
            driver.offer(1, 0)
        case "a descriptor that is none":
            driver.offer(1, 64)
        case "a next that is none":
            driver.descriptor(1, 0, memory, 8, 1, 999)
            driver.offer(1, 0)
        case "memory that is none":
            driver.descriptor(1, 0, 0, 64)
            driver.offer(1, 0)
        case "memory at its end":
            driver.descriptor(1, 0, memory + (1 << 20) - 8, 64)
            driver.offer(1, 0)
        case "a header cut short":
            driver.put(bytes(HEADER.size - 1))
        case "less data than said":
            driver.put(HEADER.pack(CID, PARENT, 1, 2, 9, 1, Operation.RW, 0, 0, 0) + b"8 bytes.")
        case "more data than a packet has":
            driver.put(
                HEADER.pack(CID, PARENT, 1, 2, 70_000, 1, Operation.RW, 0, 0, 0) + bytes(70_000)
            )
        case "a buffer without room for a header":
            driver.give_buffer(4)
            driver.send(7000, Operation.REQUEST)
    driver.step()


@pytest.mark.parametrize(
    "case",
    [
        "a loop of descriptors",
        "a descriptor that is none",
        "a next that is none",
        "memory that is none",
        "memory at its end",
        "a header cut short",
        "less data than said",
        "more data than a packet has",
        "a buffer without room for a header",
    ],
)
def test_a_machine_that_is_not_to_be_trusted_ends_the_device(path: Path, case: str) -> None:
    with emulator_driver.driver(path, buffers=0) as driver, pytest.raises(DeviceError):
        hostile(case, driver)


def test_a_buffer_with_room_for_a_header_alone_is_no_end_of_the_host(path: Path) -> None:
    with emulator_driver.driver(path, buffers=1) as driver, dial(path) as stream:
        (asked,) = driver.packets(keep=True)
        driver.give_buffer(HEADER.size)
        driver.send(asked.source_port, Operation.RESPONSE)
        stream.sendall(b"data")
        with pytest.raises(DeviceError):
            driver.step()


def test_a_machine_that_takes_no_answer_is_asked_no_more(path: Path) -> None:
    with emulator_driver.driver(path, buffers=0) as driver:
        for _ in range(3_000):
            driver.send(7000, Operation.RW)
        heard = driver.returned(1)
        assert 0 < heard < 3_000
        for _ in range(10):
            driver.give_buffer()
        driver.step()
        assert driver.returned(1) == heard + 10


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (8, struct.pack("<II", 7, 64)),  # no such queue
        (8, struct.pack("<II", 0, 0)),
        (8, struct.pack("<II", 0, 1 << 20)),
        (5, struct.pack("<IIQQQQ", 1, 0, 0, 4096, 0, 0)),  # without its descriptor
        (9, struct.pack("<IIQQQQ", 0, 0, 0, 0, 0, 0)),  # nowhere in the machine
    ],
)
def test_messages_that_make_no_sense_end_the_device(
    driver: Driver, request_: int, body: bytes
) -> None:
    with pytest.raises(DeviceError):
        driver.tell(request_, body)


FIELDS = st.tuples(
    st.sampled_from([CID, 5]),
    st.sampled_from([PARENT, 2]),
    st.sampled_from([PORT, 18]),
    st.sampled_from([1 << 30, (1 << 30) + 1, 7000, 7001]),
    st.one_of(st.just(-1), st.integers(0, 1 << 17)),  # -1: as much as there is
    st.sampled_from([1, 1, 1, 2, 0xFFFF]),
    st.integers(0, 8),
    st.integers(0, 7),
    st.sampled_from([0, 10, 1 << 16, (1 << 32) - 1]),
    st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1]),
)


@given(packets=st.lists(st.tuples(FIELDS, st.binary(max_size=300)), max_size=20))
def test_no_packets_do_more_than_end_the_device(
    packets: list[tuple[tuple[int, ...], bytes]],
) -> None:
    """In any order, to streams that are open, half open, or were never there."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "vm"
        driver = stack.enter_context(emulator_driver.driver(path))
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(f"{path}_7000")
        server.listen()
        for _ in range(2):
            stack.enter_context(dial(path)).sendall(b"from the host")
        driver.packets()
        stack.enter_context(contextlib.suppress(DeviceError))
        for fields, data in packets:
            *ends, length, kind, operation, flags, credit, taken = fields
            what = len(data) if length < 0 else length, kind, operation, flags, credit, taken
            driver.put(HEADER.pack(*ends, *what) + data)
            driver.switch.serve_host()
        driver.packets()

"""The machine's vsock, in a process of its own, until QEMU is gone."""

from __future__ import annotations

import argparse
import contextlib
import resource
import select
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild.emulator.vhost import Device, DeviceError
from cagebuild.emulator.vsock import Switch

if TYPE_CHECKING:
    from collections.abc import Iterator

_INCOMING, _OUTGOING, _QUEUES = 0, 1, 2
"""Queues, seen from the machine. The third one, of events, is QEMU's own."""


def main() -> None:
    """Wait for QEMU at one socket, and for the host's streams at another."""
    parser = argparse.ArgumentParser(prog="python -m cagebuild.emulator", description=__doc__)
    parser.add_argument("--device", type=Path, required=True, help="QEMU connects to this socket")
    parser.add_argument("--vsock", type=Path, required=True, help="the host to this")
    parser.add_argument("--cid", type=int, default=4, help="the machine's")
    parser.add_argument("--parent", type=int, default=3, help="CID of the host")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a stream takes one
    with _listening(given.vsock) as server, _listening(given.device) as door:
        connection, _ = door.accept()
        with connection:
            device = Device(connection, queues=_QUEUES, config=struct.pack("<Q", given.cid))
            switch = Switch(
                device.queues[_INCOMING],
                device.queues[_OUTGOING],
                server,
                cid=given.cid,
                parent=given.parent,
                path=given.vsock,
            )
            with contextlib.closing(switch):
                try:
                    _serve(device, switch)
                except DeviceError as error:
                    sys.exit(f"emulator: {error}")


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(128)
        try:
            yield server
        finally:
            path.unlink(missing_ok=True)


def _serve(device: Device, switch: Switch) -> None:
    """Until QEMU closes its connection."""
    qemu = device.connection.fileno()
    ready = _poll(device, switch)
    while True:
        events = {descriptor for descriptor, _ in ready.poll()}
        for queue in device.queues:
            if queue.kick in events:
                queue.hear()
        if qemu in events:
            if not device.obey():
                return
            ready = _poll(device, switch)
        if events - {switch.fileno()}:
            switch.serve_machine()
        if switch.fileno() in events:
            switch.serve_host()


def _poll(device: Device, switch: Switch) -> select.poll:
    ready = select.poll()
    kicks = [queue.kick for queue in device.queues if queue.kick >= 0]
    for descriptor in (device.connection.fileno(), switch.fileno(), *kicks):
        ready.register(descriptor, select.POLLIN)
    return ready


if __name__ == "__main__":
    main()

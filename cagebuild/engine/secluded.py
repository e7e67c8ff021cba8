"""Run inside new namespaces, by itself: names the machine, then becomes a program.

    python -I -S -c TEXT-OF-THIS-FILE HOSTNAME PROGRAM [WORD …]

unshare(1) has no word for a name, and leaves the loopback of a new network down.
"""

import fcntl
import os
import socket
import struct
import sys

_SET_FLAGS = 0x8914
_UP_AND_RUNNING = 0x41
"""SIOCSIFFLAGS, IFF_UP and IFF_RUNNING, see netdevice(7)."""


def main() -> None:
    """Become the program of the command line."""
    _, hostname, program, *words = sys.argv
    socket.sethostname(hostname)
    if [name for _, name in socket.if_nameindex()] == ["lo"]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh", b"lo", _UP_AND_RUNNING))
    os.execvp(program, [program, *words])  # noqa: S606 (the point of it)


if __name__ == "__main__":
    main()

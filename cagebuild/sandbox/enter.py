"""Enters namespaces of its own and runs one command in them: a program by itself.

``python -I -S enter.py SPECIFICATION``, a JSON object: ``root`` (a folder), ``read`` and ``write``
(folders by the names that they get below the root), ``folder`` (to start in), ``hostname``,
``user``, ``command``. ``{"probe": true}`` only finds out whether there are namespaces to be had.
It needs root, or a kernel that lets everybody have user namespaces. Its exit status is the
command's; 250 with a line on standard error says that the sandbox could not be made.

Only the standard library is used, and nothing of the rest of this package: the command must not
depend on what else is installed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any, NoReturn

FAILED = 250

_CLONE = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_KEPT = (
    (os.ST_NOSUID, _MS_NOSUID),
    (os.ST_NODEV, _MS_NODEV),
    (os.ST_NOEXEC, _MS_NOEXEC),
    (os.ST_NOATIME, 1024),
    (os.ST_NODIRATIME, 2048),
    (os.ST_RELATIME, 1 << 21),
)
"""Flags of a mount that a user namespace may not take away, and what mount(2) calls them."""
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_DEVICES = ("full", "null", "random", "urandom", "zero")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}

_libc = ctypes.CDLL(None, use_errno=True)


class _CallError(Exception):
    """A system call that did not work, in words."""


def _call(what: str, result: int) -> None:
    if result != 0:
        raise _CallError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    _call(f"mount {target}", _libc.mount(*encoded, ctypes.c_ulong(flags), data.encode()))


def _bind(source: str, target: str, *, read_only: bool = False) -> None:
    _mount(source, target, None, _MS_BIND)
    if read_only:
        given = os.statvfs(target).f_flag
        kept = sum(flag for bit, flag in _KEPT if given & bit)
        _mount("", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)


def _write(path: str, text: str) -> None:
    """Not by ``open``, which may import more of Python from where only the caller could read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def _die_with_parent() -> None:
    _call("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _unshare(user: int, *, as_root: bool) -> None:
    """New namespaces; without root, a user namespace in which the caller is ``user``."""
    own = set(_CLONE) - ({"user"} if as_root else set())
    uid, gid = os.geteuid(), os.getegid()
    _call(
        "the kernel refuses namespaces to this user (unshare)"
        if not as_root
        else "the kernel refuses namespaces to root (unshare)",
        _libc.unshare(sum(_CLONE[name] for name in own)),
    )
    if not as_root:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {uid} 1"),
            ("gid_map", f"{user} {gid} 1"),
        ):
            _write(f"/proc/self/{name}", text)


def _make_root(spec: dict[str, Any]) -> None:
    """Mount everything below the root folder and make it the root of this mount namespace."""
    root = spec["root"]
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _bind(root, root, read_only=True)
    _mount("tmpfs", f"{root}/dev", "tmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=0755,size=64m")
    for name in _DEVICES:
        _write(f"{root}/dev/{name}", "")
        _bind(f"/dev/{name}", f"{root}/dev/{name}")
    for name, target in _LINKS.items():
        os.symlink(target, f"{root}/dev/{name}")
    os.mkdir(f"{root}/dev/shm")
    os.chmod(f"{root}/dev/shm", 0o1777)
    _mount("proc", f"{root}/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    for name, folder in spec["read"].items():
        _bind(folder, f"{root}/{name}", read_only=True)
    for name, folder in spec["write"].items():
        _bind(folder, f"{root}/{name}")
    os.chdir(root)
    # The old root is stacked on the new one's mount point, and goes from there (pivot_root(2)).
    _call("pivot_root", _libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."))
    _call("umount the old root", _libc.umount2(b".", _MNT_DETACH))
    os.chdir(spec["folder"])


def _become(user: int, *, as_root: bool) -> None:
    """Be the job's user, with no way back to any right."""
    if as_root:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _call("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _wait_for(child: int) -> int:
    """Reap whatever ends, as the first process of a namespace has to; the child's status."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _exit(status: int) -> NoReturn:
    sys.stderr.flush()
    os._exit(128 - status if status < 0 else status)


def _first_process(spec: dict[str, Any], *, as_root: bool) -> NoReturn:
    """Process 1 of the new namespaces. When it ends, so does all that is still running there."""
    try:
        _die_with_parent()
        if "probe" in spec:
            _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
            _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
            _exit(0)
        socket.sethostname(spec["hostname"])
        _make_root(spec)
        child = os.fork()
        if child == 0:
            _become(spec["user"], as_root=as_root)
            os.setsid()
            os.execv(spec["command"][0], spec["command"])
        _exit(_wait_for(child))
    except (_CallError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        _exit(FAILED)


def main() -> NoReturn:
    """Run the command; see the module's description."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    as_root = os.geteuid() == 0
    try:
        _die_with_parent()
        _unshare(spec.get("user", 0), as_root=as_root)
        child = os.fork()
    except (_CallError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        _exit(FAILED)
    if child == 0:
        _first_process(spec, as_root=as_root)
    _exit(_wait_for(child))


if __name__ == "__main__":
    main()

"""Namespaces in which a build without a daemon runs, so that nothing of it outlives it.

With the last program of a process namespace its other programs end, whatever sessions they are in;
with the mount namespace go the mounts. A user without privileges gets both through a user namespace
in which he is root, with the ids that ``/etc/subuid`` and ``/etc/subgid`` lend him.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ADMIN = 1 << 21
"""CAP_SYS_ADMIN, see capabilities(7)."""
_START = Path(__file__).with_name("secluded.py").read_text()
"""As a text: in a user namespace a file of root's may be out of reach."""
_SUBIDS = (Path("/etc/subuid"), Path("/etc/subgid"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seclusion:
    """How programs are started."""

    users: tuple[str, ...]
    """Words of unshare(1) that make this user a root; empty where it is one."""
    hostname: str
    """The machine's name in it."""
    processes: bool
    """Whether there can be a process namespace: in a container often not."""

    @property
    def rootless(self) -> bool:
        """Whether root is only a user's own."""
        return bool(self.users)

    @property
    def has_one_id(self) -> bool:
        """Whether there is no other id than root's in it."""
        return self.rootless and "--map-auto" not in self.users

    def around(self, argv: tuple[str, ...], *, network: bool = True) -> tuple[str, ...]:
        """The command line that runs a program in namespaces; without network in one of its own."""
        return (
            *("unshare", *self.users, "--mount", "--uts"),
            *(() if network else ("--net",)),
            *(("--pid", "--fork", "--mount-proc") if self.processes else ()),
            *(sys.executable, "-I", "-S", "-c", _START, self.hostname),
            *argv,
        )

    def as_owner(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The command line that runs a program with the ids alone: to remove what they own."""
        return ("unshare", *self.users, *argv) if self.users else argv

    def environment(self) -> dict[str, str]:
        """What tells buildah and podman that they need not make a user namespace themselves."""
        if not self.users:
            return {}
        return {
            "_CONTAINERS_USERNS_CONFIGURED": "done",
            "_CONTAINERS_ROOTLESS_UID": str(os.getuid()),
            "_CONTAINERS_ROOTLESS_GID": str(os.getgid()),
        }


def seclusions(hostname: str) -> tuple[Seclusion, ...]:
    """The ways to try, the best first."""
    users: tuple[str, ...] = ()
    if not privileged():
        users = ("--user", "--map-root-user")
        if has_subids():
            users = (*users, "--map-auto")
    return tuple(
        Seclusion(users=users, hostname=hostname, processes=processes)
        for processes in (True, False)
    )


def privileged() -> bool:
    """Whether this process may make namespaces without one for users."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return os.geteuid() == 0 and bool(int(line.split()[1], 16) & _ADMIN)
    return False


def has_subids() -> bool:
    """Whether this user has ids lent, and the programs that hand them out are there."""
    if not all(shutil.which(program) for program in ("newuidmap", "newgidmap")):
        return False
    return all(_lends(file) for file in _SUBIDS)


def _lends(file: Path) -> bool:
    names = {str(os.getuid())}
    with suppress(KeyError):
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return False
    return any(line.partition(":")[0] in names for line in lines)

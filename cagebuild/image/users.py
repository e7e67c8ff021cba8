"""Names inside an image: paths through its symlinks, and USER by its own passwd and group.

Source of the rules: moby daemon/oci_linux.go and moby/sys/user (GetExecUser).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.errors import ImageError
from cagebuild.image.tree import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.image.tree import Node

MAX_FILE = 16 << 20
"""Bytes of a passwd or group file."""
MAX_ID = (1 << 31) - 1
"""The largest user or group id that Docker takes."""

_MAX_SYMLINKS = 40
_NUMBER = re.compile(rb"[0-9]{1,10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who runs the app, in numbers."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups, sorted."""
    home: str


def lookup(root: Node, path: bytes) -> Node | None:
    """The node at a path, through symlinks, which never lead out of the tree; None if not there."""
    place = [root]
    pending = path.split(b"/")[::-1]
    followed = 0
    while pending:
        part = pending.pop()
        directory = place[-1]
        if directory.kind is not Kind.DIRECTORY:
            return None
        if part in (b"", b"."):
            continue
        if part == b"..":
            del place[max(1, len(place) - 1) :]
            continue
        child = (directory.children or {}).get(part)
        if child is None:
            return None
        if child.kind is not Kind.SYMLINK:
            place.append(child)
            continue
        followed += 1
        if followed > _MAX_SYMLINKS:
            return None
        if child.target.startswith(b"/"):
            del place[1:]
        pending += child.target.split(b"/")[::-1]
    return place[-1]


def resolve(root: Node, user: str) -> User:
    """Turn ``""``, ``name``, ``uid``, ``name:group``, ``uid:gid``, … into numbers, as Docker does.

    Supplementary groups are the group itself (CVE-2022-36109) and, where no group is given, those
    of /etc/group. Missing files are empty, malformed lines are skipped. Raises ImageError for a
    name that isn't there and for a number out of range.
    """
    name, _, group = user.partition(":")
    users = list(_lines(root, b"etc/passwd", 7))
    groups = list(_lines(root, b"etc/group", 4))
    uid, gid, home, login = _user(name, users)
    members: set[int] = set()
    if group:
        gid = _group(group, groups)
    elif login:
        ids = (_id(line[2]) for line in groups if login in line[3].split(b","))
        members = {number for number in ids if number is not None}
    return User(uid=uid, gid=gid, groups=tuple(sorted({gid, *members})), home=home)


def _user(name: str, users: list[list[bytes]]) -> tuple[int, int, str, bytes]:
    """User id, group id, home, and the name in passwd, if any."""
    wanted = name.encode("utf-8", "surrogateescape")
    number = _id(wanted) if name else 0
    for line in users:
        uid, gid = _id(line[2]), _id(line[3])
        if uid is None or gid is None:
            continue
        # What looks like a number is one, even where a user has that name.
        if uid == number if number is not None else line[0] == wanted:
            return uid, gid, line[5].decode("utf-8", "surrogateescape") or "/", line[0]
    if number is None:
        raise _unknown("user", name, b"etc/passwd", wanted)
    return number, 0, "/", b""


def _group(name: str, groups: list[list[bytes]]) -> int:
    wanted = name.encode("utf-8", "surrogateescape")
    number = _id(wanted)
    for line in groups:
        gid = _id(line[2])
        if gid is not None and number is None and line[0] == wanted:
            return gid
    if number is None:
        raise _unknown("group", name, b"etc/group", wanted)
    return number


def _unknown(what: str, name: str, path: bytes, wanted: bytes) -> ImageError:
    if wanted.lstrip(b"-").isdigit():
        return ImageError(
            f"the {what} {name[:100]} is out of range",
            hint=f"ids go from 0 to {MAX_ID}",
        )
    return ImageError(
        f"the {what} {name[:100]!r} is not in the image's /{path.decode()}",
        hint=f"use a number, or add the {what} to the image",
    )


def _id(text: bytes) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    value = int(text)
    return value if value <= MAX_ID else None


def _lines(root: Node, path: bytes, fields: int) -> Iterator[list[bytes]]:
    node = lookup(root, path)
    if node is None or node.kind is not Kind.FILE:
        return
    if node.size > MAX_FILE:
        raise ImageError(
            f"the image's /{path.decode()} has {node.size} bytes, more than {MAX_FILE}",
            hint="it is no list of users; give USER as numbers and remove the file",
        )
    for line in b"".join(node.read()).split(b"\n"):
        parts = line.strip().split(b":")
        if len(parts) >= fields - 1 and parts[0]:
            yield parts + [b""] * (fields - len(parts))

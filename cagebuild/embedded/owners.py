"""``--chown``, and whom a WORKDIR belongs to: names by the image's own passwd and group.

Source of the rules: BuildKit's client/llb/fileop.go (WithUser) and solver/llbsolver/ops (readUser).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cagebuild.embedded.refused import Refused
from cagebuild.image.tree import Kind
from cagebuild.image.users import MAX_FILE, MAX_ID, lookup

if TYPE_CHECKING:
    from cagebuild.image.tree import Node

Owner = tuple[int, int]
"""User and group."""

_NUMBER: Final = re.compile(r"[0-9]{1,10}")


def read(text: str, root: Node) -> Owner:
    """The ids that ``user``, ``user:group`` or ``:group`` means in an image.

    A number stands for the group too, whatever passwd says of that user; a name has the group that
    passwd gives it. Raises Refused for a name that isn't there, of which engines make different
    things.
    """
    user, _, group = text.partition(":")
    uid, gid = _user(user, root) if user else (0, 0)
    if group:
        gid = _group(group, root)
    return uid, gid


def names(text: str) -> list[str]:
    """Users and groups that are named, not numbered."""
    return [word for word in text.split(":", 1) if word and _id(word) is None]


def _user(name: str, root: Node) -> Owner:
    number = _id(name)
    if number is not None:
        return number, number
    for line in _lines(root, b"etc/passwd"):
        if line[0] == name.encode("utf-8", "surrogateescape"):
            return _field(line, 2), _field(line, 3)
    raise _unknown("user", name, "/etc/passwd")


def _group(name: str, root: Node) -> int:
    number = _id(name)
    if number is not None:
        return number
    for line in _lines(root, b"etc/group"):
        if line[0] == name.encode("utf-8", "surrogateescape"):
            return _field(line, 2)
    raise _unknown("group", name, "/etc/group")


def _id(text: str) -> int | None:
    if text == "root":
        return 0
    if not _NUMBER.fullmatch(text):
        return None
    if int(text) > MAX_ID:
        raise Refused(f"{text} is out of range", hint=f"ids go from 0 to {MAX_ID}")
    return int(text)


def _unknown(what: str, name: str, file: str) -> Refused:
    return Refused(
        f"the {what} {name!r} is not in the image's {file}",
        hint=f"some engines would give the files to root; use a number, or add the {what} first",
    )


def _lines(root: Node, path: bytes) -> list[list[bytes]]:
    node = lookup(root, path)
    if node is None or node.kind is not Kind.FILE:
        return []
    if node.size > MAX_FILE:
        raise Refused(
            f"the image's /{path.decode()} has {node.size} bytes, more than {MAX_FILE}",
            hint="it is no list of names; use numbers",
        )
    lines = b"".join(node.read()).split(b"\n")
    return [line.split(b":") for line in map(bytes.strip, lines) if line]


def _field(line: list[bytes], index: int) -> int:
    """A number of passwd or group; what is none, or missing, is 0."""
    text = line[index].decode("latin-1") if index < len(line) else ""
    return _id(text) or 0

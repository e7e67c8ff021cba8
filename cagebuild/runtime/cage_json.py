"""``/cage/etc/cage.json``: a cage's settings as the guest program reads them.

The format is ``schemas/settings.schema.json``; its reader is ``runtime/internal/settings``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, TypedDict

from cagebuild.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1
_MAX_BYTES = 4 << 20
_MAX_ITEMS = 1 << 16
_MAX_ID = 2**32 - 2
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class IngressPort(TypedDict):
    """One way in: ``health`` is a path with query or None, ``tls`` is passthrough or terminate."""

    port: int
    health: str | None
    tls: str


class EgressTarget(TypedDict):
    """One allowed destination: a lower-case name, ``*.name``, an address or a CIDR."""

    host: str
    port: int


def settings(  # noqa: PLR0913 - one for each key of the format
    *,
    name: str,
    argv: Sequence[str],
    uid: int,
    gid: int,
    groups: Sequence[int],
    env: Sequence[str],
    workdir: str,
    ingress: Sequence[IngressPort],
    egress: Sequence[EgressTarget],
) -> bytes:
    """The bytes of a cage.json: the same for the same arguments, in their order.

    ``env`` is the app's whole environment as ``NAME=value``: nothing is added to it in the enclave,
    so PATH and HOME have to be there if the app is to have them. Raises ImageError for what the
    guest program would refuse, or the kernel could not pass on.
    """
    _check_name(name)
    _check_texts("command", argv)
    _check_texts("environment", env)
    _check_texts("working directory", [workdir])
    if not argv or not argv[0]:
        raise ImageError(
            "the image names no program to run: it has neither ENTRYPOINT nor CMD",
            hint="set app.command in cage.toml",
        )
    for variable in env:
        if variable.find("=") < 1:
            raise ImageError(f"environment: {variable[:100]!r} is not NAME=value")
    if not workdir.startswith("/"):
        raise ImageError(f"working directory: {workdir[:100]!r} is not absolute")
    for number in (uid, gid, *groups):
        if not 0 <= number <= _MAX_ID:
            raise ImageError(f"user or group {number}: expected 0 to {_MAX_ID}")
    document = {
        "version": VERSION,
        "name": name,
        "argv": list(argv),
        "uid": uid,
        "gid": gid,
        "groups": list(groups),
        "env": list(env),
        "workdir": workdir,
        "ingress": [
            {"port": rule["port"], "health": rule["health"], "tls": rule["tls"]} for rule in ingress
        ],
        "egress": [{"host": rule["host"], "port": rule["port"]} for rule in egress],
    }
    if any(isinstance(value, list) and len(value) > _MAX_ITEMS for value in document.values()):
        raise ImageError(f"settings: a list has more than {_MAX_ITEMS} items")
    data = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    if len(data) > _MAX_BYTES:
        raise ImageError(f"settings: {len(data)} bytes, more than {_MAX_BYTES}")
    return data


def _check_name(name: str) -> None:
    if not _HOSTNAME.fullmatch(name):
        raise ImageError(
            f"{name[:100]!r} is no host name:"
            " 1 to 63 of a-z, 0-9 and '-', with no '-' at either end"
        )


def _check_texts(what: str, texts: Sequence[str]) -> None:
    for text in texts:
        if "\0" in text:
            raise ImageError(f"{what}: {text[:100]!r} holds a NUL character")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ImageError(f"{what}: {text[:100]!r} is not valid Unicode") from None

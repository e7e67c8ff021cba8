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

VERSION = 2
_MAX_BYTES = 4 << 20
_MAX_ITEMS = 1 << 16
_MAX_ID = 2**32 - 2
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class IngressPort(TypedDict):
    """One way in: ``health`` is a path with query or None, ``tls`` is passthrough or terminate."""

    port: int
    health: str | None
    tls: str
    protocol: str
    """What the app speaks behind TLS: http, h2c or tcp; with passthrough tcp."""
    proxy_protocol: bool


class EgressTarget(TypedDict):
    """One allowed destination: a lower-case name, ``*.name``, an address or a CIDR."""

    host: str
    port: int


class Secrets(TypedDict):
    """Names of what the operator delivers after boot: variables, and files in /run/secrets."""

    env: Sequence[str]
    files: Sequence[str]


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
    secrets: Secrets,
    logs: bool,
    epoch: int,
) -> bytes:
    """The bytes of a cage.json: the same for the same arguments, in their order.

    ``env`` is the app's whole environment as ``NAME=value``: nothing is added to it in the enclave,
    so PATH and HOME have to be there if the app is to have them. ``logs`` lets the parent read what
    is logged, ``epoch`` is the build's time stamp. What cage.toml says by itself was checked there;
    raises ImageError for what else the guest program would refuse, or the kernel could not pass on.
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
    _check_secrets(secrets, env)
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
            {
                "port": rule["port"],
                "health": rule["health"],
                "tls": rule["tls"],
                "protocol": rule["protocol"],
                "proxy_protocol": rule["proxy_protocol"],
            }
            for rule in ingress
        ],
        "egress": [{"host": rule["host"], "port": rule["port"]} for rule in egress],
        "secrets": {"env": list(secrets["env"]), "files": list(secrets["files"])},
        "logs": logs,
        "epoch": epoch,
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


def _check_secrets(secrets: Secrets, env: Sequence[str]) -> None:
    given = {variable.partition("=")[0] for variable in env}
    for name in secrets["env"]:
        if name in given:
            raise ImageError(
                f"secrets.env: the image's environment has {name} already",
                hint="take it out of the image (ENV), or out of secrets.env in cage.toml",
            )


def _check_texts(what: str, texts: Sequence[str]) -> None:
    for text in texts:
        if "\0" in text:
            raise ImageError(f"{what}: {text[:100]!r} holds a NUL character")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ImageError(f"{what}: {text[:100]!r} is not valid Unicode") from None

"""Checks of what gets into a cage, its ports and secrets. Values that were refused are None."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cagebuild.config.egress import RuleError, parse_rule
from cagebuild.config.ports import RESERVED
from cagebuild.config.problems import Problem
from cagebuild.config.steering import steers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.config.positions import Path


def ingress(document: dict[str, Any]) -> Iterator[Problem]:
    """What is wrong with the ports of a cage's document."""
    seen: dict[int, int] = {}
    leaving = _egress_ports(document)
    for index, entry in enumerate(document.get("ingress") or ()):
        if not entry:
            continue
        yield from _protocol(entry, ("ingress", index, "protocol"))
        port = entry.get("port")
        at: Path = ("ingress", index, "port")
        if port is None:
            continue
        if port in RESERVED:
            message = f"{port} is taken inside the enclave by {RESERVED[port]}"
            yield Problem(path=at, message=message, hint="such as 8080")
        elif seen.setdefault(port, index) != index:
            yield Problem(path=at, message=f"ingress[{seen[port]}] has port {port} as well")
        elif port in leaving:
            yield Problem(
                path=at,
                message=f"egress to {leaving[port]} has port {port} as well: the runtime listens"
                " there on loopback, so an app that listens on all addresses could not start",
                hint="let the app listen on another port: on which one clients are served is up to"
                " the host",
            )


def _protocol(entry: dict[str, Any], at: Path) -> Iterator[Problem]:
    if "protocol" in entry and "tls" not in entry:
        yield Problem(
            path=at,
            at="key",
            message="has no use where the app gets the bytes as they come",
            hint='tls = "terminate" to let TLS end in the enclave, or leave it out',
        )
    elif "protocol" in entry and entry["tls"] == "passthrough":
        yield Problem(
            path=at,
            at="key",
            message='has no use with tls = "passthrough": the app gets the bytes as they come',
            hint='tls = "terminate", or leave it out',
        )


def _egress_ports(document: dict[str, Any]) -> dict[int, str]:
    """Ports that rules allow, each with the host of the first."""
    ports: dict[int, str] = {}
    for text in (document.get("egress") or {}).get("allow") or ():
        try:
            rule = parse_rule(text or "")
        except RuleError:
            continue
        ports.setdefault(rule.port, rule.host)
    return ports


def secrets(document: dict[str, Any]) -> Iterator[Problem]:
    """What is wrong with the names of a cage's secrets."""
    table = document.get("secrets") or {}
    given = (document.get("app") or {}).get("env") or {}
    for key in ("env", "files"):
        seen: dict[str, int] = {}
        for index, name in enumerate(table.get(key) or ()):
            at: Path = ("secrets", key, index)
            if name is None:
                continue
            if seen.setdefault(name, index) != index:
                yield Problem(path=at, message=f"the same as {key}[{seen[name]}]")
            elif key == "env" and steers(name):
                yield Problem(
                    path=at,
                    message=f"'{name}' decides what code the app loads: what runs is measured, and"
                    " a secret is not",
                    hint="set it in app.env",
                )
            elif key == "env" and name in given:
                yield Problem(
                    path=at, message=f"app.env has '{name}' as well", hint="leave one of them out"
                )

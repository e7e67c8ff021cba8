"""Egress rules: ``host:port``, ``*.host:port``, ``address:port``, ``network/prefix:port``.

The check is strict because a rule that matches more than its author meant is a hole, and one that
matches nothing is found in production.
"""

from __future__ import annotations

import re

from cagebuild.config.model import EgressRule
from cagebuild.config.ports import RESERVED

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_RULE = re.compile(r"(?P<host>\[[^\[\]]*\](?:/[0-9]*)?|[^:\[\]]*)(?::(?P<port>[^:]*))?", re.DOTALL)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_PREFIX = re.compile(r"[0-9]{1,3}", re.ASCII)
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>[^/?#]*)", re.IGNORECASE)
_NUMBERS = re.compile(r"[0-9./]+", re.ASCII)
_LAST_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_SCHEMES = {"http": 80, "https": 443, "ws": 80, "wss": 443, "postgres": 5432, "redis": 6379}


class RuleError(ValueError):
    """Text that is no rule: what is wrong with it, and what to write instead."""

    def __init__(self, *, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def parse_rule(text: str) -> EgressRule:
    """Read one rule; names become lower-case without a trailing dot. Raises RuleError."""
    url = _URL.match(text)
    if url:
        host, port = url["rest"].lower(), _SCHEMES.get(url["scheme"].lower(), 443)
        shown = host if re.search(r":[0-9]+$", host) else f"{host}:{port}"
        raise RuleError(message="this is a URL, not host:port", hint=f'write "{shown}"')
    match = _RULE.fullmatch(text)
    if match is None:
        raise RuleError(
            message="not host:port",
            hint='an IPv6 address is written in brackets: "[2001:db8::1]:443"',
        )
    host = _host(match["host"])
    port_text = match["port"]
    if port_text is None:
        raise RuleError(message="has no port", hint=f'such as "{text}:443"')
    if not _PORT.fullmatch(port_text) or int(port_text) > 65535:
        raise RuleError(
            message=f"'{port_text[:20]}' is not a port",
            hint="one number from 1 to 65535; every port is a rule of its own",
        )
    if "/" in host and int(port_text) in RESERVED:
        raise RuleError(
            message=f"port {port_text} is taken inside the enclave by {RESERVED[int(port_text)]}",
            hint="name single addresses instead of a network",
        )
    return EgressRule(host=host, port=int(port_text))


def _host(text: str) -> str:
    if text.startswith("["):
        inside, _, prefix = text[1:].partition("]")
        if ":" not in inside:
            raise RuleError(message="only an IPv6 address is written in brackets")
        return _network(inside + prefix)
    if "/" in text or (_NUMBERS.fullmatch(text) and any(c.isdigit() for c in text)):
        return _network(text)
    return _name(text)


def _network(text: str) -> str:
    """An address or a network in its canonical form."""
    import ipaddress

    address, slash, prefix = text.partition("/")
    if "%" in address:
        raise RuleError(message="an address with a zone means nothing outside one machine")
    try:
        if slash and not _PREFIX.fullmatch(prefix):
            raise ValueError
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        message = f"'{text[:60]}' is not an IP address or network"
        raise RuleError(message=message, hint='such as "10.0.0.0/8:5432"') from None
    if network.prefixlen == 0:
        raise RuleError(
            message="allows every address",
            hint="name the networks that the app needs",
        )
    lowest = network.network_address
    canonical = str(network) if slash else str(lowest)
    if ipaddress.ip_address(address) != lowest:
        raise RuleError(
            message=f"'{text}' has bits set behind its prefix", hint=f"did you mean '{canonical}'?"
        )
    if isinstance(lowest, ipaddress.IPv6Address) and lowest.ipv4_mapped:
        raise RuleError(message="an IPv4 address in IPv6 clothes", hint="write the IPv4 address")
    if lowest.is_loopback or lowest.is_unspecified or lowest.is_multicast:
        raise RuleError(message="loopback, multicast and unspecified addresses never leave a cage")
    return canonical


def _name(text: str) -> str:
    if text == "*":
        raise RuleError(
            message="allows every host",
            hint='name the hosts, or the domain they are in: "*.example.com:443"',
        )
    if not text.isascii():
        raise RuleError(message="is not ASCII", hint=_punycode(text))
    name = text.lower().removesuffix(".")
    wildcard = name.startswith("*.")
    labels = name.removeprefix("*.").split(".")
    if "*" in name.removeprefix("*."):
        raise RuleError(
            message="'*' may only be the whole first part of a name",
            hint='such as "*.example.com:443"',
        )
    if wildcard and len(labels) < 2:
        raise RuleError(
            message=f"'{name}' allows every name below a top-level domain",
            hint='at least two parts after "*.", such as "*.example.com:443"',
        )
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise RuleError(
            message=f"'{text[:60]}' is not a host name" if text else "has no host",
            hint='such as "api.example.com:443"',
        )
    if any(label.startswith("xn--") and not _is_punycode(label) for label in labels):
        raise RuleError(message=f"'{text[:60]}' has an xn-- part that stands for no letters")
    if _LAST_NUMBER.fullmatch(labels[-1]):
        # Resolvers take such names for addresses: "0x7f.1" is 127.0.0.1 to most of them.
        raise RuleError(message=f"'{text[:60]}' ends in a number, as only addresses do")
    if labels[-1] == "localhost":
        raise RuleError(message="localhost never leaves a cage")
    return name


def _is_punycode(label: str) -> bool:
    """Whether a label of an international name (RFC 5891: an A-label) can be decoded."""
    try:
        decoded = label.removeprefix("xn--").encode().decode("punycode")
        decoded.encode()
    except UnicodeError:
        return False
    return not decoded.isascii()


def _punycode(text: str) -> str:
    """What a name with other letters is in DNS, as a hint; empty when it is no such name."""
    try:
        return f"in DNS this name is '{text.encode('idna').decode()}'"
    except UnicodeError:
        return "write the name as DNS has it (xn--…)"

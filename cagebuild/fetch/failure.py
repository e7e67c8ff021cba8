"""Why a location could not give what was asked of it, in words that are safe to print.

No credentials, no query strings (a signed URL's signature is there), nothing of a peer's choosing
but what is escaped here. Also how patient a download is with its peers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

FailureKind = Literal[
    "missing", "denied", "network", "tls", "not-tls", "broken", "content", "protocol"
]

_LONGEST_SHOWN = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient a download is. Times in seconds, speeds in bytes a second."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    """Longest silence of a peer."""
    slowest: int = 1024
    """A peer that sends less than this on average over ``patience`` is given up."""
    patience: float = 60.0
    redirects: int = 5
    rounds: int = 4
    """How many times the locations are gone through; those that failed for good drop out."""
    back_off: float = 0.5
    """Wait before the second round; doubles with each round."""
    longest_wait: float = 20.0
    """Bound for the back-off and for a peer's Retry-After."""
    worthwhile: int = 1 << 20
    """A round that has brought this many new bytes does not count as one."""


DEFAULT_POLICY = Policy()


class Failure(Exception):  # noqa: N818 - not an error of the whole, but of one location
    """Why one location could not give what was asked of it."""

    def __init__(
        self,
        cause: str,
        *,
        kind: FailureKind,
        transient: bool = False,
        retry_after: float = 0.0,
        hint: str = "",
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.kind = kind
        self.transient = transient
        self.retry_after = retry_after
        self.hint = hint


def printable(text: str) -> str:
    """The text with whatever could steer a terminal replaced, cut to a line."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "…"


def redact(url: str) -> str:
    """The URL for a message: without user, password, query values and fragment."""
    try:
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
    except ValueError:
        return "(a malformed URL)"
    shown = f"{parts.scheme}://{'***@' if at or user else ''}{host}{parts.path}"
    return printable(shown + ("?…" if parts.query else ""))


def is_loopback(host: str) -> bool:
    """Whether ``host`` (no port) is this machine by its very name: localhost, 127/8 or ::1."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it was made of: requests and urllib3 wrap in several ways."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]


def failure_of(error: BaseException, policy: Policy) -> Failure:
    """What an exception of requests, urllib3 or the socket means.

    Their texts hold whole URLs, so none is passed on but the reasons of OpenSSL and of the system.
    """
    import ssl

    found = list(_chain(error))
    broken = next((one for one in found if isinstance(one, ssl.SSLError)), None)
    if broken is not None:
        return _tls_failure(broken)
    for kinds, kind, cause in _meanings(policy):
        if any(isinstance(one, kinds) for one in found):
            return Failure(cause, kind=kind, transient=kind in {"network", "broken"})
    said = next((one.strerror for one in found if isinstance(one, OSError) and one.strerror), None)
    return Failure(f"failed: {said or type(error).__name__}", kind="network")


def _tls_failure(error: ssl.SSLError) -> Failure:
    import ssl

    verification = next(
        (one for one in _chain(error) if isinstance(one, ssl.SSLCertVerificationError)), None
    )
    if verification is not None:
        return Failure(
            f"TLS: the certificate is not trusted: {verification.verify_message}",
            kind="tls",
            hint="name the file of the CA that signed it in REQUESTS_CA_BUNDLE",
        )
    return Failure(
        f"TLS: {error.reason or 'failed'}",
        kind="not-tls",
        transient=isinstance(error, ssl.SSLEOFError),
    )


def _meanings(
    policy: Policy,
) -> list[tuple[tuple[type[BaseException], ...], FailureKind, str]]:
    """Types of exceptions, the more telling first, and what they mean."""
    import socket

    import requests
    import urllib3

    waited = max(policy.connect_timeout, policy.read_timeout)
    outer, inner = requests.exceptions, urllib3.exceptions
    timeouts = (TimeoutError, outer.Timeout, inner.TimeoutError)
    breaks = (ConnectionError, inner.ProtocolError, outer.ConnectionError)
    return [
        ((outer.ProxyError,), "network", "the proxy cannot be used"),
        ((socket.gaierror,), "network", "the host name cannot be resolved"),
        ((ConnectionRefusedError,), "network", "connection refused"),
        # Only now: to urllib3 a refused connection is a kind of time-out.
        (timeouts, "network", f"timeout: silent for {waited:g} s"),
        (breaks, "broken", "the connection broke off"),
        ((ValueError, inner.LocationParseError), "protocol", "not a URL that can be fetched"),
    ]

"""HTTP exchanges with peers that are not trusted: bounded, redacted, never downgraded.

Whatever goes wrong is raised as a Failure, which is safe to print.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from cagebuild import __version__
from cagebuild.fetch.failure import DEFAULT_POLICY, Failure, Policy, failure_of, redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import requests

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHUNK = 1 << 18


def read_whole(chunks: Iterable[bytes], announced: int | None, limit: int) -> bytes:
    """All chunks in one; raises Failure when they are, or are announced as, more than ``limit``."""
    too_long = Failure(f"longer than the limit of {limit} bytes", kind="content")
    if (announced or 0) > limit:
        raise too_long
    whole = bytearray()
    for chunk in chunks:
        whole += chunk
        if len(whole) > limit:
            raise too_long
    return bytes(whole)


@dataclass(slots=True)
class Answer:
    """A response whose body has not been read. Close it, or use it in a ``with``."""

    url: str
    status: int
    _response: requests.Response
    _policy: Policy

    def header(self, name: str) -> str:
        """A header's value, or the empty string."""
        return self._response.headers.get(name, "")

    @property
    def length(self) -> int | None:
        """Content-Length: bytes of the body as it travels; None when not given or not a number."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def chunks(self) -> Iterator[bytes]:
        """The body as it travels (no content decoding), in small pieces; raises Failure."""
        policy = self._policy
        since, received = time.monotonic(), 0
        while chunk := self._read():
            yield chunk
            received += len(chunk)
            now = time.monotonic()
            if now - since >= policy.patience:
                if received < policy.slowest * (now - since):
                    raise Failure(
                        f"slower than {policy.slowest} bytes a second for {now - since:.0f} s",
                        kind="network",
                        transient=True,
                    )
                since, received = now, 0

    def _read(self) -> bytes:
        import urllib3

        try:
            data: bytes = self._response.raw.read1(_CHUNK, decode_content=False)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise failure_of(error, self._policy) from error
        return data

    def read(self, limit: int) -> bytes:
        """The whole body; raises Failure when it is longer than ``limit`` bytes."""
        return read_whole(self.chunks(), self.length, limit)

    def failure(self) -> Failure:
        """What to say of a status that is not the one hoped for."""
        status = self.status
        if status in {404, 410}:
            return Failure(f"{status} not found", kind="missing")
        if status in {401, 403}:
            return Failure(f"{status} access denied", kind="denied")
        after = self.header("Retry-After")
        wait = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0.0
        return Failure(
            f"answered with HTTP status {status}",
            kind="network" if status in _TRANSIENT else "protocol",
            transient=status in _TRANSIENT,
            retry_after=wait,
        )

    def close(self) -> None:
        """Give the connection back, or drop it when the body was not read to its end."""
        self._response.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class Client:
    """Connections to HTTP servers, for one thread. Close it, or use it in a ``with``.

    Trust: REQUESTS_CA_BUNDLE, else SSL_CERT_FILE or SSL_CERT_DIR, else the system's store, else
    certifi's.
    Proxies: HTTPS_PROXY, HTTP_PROXY and NO_PROXY as everywhere.
    """

    policy: Policy = DEFAULT_POLICY
    netrc: bool = True
    """Whether ~/.netrc may give credentials for a host."""
    _session: requests.Session | None = field(default=None, init=False)

    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """GET ``url`` (POST when there is a ``form``), following redirects; raises Failure.

        Redirects are bounded, never leave http and https, never go from https to http, and lose the
        Authorization header when they leave the origin.
        """
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        origin = _origin(url)
        for _ in range(self.policy.redirects + 1):
            response = self._send(url, sent, form)
            answer = Answer(url, response.status_code, response, self.policy)
            if response.status_code not in _REDIRECTS:
                return answer
            answer.close()
            if form is not None:
                raise Failure("redirected a form, which is not followed", kind="protocol")
            url = _redirected(url, answer.header("Location"))
            if _origin(url) != origin:
                sent.pop("Authorization", None)
        raise Failure(f"more than {self.policy.redirects} redirects", kind="protocol")

    def _send(
        self, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> requests.Response:
        import urllib3

        session = self._session or self._connect()
        try:
            return session.request(
                "GET" if form is None else "POST",
                url,
                headers=dict(headers),
                data=form,
                stream=True,
                allow_redirects=False,
                timeout=(self.policy.connect_timeout, self.policy.read_timeout),
                # Any auth object at all keeps requests from looking into ~/.netrc.
                auth=None if self.netrc else (lambda request: request),
            )
        except (OSError, UnicodeError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise failure_of(error, self.policy) from error

    def _connect(self) -> requests.Session:
        import http.cookiejar
        import ssl

        import requests

        session = requests.Session()
        session.headers["User-Agent"] = f"cagebuild/{__version__}"
        # Content is known by digest; a cookie could only make answers depend on each other.
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        paths = ssl.get_default_verify_paths()
        session.verify = paths.cafile or paths.capath or True
        self._session = session
        return session

    def close(self) -> None:
        """Close idle connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an absolute http or https URL; raises Failure."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise Failure("not a URL", kind="protocol") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise Failure("not an http or https URL", kind="protocol")
    return parts.scheme, host, port or {"http": 80, "https": 443}[parts.scheme]


def _redirected(url: str, target: str) -> str:
    """Where a redirect leads; raises Failure when it must not be followed."""
    if not target:
        raise Failure("redirected without saying where to", kind="protocol")
    try:
        new = urljoin(url, target)
    except ValueError:
        raise Failure("redirected to something that is not a URL", kind="protocol") from None
    if _origin(url)[0] == "https" and _origin(new)[0] == "http":
        raise Failure(
            f"redirected from https to http ({redact(new)}), which is not followed",
            kind="protocol",
        )
    return new

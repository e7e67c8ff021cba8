"""Reading from a container registry (OCI distribution specification 1.1, pull part).

Why not a client library: of those on PyPI, oras-py waits for ever (no timeouts), reads manifests
whole and parsed so that their digest cannot be checked, and cannot resume; python-dxf knows no
Docker config, refuses credentials on plain HTTP even on loopback, and offers schema 1. Three calls
are left, made with requests; credentials are read by the docker library.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from cagebuild.fetch.credentials import Credentials, credentials_for
from cagebuild.fetch.failure import DEFAULT_POLICY, Failure, Policy, is_loopback, redact
from cagebuild.fetch.http import Ranges
from cagebuild.fetch.transport import Client

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cagebuild.digest import Digest
    from cagebuild.fetch.download import Body
    from cagebuild.fetch.transport import Answer

_MAX_TOKEN_BYTES = 1 << 20
_PARAMETER = r'([A-Za-z_-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s",]+)'
_CHALLENGE = re.compile(
    rf"(?:^|,)\s*(bearer|basic)\s+({_PARAMETER}(?:\s*,\s*{_PARAMETER})*)", re.ASCII | re.IGNORECASE
)


class RegistryClient:
    """One repository of one registry, for one thread. Close it, or use it in a ``with``.

    https, or plain http where the registry is on loopback and speaks no TLS. Authentication, when
    the registry asks for it: a bearer token (anonymous, by password, or by identity token), or a
    password.
    """

    def __init__(self, host: str, repository: str, policy: Policy = DEFAULT_POLICY) -> None:
        """``host`` is ``name`` or ``name:port``; Docker Hub is ``docker.io``."""
        self.host = host
        self.repository = repository
        self._client = Client(policy, netrc=False)
        self._base = ""
        self._authorization = ""

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def open(self, path: str, headers: Mapping[str, str]) -> Answer:
        """GET ``path`` of the repository (``manifests/…``, ``blobs/…``).

        Raises Failure, also when access is denied; other statuses are the caller's.
        """
        url = f"{self._base or self._find_base()}/v2/{self.repository}/{path}"
        denied = ""
        for _ in range(2):
            sent = {**headers}
            if self._authorization:
                sent["Authorization"] = self._authorization
            answer = self._client.open(url, headers=sent)
            if answer.status != 401 or denied:
                break
            with answer:
                denied = self._authenticate(answer.header("WWW-Authenticate"))
        if answer.status in {401, 403}:
            answer.close()
            raise self._denied(answer.status, denied)
        return answer

    def _find_base(self) -> str:
        """Where the registry is. On loopback TLS is tried first, as Docker does."""
        host = "registry-1.docker.io" if self.host == "docker.io" else self.host
        if is_loopback(urlsplit(f"//{host}").hostname or ""):
            try:
                self._client.open(f"https://{host}/v2/").close()
            except Failure as failure:
                if failure.kind not in {"not-tls", "broken"}:
                    raise
                self._base = f"http://{host}"
                return self._base
        self._base = f"https://{host}"
        return self._base

    def _denied(self, status: int, looked: str) -> Failure:
        how = looked or "it asked for no credentials"
        return Failure(
            f"{status}: {self.host} denied access to {self.repository} ({how})",
            kind="denied",
            hint=f"run 'docker login {self.host}', and check that the repository's name is right",
        )

    def _authenticate(self, challenge: str) -> str:
        """Meet a challenge, or fail; returns in words which credentials were used."""
        found, used = credentials_for(self.host)
        challenges = parse_challenges(challenge)
        if "bearer" in challenges:
            self._authorization = "Bearer " + self._token(challenges["bearer"], found, used)
        elif "basic" in challenges and found is not None and not found.identity:
            self._authorization = _basic(found)
        elif "basic" not in challenges:
            raise Failure(
                f"{self.host} asks for a kind of authentication that is not known here",
                kind="denied",
            )
        else:
            raise self._denied(401, used)
        return used

    def _token(self, challenge: Mapping[str, str], found: Credentials | None, used: str) -> str:
        """A token for pulling from this repository and nothing more, whatever scope is offered."""
        realm = challenge.get("realm", "")
        self._check_realm(realm)
        asked = {"scope": f"repository:{self.repository}:pull"}
        if challenge.get("service"):
            asked["service"] = challenge["service"]
        if found is not None and found.identity:
            form = {
                **asked,
                "grant_type": "refresh_token",
                "refresh_token": found.secret,
                "client_id": "cagebuild",
            }
            answer = self._client.open(realm, form=form)
        else:
            url = realm + ("&" if "?" in realm else "?") + urlencode(asked)
            headers = {"Authorization": _basic(found)} if found else {}
            answer = self._client.open(url, headers=headers)
        with answer:
            if answer.status in {400, 401, 403}:
                raise self._denied(answer.status, used)
            if answer.status != 200:
                raise answer.failure()
            return _token_of(answer.read(_MAX_TOKEN_BYTES), realm)

    def _check_realm(self, realm: str) -> None:
        """A password goes over TLS, or no further than this machine."""
        try:
            parts = urlsplit(realm)
            good = parts.scheme == "https" or (
                parts.scheme == "http"
                and self._base.startswith("http:")
                and is_loopback(parts.hostname or "")
            )
        except ValueError:
            good = False
        if not good:
            raise Failure(
                f"{self.host} sends credentials to {redact(realm)}, which is not https",
                kind="denied",
                hint="do not trust this registry, or have its token server set right",
            )


class BlobLocation:
    """A blob in a registry, by digest."""

    def __init__(
        self, host: str, repository: str, digest: Digest, policy: Policy = DEFAULT_POLICY
    ) -> None:
        self._host = host
        self._repository = repository
        self._digest = digest
        self._policy = policy
        self._ranges = Ranges()
        self.name = f"oci://{host}/{repository}"

    @contextmanager
    def open(self, start: int) -> Iterator[Body]:
        """See Location."""
        with (
            RegistryClient(self._host, self._repository, self._policy) as client,
            self._ranges.ask(
                lambda headers: client.open(f"blobs/{self._digest}", headers), start
            ) as body,
        ):
            yield body


def parse_challenges(header: str) -> dict[str, dict[str, str]]:
    """Schemes of a WWW-Authenticate header (RFC 9110, section 11.6.1) with their parameters.

    Only bearer and basic, names in lower case; anything else is left out.
    """
    found: dict[str, dict[str, str]] = {}
    for challenge in _CHALLENGE.finditer(header[:8192]):
        found[challenge[1].lower()] = {
            name.lower(): re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
            for name, value in re.findall(_PARAMETER, challenge[2])
        }
    return found


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.user}:{credentials.secret}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def _token_of(document: bytes, realm: str) -> str:
    """The token of a token server's answer."""
    try:
        answer = json.loads(document)
        token = answer.get("token") or answer.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    # One line of visible ASCII, so that it can be no other header.
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,65536}", token):
        raise Failure(f"{redact(realm)} answered without a token", kind="protocol")
    return token

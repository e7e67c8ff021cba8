"""Names of images in registries, as Docker writes them.

Grammar: the distribution project's ``reference`` package, with Docker's defaults: no host means
Docker Hub, where a name without a slash is below ``library/``; neither tag nor digest means
``latest``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import ResolveError

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(
    rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]{{2,45}}\])(?::([0-9]{{1,5}}))?", re.ASCII
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_LONGEST = 1024
_LOCATION = "oci://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image, or with neither tag nor digest a repository, in a registry."""

    registry: str
    """``host`` or ``host:port``, lower case; Docker Hub is ``docker.io``."""
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``[host[:port]/]repository[:tag][@digest]``; raises ResolveError."""
        if len(text) > _LONGEST:
            raise _wrong(text, "it is too long")
        name, at, digest = text.partition("@")
        # First of all: what is before an @ that is none of a digest may be a password.
        parsed = _digest(digest) if at else None
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        registry, repository = _split_host(head + slash + last, text)
        if colon and not _TAG.fullmatch(tag):
            raise _wrong(text, f"{tag!r} is not a tag")
        return cls(
            registry=registry,
            repository=repository,
            tag=tag if colon else None if at else "latest",
            digest=parsed,
        )

    @classmethod
    def of_location(cls, location: str) -> Reference:
        """Read ``oci://host[:port]/repository``; raises ResolveError."""
        rest = location.removeprefix(_LOCATION)
        host, slash, _ = rest.partition("/")
        if rest == location or not slash or "@" in rest or not _HOST.fullmatch(host):
            raise ResolveError(
                "not a location of the form oci://host/repository",
                hint="correct the list of locations",
            )
        registry, repository = _named(host, rest[len(host) + 1 :], location)
        return cls(registry=registry, repository=repository, tag=None, digest=None)

    @property
    def location(self) -> str:
        """``oci://host/repository``: where the blobs of the image are."""
        return f"{_LOCATION}{self.registry}/{self.repository}"

    @property
    def manifest(self) -> str:
        """What its manifest is asked for by: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag or "latest"

    def __str__(self) -> str:
        """The full form, with nothing left to defaults."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}" + (
            f"@{self.digest}" if self.digest else ""
        )


def _split_host(name: str, text: str) -> tuple[str, str]:
    """Registry and repository: a first part is a host when it could not be part of a repository."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or any(c in first for c in ".:[") or first != first.lower()):
        return _named(first, rest, text)
    return _named("docker.io", name, text)


def _named(host: str, repository: str, text: str) -> tuple[str, str]:
    found = _HOST.fullmatch(host)
    if found is None or int(found[2] or 1) not in range(1, 65536):
        raise _wrong(text, f"{host!r} is not a host")
    host = host.lower()
    if host in {"index.docker.io", "registry-1.docker.io"}:
        host = "docker.io"
    if not _REPOSITORY.fullmatch(repository):
        raise _wrong(text, f"{repository!r} is not a repository (a-z, 0-9, . _ - and /)")
    if host == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return host, repository


def _digest(digest: str) -> Digest:
    try:
        return Digest.parse(digest)
    except InvalidDigestError:
        raise _wrong("…@…", "what follows the @ is not a digest") from None


def _wrong(text: str, what: str) -> ResolveError:
    return ResolveError(
        f"not an image reference: {text[:200]!r}: {what}",
        hint="write it like debian:bookworm, registry.example:5000/team/app:1.2 or …@sha256:…",
    )

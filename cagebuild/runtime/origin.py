"""Where the files of an installer come from: what was compiled, its licence, and its sources.

The JSON shape, in the parameters of a build step as in the installer's manifest:

    {"name": "busybox", "version": "1:1.35.0-4+deb12u1", "licence": "GPL-2.0-only",
     "purl": "pkg:deb/debian/busybox@1:1.35.0-4%2Bdeb12u1?arch=source",
     "sources": [{"name": "busybox_1.35.0.orig.tar.bz2", "digest": "sha256:…",
                  "url": "https://…" or null}, …]}

All of it is measured, so it holds only what follows from the sources: no times, no mirrors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cagebuild.digest import Digest, InvalidDigestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,99}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:~-]{0,199}", re.ASCII)
_ID = r"[A-Za-z0-9][A-Za-z0-9.+-]*"
_LICENCE = re.compile(rf"{_ID}(?: (?:AND|OR|WITH) {_ID})*", re.ASCII)
_PURL = re.compile(r"pkg:[a-z][a-z0-9.+-]{0,20}/[A-Za-z0-9%._~/-]{1,200}@[!-~]{1,200}", re.ASCII)
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~%/-]{0,199}", re.ASCII)
_URL = re.compile(r"https://[!-~]{1,400}", re.ASCII)
_MAX_SOURCES = 64


class InvalidOriginError(ValueError):
    """What was read is not an origin; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """What somebody has to have to build the same again."""

    name: str
    """A file's, or that of a tree of files whose digest is ``sources.tree_digest``."""
    digest: Digest
    url: str | None = None
    """Where it can be had for good, whatever mirror this build took it from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One piece of software. The machine that built it has no part in it."""

    name: str
    version: str
    licence: str
    """An SPDX expression without brackets."""
    purl: str
    """Its package URL, https://github.com/package-url/purl-spec."""
    sources: tuple[SourceFile, ...] = ()

    def __post_init__(self) -> None:
        """Raise InvalidOriginError for what no manifest can hold."""
        _check("name", _NAME, self.name)
        _check("version", _VERSION, self.version)
        _check("licence", _LICENCE, self.licence)
        _check("purl", _PURL, self.purl)
        names = [source.name for source in self.sources]
        if len(names) > _MAX_SOURCES or len(set(names)) < len(names):
            raise InvalidOriginError(
                f"origin {self.name}: expected up to {_MAX_SOURCES} sources, each name once"
            )
        for source in self.sources:
            _check("source", _SOURCE, source.name)
            if source.url is not None:
                _check("source's url", _URL, source.url)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads; equal origins give equal values."""
        return {
            "name": self.name,
            "version": self.version,
            "licence": self.licence,
            "purl": self.purl,
            "sources": [
                {"name": source.name, "digest": str(source.digest), "url": source.url}
                for source in self.sources
            ],
        }

    @classmethod
    def from_json(cls, data: object) -> Origin:
        """Read what ``to_json`` gave; raise InvalidOriginError for anything else."""
        table = _table("an origin", data, "name", "version", "licence", "purl", "sources")
        sources = table["sources"]
        if not isinstance(sources, list | tuple):
            raise InvalidOriginError("the sources of an origin are no list")
        return cls(
            name=_text("name", table["name"]),
            version=_text("version", table["version"]),
            licence=_text("licence", table["licence"]),
            purl=_text("purl", table["purl"]),
            sources=tuple(_source(source) for source in sources),
        )


def package_url(package: str, version: str, **qualifiers: str) -> str:
    """A package URL: ``package_url("deb/debian/busybox", "1:1.35.0-4", arch="source")``."""
    words = "&".join(
        f"{name}={quote(value, safe='')}" for name, value in sorted(qualifiers.items())
    )
    return f"pkg:{package}@{quote(version, safe=':')}{'?' if words else ''}{words}"


def licence_of(origins: tuple[Origin, ...]) -> str:
    """The SPDX expression of what consists of all of these, the first one's licence first."""
    licences = dict.fromkeys(
        part for origin in origins for part in _parts(origin.licence, alone=len(origins) == 1)
    )
    return " AND ".join(licences)


def _parts(licence: str, *, alone: bool) -> list[str]:
    if " OR " not in licence:
        return licence.split(" AND ")
    return [licence if alone else f"({licence})"]


def _source(data: object) -> SourceFile:
    table = _table("a source", data, "name", "digest", "url")
    try:
        digest = Digest.parse(_text("digest", table["digest"]))
    except InvalidDigestError as error:
        raise InvalidOriginError(str(error)) from None
    url = table["url"]
    return SourceFile(
        name=_text("source", table["name"]),
        digest=digest,
        url=None if url is None else _text("source's url", url),
    )


def _table(what: str, data: object, *keys: str) -> Mapping[str, object]:
    if not isinstance(data, Mapping) or set(data) != set(keys):
        raise InvalidOriginError(f"{what} has other keys than {', '.join(keys)}")
    return data


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidOriginError(f"the {what} of an origin is no text")
    return value


def _check(what: str, form: re.Pattern[str], value: str) -> None:
    if not form.fullmatch(value):
        raise InvalidOriginError(f"not the {what} of an origin: {value[:100]!r}")

"""Source indexes: which source packages a suite has, and of which files each consists.

The format: deb-src-control(5), dsc(5), and https://wiki.debian.org/DebianRepository/Format. Only
the paragraphs of the package that is asked for are read; a suite has 35,000.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cmp_to_key
from typing import TYPE_CHECKING

from cagebuild.debian.control import ControlSyntaxError, parse_paragraph
from cagebuild.debian.index import fetch_file, parse_size
from cagebuild.debian.relations import (
    RelationSyntaxError,
    check_name,
    check_version,
    compare,
)
from cagebuild.debian.sourcepins import SourceArchive, check_source_path
from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import ResolveError

if TYPE_CHECKING:
    from cagebuild.debian.release import Release
    from cagebuild.debian.sources import Get

_FORMAT = "3.0 (quilt)"
_FILE = re.compile(r"([0-9a-f]{64})[ \t]+([0-9]{1,12})[ \t]+([A-Za-z0-9+._~%-]{1,200})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One version of a source package, as its index has it."""

    name: str
    version: str
    orig: SourceArchive
    debian: SourceArchive


def fetch_sources(release: Release, root: str, component: str, get: Get) -> bytes:
    """The Sources file of a component, checked and decompressed; ``root`` is the archive's URL.

    Raises ResolveError when the suite has none, FetchError and DigestMismatchError.
    """
    index = fetch_file(release, root, f"{component}/source/Sources", get)
    if index is None:
        raise ResolveError(f"the suite {release.suite} has no sources of component {component}")
    return index


def find_source(index: bytes, name: str, suite: str) -> Source:
    """The newest version of a source package in the text of a Sources file.

    Raises ResolveError when there is none, when its paragraphs are malformed, and when it is not in
    the format ``3.0 (quilt)`` with one archive of its authors.
    """
    found = [
        _read(fields, suite)
        for fields in _paragraphs(index, name, suite)
        # Those are kept for what was built from them; apt doesn't take them for the suite's either.
        if fields.get("Extra-Source-Only", "no") != "yes"
    ]
    if not found:
        raise ResolveError(f"{suite} has no source package {name}")
    newest = max((source.version for source in found), key=cmp_to_key(compare))
    return next(source for source in found if source.version == newest)


def _paragraphs(index: bytes, name: str, suite: str) -> list[dict[str, str]]:
    """Every paragraph of that name. A line that begins with ``Package:`` is in no folded field."""
    found = []
    field = re.compile(rb"^Package:[ \t]*%s[ \t]*$" % re.escape(name.encode()), re.MULTILINE)
    for match in field.finditer(index):
        before, after = index.rfind(b"\n\n", 0, match.start()), index.find(b"\n\n", match.end())
        text = index[before + 2 if before >= 0 else 0 : after if after >= 0 else len(index)]
        try:
            found.append(parse_paragraph(text.decode()))
        except (ControlSyntaxError, UnicodeDecodeError) as error:
            raise _malformed(name, suite, error) from None
    return found


def _read(fields: dict[str, str], suite: str) -> Source:
    name = fields["Package"]
    try:
        version = check_version(fields["Version"])
        if fields["Format"] != _FORMAT:
            raise ResolveError(
                f"the source package {name} {version} of {suite} has the format"
                f" {fields['Format'][:80]!r}, expected {_FORMAT!r}"
            )
        archives = _archives(fields["Directory"], fields["Checksums-Sha256"])
        stem = f"{name}_{version.partition(':')[2] or version}"
        upstream = stem.rpartition("-")[0] or stem
        source = Source(
            name=check_name(name),
            version=version,
            orig=_only(archives, f"{upstream}.orig.tar."),
            debian=_only(archives, f"{stem}.debian.tar."),
        )
        if len(archives) > len((source.orig, source.debian)):
            raise ControlSyntaxError(f"further archives: {', '.join(sorted(archives))[:200]}")
        return source
    except KeyError as error:
        raise _malformed(name, suite, f"the field {error.args[0]} is missing") from None
    except (ControlSyntaxError, RelationSyntaxError, InvalidDigestError, ValueError) as error:
        raise _malformed(name, suite, error) from None


def _archives(directory: str, checksums: str) -> dict[str, SourceArchive]:
    """The tar archives of a paragraph by name; other files, as signatures, are left out."""
    archives: dict[str, SourceArchive] = {}
    lines = checksums.split("\n")
    if lines[0].strip():
        raise ControlSyntaxError(f"not a list of files: {lines[0][:80]!r}")
    names = set()
    for line in lines[1:]:
        match = _FILE.fullmatch(line.strip())
        if match is None:
            raise ControlSyntaxError(f"not a file with its SHA-256: {line[:80]!r}")
        name = match[3]
        if name in names:
            raise ControlSyntaxError(f"it names the file {name[:80]} twice")
        names.add(name)
        if ".tar." in name and not name.endswith(".asc"):
            archives[name] = SourceArchive(
                filename=check_source_path(f"{directory}/{name}"),
                size=parse_size(match[2]),
                sha256=Digest("sha256", match[1]),
            )
    return archives


def _only(archives: dict[str, SourceArchive], start: str) -> SourceArchive:
    found = [archive for name, archive in archives.items() if name.startswith(start)]
    if len(found) != 1:
        raise ControlSyntaxError(f"{len(found)} files {start}*, expected one")
    return found[0]


def _malformed(name: str, suite: str, problem: object) -> ResolveError:
    return ResolveError(f"the source package {name} of {suite} is malformed: {problem}")

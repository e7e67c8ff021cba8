"""Package indexes: which packages a suite has, in what version, and what they need.

An index of 60,000 packages is 50 MB of text, of which a base needs a hundred packages. So one pass
notes where each package stands, and who provides what; only packages that are asked for are read.
"""

from __future__ import annotations

import lzma
import re
import zlib
from dataclasses import dataclass
from functools import cmp_to_key
from typing import TYPE_CHECKING

from cagebuild.debian.control import ControlSyntaxError, parse_paragraph
from cagebuild.debian.pins import check_filename
from cagebuild.debian.relations import (
    Clause,
    Relation,
    RelationSyntaxError,
    check_name,
    check_version,
    compare,
    parse_clauses,
    parse_list,
)
from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import DigestMismatchError, FetchError, ResolveError

if TYPE_CHECKING:
    from cagebuild.debian.release import IndexFile, Release
    from cagebuild.debian.sources import Get

LIMIT = 512 << 20
"""Bytes of an uncompressed index; bookworm's main has 50 million."""

_STANZA = re.compile(
    rb"^(?:Package:[ \t]*([^\n]*)|Provides:[ \t]*((?:[^\n]|\n[ \t])*)|())\n", re.MULTILINE
)
_PRIORITIES = {"required": 0, "important": 1, "standard": 2, "optional": 3}
_MAX_DEB = 16 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of one package, as its index has it."""

    name: str
    version: str
    architecture: str
    multi_arch: str
    priority: int
    """0 for required, then important, standard, and 3 for everything else."""
    depends: tuple[Clause, ...]
    """Pre-Depends, then Depends."""
    refuses: tuple[Relation, ...]
    """Conflicts and Breaks."""
    provides: tuple[Relation, ...]
    filename: str
    size: int
    sha256: Digest
    suite: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Universe:
    """All packages of the indexes that were added, for one architecture.

    As for apt, each name has one candidate: its highest version, or the one that was selected.
    """

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        """Debian's name: ``amd64``."""
        self.suites: list[str] = []
        self._places: dict[str, list[tuple[int, int, int]]] = {}
        self._indexes: list[bytes] = []
        self._providers: dict[str, set[str]] = {}
        self._versions: dict[str, tuple[Package, ...]] = {}
        self._selected: dict[str, Package] = {}

    def add(self, index: bytes, suite: str) -> None:
        """Take in the text of a Packages file; raises ResolveError when it is malformed."""
        number = len(self._indexes)
        self._indexes.append(index if index.endswith(b"\n\n") else index + b"\n\n")
        self.suites.append(suite)
        self._versions.clear()
        start, name, provides = 0, "", b""
        for match in _STANZA.finditer(self._indexes[number]):
            if match[1] is not None:
                if name:
                    raise ResolveError(f"the index of {suite} is malformed at byte {match.start()}")
                name = match[1].decode(errors="replace").strip()
            elif match[2] is not None:
                provides = match[2]
            else:
                if name:
                    self._note(name, (number, start, match.start()), provides)
                start, name, provides = match.end(), "", b""

    def _note(self, name: str, place: tuple[int, int, int], provides: bytes) -> None:
        self._places.setdefault(name, []).append(place)
        if provides:
            for text in provides.decode(errors="replace").split(","):
                virtual = text.partition("(")[0].partition(":")[0].strip()
                self._providers.setdefault(virtual, set()).add(name)

    def names(self) -> list[str]:
        """Names of all packages, sorted."""
        return sorted(self._places)

    def versions(self, name: str) -> tuple[Package, ...]:
        """All versions of a package for this architecture, highest first; of equal ones the one
        whose index was added first."""
        found = self._versions.get(name)
        if found is None:
            packages = [self._read(place) for place in self._places.get(name, ())]
            fitting = [p for p in packages if p.architecture in (self.architecture, "all")]
            fitting.sort(key=cmp_to_key(lambda a, b: -compare(a.version, b.version)))
            found = self._versions[name] = tuple(fitting)
        return found

    def select(self, package: Package) -> None:
        """Make this version the candidate of its name."""
        self._selected[package.name] = package

    def candidate(self, name: str) -> Package | None:
        """The one version of a package that can be chosen, or None."""
        if name in self._selected:
            return self._selected[name]
        versions = self.versions(name)
        return versions[0] if versions else None

    def providers(self, name: str) -> list[tuple[Package, Relation]]:
        """Candidates that provide a name, with what they say of it: by priority, then by name."""
        found = [
            (package, provided)
            for provider in self._providers.get(name, ())
            if (package := self.candidate(provider)) is not None
            for provided in package.provides
            if provided.name == name
        ]
        return sorted(found, key=lambda each: (each[0].priority, each[0].name, str(each[1])))

    def satisfying(self, relation: Relation) -> list[Package]:
        """Candidates that satisfy a relation: the package of that name, then providers."""
        real = self.candidate(relation.name)
        found = [real] if real and self.is_met_by(relation, real) else []
        for package, _ in self.providers(relation.name):
            if package not in found and self.is_met_by(relation, package):
                found.append(package)
        return found

    def is_met_by(self, relation: Relation, package: Package) -> bool:
        """Whether a package satisfies a relation, by its name or by what it provides."""
        if not self._qualifies(relation.qualifier, package):
            return False
        if package.name == relation.name and relation.accepts(package.version):
            return True
        return any(
            p.name == relation.name and relation.accepts(p.version) for p in package.provides
        )

    def _qualifies(self, qualifier: str | None, package: Package) -> bool:
        if qualifier is None:
            return True
        if qualifier == "any":
            return package.multi_arch == "allowed"
        # A package for all architectures counts as one of this architecture.
        return qualifier == self.architecture

    def _read(self, place: tuple[int, int, int]) -> Package:
        number, start, end = place
        suite = self.suites[number]
        try:
            fields = parse_paragraph(self._indexes[number][start:end].decode())
            return _package(fields, suite)
        except KeyError as error:
            name = f"the field {error.args[0]} is missing"
            raise ResolveError(
                f"the index of {suite} is malformed at byte {start}: {name}"
            ) from None
        except (ControlSyntaxError, RelationSyntaxError, InvalidDigestError, ValueError) as error:
            raise ResolveError(
                f"the index of {suite} is malformed at byte {start}: {error}"
            ) from None


def parse_size(text: str) -> int:
    """The bytes of a package or source file, as an index has them; raises ControlSyntaxError."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) <= _MAX_DEB):
        raise ControlSyntaxError(f"not the size of a package: {text[:80]!r}")
    return int(text)


def _package(fields: dict[str, str], suite: str) -> Package:
    filename = fields["Filename"]
    depends = f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}"
    refuses = f"{fields.get('Conflicts', '')},{fields.get('Breaks', '')}"
    return Package(
        name=check_name(fields["Package"]),
        version=check_version(fields["Version"]),
        architecture=fields["Architecture"],
        multi_arch=fields.get("Multi-Arch", "no"),
        priority=_PRIORITIES.get(fields.get("Priority", ""), 3),
        depends=parse_clauses(depends),
        refuses=parse_list(refuses),
        provides=parse_list(fields.get("Provides", "")),
        filename=check_filename(filename),
        size=parse_size(fields["Size"]),
        sha256=Digest("sha256", fields["SHA256"]),
        suite=suite,
    )


def fetch_index(
    release: Release, root: str, component: str, architecture: str, get: Get
) -> list[bytes]:
    """The Packages files of a component for an architecture, checked and decompressed.

    ``root`` is the archive's URL; ``architecture`` is Debian's name. Besides the architecture's own
    file there is the one for ``all`` where the suite keeps those packages apart. Raises
    ResolveError when the suite has no such component or architecture, FetchError and
    DigestMismatchError.
    """
    found = []
    for part in (architecture, "all") if release.all_apart else (architecture,):
        index = fetch_file(release, root, f"{component}/binary-{part}/Packages", get)
        if index is not None:
            found.append(index)
    if not found:
        raise ResolveError(
            f"the suite {release.suite} has no packages of component {component} for "
            f"{architecture}",
            hint="its components: " + ", ".join(_components(release)),
        )
    return found


def _components(release: Release) -> list[str]:
    return sorted({p.partition("/binary-")[0] for p in release.files if "/binary-" in p})


def fetch_file(release: Release, root: str, path: str, get: Get) -> bytes | None:
    """The index at ``path`` below the suite, checked and decompressed; None if it has none.

    Raises as ``fetch_index`` does.
    """
    for suffix in (".xz", ".gz"):
        if path + suffix in release.files:
            return _fetch_one(release, root, path, suffix, get)
    return None


def _fetch_one(release: Release, root: str, path: str, suffix: str, get: Get) -> bytes:
    entry = release.files[path + suffix]
    directory = f"{root}/dists/{release.suite}"
    urls = [f"{directory}/{path}{suffix}"]
    if release.by_hash:
        # Stays right while the mirror moves on to the next state of the suite.
        folder = path.rpartition("/")[0]
        urls.insert(0, f"{directory}/{folder}/by-hash/SHA256/{entry.digest.hex}")
    data = _get_checked(urls, entry, get)
    whole = release.files.get(path)
    index = _decompress(data, suffix, whole.size if whole else LIMIT)
    if whole is not None and (len(index) != whole.size or Digest.of(index) != whole.digest):
        raise DigestMismatchError(f"{path} of {release.suite} is not what the Release names")
    return index


def _get_checked(urls: list[str], entry: IndexFile, get: Get) -> bytes:
    last: FetchError | None = None
    for url in urls:
        try:
            data = get(url, limit=entry.size)
        except FetchError as error:
            last = error
            continue
        if len(data) == entry.size and Digest.of(data) == entry.digest:
            return data
        last = DigestMismatchError(
            f"{url} has {Digest.of(data)}, the Release names {entry.digest}",
            hint="the mirror is being updated, or damaged; try again later, or another mirror",
        )
    if last is None:
        raise AssertionError
    raise last


def _decompress(data: bytes, suffix: str, limit: int) -> bytes:
    """Unpack at most ``min(limit, LIMIT)`` bytes; more, or rubbish, is a ResolveError."""
    limit = min(limit, LIMIT)
    state = (
        lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)
        if suffix == ".xz"
        else zlib.decompressobj(31)
    )
    try:
        index = state.decompress(data, limit + 1)
    except (lzma.LZMAError, zlib.error) as error:
        raise ResolveError(f"an index cannot be decompressed: {error}") from None
    if len(index) > limit:
        raise ResolveError(f"an index is larger than the {limit} bytes that it may have")
    if not state.eof:
        raise ResolveError("an index cannot be decompressed: it is cut")
    return index

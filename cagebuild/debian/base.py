"""One layer out of packages: their files, and the little that their scripts would have added.

No script of a package is run. ``docs/debian-bases.md`` lists what is made here in their place, and
what is left out.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, NamedTuple

from cagebuild.debian.deb import MAX_DATA, unpack
from cagebuild.debian.merge import Unpacked, merge, origin_of
from cagebuild.errors import ImageError
from cagebuild.image.tarwriter import write_tree
from cagebuild.image.tree import FileSource, Kind, MemorySource, Node, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cagebuild.debian.deb import Deb

MAX_TOTAL = 2 * MAX_DATA
"""Bytes of all uncompressed packages of a base."""

GENERATED = "generated for a Debian base"
"""Origin of what comes from no package."""

_MERGED_USR = (b"bin", b"lib", b"sbin")
_MERGED_USR_OF = {"amd64": (b"lib64",), "arm64": ()}
_VAR_LINKS = ((b"var/lock", b"/run/lock"), (b"var/run", b"/run"))
_DIRECTORIES = (
    (b"dev", 0o755),
    (b"etc", 0o755),
    (b"proc", 0o755),
    (b"root", 0o700),
    (b"run", 0o755),
    (b"run/lock", 0o1777),
    (b"sys", 0o755),
    (b"tmp", 0o1777),
    (b"var", 0o755),
    (b"var/tmp", 0o1777),
)

_LEFT_OUT = (
    b"usr/share/bug",
    b"usr/share/doc-base",
    b"usr/share/info",
    b"usr/share/lintian",
    b"usr/share/man",
)
"""Whole folders; of usr/share/doc only the copyright files stay, of usr/share/locale nothing but
locale.alias: what Debian's slim images leave out."""

_PASSWD = b"""\
root:*:0:0:root:/root:/usr/sbin/nologin
nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = b"""\
root:*:0:
nogroup:*:65534:
"""
_NSSWITCH = b"""\
passwd:         files
group:          files
shadow:         files
hosts:          files dns
networks:       files
protocols:      files
services:       files
"""
_SMALL = 1 << 20
_CERTIFICATES = b"usr/share/ca-certificates"
_BUNDLE = b"etc/ssl/certs/ca-certificates.crt"


class Named(NamedTuple):
    """A .deb and what the lock says it is."""

    name: str
    version: str
    path: Path


def build(
    packages: Iterable[Named],
    *,
    scratch: Path,
    layer: Path,
    origins: Path,
    progress: Callable[[int], None] = lambda _done: None,
) -> None:
    """Write the layer, an uncompressed tar archive, and origins.json: entry → its origin.

    The same packages give the same bytes, in whatever order they come. ``scratch`` is an empty
    folder that needs room for all uncompressed packages; ``progress`` is told the bytes unpacked.
    Raises ImageError for packages that are hostile, malformed, or not those that the lock names.
    """
    with ExitStack() as stack:
        unpacked = []
        left = MAX_TOTAL
        for number, named in enumerate(sorted(packages)):
            deb = unpack(named.path, scratch / f"{number}.tar", limit=min(left, MAX_DATA))
            _check(named, deb)
            left -= deb.data.stat().st_size
            progress(MAX_TOTAL - left)
            source = stack.enter_context(closing(FileSource(deb.data)))
            unpacked.append(Unpacked(deb, source))
        root = make_tree(unpacked)
        with layer.open("wb") as out:
            write_tree(root, out.write)
    origins.write_text(json.dumps(_origins(root), indent=0, sort_keys=True) + "\n")


def make_tree(packages: list[Unpacked]) -> Node:
    """The tree of a base. Contents stay in the packages' sources. Raises ImageError."""
    debs = [each.deb for each in packages]
    links = _links(debs)
    root = merge(packages, links)
    for name in _LEFT_OUT:
        _remove(root, name)
    _thin_out(root)
    targets = ((target.removeprefix(b"/"), 0o755) for _, target, _ in links)
    for name, mode in (*_DIRECTORIES, *targets):
        if _find(root, name) is None:
            _put(root, name, Node(Kind.DIRECTORY, mode=mode, origin=GENERATED))
    _add_accounts(root)
    _add_nsswitch(root)
    _add_certificates(root)
    for deb in debs:
        _put(
            root, b"var/lib/dpkg/status.d/" + deb.name.encode(), _file(_status(deb), origin_of(deb))
        )
    return root


def _check(named: Named, deb: Deb) -> None:
    if (deb.name, deb.version) != (named.name, named.version):
        raise ImageError(
            f"{named.path.name} is {deb}, the lock has it as {named.name} {named.version}",
            hint="run: invoke lock --update",
        )


def _links(debs: list[Deb]) -> list[tuple[bytes, bytes, str]]:
    """The links that are there before any package is unpacked: those of a merged /usr."""
    architectures = {deb.architecture for deb in debs} - {"all"}
    if len(architectures) > 1 or not architectures <= _MERGED_USR_OF.keys():
        raise ImageError(f"packages of the architectures {', '.join(sorted(architectures))}")
    names = {*_MERGED_USR, *(name for each in architectures for name in _MERGED_USR_OF[each])}
    merged = [(name, b"usr/" + name, GENERATED) for name in sorted(names)]
    return merged + [(name, target, GENERATED) for name, target in _VAR_LINKS]


def _thin_out(root: Node) -> None:
    """Leave out documentation but licences, and translations."""
    doc = _find(root, b"usr/share/doc")
    for name, node in list((doc.children or {}).items() if doc else ()):
        if node.kind is not Kind.DIRECTORY:
            continue  # A link to the folder that has the copyright file.
        kept = {k: v for k, v in (node.children or {}).items() if k == b"copyright"}
        for other in (node.children or {}).keys() - kept.keys():
            _remove(node, other)
        if not kept and doc and doc.children:
            del doc.children[name]
    locale = _find(root, b"usr/share/locale")
    for name in list((locale.children or {}) if locale else ()):
        if locale and name != b"locale.alias":
            _remove(locale, name)


def _add_accounts(root: Node) -> None:
    """/etc/passwd and /etc/group: base-passwd's where it is chosen, else root and nobody."""
    for name, own in ((b"passwd", _PASSWD), (b"group", _GROUP)):
        master = _find(root, b"usr/share/base-passwd/" + name + b".master")
        if master is None:
            _put_new(root, b"etc/" + name, _file(own, GENERATED))
        else:
            _put_new(root, b"etc/" + name, _file(_content(master), master.origin))


def _add_nsswitch(root: Node) -> None:
    given = _find(root, b"usr/share/base-files/nsswitch.conf")
    node = _file(_NSSWITCH, GENERATED) if given is None else _file(_content(given), given.origin)
    _put_new(root, b"etc/nsswitch.conf", node)


def _add_certificates(root: Node) -> None:
    """The bundle that update-ca-certificates makes of a fresh installation, and OpenSSL's link."""
    folder = _find(root, _CERTIFICATES)
    if folder is None:
        return
    found = [(path, node) for path, node in walk(folder) if path.endswith(b".crt")]
    if not found:
        return
    content = b"".join(_content(node).rstrip(b"\n") + b"\n" for _, node in found)
    _put_new(root, _BUNDLE, _file(content, found[0][1].origin))
    link = Node(Kind.SYMLINK, mode=0o777, target=b"/" + _BUNDLE, origin=GENERATED)
    _put_new(root, b"usr/lib/ssl/cert.pem", link)


def _status(deb: Deb) -> bytes:
    """The control file: how scanners know the packages of an image without a dpkg database."""
    return deb.control.rstrip(b"\n") + b"\n"


def _origins(root: Node) -> dict[str, str]:
    return {path.decode("utf-8", "surrogateescape"): node.origin for path, node in walk(root)}


# Small trees' tools. Paths are canonical here: no link is followed.


def _find(root: Node, path: bytes) -> Node | None:
    node: Node | None = root
    for part in path.split(b"/"):
        node = (node.children or {}).get(part) if node else None
    return node


def _put(root: Node, path: bytes, node: Node) -> None:
    """Put a node at a path; folders on the way that are missing are made."""
    *folders, name = path.split(b"/")
    at = root
    for part in folders:
        children = at.children if at.children is not None else {}
        at = children.setdefault(part, Node(Kind.DIRECTORY, mode=0o755, origin=GENERATED))
        if at.kind is not Kind.DIRECTORY:
            raise ImageError(
                f"a package has {part.decode(errors='replace')} where a base needs the folder of "
                f"/{path.decode(errors='replace')}"
            )
    if at.children is not None:
        at.children[name] = node


def _put_new(root: Node, path: bytes, node: Node) -> None:
    """Put a node at a path unless a package has something there."""
    if _find(root, path) is None:
        _put(root, path, node)


def _remove(root: Node, path: bytes) -> None:
    """Take away a path and all below it; other names of the inodes stay."""
    folder, _, name = path.rpartition(b"/")
    parent = _find(root, folder) if folder else root
    node = (parent.children or {}).pop(name, None) if parent else None
    if node is not None:
        for each in (node, *(below for _, below in walk(node))):
            each.links -= 1


def _file(content: bytes, origin: str) -> Node:
    return Node(
        Kind.FILE, mode=0o644, size=len(content), source=MemorySource(content), origin=origin
    )


def _content(node: Node) -> bytes:
    if node.kind is not Kind.FILE or node.size > _SMALL:
        raise ImageError(f"{node.origin}: a file that a base is made from is no small file")
    return b"".join(node.read())

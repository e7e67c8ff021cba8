"""ADD of archives: known by their first bytes, unpacked with their owners and in their place.

Source of the rules: moby/go-archive (Untar, Unpack, createTarFile) as BuildKit calls it, in a
root of its own: symlinks and ``..`` end at the destination.
"""

from __future__ import annotations

import bz2
from typing import TYPE_CHECKING, Final

from cagebuild.embedded.places import Parts, check_name, children, node_at, resolve
from cagebuild.embedded.refused import Refused, shown
from cagebuild.errors import ImageError
from cagebuild.image.compression import Limits, decompress, detect, unpack_to
from cagebuild.image.layers import MAX_PATH, components
from cagebuild.image.tar import Entry, read_tar
from cagebuild.image.tarfields import BLOCK, HEADER, FieldError, checksum_is_right, parse_number
from cagebuild.image.tree import Kind, Node, Region, release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cagebuild.embedded.copying import Attributes

_BZIP2: Final = b"BZh"
_PIECE: Final = 1 << 20
_LIMITS: Final = Limits()


def is_archive(file: Node) -> bool:
    """Whether ADD unpacks a regular file: it is a tar, by itself or compressed.

    What is damaged from the start is no archive, and an archive without entries isn't one either.
    """
    region = _region(file)
    if region is None:
        return False
    try:
        block = _start(region)
    except ImageError:
        return False
    if len(block) < BLOCK or not any(block):
        return False
    try:
        return checksum_is_right(block, parse_number(HEADER.unpack(block)[6]))
    except FieldError:
        return False


def unpack(
    file: Node, root: Node, place: Parts, attributes: Attributes, *, label: str, scratch: Path
) -> set[Node]:
    """Unpack into the directory at a resolved path; ``scratch`` is a new file for its bytes.

    Returns the directories that were made without an entry for them. Raises Refused and ImageError.
    """
    region = _region(file)
    if region is None:
        raise Refused(f"{label} is a sparse file, which cannot be read as an archive")
    top = node_at(root, place)
    if top is None or top.kind is not Kind.DIRECTORY:
        raise Refused(f"{shown(b'/'.join(place))} is not a directory")
    unpacked = _Unpacked(top, attributes, label)
    for entry in read_tar(_plain(region, label, scratch), label, apply_globals=False):
        unpacked.add(entry)
    unpacked.finish()
    return unpacked.implied


def _region(file: Node) -> Region | None:
    if file.extents is not None or file.source is None:
        return None
    return Region(file.source, file.offset, file.size)


def _start(region: Region) -> bytes:
    """The first block of the uncompressed bytes."""
    block = b""
    pieces = _bunzip2(region, "") if _is_bzip2(region) else decompress(region, "")
    for piece in pieces:
        block += piece[: BLOCK - len(block)]
        if len(block) == BLOCK:
            break
    return block


def _plain(region: Region, label: str, scratch: Path) -> Region:
    """The uncompressed bytes: where they are, or in a new file."""
    if _is_bzip2(region):
        with scratch.open("xb") as out:
            for piece in _bunzip2(region, label):
                out.write(piece)
    elif detect(region.pread(6, 0)) == "plain":
        return region
    else:
        unpack_to(region, scratch, label)
    return Region.of_file(scratch)


def _is_bzip2(region: Region) -> bool:
    return region.pread(3, 0) == _BZIP2


def _bunzip2(region: Region, label: str) -> Iterator[bytes]:
    """The bytes of bzip2 streams one after another, in bounded pieces; raises ImageError."""
    most = min(_LIMITS.max_bytes, max(_PIECE << 8, _LIMITS.max_ratio * region.size))
    size = 0
    chunks = region.chunks(_PIECE)
    stream = bz2.BZ2Decompressor()
    data = next(chunks, b"")
    while data or not stream.eof:
        if stream.needs_input and not data:
            raise _damaged(label, "it ends early")
        try:
            piece = stream.decompress(data, _PIECE)
        except OSError as error:
            raise _damaged(label, "its bytes make no sense") from error
        size += len(piece)
        if size > most:
            raise _damaged(label, f"{region.size} bytes unpack to more than {most}")
        if piece:
            yield piece
        data = b""
        if stream.eof:
            data = stream.unused_data or next(chunks, b"")
            stream = bz2.BZ2Decompressor() if data else stream
        elif stream.needs_input:
            data = next(chunks, b"")


def _damaged(label: str, why: str) -> ImageError:
    return ImageError(f"{label}: the bzip2 stream is damaged: {why}", hint="make it again")


class _Unpacked:
    """A directory that an archive is being unpacked into."""

    def __init__(self, top: Node, attributes: Attributes, label: str) -> None:
        self._top = top
        self._attributes = attributes
        self._label = label
        self.implied: set[Node] = set()
        self._directories: dict[Parts, Entry] = {}

    def finish(self) -> None:
        """Refuse an archive that has removed its own directories, as BuildKit does."""
        for parts, entry in self._directories.items():
            if node_at(self._top, resolve(self._top, parts)) is None:
                raise self._refused(entry, "a later entry removes it")

    def add(self, entry: Entry) -> None:
        """Put one entry in its place; what is there gives way, unless both are directories."""
        parts = self._parts(entry.name, entry)
        if not parts:
            if entry.node.kind is Kind.DIRECTORY:
                return
            raise self._refused(entry, "it would replace the destination")
        parent = self._parent(parts[:-1], entry)
        inside, name = children(parent, parts[:-1]), parts[-1]
        check_name(name)
        old = inside.get(name)
        merged = False
        if old is not None:
            is_directory = entry.link is None and entry.node.kind is Kind.DIRECTORY
            merged = is_directory and old.kind is Kind.DIRECTORY
            if not merged:
                # First of all, so that a hard link to itself leads to nothing.
                release(inside.pop(name))
        node = entry.node if entry.link is None else self._linked(entry, entry.link)
        if node.kind is Kind.CHARACTER and node.rdev == (0, 0):
            raise self._refused(entry, "it is the device that stands for a removed file in layers")
        if merged and old is not None:
            node.children = old.children
        if entry.link is not None:
            node.links += 1
        self._put_on(node, entry.node)
        inside[name] = node
        if node.kind is Kind.DIRECTORY:
            self._directories[tuple(parts)] = entry

    def _parts(self, name: bytes, entry: Entry) -> list[bytes]:
        depth = 0
        for part in name.lstrip(b"/").split(b"/"):
            depth += (part not in (b"", b".")) - 2 * (part == b"..")
            if depth < 0 and not name.startswith(b"/"):
                raise self._refused(entry, "it leads out of the archive")
        if len(name) > MAX_PATH:
            raise self._refused(entry, "its name is longer than Linux allows")
        return components(name)

    def _parent(self, parts: list[bytes], entry: Entry) -> Node:
        """The directory of an entry: 0755 0:0 where the archive has none, whatever --chown says."""
        place: Parts = ()
        here = self._top
        for part in parts:
            inside = children(here, place)
            node = inside.get(part)
            place = (*place, part)
            if node is None:
                check_name(part)
                node = Node(Kind.DIRECTORY, mode=0o755, origin=self._attributes.origin)
                inside[part] = node
                self.implied.add(node)
            elif node.kind is Kind.SYMLINK:
                place = resolve(self._top, place)
                node = node_at(self._top, place)
                if node is None:
                    raise self._refused(entry, "it is behind a symlink that leads to nothing")
            here = node
        if here.kind is not Kind.DIRECTORY:
            raise self._refused(entry, f"{shown(b'/'.join(place))} is not a directory")
        return here

    def _linked(self, entry: Entry, link: bytes) -> Node:
        parts = components(link)
        place = resolve(self._top, parts[:-1])
        node = node_at(self._top, (*place, *parts[-1:]))
        if node is None or node.kind is Kind.DIRECTORY:
            what = "not there" if node is None else "a directory"
            raise self._refused(entry, f"it is a hard link to {shown(link)}, which is {what}")
        return node

    def _put_on(self, node: Node, given: Node) -> None:
        node.uid, node.gid = self._attributes.owner or (given.uid, given.gid)
        if node.kind is not Kind.SYMLINK:
            node.mode = given.mode
        node.origin = self._attributes.origin
        node.xattrs = node.xattrs or given.xattrs

    def _refused(self, entry: Entry, why: str) -> Refused:
        return Refused(f"{self._label}: entry {shown(entry.name)[1:]}: {why}")

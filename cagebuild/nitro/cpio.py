"""Writing cpio archives in the "newc" form, byte for byte as linuxkit writes ramdisks.

Source of the format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, and
for what the format leaves open (inode numbers, device numbers, link counts, padding at the end) the
archives that nitro-cli's linuxkit makes.
"""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cagebuild.errors import ImageError
from cagebuild.image.tree import Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FIRST_INODE = 721
DEVICE_MAJOR = 3
DEVICE_MINOR = 1
BLOCK = 512
TRAILER = b"TRAILER!!!"
HEADER_SIZE = 110
_LARGEST = 0xFFFF_FFFF
_BATCH = 1 << 20
_READ = 1 << 20
_JOIN = (
    1 << 16
)  # contents of this size and above are passed on as they are, not copied into a batch
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")


class Entry(NamedTuple):
    """One member of a ramdisk. A NamedTuple, as there are hundreds of thousands of them."""

    name: bytes
    """As written: no leading slash; whoever makes the entry decides on a trailing one."""
    mode: int
    """Type bits and permissions."""
    uid: int
    gid: int
    mtime: int
    """Whole seconds since 1970."""
    content: Node | bytes = b""
    """A regular file's data or a symlink's target; nothing for other types."""
    rdev: tuple[int, int] = (0, 0)
    origin: str = ""
    """Where it came from, in words; empty for what the ramdisk's layout itself adds."""

    @property
    def size(self) -> int:
        """Bytes of content."""
        content = self.content
        return content.size if isinstance(content, Node) else len(content)


class Recorder(Protocol):
    """Is told of every entry, once its content has been read."""

    def record(self, entry: Entry, sha256: str) -> None:
        """``sha256`` is the hex digest of a regular file's content, empty for other types."""


def archive_size(entries: Iterable[Entry]) -> int:
    """The bytes that ``pack`` will yield for these entries, without reading any content."""
    total = 0
    for entry in entries:
        total += (HEADER_SIZE + len(entry.name) + 1 + 3) & ~3
        total += (entry.size + 3) & ~3
    total += (HEADER_SIZE + len(TRAILER) + 1 + 3) & ~3
    return -(-total // BLOCK) * BLOCK


def pack(entries: Iterable[Entry], recorder: Recorder | None = None) -> Iterator[bytes]:
    """The archive's bytes, in buffers of about 1 MiB.

    Raises ImageError naming the entry when one of its numbers does not fit, when its name cannot be
    written, or when its content is not as long as it says.
    """
    batch: list[bytes] = []
    held = 0  # bytes in the batch
    position = 0
    inode = FIRST_INODE
    for entry in entries:
        header = _header(entry, inode)
        inode += 1
        batch.append(header)
        held += len(header)
        position += len(header)
        digest = hashlib.sha256() if recorder and stat.S_ISREG(entry.mode) else None
        size = 0
        for data in _content(entry):
            size += len(data)
            if digest is not None:
                digest.update(data)
            if len(data) >= _JOIN:
                if held:
                    yield b"".join(batch)
                    batch, held = [], 0
                yield data
            else:
                batch.append(data)
                held += len(data)
        position += size
        if position & 3:
            batch.append(_PADDING[-position & 3])
            held += -position & 3
            position += -position & 3
        if held >= _BATCH:
            yield b"".join(batch)
            batch, held = [], 0
        if recorder is not None:
            recorder.record(entry, digest.hexdigest() if digest else "")
    trailer = _fields(TRAILER, inode, (0, 0, 0, 1, 0, 0), (0, 0))
    position += len(trailer)
    yield b"".join([*batch, trailer, bytes(-position % BLOCK)])


def _content(entry: Entry) -> Iterator[bytes]:
    """The content in chunks of at most 1 MiB, exactly as many bytes as ``entry.size`` says."""
    content = entry.content
    if not isinstance(content, Node):
        return iter((content,)) if content else iter(())
    size = content.size
    if size == 0:
        return iter(())
    if size <= _READ and content.extents is None and content.source is not None:
        # The common case, without a generator's cost for each of many small files.
        data = content.source.pread(size, content.offset)
        if len(data) == size:
            return iter((data,))
        raise _shorter(entry, len(data))
    return _long_content(entry, content)


def _long_content(entry: Entry, node: Node) -> Iterator[bytes]:
    seen = 0
    for data in node.read(_READ):
        seen += len(data)
        if seen > node.size:
            break
        yield data
    if seen != node.size:
        raise _shorter(entry, seen)


def _shorter(entry: Entry, seen: int) -> ImageError:
    return ImageError(
        f"{_shown(entry.name)}: its content has {seen} bytes where {entry.size} were announced",
        hint="the layer changed or was cut while it was read; fetch or build the image again",
    )


def _header(entry: Entry, inode: int) -> bytes:
    size = entry.size
    major, minor = entry.rdev
    # One test for all: a number that is negative or too large leaves a bit above the lowest 32.
    if (entry.mode | entry.uid | entry.gid | entry.mtime | size | major | minor | inode) >> 32:
        raise _too_large(entry)
    if b"\0" in entry.name or not entry.name or len(entry.name) >= _LARGEST:
        raise ImageError(f"{_shown(entry.name)}: a ramdisk cannot hold an entry of this name")
    nlink = 2 if stat.S_ISDIR(entry.mode) else 1
    return _fields(
        entry.name, inode, (entry.mode, entry.uid, entry.gid, nlink, entry.mtime, size), entry.rdev
    )


def _fields(
    name: bytes, inode: int, numbers: tuple[int, int, int, int, int, int], rdev: tuple[int, int]
) -> bytes:
    """Header and name, padded: every header starts at a multiple of 4, its length decides."""
    length = len(name) + 1
    head = b"070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x00000000%b\0" % (
        inode,
        *numbers,
        DEVICE_MAJOR,
        DEVICE_MINOR,
        *rdev,
        length,
        name,
    )
    return head + _PADDING[-len(head) & 3]


def _too_large(entry: Entry) -> ImageError:
    numbers = {
        "mode": entry.mode,
        "owner": entry.uid,
        "group": entry.gid,
        "time (seconds since 1970)": entry.mtime,
        "size": entry.size,
        "device's major number": entry.rdev[0],
        "device's minor number": entry.rdev[1],
    }
    for what, number in numbers.items():
        if not 0 <= number <= _LARGEST:
            return ImageError(
                f"{_shown(entry.name)}: its {what} is {number}; a ramdisk holds 0 to {_LARGEST}",
                hint="change or remove the file in the image",
            )
    return ImageError(f"{_shown(entry.name)}: the ramdisk has too many entries")


def printable(text: str) -> str:
    """Text for messages and terminals: what is not printable is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _shown(name: bytes) -> str:
    return printable(name[:200].decode("utf-8", "backslashreplace"))

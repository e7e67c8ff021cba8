"""Sparse files in tar archives: the old GNU format and PAX formats 0.0, 0.1 and 1.0.

Each gives the stored pieces of a file as (position in the file, length), in order. Holes are zeros.
Format: GNU tar manual, "Storing Sparse Files"; the old format's blocks in GNU tar's ``tar.h``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cagebuild.image.tree import Extents

MAX_PIECES = 100_000
"""Pieces of one file. GNU tar writes one for each run of data."""

_BLOCK = 512
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_PIECE_BYTES = 24

Pieces = list[tuple[int, int]]


class SparseError(ValueError):
    """The map of a sparse file makes no sense; the text says why."""


def place(pieces: Pieces, *, size: int, stored: int, offset: int) -> Extents:
    """Lay pieces out in an archive whose data for the file starts at ``offset``.

    ``stored`` is how many bytes the archive holds for the file, ``size`` the file's real size.
    Raises SparseError when pieces overlap, lie beyond the end, or don't add up to what is stored.
    """
    extents = []
    position = offset
    end = 0
    for start, length in pieces:
        if start < end or length < 0 or start + length > size:
            raise SparseError("its map overlaps itself or goes beyond its size")
        end = start + length
        if length:
            extents.append((start, position, length))
        position += length
    if position - offset != stored:
        raise SparseError("its map doesn't add up to what the archive holds")
    return tuple(extents)


def old_gnu_pieces(
    header: bytes, number: Callable[[bytes], int], next_block: Callable[[], bytes]
) -> Pieces:
    """The map of an entry of type ``S``: four pieces in the header, more in blocks after it."""
    pieces: Pieces = []
    _append(pieces, header[386:482], number)
    more = header[482]
    while more:
        block = next_block()
        _append(pieces, block[:504], number)
        more = block[504]
    return pieces


def _append(pieces: Pieces, fields: bytes, number: Callable[[bytes], int]) -> None:
    for at in range(0, len(fields), _PIECE_BYTES):
        if fields[at] == 0:
            return
        start, length = fields[at : at + 12], fields[at + 12 : at + _PIECE_BYTES]
        pieces.append((number(start), number(length)))
        if len(pieces) > MAX_PIECES:
            raise SparseError(f"its map has more than {MAX_PIECES} pieces")


def listed_pieces(numbers: list[bytes]) -> Pieces:
    """The map of PAX formats 0.0 and 0.1: position, length, position, length, …"""
    if len(numbers) % 2 or len(numbers) > 2 * MAX_PIECES:
        raise SparseError(f"its map has half a piece or more than {MAX_PIECES}")
    values = [decimal(text) for text in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def pax_1_pieces(read: Callable[[int, int], bytes], stored: int) -> tuple[Pieces, int]:
    """The map of PAX format 1.0, which stands before the data, and the bytes that it takes.

    It is one decimal number a line, the count first, filled with zeros to whole blocks.
    ``read(offset, size)`` gives bytes of the ``stored`` ones.
    """
    buffer = b""
    position = 0
    used = 0

    def line() -> int:
        nonlocal buffer, position, used
        while (end := buffer.find(b"\n", position)) < 0:
            block = read(used, _BLOCK) if used < stored else b""
            if len(block) < _BLOCK or len(buffer) - position > _BLOCK:
                raise SparseError("its map is cut")
            buffer = buffer[position:] + block
            position = 0
            used += _BLOCK
        text = buffer[position:end]
        position = end + 1
        return decimal(text)

    count = line()
    if count > MAX_PIECES:
        raise SparseError(f"its map has more than {MAX_PIECES} pieces")
    return [(line(), line()) for _ in range(count)], used


def decimal(text: bytes) -> int:
    """A number of up to 19 decimal digits; SparseError for anything else."""
    if not _DECIMAL.fullmatch(text):
        raise SparseError(f"its map has {text[:30]!r} where a number belongs")
    return int(text)

"""The fields of tar headers: numbers, times, checksums, PAX records.

Formats: POSIX.1-2017 pax ("ustar Interchange Format", "pax Header Block"); base-256 is GNU's.
"""

from __future__ import annotations

import re
import struct
import zlib
from functools import lru_cache

BLOCK = 512
MAX_ID = 0xFFFF_FFFF
MAX_SIZE = (1 << 63) - 1
MAX_MAJOR, MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
"""Of a device number on Linux."""

HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s8s4s")
"""name, mode, uid, gid, size, mtime, checksum, type, link, magic and version, user, group, major,
minor, prefix; what is left, whose last four bytes are star's mark."""

_NUMBER = re.compile(rb" *([0-7]*) *")
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_RECORD_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")


class FieldError(ValueError):
    """A field or record that makes no sense; the text says why."""


@lru_cache(maxsize=8192)
def parse_number(field: bytes) -> int:
    """A number field: octal digits between blanks, or base-256 when the first bit is set.

    Raises FieldError. Equal fields give the same object, which keeps large trees small.
    """
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = _NUMBER.fullmatch(field.partition(b"\0")[0])
    if digits is None:
        raise FieldError("not an octal number")
    return int(digits[1] or b"0", 8)


def parse_time(text: bytes) -> int:
    """A PAX time, seconds with a fraction, rounded down to whole seconds. Raises FieldError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise FieldError("not a time")
    sign, seconds, fraction = match.groups()
    value = int(seconds)
    if not sign:
        return value
    return -value - 1 if fraction and fraction.strip(b"0") else -value


def parse_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of a PAX header, ``length key=value\\n`` each. Raises FieldError."""
    records = []
    position = 0
    while position < len(data):
        length = _RECORD_LENGTH.match(data, position)
        if length is None:
            raise FieldError("a record doesn't start with its length")
        end = position + int(length[1])
        key, equals, value = data[length.end() : end - 1].partition(b"=")
        if end > len(data) or end <= length.end() or data[end - 1] != 0x0A or not equals or not key:
            raise FieldError("a record isn't 'length key=value' and a newline")
        records.append((key, value))
        position = end
    return records


def checksum_is_right(header: bytes, expected: int) -> bool:
    """Whether the bytes of a header, its checksum field taken as blanks, add up to ``expected``.

    The first tar programs added signed bytes, so that sum is right too.
    """
    # Adler-32 has the sum of bytes plus one in its low half; 256 bytes at a time never wrap it.
    first = zlib.adler32(header[:148] + b"        " + header[156:256]) & 0xFFFF
    total = first + (zlib.adler32(header[256:]) & 0xFFFF) - 2
    if total == expected:
        return True
    large = sum(byte > 127 for byte in header[:148] + header[156:])
    return total - 256 * large == expected


def shown(name: bytes) -> str:
    """A name for an error message: quoted, cut, printable."""
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 200 else text[:200] + "…")

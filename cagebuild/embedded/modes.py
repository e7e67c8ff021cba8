"""``--chmod``: octal, or the words of chmod(1).

Source of the rules: BuildKit's convert_copy.go; BSD setmode(3), which BuildKit follows, umask 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cagebuild.embedded.refused import Refused

_SETUID: Final = 0o4000
_SETGID: Final = 0o2000
_STICKY: Final = 0o1000
_STANDARD: Final = 0o6777
_EXECUTE: Final = 0o111
_WHO: Final = {"a": _STANDARD, "u": 0o4700, "g": 0o2070, "o": 0o007}
_BITS: Final = {"r": 0o444, "w": 0o222, "x": _EXECUTE}
_SHIFT: Final = {"u": 6, "g": 3, "o": 0}
_CLAUSE: Final = re.compile(r"([augo]*)((?:[-+=][rwxXstugo]*)+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What ``--chmod`` asks for."""

    octal: int | None
    """None where it is in words."""
    changes: tuple[tuple[str, int, int | str], ...] = ()
    """Each of ``+ - X = u g o``, for whom, and the bits (for the last three: how to copy)."""

    def apply(self, mode: int, *, directory: bool) -> int:
        """The mode that a file of this mode gets."""
        if self.octal is not None:
            return self.octal
        new = mode
        for what, who, bits in self.changes:
            if isinstance(bits, str):
                new = _copied(new, what, who, bits)
            elif what == "-":
                new &= ~bits
            elif what == "+" or directory or mode & _EXECUTE:
                new |= bits
        return new

    @property
    def for_parents(self) -> int:
        """The mode of directories that are made on the way to the destination."""
        return 0o755 if self.octal is None else self.octal & 0o777


def parse(text: str) -> Mode:
    """Read it; raises Refused."""
    if re.fullmatch("[0-7]+", text) and int(text, 8) <= 0o7777:
        return Mode(octal=int(text, 8))
    changes: list[tuple[str, int, int | str]] = []
    for clause in text.split(","):
        found = _CLAUSE.fullmatch(clause)
        if found is None:
            raise Refused(
                f"--chmod={text} is no mode",
                hint="it is an octal number up to 07777, or words such as u=rwx,go=rx",
            )
        who = 0
        for letter in found[1]:
            who |= _WHO[letter]
        for operation, letters in re.findall(r"([-+=])([rwxXstugo]*)", found[2]):
            who = _read(changes, operation, letters, who)
    return Mode(octal=None, changes=tuple(changes))


def _read(changes: list[tuple[str, int, int | str]], operation: str, letters: str, who: int) -> int:
    """Add the changes of one operation; returns for whom the next one is."""
    bits, if_executable = 0, 0
    cleared = False
    only_others = who != 0 and not who & ~0o007

    def flush(*, last: bool) -> None:
        nonlocal bits, if_executable
        if operation == "=" and (bits or (last and not cleared)):
            changes.append(("-", who, who or _STANDARD))
        if bits:
            changes.append(("-" if operation == "-" else "+", who, bits & (who or ~0)))
        if if_executable:
            changes.append(("X", who, if_executable & (who or ~0)))
        bits = if_executable = 0

    for letter in letters:
        if letter in _BITS:
            bits |= _BITS[letter]
        elif letter == "s":
            bits |= 0 if only_others else _SETUID | _SETGID
        elif letter == "t":
            who |= 0 if only_others else _STICKY
            bits |= 0 if only_others else _STICKY
        elif letter == "X" and operation != "-":
            if_executable |= _EXECUTE
        elif letter == "X":
            bits |= _EXECUTE
        else:
            flush(last=False)
            cleared = True
            changes.append((letter, who, operation))
    flush(last=True)
    return who & ~_STICKY


def _copied(mode: int, source: str, who: int, operation: str) -> int:
    """The permissions of one class given to others, or taken from them."""
    value = mode >> _SHIFT[source] & 0o7
    for shift in _SHIFT.values():
        if who and not who & 0o4 << shift:
            continue
        if operation == "=":
            mode &= ~(0o7 << shift)
        if operation == "-":
            mode &= ~(value << shift)
        else:
            mode |= value << shift
    return mode

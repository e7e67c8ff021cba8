"""Which files of a context an engine does not get: .dockerignore.

Source of the rules: moby/patternmatcher and its package ignorefile, as BuildKit uses them.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from cagebuild.dockerfile.expand import SPACES
from cagebuild.dockerfile.globs import Glob, InvalidGlobError, is_plain
from cagebuild.dockerfile.problems import Problems, text_of

NAME = ".dockerignore"
_LARGEST = 1 << 20
_LONGEST = 4096
_BOM = b"\xef\xbb\xbf"


def candidates(dockerfile: Path, context: Path) -> tuple[Path, Path]:
    """The files that may say what is ignored; the first that is there applies alone."""
    return dockerfile.with_name(dockerfile.name + NAME), context / NAME


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    again: bool
    """``!pattern``: what it matches is taken after all."""
    glob: Glob | None
    """None for a pattern that is a path."""

    def matches(self, path: str) -> bool:
        return self.glob.matches(path) if self.glob else path == self.pattern


class Ignore:
    """The patterns of one file, in order: the last one that matches decides."""

    def __init__(self, rules: tuple[_Rule, ...]) -> None:
        self._rules = rules
        self._none = (False,) * len(rules)
        self._folders: dict[str, tuple[bool, ...]] = {}

    @classmethod
    def parse(cls, data: bytes, file: Path = Path(NAME)) -> Ignore:
        """Read a .dockerignore; raises DockerfileError with every mistake in it."""
        problems = Problems(file, data)
        if len(data) > _LARGEST:
            problems.add(0, f"larger than {_LARGEST >> 20} MiB")
            raise problems.error()
        rules: list[_Rule] = []
        for number, line in enumerate(data.removeprefix(_BOM).split(b"\n"), 1):
            try:
                rule = _rule(text_of(line))
            except InvalidGlobError as error:
                problems.add(number, f"this is no pattern: {error}")
            else:
                rules += [rule] if rule else []
        if problems:
            raise problems.error()
        return cls(tuple(rules))

    def excludes(self, path: str) -> bool:
        """Whether a path of the context, relative and with ``/``, is ignored."""
        return self._excluded(self._matched(path))

    def _excluded(self, matched: tuple[bool, ...]) -> bool:
        excluded = False
        for rule, match in zip(self._rules, matched, strict=True):
            if match:
                excluded = not rule.again
        return excluded

    def _matched(self, path: str) -> tuple[bool, ...]:
        """Which patterns match a path or a folder that it is in."""
        above = self._none
        parts = path.split("/")
        for number in range(1, len(parts)):
            folder = "/".join(parts[:number])
            known = self._folders.get(folder)
            if known is None:
                known = self._folders[folder] = self._matched_below(above, folder)
            above = known
        return self._matched_below(above, path)

    def _matched_below(self, above: tuple[bool, ...], path: str) -> tuple[bool, ...]:
        excluded = False
        found: list[bool] = []
        for rule, match in zip(self._rules, above, strict=True):
            # A pattern that would change nothing does not count, for what is below neither.
            counts = match or (rule.again == excluded and rule.matches(path))
            found.append(counts)
            if counts:
                excluded = not rule.again
        return tuple(found)


def _rule(line: str) -> _Rule | None:
    """One line. moby cleans it, and cleans what comes of that again; so ``/!a`` is ``!a``."""
    if line.startswith("#"):
        return None
    text = _clean(_first_cleaning(line.strip(SPACES)).strip(SPACES))
    if not text:
        return None
    again = text.startswith("!")
    pattern = text.removeprefix("!")
    if not pattern:
        raise InvalidGlobError("nothing follows the !")
    if len(pattern) > _LONGEST:
        raise InvalidGlobError(f"it is longer than {_LONGEST} characters")
    return _Rule(pattern, again, None if is_plain(pattern) else Glob.parse(pattern))


def _first_cleaning(text: str) -> str:
    mark = text[: text.startswith("!")]
    cleaned = _clean(text.removeprefix("!").strip(SPACES))
    return mark + (cleaned.removeprefix("/") or cleaned)


def _clean(path: str) -> str:
    """As Go's path.Clean, but nothing stays nothing."""
    return posixpath.normpath(re.sub("/+", "/", path)) if path else ""

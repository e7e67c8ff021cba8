"""Control paragraphs: the ``Field: value`` text of packages, indexes and Release files.

The format is that of deb-control(5) and Debian Policy, chapter 5. Read strictly: what it cannot
hold is refused, so that no two readers can see different values.
"""

from __future__ import annotations

import re

_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)", re.ASCII)


class ControlSyntaxError(ValueError):
    """The text is not a control paragraph; says which line."""


def parse_paragraph(text: str) -> dict[str, str]:
    """Fields of one paragraph by name, in the order of the text.

    Lines of a folded value are kept, joined by newlines, without the one leading space or tab.
    Raises ControlSyntaxError for a field that is named twice (in any case), a blank line, or
    anything else.
    """
    fields: dict[str, list[str]] = {}
    seen: set[str] = set()
    current: list[str] | None = None
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        if line[:1] in (" ", "\t"):
            if current is None or not line.strip():
                raise ControlSyntaxError(f"line {number}: a continuation of nothing")
            current.append(line[1:])
            continue
        match = _FIELD.fullmatch(line)
        if match is None or match[1].startswith(("#", "-")):
            raise ControlSyntaxError(f"line {number}: not a field: {line[:80]!r}")
        name = match[1]
        if name.lower() in seen:
            raise ControlSyntaxError(f"line {number}: the field {name[:80]!r} is there twice")
        seen.add(name.lower())
        current = fields[name] = [match[2].strip()]
    return {name: "\n".join(lines) for name, lines in fields.items()}

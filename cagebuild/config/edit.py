"""Edits of a cage.toml by the tool: comments, order and line ends stay as they are."""

from __future__ import annotations

import stat
import tomllib
from typing import TYPE_CHECKING, Any

from cagebuild.config import toml
from cagebuild.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_BOM = b"\xef\xbb\xbf"


def set_value(file: Path, key: str, value: str | int | bool | list[str]) -> bool:
    """Give a dotted key (``runtime.installer``) a value in the file; tables are made as needed.

    Whether the file had to be changed. It is replaced whole or not at all, and only by one that
    says the same but for that key. Raises ConfigSyntaxError if it is not TOML and UsageError if
    something on the way is no table.
    """
    import tomlkit

    from cagebuild.files import write_atomically

    data = toml.read(file)
    before = toml.parse(data, file)
    parts = key.split(".")
    wanted = _with(before, parts, value, file)
    if wanted == before:
        return False
    document = tomlkit.parse(data.removeprefix(_BOM))
    table: Any = document
    for part in parts[:-1]:
        if part not in table:
            table[part] = tomlkit.table()
        table = table[part]
    table[parts[-1]] = value
    text = tomlkit.dumps(document)
    if tomllib.loads(text.replace("\r\n", "\n")) != wanted:
        raise UsageError(
            f"cannot set {key} in {toml.shown(file)} without changing anything else",
            hint="change it by hand",
        )
    prefix = _BOM if data.startswith(_BOM) else b""
    write_atomically(file, prefix + text.encode(), stat.S_IMODE(file.stat().st_mode))
    return True


def _with(document: dict[str, Any], parts: list[str], value: object, file: Path) -> dict[str, Any]:
    """A copy of the document with the value at its place."""
    head, *rest = parts
    if not rest:
        return {**document, head: value}
    table = document.get(head, {})
    if not isinstance(table, dict):
        raise UsageError(f"{head} is no table in {toml.shown(file)}", hint="change it by hand")
    return {**document, head: _with(table, rest, value, file)}

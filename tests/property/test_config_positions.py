"""The position scanner against tomllib: the same keys, and at each place the same value."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from cagebuild.config.positions import Path, scan

KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True),
    st.sampled_from(['"a.b"', "'c d'", '"\\u0061\\n"', '""', "'#'", '"]"', "'='", '"\\""']),
)
SCALARS = st.sampled_from(
    [
        "1",
        "+1_000",
        "0x1F",
        "-0.5e3",
        "inf",
        "true",
        "2026-01-01",
        "2026-01-01 10:20:30.5Z",
        "10:20:30",
        '"a # b"',
        "'a \\ ] , } b'",
        '"q\\" \\\\"',
        '"""\nline\n  two "" \\""" """',
        '"""x"""""',
        "'''\nraw ' '' \\\n'''",
        "'''x'''''",
        '""',
        "''",
        '""""""',
        "''''''",
        '"\U0001f600é"',
    ]
)
BLANK = st.sampled_from(["", " ", "\t ", "  "])
BREAK = st.sampled_from(["", " ", "\n", " # a ] comment\n", "\n\t\n"])


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.integers(0, 3 if depth else 1))
    if kind == 2:
        items = draw(st.lists(values(depth=depth - 1), max_size=3))
        spaced = [draw(BREAK) + item + draw(BREAK) for item in items]
        tail = draw(st.sampled_from(["", ",", ", # end\n"])) if items else draw(BREAK)
        return f"[{','.join(spaced)}{tail}]"
    if kind == 3:
        keys = draw(st.lists(KEYS, max_size=3))
        space = draw(BLANK)
        pairs = [f"{space}{key}{space}={space}{draw(values(depth=depth - 1))}" for key in keys]
        return "{" + ",".join(pairs) + draw(BLANK) + "}"
    return draw(SCALARS)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Lines that are often, but not always, a valid document."""
    lines: list[str] = []
    for _ in range(draw(st.integers(0, 8))):
        space = draw(BLANK)
        key = f"{space}.{space}".join(draw(st.lists(KEYS, min_size=1, max_size=3)))
        kind = draw(st.integers(0, 5))
        line = f"{key}{space}={space}{draw(values())}"
        if kind == 0:
            line = f"[{space}{key}{space}]"
        elif kind == 1:
            line = f"[[{space}{key}{space}]]"
        lines.append(space + line + draw(st.sampled_from(["", " # comment = 1", "\n", "\t"])))
    return "\n".join(lines)


def paths(value: Any, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    if at:
        yield at, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*at, index))


def same(one: Any, other: Any) -> bool:
    return bool(one == other) or (
        isinstance(one, float) and isinstance(other, float) and math.isnan(one) == math.isnan(other)
    )


def agree(text: str) -> None:
    text = text.replace("\r\n", "\n")
    document = tomllib.loads(text)
    positions = scan(text)
    expected = dict(paths(document))
    assert positions.places.keys() == expected.keys()
    for path, place in positions.places.items():
        key = text[place.key.start : place.key.end]
        if isinstance(path[-1], str):
            assert tomllib.loads(f"{key} = 1") == {path[-1]: 1}
        if place.value is not None:
            value = text[place.value.start : place.value.end]
            assert same(tomllib.loads(f"x = {value}")["x"], expected[path])
        line, column = positions.line_and_column(place.key.start)
        assert text.split("\n")[line - 1] == positions.line_text(line)
        assert positions.line_text(line)[column - 1 :].startswith(key.split("\n")[0])


@given(documents())
@example("[[a]]\nb = 1\n[[a]]\n[a.c]\nd = 2\n[[a.e]]\n[[a.e]]\nf=[{g=1}]\n")
@example("[a.b.c]\nx=1\n[a]\ny=2\n[a.b]\nz=3\n")
@example("a.b.c = 1\na.b.d = 2\n[e]\nf.g = {h.i = 3}")
@example('a = """x\\""""\nb = 1')
@example("\n\n# only a comment")
def test_finds_the_same_keys_and_values(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    agree(text)


@given(st.lists(st.tuples(KEYS, values()), min_size=1, max_size=6, unique_by=lambda p: p[0]))
def test_finds_them_with_windows_line_ends(pairs: list[tuple[str, str]]) -> None:
    text = "[[t]]\n" + "\n".join(f"{key} = {value}" for key, value in pairs)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    agree(text.replace("\n", "\r\n"))

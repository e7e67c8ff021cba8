"""Patterns of sources as Go has them, and of --parents and --exclude as .dockerignore has them."""

from __future__ import annotations

import pytest

from cagebuild.embedded.patterns import Matched, Patterns, glob, has_wildcards
from cagebuild.embedded.refused import Refused


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("abc", ["abc"], ["ab", "abcd", "a/abc"]),
        ("*", ["", "abc", "a\nb"], ["a/b"]),
        ("a*/b", ["a/b", "ax/b"], ["ax/y/b"]),
        ("**", ["abc"], ["a/b"]),
        ("?", ["a", "é", "\udcff"], ["", "ab", "/"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[^a-c]x", ["dx", "/x"], ["ax"]),
        ("[!a]", ["!", "a"], ["b"]),
        ("[[]0]", ["[0]"], ["0"]),
        ("[]a]", [], []),
        ("[\\]a]", ["]", "a"], ["\\"]),
        ("[c-a]", [], ["a", "b", "c"]),
        ("[^c-a]", ["a", "/"], [""]),
        ("a\\*", ["a*"], ["ab", "a\\*"]),
        ("a.c", ["a.c"], ["abc"]),
        ("{a,b}", ["{a,b}"], ["a"]),
        ("[&&||~~]", ["&", "|", "~"], ["a"]),
    ],
)
def test_a_source_matches(pattern: str, yes: list[str], no: list[str]) -> None:
    if not yes and not no:
        with pytest.raises(Refused):
            glob(pattern)
        return
    assert [text for text in yes if not glob(pattern).matches(text)] == []
    assert [text for text in no if glob(pattern).matches(text)] == []


@pytest.mark.parametrize(
    "pattern", ["[", "[a", "[a-", "[a-]", "[-a]", "[^", "a\\", "[]", "[^]", "[\\"]
)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(Refused, match="is not a pattern"):
        glob(pattern)


def test_wildcards_are_seen_where_they_are_not_escaped() -> None:
    assert has_wildcards("a*")
    assert has_wildcards("a\\\\?")
    assert has_wildcards("[")
    assert not has_wildcards("a\\*b\\[")
    assert not has_wildcards("a]{}")


def matched(patterns: list[str], path: str) -> bool:
    """Whether a path is matched when all its directories have been looked at before it."""
    matcher = Patterns(patterns)
    parts = path.split("/")
    found = False
    parent: Matched = ()
    for depth in range(1, len(parts) + 1):
        found, parent = matcher.match("/".join(parts[:depth]), parent)
    return found


@pytest.mark.parametrize(
    ("patterns", "yes", "no"),
    [
        (["a"], ["a", "a/b", "a/b/c"], ["b", "b/a"]),
        (["a/b"], ["a/b", "a/b/c"], ["a", "a/c"]),
        (["*.md"], ["x.md", "x.md/y"], ["a/x.md"]),
        (["**/*.md"], ["x.md", "a/x.md", "a/b/x.md"], ["x.txt"]),
        (["**"], ["a", "a/b"], []),
        (["a/**"], ["a/b", "a/b/c"], ["a"]),
        (["a/**/b"], ["a/b", "a/x/b", "a/x/y/b"], ["a/xb"]),
        (["**/b"], ["b", "a/b", "a/b/c"], ["ab", "a/bb"]),
        (["**b"], ["b", "ab", "a/xb"], ["bc"]),
        (["a**b"], ["ab", "ax/b"], ["axb"]),
        (["a", "!a/b"], ["a", "a/c"], ["a/b", "a/b/c"]),
        (["a", "!a/b", "a/b/c"], ["a/b/c"], ["a/b/d"]),
        (["!a", "a"], ["a"], []),
        ([" a ", ""], ["a"], ["b"]),
        (["./a//b/../c"], ["a/c"], ["a/b"]),
        (["a.b"], ["a.b"], ["axb"]),
        (["[a-b]x"], ["ax"], ["cx"]),
    ],
)
def test_patterns_match(patterns: list[str], yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not matched(patterns, path)] == []
    assert [path for path in no if matched(patterns, path)] == []


@pytest.mark.parametrize("pattern", ["[", "!", "a[b", "!["])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(Refused, match="is not a pattern"):
        Patterns([pattern])

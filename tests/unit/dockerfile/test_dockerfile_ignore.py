"""Which files of a context are ignored.

What is expected was compared with moby/patternmatcher v0.6.0, some ten thousand random files too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cagebuild.dockerfile.ignore import Ignore, candidates
from cagebuild.errors import DockerfileError

TREE = [
    ".dockerignore",
    ".git/config",
    "Dockerfile",
    "a.pyc",
    "docs/a.md",
    "docs/b.txt",
    "docs/deep/a.md",
    "node_modules/x/index.js",
    "src/a.py",
    "src/a.pyc",
    "src/node_modules/y.js",
    "src/é [1].py",
]


@pytest.mark.parametrize(
    ("patterns", "ignored"),
    [
        ("", []),
        ("docs", ["docs/a.md", "docs/b.txt", "docs/deep/a.md"]),
        ("/docs/", ["docs/a.md", "docs/b.txt", "docs/deep/a.md"]),
        ("./docs/../docs/deep", ["docs/deep/a.md"]),
        ("docs/*", ["docs/a.md", "docs/b.txt", "docs/deep/a.md"]),
        ("docs/*.md", ["docs/a.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/deep/a.md"]),
        ("*.pyc", ["a.pyc"]),
        ("**/*.pyc", ["a.pyc", "src/a.pyc"]),
        ("*/*.pyc", ["src/a.pyc"]),
        ("**/node_modules", ["node_modules/x/index.js", "src/node_modules/y.js"]),
        ("**pyc", ["a.pyc", "src/a.pyc"]),
        ("src/a.py?", ["src/a.pyc"]),
        ("src/?.py", ["src/a.py"]),
        ("src/[a-c].py", ["src/a.py"]),
        ("src/[^a].py", []),
        ("src/é \\[1\\].py", ["src/é [1].py"]),
        ("**", TREE),
        ("*", TREE),
        (".", []),
        ("..", []),
        ("../docs", []),
        ("**\n!src\n!Dockerfile", [p for p in TREE if p[:3] != "src" and p != "Dockerfile"]),
        ("docs\n!docs/a.md", ["docs/b.txt", "docs/deep/a.md"]),
        ("!docs/a.md\ndocs", ["docs/a.md", "docs/b.txt", "docs/deep/a.md"]),
        ("docs\n!docs\ndocs/deep", ["docs/deep/a.md"]),
        ("docs/a.md\n ! docs ", ["docs/a.md"]),
        ("# docs\n\n  \r\nsrc/a.py\r\n", ["src/a.py"]),
        (" # docs", []),
        ("\ufeffsrc/a.py", ["src/a.py"]),
        ("Dockerfile\n.dockerignore", [".dockerignore", "Dockerfile"]),
        ("(src|docs)\n.+", []),
        ("SRC", []),
    ],
)
def test_what_is_ignored(patterns: str, ignored: list[str]) -> None:
    rules = Ignore.parse(patterns.encode())
    assert [path for path in TREE if rules.excludes(path)] == ignored


def test_the_order_of_questions_does_not_matter() -> None:
    data = b"**/x\n!a/x/keep\na/x/keep/not\n"
    once = {path: Ignore.parse(data).excludes(path) for path in ("a/x", "a/x/keep/not", "a/x/keep")}
    rules = Ignore.parse(data)
    assert [rules.excludes(path) for path in ("a/x/keep", "a/x", "a/x/keep/not")] == [
        once["a/x/keep"],
        once["a/x"],
        once["a/x/keep/not"],
    ]
    assert once == {"a/x": True, "a/x/keep/not": True, "a/x/keep": False}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[a", "its brackets are not closed, or hold a - or ] without a backslash"),
        ("[]", "its brackets are not closed, or hold a - or ] without a backslash"),
        ("[a-]", "its brackets are not closed, or hold a - or ] without a backslash"),
        ("[a-z\\", "it ends with a backslash"),
        ("a\\", "it ends with a backslash"),
        ("!", "nothing follows the !"),
        ("! /", "nothing follows the !"),
        ("a" * 5000, "it is longer than 4096 characters"),
    ],
)
def test_what_is_no_pattern(line: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        Ignore.parse(f"fine\n{line}\n".encode(), Path("app/.dockerignore"))
    (found,) = caught.value.diagnostics
    assert (found.line, found.message) == (2, f"this is no pattern: {message}")


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(DockerfileError, match="1 mistake"):
        Ignore.parse(b"#" * (1 << 20) + b"#")


def test_which_file_applies() -> None:
    assert candidates(Path("a/web.Dockerfile"), Path("ctx")) == (
        Path("a/web.Dockerfile.dockerignore"),
        Path("ctx/.dockerignore"),
    )


@pytest.mark.timeout(20)
def test_hostile_patterns_take_linear_time() -> None:
    rules = Ignore.parse(b"*a*a*a*a*a*a*a*a*a*a*b\n**/a/**/a/**/a/**/a/**/b\n**a**a**a**a**b*\n")
    assert not rules.excludes("a" * 255)
    assert not rules.excludes("a/" * 2000 + "c")

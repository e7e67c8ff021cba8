"""Any bytes: a Dockerfile or mistakes; and what was read is where the spans say."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from cagebuild.dockerfile import stages, staging
from cagebuild.dockerfile.expand import Expander, ExpandError
from cagebuild.dockerfile.ignore import Ignore
from cagebuild.dockerfile.model import Dockerfile
from cagebuild.dockerfile.parse import parse
from cagebuild.dockerfile.warnings import warnings
from cagebuild.errors import DockerfileError

FILE = Path("Dockerfile")

_PIECES = [
    *("FROM ", "RUN ", "COPY ", "ENV ", "ARG ", "CMD ", "ONBUILD ", "HEALTHCHECK CMD ", "ADD "),
    *(" ", "\t", "\n", "\n", "\\\n", "\\\r\n", "\r\n", "`\n", "# c\n", "# escape=`\n"),
    *("a", "b:1", "A=1", " AS x", "x", "0", "$A", "${A:-b}", "'", '"', "\\", "é", "\0", "\udcff"),
    *("--from=x ", "--from=b:1 ", "--mount=from=q,target=/q ", '["a", "b"]', "<<E", "<<-'F'"),
    *("E\n", "\tF\n", "# syntax=s/t\n", "\ufeff", "apk add y", "date > z;", "$(", "`", ")"),
]
texts = st.lists(st.sampled_from(_PIECES), max_size=20).map("".join)
files = texts.map(lambda text: text.encode("utf-8", "surrogateescape"))
words = st.sampled_from(
    ["debian", "debian:12", "$BASE", "${BASE:-x}:1", "'a'", "ghcr.io/a/b", "s0"]
)
line_ends = st.sampled_from(["\n", "\r\n"])


@st.composite
def builds(draw: st.DrawFn) -> str:
    """Files that are right: stages, comments, names broken over lines."""
    end = draw(line_ends)
    lines = draw(
        st.sampled_from([[], ["# syntax=docker/dockerfile:1"], ["#!/bin/x", "# syntax=a"]])
    )
    lines = [*lines, "ARG BASE=alpine"]
    for number in range(draw(st.integers(1, 4))):
        word = draw(words)
        if word == "s0" and number == 0:
            word = "debian"
        cut = draw(st.integers(0, len(word) - 1))
        if draw(st.booleans()) and "$" not in word:
            word = word[:cut] + f"\\{end}" + draw(st.sampled_from(["", f"# why{end}"])) + word[cut:]
        name = draw(st.sampled_from([f" AS s{number}", f" as S{number}", ""]))
        lines.append(f"FROM {word}{name if number else ' AS s0'}")
        lines += draw(
            st.lists(
                st.sampled_from(
                    [
                        "RUN x",
                        f"RUN --mount=type=bind,from=tool,target=/t \\{end}  y",
                        "COPY --from=image:1 a b",
                        f"COPY <<EOF /x{end}FROM y{end}EOF",
                        "# FROM z",
                        "",
                        'CMD ["a"]',
                    ]
                ),
                max_size=4,
            )
        )
    return end.join(lines) + draw(st.sampled_from(["", end]))


def parsed(data: bytes) -> Dockerfile | DockerfileError:
    """What comes of some bytes."""
    try:
        return parse(data, FILE)
    except DockerfileError as error:
        return error


def everything(found: Dockerfile) -> list[tuple[str, str]]:
    """What each instruction says, but for images and names."""
    return [
        (each.keyword, each.text)
        for stage in found.stages
        for each in stage.instructions
        if not each.origins
    ]


@given(st.one_of(st.binary(max_size=300), files, files.map(b"FROM a\n".__add__)))
def test_any_bytes_are_a_dockerfile_or_mistakes(data: bytes) -> None:
    found = parsed(data)
    if isinstance(found, DockerfileError):
        assert 0 < len(found.diagnostics) <= 100
        assert all(char.isprintable() or char == "\n" for char in found.render())
        return
    assert parse(data, FILE) == found
    with contextlib.suppress(DockerfileError):
        needed = stages.needed(found, None, {}, "x86_64")
        for warning in warnings(found, needed):
            assert warning.render().isprintable() or "\n" in warning.render()
            assert 0 < warning.line <= data.count(b"\n") + 1
        stages.images(found, None, {}, "x86_64")


@given(st.one_of(files.map(b"FROM a\n".__add__), builds().map(str.encode)))
def test_spans_are_where_the_words_are(data: bytes) -> None:
    found = parsed(data)
    assume(isinstance(found, Dockerfile))
    assert isinstance(found, Dockerfile)
    for stage in found.stages:
        start, end = stage.image_span
        assert _joined(found, start, end) == stage.image
        assert end <= stage.words_end
        for each in stage.instructions:
            for origin in (each.inner or each).origins:
                assert _joined(found, *origin.span) == origin.name
    if found.syntax:
        assert data[slice(*found.syntax.span)].decode() == found.syntax.image


def _joined(found: Dockerfile, start: int, end: int) -> str:
    """Bytes of the file without the continuations and comments in them."""
    lines = found.data[start:end].decode("utf-8", "surrogateescape").split("\n")
    kept = [line for n, line in enumerate(lines) if not n or not line.lstrip().startswith("#")]
    kept = [line.rstrip("\r\t ").removesuffix(found.escape) for line in kept[:-1]] + kept[-1:]
    return "".join(line for line in kept if line.strip())


@given(builds(), st.sampled_from([None, "s0", "0"]))
def test_staging_changes_nothing_but_images_and_a_name(text: str, target: str | None) -> None:
    before = parse(text.encode(), FILE)
    uses = stages.images(before, target, {}, "x86_64")
    pins = {use.reference: f"{use.reference}@sha256:{'a' * 64}" for use in uses}
    staged = staging.stage(before, target=target, pins=pins, args={}, architecture="x86_64")
    after = parse(staged.text, FILE)
    assert everything(after) == everything(before)
    assert stages.find(after, staged.target).index == stages.find(before, target).index
    new = {use.reference for use in stages.images(after, staged.target, {}, "x86_64")}
    assert new == set(pins.values())
    lines = staged.text.count(b"\n")
    assert lines == text.count("\n") + (not text.endswith("\n"))
    for old_stage, new_stage in zip(before.stages, after.stages, strict=True):
        assert old_stage.from_instruction.line == new_stage.from_instruction.line
        for one, other in zip(old_stage.instructions, new_stage.instructions, strict=True):
            assert (one.line, one.last_line) == (other.line, other.last_line)
    again = staging.stage(after, target=staged.target, pins={}, args={}, architecture="x86_64")
    assert again == staged


@given(
    st.lists(st.sampled_from([*"ab$?{}:-+#%/*'\"\\` ", "$a", "${a", "${b:-"]), max_size=12),
    st.sampled_from("\\`"),
)
def test_words_expand_or_say_why(pieces: list[str], escape: str) -> None:
    text = "".join(pieces)
    with contextlib.suppress(ExpandError):
        Expander(escape).word(text, {"a": "x*y"})
        Expander(escape).words(text, {"a": "x y"})


@given(st.text(alphabet="ab*?[]!/\\.#\n -^", max_size=30), st.text(alphabet="ab/.", min_size=1))
def test_an_ignore_file_decides_or_is_refused(patterns: str, path: str) -> None:
    with contextlib.suppress(DockerfileError):
        rules = Ignore.parse(patterns.encode())
        assert rules.excludes(path) == Ignore.parse(patterns.encode()).excludes(path)

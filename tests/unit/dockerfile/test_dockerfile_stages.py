"""What a target is made of, and the text that an engine is given."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cagebuild.dockerfile import stages, staging
from cagebuild.dockerfile.model import Stage
from cagebuild.errors import DockerfileError, StaleLockError
from tests.support.dockerfiles import FILE, read

FILE_OF_FIVE = """\
# syntax=docker/dockerfile:1
ARG TAG=3.12
FROM golang:1.22 AS build
RUN --mount=type=bind,from=busybox,target=/b go build
FROM alpine AS unused
RUN x
FROM build AS test
RUN go test
FROM python:${TAG} AS base
COPY --from=build /a /b
COPY --from=0 /a /c
FROM base
COPY --from=ghcr.io/a/b:1 /x /y
COPY --from=ghcr.io/a/b:1 /z /y
"""


def used(text: str, target: str | None = None, **args: str) -> list[str]:
    return [use.reference for use in stages.images(read(text), target, args, "x86_64")]


def pinned(text: str, target: str | None = None, **args: str) -> staging.Staged:
    found = stages.images(read(text), target, args, "x86_64")
    pins = {use.reference: f"{use.reference}@sha256:{'0' * 64}" for use in found}
    return staging.stage(read(text), target=target, pins=pins, args=args, architecture="x86_64")


def mistake(text: str, target: str | None = None, **args: str) -> tuple[int, str, str]:
    with pytest.raises(DockerfileError) as caught:
        stages.images(read(text), target, args, "x86_64")
    (found,) = caught.value.diagnostics
    return found.line, found.message, found.hint


@pytest.mark.parametrize(
    ("target", "index"), [(None, 4), ("build", 0), ("BASE", 3), ("1", 1), ("4", 4)]
)
def test_finding_a_stage(target: str | None, index: int) -> None:
    assert stages.find(read(FILE_OF_FIVE), target).index == index


def test_a_stage_that_is_not_there() -> None:
    assert mistake(FILE_OF_FIVE, "buidl")[1:] == (
        "there is no stage 'buidl'",
        "did you mean 'build'?",
    )
    assert mistake("FROM a\n", "x")[2] == "its stages have no names"
    assert mistake("FROM a AS b\n", "7")[2] == "there are: b"


def test_only_what_is_needed() -> None:
    found = stages.needed(read(FILE_OF_FIVE), None, {}, "x86_64")
    assert [stage.index for stage in found] == [0, 3, 4]
    found = stages.needed(read(FILE_OF_FIVE), "test", {}, "x86_64")
    assert [stage.index for stage in found] == [0, 2]


def test_every_image_of_the_target_where_the_file_names_it() -> None:
    dockerfile = read(FILE_OF_FIVE)
    found = stages.images(dockerfile, None, {}, "x86_64")
    assert [(use.keyword, use.line, use.reference) for use in found] == [
        ("syntax", 1, "docker.io/docker/dockerfile:1"),
        ("FROM", 3, "docker.io/library/golang:1.22"),
        ("RUN", 4, "docker.io/library/busybox:latest"),
        ("FROM", 9, "docker.io/library/python:3.12"),
        ("COPY", 13, "ghcr.io/a/b:1"),
        ("COPY", 14, "ghcr.io/a/b:1"),
    ]
    words = [dockerfile.data[slice(*use.span)].decode() for use in found]
    assert words[3:5] == ["python:${TAG}", "ghcr.io/a/b:1"]


@pytest.mark.parametrize(
    ("text", "args", "image"),
    [
        ("ARG A=x\nFROM $A", {}, "docker.io/library/x:latest"),
        ("ARG A=x\nFROM $A", {"A": "y:1"}, "docker.io/library/y:1"),
        ("ARG A\nFROM ${A:-z}", {}, "docker.io/library/z:latest"),
        ("ARG A=x B=$A:2\nFROM ${B}", {}, "docker.io/library/x:2"),
        ("ARG A=x\nARG A=$A/y\nFROM $A", {}, "docker.io/x/y:latest"),
        ("FROM $A", {"A": "q"}, None),
        ("FROM a:$TARGETARCH-$BUILDOS", {}, "docker.io/library/a:amd64-linux"),
        ("FROM a:$TARGETARCH", {"TARGETARCH": "z"}, "docker.io/library/a:z"),
        ("FROM a:$TARGETSTAGE AS s", {}, "docker.io/library/a:s"),
        ("ARG A='x'\nFROM \"$A\"", {}, "docker.io/library/x:latest"),
        ("FROM localhost:5000/a@sha256:" + "1" * 64, {}, "localhost:5000/a@sha256:" + "1" * 64),
        ("FROM scratch", {}, ""),
    ],
)
def test_arguments_in_from(text: str, args: dict[str, str], image: str | None) -> None:
    if image is None:
        assert mistake(text, **args)[1] == "FROM $A: A has no value"
    else:
        assert used(text, **args) == ([image] if image else [])


def test_the_platform() -> None:
    dockerfile = read("FROM --platform=$TARGETPLATFORM a\n")
    (use,) = stages.images(dockerfile, None, {}, "aarch64")
    assert use.platform == "linux/arm64"
    assert mistake("FROM --platform=$P a\n")[1] == "FROM $P: P has no value"


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        (
            "ARG BASE\nFROM ${BASE}\n",
            2,
            "FROM ${BASE}: BASE has no value",
            "give it in base.dockerfile args or a default",
        ),
        (
            "FROM x:$A\nARG A=1\n",
            1,
            "FROM x:$A: A has no value",
            "FROM sees only the ARGs above the first FROM: move it there",
        ),
        ("FROM ''\n", 1, "FROM '' is empty", "name an image"),
        ("FROM a AS b\nFROM B\n", 2, None, "write FROM b"),
        ("ARG A=${x\nFROM a\n", 1, "ARG A: '}' is missing after '${'", ""),
        ("FROM ${x:?no_base}\n", 1, "FROM ${x:?no_base}: x: no_base", ""),
        ("FROM a\nCOPY --from=9 b c\n", 2, "there is no stage number 9", ""),
        ("FROM a\nCOPY --from=0 b c\n", 2, "from=0 is this very stage", None),
        ("FROM a AS build\nFROM b\nCOPY --from=Bulid b c\n", 3, None, "did you mean 'build'?"),
        ("# syntax=A\nFROM b\n", 1, None, None),
    ],
)
def test_mistakes(text: str, line: int, message: str | None, hint: str | None) -> None:
    found = mistake(text)
    assert found[0] == line
    assert message in {None, found[1]}
    assert hint in {None, found[2]}


def test_files_of_a_later_stage() -> None:
    found = mistake("FROM a\nCOPY --from=b b c\nFROM a AS b\n", "0")
    assert found == (2, "from=b is a later stage", "take files from an earlier stage")


def test_another_reader_of_the_file_cannot_come_in_by_an_argument() -> None:
    assert "BUILDKIT_SYNTAX" in mistake("FROM a\n", BUILDKIT_SYNTAX="b")[1]


def test_a_name_that_only_a_later_stage_has_is_an_image() -> None:
    assert used("FROM b AS x\nFROM c AS b\n", "x") == ["docker.io/library/b:latest"]
    assert used("FROM python AS python\n") == ["docker.io/library/python:latest"]


def test_from_is_by_number_for_copy_only() -> None:
    assert used("FROM a\nFROM b\nCOPY --from=0 x y\n")[0] == "docker.io/library/a:latest"
    found = used("FROM a\nFROM b\nRUN --mount=from=0,target=/x true\n")
    assert found == ["docker.io/library/b:latest", "docker.io/library/0:latest"]


def test_onbuild_of_an_earlier_stage_runs_in_the_later_one() -> None:
    text = "FROM a AS x\nONBUILD COPY --from=tool /t /t\nFROM x\nRUN y\n"
    assert used(text) == ["docker.io/library/a:latest", "docker.io/library/tool:latest"]
    assert used(text, "x") == ["docker.io/library/a:latest"]
    dockerfile = read(text)
    base = stages.base_of(dockerfile, dockerfile.stages[1], {})
    assert isinstance(base, Stage)
    ran = stages.executed(dockerfile.stages[1], base)
    assert [each.keyword for each in ran] == ["COPY", "RUN"]


def test_scratch_is_no_image_but_a_stage_may_have_its_name() -> None:
    dockerfile = read("FROM scratch\nCOPY --from=scratch a b\n")
    assert stages.base_of(dockerfile, dockerfile.stages[0], {}) is None
    assert stages.source_of(dockerfile, dockerfile.stages[0], "scratch") is None
    dockerfile = read("FROM a AS scratch\nFROM scratch\n")
    assert stages.base_of(dockerfile, dockerfile.stages[1], {}) is dockerfile.stages[0]


def test_staging_puts_digests_in_the_place_of_images_and_changes_nothing_else() -> None:
    staged = pinned(FILE_OF_FIVE)
    digest = f"@sha256:{'0' * 64}"
    expected = (
        FILE_OF_FIVE.replace("docker/dockerfile:1", f"docker.io/docker/dockerfile:1{digest}")
        .replace("golang:1.22", f"docker.io/library/golang:1.22{digest}")
        .replace("busybox", f"docker.io/library/busybox:latest{digest}")
        .replace("python:${TAG}", f"docker.io/library/python:3.12{digest}")
        .replace("ghcr.io/a/b:1", f"ghcr.io/a/b:1{digest}")
        .replace("FROM base\n", "FROM base AS cage-app\n")
    )
    assert staged.text.decode() == expected
    assert staged.target == "cage-app"


@pytest.mark.parametrize(
    ("text", "staged"),
    [
        ("FROM scratch", "FROM scratch AS cage-app\n"),
        ("FROM scratch\r\nCMD x", "FROM scratch AS cage-app\r\nCMD x\r\n"),
        ("FROM scratch AS a\n", "FROM scratch AS a\n"),
        (
            "FROM scratch AS cage-app\nFROM scratch # c\n".replace(" # c", ""),
            "FROM scratch AS cage-app\nFROM scratch AS cage-app-2\n",
        ),
        ("FROM \\\n scratch\n", "FROM \\\n scratch AS cage-app\n"),
        ("FROM --platform=linux/amd64 a\n", "FROM --platform=linux/amd64 {a} AS cage-app\n"),
        ("FROM a:\\\n1 AS x\nCMD y\n", "FROM \\\n{a:1} AS x\nCMD y\n"),
        ("FROM a:\\\r\n# c\r\n1\r\nCMD y\r\n", "FROM \\\r\n\\\r\n{a:1} AS cage-app\r\nCMD y\r\n"),
        ("# escape=`\nFROM a:`\n1\nCMD y\n", "# escape=`\nFROM `\n{a:1} AS cage-app\nCMD y\n"),
    ],
)
def test_staging(text: str, staged: str) -> None:
    found = pinned(text)
    for name in ("a:1", "a"):
        full = name if ":" in name else f"{name}:latest"
        pin = f"docker.io/library/{full}@sha256:{'0' * 64}"
        staged = staged.replace(f"{{{name}}}", pin)
    assert found.text.decode() == staged
    assert found.text.count(b"\n") == text.count("\n") + (not text.endswith("\n"))
    names = {stage.name for stage in read(found.text).stages}
    assert found.target in names


def test_a_pin_that_is_missing() -> None:
    with pytest.raises(StaleLockError) as caught:
        staging.stage(
            read("FROM scratch\nFROM debian:12\n"),
            target=None,
            pins={},
            args={},
            architecture="x86_64",
        )
    assert caught.value.message == (
        f"{FILE}:2: cage.lock has no pin for docker.io/library/debian:12"
    )
    assert caught.value.hint == "run `invoke lock`"


def test_an_image_that_is_named_by_digest_needs_no_pin() -> None:
    text = f"FROM a/b@sha256:{'1' * 64} AS x\n"
    pins: Mapping[str, str] = {}
    found = staging.stage(read(text), target="x", pins=pins, args={}, architecture="x86_64")
    assert found.text.decode() == text.replace("a/b", "docker.io/a/b")

"""What buildah is told and what it says, without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cagebuild.dockerfile.parse import parse
from cagebuild.engine import probe
from cagebuild.engine.buildahgaps import Gaps
from cagebuild.engine.buildahtext import for_buildah
from cagebuild.engine.buildahwords import (
    Progress,
    buildah_in,
    cache_repository,
    is_loopback,
    is_remote,
    registries_conf,
    unreadable,
    version_of,
)
from cagebuild.errors import DockerfileError, UnsupportedError


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("buildah version 1.28.2 (image-spec 1.1.0-rc2, runtime-spec 1.0.2-dev)", (1, 28)),
        ("podman version 4.3.1", (4, 3)),
        ("podman version 5.10.0-dev", (5, 10)),
        ("something else", None),
    ],
)
def test_versions(said: str, version: object) -> None:
    assert version_of(said) == version


def test_the_buildah_of_a_podman() -> None:
    assert buildah_in((4, 3)) == (1, 28)
    assert buildah_in((5, 4)) == (1, 39)
    # Not known: the latest that is, as older ones have fewer instructions.
    assert buildah_in((7, 0)) == (1, 43)
    assert buildah_in((2, 0)) == (1, 0)


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.10", True),
        ("[::1]:5000", True),
        ("localhost.example:5000", False),
        ("docker.io", False),
        ("10.0.0.1:5000", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback(registry: str, expected: bool) -> None:
    assert is_loopback(registry) is expected
    assert ("insecure = true" in registries_conf([registry])) is expected


@pytest.mark.parametrize(
    "text",
    [
        "type=registry,ref=a.example:5/team/cache",
        "type=registry,ref=a.example:5/team/cache:main,mode=max",
        "mode=max,ref=a.example:5/team/cache,type=registry",
        "a.example:5/team/cache:main",
    ],
)
def test_a_cache_is_a_repository(text: str) -> None:
    assert cache_repository(text, "cache-to") == "a.example:5/team/cache"


@pytest.mark.parametrize("text", ["type=local,src=/x", "type=gha", "type=s3,bucket=b", "ref=a/b"])
def test_other_caches_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedError, match=r"cache-to: .*registries"):
        cache_repository(text, "cache-to")


def test_a_cache_that_is_no_reference_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not an image reference"):
        cache_repository("type=registry,ref=a b", "cache-to")


def test_what_is_remote() -> None:
    assert is_remote("https://a.example/x")
    assert is_remote("git@a.example:x.git")
    assert not is_remote("folder/file")


def text_of(source: str, users: dict[int, str] | None = None) -> Any:
    dockerfile = parse(source.encode(), Path("Dockerfile"))
    bases: dict[int, Any] = {}
    for stage in dockerfile.stages:
        named = [s for s in dockerfile.stages[: stage.index] if s.name == stage.image]
        bases[stage.index] = named[-1] if named else None
    return for_buildah(dockerfile, bases, users or {})


def test_workdir_makes_its_folder_for_the_user_of_that_moment() -> None:
    text = text_of(
        "FROM x AS a\nWORKDIR /a\nUSER 1:2\nWORKDIR \\\n /b\nFROM a\nWORKDIR c\nRUN x", {0: "app"}
    )
    assert text.data.decode().splitlines() == [
        "FROM x AS a",
        "WORKDIR /a",
        "COPY --from=cagebuild-nothing --chown=app / .",
        "USER 1:2",
        "WORKDIR \\",
        " /b",
        "COPY --from=cagebuild-nothing --chown=1:2 / .",
        "FROM a",
        "WORKDIR c",
        "COPY --from=cagebuild-nothing --chown=1:2 / .",
        "RUN x",
    ]
    assert [text.line_of(number) for number in (1, 2, 4, 5, 8, 11)] == [1, 2, 3, 4, 6, 8]


def test_without_workdir_the_file_is_as_it_was() -> None:
    source = "# escape=`\r\nFROM x\r\nRUN a `\r\n b\r\n"
    assert text_of(source).data.rstrip(b"\n") == source.encode().rstrip(b"\n")


def progress_of(source: str, *lines: str) -> Progress:
    said: list[str] = []
    progress = Progress(text_of(source).steps, said.append)
    for line in lines:
        progress.line(line)
    assert said == list(lines)
    return progress


SOURCE = "FROM x AS one\nRUN a\nFROM one AS two\nWORKDIR /x\n\nRUN b\n"


def test_the_instruction_of_a_step() -> None:
    progress = progress_of(
        SOURCE,
        "[2/2] STEP 1/4: FROM 93746 AS two",
        "earlier",
        "[2/2] STEP 4/4: RUN b",
        "now",
        "",
        'Error: building at STEP "RUN b": while running runtime: exit status 1',
    )
    assert progress.failed
    assert progress.instruction is not None
    assert progress.instruction.line == 6
    assert progress.step == "RUN b"
    assert progress.last == ("now", "while running runtime: exit status 1")


def test_a_step_that_was_added_is_workdirs() -> None:
    progress = progress_of(SOURCE, "[2/2] STEP 3/4: COPY --from=cagebuild-nothing / .")
    assert progress.instruction is not None
    assert progress.instruction.line == 4


def test_a_single_stage_has_no_number() -> None:
    progress = progress_of(SOURCE, "STEP 2/2: RUN a")
    assert progress.instruction is not None
    assert progress.instruction.line == 2


@pytest.mark.parametrize(
    "line",
    ["nothing", "STEP 2/2: COPY a b", "STEP 9/9: RUN a", "[7/7] STEP 1/1: FROM x", "STEP 0/1: RUN"],
)
def test_where_it_is_not_certain_no_instruction_is_named(line: str) -> None:
    assert progress_of(SOURCE, line).instruction is None


def test_an_unreadable_instruction() -> None:
    line = (
        "Error: resolving step {Value:env Next:0xc0 Children:[] Attributes:map[] Original:ENV"
        " A=${B-x} Flags:[] StartLine:7 EndLine:8}: Missing ':' in substitution: ${B-x}"
    )
    assert unreadable(["x", line]) == (7, "Missing ':' in substitution: ${B-x}")
    assert unreadable(["x"]) is None


def mistakes(source: str, version: tuple[int, int], context: Path) -> list[tuple[int, str]]:
    dockerfile = parse(source.encode(), Path("Dockerfile"))
    bases: dict[int, Any] = {stage.index: None for stage in dockerfile.stages}
    for stage in dockerfile.stages[1:]:
        bases[stage.index] = dockerfile.stages[stage.index - 1]
    try:
        Gaps(dockerfile, version, context).check_file(dockerfile.stages, bases)
    except DockerfileError as error:
        return [(found.line, found.message) for found in error.diagnostics]
    return []


OLD, NEW = (1, 28), (1, 43)


@pytest.mark.parametrize(
    ("lines", "version", "expected"),
    [
        ("RUN <<E\nx\nE", OLD, [2]),
        ("RUN <<E\nx\nE", NEW, []),
        ("COPY <<E /x\nx\nE", OLD, [2]),
        ("VOLUME /x\nRUN a\nRUN b", OLD, [3, 4]),
        ("VOLUME /x\nRUN a\nRUN b", (1, 36), [3, 4]),
        ("VOLUME /x\nRUN a\nRUN b", (1, 37), []),
        ("RUN a\nVOLUME /x", OLD, []),
        ('SHELL ["a"]\nCMD b', NEW, [3]),
        ('SHELL ["a"]\nENTRYPOINT b', NEW, [3]),
        ('SHELL ["a"]\nCMD ["b"]', NEW, []),
        ("CMD b", NEW, []),
        ('SHELL ["a"]\nFROM b AS c\nCMD b', NEW, [4]),
        ("EXPOSE 80-90", NEW, [2]),
        ("EXPOSE 80-90/udp 1", NEW, [2]),
        ("EXPOSE 80 90/udp", NEW, []),
        ("RUN --network=host a", NEW, [2]),
        ("RUN --network=none a", NEW, []),
        ("RUN --mount=type=bind,target=/x,rw a", NEW, [2]),
        ("RUN --mount=target=/x,readwrite=true a", NEW, [2]),
        ("RUN --mount=type=bind,target=/x a", NEW, []),
        ("RUN --mount=type=cache,target=/x,rw a", NEW, []),
        ("COPY --chmod=644 a b", NEW, [2]),
        ("COPY --chmod=0755 a b", NEW, []),
        ("ADD --chown=1 tar b", NEW, [2]),
        ("ADD --chown=1 text b", NEW, []),
        ("ADD --chown=1 t* b", NEW, [2]),
        ("COPY --chown=1 tar b", NEW, []),
        ("ENV A=${B:?no}", NEW, [2]),
        ("ENV A=${B#*x}", NEW, [2]),
        ("ENV A=${B//?/x}", NEW, [2]),
        ("ENV A=${B#x} C=${D:-*}", NEW, []),
        ("RUN echo ${B:?no} ${B#*x}", NEW, []),
        ("ONBUILD WORKDIR /x", NEW, [2]),
        ("ONBUILD EXPOSE 1-2", NEW, [2]),
    ],
)
def test_what_is_built_otherwise_is_refused(
    lines: str, version: tuple[int, int], expected: list[int], tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "tar").write_bytes(bytes(10240))
    assert [line for line, _ in mistakes(f"FROM b AS a\n{lines}\n", version, tmp_path)] == expected


def test_other_escapes_are_refused(tmp_path: Path) -> None:
    source = "# escape=`\nFROM a\nENV A=b`c\nENV B=c:\\d\nENV C=1 `\n D=2\nRUN a`b\n"
    assert [line for line, _ in mistakes(source, NEW, tmp_path)] == [3, 4]


def test_other_frontends_are_refused(tmp_path: Path) -> None:
    for image, expected in {
        "docker/dockerfile:1": [],
        "docker.io/docker/dockerfile@sha256:" + "0" * 64: [],
        "other/frontend": [1],
    }.items():
        source = f"# syntax={image}\nFROM a\n"
        assert [line for line, _ in mistakes(source, NEW, tmp_path)] == expected


def test_the_probe_is_a_program(tmp_path: Path) -> None:
    for machine in ("x86_64", "aarch64"):
        data = probe.program(machine)
        assert data.startswith(b"\x7fELF")
        assert len(data) < 200

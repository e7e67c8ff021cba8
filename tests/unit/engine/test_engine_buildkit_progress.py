"""What BuildKit says of a build, in the words of several versions, and what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from cagebuild.dockerfile.parse import parse
from cagebuild.engine.failures import from_progress
from cagebuild.engine.job import FailedInstructionError
from cagebuild.engine.progress import Progress, instruction_at, instruction_of_step
from cagebuild.errors import ToolFailedError

FILE = Path("/staged/Dockerfile.cage")
DOCKERFILE = b"""\
ARG BASE=busybox
FROM busybox AS build
RUN make
FROM scratch AS empty
COPY --from=build /out /out
FROM build
ENV A=1
WORKDIR /x
RUN echo one && \\
    echo two; false
FROM busybox AS main
COPY --from=build /out /out
COPY nope /f
RUN false
"""

OLD = """\
#6 [main 2/4] COPY --from=build /out /out
#6 DONE 0.1s

#7 [main 4/4] RUN false
#7 0.111 one
#7 0.113 two
#7 0.114
#7 ERROR: executor failed running [/bin/sh -c false]: exit code: 1
------
 > [main 4/4] RUN false:
0.111 one
0.113 two
------
ERROR: failed to solve: executor failed running [/bin/sh -c false]: exit code: 1
"""
NEW = """\
#7 [main 4/4] RUN false
#7 0.111 one
#8 [build 2/2] RUN make
#7 0.113 two
#7 0.114
#8 CANCELED
#7 ERROR: process "/bin/sh -c false" did not complete successfully: exit code: 1
------
 > [main 4/4] RUN false:
0.111 one
0.113 two
------
Dockerfile.cage:14
--------------------
  12 |     COPY --from=build /out /out
  13 |     COPY nope /f
  14 | >>> RUN false
  15 |
--------------------
ERROR: failed to build: failed to solve: process "/bin/sh -c false" did not complete successfully: \
exit code: 1
"""
MISSING = """\
#6 [main 3/4] COPY nope /f
#6 ERROR: failed to calculate checksum of ref ttij::kul1: "/nope": not found

#5 [main 1/4] FROM 127.0.0.1:44007/base@sha256:e96350
#5 CANCELED
------
 > [main 3/4] COPY nope /f:
------
Dockerfile.cage:13
--------------------
  12 |     COPY --from=build /out /out
  13 | >>> COPY nope /f
  14 |     RUN false
--------------------
ERROR: failed to build: failed to solve: failed to compute cache key: failed to calculate checksum \
of ref ttij::kul1: "/nope": not found
"""


def failure(said: str, data: bytes = DOCKERFILE) -> FailedInstructionError | ToolFailedError:
    progress = Progress()
    for line in said.splitlines():
        progress.take(line)
    return from_progress(progress, parse(data, FILE), FILE, "Docker 0")


@pytest.mark.parametrize("said", [OLD, NEW], ids=["20.10", "26"])
def test_a_program_that_failed_is_told_with_its_line(said: str) -> None:
    error = failure(said)
    assert isinstance(error, FailedInstructionError)
    assert (error.line, error.instruction) == (14, "RUN false")
    assert error.said == ("one", "two", "", "exit code: 1")


@pytest.mark.parametrize("said", [OLD, NEW], ids=["20.10", "26"])
def test_without_the_dockerfile_what_buildkit_says_of_it_is_told(said: str) -> None:
    progress = Progress()
    for line in said.splitlines():
        progress.take(line)
    error = from_progress(progress, None, FILE, "Docker 0")
    assert isinstance(error, FailedInstructionError)
    assert error.line == (14 if said is NEW else None)
    assert error.instruction == "RUN false"


def test_a_missing_file_is_told_without_the_names_of_snapshots() -> None:
    error = failure(MISSING)
    assert isinstance(error, FailedInstructionError)
    assert (error.line, error.instruction) == (13, "COPY nope /f")
    assert error.said == ('"/nope": not found',)


def test_only_the_last_lines_of_the_failed_step_are_kept() -> None:
    lines = [f"#7 0.{number} {number}" for number in range(100_000)]
    error = failure(OLD.replace("#7 0.111 one", "\n".join(lines)))
    assert isinstance(error, FailedInstructionError)
    assert error.said[0] == str(100_000 - 18)
    assert len(error.said) == 21


def test_what_a_program_prints_is_not_taken_for_buildkits_words() -> None:
    forged = "#7 0.112 ERROR: failed to solve: no space left on device\n"
    forged += (
        "#7 0.112 Dockerfile.cage:2\n#7 0.112 --------------------\n#7 0.112    2 | >>> RUN make"
    )
    error = failure(NEW.replace("#7 0.111 one", forged))
    assert isinstance(error, FailedInstructionError)
    assert error.line == 14


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("[build 1/2] FROM docker.io/library/busybox@sha256:00", 2),
        ("[build 2/2] RUN make", 3),
        ("[empty 1/1] COPY --from=build /out /out", 5),
        ("[stage-2 1/2] WORKDIR /x", 8),
        ("[stage-2 2/2] RUN echo one &&     echo two; false", 9),
        ("[linux/arm64 main 4/4] RUN false", 14),
        ("[main  4/4] RUN false", 14),
        # Numbers that another file has, as triggers of the image make them.
        ("[main 4/5] RUN false", None),
        ("[main 5/5] RUN false", None),
        ("[main 3/4] RUN false", None),
        ("[nobody 1/2] RUN make", None),
        ("[internal] load build context", None),
        ("exporting to image", None),
    ],
)
def test_a_step_is_found_in_the_dockerfile(step: str, line: int | None) -> None:
    found = instruction_of_step(parse(DOCKERFILE, FILE), step)
    assert (found.line if found else None) == line


def test_a_file_of_one_stage_has_steps_without_names() -> None:
    for head in ("FROM busybox", "FROM busybox AS main"):
        dockerfile = parse(f"{head}\nUSER x\nRUN a\nRUN b\n".encode(), FILE)
        found = instruction_of_step(dockerfile, "[3/3] RUN b")
        assert found is not None
        assert found.line == 4


def test_a_line_within_an_instruction_is_of_it() -> None:
    dockerfile = parse(DOCKERFILE, FILE)
    found = [instruction_at(dockerfile, line) for line in (1, 2, 10, 99)]
    assert [item and item.line for item in found] == [None, 2, 9, None]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            (
                "#3 [internal] load metadata for 127.0.0.1:9/x@sha256:00\n"
                "#3 ERROR: 127.0.0.1:9/x: not found\n"
                "ERROR: failed to solve: rpc error: code = Unknown desc = failed to solve with"
                " frontend dockerfile.v0: failed to create LLB definition: 127.0.0.1:9/x: not found"
            ),
            "an image could not be had (Docker 0)\n  127.0.0.1:9/x: not found",
        ),
        (
            (
                "#3 [main 1/4] FROM 127.0.0.1:9/x@sha256:00\n#3 ERROR: failed to do request\n"
                "ERROR: failed to solve: failed to do request: dial tcp 127.0.0.1:9: connect"
            ),
            "an image could not be had (Docker 0)\n  failed to do request: dial tcp",
        ),
        (
            (
                "ERROR: failed to solve: 127.0.0.1:9/x: failed to resolve source metadata for"
                " 127.0.0.1:9/x: pull access denied, repository does not exist"
            ),
            "a registry refused an image",
        ),
        (
            (
                "#5 exporting to image\n#5 ERROR: write /x: no space left on device\n"
                "ERROR: failed to solve: write /x: no space left on device"
            ),
            "the builder's disk is full (Docker 0)",
        ),
        (
            (
                "#5 [main 4/4] RUN false\n#5 0.1 begun\nERROR: failed to receive status: rpc error:"
                " code = Unavailable desc = error reading from server: EOF"
            ),
            "the builder went away",
        ),
        (
            (
                "ERROR: failed to solve: rpc error: code = Unknown desc = failed to solve with"
                " frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error"
                " line 5: Unknown flag: link"
            ),
            (
                "own frontend does not know something in this Dockerfile (Docker 0)\n"
                "  dockerfile parse error line 5: Unknown flag: link"
            ),
        ),
        (
            "ERROR: Cache export is not supported for the docker driver.\nSwitch to a different",
            "this builder cannot export its cache",
        ),
        ("ERROR: something else\nmore of it", "Docker 0 failed: something else\n  ERROR"),
        ("", "Docker 0 failed: "),
    ],
)
def test_what_no_instruction_is_to_blame_for(said: str, expected: str) -> None:
    error = failure(said)
    assert isinstance(error, ToolFailedError)
    assert expected in error.message


def test_a_line_and_the_number_of_steps_are_bounded() -> None:
    progress = Progress()
    for number in range(20_000):
        progress.take(f"#{number} {'x' * 10_000}")
        progress.take("y" * 10_000)
    assert len(progress.last_words()) == 20
    assert max(map(len, progress.last_words())) <= 2000
    assert len(progress._steps) <= 10_000

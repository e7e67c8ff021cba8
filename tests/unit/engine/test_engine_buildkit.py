"""The command line that BuildKit is driven by, and finding the builder; docker is a fake here."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild.engine import buildkit
from cagebuild.engine.builder import (
    Builder,
    docker_at,
    has_containerd_store,
    parse_inspect,
    too_old,
)
from cagebuild.engine.buildkit import BuildKit, arguments, unnamed
from cagebuild.engine.job import Secret
from cagebuild.errors import ToolFailedError, ToolMissingError
from tests.support.engine_jobs import Work

if TYPE_CHECKING:
    from collections.abc import Callable

BUILDER = Builder(
    name="default",
    driver="docker",
    endpoint="default",
    buildx="0.29.1",
    buildkit="26.1.5",
    exports=False,
)
OLD_INSPECT = """\
Name:   elsewhere
Driver: docker-container

Nodes:
Name:      elsewhere0
Endpoint:  unix:///var/run/docker.sock
Status:    running
Buildkit:  v0.9.3
Platforms: linux/amd64
"""
NEW_INSPECT = """\
Name:          default
Driver:        docker
Last Activity: 2026-11-24 12:32:57 +0000 UTC

Nodes:
Name:             default
Endpoint:         there
Status:           running
BuildKit version: v0.26.0
Platforms:        linux/amd64, linux/386
Labels:
 org.mobyproject.buildkit.worker.executor: oci
GC Policy rule#0:
 All:            false
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a fake docker: the body of a ``case`` over its words."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def make(cases: str) -> None:
        script = f'#!/bin/sh\ncase "$*" in\n{cases}\n*) echo "unexpected: $*" >&2; exit 9;;\nesac\n'
        (programs / "docker").write_text(script)
        (programs / "docker").chmod(0o755)

    return make


def answers(version: str = "26.1.5", store: str = "null", buildx: str = "v0.29.1 x") -> str:
    return (
        f"'buildx version') echo 'github.com/docker/buildx {buildx}';;\n"
        "'buildx inspect') printf 'Name: default\\nDriver: docker\\nEndpoint: default\\n';;\n"
        f"'version --format {{{{.Server.Version}}}}') echo {version};;\n"
        f"info*) echo '{store}';;"
    )


def test_the_command_has_all_that_the_job_says(tmp_path: Path) -> None:
    job = Work(tmp_path).job(
        "FROM scratch AS main\n",
        args={"B": "x=$y 'z'\n", "A": ""},
        cache_from=("type=registry,ref=a", "type=gha"),
        cache_to=("type=inline",),
        use_cache=False,
        architecture="aarch64",
    )
    words = arguments(job, BUILDER)
    assert words[:5] == ["docker", "buildx", "build", "--progress", "plain"]
    assert pairs(words) >= {
        ("--file", str(job.dockerfile)),
        ("--target", "main"),
        ("--platform", "linux/arm64"),
        ("--network", "none"),
        ("--build-arg", "A="),
        ("--build-arg", "B=x=$y 'z'\n"),
        ("--cache-from", "type=registry,ref=a"),
        ("--cache-from", "type=gha"),
        ("--cache-to", "type=inline"),
    }
    assert {"--no-cache", "--provenance=false", "--sbom=false"} <= set(words)
    assert not {"--pull", "--push"} & set(words)


def test_the_command_has_no_more_than_the_job_says(tmp_path: Path) -> None:
    job = Work(tmp_path).job("FROM scratch AS main\n", args={}, network=True)
    older = Builder(
        name="x", driver="remote", endpoint="", buildx="0.9.1", buildkit="v0.9.3", exports=True
    )
    words = set(arguments(job, older))
    assert not words & {"--network", "--no-cache", "--provenance=false", "--build-arg"}


def pairs(words: list[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(words))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (("type=oci", "dest=/a/b c"), "type=oci,dest=/a/b c"),
        (("type=oci", "dest=/a,b"), 'type=oci,"dest=/a,b"'),
        (("id=x", 'src=/a"b'), 'id=x,"src=/a""b"'),
    ],
)
def test_paths_with_commas_and_quotes_stay_whole(fields: tuple[str, ...], text: str) -> None:
    assert buildkit._fields(*fields) == text


def open_files() -> set[str]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{path.name} {path.readlink()}")
        except FileNotFoundError:  # what this function reads the folder by
            continue
    return {name for name in found if not name.endswith(f"/proc/{os.getpid()}/fd")}


def test_secrets_are_handed_over_in_memory_without_a_name() -> None:
    secrets = (Secret(id="one", value=b"a\0b"), Secret(id="two", value=b""))
    before = open_files()
    with buildkit._handed_over(secrets) as handed:
        places = [word.rpartition("src=")[2] for word in handed.words[1::2]]
        assert handed.words[::2] == ["--secret", "--secret"]
        # Twice, as several RUNs may want them.
        for _ in range(2):
            assert [Path(place).read_bytes() for place in places] == [b"a\0b", b""]
        assert "a" not in "".join(handed.words).replace("/dev/fd", "").replace("--secret", "")
    assert open_files() == before


def test_secrets_are_files_of_this_user_where_memory_has_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with buildkit._handed_over((Secret(id="one", value=b"a\0b"),)) as handed:
        place = Path(handed.words[1].rpartition("src=")[2])
        assert place.read_bytes() == b"a\0b"
        assert (place.stat().st_mode & 0o777, place.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert handed.fds == []
    assert list(tmp_path.iterdir()) == []


def test_only_images_without_any_name_count_as_unnamed() -> None:
    listing = "sha256:1 <none>:<none>\nsha256:2 a:latest\nsha256:2 b:c\nsha256:3 <none>:<none>\n"
    assert unnamed(listing + "sha256:3 a:<none>\n") == {"sha256:1"}
    assert unnamed("") == set()


def test_a_builder_is_read_in_the_words_of_old_and_new_versions() -> None:
    assert parse_inspect(OLD_INSPECT.splitlines()) == {
        "name": "elsewhere",
        "driver": "docker-container",
        "nodes": "yes",
        "endpoint": "unix:///var/run/docker.sock",
        "status": "running",
        "buildkit": "v0.9.3",
    }
    found = parse_inspect(NEW_INSPECT.splitlines())
    assert (found["name"], found["driver"], found["endpoint"]) == ("default", "docker", "there")
    assert found["buildkit"] == "v0.26.0"


def test_the_daemon_of_a_context_is_asked() -> None:
    assert docker_at("default") == ("docker",)
    assert docker_at("there") == ("docker", "--context", "there")
    assert docker_at("tcp://127.0.0.1:1") == ("docker", "--host", "tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ('[["driver-type","io.containerd.snapshotter.v1"]]', True),
        ('[["Backing Filesystem","extfs"],["Supports d_type","true"]]', False),
        ("null", False),
        ("[1]", False),
        ("", False),
    ],
)
def test_the_store_is_told_by_the_drivers_status(status: str, expected: bool) -> None:
    assert has_containerd_store(status) is expected


def test_versions() -> None:
    assert [too_old(text, (20, 10)) for text in ("19.03.1", "20.10.24+dfsg1", "v28.5", "dev")] == [
        *(True, False, False, False)
    ]
    assert not too_old("0.0.0-20240101", (0, 8))
    assert too_old("0.7.1", (0, 8))


@pytest.mark.parametrize(
    ("cases", "reason"),
    [
        ('buildx*) echo "unknown command: docker buildx" >&2; exit 1;;', "has no plugin 'buildx'"),
        ("buildx*) echo 'buildah 1.28.2';;", "has no plugin 'buildx'"),
        (answers(buildx="v0.7.1 x"), "buildx 0.7.1 is too old"),
        (answers(version="19.03.15"), "Docker 19.03.15 is too old"),
        (
            answers().replace(
                "echo 26.1.5",
                "echo 'permission denied while trying to connect to"
                " the Docker daemon socket at unix:///x' >&2; exit 1",
            ),
            "join the group 'docker'",
        ),
        (
            answers().replace(
                "Driver: docker\\nEndpoint: default",
                "Driver:\\nError: Cannot connect to the Docker daemon at x.",
            ),
            "Cannot connect to the Docker daemon at x.; start the daemon",
        ),
        (
            answers().replace(
                "Driver: docker\\nEndpoint: default",
                "Driver: remote\\nEndpoint: tcp://127.0.0.1:1\\nStatus: inactive",
            ),
            "the builder 'default' does not answer at tcp://127.0.0.1:1; start it",
        ),
    ],
)
def test_why_it_is_unavailable_is_told_with_the_cure(
    docker: Callable[[str], None], cases: str, reason: str, tmp_path: Path
) -> None:
    docker(cases)
    engine = BuildKit()
    assert reason in engine.unavailable
    with pytest.raises((ToolMissingError, ToolFailedError)):
        engine.build(Work(tmp_path).job("FROM scratch AS main\n"))


def test_without_docker_it_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert BuildKit().unavailable.startswith("there is no program 'docker'; install Docker")


def test_a_daemon_that_does_not_answer_is_given_up(
    docker: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cagebuild.engine.builder._QUESTION", 0.3)
    cases = answers().replace("printf", "exec /bin/sleep 60; printf", 1)
    docker(cases)
    assert BuildKit().unavailable.startswith("'docker buildx inspect' had no answer after 0.3 s")
    docker("*) exec /bin/sleep 60;;")
    assert BuildKit().unavailable.startswith("'docker buildx version' had no answer after 0.3 s")


def test_what_there_is_is_told_in_a_line(docker: Callable[[str], None]) -> None:
    docker(answers(store='[["driver-type","io.containerd.snapshotter.v1"]]'))
    engine = BuildKit()
    assert engine.unavailable == ""
    assert engine.describe() == "Docker 26.1.5, buildx 0.29.1"


def test_heredocs_are_refused_where_the_frontend_takes_them_for_instructions(
    docker: Callable[[str], None], tmp_path: Path
) -> None:
    docker(answers(version="20.10.24"))
    text = "FROM scratch AS main\nRUN <<CMD\nRUN echo no\nCMD\n"
    with pytest.raises(
        ToolFailedError, match=r"Dockerfile\.cage:2: .* knows no heredocs"
    ) as caught:
        BuildKit().build(Work(tmp_path / "1").job(text))
    assert "# syntax=docker/dockerfile:1" in caught.value.hint
    # A frontend of its own, and a newer Docker, go on to the build, which this fake has not.
    docker(answers(version="23.0.1"))
    with pytest.raises(ToolFailedError, match="unexpected: image ls"):
        BuildKit().build(Work(tmp_path / "2").job(text))
    docker(answers(version="20.10.24"))
    with pytest.raises(ToolFailedError, match="unexpected: image ls"):
        BuildKit().build(Work(tmp_path / "3").job("# syntax=docker/dockerfile:1\n" + text))

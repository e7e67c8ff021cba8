"""Which sandbox is taken, and what is said when there is none. Engines are programs on PATH."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cagebuild.errors import ToolMissingError, UsageError
from cagebuild.sandbox import choose

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str, *lines: str) -> None:
    file = folder / name
    file.write_text("\n".join(("#!/bin/sh", *lines, "")))
    file.chmod(0o755)


def test_docker_comes_first_then_podman(programs: Path) -> None:
    program(programs, "podman", 'echo "$@" >>"$0.said"')
    assert choose(None, needed_for="x").name == "podman"
    program(programs, "docker", 'echo "$@" >>"$0.said"')
    assert choose(None, needed_for="x").name == "docker"
    assert "info" in (programs / "docker.said").read_text()


def test_a_client_without_its_engine_is_passed_over(programs: Path) -> None:
    program(programs, "docker", "echo Cannot connect to the Docker daemon >&2", "exit 1")
    program(programs, "podman", "exit 0")
    assert choose(None, needed_for="x").name == "podman"


def test_the_one_that_was_asked_for_is_the_only_one_tried(programs: Path) -> None:
    program(programs, "docker", "echo Cannot connect to the Docker daemon >&2", "exit 1")
    program(programs, "podman", "exit 0")
    with pytest.raises(ToolMissingError) as caught:
        choose("docker", needed_for="'kernel 6.12'")
    assert caught.value.message == (
        "'kernel 6.12' needs a sandbox, and there is none to be had:\n"
        "  docker: Cannot connect to the Docker daemon"
    )
    assert "apt-get install podman" in caught.value.hint


def test_an_engine_that_is_not_there_is_named(programs: Path) -> None:
    assert not list(programs.iterdir())
    with pytest.raises(ToolMissingError, match="podman: there is no program 'podman'"):
        choose("podman", needed_for="x")


def test_a_name_that_is_none_is_a_mistake_of_the_user(programs: Path) -> None:
    assert os.environ["PATH"] == str(programs)
    with pytest.raises(UsageError, match="CAGEBUILD_SANDBOX is 'chroot'") as caught:
        choose("chroot", needed_for="x")
    assert caught.value.hint == "expected one of: docker, podman, namespaces"

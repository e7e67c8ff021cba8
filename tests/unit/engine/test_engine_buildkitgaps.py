"""What an older BuildKit would pass over without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from cagebuild.dockerfile.parse import parse
from cagebuild.engine import buildkitgaps
from cagebuild.errors import DockerfileError


def refuse(mode: str, *, old: bool, very_old: bool, head: str = "") -> str:
    """What is said of COPY with that mode; nothing where it is taken."""
    text = f"{head}FROM scratch\nCOPY --chmod={mode} a /b\n".encode()
    try:
        buildkitgaps.refuse(parse(text, Path("Dockerfile")), "Docker 0", old=old, very_old=very_old)
    except DockerfileError as error:
        return error.render()
    return ""


@pytest.mark.parametrize("mode", ["u=rwx", "$MODE", "+x", "${MODE:-644}"])
def test_an_old_frontend_knows_digits_only(mode: str) -> None:
    said = refuse(mode, old=True, very_old=False)
    assert said.startswith(f"Dockerfile:2:1: Docker 0 takes --chmod={mode} for no mode at all")
    assert "# syntax=docker/dockerfile:1" in said
    assert not refuse(mode, old=False, very_old=False)


@pytest.mark.parametrize("mode", ["644", "0755", "0"])
def test_plain_digits_are_known_to_all(mode: str) -> None:
    assert not refuse(mode, old=True, very_old=True)


def test_a_very_old_one_drops_what_is_above() -> None:
    assert "drops what is above 0777 of --chmod=4755" in refuse("4755", old=True, very_old=True)
    assert not refuse("4755", old=True, very_old=False)


def test_a_frontend_of_its_own_is_not_the_builders() -> None:
    assert not refuse("+x", old=True, very_old=True, head="# syntax=docker/dockerfile:1\n")

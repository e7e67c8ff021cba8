"""``invoke verify --with nitro-cli``: the real nitro-cli comes to the PCRs that are measured here."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.errors import MeasurementError, ToolFailedError, ToolMissingError, UsageError
from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region
from cagebuild.nitrocli import run, tool
from tests.support import nitrocli
from tests.support.engines import docker_daemon
from tests.support.workspaces import CAGE, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="Docker needs root: run the tests with sudo"),
]
VERIFY = ("verify", "--with", "nitro-cli")


@pytest.fixture(scope="module")
def docker() -> Iterator[str]:
    with docker_daemon() as address:
        yield address


@pytest.fixture(scope="module")
def image(docker: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of an image with nitro-cli."""
    layer = nitrocli.layer(tmp_path_factory.mktemp("tool"))
    return nitrocli.import_image(docker, layer, "nitro-cli:test", "VOLUME /scratch")


@pytest.fixture
def workspace(docker: str, tmp_path: Path) -> Iterator[Workspace]:
    """A workspace whose Docker is the private one, which holds nothing more afterwards."""
    made = Workspace(tmp_path)
    made.environment["DOCKER_HOST"] = docker
    before = nitrocli.contents(docker)
    yield made
    assert nitrocli.contents(docker) == before


def base_archive(folder: Path) -> Path:
    """An awkward image as a docker-archive, by Docker's own ``import`` and ``save`` elsewhere."""
    return folder


def test_nitro_cli_comes_to_the_same(image: str, docker: str, workspace: Workspace) -> None:
    workspace.add("svc", CAGE, data="some\n")
    workspace.ok("lock", "//svc")
    ours = workspace.ok("pcr", "//svc").pcrs()
    answer = workspace.ok(*VERIFY, "--nitro-image", image, "//svc")
    assert answer.pcrs() == ours
    assert set(ours) == {"PCR0", "PCR1", "PCR2"}
    assert f"as nitro-cli of {image} has it" in answer.out
    assert "note: nitro-cli: Enclave Image successfully created." in answer.err

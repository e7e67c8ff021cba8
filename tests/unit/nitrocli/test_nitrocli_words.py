"""What `invoke verify --with nitro-cli` takes, says and refuses, as far as no Docker is needed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import InterruptedBuildError, MeasurementError, UsageError
from cagebuild.nitrocli import tool
from cagebuild.nitrocli.opinion import Opinion, require_agreement
from cagebuild.nitrocli.stops import Stops
from tests.support.workspaces import Workspace

if TYPE_CHECKING:
    from cagebuild.config.model import Cage

ROOT = Path(__file__).parents[3]
HEX = 64 * "a"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.environment["DOCKER_HOST"] = f"unix://{tmp_path}/nothing"
    made.add("svc")
    return made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "verify how?"),
        (("--with", "kaniko"), "--with kaniko: expected --with nitro-cli"),
        (("--nitro-image", f"sha256:{HEX}"), "verify how?"),
        (("--with", "nitro-cli", "--nitro-image", "nitro:1"), "a tag may mean another image"),
        (("--with", "nitro-cli", "--nitro-image", "Nitro"), "--nitro-image: not an image"),
        (("--with", "nitro-cli", "//other"), "//other"),
    ],
)
def test_words_that_name_nothing(workspace: Workspace, words: tuple[str, ...], said: str) -> None:
    answer = workspace.run("verify", *words)
    assert answer.code == 2
    assert said in answer.err


def test_without_docker_nothing_is_begun(workspace: Workspace) -> None:
    """Not even a lock is looked for: the tool comes first.

    In a process of its own: Docker's library leaves its socket open when nobody answers.
    """
    answer = workspace.process("verify", "--with", "nitro-cli", "//svc")
    assert answer.code == 40
    assert "nitro-cli needs Docker, which cannot be reached" in answer.err
    assert "DOCKER_HOST" in answer.err
    assert answer.out == ""


@pytest.mark.parametrize(
    "reference",
    [f"sha256:{HEX}", f"nitro@sha256:{HEX}", f"registry.example:5000/team/nitro:1@sha256:{HEX}"],
)
def test_references_that_mean_one_image_for_good(reference: str) -> None:
    tool.check_reference(reference)


@pytest.mark.parametrize(
    "reference", ["nitro", "nitro:1", f"sha256:{HEX}0", "nitro@sha256:12", f"sha512:{HEX}", HEX]
)
def test_references_that_may_mean_another_one_tomorrow(reference: str) -> None:
    with pytest.raises(UsageError, match="--nitro-image"):
        tool.check_reference(reference)


def test_the_dockerfile_pins_its_base_and_its_packages() -> None:
    lines = [line for line in tool.DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    name, _, digest = lines[0].removeprefix("FROM ").partition("@")
    assert name == "docker.io/library/amazonlinux"
    assert Digest.parse(digest).algorithm == "sha256"
    packages = re.findall(r"aws-nitro-enclaves-cli\S*", "\n".join(lines))
    assert len(packages) == 2
    assert len({re.sub(r"^[a-z-]+", "", package) for package in packages}) == 1
    assert all(re.search(r"-\d+\.\d+\.\d+-\d+\.amzn2023$", package) for package in packages)


def test_dockers_socket_is_named_in_one_place() -> None:
    """Nothing else hands it to a container: whoever has it, has Docker's machine."""
    pattern = re.compile(r"docker\.sock|\bengine\.SOCKET\b|\bsocket_of\b")
    found = {
        str(file.relative_to(ROOT / "cagebuild"))
        for file in (ROOT / "cagebuild").rglob("*.py")
        if pattern.search(file.read_text())
    }
    assert found == {"nitrocli/engine.py", "nitrocli/run.py"}


def opinion(**differing: str) -> Opinion:
    expected = {name: 96 * name[-1] for name in ("PCR0", "PCR1", "PCR2", "PCR8")}
    return Opinion(
        cage=cast("Cage", SimpleNamespace(address="//svc")),
        tool="nitro@sha256:1",
        got={name: value for name, value in {**expected, **differing}.items() if name != "PCR8"},
        expected=expected,
        placeholder=False,
        reasons=("", "ramdisk 1:") if differing else (),
    )


def test_equal_pcrs_are_printed_once() -> None:
    found = opinion()
    assert list(found.lines()) == [
        "//svc",
        f"  PCR0  {96 * '0'}",
        f"  PCR1  {96 * '1'}",
        f"  PCR2  {96 * '2'}",
        "  as nitro-cli of nitro@sha256:1 has it",
    ]
    require_agreement([found])


def test_differing_pcrs_are_printed_side_by_side() -> None:
    found = opinion(PCR2=96 * "f")
    assert list(found.lines())[3:] == [
        "  PCR2  differs",
        f"    got      {96 * 'f'}",
        f"    expected {96 * '2'}",
        "  not as nitro-cli of nitro@sha256:1 has it",
        "",
        "    ramdisk 1:",
    ]
    with pytest.raises(MeasurementError, match="//svc PCR2") as raised:
        require_agreement([opinion(), found])
    assert raised.value.exit_code == 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_until_it_may(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    done = []

    def work(stops: Stops) -> None:
        with stops.held():
            os.kill(os.getpid(), number)
            done.append("went on")
            with pytest.raises(InterruptedBuildError):
                stops.check()
            os.kill(os.getpid(), number)
            done.append("to the end")

    with Stops() as stops:
        with pytest.raises(InterruptedBuildError):
            work(stops)
        with pytest.raises(InterruptedBuildError):
            os.kill(os.getpid(), number)
        stops.check()
    assert done == ["went on", "to the end"]
    assert signal.getsignal(number) is before


def test_a_stop_that_came_while_something_failed_is_told_by_the_next_one() -> None:
    def fail(stops: Stops) -> None:
        with stops.held():
            os.kill(os.getpid(), signal.SIGINT)
            raise KeyError

    with Stops() as stops:
        with pytest.raises(KeyError):
            fail(stops)
        with pytest.raises(InterruptedBuildError), stops.held():
            pass


def test_what_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stops():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

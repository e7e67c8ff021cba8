"""The same closures as apt's: its simulation of an installation into an empty system."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild.debian import sources
from cagebuild.debian.index import Universe, fetch_index
from cagebuild.debian.release import LIMIT, parse
from cagebuild.debian.resolve import resolve
from cagebuild.fetch.http import get

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.integration, pytest.mark.network]

MIRROR = sources.defaults().mirror
SUITE = "bookworm"
KEYRING = Path(sources.__file__).parents[1] / "pins/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True)
class Both:
    """The same question to this project and to apt."""

    index: bytes
    apt: Callable[..., str]

    def ours(self, names: list[str]) -> set[str]:
        universe = Universe("amd64")
        universe.add(self.index, SUITE)
        return {f"{package.name}={package.version}" for package in resolve(universe, names)}

    def theirs(self, names: list[str]) -> set[str]:
        lines = [line.split() for line in self.apt("--simulate", "install", *names).splitlines()]
        return {f"{line[1]}={line[2].lstrip('(')}" for line in lines if line[:1] == ["Inst"]}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    if not shutil.which("apt-get"):
        pytest.skip("needs apt-get: run this test on Debian")
    folder = tmp_path_factory.mktemp("apt")
    for name in ("lists/partial", "cache/archives/partial", "etc/preferences.d"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(
        f"deb [arch=amd64 signed-by={KEYRING}] {MIRROR} {SUITE} main\n"
    )
    (folder / "apt.conf").write_text(
        f"""
        Dir::State "{folder}"; Dir::State::status "{folder}/status";
        Dir::State::lists "{folder}/lists"; Dir::Cache "{folder}/cache";
        Dir::Etc "{folder}/etc"; Dir::Etc::sourcelist "{folder}/sources.list";
        APT::Architecture "amd64"; APT::Architectures "amd64";
        APT::Install-Recommends "false"; APT::Sandbox::User "root";
        """
    )

    def apt(*arguments: str) -> str:
        return subprocess.run(
            ["apt-get", *arguments],
            env={"APT_CONFIG": f"{folder}/apt.conf", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    apt("update")
    message = get(f"{MIRROR}/dists/{SUITE}/InRelease", limit=LIMIT)
    release = parse(message, suite=SUITE, keyring=KEYRING.read_bytes())
    (index,) = fetch_index(release, MIRROR, "main", "amd64", get)
    return Both(index, apt)


@pytest.mark.parametrize(
    "names",
    [
        "python3 ca-certificates",
        "base-files curl",
        "nginx-light",
        "default-jre-headless",
        "exim4",
        "python3-flask gunicorn",
        "perl bash coreutils",
        "libreoffice",
    ],
)
def test_a_closure_is_what_apt_would_install(both: Both, names: str) -> None:
    assert both.ours(names.split()) == both.theirs(names.split())

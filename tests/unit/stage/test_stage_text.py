"""What ``invoke stage`` prints and writes, without any engine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.http_server import serving
from tests.support.workspaces import ROOT, Workspace, installer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = """\
[base]
dockerfile = "Dockerfile"

[app]
workdir = "/"
env = { A = '''say "$HOME" \\\\ back''', B = "b" }

[[app.files]]
source = "more"
destination = "/srv/with space"

[[app.files]]
source = "more/one"
destination = "/srv/one"
owner = "5:6"

[[app.files]]
source = "deep"
destination = "/deep"
owner = "7:8"
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    for name in ("more/one", "more/two", "deep/a", "deep/x/b", "deep/x/c*"):
        made.write(f"svc/{name}", f"{name}\n")
    return made


def lines(workspace: Workspace, dockerfile: str, cage: str = FILES) -> list[str]:
    """What is printed."""
    workspace.write("svc/cage.toml", cage)
    workspace.write("svc/Dockerfile", dockerfile)
    workspace.commit()
    workspace.ok("lock", "//svc")
    return workspace.ok("stage", "//svc").lines


SMALL = 'FROM scratch\nCOPY more /\nCMD ["/one"]\n'


def test_the_apps_own_lines_come_first_as_they_are(workspace: Workspace) -> None:
    shown = lines(workspace, "# escape=`\n" + SMALL, '[base]\ndockerfile = "Dockerfile"\n')
    assert shown[:4] == [
        "# escape=`",
        "FROM scratch AS cage-app",
        "COPY more /",
        'CMD ["/one"]',
    ]
    assert shown[4] == ""
    assert shown[5].startswith("# Added by cagebuild. By hand: docker build --file Dockerfile.cage")
    assert shown[6] == "FROM cage-app AS cagebuild-image"


def test_what_is_added_is_quoted_so_that_nothing_in_it_means_anything(
    workspace: Workspace,
) -> None:
    shown = lines(workspace, SMALL)[6:]
    assert shown == [
        'COPY --from=cagebuild-files ["app/0/", "/srv/with space/"]',
        "COPY --from=cagebuild-files folders/1/ /srv/",
        "COPY --chown=5:6 --from=cagebuild-files app/1/file /srv/one",
        "COPY --from=cagebuild-files folders/2/ /deep/",
        "COPY --chown=7:8 --from=cagebuild-files app/2/a /deep/",
        shown[5],
        'WORKDIR "/"',
        'ENV A="say \\"\\$HOME\\" \\\\\\\\ back"',
        'ENV B="b"',
        "# ENTRYPOINT and CMD as one list, as an init wants it: written with the files",
    ]
    assert re.search(r'app/2/x/b", "app/2/x/c\\\\\\\\\*", "/deep/x/"\]$', shown[5])


def test_another_escape_character_escapes_in_what_is_added(workspace: Workspace) -> None:
    shown = lines(workspace, "# escape=`\n" + SMALL)
    assert 'ENV A="say `"`$HOME`" \\\\ back"' in shown


def test_a_cage_without_a_dockerfile_gets_one(workspace: Workspace) -> None:
    cage = FILES.replace('dockerfile = "Dockerfile"', "scratch = true")
    cage = cage.replace("[app]\n", '[app]\ncommand = ["/srv/one", "é"]\n')
    shown = lines(workspace, "", cage)
    assert shown[0] == (
        "# Made by cagebuild from cage.toml. By hand: docker build --file Dockerfile.cage ."
    )
    assert shown[1:3] == ["FROM scratch", 'COPY ["cage/app/0/", "/srv/with space/"]']


def test_writing_it_fills_in_what_is_known_then(workspace: Workspace, tmp_path: Path) -> None:
    cage = FILES.replace('dockerfile = "Dockerfile"', "scratch = true")
    cage = cage.replace("[app]\n", '[app]\ncommand = ["/srv/one", "é"]\n')
    lines(workspace, "", cage)
    folder = tmp_path / "staged"
    workspace.ok("stage", "//svc", "--output", str(folder))
    text = (folder / "Dockerfile.cage").read_text().splitlines()
    assert text[-2:] == ["ENTRYPOINT []", 'CMD ["/srv/one", "é"]']
    assert (folder / "cage/app/1/file").read_text() == "more/one\n"
    assert (folder / "cage/app/2/x/b").read_text() == "deep/x/b\n"
    assert sorted(path.name for path in (folder / "cage/folders/2").rglob("*")) == ["x"]


def test_another_content_is_another_folder(workspace: Workspace) -> None:
    """BuildKit would take files of the same size for the same."""
    first = lines(workspace, SMALL)
    workspace.write("svc/deep/a", "deep/A\n")
    second = workspace.ok("stage", "//svc").lines
    names = [re.findall(r"context-[0-9a-f]{16}$", shown[4])[0] for shown in (first, second)]
    assert names[0] != names[1]


def test_a_folder_of_something_else_is_left_alone(workspace: Workspace, tmp_path: Path) -> None:
    lines(workspace, SMALL, '[base]\ndockerfile = "Dockerfile"\n')
    (tmp_path / "precious").mkdir()
    answer = workspace.run("stage", "//svc", "--output", str(tmp_path / "precious"))
    assert answer.code == 2
    assert "is there already and is no folder of this command" in answer.err


def test_several_cages_are_too_many(workspace: Workspace) -> None:
    lines(workspace, SMALL)
    workspace.add("other")
    answer = workspace.run("stage")
    assert answer.code == 2
    assert "invoke stage //folder" in answer.err


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The digest of a runtime installer, and where it can be had."""
    folder = tmp_path / "installers"
    folder.mkdir()
    digest = installer(folder)
    with serving(folder) as url:
        yield str(digest), url


def test_the_runtime_is_added_as_files(tmp_path: Path, served: tuple[str, str]) -> None:
    digest, url = served
    (tmp_path / "other").mkdir()
    workspace = Workspace(tmp_path / "other", text=ROOT.replace("runtime = false\n", ""))
    cage = f'[base]\ndockerfile = "Dockerfile"\n[runtime]\ninstaller = "{digest}"\nurl = "{url}"\n'
    workspace.write("svc/more/one", "x")
    assert lines(workspace, SMALL, cage)[6:] == [
        "COPY --from=cagebuild-files runtime/ /",
        "COPY --from=cagebuild-files settings/ /",
        "USER 0:0",
        'ENTRYPOINT ["/cage/bin/cage-guest", "boot"]',
    ]
    folder = tmp_path / "staged"
    workspace.ok("stage", "//svc", "--output", str(folder))
    assert (folder / "cage/settings/cage/etc/cage.json").is_file()
    assert (folder / "cage/runtime/cage/bin/cage-guest").stat().st_mode & 0o777 == 0o755

"""The app's files: what git says of them reaches the image, what this machine says does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import SourceError
from cagebuild.pinning import source_digest
from cagebuild.sources import collect
from tests.support.workspaces import Workspace

if TYPE_CHECKING:
    from cagebuild.sources import AppSources, SourceFile

HEAD = '[base]\nscratch = true\n[app]\ncommand = ["/a"]\n'


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """No cages yet."""
    return Workspace(tmp_path)


def entry(source: str = "src", destination: str = "/srv", more: str = "") -> str:
    """One ``[[app.files]]``."""
    return f'[[app.files]]\nsource = "{source}"\ndestination = "{destination}"\n{more}\n'


def collected(workspace: Workspace, *entries: str) -> AppSources:
    """The files of the cage ``pay`` with these entries; what is there is committed."""
    workspace.write("pay/cage.toml", HEAD + "".join(entries or (entry(),)))
    workspace.commit()
    return seen(workspace)


def seen(workspace: Workspace) -> AppSources:
    """The files of the cage ``pay``, as things are."""
    cage = workspace.cage("//pay")
    return collect(workspace.session().workspace, [cage], Digest.of_file)[cage]


def by_name(found: AppSources) -> dict[str, SourceFile]:
    """By destination."""
    return {file.destination: file for file in found.files}


def test_a_folders_contents_go_below_the_destination_sorted(workspace: Workspace) -> None:
    for name in ("b", "a/z", "a.b", "Z"):
        workspace.write(f"pay/src/{name}", name)
    found = collected(workspace)
    assert [file.destination for file in found.files] == ["srv/Z", "srv/a.b", "srv/a/z", "srv/b"]
    assert by_name(found)["srv/b"].digest == Digest.of(b"b")


def test_a_file_goes_to_just_the_destination(workspace: Workspace) -> None:
    workspace.write("pay/run.sh", "x")
    found = collected(workspace, entry("run.sh", "/bin/run"))
    assert [file.destination for file in found.files] == ["bin/run"]


def test_the_root_is_a_destination(workspace: Workspace) -> None:
    workspace.write("pay/src/etc/x", "x")
    assert [file.destination for file in collected(workspace, entry("src", "/")).files] == ["etc/x"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o177])
def test_modes_do_not_depend_on_the_umask_of_a_checkout(
    workspace: Workspace, tmp_path: Path, umask: int
) -> None:
    workspace.write("pay/src/run", "x", mode=0o755)
    workspace.write("pay/src/note", "x")
    workspace.write("pay/cage.toml", HEAD + entry())
    workspace.commit()
    expected = source_digest(seen(workspace).files)
    before = os.umask(umask)
    try:
        workspace.checkout.git("clone", "--quiet", str(workspace.root), str(tmp_path / "other"))
    finally:
        os.umask(before)
    workspace.root = tmp_path / "other"
    found = seen(workspace)
    assert {file.destination: file.mode for file in found.files} == {
        "srv/run": 0o755,
        "srv/note": 0o644,
    }
    assert source_digest(found.files) == expected


def test_the_executable_bit_is_gits(workspace: Workspace) -> None:
    workspace.write("pay/src/run", "x", mode=0o755)
    workspace.write("pay/src/note", "x")
    collected(workspace)
    (workspace.root / "pay/src/run").chmod(0o600)
    (workspace.root / "pay/src/note").chmod(0o777)
    modes = {name: file.mode for name, file in by_name(seen(workspace)).items()}
    assert modes == {"srv/run": 0o755, "srv/note": 0o644}


def test_special_bits_on_disk_are_not_taken(workspace: Workspace) -> None:
    workspace.write("pay/src/run", "x", mode=0o755)
    collected(workspace)
    (workspace.root / "pay/src/run").chmod(0o6755)
    assert by_name(seen(workspace))["srv/run"].mode == 0o755


def test_a_mode_and_an_owner_of_the_cages_own(workspace: Workspace) -> None:
    workspace.write("pay/src/run", "x", mode=0o755)
    (workspace.root / "pay/src/link").symlink_to("run")
    more = 'mode = "4750"\nowner = "1000:2000"'
    found = by_name(collected(workspace, entry(more=more)))
    assert {name: (file.mode, file.uid, file.gid) for name, file in found.items()} == {
        "srv/run": (0o4750, 1000, 2000),
        "srv/link": (0o777, 1000, 2000),
    }


@pytest.mark.parametrize("target", ["run", "../../outside", "/etc/passwd", "not there", "."])
def test_symlinks_stay_symlinks_and_are_not_followed(workspace: Workspace, target: str) -> None:
    workspace.write("pay/src/run", "x")
    (workspace.root / "pay/src/link").symlink_to(target)
    link = by_name(collected(workspace))["srv/link"]
    assert (link.kind, link.target, link.digest, link.mode) == ("symlink", target, None, 0o777)


def test_what_is_behind_a_symlink_to_a_folder_is_not_added(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret")
    workspace.write("pay/src/folder/key", "public")
    collected(workspace)
    (workspace.root / "pay/src/folder/key").unlink()
    (workspace.root / "pay/src/folder").rmdir()
    (workspace.root / "pay/src/folder").symlink_to(tmp_path / "secret")
    workspace.write("pay/src/other", "x")
    workspace.checkout.git("add", "pay/src/other")
    found = seen(workspace)
    assert [file.destination for file in found.files] == ["srv/other"]
    assert [path.name for path in found.missing] == ["key"]


def test_two_files_at_one_place_are_refused_with_both(workspace: Workspace) -> None:
    workspace.write("pay/src/x", "1")
    workspace.write("pay/more/x", "2")
    with pytest.raises(SourceError) as caught:
        collected(workspace, entry(), entry("more/x", "/srv/x"))
    assert "pay/src/x and" in caught.value.message
    assert "pay/more/x both go to /srv/x" in caught.value.message
    assert "exclude" in caught.value.hint


def test_one_file_at_two_places_is_fine(workspace: Workspace) -> None:
    workspace.write("pay/src/x", "1")
    found = collected(workspace, entry(), entry("src", "/other"))
    assert [file.destination for file in found.files] == ["other/x", "srv/x"]


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_a_file_where_another_needs_a_folder_is_refused(workspace: Workspace, kind: str) -> None:
    """In the image one would take the place of the other, or land behind the link."""
    if kind == "file":
        workspace.write("pay/src/a", "file")
    else:
        (workspace.root / "pay/src").mkdir(parents=True)
        (workspace.root / "pay/src/a").symlink_to("/etc")
    workspace.write("pay/more/deep/b", "below it")
    with pytest.raises(SourceError) as caught:
        collected(workspace, entry("src", "/srv"), entry("more", "/srv/a"))
    assert "pay/src/a goes to /srv/a, and" in caught.value.message
    assert "/srv/a/deep/b" in caught.value.message
    assert "exclude" in caught.value.hint


def test_an_empty_folder_where_another_needs_one_is_fine(workspace: Workspace) -> None:
    (workspace.root / "pay/src/a").mkdir(parents=True)
    workspace.write("pay/more/b", "below it")
    found = collected(workspace, entry("src", "/srv", "tracked = false"), entry("more", "/srv/a"))
    assert list(by_name(found)) == ["srv/a", "srv/a/b"]


def test_what_is_excluded_is_left_out_with_all_that_is_in_it(workspace: Workspace) -> None:
    for name in ("keep.py", "drop.pyc", "a/drop.pyc", "tests/x", "a/tests/keep"):
        workspace.write(f"pay/src/{name}", "x")
    found = collected(workspace, entry(more='exclude = ["**/*.pyc", "tests"]'))
    assert [file.destination for file in found.files] == ["srv/a/tests/keep", "srv/keep.py"]


def test_an_exclusion_settles_who_goes_to_a_place(workspace: Workspace) -> None:
    workspace.write("pay/src/x", "1")
    workspace.write("pay/more/x", "2")
    found = collected(workspace, entry(more='exclude = ["x"]'), entry("more/x", "/srv/x"))
    assert by_name(found)["srv/x"].digest == Digest.of(b"2")


def test_untracked_files_are_left_out_and_told(workspace: Workspace) -> None:
    workspace.write("pay/src/x", "1")
    collected(workspace)
    workspace.write("pay/src/new", "2")
    workspace.write(".gitignore", "*.log\n")
    workspace.write("pay/src/ignored.log", "3")
    found = seen(workspace)
    assert list(by_name(found)) == ["srv/x"]
    assert [path.name for path in found.untracked] == ["new"]


def test_everything_that_is_there_where_git_does_not_choose(workspace: Workspace) -> None:
    workspace.write(".gitignore", "built/\n")
    workspace.write("pay/built/run", "x", mode=0o700)
    workspace.write("pay/built/note", "x", mode=0o600)
    (workspace.root / "pay/built/empty").mkdir()
    found = by_name(collected(workspace, entry("built", more="tracked = false")))
    assert {name: (file.kind, file.mode) for name, file in found.items()} == {
        "srv/run": ("file", 0o755),
        "srv/note": ("file", 0o644),
        "srv/empty": ("directory", 0o755),
    }


def test_locks_are_never_added(workspace: Workspace) -> None:
    for name in ("cage.lock", "x.cage.lock", "deep/cage.lock", "not-cage.lock"):
        workspace.write(f"pay/{name}", "{}")
    found = collected(workspace, entry("."))
    assert list(by_name(found)) == ["srv/cage.toml", "srv/not-cage.lock"]


def test_a_source_that_is_not_there_is_refused(workspace: Workspace) -> None:
    with pytest.raises(SourceError, match="//pay/src"):
        collected(workspace)


def test_a_source_that_git_does_not_track_is_refused_with_what_to_do(workspace: Workspace) -> None:
    workspace.write(".gitignore", "src/\n")
    workspace.write("pay/src/x", "x")
    with pytest.raises(SourceError, match="git tracks nothing of //pay/src") as caught:
        collected(workspace)
    assert "tracked = false" in caught.value.hint


def test_a_pipe_is_refused(workspace: Workspace) -> None:
    workspace.write("pay/src/x", "x")
    os.mkfifo(workspace.root / "pay/src/pipe")
    with pytest.raises(SourceError, match="neither a file, a folder nor a symlink"):
        collected(workspace, entry(more="tracked = false"))


def test_names_that_are_not_utf8_stay_apart(workspace: Workspace) -> None:
    folder = os.fsencode(workspace.root / "pay/src")
    workspace.write("pay/src/ÿ", "text")
    with open(folder + b"/\xff", "wb") as stream:  # noqa: PTH123 - the name is bytes
        stream.write(b"bytes")
    found = by_name(collected(workspace))
    assert found["srv/ÿ"].digest == Digest.of(b"text")
    assert found["srv/\udcff"].digest == Digest.of(b"bytes")


def test_several_cages_are_told_apart(workspace: Workspace) -> None:
    for name in ("pay", "mail"):
        workspace.write(f"{name}/src/x", name)
        workspace.write(f"{name}/cage.toml", HEAD + entry())
    workspace.commit()
    cages = [workspace.cage("//mail"), workspace.cage("//pay")]
    found = collect(workspace.session().workspace, cages, Digest.of_file)
    digests = [found[cage].files[0].digest for cage in cages]
    assert digests == [Digest.of(b"mail"), Digest.of(b"pay")]


def test_where_a_file_lies_is_no_fact(workspace: Workspace) -> None:
    workspace.write("pay/src/x", "x")
    (file,) = collected(workspace).files
    assert str(workspace.root) not in str(file.facts())
    assert set(file.facts()) == {"destination", "kind", "mode", "uid", "gid", "target"}

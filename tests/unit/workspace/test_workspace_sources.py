from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from cagebuild import config, workspace
from cagebuild.config.model import AppFiles
from cagebuild.errors import SourceError
from cagebuild.workspace import Sources
from tests.support.checkout import Checkout
from tests.support.config import SMALLEST


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "repo")


def entry(source: Path, *, tracked: bool = True, exclude: tuple[str, ...] = ()) -> AppFiles:
    return AppFiles(
        source=source,
        destination=PurePosixPath("/srv"),
        mode=None,
        uid=0,
        gid=0,
        tracked=tracked,
        exclude=exclude,
    )


def sources(root: Path, *entries: AppFiles) -> tuple[Sources, ...]:
    return workspace.tracked_files(config.load_workspace(root), entries)


def names(found: Sources) -> list[bytes]:
    return [file.name for file in found.files]


def test_what_git_tracks_with_the_working_trees_content(checkout: Checkout) -> None:
    checkout.write("svc/app/b.py")
    checkout.write("svc/app/a/x", "committed")
    checkout.write("svc/app.py")
    checkout.write("svc/app0/y")
    checkout.write(".gitignore", "*.pyc\n")
    checkout.commit()
    checkout.write("svc/app/a/x", "changed")
    checkout.write("svc/app/new.py")
    checkout.write("svc/app/ignored.pyc")
    (found,) = sources(checkout.root, entry(checkout.root / "svc/app"))
    assert names(found) == [b"a/x", b"b.py"]
    assert [file.path.read_text() for file in found.files] == ["changed", "content\n"]
    assert found.untracked == (checkout.root / "svc/app/new.py",)
    assert found.missing == ()


def test_names_are_sorted_as_bytes_and_may_be_anything(checkout: Checkout) -> None:
    odd = [b"\xff", b"a b", b"new\nline", b'"q"', b"-x", b"a/b", b"a-b", b"\xc3\xa9"]
    for name in odd:
        path = os.path.join(os.fsencode(checkout.root), b"app", name)  # noqa: PTH118
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        Path(os.fsdecode(path)).write_bytes(name)
    checkout.git("add", ".")
    (found,) = sources(checkout.root, entry(checkout.root / "app"))
    assert names(found) == sorted(odd)
    assert [file.path.read_bytes() for file in found.files] == sorted(odd)
    (others,) = sources(checkout.root, entry(checkout.root / "app", tracked=False))
    assert names(others) == sorted(odd)


def test_executable_is_what_git_says(checkout: Checkout) -> None:
    checkout.write("app/run").chmod(0o755)
    checkout.write("app/data").chmod(0o600)
    checkout.commit()
    (checkout.root / "app/run").chmod(0o644)
    (checkout.root / "app/data").chmod(0o777)
    (found,) = sources(checkout.root, entry(checkout.root / "app"))
    assert [(f.name, f.executable) for f in found.files] == [(b"data", False), (b"run", True)]
    (found,) = sources(checkout.root, entry(checkout.root / "app", tracked=False))
    assert [(f.name, f.executable) for f in found.files] == [(b"data", True), (b"run", False)]


def test_a_single_file(checkout: Checkout) -> None:
    checkout.write("app/run")
    checkout.write("app/run2")
    checkout.commit()
    for tracked in (True, False):
        (found,) = sources(checkout.root, entry(checkout.root / "app/run", tracked=tracked))
        assert names(found) == [b""]
        assert found.files[0].path == checkout.root / "app/run"


def test_the_whole_workspace_but_its_locks(checkout: Checkout) -> None:
    checkout.cage("cage.toml", '[cage]\nname = "top"\n' + SMALLEST)
    for name in ("cage.lock", "x.cage.lock", "sub/cage.lock", "cage.lock.txt", "a"):
        checkout.write(name)
    checkout.commit()
    expected = [b"a", b"cage.lock.txt", b"cage.toml"]
    for tracked in (True, False):
        (found,) = sources(checkout.root, entry(checkout.root, tracked=tracked))
        assert names(found) == expected


def test_symlinks_stay_symlinks_wherever_they_lead(checkout: Checkout) -> None:
    (checkout.root / "app").mkdir()
    (checkout.root / "app/etc").symlink_to("/etc")
    (checkout.root / "app/gone").symlink_to("nowhere")
    (checkout.root / "app/up").symlink_to("../..")
    checkout.commit()
    for tracked in (True, False):
        (found,) = sources(checkout.root, entry(checkout.root / "app", tracked=tracked))
        assert names(found) == [b"etc", b"gone", b"up"]
        assert {(file.kind, file.executable) for file in found.files} == {("symlink", False)}


def test_a_source_that_is_a_symlink_is_refused(checkout: Checkout) -> None:
    checkout.write("real/x")
    (checkout.root / "link").symlink_to("real")
    checkout.commit()
    for source in ("link", "link/x"):
        for tracked in (True, False):
            with pytest.raises(SourceError):
                sources(checkout.root, entry(checkout.root / source, tracked=tracked))


def test_a_folder_that_became_a_symlink_is_not_followed(checkout: Checkout) -> None:
    checkout.write("app/etc/passwd")
    checkout.commit()
    (checkout.root / "app/etc/passwd").unlink()
    (checkout.root / "app/etc").rmdir()
    (checkout.root / "app/etc").symlink_to("/etc")
    (found,) = sources(checkout.root, entry(checkout.root / "app"))
    assert found.files == ()
    assert found.missing == (checkout.root / "app/etc/passwd",)


def test_deleted_files_are_missing_and_not_added(checkout: Checkout) -> None:
    checkout.write("app/a")
    checkout.write("app/b")
    checkout.write("app/c")
    checkout.commit()
    (checkout.root / "app/a").unlink()
    (checkout.root / "app/b").unlink()
    (checkout.root / "app/b").mkdir()
    (found,) = sources(checkout.root, entry(checkout.root / "app"))
    assert names(found) == [b"c"]
    assert found.missing == (checkout.root / "app/a", checkout.root / "app/b")


def test_exclusions(checkout: Checkout) -> None:
    for name in ("a.py", "a.pyc", "tests/x", "sub/b.pyc", "sub/tests/y"):
        checkout.write(f"app/{name}")
    checkout.commit()
    checkout.write("app/new.pyc")
    for tracked in (True, False):
        given = entry(checkout.root / "app", tracked=tracked, exclude=("**/*.pyc", "tests"))
        (found,) = sources(checkout.root, given)
        assert names(found) == [b"a.py", b"sub/tests/y"]
        assert found.untracked == ()


def test_everything_that_is_there(checkout: Checkout) -> None:
    checkout.write(".gitignore", "out\n")
    checkout.write("out/bin/tool").chmod(0o755)
    checkout.write("out/.git/config")
    (checkout.root / "out/empty").mkdir()
    (found,) = sources(checkout.root, entry(checkout.root / "out", tracked=False))
    assert [(f.name, f.kind, f.executable) for f in found.files] == [
        (b"bin/tool", "file", True),
        (b"empty", "directory", False),
    ]
    with pytest.raises(SourceError, match="git tracks nothing of //out"):
        sources(checkout.root, entry(checkout.root / "out"))


def test_without_git_everything_is_there(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "app").mkdir()
    (root / "app/x").touch()
    (found,) = sources(root, entry(root / "app"))
    assert names(found) == [b"x"]


@pytest.mark.parametrize("tracked", [True, False])
def test_a_source_that_is_not_there(checkout: Checkout, tracked: bool) -> None:
    checkout.write("app/x")
    checkout.commit()
    with pytest.raises(SourceError, match="//nothing: No such file"):
        sources(checkout.root, entry(checkout.root / "nothing", tracked=tracked))


def test_what_cannot_be_in_an_image(checkout: Checkout) -> None:
    checkout.write("app/x")
    os.mkfifo(checkout.root / "app/pipe")
    with pytest.raises(SourceError, match="neither a file"):
        sources(checkout.root, entry(checkout.root / "app", tracked=False))
    checkout.git("add", "app/x")
    (checkout.root / "app/x").unlink()
    os.mkfifo(checkout.root / "app/x")
    with pytest.raises(SourceError, match="neither a file"):
        sources(checkout.root, entry(checkout.root / "app"))


def test_submodules(checkout: Checkout, tmp_path: Path) -> None:
    library = Checkout(tmp_path / "library")
    library.write("lib.py").chmod(0o755)
    library.commit()
    checkout.write("app/main.py")
    checkout.git("submodule", "--quiet", "add", str(library.root), "app/vendor")
    checkout.commit()
    (found,) = sources(checkout.root, entry(checkout.root / "app"))
    assert [(f.name, f.executable) for f in found.files] == [
        (b"main.py", False),
        (b"vendor/lib.py", True),
    ]
    assert found.untracked == ()
    clone = Checkout(tmp_path / "clone")
    clone.git("pull", "--quiet", str(checkout.root), "main")
    with pytest.raises(SourceError, match="app/vendor is a git submodule") as caught:
        sources(clone.root, entry(clone.root / "app"))
    assert caught.value.hint == "git submodule update --init"


def test_a_conflict_is_one_file(checkout: Checkout) -> None:
    checkout.write("app/x", "base")
    checkout.commit()
    checkout.git("switch", "--quiet", "--create", "other")
    checkout.write("app/x", "other")
    checkout.commit()
    checkout.git("switch", "--quiet", "main")
    checkout.write("app/x", "main")
    checkout.commit()
    with pytest.raises(Exception, match="merge"):
        checkout.git("merge", "--quiet", "other")
    (found,) = sources(checkout.root, entry(checkout.root / "app"))
    assert names(found) == [b"x"]


def test_many_entries_get_their_own_files_from_one_question(checkout: Checkout) -> None:
    for number in range(40):
        checkout.write(f"s{number}/app/f{number}")
        checkout.write(f"s{number}/app0/neighbour")
        checkout.write(f"s{number}/app-neighbour")
    checkout.commit()
    found = sources(
        checkout.root, *(entry(checkout.root / f"s{number}/app") for number in range(40))
    )
    assert [names(one) for one in found] == [[b"f%d" % number] for number in range(40)]
    checkout.write("s7/app/new")
    again = sources(
        checkout.root, *(entry(checkout.root / f"s{number}/app") for number in range(40))
    )
    assert [one.untracked for one in again if one.untracked] == [(checkout.root / "s7/app/new",)]


def test_a_workspace_below_gits_top(checkout: Checkout) -> None:
    checkout.write("above/x")
    checkout.write("team/cage.toml", "[workspace]\n")
    checkout.cage("team/svc/cage.toml")
    checkout.write("team/svc/app/y")
    checkout.commit()
    around = config.load_workspace(checkout.root / "team/svc")
    assert around.root == checkout.root / "team"
    assert [cage.address for cage in workspace.find(around)] == ["//svc"]
    (found,) = workspace.tracked_files(around, [entry(around.root / "svc/app")])
    assert names(found) == [b"y"]


def test_the_callers_git_variables_change_nothing(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are set while a hook runs, and lead to another repository or index."""
    checkout.write("app/x")
    checkout.commit()
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_LITERAL_PATHSPECS"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    (found,) = sources(checkout.root, entry(checkout.root / "app"))
    assert names(found) == [b"x"]


def test_a_source_is_no_pattern(checkout: Checkout) -> None:
    odd = ("a*", "[ab]", ":(top)", ":!a", "a\\b", "-x")
    for name in (*odd, "ab", "a"):
        checkout.write(f"{name}/{name}")
    checkout.commit()
    found = sources(checkout.root, *(entry(checkout.root / name) for name in odd))
    assert [names(one) for one in found] == [[name.encode()] for name in odd]

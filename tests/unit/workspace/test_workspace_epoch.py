"""What git says about time and changes: the epoch policy ``commit``."""

from __future__ import annotations

from pathlib import Path

import pytest

from cagebuild import config, workspace
from cagebuild.errors import SourceError
from tests.support.checkout import Checkout
from tests.support.config import SMALLEST


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "repo")


def time_of(root: Path, *names: str) -> int | None:
    return workspace.last_commit_time(config.load_workspace(root), [root / name for name in names])


def test_the_last_commit_that_touched_any_of_the_paths(checkout: Checkout) -> None:
    checkout.write("a/x")
    checkout.commit(1000)
    checkout.write("b/x")
    checkout.commit(2000)
    checkout.write("c")
    checkout.commit(3000)
    assert time_of(checkout.root, "a") == 1000
    assert time_of(checkout.root, "a", "b") == 2000
    assert time_of(checkout.root, "") == 3000
    assert time_of(checkout.root, "a", "nowhere") == 1000
    (checkout.root / "a/x").unlink()
    checkout.commit(4000)
    assert time_of(checkout.root, "a") == 4000


def test_a_path_is_no_pattern(checkout: Checkout) -> None:
    checkout.write("a*/x")
    checkout.write(":!a/x")
    checkout.commit(1000)
    checkout.write("ab/x")
    checkout.commit(2000)
    assert time_of(checkout.root, "a*") == time_of(checkout.root, ":!a") == 1000
    checkout.write("ab/x", "changed")
    assert not workspace.is_dirty(config.load_workspace(checkout.root), [checkout.root / "a*"])


def test_a_lock_alone_does_not_count(checkout: Checkout) -> None:
    """Else committing a lock would make it stale."""
    checkout.write("a/x")
    checkout.commit(1000)
    checkout.write("a/cage.lock")
    checkout.write("a/b/debug.cage.lock")
    checkout.write("cage.lock")
    checkout.commit(2000)
    assert time_of(checkout.root, "a") == time_of(checkout.root, "") == 1000
    checkout.write("a/cage.lock", "changed")
    checkout.write("a/x", "changed")
    checkout.commit(3000)
    assert time_of(checkout.root, "a") == 3000


def test_no_commit_no_time(checkout: Checkout, tmp_path: Path) -> None:
    checkout.write("a")
    assert time_of(checkout.root, "a") is None
    checkout.git("add", "a")
    assert time_of(checkout.root, "a") is None
    checkout.commit()
    assert time_of(checkout.root, "b") is None
    (tmp_path / "plain").mkdir()
    assert time_of((tmp_path / "plain").resolve(), "a") is None


def test_a_shallow_clone_does_not_make_times_up(checkout: Checkout, tmp_path: Path) -> None:
    checkout.write("a")
    checkout.commit(1000)
    checkout.write("b")
    checkout.commit(2000)
    checkout.write("c")
    checkout.commit(3000)
    clone = tmp_path.resolve() / "clone"
    checkout.git("clone", "--quiet", "--depth=2", f"file://{checkout.root}", str(clone))
    assert time_of(clone, "c") == 3000
    with pytest.raises(SourceError, match="shallow") as caught:
        time_of(clone, "a")
    assert "--unshallow" in caught.value.hint


def test_what_the_user_set_changes_nothing(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout.write("a")
    checkout.commit(1000)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[log]\nshowSignature = true\ndate = relative\n[color]\nui = always\n"
        "[status]\nrelativePaths = false\nshort = true\nshowUntrackedFiles = all\n"
    )
    monkeypatch.setenv("HOME", str(home))
    assert time_of(checkout.root, "a") == 1000
    checkout.write("untracked")
    assert not workspace.is_dirty(config.load_workspace(checkout.root), [checkout.root])


def test_dirty(checkout: Checkout) -> None:
    checkout.write("a/x")
    checkout.write("b/x")
    checkout.commit()
    around = config.load_workspace(checkout.root)

    def dirty(name: str) -> bool:
        return workspace.is_dirty(around, [checkout.root / name])

    checkout.write("a/untracked")
    checkout.write("a/cage.lock")
    checkout.git("add", "a/cage.lock")
    assert not dirty("a")
    checkout.write("a/x", "changed")
    assert dirty("a")
    assert not dirty("b")
    checkout.git("add", "a/x")
    assert dirty("a")
    checkout.commit()
    (checkout.root / "b/x").unlink()
    assert dirty("b")
    assert not dirty("a")


def test_without_git_nothing_is_dirty(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    assert not workspace.is_dirty(config.load_workspace(root), [root])


def test_the_inputs_of_a_cage(checkout: Checkout) -> None:
    text = SMALLEST.replace("scratch = true", 'archive = "//images/base.tar"') + (
        '[[app.files]]\nsource = "src"\ndestination = "/srv"\n'
        '[enclave]\nboot = { kernel = "k", init = "i", cmdline = "c", nsm = "n" }\n'
        '[signing]\ncertificate = "cert.pem"\nkey = "key.pem"\n'
    )
    file = checkout.cage("svc/cage.toml", text)
    cage = config.load(file, config.load_workspace(checkout.root))
    found = [path.relative_to(checkout.root).as_posix() for path in workspace.inputs(cage)]
    assert found == [
        "images/base.tar",
        "svc/c",
        "svc/cage.toml",
        "svc/cert.pem",
        "svc/i",
        "svc/k",
        "svc/n",
        "svc/src",
    ]
    file.write_text(SMALLEST.replace("scratch = true", 'dockerfile = "Dockerfile"'))
    cage = config.load(file, config.load_workspace(checkout.root))
    assert checkout.root / "svc" in workspace.inputs(cage)

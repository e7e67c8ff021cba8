"""Mistakes of every day: what is on the screen, with which exit code, and how it goes on."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.e2e import OWN_BOOT, Repo

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

CAGE = f"""\
runtime = false

[base]
scratch = true

[app]
command = ["/srv/run"]

[[app.files]]
source = "src"
destination = "/srv"

[epoch]
policy = "zero"

{OWN_BOOT}"""


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """Two cages, locked and committed."""
    repo = Repo(tmp_path / "repo", tmp_path / "store")
    repo.boot()
    repo.write("cage.toml", '[workspace]\ncages = ["services/*"]\n')
    for name in ("pay", "mail"):
        repo.write(f"services/{name}/cage.toml", CAGE)
        repo.write(f"services/{name}/src/run", f"program of {name}\n", mode=0o755)
    repo.commit()
    repo.invoke("lock")
    repo.commit()
    return repo


def test_no_lock(repo: Repo) -> None:
    (repo.root / "services/pay/cage.lock").unlink()
    for command in ("build", "pcr", "plan", "graph", "export"):
        missing = repo.invoke(command, "//services/pay", code=20)
        assert "//services/pay has no lock" in missing.err
        assert "help: pin what it is built from: invoke lock //services/pay" in missing.err
        assert missing.out == ""
    repo.invoke("check", "//services/pay")
    repo.invoke("build", "//services/mail")


def test_a_lock_of_another_cage_toml(repo: Repo) -> None:
    repo.replace("services/pay/cage.toml", '"/srv/run"', '"/srv/run", "--fast"')
    for command in ("build", "pcr", "plan", "check"):
        stale = repo.invoke(command, code=21)
        assert "//services/pay: cage.toml was changed after cage.lock was made" in stale.err
        assert "invoke lock //services/pay" in stale.err
    assert "//services/mail: nothing moved" not in repo.invoke("lock", "//services/pay").out
    repo.invoke("build")


def test_a_comment_does_not_make_a_lock_stale(repo: Repo) -> None:
    text = (repo.root / "services/pay/cage.toml").read_text()
    repo.write("services/pay/cage.toml", f"# why it is fast\n{text}")
    assert "as in cage.lock" in repo.invoke("build", "//services/pay").out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("{", "not JSON"),
        ("<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> branch\n", "not JSON"),
        ("{}", "cage.lock"),
        ("[" * 100_000, "cage.lock"),
    ],
    ids=["cut off", "merge conflict", "empty", "nested"],
)
def test_a_damaged_lock(repo: Repo, damage: str, said: str) -> None:
    repo.write("services/pay/cage.lock", damage)
    refused = repo.invoke("build", code=20)
    assert "services/pay/cage.lock" in refused.err
    assert said in refused.err
    assert "help: " in refused.err
    repo.invoke("lock", "//services/pay")
    repo.invoke("build")


@pytest.mark.parametrize(
    ("word", "likely"),
    [
        ("//services/pya", "//services/pay"),
        ("services/mial", "//services/mail"),
        ("pya", "'pay'"),
        ("//service/pay", "//services/pay"),
    ],
)
def test_an_unknown_target(repo: Repo, word: str, likely: str) -> None:
    unknown = repo.invoke("build", word, code=2)
    assert f"'{word}'" in unknown.err
    assert likely in unknown.err.partition("help:")[2]
    assert not (repo.root / "dist").exists()


def test_a_folder_without_cages(repo: Repo) -> None:
    repo.write("docs/page.md", "words")
    nothing = repo.invoke("build", "docs/...", code=2)
    assert "docs" in nothing.err


def test_broken_toml(repo: Repo) -> None:
    repo.write("services/pay/cage.toml", CAGE.replace("scratch = true", "scratch = tru"))
    for command in ("build", "check", "lock", "cages"):
        broken = repo.invoke(command, code=11)
        assert "services/pay/cage.toml:4:11" in broken.err
        assert "4 | scratch = tru\n" in broken.err
        assert "^" in broken.err


def test_several_mistakes_in_several_cages_are_told_at_once(repo: Repo) -> None:
    repo.replace("services/pay/cage.toml", "command", "comand")
    repo.replace("services/pay/cage.toml", '"zero"', '"never"')
    repo.replace("services/mail/cage.toml", 'destination = "/srv"', 'destination = "srv"')
    wrong = repo.invoke("check", code=10)
    expected = (
        "services/mail/cage.toml:11:15: app.files[0].destination",
        "services/pay/cage.toml:6:2: app.command: missing",
        "services/pay/cage.toml:7:1: app.comand: unknown key",
        "help: did you mean 'command'?",
        "services/pay/cage.toml:14:10: epoch.policy",
        "4 mistakes in the configuration",
    )
    places = [wrong.err.index(words) for words in expected]
    assert places == sorted(places)


def test_a_missing_source(repo: Repo) -> None:
    shutil.rmtree(repo.root / "services/pay/src")
    missing = repo.invoke("build", "//services/pay", code=12)
    assert "//services/pay/src" in missing.err
    assert "help: " in missing.err


def test_one_of_several_files_is_missing(repo: Repo) -> None:
    repo.write("services/pay/src/more", "more")
    repo.commit()
    repo.invoke("lock")
    (repo.root / "services/pay/src/more").unlink()
    built = repo.invoke("build", "//services/pay")
    assert "warning: //services/pay: services/pay/src/more" in built.err
    assert "not there" in built.err
    assert "not as in cage.lock" in built.out
    assert "rootfs/srv/more" in built.out


def test_a_file_that_git_does_not_track(repo: Repo) -> None:
    repo.write("services/pay/src/new.py", "new")
    built = repo.invoke("build", "//services/pay")
    assert "warning: //services/pay: services/pay/src/new.py" in built.err
    assert "git add" in built.err
    assert "as in cage.lock" in built.out
    manifest = (repo.dist("pay") / "manifest.json").read_text()
    assert "new.py" not in manifest
    repo.checkout.git("add", "services/pay/src/new.py")
    added = repo.invoke("build", "//services/pay")
    assert added.err.count("warning") == 0
    assert "new.py" in added.out
    assert "to accept: invoke lock //services/pay" in added.out
    assert "PCR2" in repo.invoke("pcr", "//services/pay", code=60).out


def test_an_ignored_file_is_neither_added_nor_warned_of(repo: Repo) -> None:
    repo.write("services/pay/src/.gitignore", "*.log\n")
    repo.commit()
    repo.invoke("lock")
    repo.write("services/pay/src/debug.log", "secret")
    built = repo.invoke("build", "//services/pay")
    assert "debug.log" not in built.screen
    assert "debug.log" not in (repo.dist("pay") / "manifest.json").read_text()


def test_a_tarball_of_the_sources_without_git_comes_to_the_same_pcrs(
    repo: Repo, tmp_path: Path
) -> None:
    expected = repo.invoke("build").pcrs()
    tarball = tmp_path / "source.tar"
    repo.checkout.git("archive", f"--output={tarball}", "HEAD")
    copy = Repo(tmp_path / "unpacked", tmp_path / "other-store")
    shutil.unpack_archive(tarball, copy.root)
    shutil.rmtree(copy.root / ".git")
    assert copy.invoke("build").pcrs() == expected
    assert copy.invoke("lock").out.count("nothing moved") == 2


def test_the_policy_commit_without_git_is_told(repo: Repo, tmp_path: Path) -> None:
    copy = Repo(tmp_path / "unpacked", tmp_path / "other-store")
    shutil.copytree(repo.root, copy.root, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    shutil.rmtree(copy.root / ".git")
    copy.replace("services/pay/cage.toml", '"zero"', '"commit"')
    refused = copy.invoke("lock", code=22)
    assert "epoch.policy is 'commit'" in refused.err
    assert '"zero"' in refused.err


def test_a_store_that_is_none(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/photo.jpg").write_text("a photo")
    refused = repo.invoke("build", code=70, CAGEBUILD_STORE=str(tmp_path / "precious"))
    assert "not a store" in refused.err
    assert sorted(path.name for path in (tmp_path / "precious").iterdir()) == ["photo.jpg"]


def test_boot_files_of_the_wrong_kind(repo: Repo) -> None:
    repo.write("boot/kernel", b"\x7fELF and so on")
    repo.commit()
    refused = repo.invoke("lock", code=71)
    assert "bzImage" in refused.err
    assert "a bug" not in refused.err


def test_results_in_the_way_are_replaced_and_a_folder_in_their_place_is_told(repo: Repo) -> None:
    repo.invoke("build", "//services/pay")
    file = repo.dist("pay") / "pay.eif"
    good = file.read_bytes()
    file.write_bytes(b"half an image")
    repo.invoke("build", "//services/pay")
    assert file.read_bytes() == good
    file.unlink()
    file.mkdir()
    refused = repo.invoke("build", "//services/pay", code=71)
    assert "pay.eif" in refused.err
    assert "a bug" not in refused.err


def test_plan_and_graph_need_neither_a_build_nor_a_network(repo: Repo) -> None:
    plan = json.loads(repo.invoke("plan", "--json", prefix=("unshare", "-n")).out)
    assert plan.keys() == {"//services/mail", "//services/pay"}
    assert "graph" in repo.invoke("graph", prefix=("unshare", "-n")).out
    assert "digraph" in repo.invoke("graph", "--format", "dot", prefix=("unshare", "-n")).out

"""The example monorepo as another team's repository: addresses, subfolders, what cages share."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.e2e import PROJECT, Lab, Repo, image_file, rootfs, settings, shared_lab

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network]

ALL = ["//services/mail", "//services/mail:digest", "//services/pay", "//services/site"]
NAMES = ["digest", "mail", "pay", "site"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(tmp_path_factory)


@pytest.fixture(scope="module")
def example(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The example in a repository of its own, with this version's runtime, locked and committed.

    The store has what the sample cage was made from, and nothing of the example.
    """
    _ = lab.service
    repo = Repo(tmp_path_factory.mktemp("monorepo") / "repo", lab.store)
    source = PROJECT / "examples/monorepo"
    ignored = shutil.ignore_patterns("dist", "__pycache__")
    shutil.copytree(source, repo.root, ignore=ignored, dirs_exist_ok=True)
    repo.commit()
    repo.invoke("lock", "--update", "runtime")
    repo.commit()
    return repo


def addresses(repo: Repo, *words: str, cwd: str = ".") -> list[str]:
    """The cages that words mean."""
    return [line.split()[0] for line in repo.invoke("cages", *words, cwd=cwd).out.splitlines()]


def test_the_example_is_locked_for_what_it_says(lab: Lab) -> None:
    """What is in this repository, as it is: nobody has to lock it first."""
    _ = lab.service
    repo = Repo(lab.folder / "as-it-is", lab.store)
    source = PROJECT / "examples/monorepo"
    shutil.copytree(source, repo.root, ignore=shutil.ignore_patterns("dist"), dirs_exist_ok=True)
    repo.commit()
    assert repo.invoke("check").out == "4 cages: no mistakes\n"


def test_addresses(example: Repo) -> None:
    assert addresses(example) == ALL
    assert addresses(example, "//services/pay") == ["//services/pay"]
    assert addresses(example, "services/...") == ALL
    assert addresses(example, "services/pay") == ["//services/pay"]
    assert addresses(example, "pay", "//services/site") == ["//services/pay", "//services/site"]
    assert addresses(example, "//services/mail:digest") == ["//services/mail:digest"]
    assert addresses(example, "//services/mail/...") == ALL[:2]


def test_addresses_from_a_subfolder(example: Repo) -> None:
    assert addresses(example, "...", cwd="services/mail") == ALL[:2]
    assert addresses(example, "../pay", cwd="services/mail") == ["//services/pay"]
    assert addresses(example, "//services/pay", cwd="services/mail/app") == ["//services/pay"]
    assert addresses(example, ".", cwd="services/site") == ["//services/site"]
    assert "1 cage: no mistakes" in example.invoke("check", cwd="services/pay").out
    below = example.invoke("check", cwd="services/pay/app", code=2)
    assert "there are no cages at or below" in below.err
    assert "'//services/pay'" in below.err


def plans(repo: Repo) -> dict[str, list[dict[str, Any]]]:
    """The steps of every cage."""
    found: dict[str, list[dict[str, Any]]] = json.loads(repo.invoke("plan", "--json").out)
    return found


def test_cages_with_the_same_packages_share_their_fetches(example: Repo) -> None:
    fetches = {
        address: {step["name"]: step["id"] for step in steps if step["kind"] == "fetch"}
        for address, steps in plans(example).items()
    }
    pay, mail = fetches["//services/pay"], fetches["//services/mail"]
    shared = pay.keys() & mail.keys()
    assert any(name.startswith("fetch python3.11-minimal ") for name in shared)
    assert {name: pay[name] for name in shared} == {name: mail[name] for name in shared}
    # Another workspace's cage has left them in the store.
    bases = {
        address: [step["id"] for step in steps if step["kind"] == "debian-base"]
        for address, steps in plans(example).items()
    }
    assert bases["//services/mail"] == bases["//services/mail:digest"]


def test_every_cage_is_built_from_a_subfolder_and_as_locked(example: Repo) -> None:
    example.forget()
    built = example.invoke("build", "//services/...", cwd="services/pay")
    assert list(built.pcrs()) == ALL
    assert built.out.count("as in ") == len(ALL)
    assert sorted(path.name for path in (example.root / "dist").iterdir()) == NAMES
    assert not (example.root / "services/pay/dist").exists()
    assert not [name for name in built.ran() if name.startswith(("fetch ", "build the runtime"))]
    again = example.invoke("build", cwd="services/pay")
    assert list(again.pcrs()) == ["//services/pay"]
    assert again.err == ""


def test_cages_inherit_and_overrule_the_workspaces_defaults(example: Repo) -> None:
    example.invoke("build")
    images = {name: image_file(example.dist(name) / f"{name}.eif") for name in NAMES}
    assert settings(images["pay"])["argv"] == ["python3", "-B", "/srv/pay/pay.py"]
    assert settings(images["mail"])["egress"] == [
        {"host": "*.directory.example.com", "port": 443},
        {"host": "smtp.example.com", "port": 465},
    ]
    assert settings(images["site"])["egress"] == []
    times = {name: rootfs(image)["cage/etc/cage.json"].mtime for name, image in images.items()}
    assert times["site"] == 1_767_225_600, "its own, fixed"
    for name in ("pay", "mail"):
        assert times[name] == example.lock(f"services/{name}/cage.lock")["epoch"]["time"]
    assert "usr/bin/python3" not in rootfs(images["site"])


def test_a_change_in_one_cage_moves_that_cage_only(example: Repo, tmp_path: Path) -> None:
    clone = example.clone(tmp_path / "clone")
    clone.invoke("build")
    clone.replace("services/pay/app/pay.py", "import ", "import  ")
    built = clone.invoke("build")
    assert built.out.count("as in ") == len(ALL), "'not as in' for one"
    assert built.out.count("not as in cage.lock") == 1
    assert "to accept: invoke lock //services/pay" in built.out
    assert "rootfs/srv/pay/pay.py" in built.out
    ran = built.ran()
    assert ran == ["app files", "image pay", "eif pay"]
    locked = clone.invoke("lock")
    assert locked.out.count("nothing moved") == len(ALL) - 1
    changed = clone.checkout.git("status", "--porcelain").split()
    assert changed == ["M", "services/pay/app/pay.py", "M", "services/pay/cage.lock"]


def test_diff_of_two_revisions_of_a_cage(example: Repo, tmp_path: Path) -> None:
    clone = example.clone(tmp_path / "clone")
    clone.replace("services/site/pages/index.html", "<", "<!-- new --><")
    clone.commit(time=1_900_000_000)
    found = clone.invoke("diff", "HEAD~1//services/site", "HEAD//services/site").out
    assert "rootfs/srv/site/index.html" in found
    assert "PCR2 moved" in found
    assert "PCR1 moved" not in found
    same = clone.invoke("diff", "HEAD~1//services/pay", "HEAD//services/pay").out
    assert same.startswith("no difference")
    assert clone.checkout.git("status", "--porcelain") == ""
    assert clone.checkout.git("worktree", "list").count("\n") == 1, "no worktree stays behind"

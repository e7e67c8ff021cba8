"""The same commit under conditions that are as unlike as one machine allows."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.e2e import OWN_BOOT, Lab, Repo, as_nobody, open_folder, shared_lab
from tests.support.runtime import needs_root
from tests.support.tars import archive, directory, regular, symlink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network]

CAGE = """\
[cage]
name = "pay"

[base]
archive = "base.tar"

[app]
command = ["/srv/run"]
user = "1000:1000"
workdir = "/srv/data"
env = {{ GREETING = "Grüße", A = "1", B = "2" }}

[[app.files]]
source = "src"
destination = "/srv"
owner = "1000:1000"

[[app.files]]
source = "conf"
destination = "/etc/pay"
mode = "0600"
exclude = ["*.md"]

[[ingress]]
port = 8080

[[ingress]]
port = 8443

[egress]
allow = ["b.example.com:443", "a.example.com:443"]

{rest}
"""
NAMES = ["a", "A", "b-c", "b/c", "b.c", "z z", "ö", "日本", "0", "~", "deep/er/still/file"]


def docker_archive() -> bytes:
    """A base of one layer."""
    from tests.support.images import Files, named

    made = Files()
    layer = archive(directory("etc"), regular("etc/os-release", b"x\n"), symlink("lib", "usr/lib"))
    return made.layout(named(made.image(layer), "base")).tar()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(tmp_path_factory)


@pytest.fixture(scope="module")
def pay(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A cage with a bit of everything, its epoch that of a commit, locked and built."""
    folder = tmp_path_factory.mktemp("pay")
    repo = Repo(folder / "repo", folder / "store")
    repo.boot()
    repo.write("base.tar", docker_archive())
    for number, name in enumerate(NAMES):
        mode = 0o755 if number % 2 else 0o644
        repo.write(f"src/{name}", f"{number} {name}\n" * 1000, mode=mode)
        repo.write(f"conf/{name}", f"{name} = {number}\n")
    repo.write("src/run", b"#!/srv/a\n", mode=0o755)
    (repo.root / "src/link").symlink_to("../nowhere/at all")
    repo.write("conf/read.md", "not added")
    repo.write("cage.toml", CAGE.format(rest=f"{lab.runtime}\n{lab.workspace}\n{OWN_BOOT}"))
    repo.commit()
    repo.invoke("lock")
    repo.commit(time=1_800_000_000)
    repo.invoke("build")
    return repo


def results(repo: Repo) -> dict[str, bytes]:
    """Every file that a build left."""
    return {path.name: path.read_bytes() for path in repo.dist("pay").iterdir()}


def assert_same(repo: Repo, pay: Repo) -> None:
    assert results(repo) == results(pay), "not equal byte for byte"


CONDITIONS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "one step at a time": (("--jobs", "1"), {}),
    "four steps at once": (("--jobs", "4"), {}),
    "time zone": ((), {"TZ": "Pacific/Chatham"}),
    "locale": ((), {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "1"}),
    "hash seed": ((), {"PYTHONHASHSEED": "77"}),
    "another day": ((), {"SOURCE_DATE_EPOCH": "1234567890"}),
    "another home and user name": ((), {"HOME": "/", "USER": "mallory", "LOGNAME": "mallory"}),
    "variables of git": ((), {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.quotePath",
                              "GIT_CONFIG_VALUE_0": "false"}),
}  # fmt: skip


@pytest.mark.parametrize("condition", CONDITIONS)
def test_from_an_empty_store_under(pay: Repo, tmp_path: Path, condition: str) -> None:
    words, environment = CONDITIONS[condition]
    clone = pay.clone(tmp_path / "clone", CAGEBUILD_STORE=str(tmp_path / "store"))
    clone.environment |= environment
    built = clone.invoke("build", *words)
    assert "as in cage.lock" in built.out
    assert_same(clone, pay)


def test_from_a_warm_store_in_another_place(pay: Repo, tmp_path: Path) -> None:
    clone = pay.clone(tmp_path / "a place/with spaces & ümläuts" / ("long" * 40))
    built = clone.invoke("build")
    assert "0 ran" in built.err
    assert_same(clone, pay)


@needs_root
def test_as_another_user_with_a_strict_umask_in_a_checkout_of_its_own(lab: Lab, pay: Repo) -> None:
    for folder in open_folder():
        home = folder / "home"
        home.mkdir()
        clone = pay.clone(home / "clone", CAGEBUILD_STORE=str(home / "store"))
        shutil.copytree(lab.mirror, home / "mirror")
        clone.replace("cage.toml", str(lab.mirror), str(home / "mirror"))
        for path in (home, *home.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
        with_umask = ("sh", "-c", 'umask 077; exec "$@"', "-")
        built = clone.invoke("build", prefix=(*as_nobody(), *with_umask))
        assert "as in cage.lock" in built.out
        assert_same(clone, pay)
        assert clone.dist("pay").stat().st_uid == 65534


def test_from_files_that_were_made_in_another_order_with_other_modes_and_times(
    pay: Repo, tmp_path: Path
) -> None:
    clone = pay.clone(tmp_path / "clone", CAGEBUILD_STORE=str(tmp_path / "store"))
    order = random.Random(4)
    files = [path for path in clone.root.rglob("*") if ".git" not in path.parts]
    regular_files = sorted(path for path in files if path.is_file() and not path.is_symlink())
    order.shuffle(regular_files)
    contents = {path: (path.read_bytes(), path.stat().st_mode) for path in regular_files}
    for path in regular_files:
        path.unlink()
    for number, (path, (data, mode)) in enumerate(contents.items()):
        path.write_bytes(data)
        # Of a mode git keeps but the executable bit.
        path.chmod(0o700 if mode & 0o100 else 0o600)
        os.utime(path, (number * 1000, number * 1000))
    for folder in (path for path in files if path.is_dir()):
        folder.chmod(0o777)
    assert clone.checkout.git("status", "--porcelain") == ""
    assert "as in cage.lock" in clone.invoke("build").out
    assert_same(clone, pay)


def test_after_git_has_packed_its_objects_and_in_a_worktree(pay: Repo, tmp_path: Path) -> None:
    clone = pay.clone(tmp_path / "clone", CAGEBUILD_STORE=str(tmp_path / "store"))
    clone.checkout.git("gc", "--quiet", "--aggressive", "--prune=now")
    clone.invoke("build")
    assert_same(clone, pay)
    clone.checkout.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    tree = Repo.__new__(Repo)
    tree.checkout, tree.root = clone.checkout, tmp_path / "tree"
    tree.environment = {**clone.environment, "CAGEBUILD_STORE": str(tmp_path / "third")}
    tree.invoke("build")
    assert_same(tree, pay)


def test_a_lock_made_anew_is_the_same_bytes(pay: Repo, tmp_path: Path) -> None:
    clone = pay.clone(tmp_path / "clone", CAGEBUILD_STORE=str(tmp_path / "store"))
    lock = clone.root / "cage.lock"
    before = lock.read_bytes()
    lock.unlink()
    clone.invoke("lock", TZ="Asia/Tokyo", PYTHONHASHSEED="1")
    assert lock.read_bytes() == before


def test_a_shallow_clone_builds_what_was_locked(pay: Repo, tmp_path: Path) -> None:
    root = tmp_path / "shallow"
    pay.checkout.git("clone", "--quiet", "--depth=1", f"file://{pay.root}", str(root))
    shallow = pay.clone(tmp_path / "clone")
    shallow.root = root
    assert "as in cage.lock" in shallow.invoke("build").out
    assert_same(shallow, pay)
    assert shallow.invoke("lock").out == "//:pay  cage.lock: nothing moved\n"


@pytest.fixture(autouse=True)
def _nothing_left_in_the_checkout(pay: Repo) -> Iterator[None]:
    """No test changes what all compare with."""
    before = results(pay)
    yield
    assert results(pay) == before

"""``nox -s pcr`` as a monorepo's CI runs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.e2e import OWN_BOOT, Ended, Repo

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

CAGE = f"""\
runtime = false

[base]
archive = "base.tar"

[app]
command = ["/srv/run"]

[[app.files]]
source = "src"
destination = "/srv"

{OWN_BOOT}"""


def base() -> bytes:
    """A base of one layer."""
    from tests.support.images import Files, named
    from tests.support.tars import archive, regular

    made = Files()
    return made.layout(named(made.image(archive(regular("etc/base", b"1"))), "base")).tar()


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """Two cages, locked and committed."""
    repo = Repo(tmp_path / "repo", tmp_path / "store")
    repo.boot()
    repo.write("cage.toml", "[workspace]\n")
    for name in ("pay", "mail"):
        repo.write(f"services/{name}/cage.toml", CAGE)
        repo.write(f"services/{name}/base.tar", base())
        repo.write(f"services/{name}/src/run", f"program of {name}\n", mode=0o755)
        repo.write(f"services/{name}/src/limits.json", "{}\n")
    repo.commit()
    repo.invoke("lock")
    repo.commit()
    return repo


def pcr(repo: Repo, *words: str, code: int = 0, cwd: str = ".") -> Ended:
    """Run the session."""
    separated = ("--", *words) if words else ()
    ended = repo.start("-s", "pcr", *separated, program="nox", cwd=cwd).end()
    assert ended.code == code, ended.screen
    return ended


def test_what_was_locked_passes(repo: Repo) -> None:
    passed = pcr(repo)
    assert "//services/mail: equal twice, and as in the lock" in passed.out
    assert "//services/pay: equal twice, and as in the lock" in passed.out
    assert repo.checkout.git("status", "--porcelain") == ""
    assert not (repo.root / "dist").exists(), "it builds in copies"


def test_an_edited_file_is_named(repo: Repo) -> None:
    repo.write("services/pay/src/limits.json", '{"most": 10}\n')
    failed = pcr(repo, code=1)
    assert "//services/mail: equal twice, and as in the lock" in failed.out
    assert "//services/pay: differs" in failed.out
    assert "rootfs/srv/limits.json" in failed.out
    assert "content: got sha256:" in failed.out
    assert "rootfs/srv/run" not in failed.out
    assert "PCR0 got" in failed.out
    assert "PCR2 got" in failed.out
    assert "PCR1 got" not in failed.out
    assert "cagebuild-pcr-" not in failed.screen, "a path that is gone by now"
    assert "not reproducible, or not as locked: //services/pay" in failed.screen
    # The same after a commit without a new lock.
    repo.commit(time=1_900_000_000)
    assert "rootfs/srv/limits.json" in pcr(repo, "//services/pay", code=1).out
    repo.invoke("lock")
    repo.commit(time=1_900_000_001)
    pcr(repo, "//services/pay")


def test_a_wrong_pcr_in_the_lock_is_told_as_such(repo: Repo) -> None:
    lock = repo.lock("services/pay/cage.lock")
    lock["expected"]["PCR2"] = "ab" * 48
    repo.write("services/pay/cage.lock", json.dumps(lock, indent=1, sort_keys=True) + "\n")
    repo.commit()
    failed = pcr(repo, "services/pay", code=1)
    assert "//services/pay: differs" in failed.out
    assert "PCR2 expected " + "ab" * 48 in failed.out
    assert "which last changed the lock, gives the same: the lock is wrong" in failed.out


def test_a_stale_lock_stops_before_anything_is_built(repo: Repo) -> None:
    repo.replace("services/pay/cage.toml", '"/srv/run"', '"/srv/run", "--fast"')
    failed = pcr(repo, code=1)
    assert "cage.toml was changed after cage.lock was made" in failed.screen
    assert "invoke lock //services/pay" in failed.screen


def test_a_build_that_is_not_reproducible_is_caught(repo: Repo) -> None:
    """Files that are made before the build are the user's to make alike; here they are not."""
    repo.write(
        "tasks.py",
        "import os, pathlib\n"
        "pathlib.Path('services/pay/src/limits.json').write_text(os.environ.get('TZ', ''))\n"
        "from cagebuild.tasks import *\n",
    )
    repo.commit()
    failed = pcr(repo, "//services/pay", code=1)
    assert "//services/pay: differs\nthe first build and the second build differ:" in failed.out
    assert "rootfs/srv/limits.json" in failed.out


def test_an_unknown_cage_is_told(repo: Repo) -> None:
    assert "//services/pay" in pcr(repo, "//services/pya", code=1).screen

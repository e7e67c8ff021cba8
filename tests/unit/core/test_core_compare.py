"""``invoke diff``: manifests, image files, locks, folders of results, cages and git revisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.workspaces import CAGE, Workspace, tree_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One cage at two commits, ``HEAD~`` and ``HEAD``, each with its lock; the first is tagged."""
    made = Workspace(tmp_path)
    made.add("pay", note="first\n")
    made.ok("lock")
    made.commit()
    made.checkout.git("tag", "v1")
    made.write("pay/src/note", "second, longer\n")
    made.ok("lock")
    made.commit(1_800_000_000)
    return made


def at(workspace: Workspace, revision: str, name: str) -> str:
    """A file of the repository."""
    return workspace.checkout.git("show", f"{revision}:{name}")


MOVED = ["PCR0 moved: ramdisk 1", "PCR2 moved: ramdisk 1"]


def told(answer_lines: list[str]) -> list[str]:
    """The lines that say which PCRs moved."""
    return [line for line in answer_lines if " moved" in line]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("HEAD~//pay", "//pay"),
        ("HEAD~//pay", "HEAD//pay"),
        ("v1//pay", "main//pay"),
        ("HEAD^//pay", "pay"),
    ],
)
def test_a_revision_with_a_revision_or_with_what_there_is_now(
    workspace: Workspace, a: str, b: str
) -> None:
    if b == "pay":
        workspace.ok("build")
        b = "dist/pay"
    answer = workspace.ok("diff", a, b)
    assert told(answer.lines) == MOVED
    assert answer.lines[0] == f"expected: {a}"
    assert any("rootfs/srv/note" in line for line in answer.lines)
    assert not any("rootfs/srv/run" in line for line in answer.lines)


def test_a_revision_alone_is_the_cage_of_the_current_folder(workspace: Workspace) -> None:
    answer = workspace.ok("diff", "HEAD~", "HEAD", cwd=workspace.root / "pay")
    assert told(answer.lines) == MOVED


def test_a_revision_in_a_workspace_below_the_checkouts_top(tmp_path: Path) -> None:
    """The workspace is a folder of a larger repository."""
    workspace = Workspace(tmp_path)
    text = (workspace.root / "cage.toml").read_text()
    (workspace.root / "cage.toml").unlink()
    workspace.write("inner/cage.toml", text)
    (workspace.root / "boot").rename(workspace.root / "inner/boot")
    workspace.add("inner/pay")
    inner = workspace.root / "inner"
    workspace.ok("lock", cwd=inner)
    workspace.commit()
    workspace.write("inner/pay/src/run", "#!other\n", mode=0o755)
    answer = workspace.ok("diff", "HEAD//pay", "//pay", cwd=inner)
    assert told(answer.lines) == MOVED


def test_a_revision_with_itself_differs_in_nothing(workspace: Workspace) -> None:
    answer = workspace.ok("diff", "HEAD//pay", "//pay")
    assert answer.lines == ["no difference: //pay measures as HEAD//pay"]


def test_comparing_with_a_revision_changes_nothing_here(workspace: Workspace) -> None:
    workspace.write("pay/src/note", "not committed\n")
    before = {path: path.read_bytes() for path in tree_files(workspace.root / "pay")}
    status = workspace.checkout.git("status", "--porcelain")
    workspace.ok("diff", "HEAD~//pay", "//pay")
    assert {path: path.read_bytes() for path in tree_files(workspace.root / "pay")} == before
    assert workspace.checkout.git("status", "--porcelain") == status
    assert workspace.checkout.git("worktree", "list").count("\n") == 1
    assert not (workspace.root / "dist").exists()


def test_what_is_not_committed_is_no_part_of_a_revision(workspace: Workspace) -> None:
    workspace.write("pay/src/note", "not committed\n")
    answer = workspace.ok("diff", "HEAD//pay", "//pay")
    assert told(answer.lines) == MOVED


def test_two_image_files_two_manifests_and_two_folders_say_the_same(workspace: Workspace) -> None:
    workspace.ok("build")
    (workspace.root / "dist").rename(workspace.root / "new")
    workspace.checkout.git("checkout", "--quiet", "v1")
    workspace.ok("build")
    found = []
    for name in ("", "/pay.eif", "/manifest.json"):
        answer = workspace.ok("diff", f"dist/pay{name}", f"new/pay{name}")
        assert told(answer.lines) == MOVED
        found.append([line for line in answer.lines[2:] if "app:" not in line])
        assert any("rootfs/srv/note" in line for line in answer.lines)
    assert found[0] == found[2]


def test_an_image_file_and_a_manifest_can_be_compared(workspace: Workspace) -> None:
    workspace.ok("build")
    answer = workspace.ok("diff", "dist/pay/manifest.json", "dist/pay/pay.eif")
    assert answer.lines[0].startswith("no difference")


def test_two_locks(workspace: Workspace) -> None:
    workspace.write("old.lock", at(workspace, "v1", "pay/cage.lock"))
    answer = workspace.ok("diff", "old.lock", "pay/cage.lock")
    assert told(answer.lines) == ["PCR0 moved", "PCR2 moved"]
    assert "the cage's own files:" in answer.lines


def test_an_image_file_with_a_lock_has_its_pcrs_in_common(workspace: Workspace) -> None:
    workspace.ok("build")
    same = workspace.ok("diff", "pay/cage.lock", "dist/pay/pay.eif")
    assert same.lines[0].startswith("no difference")
    workspace.write("old.lock", at(workspace, "v1", "pay/cage.lock"))
    other = workspace.ok("diff", "old.lock", "dist/pay/pay.eif")
    assert told(other.lines) == ["PCR0 moved", "PCR2 moved"]


def test_a_difference_as_json(workspace: Workspace) -> None:
    document = workspace.ok("diff", "HEAD~//pay", "//pay", "--json").json()
    assert [pcr["name"] for pcr in document["pcrs"]] == ["PCR0", "PCR2"]
    assert [section["section"] for section in document["sections"]] == ["ramdisk 1"]
    assert "rootfs/srv/note" in str(document["sections"])


def test_a_moved_command_line_is_told_as_one(workspace: Workspace) -> None:
    workspace.write("boot/cmdline", "console=ttyS1 reboot=k\n")
    workspace.ok("lock")
    answer = workspace.ok("diff", "HEAD//pay", "//pay")
    assert told(answer.lines) == ["PCR0 moved: cmdline", "PCR1 moved: cmdline"]


def test_a_build_that_is_not_as_locked_names_the_file_that_moved(workspace: Workspace) -> None:
    """What the lock was measured from is in this machine's store."""
    workspace.write("pay/src/note", "third\n")
    answer = workspace.ok("build")
    assert "rootfs/srv/note" in answer.out
    assert "expected: cage.lock" in answer.out


def test_a_build_that_is_not_as_locked_elsewhere_names_the_pcrs_and_a_way_to_know_more(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.write("pay/src/note", "third\n")
    answer = workspace.ok("build", env={"XDG_CACHE_HOME": str(tmp_path / "empty")})
    expected = workspace.locked("//pay").expected
    assert expected
    assert f"PCR2 expected {expected['PCR2']}" in answer.out
    assert "invoke diff REVISION//pay //pay" in answer.out
    assert "PCR1" not in answer.out.partition("not as in")[2]


WRONG: dict[str, tuple[str, str, int, str]] = {
    "no such file, cage or revision": ("nonsense", "//pay", 2, "'nonsense'"),
    "no such revision of a cage": ("nonsense//pay", "//pay", 2, "'nonsense//pay'"),
    "no such cage of a revision": ("HEAD//nonsense", "//pay", 2, "//nonsense"),
    "no such cage": ("//nonsense", "//pay", 2, "//nonsense"),
    "a revision that is no commit": ("HEAD:pay//pay", "//pay", 2, "'HEAD:pay//pay'"),
    "a revision that would be a flag": ("--all//pay", "//pay", 2, "'--all//pay'"),
    "a file that is none of these": ("cage.toml", "//pay", 2, "cage.toml"),
    "a folder without results": ("pay", "//pay", 2, "manifest.json"),
    "several cages": ("//...", "//pay", 2, "2 cages are meant"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_compared_is_told(workspace: Workspace, what: str) -> None:
    workspace.add("two")
    a, b, code, said = WRONG[what]
    answer = workspace.run("diff", a, b)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert answer.out == ""


def test_a_revision_without_a_lock_says_so(workspace: Workspace) -> None:
    workspace.checkout.git("rm", "--quiet", "--cached", "pay/cage.lock")
    workspace.checkout.git("commit", "--quiet", "--message=x")
    answer = workspace.run("diff", "HEAD//pay", "//pay")
    assert answer.code == 20
    assert "as of HEAD: //pay has no lock" in answer.err
    assert "invoke lock" not in answer.err


def test_a_revision_of_which_the_current_folder_is_no_part_yet(workspace: Workspace) -> None:
    workspace.add("late")
    workspace.ok("lock", "//late")
    answer = workspace.run("diff", "v1//pay", "//pay", cwd=workspace.root / "late")
    assert answer.code == 0, answer.err
    missing = workspace.run("diff", "v1", "//late", cwd=workspace.root / "late")
    assert missing.code == 2


def test_a_manifest_that_is_cut_short_is_refused(workspace: Workspace) -> None:
    workspace.ok("build")
    file = workspace.root / "dist/pay/manifest.json"
    workspace.write("cut.json", file.read_bytes()[:-40])
    answer = workspace.run("diff", "cut.json", "HEAD~//pay")
    assert answer.code == 51
    assert "cut.json" in answer.err


def test_a_cage_that_is_not_committed_at_all(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add("pay", CAGE)
    workspace.ok("lock")
    answer = workspace.run("diff", "HEAD//pay", "//pay")
    assert answer.code == 20

"""Builds from end to end: what is written, when nothing is to be done, and what makes it anew."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.workspaces import (
    CAGE,
    ROOT,
    Workspace,
    measurements,
    steps,
    tree_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One cage, locked and built."""
    made = Workspace(tmp_path)
    made.add("pay", note="first\n")
    made.ok("lock")
    made.ok("build")
    return made


def stamps(workspace: Workspace) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of dist/: another one was written anew."""
    found = tree_files(workspace.root / "dist")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_a_build_writes_image_measurements_and_manifest(workspace: Workspace) -> None:
    names = [path.name for path in tree_files(workspace.root / "dist" / "pay")]
    assert names == ["manifest.json", "measurements.json", "pay.eif"]
    assert measurements(workspace, "pay") == workspace.locked("//pay").expected
    manifest = workspace.result("pay", "manifest.json").decode()
    assert "rootfs/srv/run" in manifest
    assert "rootfs/srv/note" in manifest
    assert workspace.result("pay", "pay.eif").startswith(b".eif")


def test_a_build_prints_the_pcrs_and_that_they_are_the_locks(workspace: Workspace) -> None:
    answer = workspace.ok("build")
    assert answer.pcrs() == workspace.locked("//pay").expected
    assert answer.lines[0] == "//pay  dist/pay/pay.eif"
    assert answer.lines[-1] == "  as in cage.lock"


def test_without_a_lock_a_build_names_the_command_that_makes_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add("pay")
    answer = workspace.run("build")
    assert answer.code == 20
    assert "invoke lock //pay" in answer.err
    assert not (workspace.root / "dist").exists()


def test_a_changed_cage_toml_stops_the_build_with_the_command_that_renews_the_lock(
    workspace: Workspace,
) -> None:
    workspace.write("pay/cage.toml", CAGE.replace("--serve", "--other"))
    before = stamps(workspace)
    answer = workspace.run("build")
    assert answer.code == 21
    assert "invoke lock //pay" in answer.err
    assert stamps(workspace) == before


def test_a_comment_in_cage_toml_does_not_make_the_lock_stale(workspace: Workspace) -> None:
    workspace.write("pay/cage.toml", f"# of no effect\n{CAGE}")
    answer = workspace.ok("build")
    assert answer.lines[-1] == "  as in cage.lock"


def test_a_changed_default_of_the_workspace_makes_the_lock_stale(workspace: Workspace) -> None:
    workspace.write("cage.toml", ROOT.replace('"zero"', '"fixed"\ntime = 5'))
    assert workspace.run("build").code == 21


def test_the_second_build_does_nothing(workspace: Workspace) -> None:
    before = stamps(workspace)
    first, second = workspace.ok("build"), workspace.ok("build")
    assert steps(second) == {}
    assert second.err == ""
    assert second.out == first.out
    assert stamps(workspace) == before


def test_touching_files_does_nothing(workspace: Workspace) -> None:
    before = {path.name: path.stat().st_ino for path in tree_files(workspace.root / "dist")}
    for path in tree_files(workspace.root):
        if ".git" not in path.parts:
            os.utime(path, (1, 1))
    assert steps(workspace.ok("build")) == {}
    after = {path.name: path.stat().st_ino for path in tree_files(workspace.root / "dist")}
    assert after == before


def test_rewriting_a_file_with_the_same_content_does_nothing(workspace: Workspace) -> None:
    (workspace.root / "pay/src/note").unlink()
    workspace.write("pay/src/note", "first\n", mode=0o600)
    assert steps(workspace.ok("build")) == {}


def test_a_changed_source_is_built_and_told_as_not_the_locks(workspace: Workspace) -> None:
    expected = workspace.locked("//pay").expected
    assert expected
    workspace.write("pay/src/note", "other\n")
    answer = workspace.ok("build")
    assert steps(answer)["ran"] == 3
    got = answer.pcrs()
    assert got == measurements(workspace, "pay")
    assert got["PCR1"] == expected["PCR1"]
    assert got["PCR0"] != expected["PCR0"]
    assert got["PCR2"] != expected["PCR2"]
    assert "  not as in cage.lock:" in answer.lines
    assert f"      expected {expected['PCR2']}" in answer.lines
    assert "rootfs/srv/note" in answer.out
    assert "invoke lock //pay" in answer.out


def test_a_source_that_is_changed_back_needs_no_step_but_its_results(workspace: Workspace) -> None:
    workspace.write("pay/src/note", "other\n")
    workspace.ok("build")
    workspace.write("pay/src/note", "first\n")
    answer = workspace.ok("build")
    assert steps(answer)["ran"] == 0
    assert measurements(workspace, "pay") == workspace.locked("//pay").expected


def test_a_new_source_of_the_same_length_and_time_is_seen(workspace: Workspace) -> None:
    file = workspace.root / "pay/src/note"
    os.utime(file, (1, 1))
    workspace.ok("build")
    file.write_text("FIRST\n")
    os.utime(file, (1, 1))
    assert steps(workspace.ok("build"))["ran"] == 3


def test_a_changed_executable_bit_in_git_is_seen(workspace: Workspace) -> None:
    workspace.checkout.git("update-index", "--chmod=+x", "pay/src/note")
    assert steps(workspace.ok("build"))["ran"] == 3


def test_a_file_that_git_comes_to_track_is_seen(workspace: Workspace) -> None:
    workspace.write("pay/src/more", "more\n")
    warned = workspace.ok("build")
    assert steps(warned) == {}
    assert "pay/src/more are not added, because git does not track them" in warned.err
    workspace.checkout.git("add", "pay/src/more")
    assert steps(workspace.ok("build"))["ran"] == 3


def test_a_tracked_file_that_is_gone_is_left_out_with_a_warning(workspace: Workspace) -> None:
    (workspace.root / "pay/src/note").unlink()
    answer = workspace.ok("build")
    assert "pay/src/note are tracked by git, but are not there" in answer.err
    assert "not as in cage.lock" in answer.out


def test_a_changed_lock_is_compared_with(workspace: Workspace) -> None:
    lock = workspace.root / "pay/cage.lock"
    document = json.loads(lock.read_text())
    document["expected"]["PCR1"] = "0" * 96
    lock.write_text(json.dumps(document))
    answer = workspace.ok("build")
    assert steps(answer)["ran"] == 0
    assert f"    PCR1 expected {'0' * 96}" in answer.lines


def test_a_lock_without_measurements_is_told_so(workspace: Workspace) -> None:
    lock = workspace.root / "pay/cage.lock"
    document = json.loads(lock.read_text())
    document["expected"] = None
    lock.write_text(json.dumps(document))
    answer = workspace.ok("build")
    assert "the lock has no measurements yet" in answer.out
    assert workspace.run("pcr").code == 60


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "with one bit changed": _flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a symlink": _link,
}


@pytest.mark.parametrize("file", ["pay.eif", "measurements.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_result_that_is_damaged_is_put_there_again(
    workspace: Workspace, damage: str, file: str
) -> None:
    path = workspace.root / "dist" / "pay" / file
    before = path.read_bytes()
    DAMAGES[damage](path)
    answer = workspace.ok("build")
    assert steps(answer)["ran"] == 0
    assert path.read_bytes() == before
    assert not path.is_symlink()
    assert steps(workspace.ok("build")) == {}


def test_a_deleted_dist_is_put_there_again(workspace: Workspace) -> None:
    before = {path.name: path.read_bytes() for path in tree_files(workspace.root / "dist")}
    shutil.rmtree(workspace.root / "dist")
    workspace.ok("build")
    after = {path.name: path.read_bytes() for path in tree_files(workspace.root / "dist")}
    assert after == before


RECORDS: dict[str, bytes | None] = {
    "deleted": None,
    "empty": b"",
    "no JSON": b"{",
    "another JSON": b"[]",
    "of another cage": b'{"name": "another"}',
    "not text": b"\xff\xfe",
    "nested too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", RECORDS)
def test_a_record_that_is_damaged_costs_time_only(workspace: Workspace, damage: str) -> None:
    expected = workspace.ok("build").out
    for record in tree_files(workspace.store / "built"):
        data = RECORDS[damage]
        if data is None:
            record.unlink()
        else:
            record.write_bytes(data)
    answer = workspace.ok("build")
    assert answer.out == expected
    assert steps(answer)["ran"] == 0
    assert steps(workspace.ok("build")) == {}


@pytest.mark.parametrize("word", ["pcrs", "files", "warnings", "key"])
def test_a_record_in_which_a_word_was_changed_costs_time_only(
    workspace: Workspace, word: str
) -> None:
    expected = workspace.ok("build").out
    for record in tree_files(workspace.store / "built" / "cages"):
        text = record.read_text()
        record.write_text(text.replace(f'"{word}"', f'"{word}s"'))
        assert record.read_text() != text
    assert workspace.ok("build").out == expected


def test_a_record_with_other_pcrs_is_not_believed(workspace: Workspace) -> None:
    expected = workspace.ok("build").out
    pcr = measurements(workspace, "pay")["PCR0"]
    for record in tree_files(workspace.store / "built" / "cages"):
        record.write_text(record.read_text().replace(pcr, "0" * 96))
    assert workspace.ok("build").out == expected


def test_an_emptied_store_is_filled_again(workspace: Workspace) -> None:
    expected = {path.name: path.read_bytes() for path in tree_files(workspace.root / "dist")}
    shutil.rmtree(workspace.store)
    answer = workspace.ok("build")
    assert steps(answer)["ran"] == 3
    got = {path.name: path.read_bytes() for path in tree_files(workspace.root / "dist")}
    assert got == expected


def test_a_store_in_which_every_file_is_damaged_is_filled_again(workspace: Workspace) -> None:
    expected = workspace.ok("build").out
    for blob in tree_files(workspace.store / "blobs"):
        blob.chmod(0o644)
        _flip(blob)
    shutil.rmtree(workspace.root / "dist")
    assert workspace.ok("build").out == expected
    assert measurements(workspace, "pay") == workspace.locked("//pay").expected


def test_only_what_changed_is_built(workspace: Workspace) -> None:
    workspace.add("mail")
    workspace.ok("lock")
    workspace.ok("build")
    workspace.write("mail/src/run", "#!other\n", mode=0o755)
    answer = workspace.ok("build")
    assert steps(answer) == {"ran": 3, "hit": 0, "failed": 0}
    assert [line for line in answer.lines if line.startswith("//")] == [
        "//mail  dist/mail/mail.eif",
        "//pay  dist/pay/pay.eif",
    ]


def test_cages_with_the_same_files_share_steps(workspace: Workspace) -> None:
    shutil.copytree(workspace.root / "pay", workspace.root / "pay2")
    workspace.commit()
    (workspace.root / "pay2/cage.lock").unlink()
    answer = workspace.ok("lock", "//pay2")
    assert steps(answer)["ran"] == 2  # image and measure have the name in them, the files don't


def test_a_failing_step_fails_its_cage_alone_with_keep_going(workspace: Workspace) -> None:
    workspace.write("boot/broken", "no kernel\n")
    own = '{ kernel = "//boot/broken", init = "//boot/init", cmdline = "//boot/cmdline" }'
    workspace.add("bad", f"{CAGE}\n[enclave]\nboot = {own}\n")
    workspace.add("good")
    stopped = workspace.run("lock", "--keep-going", "//bad", "//good")
    assert stopped.code == 71
    assert "boot/broken" in stopped.err
    assert "measure bad" in stopped.err
    assert steps(stopped)["failed"] == 1
    assert steps(stopped)["ran"] == 5
    assert workspace.run("lock", "//good").code == 0


def test_explain_says_which_input_changed(workspace: Workspace) -> None:
    workspace.write("pay/src/note", "other\n")
    answer = workspace.ok("build", "--explain")
    lines = [line for line in answer.err.splitlines() if "app files" in line]
    assert len(lines) == 1
    assert "srv/note" in lines[0]


def test_results_depend_on_no_place_umask_time_zone_or_locale(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Another checkout in another folder, with a store of its own, under other conditions."""
    workspace.commit()
    other = tmp_path / "another place" / "work"
    other.parent.mkdir()
    workspace.checkout.git("clone", "--quiet", str(workspace.root), str(other))
    before = os.umask(0o077)
    try:
        answer = workspace.process(
            "build",
            cwd=other,
            env={
                "XDG_CACHE_HOME": str(tmp_path / "other cache"),
                "TZ": "Pacific/Kiritimati",
                "LC_ALL": "C",
                "PYTHONHASHSEED": "7",
            },
        )
    finally:
        os.umask(before)
    assert answer.code == 0, answer.err
    assert "as in cage.lock" in answer.out
    for path in tree_files(workspace.root / "dist"):
        assert (other / path.relative_to(workspace.root)).read_bytes() == path.read_bytes()


def test_two_builds_at_once_come_to_the_same(workspace: Workspace) -> None:
    shutil.rmtree(workspace.store)
    expected = measurements(workspace, "pay")
    shutil.rmtree(workspace.root / "dist")
    running = [workspace.start("build") for _ in range(3)]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], ended
    assert measurements(workspace, "pay") == expected
    assert all(out == ended[0][0] for out, _ in ended)


def test_dist_that_is_a_file_is_an_error_of_its_own(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "dist")
    workspace.write("dist", "a file\n")
    answer = workspace.run("build")
    assert answer.code in (70, 71)
    assert "dist" in answer.err
    assert (workspace.root / "dist").read_text() == "a file\n"


def test_an_image_file_that_is_a_folder_is_an_error_of_its_own(workspace: Workspace) -> None:
    target = workspace.root / "dist/pay/pay.eif"
    target.unlink()
    target.mkdir()
    answer = workspace.run("build")
    assert answer.code in (70, 71)
    assert "pay.eif" in answer.err


@pytest.mark.parametrize(
    "folder", ["with space", "100%", "it's", 'say "hi"', "größe", "$HOME", "a;b", "-flag", "né\n"]
)
def test_awkward_names_of_folders_and_files(tmp_path: Path, folder: str) -> None:
    workspace = Workspace(tmp_path, name=f"root {folder.strip()}")
    name = f'{CAGE}\n[cage]\nname = "awkward"\n'
    workspace.add(f"cages/{folder}", name, **{folder: "its content\n"})
    workspace.ok("lock")
    answer = workspace.ok("build")
    assert "  as in cage.lock" in answer.lines
    assert steps(workspace.ok("build")) == {}
    names = workspace.ok("cages").out
    assert folder.strip().split("\n", maxsplit=1)[0] in names
    entries = workspace.result("awkward", "manifest.json").decode()
    assert json.dumps(f"rootfs/srv/{folder}", ensure_ascii=True)[1:-1] in entries or (
        f"rootfs/srv/{folder}" in entries
    )


def test_a_file_name_that_is_not_utf8_is_added_as_it_is(workspace: Workspace) -> None:
    path = os.fsencode(workspace.root / "pay/src") + b"/\xff\xfe"
    with open(path, "wb") as stream:  # noqa: PTH123 - the name is bytes
        stream.write(b"content\n")
    workspace.commit()
    answer = workspace.ok("lock")
    assert "moved" in answer.out
    workspace.ok("build")
    assert b"rootfs/srv/\xff\xfe\0" in workspace.result("pay", "pay.eif")
    assert workspace.ok("plan", "--json").json()

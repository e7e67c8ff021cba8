"""Commands that build nothing new: lock, pcr, check, cages, plan, graph, cache, describe."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from cagebuild.schema import first_mistake
from tests.support.workspaces import CAGE, Workspace, steps, tree_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One locked cage."""
    made = Workspace(tmp_path)
    made.add("pay", note="first\n")
    made.ok("lock")
    return made


# lock


def test_a_new_lock_is_told_with_its_epoch_and_pcrs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add("pay")
    answer = workspace.ok("lock")
    assert answer.lines[0] == "//pay  pay/cage.lock: new"
    assert answer.lines[1] == "  epoch  0 (zero)"
    assert answer.pcrs() == workspace.locked("//pay").expected


def test_a_lock_that_is_right_is_not_written(workspace: Workspace) -> None:
    file = workspace.root / "pay/cage.lock"
    before = file.stat()
    answer = workspace.ok("lock")
    assert answer.lines == ["//pay  pay/cage.lock: nothing moved"]
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_moved_in_a_lock_is_told(workspace: Workspace) -> None:
    workspace.write("boot/cmdline", "console=ttyS1\n")
    before = workspace.locked("//pay").boot.pins["cmdline"]["sha256"]
    answer = workspace.ok("lock")
    after = workspace.locked("//pay").boot.pins["cmdline"]["sha256"]
    assert after != before
    at = answer.lines.index("  boot cmdline sha256")
    assert answer.lines[at + 1 : at + 3] == [f"    was {before}", f"    is  {after}"]


def test_uncommitted_changes_are_told_when_the_epoch_is_a_commits(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add("pay", CAGE + '\n[epoch]\npolicy = "commit"\n', note="first\n")
    assert "not committed" not in workspace.ok("lock").err
    workspace.write("pay/src/note", "second\n")
    assert "warning: //pay: has changes that are not committed" in workspace.ok("lock").err


def test_a_failed_measurement_leaves_the_lock_as_it_was(workspace: Workspace) -> None:
    before = (workspace.root / "pay/cage.lock").read_bytes()
    workspace.write("boot/bzImage", "no kernel\n")
    answer = workspace.run("lock")
    assert answer.code == 71
    assert (workspace.root / "pay/cage.lock").read_bytes() == before


def test_a_lock_that_cannot_be_read_is_made_anew_by_lock(workspace: Workspace) -> None:
    file = workspace.root / "pay/cage.lock"
    before = file.read_bytes()
    file.write_bytes(b"<<<<<<< HEAD\n" + before)
    stopped = workspace.run("build")
    assert stopped.code == 20
    assert "invoke lock" in stopped.err
    workspace.ok("lock")
    assert file.read_bytes() == before


def test_a_lock_that_is_a_folder_is_an_error_of_its_own(workspace: Workspace) -> None:
    file = workspace.root / "pay/cage.lock"
    file.unlink()
    file.mkdir()
    for command in ("build", "lock", "check"):
        answer = workspace.run(command)
        assert answer.code == 20, command
        assert "cage.lock" in answer.err


def test_update_with_nothing_to_move_says_so(workspace: Workspace) -> None:
    for words in (["--update"], ["--update", "boot", "//pay"], ["//pay", "--update", "epoch"]):
        assert workspace.ok("lock", *words).lines == ["//pay  pay/cage.lock: nothing moved"]


def test_a_part_is_a_cage_without_update(workspace: Workspace) -> None:
    answer = workspace.run("lock", "boot")
    assert answer.code == 2
    assert "no cage is meant by 'boot'" in answer.err


def test_a_cage_that_has_a_parts_name_can_be_addressed(workspace: Workspace) -> None:
    workspace.add("base")
    workspace.ok("lock", "//base", "--update")
    assert workspace.locked("//base").cage == "base"


def test_locks_are_no_part_of_what_they_lock(workspace: Workspace) -> None:
    """One that is committed moves neither the epoch nor the files, even where all is added."""
    text = CAGE.replace('"src"', '"."').replace('"/srv/run"', '"/srv/src/run"')
    workspace.add("all", f'{text}\n[epoch]\npolicy = "commit"\n')
    workspace.ok("lock", "//all")
    first = (workspace.root / "all/cage.lock").read_bytes()
    workspace.commit(1_800_000_000)
    assert workspace.ok("lock", "--update", "//all").lines[-1].endswith("nothing moved")
    assert (workspace.root / "all/cage.lock").read_bytes() == first
    assert "as in cage.lock" in workspace.ok("build", "//all").out


def test_the_epoch_policy_commit_takes_the_last_commit_of_the_cage(workspace: Workspace) -> None:
    workspace.add("due", f'{CAGE}\n[epoch]\npolicy = "commit"\n')
    workspace.ok("lock", "//due")
    assert workspace.locked("//due").epoch.time == 1_700_000_000
    workspace.write("elsewhere", "not the cage's\n")
    workspace.commit(1_800_000_000)
    workspace.ok("lock", "//due")
    assert workspace.locked("//due").epoch.time == 1_700_000_000
    workspace.write("due/src/run", "#!changed\n", mode=0o755)
    workspace.commit(1_900_000_000)
    workspace.ok("lock", "//due")
    assert workspace.locked("//due").epoch.time == 1_900_000_000


def test_the_epoch_policy_env_takes_the_variable_that_the_lock_was_made_with(
    workspace: Workspace,
) -> None:
    workspace.add("due", f'{CAGE}\n[epoch]\npolicy = "env"\n')
    unset = workspace.run("lock", "//due")
    assert unset.code == 22
    assert "SOURCE_DATE_EPOCH" in unset.err
    for bad in ("soon", "-1", "1.5", "٣"):
        answer = workspace.run("lock", "//due", env={"SOURCE_DATE_EPOCH": bad})
        assert answer.code == 2, bad
        assert "SOURCE_DATE_EPOCH" in answer.err
    late = workspace.run("lock", "//due", env={"SOURCE_DATE_EPOCH": str(2**32)})
    assert late.code == 22
    workspace.ok("lock", "//due", env={"SOURCE_DATE_EPOCH": "86400"})
    assert workspace.locked("//due").epoch.time == 86400
    for env in ({}, {"SOURCE_DATE_EPOCH": "86400"}):
        assert "as in cage.lock" in workspace.ok("build", "//due", env=env).out


def test_a_build_of_another_source_date_epoch_than_the_locks_stops(workspace: Workspace) -> None:
    workspace.add("due", f'{CAGE}\n[epoch]\npolicy = "env"\n')
    workspace.ok("lock", "//due", env={"SOURCE_DATE_EPOCH": "86400"})
    workspace.ok("build", "//due")
    for command in ("build", "pcr", "check", "plan", "export"):
        answer = workspace.run(command, "//due", env={"SOURCE_DATE_EPOCH": "5"})
        assert answer.code == 21, command
        assert "invoke lock //due" in answer.err
    assert workspace.run("build", "//due", env={"SOURCE_DATE_EPOCH": "soon"}).code == 2
    workspace.ok("build", "//pay", env={"SOURCE_DATE_EPOCH": "5"})


# pcr


def test_pcr_measures_without_writing_and_agrees_with_the_lock(workspace: Workspace) -> None:
    answer = workspace.ok("pcr")
    assert answer.pcrs() == workspace.locked("//pay").expected
    assert not (workspace.root / "dist").exists()


def test_pcr_fails_when_one_is_not_the_locks(workspace: Workspace) -> None:
    workspace.write("pay/src/note", "other\n")
    answer = workspace.run("pcr")
    assert answer.code == 60
    assert "PCRs differ from the lock: //pay" in answer.err
    assert "rootfs/srv/note" in answer.out


@pytest.mark.parametrize("pcr", ["PCR0", "PCR1", "PCR2"])
def test_pcr_fails_for_any_of_them(workspace: Workspace, pcr: str) -> None:
    lock = workspace.root / "pay/cage.lock"
    document = json.loads(lock.read_text())
    document["expected"][pcr] = "f" * 96
    lock.write_text(json.dumps(document))
    answer = workspace.run("pcr")
    assert answer.code == 60
    assert f"{pcr} expected {'f' * 96}" in answer.out


def test_pcr_fails_for_a_pcr8_that_is_expected_and_not_there(workspace: Workspace) -> None:
    lock = workspace.root / "pay/cage.lock"
    document = json.loads(lock.read_text())
    document["expected"]["PCR8"] = "0" * 96
    lock.write_text(json.dumps(document))
    answer = workspace.run("pcr")
    assert answer.code == 60
    assert "PCR8 got      none" in answer.out


def test_pcr_as_json(workspace: Workspace) -> None:
    document = workspace.ok("pcr", "--json").json()
    expected = workspace.locked("//pay").expected
    measured = document["//pay"]["Measurements"]
    assert measured.pop("HashAlgorithm") == "Sha384 { ... }"
    assert measured == expected == document["//pay"]["expected"]


def test_measurements_are_as_their_schema_says(workspace: Workspace) -> None:
    workspace.ok("build")
    document = json.loads(workspace.result("pay", "measurements.json"))
    assert first_mistake("measurements", document) is None


# check and cages


def test_check_counts_cages_and_needs_no_lock(workspace: Workspace) -> None:
    workspace.add("unlocked")
    assert workspace.ok("check").lines == ["2 cages: no mistakes"]


def test_check_finds_a_stale_lock_and_a_changed_boot_file(workspace: Workspace) -> None:
    workspace.write("boot/init", "another\n")
    answer = workspace.run("check")
    assert answer.code == 21
    assert "boot/init" in answer.err
    workspace.write("pay/cage.toml", CAGE.replace("--serve", "--other"))
    assert workspace.run("check").code == 21


def test_check_runs_no_step(workspace: Workspace) -> None:
    before = tree_files(workspace.store / "results")
    workspace.write("pay/src/note", "other\n")
    workspace.ok("check")
    assert tree_files(workspace.store / "results") == before


def test_cages_lists_all_from_any_folder(workspace: Workspace) -> None:
    workspace.add("deep/er", f'{CAGE}\n[enclave]\narchitecture = "aarch64"\n')
    answer = workspace.ok("cages", cwd=workspace.root / "pay")
    assert answer.lines == ["//deep/er  er  aarch64", "//pay      pay  x86_64"]


# plan and graph


def test_plan_tells_hits_from_misses_and_builds_nothing(workspace: Workspace) -> None:
    answer = workspace.ok("plan")
    shown = [re.sub(r"  [0-9a-f]{12}  ", "  <id>  ", line) for line in answer.lines]
    assert shown == [
        "//pay",
        "  hit   <id>  app files",
        "  hit   <id>  image pay",
        "  miss  <id>  eif pay",
    ]
    assert workspace.ok("plan").out == answer.out


def test_plan_explains_misses(workspace: Workspace) -> None:
    workspace.write("pay/src/note", "other\n")
    answer = workspace.ok("plan", "--explain")
    at = next(n for n, line in enumerate(answer.lines) if line.endswith("app files"))
    assert answer.lines[at].startswith("  miss")
    assert "srv/note" in answer.lines[at + 1]


PLANNED = {
    "id": str,
    "name": str,
    "kind": str,
    "code": str,
    "params": dict,
    "inputs": dict,
    "outputs": list,
    "platform": str,
    "hit": bool,
}


def test_plan_as_json_has_all_that_ids_are_made_of(workspace: Workspace) -> None:
    document = workspace.ok("plan", "--json").json()
    assert list(document) == ["//pay"]
    made = set()
    for step in document["//pay"]:
        assert {key: type(value) for key, value in step.items()} == PLANNED
        for given in step["inputs"].values():
            digest = re.fullmatch(r"sha256:[0-9a-f]{64}", given)
            made_by = re.fullmatch(r"step:([0-9a-f]{64})/[\w.-]+", given)
            assert digest or (made_by and made_by[1] in made), given
        made.add(step["id"])
    kinds = [(step["kind"], step["hit"]) for step in document["//pay"]]
    assert kinds == [("app-layer", True), ("image", True), ("eif", False)]


def test_plan_says_everything_that_the_app_layer_will_hold(workspace: Workspace) -> None:
    layer = workspace.ok("plan", "--json").json()["//pay"][0]
    facts = {"uid": 0, "gid": 0, "kind": "file", "target": ""}
    assert layer["params"]["files"] == [
        {"destination": "srv/note", "mode": 0o644, **facts},
        {"destination": "srv/run", "mode": 0o755, **facts},
    ]
    assert list(layer["inputs"]) == ["file:srv/note", "file:srv/run"]


def test_plan_is_the_same_in_every_checkout_and_locale(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.commit()
    other = tmp_path / "elsewhere"
    workspace.checkout.git("clone", "--quiet", str(workspace.root), str(other))
    env = {"XDG_CACHE_HOME": str(tmp_path / "empty"), "TZ": "Asia/Tokyo", "LC_ALL": "POSIX"}
    here = workspace.ok("plan", "--json").json()
    there = workspace.process("plan", "--json", cwd=other, env=env).json()
    ids = [[step["id"] for step in document["//pay"]] for document in (here, there)]
    assert ids[0] == ids[1]


def test_names_that_the_system_reads_in_another_encoding_are_refused(workspace: Workspace) -> None:
    """Else a name's bytes would be other text, and other inputs, than on other machines."""
    answer = workspace.process("plan", env={"PYTHONUTF8": "0", "LC_ALL": "C"})
    assert answer.code == 2
    assert "PYTHONUTF8=1" in answer.err
    assert "Traceback" not in answer.err


GRAPH = """\
graph LR
  <1>["app files (2 files)"]
  <2>["image pay"]
  <3>["eif pay (4 files)"]
  <1> --> <2>
  <1> --> <3>
  <2> --> <3>
"""

DOT = """\
digraph cages {
  rankdir=LR; node [shape=box];
  "<1>" [label="app files (2 files)"];
  "<2>" [label="image pay"];
  "<3>" [label="eif pay (4 files)"];
  "<1>" -> "<2>";
  "<1>" -> "<3>";
  "<2>" -> "<3>";
}
"""


def without_ids(text: str) -> str:
    """Ids as numbers in the order in which they come."""
    for number, found in enumerate(dict.fromkeys(re.findall(r"\b[0-9a-f]{12}\b", text)), 1):
        text = text.replace(found, f"<{number}>")
    return text


def test_graph_for_mermaid(workspace: Workspace) -> None:
    assert without_ids(workspace.ok("graph").out) == GRAPH
    assert workspace.ok("graph", "--format", "mermaid").out == workspace.ok("graph").out


def test_graph_for_graphviz(workspace: Workspace) -> None:
    assert without_ids(workspace.ok("graph", "--format=dot").out) == DOT


# cache


def test_cache_shows_what_the_store_holds(workspace: Workspace) -> None:
    answer = workspace.ok("cache")
    assert answer.lines[0].startswith(f"{workspace.store}: ")
    kinds = [line.split()[:3] for line in answer.lines[1:]]
    assert kinds == [[kind, "1", "results"] for kind in ("app-layer", "image", "measure")]


def test_cache_prunes_by_age_only_what_is_older(workspace: Workspace) -> None:
    before = workspace.ok("cache").out
    answer = workspace.ok("cache", "--prune", "--older-than", "1d")
    assert answer.out == "removed 0 bytes: 0 files, 0 results\n"
    assert workspace.ok("cache").out == before


def test_a_dry_run_removes_nothing_and_says_what_it_would(workspace: Workspace) -> None:
    before = workspace.ok("cache").out
    would = workspace.ok("cache", "--prune", "--older-than", "0d", "--dry-run").out
    assert workspace.ok("cache").out == before
    did = workspace.ok("cache", "--prune", "--older-than", "0d").out
    assert did == would.replace("would remove", "removed")
    assert ", 3 results" in did
    assert not tree_files(workspace.store / "blobs")


def test_after_pruning_all_is_built_again(workspace: Workspace) -> None:
    expected = workspace.ok("build").out
    workspace.ok("cache", "--prune", "--older-than", "0m")
    for path in tree_files(workspace.root / "dist"):
        path.unlink()
    answer = workspace.ok("build")
    assert answer.out == expected
    assert steps(answer)["ran"] == 3


def test_prune_without_bounds_keeps_to_those_of_the_workspace(workspace: Workspace) -> None:
    answer = workspace.ok("cache", "--prune")
    assert answer.out == "removed 0 bytes: 0 files, 0 results\n"


def test_the_store_is_where_the_workspace_says(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, text='[workspace]\nstore = { path = "../mine" }\n')
    assert workspace.ok("cache").lines[0].startswith(f"{tmp_path / 'mine'}: ")


def test_a_store_that_is_a_file_is_an_error_of_its_own(workspace: Workspace) -> None:
    file = workspace.write("file", "no folder\n")
    answer = workspace.run("build", env={"XDG_CACHE_HOME": str(file)})
    assert answer.code == 70
    assert str(file) in answer.err


# describe


def test_describe_recomputes_what_a_build_measured(workspace: Workspace) -> None:
    workspace.ok("build")
    expected = workspace.locked("//pay").expected
    document = workspace.ok("describe", "dist/pay/pay.eif", "--json").json()
    measured = document["Measurements"]
    assert {name: measured[name] for name in ("PCR0", "PCR1", "PCR2")} == expected
    assert document["signature"] is None
    assert document["metadata"]["ImageName"] == "pay"
    text = workspace.ok("describe", "dist/pay/pay.eif")
    assert expected
    assert f"PCR0          {expected['PCR0']}" in text.lines
    assert "signature     none" in text.lines


def test_describe_refuses_a_damaged_image_file(workspace: Workspace) -> None:
    workspace.ok("build")
    file = workspace.root / "dist/pay/pay.eif"
    data = bytearray(file.read_bytes())
    data[-600] ^= 1
    file.write_bytes(data)
    answer = workspace.run("describe", str(file))
    assert (answer.code, answer.out) == (51, "")

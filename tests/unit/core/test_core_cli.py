"""The command line as a user meets it.

``process`` is a real one of ``python -m invoke``; ``run`` is invoke's own program in this process,
where whatever is no exit code fails the test.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from cagebuild import pipeline, tasks
from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError
from cagebuild.recipes import pins
from tests.support.workspaces import CAGE, Workspace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two cages with locks; the tests of this file change nothing in it."""
    made = Workspace(tmp_path_factory.mktemp("cli"))
    made.add("one")
    made.add("two")
    made.ok("lock")
    return made


def test_tasks_are_listed_with_what_they_do(workspace: Workspace) -> None:
    answer = workspace.process("--list")
    assert answer.code == 0
    names = re.findall(r"^  (\w+)  ", answer.out, re.MULTILINE)
    assert names == sorted(tasks.__all__)
    assert "Pin what is missing or changed in cage.lock" in answer.out


class TestHost:
    """``invoke host`` where this installation carries the program; making it is an integration."""

    @pytest.fixture
    def carried(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
        program = b"\x7fELF of a host\n"
        made = pins.Made(digest=Digest.of(program), size=len(program))
        monkeypatch.setattr(pins, "host", {"aarch64": made}.__getitem__)
        monkeypatch.setattr(pipeline, "CARRIED", tmp_path / "made")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / made.digest.hex).write_bytes(program)
        return program

    def test_it_is_written_to_dist_as_a_program(self, tmp_path: Path, carried: bytes) -> None:
        workspace = Workspace(tmp_path)
        for _ in range(2):
            assert workspace.ok("host", "--arch=aarch64").lines == ["dist/cage-host-aarch64"]
        file = workspace.root / "dist/cage-host-aarch64"
        assert file.read_bytes() == carried
        assert os.access(file, os.X_OK)

    def test_a_damaged_one_is_not_written(self, tmp_path: Path, carried: bytes) -> None:
        (damaged,) = (tmp_path / "made").iterdir()
        damaged.write_bytes(carried[:-1])
        workspace = Workspace(tmp_path)
        answer = workspace.run("host", "--arch=aarch64")
        assert (answer.code, answer.out) == (DigestMismatchError.exit_code, "")
        assert str(damaged) in answer.err
        assert not (workspace.root / "dist").exists()

    def test_an_unknown_processor_is_named(self, workspace: Workspace) -> None:
        answer = workspace.run("host", "--arch=arm64")
        assert answer.code == 2
        assert "--arch arm64: expected aarch64 or x86_64" in answer.err


def test_words_after_a_task_are_cages(workspace: Workspace) -> None:
    answer = workspace.run("cages", "//two")
    assert (answer.code, answer.lines) == (0, ["//two  two  x86_64"])
    both = workspace.run("cages", "//two", "one")
    assert (both.code, [line.split()[0] for line in both.lines]) == (0, ["//one", "//two"])


def test_flags_may_stand_before_between_and_after_words(workspace: Workspace) -> None:
    expected = workspace.run("plan", "//one", "//two", "--json")
    assert expected.code == 0
    assert list(expected.json()) == ["//one", "//two"]
    for words in (["--json", "//one", "//two"], ["//one", "--json", "//two"]):
        assert workspace.run("plan", *words).out == expected.out


def test_several_tasks_in_one_line(workspace: Workspace) -> None:
    answer = workspace.process("check", "//one", "cages", "//two", "check")
    assert answer.code == 0, answer.err
    assert answer.lines == ["1 cage: no mistakes", "//two  two  x86_64", "2 cages: no mistakes"]


def test_a_task_that_fails_stops_those_after_it(workspace: Workspace) -> None:
    answer = workspace.run("check", "//three", "cages")
    assert (answer.code, answer.out) == (2, "")


def test_a_task_without_free_words_takes_its_positional_arguments(workspace: Workspace) -> None:
    answer = workspace.run("diff", "one/cage.lock", "one/cage.lock", "cages", "//one")
    assert answer.code == 0, answer.err
    assert answer.lines[0].startswith("no difference")
    assert answer.lines[-1] == "//one  one  x86_64"


@pytest.mark.parametrize("words", [("--help", "build"), ("build", "-h")])
def test_help_of_a_task_does_not_run_it(workspace: Workspace, words: tuple[str, ...]) -> None:
    answer = workspace.process(*words)
    assert answer.code == 0, answer.err
    assert "Usage: " in answer.out
    assert "steps at once" in answer.out
    assert "//folder" in answer.out
    assert not (workspace.root / "dist").exists()


def test_help_after_words_does_not_run_the_task(workspace: Workspace) -> None:
    answer = workspace.process("build", "//one", "--help")
    assert answer.code == 0, answer.err
    assert "Usage: " in answer.out
    assert not (workspace.root / "dist").exists()


@pytest.mark.parametrize("words", [("cages", "--nonsense"), ("cages", "//one", "--nonsense")])
def test_an_unknown_flag_is_an_error(workspace: Workspace, words: tuple[str, ...]) -> None:
    answer = workspace.run(*words)
    assert answer.code == 1
    assert "--nonsense" in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""


def test_an_unknown_word_is_an_unknown_cage_with_the_likely_meant_one(workspace: Workspace) -> None:
    answer = workspace.process("build", "//twoo")
    assert answer.code == 2
    assert "no cage is meant by '//twoo'" in answer.err
    assert "//two" in answer.err.partition("help:")[2]
    assert "Traceback" not in answer.err


def test_an_unknown_task_is_an_error(workspace: Workspace) -> None:
    answer = workspace.run("biuld")
    assert answer.code == 1
    assert "biuld" in answer.err
    assert "Traceback" not in answer.err


MISUSES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a number of jobs below zero": (("build", "--jobs=-1"), 2, "--jobs -1"),
    "jobs that are no number": (("build", "--jobs", "many"), 1, "--jobs many: expected a whole"),
    "a limit that is no number": (
        ("diff", "a", "b", "--limit=x"),
        1,
        "--limit x: expected a whole",
    ),
    "a part that a lock does not have": (("lock", "--update", "bass"), 2, "'bass'"),
    "a format of graph that is none": (("graph", "--format", "png"), 2, "mermaid or dot"),
    "a format of image that is none": (("export", "//one", "--format", "zip"), 2, "oci-archive"),
    "an export of two cages": (("export",), 2, "2 cages are meant"),
    "an age without a unit": (("cache", "--prune", "--older-than", "30"), 2, "30d"),
    "a size without a unit": (("cache", "--prune", "--max-size", "1"), 2, "10GiB"),
    "a diff with what is not there": (("diff", "nothing", "//one"), 2, "'nothing'"),
    "a revision that looks like a flag": (("diff", "--", "//one"), 1, ""),
    "an image file that is not there": (("describe", "nothing.eif"), 51, "nothing.eif"),
    "an image file that is none": (("describe", "cage.toml"), 51, "cage.toml"),
    "a diff of one": (("diff", "one/cage.lock"), 1, "b"),
}


@pytest.mark.parametrize("what", MISUSES)
def test_misuse_is_told_with_its_exit_code_and_no_traceback(
    workspace: Workspace, what: str
) -> None:
    words, code, said = MISUSES[what]
    answer = workspace.run(*words)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_outside_of_any_workspace(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "tasks.py").write_text("from cagebuild.tasks import *\n")
    answer = workspace.run("build", cwd=tmp_path)
    assert answer.code == 2
    assert "there are no cages" in answer.err
    assert "Traceback" not in answer.err


def test_from_a_subfolder_only_its_cages_are_meant(workspace: Workspace) -> None:
    answer = workspace.run("cages", "...", cwd=workspace.root / "two")
    assert (answer.code, answer.lines) == (0, ["//two  two  x86_64"])
    built = workspace.run("check", cwd=workspace.root / "two" / "src")
    assert built.code == 2
    assert "there are no cages" in built.err


def test_a_reader_that_has_enough_is_no_error_of_ours(workspace: Workspace) -> None:
    process = workspace.start("plan", "--json")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    with process.stderr:
        said = process.stderr.read().decode()
    assert process.wait(timeout=60) == 141
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_output_that_cannot_show_a_name_shows_it_escaped(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add("groß", f'{CAGE}\n[cage]\nname = "gross"\n')
    answer = workspace.process("cages", env={"PYTHONIOENCODING": "ascii"})
    assert answer.code == 0, answer.err
    assert answer.lines == [r"//gro\xdf  gross  x86_64"]


def test_a_name_that_would_steer_a_terminal_is_shown_escaped(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add("plain", CAGE.replace('"src"', '"sr\\u001b[31mc"'))
    answer = workspace.run("check")
    assert answer.code == 12
    assert r"//plain/sr\x1b[31mc" in answer.err
    assert "\x1b" not in answer.out + answer.err


def test_all_mistakes_of_all_cages_are_told_at_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.add("a", CAGE.replace("destination", "destinaton"))
    workspace.add("b", CAGE.replace("scratch", "scrach"))
    answer = workspace.run("build")
    assert answer.code == 10
    assert "destinaton" in answer.err
    assert "scrach" in answer.err
    assert "Traceback" not in answer.err

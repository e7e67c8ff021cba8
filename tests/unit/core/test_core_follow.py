"""Programs whose output is handed on while they run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from cagebuild import process
from cagebuild.errors import ToolMissingError


def follow(script: str, *more: str) -> tuple[int, list[str]]:
    said: list[str] = []
    status = process.follow(["sh", "-c", script, *more], say=said.append, env={})
    return status, [line for line in said if line]


def test_lines_of_both_outputs_come_in_order_and_the_status_with_them() -> None:
    script = "echo one; echo two >&2; printf 'three\\r\\n'; printf four; exit 3"
    assert follow(script) == (3, ["one", "two", "three", "four"])


def test_a_line_without_end_comes_in_pieces_of_bounded_length() -> None:
    status, said = follow("head -c 10000000 /dev/zero | tr '\\0' x; echo; echo after")
    assert status == 0
    assert sum(map(len, said[:-1])) == 10_000_000
    assert max(map(len, said)) <= 1 << 17
    assert said[-1] == "after"


def test_bytes_that_are_no_text_do_not_end_it() -> None:
    assert follow("printf 'a\\377b\\n'") == (0, ["a\ufffdb"])


def test_a_silent_program_is_asked_about_by_empty_lines() -> None:
    said: list[str] = []
    process.follow(["sleep", "1"], say=said.append, env={})
    assert len(said) >= 2
    assert not any(said)


def test_a_program_that_closes_its_output_is_waited_for() -> None:
    assert follow("exec >&- 2>&-; sleep 0.5; exit 4") == (4, [])


def test_a_program_left_behind_with_the_output_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    status, said = follow('sleep 60 & echo $! >"$0"', str(tmp_path / "pid"))
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert (status, said) == (0, [])
    assert time.monotonic() - started < 30


def test_the_environment_is_what_is_given_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    said: list[str] = []
    process.follow(["env"], say=said.append, env={"GIVEN": "2"})
    names = {line.partition("=")[0] for line in said if line}
    assert names <= {"GIVEN", "PATH", "HOME", "LC_ALL", "LC_CTYPE"}
    assert "GIVEN=2" in said


def test_what_say_raises_ends_the_program_and_all_that_it_started(tmp_path: Path) -> None:
    """It is asked first: it can still do what has to be done."""
    script = (
        f"trap 'echo asked >{tmp_path}/asked; exit' TERM\n"
        f"sh -c 'echo $$ >{tmp_path}/pid; echo ready; exec sleep 60' & wait"
    )

    def say(line: str) -> None:
        if line == "ready":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.follow(["sh", "-c", script], say=say, env={})
    assert (tmp_path / "asked").read_text() == "asked\n"
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_program_that_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.2)
    script = "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\n"
    script += "print(os.getpid(), flush=True)\nwhile True: print('x' * 1000)\n"
    pids: list[int] = []

    def say(line: str) -> None:
        if line and not pids:
            pids.append(int(line))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        process.follow([sys.executable, "-c", script], say=say, env={})
    assert not alive(pids[0])


def test_a_missing_program_is_an_error_of_the_catalogue() -> None:
    with pytest.raises(ToolMissingError, match="'no-such-program' is not on this machine"):
        process.follow(["no-such-program"], say=print, env={})


def test_what_steers_a_build_is_not_among_the_builder_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = {"DOCKER_HOST", "BUILDX_BUILDER", "AWS_PROFILE", "ACTIONS_RUNTIME_TOKEN", "no_proxy"}
    steering = {"SOURCE_DATE_EPOCH", "BUILDX_NO_DEFAULT_ATTESTATIONS", "BUILDKIT_PROGRESS"}
    steering |= {
        "DOCKER_DEFAULT_PLATFORM",
        "BUILDX_GIT_LABELS",
        "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY",
    }
    for name in kept | steering:
        monkeypatch.setenv(name, "x")
    names = set(process.builder_settings())
    assert kept <= names
    assert not steering & names


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits for its parent does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"

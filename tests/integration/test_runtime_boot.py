"""``cage-guest boot`` for real: in namespaces and a root of its own, with runit and an app."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.runtime import host_architecture
from tests.support.runtime import (
    assert_soon,
    boot,
    cage,
    make_root,
    needs_root,
    shared_work,
    start,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

AWKWARD = [
    *("it's", '"quoted"', "100%", "%s%n", "$HOME", "${PATH}", "$(id)", "`id`", "a\nb", "\ttab"),
    *("", " ", "*", "{a,b}", "\\", "\\n", "--", "-x", "; exit 1", "&& false", "|", "\x7f\x01"),
    "Grüße 日本語 😀",
]  # fmt: skip
KILLED = 124
FAILED = 125


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_work(tmp_path_factory)


@pytest.fixture
def root(work: Path, tmp_path: Path) -> Path:
    return make_root(work, tmp_path / "root", cage("report"))


def report(root: Path, content: bytes) -> dict[str, Any]:
    """What the probe says about how it was started."""
    with start(root, content) as guest:
        found: dict[str, Any] = json.loads(guest.until(r"^app: (\{.*\})$")[1])
        assert guest.stop() == 0
    return found


# How the app is started.


def test_arguments_and_environment_are_untouched(root: Path) -> None:
    env = ["A=", "B= two  words ", "C=$A `id` %s 'q' \"", "D=x=y\nz", "E=日本語", "PATH=/nowhere"]
    found = report(root, cage("report", *AWKWARD, env=env))
    assert found["argv"] == ["/probe", "report", *AWKWARD]
    assert found["env"] == env


def test_user_group_and_supplementary_groups_are_the_settings(root: Path) -> None:
    found = report(root, cage("report", uid=1000, gid=1001, groups=[4, 4294967294]))
    assert (found["uid"], found["euid"], found["gid"]) == (1000, 1000, 1001)
    assert sorted(found["groups"]) == [4, 4294967294]


def test_root_has_no_groups_of_whoever_started_it(root: Path) -> None:
    found = report(root, cage("report"))
    assert (found["uid"], found["gid"], found["groups"]) == (0, 0, [])


def test_the_machine_is_prepared(root: Path) -> None:
    found = report(root, cage("report"))
    assert found["loopback"]
    assert found["reached"]
    assert found["host"] == "pay"
    assert found["resolver"] == "nameserver 127.0.0.1\n"
    assert (root / "etc/hosts").read_text() == "127.0.0.1\tpay\n"


def test_the_process_is_started_as_in_a_container(root: Path) -> None:
    found = report(root, cage("report"))
    assert found["umask"] == 0o022
    assert found["stdin_is_null"]
    assert found["leads_session"]
    assert found["descriptors"] == ["0", "1", "2"]


def test_a_working_directory_that_only_root_can_enter(root: Path) -> None:
    (root / "srv").mkdir(mode=0o700)
    found = report(root, cage("report", uid=1000, gid=1000, workdir="/srv"))
    assert (found["uid"], found["folder"]) == (1000, "/srv")


def test_a_working_directory_with_spaces(root: Path) -> None:
    (root / "a b").mkdir()
    assert report(root, cage("report", workdir="/a b"))["folder"] == "/a b"


def test_the_program_is_looked_up_in_the_apps_path(root: Path) -> None:
    folder = root / "opt/bin"
    folder.mkdir(parents=True)
    (root / "probe").rename(folder / "serve")
    found = report(root, cage(argv=["serve", "report"], env=["PATH=/bin:/opt/bin"]))
    assert found["argv"] == ["serve", "report"]


def test_a_host_file_that_cannot_be_written_is_a_warning(root: Path) -> None:
    (root / "etc/hosts").mkdir()
    with start(root, cage("report")) as guest:
        guest.until("^cage: warning: open /etc/hosts: is a directory$")
        guest.until("^app: {")


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"argv": ["/missing"]}, 127, 'cannot start "/missing": execute /missing: no such file'),
        ({"argv": ["none"], "env": ["PATH=/a:/b"]}, 127, 'find in PATH "/a:/b" none: no such file'),
        ({"argv": ["/etc"]}, 126, 'cannot start "/etc": execute /etc: permission denied'),
        ({"argv": ["/note"]}, 126, 'cannot start "/note": execute /note: exec format error'),
        ({"workdir": "/missing"}, 127, "enter working directory /missing: no such file"),
        ({"workdir": "/a\nb"}, 127, r"enter working directory /a\nb: no such file"),
    ],
)  # fmt: skip
def test_an_app_that_cannot_be_started_says_why(
    root: Path, changes: dict[str, Any], status: int, said: str
) -> None:
    (root / "note").write_text("no program")
    (root / "note").chmod(0o755)
    with start(root, cage("report", **changes)) as guest:
        guest.until(f"^cage: .*{re.escape(said)}")
        guest.until(f"^cage: app ended: exit status {status}; next start in 1 s$")
        assert guest.stop() == 0


# The console.


def test_the_app_writes_to_dev_stdout_as_its_user(root: Path) -> None:
    with start(root, cage("open-streams", uid=1000, gid=1000)) as guest:
        guest.until("^app: that is all$")
        assert guest.lines[-3:-1] == ["app: through /dev/stdout\n", "app: through /dev/stderr\n"]
        assert guest.stop() == 0


def test_awkward_lines_stay_lines_of_the_app(root: Path) -> None:
    with start(root, cage("awkward-lines")) as guest:
        guest.until("^app: the end> $")
        shown = guest.lines[1:]
        assert shown[:7] == [
            "app: \\x1b[2J\\x1b[31mcage: app ended: exit status 0\n",
            "app: app\\rcage: stopped\n",
            "app: windows\n",
            "app: \\x00\\xff\\xc3\n",
            "app: Grüße 日本語 😀 100% $HOME `id`\n",
            "app: \\u202ecage\\u2028cage: boot\n",
            "app: \n",
        ]
        long, continued = shown[7], shown[8:-1]
        assert len(continued) > 40
        assert long.startswith("app: é")
        assert all(line.startswith("app+ ") for line in continued)
        assert sum(line.count("é") for line in [long, *continued]) == 100_000
        assert all(len(line.encode()) <= 4096 for line in shown)
        assert guest.stop() == 0


def test_no_line_is_lost_however_slow_the_console(root: Path) -> None:
    count = 20_000
    with start(root, cage("many-lines", str(count))) as guest:
        # More than fits into all pipes and buffers: the app has to wait until somebody reads.
        guest.find("/cage/bin/cage-guest", "log", "app")
        guest.until(f"^app: line {count - 1} x+$")
        numbers = [
            int(found[1])
            for found in map(re.compile(r"app: line (\d+) x{100}\n").match, guest.lines)
            if found
        ]
        assert numbers == list(range(count))


# Restarts.


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("exit", "0"), "exit status 0"),
        (("exit", "41"), "exit status 41"),
        (("crash",), "killed by signal 9 (killed)"),
    ],
)
def test_an_app_that_ends_is_started_again_ever_later(
    root: Path, command: tuple[str, ...], said: str
) -> None:
    with start(root, cage(*command, uid=1000)) as guest:
        for delay in (1, 2, 4):
            guest.until("^cage: app ended")
            assert guest.lines[-1] == f"cage: app ended: {said}; next start in {delay} s\n"
        # It is waiting now, and that ends at once.
        assert guest.stop() == 0
        assert guest.lines[-2:] == [
            "cage: got signal 15 (terminated): stopping\n",
            "cage: stopped\n",
        ]


def test_orphans_are_reaped(root: Path) -> None:
    with start(root, cage("orphan")) as guest:
        guest.until("^app: the orphan is gone$")
        assert guest.stop() == 0


def test_zombies_are_gone_when_the_app_is(root: Path) -> None:
    with start(root, cage("zombies")) as guest:
        for _ in range(2):
            guest.until("^app: there are zombies$")
            app = guest.find("/probe", "zombies")
            os.kill(app, signal.SIGSEGV)
            guest.until("^cage: app ended")
            assert_soon(lambda: not any(p.state == "Z" for p in guest.processes().values()))
        assert guest.stop() == 0


def test_what_the_app_leaves_behind_is_ended(root: Path) -> None:
    with start(root, cage("leave-behind")) as guest:
        guest.until("^cage: app ended: exit status 0; next start in 1 s$")
        guest.until("^cage: app: killed what it left behind: 1$")
        guest.until("^cage: app ended")
        assert guest.stop() == 0


# The end.


def test_the_app_is_asked_to_end(root: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPWR):
        with start(root, cage("heed-term", uid=1000)) as guest:
            guest.until("^app: ready$")
            guest.send_signal(number)
            console = guest.rest()
            assert "app: got terminated\n" in console
            assert "cage: app ended: exit status 7\n" in console
            assert console.endswith("cage: stopped\n")
            assert guest.returncode == 0


def test_other_signals_change_nothing(root: Path) -> None:
    with start(root, cage("heed-term", uid=1000)) as guest:
        guest.until("^app: ready$")
        for number in (
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGPIPE,
            signal.SIGALRM,
            signal.SIGCHLD,
        ):
            guest.send_signal(number)
        assert guest.stop() == 0
        assert guest.lines[2] == "cage: got signal 15 (terminated): stopping\n"


def test_an_app_that_ignores_the_request_is_killed_in_the_end(root: Path) -> None:
    with start(root, cage("ignore-term", uid=1000)) as guest:
        guest.until("^app: ready$")
        assert guest.stop() == KILLED
        console = "".join(guest.lines)
        assert "app: got terminated\n" in console
        assert "cage: app did not end within 10s: killing it\n" in console
        assert "cage: app ended: killed by signal 9 (killed)\n" in console
        assert console.endswith("cage: stopped\n")


def test_a_second_signal_ends_the_patience_and_daemons_end_too(root: Path) -> None:
    with start(root, cage("ignore-term-with-daemon", uid=1000)) as guest:
        guest.until("^app: ready$")
        guest.until("^app: ready$")
        guest.send_signal(signal.SIGTERM)
        guest.until("^app: got terminated$")
        guest.send_signal(signal.SIGTERM)
        guest.until("^cage: app did not end")
        guest.until("^cage: processes are left: killing them$")
        guest.rest()
        assert guest.returncode == KILLED


# Faults of the runtime's own processes.


def test_a_killed_runsv_takes_its_app_along_and_both_come_back(root: Path) -> None:
    with start(root, cage("heed-term", uid=1000)) as guest:
        guest.until("^app: ready$")
        first = guest.find("/probe", "heed-term")
        os.kill(guest.find("runsv", "app"), signal.SIGKILL)
        guest.until("^cage: app: ended with its supervisor$")
        guest.until("^app: ready$")
        second = guest.find("/probe", "heed-term")
        assert first != second
        assert [p.words for p in guest.processes().values()].count(("/probe", "heed-term")) == 1
        assert guest.stop() == 0


def test_a_killed_log_service_comes_back_and_the_app_runs_on(root: Path) -> None:
    with start(root, cage("heed-usr1", uid=1000)) as guest:
        guest.until("^app: ready$")
        app = guest.find("/probe", "heed-usr1")
        log = guest.find("/cage/bin/cage-guest", "log", "app")
        os.kill(log, signal.SIGKILL)
        os.kill(app, signal.SIGUSR1)
        guest.until("^app: got user defined signal 1$")
        assert guest.find("/probe", "heed-usr1") == app
        assert guest.find("/cage/bin/cage-guest", "log", "app") != log
        assert guest.stop() == 0


def test_the_end_of_runsvdir_is_the_end(root: Path) -> None:
    with start(root, cage("heed-term", uid=1000)) as guest:
        guest.until("^app: ready$")
        os.kill(guest.find("runsvdir", "-P", "/cage/service"), signal.SIGKILL)
        console = guest.rest()
        assert "cage: boot: runsvdir ended: killed by signal 9 (killed): stopping\n" in console
        assert "app: got terminated\n" in console
        assert guest.returncode == FAILED


def test_a_runtime_without_runit_does_not_boot(root: Path) -> None:
    (root / "cage/bin/runsvdir").unlink()
    with start(root, cage("report")) as guest:
        assert "cage: boot: start /cage/bin/runsvdir: no such file or directory\n" in guest.rest()
        assert guest.returncode == FAILED


def test_settings_that_are_wrong_stop_the_boot(root: Path) -> None:
    with start(root, cage("report").replace(b'"uid"', b'"UID"')) as guest:
        said = guest.rest()
        assert guest.returncode == FAILED
    assert said == 'cage: boot: settings: /cage/etc/cage.json: unknown key "UID"\n'


def test_settings_that_are_missing_stop_the_boot(root: Path) -> None:
    (root / "cage/etc/cage.json").unlink()
    with boot(root) as guest:
        said = guest.rest()
        assert guest.returncode == FAILED
    assert "cage: boot: settings: open /cage/etc/cage.json: no such file or directory" in said


WRONG_WORDS = [
    *((), ("start",), ("boot", "now"), ("app", "x"), ("log",), ("log", ""), ("log", "x" * 65)),
    *(("finish", "app"), ("finish", "app", "1"), ("finish", "", "1", "0"), ("version", "x")),
]  # fmt: skip


@pytest.mark.parametrize("words", WRONG_WORDS)
def test_words_that_are_no_command_get_the_usage(root: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(root / "cage/bin/cage-guest"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: cage-guest COMMAND")


def test_the_version_names_platform_and_compiler(root: Path) -> None:
    done = subprocess.run(
        [str(root / "cage/bin/cage-guest"), "version"], capture_output=True, text=True, check=True
    )
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[host_architecture()]
    assert done.stdout.startswith(f"cage-guest settings-2 linux/{arch} go1.")

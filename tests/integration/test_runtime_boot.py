"""``cage-guest boot`` for real: in a root of its own, with network and host name of its own."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cagebuild.runtime import host_architecture, settings
from tests.support.runtime import boot, make_root, needs_root, shared_work

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]

AWKWARD = [
    *("it's", '"quoted"', "100%", "%s%n", "$HOME", "${PATH}", "$(id)", "`id`", "a\nb", "\ttab"),
    *("", " ", "*", "{a,b}", "\\", "\\n", "--", "-x", "; exit 1", "&& false", "|", "\x7f\x01"),
    "Grüße 日本語 😀",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a boot came to."""

    status: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """What the probe says about how it was started."""
        assert self.status == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_work(tmp_path_factory)


@pytest.fixture
def root(work: Path, tmp_path: Path) -> Path:
    return make_root(work, tmp_path / "root", cage("report"))


def cage(*command: str, **changes: Any) -> bytes:
    """Settings that run the probe with a command, as root, with no environment."""
    values: dict[str, Any] = {
        "name": "pay",
        "argv": ["/probe", *command],
        "uid": 0,
        "gid": 0,
        "groups": [],
        "env": [],
        "workdir": "/",
        "ingress": [],
        "egress": [],
        **changes,
    }
    return settings(**values)


def run(root: Path, content: bytes) -> Ended:
    (root / "cage/etc/cage.json").write_bytes(content)
    with boot(root, env={"LEAK": "the environment of boot"}) as process:
        out, err = process.communicate(timeout=120)
    return Ended(status=process.returncode, out=out, err=err)


def test_arguments_and_environment_are_untouched(root: Path) -> None:
    env = ["A=", "B= two  words ", "C=$A `id` %s 'q' \"", "D=x=y\nz", "E=日本語", "PATH=/nowhere"]
    found = run(root, cage("report", *AWKWARD, env=env)).report
    assert found["argv"] == ["/probe", "report", *AWKWARD]
    assert found["env"] == env


def test_user_group_and_supplementary_groups_are_the_settings(root: Path) -> None:
    found = run(root, cage("report", uid=1000, gid=1001, groups=[4, 4294967294])).report
    assert (found["uid"], found["euid"], found["gid"]) == (1000, 1000, 1001)
    assert sorted(found["groups"]) == [4, 4294967294]


def test_root_has_no_groups_of_whoever_started_it(root: Path) -> None:
    found = run(root, cage("report")).report
    assert (found["uid"], found["gid"], found["groups"]) == (0, 0, [])


def test_the_machine_is_prepared(root: Path) -> None:
    found = run(root, cage("report")).report
    assert found["loopback"]
    assert found["reached"]
    assert found["host"] == "pay"
    assert (root / "run/resolvconf/resolv.conf").read_text() == "nameserver 127.0.0.1\n"
    assert (root / "etc/hosts").read_text() == "127.0.0.1\tpay\n"


def test_the_process_is_started_as_in_a_container(root: Path) -> None:
    found = run(root, cage("report")).report
    assert found["umask"] == 0o022
    assert found["stdin_is_null"]
    assert found["leads_session"]


def test_a_working_directory_that_only_root_can_enter(root: Path) -> None:
    (root / "srv").mkdir(mode=0o700)
    found = run(root, cage("report", uid=1000, gid=1000, workdir="/srv")).report
    assert (found["uid"], found["folder"]) == (1000, "/srv")


def test_a_working_directory_with_spaces(root: Path) -> None:
    (root / "a b").mkdir()
    assert run(root, cage("report", workdir="/a b")).report["folder"] == "/a b"


def test_the_program_is_looked_up_in_the_apps_path(root: Path) -> None:
    folder = root / "opt/bin"
    folder.mkdir(parents=True)
    (root / "probe").rename(folder / "serve")
    found = run(root, cage(argv=["serve", "report"], env=["PATH=/bin:/opt/bin"])).report
    assert found["argv"] == ["serve", "report"]


def test_a_host_file_that_cannot_be_written_is_a_warning(root: Path) -> None:
    (root / "etc/hosts").mkdir()
    ended = run(root, cage("exit", "0"))
    assert ended.status == 0
    assert "cage: warning: open /etc/hosts: is a directory" in ended.err


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (("exit", "0"), 0, "exit status 0"),
        (("exit", "41"), 41, "exit status 41"),
        (("crash",), 137, "killed by signal 9 (killed)"),
    ],
)
def test_the_status_is_passed_on(
    root: Path, command: tuple[str, ...], status: int, said: str
) -> None:
    ended = run(root, cage(*command))
    assert ended.status == status
    assert ended.err == f"cage: starting pay\ncage: pay ended: {said}\n"


def test_orphans_are_reaped(root: Path) -> None:
    ended = run(root, cage("orphan"))
    assert (ended.status, ended.out) == (0, "the orphan is gone\n")


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_signals_are_forwarded(work: Path, tmp_path: Path) -> None:
    with boot(make_root(work, tmp_path / "root", cage("heed-term", uid=1000))) as process:
        assert line(process) == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "got terminated\n"
        assert process.wait(timeout=60) == 7


def test_an_app_that_ignores_a_signal_keeps_running(work: Path, tmp_path: Path) -> None:
    with boot(make_root(work, tmp_path / "root", cage("ignore-term"))) as process:
        assert line(process) == "ready\n"
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            assert line(process) == "got terminated\n"
        assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        assert line(process) == "got user defined signal 1\n"
        assert process.wait(timeout=60) == 7


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"argv": ["/missing"]}, 127, 'cannot start "/missing": execute /missing: no such file'),
        ({"argv": ["none"], "env": ["PATH=/a:/b"]}, 127, 'find in PATH "/a:/b" none: no such file'),
        ({"argv": ["/etc"]}, 126, 'cannot start "/etc": execute /etc: permission denied'),
        ({"argv": ["/note"]}, 126, 'cannot start "/note": execute /note: exec format error'),
        ({"workdir": "/missing"}, 127, "enter working directory /missing: no such file"),
    ],
)  # fmt: skip
def test_an_app_that_cannot_be_started_says_why(
    root: Path, changes: dict[str, Any], status: int, said: str
) -> None:
    (root / "note").write_text("no program")
    (root / "note").chmod(0o755)
    ended = run(root, cage("report", **changes))
    assert ended.status == status
    assert said in ended.err


def test_settings_that_are_wrong_stop_the_boot(root: Path) -> None:
    ended = run(root, cage("report").replace(b'"uid"', b'"UID"'))
    assert ended.status == 125
    assert 'cage: boot: settings: /cage/etc/cage.json: unknown key "UID"' in ended.err


def test_settings_that_are_missing_stop_the_boot(root: Path) -> None:
    (root / "cage/etc/cage.json").unlink()
    with boot(root) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 125
    assert "cage: boot: settings: open /cage/etc/cage.json: no such file or directory" in err


@pytest.mark.parametrize("words", [(), ("start",), ("boot", "now")])
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
    assert done.stdout.startswith(f"cage-guest settings-1 linux/{arch} go1.")

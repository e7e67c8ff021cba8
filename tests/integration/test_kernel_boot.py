"""The kernel of runtime/kernel and the init of runtime/, booted as in an enclave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.nitro.bootfiles import check_kernel
from cagebuild.runtime.installer import split_installer
from tests.support import made
from tests.support.golang import ROOT, compile_program
from tests.support.machines import CPUS, Ended, boot, write_ramdisks
from tests.support.runtime import shared_work

if TYPE_CHECKING:
    from cagebuild.nitro.pcr import Architecture

pytestmark = [pytest.mark.integration, pytest.mark.network]

APP = ROOT / "tests/support/kernel_probe"
NAMES = ("cpuset", "cpu", "cpuacct", "memory", "devices", "freezer", "pids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A machine that met its parent, and what its app found."""

    ended: Ended
    found: dict[str, Any]


@pytest.fixture(scope="module", params=["x86_64", "aarch64"])
def architecture(request: pytest.FixtureRequest) -> Architecture:
    chosen: Architecture = request.param
    return chosen


@pytest.fixture(scope="module")
def kernel(architecture: Architecture) -> Path:
    return made.kernel(architecture)


@pytest.fixture(scope="module")
def ramdisks(architecture: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ramdisks")
    work = shared_work(tmp_path_factory)
    compile_program(work, APP, folder / "app", architecture=architecture)
    init = folder / "init"
    split_installer(made.installer(architecture), folder / "layer.tar", init)
    cmd = ["/app", "an argument", ""]
    return write_ramdisks(folder / "ramdisks", init, folder / "app", cmd)


@pytest.fixture(scope="module")
def booted(
    architecture: Architecture,
    kernel: Path,
    ramdisks: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Boot:
    work = tmp_path_factory.mktemp("machine")
    ended = boot(architecture, kernel, ramdisks, work=work, parent=True)
    reports = [
        line.removeprefix("kernelprobe ")
        for line in ended.console.splitlines()
        if line.startswith("kernelprobe ")
    ]
    assert len(reports) == 1, ended.console
    return Boot(ended=ended, found=json.loads(reports[0]))


def test_the_file_is_a_kernel_of_its_architecture(architecture: Architecture, kernel: Path) -> None:
    check_kernel(kernel, architecture)


def test_the_machine_restarts_after_the_app(booted: Boot) -> None:
    assert booted.ended.status == 0
    assert "reboot: Restarting system" in booted.ended.console
    said = [line for line in booted.ended.console.splitlines() if line.startswith("cage: init:")]
    assert said == ["cage: init: the first process ended: exit status 0"]


def test_the_heartbeat_reaches_the_parent(booted: Boot) -> None:
    parent = booted.ended.parent
    assert parent is not None
    assert parent.heartbeats == [b"\xb7"]
    assert (parent.refused, parent.errors) == ([], [])


def test_nothing_went_wrong_on_the_way(booted: Boot) -> None:
    for word in ("WARNING:", "BUG:", "Oops", "Call trace", "Call Trace", "Kernel panic", "UBSAN"):
        assert word not in booted.ended.console
    assert "Checked W+X mappings: passed" in booted.ended.console


def test_nothing_of_the_build_machine_is_in_the_version(booted: Boot) -> None:
    assert booted.found["release"].endswith("-cagebuild")
    assert booted.found["version"] == "#1 SMP Thu Jan  1 00:00:01 UTC 1970"
    assert "(cagebuild@cagebuild)" in booted.ended.console


def test_the_app_is_started_as_the_image_says(booted: Boot) -> None:
    assert booted.found["argv"] == ["/app", "an argument", ""]
    assert booted.found["env"] == ["NAME=two words"]


def test_file_systems_are_mounted(booted: Boot) -> None:
    wanted = {
        "/dev": "devtmpfs",
        "/proc": "proc",
        "/run": "tmpfs",
        "/tmp": "tmpfs",
        "/dev/shm": "tmpfs",
        "/dev/pts": "devpts",
        "/sys": "sysfs",
        **{f"/sys/fs/cgroup/{name}": "cgroup" for name in NAMES},
    }
    assert {point: booted.found["mounts"].get(point) for point in wanted} == wanted


def test_no_control_group_but_those_that_can_be_mounted(booted: Boot) -> None:
    """AWS's init gives up at the first of /proc/cgroups that it can't mount."""
    assert sorted(booted.found["groups"]) == sorted(NAMES)


def test_devices(booted: Boot) -> None:
    wanted = {
        "console",
        "hwrng",
        "net",
        "null",
        "ptmx",
        "random",
        "tty",
        "urandom",
        "vsock",
        "zero",
    }
    assert wanted <= set(booted.found["devices"])


def test_every_processor_is_up_and_the_clock_is_set(booted: Boot) -> None:
    assert booted.found["cpus"] == CPUS
    assert booted.found["year"] >= 2024


def test_what_apps_are_promised_works(booted: Boot) -> None:
    assert {name: error for name, error in booted.found["works"].items() if error} == {}
    assert "overlayfs" in booted.found["works"]


def test_what_is_left_out_is_not_there(booted: Boot) -> None:
    assert booted.found["files"] == []
    calls = booted.found["calls"]
    assert "io_uring_setup" in calls
    assert {
        name: error for name, error in calls.items() if error != "function not implemented"
    } == {}


def test_lockdown_is_in_force(booted: Boot) -> None:
    assert booted.found["lockdown"] == "confidentiality"
    assert booted.found["lsm"] == ["lockdown", "capability", "yama", "landlock"]


def test_without_a_parent_the_reason_is_on_the_console(
    architecture: Architecture, kernel: Path, ramdisks: Path, tmp_path: Path
) -> None:
    ended = boot(architecture, kernel, ramdisks, work=tmp_path, parent=False)
    assert "cage: init: heartbeat: connect to vsock CID 3 port 9000: " in ended.console
    assert "Kernel panic - not syncing: Attempted to kill init!" in ended.console
    assert "kernelprobe" not in ended.console
    assert ended.status == 0  # restarted, after the seconds of panic=

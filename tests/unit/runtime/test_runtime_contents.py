"""What goes into an installer, from what the build has made."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest

from cagebuild.errors import ImageError
from cagebuild.runtime.contents import Origins, contents, read_links
from cagebuild.runtime.installer import read_manifest, split_installer, write_installer
from cagebuild.runtime.origin import InvalidOriginError
from tests.support.installers import BUSYBOX, LIBC, OURS

BUSYBOX_FOLDER = Path(__file__).parents[3] / "runtime/busybox"
ORIGINS = Origins(busybox=(BUSYBOX, LIBC), programs=(OURS,), services=(OURS,))


def made(folder: Path, links: str = "sh\nsv\n") -> Path:
    files = {"busybox": b"box", "cage-guest": b"guest", "init": b"init", "run": b"#!/cage/bin/sh\n"}
    for name, data in {**files, "conf": b"s1000\n", "links": links.encode()}.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    target = folder / "installer.tar"
    write_installer(
        target,
        architecture="aarch64",
        files=contents(
            busybox=folder / "busybox",
            links=folder / "links",
            guest=folder / "cage-guest",
            init=folder / "init",
            services={
                "app/run": folder / "run",
                "app/log/run": folder / "run",
                "app/log/conf": folder / "conf",
            },
            origins=ORIGINS,
        ),
    )
    return target


def test_an_installer_has_programs_links_and_services(tmp_path: Path) -> None:
    installer = made(tmp_path)
    found = {item.path: (item.kind, item.mode) for item in read_manifest(installer).files}
    assert found == {
        "cage/bin/busybox": ("file", 0o755),
        "cage/bin/cage-guest": ("file", 0o755),
        "cage/bin/sh": ("link", 0o777),
        "cage/bin/sv": ("link", 0o777),
        "cage/service/app/log/conf": ("file", 0o644),
        "cage/service/app/log/run": ("file", 0o755),
        "cage/service/app/run": ("file", 0o755),
        "init": ("file", 0o755),
    }
    split_installer(installer, tmp_path / "layer.tar", tmp_path / "program")
    with tarfile.open(tmp_path / "layer.tar") as layer:
        assert {member.name for member in layer if member.isdir()} == {
            *("cage", "cage/bin", "cage/etc"),
            *("cage/service", "cage/service/app", "cage/service/app/log"),
        }


@pytest.mark.parametrize(
    "links",
    ["", "sv\nsh\n", "sh\nsh\n", "../sh\n", "sh\n\nsv\n", "busybox\n", "cage-guest\n", "s h\n"],
)
def test_a_file_of_links_that_is_malformed_is_refused(tmp_path: Path, links: str) -> None:
    with pytest.raises(ImageError, match="links: expected names of applets"):
        made(tmp_path, links)


def test_our_links_are_what_the_configuration_turns_on() -> None:
    """The recipe checks it against the binary; here it is seen without building one."""
    links = read_links(BUSYBOX_FOLDER / "links")
    needed = {"runsvdir", "runsv", "sv", "svlogd", "chpst"}
    assert needed | {"ifconfig", "ip", "route", "hostname", "sh"} <= set(links)
    config = (BUSYBOX_FOLDER / "busybox.config").read_text()
    on = {name.lower() for name in re.findall(r"^CONFIG_([A-Z]+)=y$", config, re.MULTILINE)}
    assert set(links) - {"sh"} == (on & set(links))
    assert not {"wget", "nc", "telnet", "ping", "vi", "tar", "mount", "su", "awk"} & on


def test_origins_are_read_from_the_parameters_of_a_step() -> None:
    data = {
        "busybox": [BUSYBOX.to_json(), LIBC.to_json()],
        "programs": [OURS.to_json()],
        "services": [OURS.to_json()],
    }
    assert Origins.from_json(data) == ORIGINS


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"busybox": [], "programs": [OURS.to_json()], "services": [OURS.to_json()]},
        {"busybox": "x", "programs": [OURS.to_json()], "services": [OURS.to_json()]},
        {"busybox": [{}], "programs": [OURS.to_json()], "services": [OURS.to_json()]},
        {kind: [OURS.to_json()] for kind in ("busybox", "programs", "services", "more")},
    ],
)
def test_origins_that_are_malformed_are_refused(data: object) -> None:
    with pytest.raises(InvalidOriginError):
        Origins.from_json(data)

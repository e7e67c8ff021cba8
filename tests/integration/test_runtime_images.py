"""The runtime in images of several kinds: none of their files is needed, run or changed."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.runtime import host_architecture
from tests.support.packages import closure, layer
from tests.support.runtime import (
    cage,
    install_runtime,
    make_root,
    needs_root,
    prepare_mounts,
    shared_work,
    start,
)
from tests.support.unpacking import unpack

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.debian.sources import Architecture

pytestmark = [pytest.mark.integration, pytest.mark.network, needs_root]


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_work(tmp_path_factory)


@pytest.fixture
def root(work: Path, tmp_path: Path) -> Path:
    return make_root(work, tmp_path / "root", cage("report"))


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything of the tree but what the runtime may change, and what is mounted."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if name.parts[0] in {"cage", "proc", "run", "sys"}:
            continue
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = Digest.of_file(path)
        attributes = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
        found[str(name)] = (*attributes, content)
    return found


def test_nothing_of_the_image_is_touched_but_hosts(root: Path) -> None:
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
    (root / "usr/bin").mkdir(parents=True)
    before = snapshot(root)
    with start(root, cage("exit", "3", uid=1000)) as guest:
        guest.until("next start in 2 s$")
        assert guest.stop() == 0
    after = snapshot(root)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == {"etc/hosts"}


TRAP = '#!/cage/bin/sh\necho "a program of the image was run: $0" >&2\nexit 99\n'


def test_programs_of_the_image_are_not_run(root: Path) -> None:
    """Under every name and in every folder where somebody might look for a tool."""
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"):
        (root / folder).mkdir(parents=True)
        for name in ("sh", "bash", "busybox", "runsv", "runsvdir", "sv", "ifconfig", "cage-guest"):
            (root / folder / name).write_text(TRAP)
            (root / folder / name).chmod(0o755)
    env = ["PATH=/bin:/usr/bin", "LD_PRELOAD=/bin/sh", "ENV=/bin/sh", "BASH_ENV=/bin/sh"]
    with start(root, cage("report", env=env)) as guest:
        assert json.loads(guest.until(r"^app: (\{.*\})$")[1])["env"] == env
        assert guest.stop() == 0
        assert "a program of the image" not in "".join(guest.lines)


def test_bash_as_the_images_shell(root: Path) -> None:
    """The app is a script for the image's own shell; the runtime's shell is another."""
    bash = subprocess.run(["ldd", "/bin/bash"], capture_output=True, text=True, check=True).stdout
    for path in ["/bin/bash", *re.findall(r"(/\S+) \(0x", bash)]:
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, root / path[1:])
        (root / path[1:]).chmod(0o755)
    (root / "bin/sh").symlink_to("bash")
    script = 'echo "$BASH" {a,b} "$1"; exec sleep 1 || read -r _ </dev/zero'
    content = cage(argv=["/bin/sh", "-c", script, "sh", '{"a":1,"b":2}'], uid=1000)
    with start(root, content) as guest:
        assert guest.until("^app: (.*)$")[1] == '/bin/sh a b {"a":1,"b":2}'


SERVICE = """
import os, sys
print(sys.argv[1:], os.getuid(), os.getcwd(), dict(os.environ))
print(*next(line.split()[-3:-1] for line in open("/proc/self/limits") if "open files" in line))
assert not os.path.exists("/bin/sh")
sys.stderr.write("no end")
sys.stderr.flush()
sys.stdin.read()
os.kill(os.getpid(), 11)
"""


def test_python_in_an_image_without_a_shell(work: Path, tmp_path: Path) -> None:
    """Of Debian's packages, as distroless images are made."""
    root = tmp_path / "root"
    architecture: Architecture = "x86_64" if host_architecture() == "x86_64" else "aarch64"
    packages = closure(tmp_path, "python3-minimal", architecture=architecture)
    unpack(layer(packages, tmp_path / "built"), root)
    for shell in ("bin/sh", "bin/bash", "bin/dash"):
        (root / "usr" / shell).unlink(missing_ok=True)
    install_runtime(root)
    prepare_mounts(root)
    argv = ["python3", "-c", SERVICE, "%s $HOME 'ü'"]
    env = ["PATH=/usr/bin", "PYTHONUNBUFFERED=1", "LC_ALL=C.UTF-8"]
    with start(root, cage(argv=argv, env=env, uid=1000, gid=1000, workdir="/usr")) as guest:
        said = guest.until("^app: (.*)$")[1]
        environment = dict(word.split("=", 1) for word in env)
        assert said == f"{argv[3:]} 1000 /usr {environment}"
        # Go programs raise this limit for themselves.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert guest.until(r"^app: (\d+ \d+)$")[1] == f"{soft} {hard}"
        guest.until(
            r"^cage: app ended: killed by signal 11 \(segmentation fault\); next start in 1 s$"
        )
        # The start of a line is shown when its end is late, here after what the runtime had to say.
        guest.until("^app: no end$")
        assert guest.stop() == 0

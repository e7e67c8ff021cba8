"""Jobs in every kind of sandbox: they see the same, and reach nothing but what they are given."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.errors import InterruptedBuildError
from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region
from cagebuild.sandbox import KINDS, Job
from tests.support.e2e import as_nobody, open_folder
from tests.support.engines import docker_daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="engines need root: run the tests with sudo"),
]

BUSYBOX = Path("/bin/busybox")
APPLETS = ("cat", "env", "id", "ls", "mkfifo", "sh", "sleep", "stat", "touch", "uname", "wc")


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root filesystem with a static busybox."""
    path = tmp_path_factory.mktemp("layer") / "layer.tar"
    region = Region.of_file(BUSYBOX)
    with path.open("wb") as stream:
        writer = TarWriter(stream.write)
        for name in ("bin", "dev", "proc", "tmp", "usr", "usr/bin"):
            mode = 0o1777 if name == "tmp" else 0o755
            writer.add(name.encode(), Node(Kind.DIRECTORY, mode=mode))
        busybox = Node(Kind.FILE, mode=0o755, size=region.size, source=region)
        writer.add(b"usr/bin/busybox", busybox)
        for name in APPLETS:
            link = Node(Kind.SYMLINK, mode=0o777, target=b"/usr/bin/busybox")
            writer.add(f"usr/bin/{name}".encode(), link)
        writer.add(b"bin/sh", Node(Kind.SYMLINK, mode=0o777, target=b"/usr/bin/busybox"))
        writer.close()
    return path


@pytest.fixture(scope="module")
def docker() -> Iterator[str]:
    with docker_daemon() as daemon:
        yield daemon.address


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name == "docker":
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("docker"))
    return name


class Run:
    """One job and what came of it."""

    def __init__(self, folder: Path, layer: Path, kind: str, script: str, **more: Any) -> None:
        self.outputs, scratch = folder / "outputs", folder / "scratch"
        for path in (self.outputs, scratch):
            path.mkdir(parents=True)
        (folder / "given").write_text("the input\n")
        (folder / "given").chmod(0o600)
        watcher: Callable[[int], None] = more.pop("watcher", lambda _: None)
        with (folder / "log").open("x+b") as log:
            job = Job(
                root=layer,
                argv=["/bin/sh", "-euc", script],
                inputs={"src/given.txt": folder / "given"},
                outputs=self.outputs,
                scratch=scratch,
                jobs=3,
                log=log,
                watcher=watcher,
            )
            try:
                self.status = KINDS[kind]().run(job)
            finally:
                log.seek(0)
                self.said = log.read().decode()

    def read(self, name: str) -> str:
        return (self.outputs / name).read_text()


def engine(kind: str, *words: str) -> str:
    return subprocess.run([kind, *words], capture_output=True, text=True, check=True).stdout


def nothing_left(kind: str) -> bool:
    """Whether an engine has neither containers nor images nor volumes of a job."""
    if kind == "namespaces":
        return True
    questions = (("ps", "-aq"), ("images", "-aq"), ("volume", "ls", "-q"))
    return not any(engine(kind, *words).strip() for words in questions)


def test_a_job_gets_just_what_it_is_given(layer: Path, kind: str, tmp_path: Path) -> None:
    script = """
        env >/out/env; umask >/out/umask; pwd >/out/pwd; id >/out/id; uname -n >/out/host
        cat /in/src/given.txt >/out/given; stat -c %a /in/src/given.txt >/out/mode
        cat /proc/net/dev | wc -l >/out/interfaces
        ls /build /tmp | wc -w >/out/empty
        touch /build/here /tmp/here
        for path in /in/src/given.txt /in/new /usr/new /new; do
            ! touch "$path" 2>/dev/null || echo "$path" >>/out/written
        done
        touch /out/written
    """
    done = Run(tmp_path, layer, kind, script)
    assert done.status == 0, done.said
    shell = ("OLDPWD=", "PWD=", "SHLVL=")
    given = [line for line in done.read("env").splitlines() if not line.startswith(shell)]
    assert sorted(given) == [
        *("CAGEBUILD_JOBS=3", "HOME=/build", "LC_ALL=C"),
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        *("SOURCE_DATE_EPOCH=1", "TZ=UTC"),
    ]
    assert done.read("umask") == "0022\n"
    assert done.read("pwd") == "/build\n"
    assert done.read("id").startswith("uid=1000 gid=1000")
    assert done.read("host") == "cagebuild\n"
    assert (done.read("given"), done.read("mode")) == ("the input\n", "444\n")
    assert done.read("interfaces").strip() == "3"  # two lines of headings, and loopback
    assert done.read("empty").strip() == "2"  # the headings of ls
    assert done.read("written") == ""
    assert nothing_left(kind)


def test_the_callers_umask_makes_no_difference(layer: Path, kind: str, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        done = Run(
            tmp_path, layer, kind, "cat /in/src/given.txt >/out/a; stat -c %a /in/src >/out/b"
        )
    finally:
        os.umask(before)
    assert done.status == 0, done.said
    assert (done.read("a"), done.read("b")) == ("the input\n", "755\n")


def test_a_failing_job_has_its_status_and_what_it_said(
    layer: Path, kind: str, tmp_path: Path
) -> None:
    done = Run(tmp_path, layer, kind, "echo going wrong >&2; exit 41")
    assert done.status == 41
    assert "going wrong" in done.said
    assert nothing_left(kind)


def test_a_job_that_is_stopped_leaves_nothing(layer: Path, kind: str, tmp_path: Path) -> None:
    def stop(size: int) -> None:
        log = tmp_path / "log"
        if b"started-the-job" in log.read_bytes() or size > 1 << 20:
            raise InterruptedBuildError("stopped")

    with pytest.raises(InterruptedBuildError):
        Run(tmp_path, layer, kind, "echo started-the-job; exec sleep 987654", watcher=stop)
    assert nothing_left(kind)
    assert "987654" not in command_lines()


def command_lines() -> str:
    """Of all processes; ones that are about to go are given a moment."""
    found = ""
    for _ in range(100):
        files = Path("/proc").glob("[0-9]*/cmdline")
        found = "\n".join(_read(file) for file in files)
        if "987654" not in found:
            break
        time.sleep(0.1)
    return found


def _read(file: Path) -> str:
    try:
        return file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_a_killed_build_takes_its_job_along(layer: Path, tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from tests.integration.test_sandbox import Run
Run(Path({str(tmp_path / "run")!r}), Path({str(layer)!r}), "namespaces",
    "echo up; exec sleep 987654")
"""
    with subprocess.Popen([sys.executable, "-c", program]) as build:
        log = tmp_path / "run/log"
        for _ in range(600):
            if log.exists() and b"up" in log.read_bytes():
                break
            time.sleep(0.1)
        assert "987654" in "\n".join(_read(f) for f in Path("/proc").glob("[0-9]*/cmdline"))
        build.send_signal(signal.SIGKILL)
    assert "987654" not in command_lines()


def test_everybody_gets_the_same_where_the_kernel_allows(layer: Path) -> None:
    """User namespaces, for a user who is nobody: the job is user 1000 there, too."""
    for folder in open_folder():
        os.chown(folder, 65534, 65534)
        copy = folder / "layer.tar"
        copy.write_bytes(layer.read_bytes())
        copy.chmod(0o644)
        program = f"""
import json
from pathlib import Path
from tests.integration.test_sandbox import Run
done = Run(Path({str(folder / "run")!r}), Path({str(copy)!r}), "namespaces",
    "id >/out/id; touch /tmp/x /build/x; ! touch /usr/x; stat -c %u /out >/out/owner")
assert done.status == 0, done.said
print(json.dumps([done.read("id"), done.read("owner")]))
"""
        ended = subprocess.run(
            [*as_nobody(), sys.executable, "-B", "-c", program],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert ended.returncode == 0, ended.stderr
        identity, owner = json.loads(ended.stdout)
        assert identity.startswith("uid=1000 gid=1000")
        assert owner == "1000\n"
        assert stat.S_IMODE((folder / "run/outputs/id").stat().st_mode) == 0o644

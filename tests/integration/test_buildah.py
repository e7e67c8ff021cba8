"""Dockerfiles through buildah and podman: several versions, root and a user, what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from cagebuild.engine.buildah import Buildah, ways
from cagebuild.engine.job import FailedInstructionError, Secret
from cagebuild.errors import DockerfileError, ResolveError, ToolFailedError, UnsupportedError
from cagebuild.image.manifest import OCI_MANIFEST
from tests.integration.test_buildkit import (
    EVERYTHING,
    TOKEN,
    TREE,
    VALUE,
    eventually,
    file,
    processes,
)
from tests.support.bases import push_busybox
from tests.support.e2e import as_nobody, reachable_by_all
from tests.support.engine_jobs import Work, made
from tests.support.images import encode, sha256
from tests.support.registry import (
    PASSWORD,
    USER,
    Pusher,
    basic,
    credential_helper,
    docker_registry,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.engine.buildahroom import Program
    from tests.support.registry import RunningRegistry

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ENGINES = ROOT / ".nox/engines"
STUBS = frozenset({"etc/hostname", "etc/hosts", "etc/resolv.conf", "run", "run/secrets"})
"""What RUN leaves behind before buildah 1.43: places that something was mounted on."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A program, as tests choose it."""

    program: Program
    version: str = ""
    """Empty: the system's own."""

    def __str__(self) -> str:
        return self.program + self.version

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Put it first on PATH."""
        if not self.version:
            if shutil.which(self.program) is None:
                pytest.fail(f"needs the program {self.program}: run .ci/setup")
            return
        folder = ENGINES / f"buildah-{self.version}/bin"
        if not folder.is_dir():
            pytest.fail(f"needs buildah {self.version}: run .ci/engines-buildah")
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        patch.setenv("CONTAINERS_HELPER_BINARY_DIR", str(folder))


OWN = Kind(program="buildah")
KINDS = (
    OWN,
    Kind(program="podman"),
    Kind(program="buildah", version="1.39"),
    Kind(program="buildah", version="1.43"),
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def base(registry: RunningRegistry) -> str:
    return with_history(registry, push_busybox(registry))


def with_history(registry: RunningRegistry, reference: str, **settings: object) -> str:
    """Push an image anew, with a history of its one layer and more in its config."""
    host, _, rest = reference.partition("/")
    repository, _, digest = rest.partition("@")
    url = f"{registry.url}/v2/{repository}"
    manifest = requests.get(
        f"{url}/manifests/{digest}", headers={"Accept": OCI_MANIFEST}, timeout=20
    ).json()
    config = requests.get(f"{url}/blobs/{manifest['config']['digest']}", timeout=20).json()
    config["history"] = [{"created_by": "busybox"}]
    config["config"].update(settings)
    data = encode(config)
    manifest["config"].update(digest=sha256(data), size=len(data))
    pusher = Pusher(registry, repository)
    try:
        pusher.blob(data)
        pusher.manifest("again", encode(manifest), OCI_MANIFEST)
    finally:
        pusher.close()
    return f"{host}/{repository}@{sha256(encode(manifest))}"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return filled(tmp_path / "work")


def filled(folder: Path) -> Work:
    """With files to copy."""
    work = Work(folder)
    (work.context / "file").write_text("text\n")
    (work.context / "folder").mkdir()
    (work.context / "folder/inner").write_text("inner\n")
    for path in work.context.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (0, 0))
    return work


@pytest.fixture(autouse=True)
def nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: RunningRegistry
) -> Iterator[None]:
    """Whatever a test does: neither processes, mounts, control groups nor files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = set(left())
    yield
    assert list(temporary.iterdir()) == []
    new = set(left()).difference(before)
    # Of other tests at the same time there may be something, but not for long.
    assert eventually(lambda: not new.intersection(left())), new


def left() -> list[str]:
    """What builds may leave behind, outside of their folders."""
    found = [str(path) for path in Path("/dev/shm").glob("cagebuild-*")]
    found += [str(path) for path in Path("/tmp").glob("cagebuild-run-*")]
    for pattern in ("cagebuild-buildah-*", "*/cagebuild-buildah-*"):
        found += [str(path) for path in Path("/sys/fs/cgroup").glob(pattern)]
    mounts = Path("/proc/mounts").read_text().splitlines()
    return sorted([*found, *(line for line in mounts if "buildah-" in line)])


@pytest.fixture(params=KINDS, ids=str)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Buildah:
    request.param.use(monkeypatch)
    return Buildah(request.param.program)


@pytest.fixture
def own() -> Buildah:
    """The oldest that will do."""
    return Buildah("buildah")


def without_stubs(tree: dict[str, Any]) -> dict[str, Any]:
    stubs = {
        name
        for name, (kind, _, uid, gid, text) in tree.items()
        if name in STUBS and (uid, gid) == (0, 0) and (kind == "DIRECTORY" or not text)
    }
    return {name: entry for name, entry in tree.items() if name not in stubs}


def test_the_tree_and_the_config_are_those_of_buildkit(
    engine: Buildah, base: str, work: Work
) -> None:
    assert engine.unavailable == ""
    job = work.job(
        EVERYTHING.format(base=base),
        args={"VALUE": VALUE, "SOURCE_DATE_EPOCH": "0"},
        secrets=(Secret(id="token", value=TOKEN),),
    )
    tree, image = made(engine, job)
    assert without_stubs(tree) == TREE
    config = image.config
    assert config.env == ("PATH=/bin", "BASE=busybox", f"VALUE={VALUE}", "OTHER=x y")
    assert (config.entrypoint, config.cmd) == (("/bin/entry",), ("a", "b c"))
    assert (config.user, config.workdir) == ("app", "/work/here")
    assert config.exposed_ports == ("80/tcp", "81/udp")
    assert (config.volumes, config.stop_signal) == (("/volume",), "SIGINT")
    assert config.healthcheck is not None
    assert config.healthcheck.test == ("CMD", "check")
    assert config.labels == {"one": "two"}
    history = config.raw["history"]
    assert isinstance(history, list)
    assert sum(not item.get("empty_layer") for item in history) == len(image.layers)
    assert any("touch mine" in item["created_by"] for item in history)
    # Progress came as it was made.
    assert "hi" in work.said
    assert any("RUN touch mine" in line for line in work.said)
    assert str(work.folder) not in json.dumps(config.raw)


def test_each_way_makes_the_same(base: str, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage drivers, OCI runtime or chroot: what there is on this machine is chosen among."""
    dockerfile = (
        f"FROM {base} AS main\nWORKDIR /w\nCOPY folder /f\n"
        "RUN rm -r /f && mkdir /f && touch /f/new && chown -R 5:6 /f && rm /bin/wc\n"
        "RUN hostname >name; cat /etc/hosts >hosts; grep Cap /proc/self/status >caps; id >id\n"
        "RUN grep -c : /proc/net/dev >devices\n"
    )
    trees = []
    for way in ways():
        if not way.seclusion.processes:
            continue
        monkeypatch.setattr("cagebuild.engine.buildah.ways", lambda way=way: [way])
        tree, _ = made(Buildah("buildah"), work.job(dockerfile))
        trees.append(without_stubs(tree))
    assert len(trees) == 4  # overlay and vfs, each with runc and chroot
    for tree in trees[1:]:
        assert tree == trees[0]
    assert trees[0]["w/devices"] == file("1\n")  # the loopback
    assert trees[0]["w/name"] == file("buildkitsandbox\n")


def test_a_failing_instruction_is_told_with_its_line_and_its_last_words(
    engine: Buildah, base: str, work: Work
) -> None:
    job = work.job(
        f"FROM {base} AS first\nRUN true\nFROM {base}\n# comment\nFROM first AS main\nWORKDIR /x\n"
        "COPY file /\nRUN echo start && \\\n# inside\n    seq 30 && \\\n    false\nRUN true\n"
    )
    with pytest.raises(FailedInstructionError) as caught:
        engine.build(job)
    assert caught.value.line == 8
    assert caught.value.instruction.startswith("RUN echo start &&")
    assert [word for word in caught.value.said if word.isdigit()][-3:] == ["28", "29", "30"]
    assert caught.value.said[-1].endswith("exit status 1")


def test_a_missing_file_is_told_with_its_line(engine: Buildah, base: str, work: Work) -> None:
    with pytest.raises(FailedInstructionError) as caught:
        engine.build(work.job(f"FROM {base} AS main\n\nCOPY file /\nCOPY nothing /\n"))
    assert (caught.value.line, caught.value.instruction) == (4, "COPY nothing /")
    assert '"/nothing": no such file' in caught.value.said[-1]
    assert str(work.folder) not in caught.value.said[-1]


def test_what_buildah_cannot_read_is_told_with_its_line(
    engine: Buildah, base: str, work: Work
) -> None:
    dockerfile = f"FROM {base} AS main\nWORKDIR /x\nENV A=1\nENV B=${{A-x}}\n"
    with pytest.raises(FailedInstructionError) as caught:
        engine.build(work.job(dockerfile))
    assert caught.value.line == 4
    assert "${A-x}" in caught.value.instruction


def test_a_missing_image_is_told_with_its_line(engine: Buildah, base: str, work: Work) -> None:
    other = base[:-4] + ("0000" if not base.endswith("0000") else "1111")
    with pytest.raises(ResolveError, match=f":2: FROM {other} cannot be had: .*manifest unknown"):
        engine.build(
            work.job(f"FROM {base} AS build\nFROM {other} AS main\nCOPY --from=build / /\n")
        )


def test_an_image_without_a_history_is_told_as_such(
    own: Buildah, registry: RunningRegistry, work: Work
) -> None:
    bare = push_busybox(registry, "bare")
    with pytest.raises(ToolFailedError, match="no history") as caught:
        own.build(work.job(f"FROM {bare} AS main\nRUN true\nRUN true\n"))
    assert "1.39" in caught.value.hint


def test_the_users_credentials_reach_the_registry_and_nothing_else_of_his(
    engine: Buildah, tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".docker").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    with docker_registry(tmp_path / "closed", password=True) as closed:
        private = push_busybox(closed, "secret", {"Authorization": basic(USER, PASSWORD)})
        # Nothing is added to it, so that it needs no history.
        job = work.job(f"FROM {private} AS main\nENV A=b\n")
        with pytest.raises(ResolveError, match=r"cannot be had: .*(unauthorized|authentication)"):
            engine.build(job)
        helper = credential_helper(
            tmp_path,
            "test",
            {closed.host: f"""echo '{{"Username":"{USER}","Secret":"{PASSWORD}"}}'"""},
        )
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        config = encode({"credHelpers": {closed.host: "test"}})
        (home / ".docker/config.json").write_bytes(config)
        engine.build(replace(job, scratch=fresh(work)))
        assert helper.read_text().startswith("get ")
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == [
        ".docker",
        ".docker/config.json",
    ]


def fresh(work: Work) -> Path:
    """One more scratch folder."""
    return work.job("").scratch


def test_a_secret_is_seen_by_its_run_and_found_nowhere(
    engine: Buildah, base: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = b"needle-5d0c1f-in-the-haystack"
    dockerfile = f"FROM {base} AS main\nRUN --mount=type=secret,id=token,required=true "
    dockerfile += "tr a-z A-Z </run/secrets/token >/upper; ls /run/secrets; sleep 1\n"
    dockerfile += "RUN ! ls /run/secrets/token\n"
    files: list[tuple[int, str]] = []

    def look(line: str) -> None:
        found = Path("/dev/shm").glob("cagebuild-*/*")
        files.extend((path.stat().st_mode & 0o777, str(path)) for path in found)
        work.said.append(line)

    job = work.job(dockerfile, secrets=(Secret(id="token", value=token),), say=look)
    tree, _ = made(engine, job)
    assert tree["upper"] == file(token.decode().upper())
    assert files
    assert {mode for mode, _ in files} == {0o600}
    assert token.decode() not in "\n".join(work.said)
    found = subprocess.run(
        ["grep", "-raFl", token.decode(), str(work.folder), "/dev/shm", "/var/tmp"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""


def test_what_say_raises_ends_it_all(engine: Buildah, base: str, work: Work) -> None:
    started = False

    def say(line: str) -> None:
        nonlocal started
        started = started or line == "now"
        if started and not line:
            assert processes("98765")
            raise KeyboardInterrupt

    job = work.job(f"FROM {base} AS main\nRUN echo now; sleep 98765\n", say=say)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.build(job)
    assert time.monotonic() - began < 15
    assert not processes("98765")
    assert list(job.scratch.iterdir()) == []


def test_what_runs_on_in_the_background_ends_with_the_build(
    own: Buildah, base: str, work: Work
) -> None:
    made(own, work.job(f"FROM {base} AS main\nRUN sleep 87654 & true\n"))
    assert not processes("87654")


def test_two_at_once_do_not_meet(own: Buildah, base: str, tmp_path: Path) -> None:
    works = [filled(tmp_path / name) for name in ("one", "two")]
    trees: dict[int, object] = {}

    def build(number: int) -> None:
        dockerfile = f"FROM {base} AS main\nARG N\nRUN sleep 1; echo $N >/n\n"
        job = works[number].job(dockerfile, args={"N": str(number)})
        trees[number] = made(Buildah("buildah"), job)[0]["n"]

    threads = [threading.Thread(target=build, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trees == {0: file("0\n"), 1: file("1\n")}


def test_a_full_disk_is_told_as_such(engine: Buildah, base: str, work: Work) -> None:
    small = work.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=True)
    try:
        (small / "scratch").mkdir()
        job = work.job(f"FROM {base} AS main\nRUN dd if=/dev/zero of=/big bs=1M count=60\n")
        with pytest.raises(ToolFailedError, match="no space left") as caught:
            engine.build(replace(job, scratch=small / "scratch"))
        assert "make room" in caught.value.hint
        assert list((small / "scratch").iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_network_is_there_for_run_where_the_cage_allows_it(
    engine: Buildah, base: str, registry: RunningRegistry, work: Work
) -> None:
    dockerfile = f"FROM {base} AS main\nRUN wget -q -O /answer {registry.url}/v2/\n"
    with pytest.raises(FailedInstructionError) as caught:
        engine.build(work.job(dockerfile))
    assert "wget" in "\n".join(caught.value.said)
    tree, _ = made(engine, work.job(dockerfile, network=True))
    assert tree["answer"] == file("{}")


def test_a_cache_in_a_registry_is_written_and_read(
    engine: Buildah, base: str, registry: RunningRegistry, work: Work
) -> None:
    dockerfile = f"FROM {base} AS main\nRUN cat /proc/sys/kernel/random/uuid >/id\nRUN true\n"
    cache = (
        f"type=registry,ref={registry.host}/cache-{work.folder.parent.name[-3:]}:main,mode=max",
    )
    first, _ = made(engine, work.job(dockerfile, cache_to=cache))
    again, _ = made(engine, work.job(dockerfile, cache_from=cache))
    anew, _ = made(engine, work.job(dockerfile, cache_from=cache, use_cache=False))
    assert first["id"] != anew["id"]
    assert again["id"] != anew["id"]
    assert any("Cache pulled from remote" in line for line in work.said)


def test_run_is_without_network_where_buildah_itself_fetches(
    engine: Buildah, base: str, registry: RunningRegistry, work: Work
) -> None:
    dockerfile = (
        f"FROM {base} AS main\nADD {registry.url}/v2/ /answer\n"
        f"RUN grep -c : /proc/net/dev >/devices; ! wget -q -O /x {registry.url}/v2/\n"
    )
    tree, _ = made(engine, work.job(dockerfile))
    assert tree["answer"][4] == "{}"
    assert tree["devices"] == file("1\n")  # the loopback


def test_a_cache_of_another_kind_is_refused(own: Buildah, base: str, work: Work) -> None:
    job = work.job(f"FROM {base} AS main\n", cache_from=("type=gha",))
    with pytest.raises(UnsupportedError, match="cache-from: buildah keeps caches in registries"):
        own.build(job)


def test_what_an_images_config_would_make_different_is_refused(
    own: Buildah, base: str, registry: RunningRegistry, work: Work
) -> None:
    dockerfile = "FROM {} AS one\nFROM one AS main\nRUN echo x >/data\nCMD echo\n"
    volume = with_history(registry, base, Volumes={"/data": {}})
    with pytest.raises(DockerfileError) as caught:
        own.build(work.job(dockerfile.format(volume)))
    assert [(d.line, "VOLUME" in d.message) for d in caught.value.diagnostics] == [(3, True)]
    shell = with_history(registry, base, Shell=["/bin/sh", "-e", "-c"])
    with pytest.raises(DockerfileError) as caught:
        own.build(work.job(dockerfile.format(shell)))
    assert [d.line for d in caught.value.diagnostics] == [4]


def test_the_user_of_the_image_owns_the_folder_of_workdir(
    engine: Buildah, base: str, registry: RunningRegistry, work: Work
) -> None:
    other = with_history(registry, base, User="app")
    tree, _ = made(engine, work.job(f"FROM {other} AS b\nFROM b AS main\nWORKDIR /a/b\n"))
    assert tree["a/b"] == ("DIRECTORY", 0o755, 1000, 1000, "")


@pytest.mark.parametrize("lent", [True, False], ids=["ids", "one-id"])
@pytest.mark.parametrize("program", ["buildah", "podman"])
def test_a_user_builds_the_same_as_root(
    program: Program, lent: bool, base: str, work: Work
) -> None:
    dockerfile = f"FROM {base} AS main\nWORKDIR /w\nCOPY file .\nRUN id -u >id; touch x\n"
    if lent:
        dockerfile += "RUN chown 1000:1000 x\nUSER app\nWORKDIR mine\nRUN id -u >id\n"
    tree, _ = made(Buildah(program), work.job(dockerfile))
    with user_folder() as folder:
        done = run_as_user(folder, program, dockerfile, lent=lent)
        assert done["unavailable"] == ""
        assert done["left"] == []
        found = {name: tuple(entry) for name, entry in done["tree"].items()}
        assert without_stubs(found) == without_stubs(tree)


def test_a_user_without_lent_ids_is_told_of_them(base: str) -> None:
    with user_folder() as folder:
        dockerfile = f"FROM {base} AS main\nRUN chown 7:8 /etc/passwd\n"
        done = run_as_user(folder, "buildah", dockerfile, lent=False)
        assert done["line"] == 2
        assert "/etc/subuid" in "\n".join(done["said"])


@contextmanager
def user_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="cb-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run_as_user(folder: Path, program: Program, dockerfile: str, *, lent: bool) -> Any:
    """Build as nobody, whom the system lends ids, or not; what came of it."""
    subids = folder / "subids"
    subids.write_text("nobody:300000:65536\n" if lent else "")
    home = folder / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    code = f"""
import json, os, sys, tempfile
from pathlib import Path
home = Path({str(home)!r})
(home / "tmp").mkdir()
tempfile.tempdir = str(home / "tmp")
from cagebuild.engine.buildah import Buildah
from cagebuild.engine.job import FailedInstructionError
from tests.integration.test_buildah import filled
from tests.support.engine_jobs import made
engine = Buildah({program!r})
done = {{"unavailable": engine.unavailable}}
try:
    done["tree"] = made(engine, filled(home / "work").job({dockerfile!r}))[0]
except FailedInstructionError as error:
    done |= {{"line": error.line, "said": error.said}}
done["left"] = [str(p) for p in [*home.glob("tmp/*"), *home.glob(".*")]]
json.dump(done, sys.stdout)
"""
    script = 'mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid && shift && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", str(subids)]
    # The interpreter of a virtual environment may be root's, and so may be the checkout: then
    # reading is allowed, which a user namespace does not inherit.
    python, libraries = sys.executable, sysconfig.get_path("purelib")
    if not reachable_by_all(Path(python)):
        python = "/usr/bin/python3"
    ended = subprocess.run(
        [*words, *as_nobody(), python, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": f"{ROOT}:{libraries}"},
        cwd=home,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_program_that_can_run_nothing_says_why(
    own: Buildah, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no program 'buildah'" in Buildah().unavailable

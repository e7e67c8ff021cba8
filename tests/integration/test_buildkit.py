"""Dockerfiles through real daemons and builders of several versions."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild.engine.buildkit import BuildKit
from cagebuild.engine.job import FailedInstructionError, Secret
from cagebuild.errors import ToolFailedError
from tests.support.bases import push_busybox
from tests.support.engine_jobs import Entry, Work, made
from tests.support.engines import KINDS, Daemon, Kind, buildkit_daemon, daemon_of, docker_daemon
from tests.support.registry import PASSWORD, USER, basic, docker_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engines import Buildx, DockerKind
    from tests.support.registry import RunningRegistry

pytestmark = pytest.mark.integration

VALUE = "a b'\"$x, \\ \n\N{GREEK SMALL LETTER ALPHA}%s"
TOKEN = b"tops3cret-\x00\xff-0f7a"
EVERYTHING = """\
FROM {base} AS build
RUN echo hi && mkdir -p /out && echo built >/out/x
FROM {base} AS other
RUN false
FROM {base} AS main
ARG VALUE
COPY --from=build /out /out
COPY --chown=1000:1000 file folder /copied/
ENV VALUE=$VALUE OTHER="x y"
RUN --mount=type=secret,id=token \\
    cat /run/secrets/token | dd bs=1 2>/dev/null | wc -c >/size; \\
    echo "$VALUE" >/value
RUN mkdir -p /var/x /tmp/t; ln -s x /link; ln /value /hard; chmod 4755 /value; touch /bin/new
USER app
WORKDIR /work/here
RUN touch mine
VOLUME /volume
EXPOSE 80 81/udp
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD ["check"]
LABEL one=two
ENTRYPOINT ["/bin/entry"]
CMD ["a", "b c"]
FROM main AS later
RUN false
"""
MAKES_STUBS = frozenset({"run", "run/secrets"})
"""What Docker 20.10 leaves where a secret was."""


def folder(mode: int = 0o755, owner: int = 0) -> Entry:
    return "DIRECTORY", mode, owner, owner, ""


def file(text: str = "", mode: int = 0o644, owner: int = 0) -> Entry:
    return "FILE", mode, owner, owner, text


TREE = {
    "bin": folder(),
    "copied": folder(owner=1000),
    "copied/file": file("text\n", owner=1000),
    "copied/inner": file("inner\n", owner=1000),
    "dev": folder(),
    "etc": folder(),
    "etc/group": file("root:x:0:\napp:x:1000:\n"),
    "etc/passwd": file("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"),
    "hard": file(VALUE + "\n", mode=0o4755),
    "link": ("SYMLINK", 0o777, 0, 0, "x"),
    "out": folder(),
    "out/x": file("built\n"),
    "proc": folder(),
    "size": file(f"{len(TOKEN)}\n"),
    "sys": folder(),
    "tmp": folder(mode=0o1777),
    "tmp/t": folder(),
    "value": file(VALUE + "\n", mode=0o4755),
    "var": folder(),
    "var/x": folder(),
    "work": folder(owner=1000),
    "work/here": folder(owner=1000),
    "work/here/mine": file(owner=1000),
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def base(registry: RunningRegistry) -> str:
    return push_busybox(registry)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = Work(tmp_path / "work")
    (work.context / "file").write_text("text\n")
    (work.context / "folder").mkdir()
    (work.context / "folder/inner").write_text("inner\n")
    for path in work.context.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (0, 0))
    return work


# One of Docker 28's stores is enough: the other is made of the same code as 26's.
@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "28-overlay2"])
def running(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with daemon_of(request.param) as daemon:
        yield daemon


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    path = tmp_path / "temporary"
    path.mkdir()
    return path


@pytest.fixture
def daemon(running: Daemon, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """In use. Whatever the test does with it, nothing may be left."""
    running.use(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = left(running)
    yield running
    assert left(running) == before
    assert list(temporary.iterdir()) == []


@contextmanager
def used(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, *, buildx: Buildx = "0.29"
) -> Iterator[Daemon]:
    with daemon_of(kind, buildx=buildx) as daemon:
        daemon.use(monkeypatch)
        yield daemon


def left(daemon: Daemon) -> list[str]:
    """Images, containers, volumes, and builders."""
    found = [daemon.docker("buildx", "ls")]
    if daemon.kind != "buildkitd":
        questions = (("image", "ls", "-a"), ("ps", "-a"), ("volume", "ls"), ("context", "ls"))
        found += [daemon.docker(*words) for words in questions]
    return found


def processes(mark: str) -> list[str]:
    """Command lines that have a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark in words:
            found.append(" ".join(words))
    return found


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it does within ten seconds."""
    for _ in range(100):
        if holds():
            return True
        time.sleep(0.1)
    return False


def failure(work: Work, dockerfile: str, **more: object) -> BaseException:
    with pytest.raises((FailedInstructionError, ToolFailedError)) as caught:
        BuildKit().build(work.job(dockerfile, **more))
    return caught.value


def test_every_builder_makes_the_same_tree_and_config(
    daemon: Daemon, base: str, work: Work
) -> None:
    engine = BuildKit()
    assert engine.unavailable == ""
    args = {"VALUE": VALUE, "SOURCE_DATE_EPOCH": "0"}
    given = (Secret(id="token", value=TOKEN),)
    job = work.job(EVERYTHING.format(base=base), args=args, secrets=given)
    tree, image = made(engine, job)
    stubs = MAKES_STUBS if daemon.kind == "20.10" else frozenset()
    assert {name: entry for name, entry in tree.items() if name not in stubs} == TREE
    assert tree.keys() >= stubs
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
    assert any(line.endswith(" hi") for line in work.said)
    assert any(line.startswith("#") and "RUN touch mine" in line for line in work.said)


def test_what_the_user_has_set_does_not_steer_the_build(
    daemon: Daemon, base: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerfile = (
        f"FROM {base} AS main\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH >/epoch\n"
    )
    dockerfile += "RUN env | grep EPOCH >/env; true\n"
    _, plain = made(BuildKit(), work.job(dockerfile, args={}, use_cache=False))
    for name, value in {
        "SOURCE_DATE_EPOCH": "77",
        "DOCKER_DEFAULT_PLATFORM": "linux/arm64",
        "BUILDX_GIT_LABELS": "full",
        "BUILDKIT_SYNTAX": "127.0.0.1:9/none",
        "BUILDX_NO_DEFAULT_LOAD": "1",
        "DOCKER_BUILDKIT": "0",
        "DOCKER_CONTENT_TRUST": "1",
    }.items():
        monkeypatch.setenv(name, value)
    tree, again = made(BuildKit(), work.job(dockerfile, args={}, use_cache=False))
    assert tree["epoch"] == file("\n")
    assert "77" not in tree["env"][4]
    assert again.config.labels == plain.config.labels == {}


def test_a_failing_instruction_is_told_with_its_line_and_its_last_words(
    daemon: Daemon, base: str, work: Work
) -> None:
    error = failure(
        work,
        f"FROM {base} AS first\nRUN true\nFROM {base}\n# comment\nFROM first AS main\nWORKDIR /x\n"
        "COPY file /\nRUN echo start && \\\n# inside\n    seq 30 && \\\n    false\nRUN true\n",
    )
    assert isinstance(error, FailedInstructionError)
    assert error.line == 8
    assert error.instruction.startswith("RUN echo start &&")
    assert error.said == (*map(str, range(11, 31)), "exit code: 1")


def test_a_missing_file_is_told_with_its_line(daemon: Daemon, base: str, work: Work) -> None:
    error = failure(work, f"FROM {base} AS main\n\nCOPY file /\nCOPY nothing /\n")
    assert isinstance(error, FailedInstructionError)
    assert (error.line, error.instruction) == (4, "COPY nothing /")
    assert '"/nothing"' in error.said[-1]
    assert error.said[-1].endswith("not found")


def test_a_missing_image_is_told_as_such(daemon: Daemon, base: str, work: Work) -> None:
    other = base[:-4] + ("0000" if not base.endswith("0000") else "1111")
    error = failure(work, f"FROM {base} AS build\nFROM {other} AS main\nRUN true\n")
    assert isinstance(error, ToolFailedError)
    assert "an image could not be had" in error.message
    assert other in error.message
    assert "invoke lock" in error.hint


def test_an_unreachable_registry_is_told_as_such(daemon: Daemon, work: Work) -> None:
    error = failure(work, f"FROM 127.0.0.1:9/x@sha256:{'0' * 64} AS main\nRUN true\n")
    assert isinstance(error, ToolFailedError)
    assert "an image could not be had" in error.message


def test_a_registry_that_refuses_is_told_as_such(
    daemon: Daemon, work: Work, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "closed", password=True) as closed:
        private = push_busybox(closed, "secret", {"Authorization": basic(USER, PASSWORD)})
        error = failure(work, f"FROM {private} AS main\nRUN true\n")
    assert isinstance(error, ToolFailedError)
    assert "a registry refused an image" in error.message
    assert "docker login" in error.hint


def test_a_secret_is_seen_by_its_run_and_found_nowhere(
    daemon: Daemon, base: str, work: Work
) -> None:
    token = secrets.token_hex(20).encode()
    dockerfile = f"FROM {base} AS main\nRUN --mount=type=secret,id=token,required=true "
    dockerfile += "tr a-z A-Z </run/secrets/token >/upper\n"
    job = work.job(dockerfile, secrets=(Secret(id="token", value=token),))
    tree, _ = made(BuildKit(), job)
    assert tree["upper"] == file(token.decode().upper())
    places = [str(path) for path in (daemon.folder, work.folder, Path("/dev/shm"))]
    found = subprocess.run(
        ["grep", "-raFl", token.decode(), *places], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


def test_a_missing_secret_fails_where_it_is_needed(daemon: Daemon, base: str, work: Work) -> None:
    dockerfile = f"FROM {base} AS main\nRUN --mount=type=secret,id=x,required=true true\n"
    error = failure(work, dockerfile)
    assert isinstance(error, FailedInstructionError)
    assert error.line == 2
    assert "secret" in error.said[-1]


def test_without_the_cache_every_instruction_runs_anew(
    daemon: Daemon, base: str, work: Work
) -> None:
    dockerfile = f"FROM {base} AS main\nRUN cat /proc/sys/kernel/random/uuid >/id\n"
    first, _ = made(BuildKit(), work.job(dockerfile))
    again, _ = made(BuildKit(), work.job(dockerfile))
    anew, _ = made(BuildKit(), work.job(dockerfile, use_cache=False))
    assert first == again
    assert first != anew


def test_two_builds_at_once_do_not_meet(daemon: Daemon, base: str, work: Work) -> None:
    """Of one Dockerfile, so that they come to one image; and of another one."""
    same = f"FROM {base} AS main\nRUN echo same >/which; sleep 1\n"
    other = f"FROM {base} AS main\nRUN echo other >/which; sleep 1\n"
    jobs = [work.job(text) for text in (same, same, other, same)]
    trees: dict[int, str] = {}

    def build(number: int) -> None:
        trees[number] = made(BuildKit(), jobs[number])[0]["which"][4]

    threads = [threading.Thread(target=build, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trees == {0: "same\n", 1: "same\n", 2: "other\n", 3: "same\n"}


def test_what_say_raises_ends_the_build_on_the_daemon_too(
    daemon: Daemon, base: str, work: Work
) -> None:
    seconds = "3141.5"

    def say(line: str) -> None:
        if line.endswith(" begun"):
            assert eventually(lambda: bool(processes(seconds)))
            raise KeyboardInterrupt

    dockerfile = f"FROM {base} AS main\nRUN echo begun; sleep {seconds}\n"
    job = work.job(dockerfile, say=say)
    with pytest.raises(KeyboardInterrupt):
        BuildKit().build(job)
    assert list(job.scratch.iterdir()) == []
    assert eventually(lambda: not processes(seconds))
    # And it builds again.
    assert made(BuildKit(), work.job(f"FROM {base} AS main\nRUN true\n"))


@pytest.mark.parametrize("kind", ["20.10", "26-containerd", "28-overlay2", "buildkitd"])
def test_a_daemon_killed_in_mid_build_is_told_as_such(
    kind: Kind, base: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with used(kind, monkeypatch) as daemon:

        def say(line: str) -> None:
            if line.endswith(" begun"):
                daemon.signal(signal.SIGKILL)

        error = failure(work, f"FROM {base} AS main\nRUN echo begun; sleep 3141\n", say=say)
        assert isinstance(error, ToolFailedError)
        assert "went away" in error.message
        assert BuildKit().unavailable != ""


@pytest.mark.parametrize("kind", ["20.10", "26-overlay2", "28-containerd"])
def test_a_full_disk_is_told_as_such(
    kind: DockerKind, base: str, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "cagebuild", str(disk)], check=True)
    try:
        (work.context / "large").write_bytes(os.urandom(64 << 20))
        with docker_daemon(kind, data=disk) as daemon:
            daemon.use(monkeypatch)
            error = failure(
                work, f"FROM {base} AS main\nRUN dd if=/dev/zero of=/x bs=1M count=60\n"
            )
            assert isinstance(error, FailedInstructionError)
            assert any("No space left on device" in line for line in error.said)
            error = failure(work, f"FROM {base} AS main\nCOPY large /\n")
            assert isinstance(error, ToolFailedError)
            assert "the builder's disk is full" in error.message
            assert "docker builder prune" in error.hint
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["20.10", "26-overlay2"])
def test_an_image_that_was_there_before_stays(
    kind: Kind, base: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerfile = f"FROM {base} AS main\nRUN echo {kind} >/kind\n"
    listing = ("image", "ls", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}")
    with used(kind, monkeypatch) as daemon:
        job = work.job(dockerfile)
        words = (
            *("buildx", "build", "--load", "--network=none", "--target=main"),
            *("--build-arg=SOURCE_DATE_EPOCH=0", "--platform=linux/amd64"),
            *("--file", str(job.dockerfile), str(job.context)),
        )
        daemon.docker(*words)
        unnamed = daemon.docker(*listing)
        assert unnamed.endswith(" <none>\n")
        tree, image = made(BuildKit(), job)
        assert tree["kind"] == file(f"{kind}\n")
        # It is the very image.
        assert str(image.config_digest) == unnamed.split()[0]
        assert daemon.docker(*listing) == unnamed
        daemon.docker("tag", unnamed.split()[0], "mine")
        made(BuildKit(), work.job(dockerfile))
        assert daemon.docker(*listing) == unnamed.replace("<none>", "mine")


def test_an_old_frontend_is_told_as_such(
    base: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker 20.10's takes a heredoc's lines for instructions."""
    with used("20.10", monkeypatch):
        error = failure(work, f"FROM {base} AS main\nRUN true\nRUN <<CMD\nRUN echo no\nCMD\n")
        assert isinstance(error, ToolFailedError)
        assert "Dockerfile.cage:3: the frontend of Docker 20.10" in error.message
        assert "# syntax=docker/dockerfile:1" in error.hint
        error = failure(work, f"FROM {base} AS main\nCOPY --link file /\n")
        assert isinstance(error, ToolFailedError)
        assert "own frontend does not know something" in error.message
        assert "Unknown flag: link" in error.message
        assert "# syntax=docker/dockerfile:1" in error.hint


@pytest.mark.parametrize("kind", ["20.10", "26-containerd", "buildkitd"])
def test_an_older_buildx_does_as_well(
    kind: Kind, base: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with used(kind, monkeypatch, buildx="0.13"):
        engine = BuildKit()
        assert "buildx 0.13.1" in engine.describe()
        dockerfile = f"FROM {base} AS main\nRUN --mount=type=secret,id=s cat /run/secrets/s >/s\n"
        job = work.job(dockerfile, secrets=(Secret(id="s", value=TOKEN),))
        path = engine.build(job)
        assert sorted(job.scratch.iterdir()) == [path]
        error = failure(work, f"FROM {base} AS main\n\nRUN echo why; exit 3\n")
        assert isinstance(error, FailedInstructionError)
        assert (error.line, error.said) == (3, ("why", "exit code: 3"))


def test_the_context_of_the_user_holds(
    base: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By DOCKER_CONTEXT or chosen before; the image is saved from that daemon too."""
    dockerfile = f"FROM {base} AS main\nRUN echo there >/place\n"
    with used("26-overlay2", monkeypatch) as daemon:
        daemon.docker("context", "create", "there", "--docker", f"host={daemon.address}")
        monkeypatch.delenv("DOCKER_HOST")
        monkeypatch.setenv("DOCKER_CONTEXT", "there")
        assert made(BuildKit(), work.job(dockerfile))[0]["place"] == file("there\n")
        monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
        assert "BUILDX_BUILDER or DOCKER_CONTEXT names none" in BuildKit().unavailable
        monkeypatch.delenv("DOCKER_CONTEXT")
        subprocess.run(["docker", "context", "use", "there"], check=True, capture_output=True)
        assert made(BuildKit(), work.job(dockerfile))[0]["place"] == file("there\n")
        monkeypatch.setenv("BUILDX_BUILDER", "nobody")
        assert 'no builder "nobody" found' in BuildKit().unavailable
        monkeypatch.delenv("BUILDX_BUILDER")
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
        assert "Cannot connect to the Docker daemon at unix:///nowhere" in BuildKit().unavailable
        with pytest.raises(ToolFailedError, match="Cannot connect"):
            BuildKit().build(work.job(dockerfile))


def test_a_cache_is_exported_and_taken_again(
    base: str, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerfile = f"FROM {base} AS main\nRUN cat /proc/sys/kernel/random/uuid >/id\n"
    place = tmp_path / "cache"
    trees = []
    for _ in range(2):
        with used("buildkitd", monkeypatch):
            cache = (f"type=local,src={place}",) if place.exists() else ()
            job = work.job(dockerfile, cache_from=cache, cache_to=(f"type=local,dest={place}",))
            trees.append(made(BuildKit(), job)[0])
    assert trees[0] == trees[1]
    with used("26-overlay2", monkeypatch):
        error = failure(work, dockerfile, cache_to=(f"type=local,dest={place}",))
    assert isinstance(error, ToolFailedError)
    assert "this builder cannot export its cache" in error.message


def test_the_network_is_there_when_it_is_allowed(
    registry: RunningRegistry, base: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A builder that shares the machine's network reaches the registry on loopback."""
    dockerfile = f"FROM {base} AS main\nRUN wget -q -O /answer {registry.url}/v2/\n"
    with buildkit_daemon() as daemon:
        daemon.use(monkeypatch)
        tree, _ = made(BuildKit(), work.job(dockerfile, network=True))
        assert tree["answer"] == file("{}")
        error = failure(work, dockerfile, use_cache=False)
        assert isinstance(error, FailedInstructionError)
        assert error.line == 2


def test_a_remote_builder_that_is_gone_is_told_as_such(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with buildkit_daemon() as daemon:
        daemon.use(monkeypatch)
        daemon.signal(signal.SIGKILL)
        daemon.process.wait()
        assert "the builder 'elsewhere' does not answer at unix://" in BuildKit().unavailable
        with pytest.raises(ToolFailedError, match="does not answer"):
            BuildKit().build(work.job("FROM scratch AS main\n"))

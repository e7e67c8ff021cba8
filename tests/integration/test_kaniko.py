"""Dockerfiles through kaniko's real executor, in a container of a daemon of the tests' own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild.engine.job import FailedInstructionError, Secret
from cagebuild.engine.kaniko import Kaniko, credentials
from cagebuild.errors import DockerfileError, ToolFailedError, UnsupportedError
from tests.integration.test_buildah import filled, with_history
from tests.integration.test_buildkit import file, processes
from tests.support.bases import push_busybox, push_kaniko
from tests.support.engine_jobs import Work, made, opened
from tests.support.engines import ENGINES, docker_daemon
from tests.support.registry import docker_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engines import Daemon
    from tests.support.registry import RunningRegistry

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def base(registry: RunningRegistry) -> str:
    return with_history(registry, push_busybox(registry))


@pytest.fixture(scope="module")
def executor(registry: RunningRegistry) -> str:
    return push_kaniko(registry)


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with docker_daemon() as daemon:
        yield daemon


@pytest.fixture
def engine(
    running: Daemon, executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kaniko]:
    """Whatever a test does with it, no container, volume or file may be left."""
    running.use(monkeypatch)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield Kaniko(executor, "docker")
    assert running.docker("ps", "--all", "--quiet") == ""
    assert running.docker("volume", "ls", "--quiet") == ""
    assert list(temporary.iterdir()) == []


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return filled(tmp_path / "work")


DOCKERFILE = """\
FROM {base} AS build
ARG TARGETARCH
RUN mkdir /out && echo $TARGETARCH >/out/arch
FROM {base} AS main
COPY --from=build /out /out
COPY --chown=1000:1000 file folder /copied/
RUN hostname >/name; touch /x && chmod 4755 /x && ln /x /hard && ln -s x /link && rm /bin/wc
USER app
WORKDIR /mine
RUN touch here
HEALTHCHECK CMD check
EXPOSE 80
ENTRYPOINT ["/bin/entry"]
CMD ["a", "b c"]
"""


def test_tree_and_config_are_what_the_dockerfile_says(
    engine: Kaniko, base: str, work: Work
) -> None:
    assert engine.unavailable == ""
    tree, image = made(engine, work.job(DOCKERFILE.format(base=base), network=True))
    folder = ("DIRECTORY", 0o755, 0, 0, "")
    assert {name: entry for name, entry in tree.items() if not name.startswith("etc/")} == {
        "bin": folder,
        "copied": ("DIRECTORY", 0o755, 1000, 1000, ""),
        "copied/file": file("text\n", owner=1000),
        "copied/inner": file("inner\n", owner=1000),
        "etc": folder,
        "hard": file(mode=0o4755),
        "link": ("SYMLINK", 0o777, 0, 0, "x"),
        "mine": ("DIRECTORY", 0o755, 1000, 1000, ""),
        "mine/here": file(owner=1000),
        "name": file("buildkitsandbox\n"),
        "out": folder,
        "out/arch": file("amd64\n"),
        "tmp": ("DIRECTORY", 0o1777, 0, 0, ""),
        "x": file(mode=0o4755),
    }
    config = image.config
    assert (config.entrypoint, config.cmd) == (("/bin/entry",), ("a", "b c"))
    assert (config.user, config.workdir) == ("app", "/mine")
    assert config.healthcheck is not None
    history = config.raw["history"]
    assert isinstance(history, list)
    assert sum(not item.get("empty_layer") for item in history) == len(image.layers)
    assert any("touch here" in line for line in work.said)


def test_two_builds_give_one_image(engine: Kaniko, base: str, work: Work) -> None:
    job, again = (work.job(DOCKERFILE.format(base=base), network=True) for _ in range(2))
    assert made(engine, job)[1].config_digest == made(engine, again)[1].config_digest


def test_a_layout_of_kaniko_can_be_read(base: str, work: Work, tmp_path: Path) -> None:
    """What ``--oci-layout-path`` writes: kaniko is run as a program, in a root of its own."""
    root = tmp_path / "root"
    (root / "kaniko").mkdir(parents=True)
    (root / "kaniko/executor").hardlink_to(ENGINES / "kaniko/executor")
    (root / "kaniko/Dockerfile").write_text("FROM scratch\nCOPY file /file\nENV A=b\n")
    (root / "kaniko/context").mkdir()
    (root / "kaniko/context/file").write_text("text\n")
    words = ["--force", "--no-push", "--reproducible", "--context=dir:///kaniko/context"]
    words += ["--dockerfile=/kaniko/Dockerfile", "--oci-layout-path=/kaniko/layout"]
    script = 'mkdir -p "$0/proc" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script, str(root), "/kaniko/executor", *words],
        check=True,
        capture_output=True,
    )
    tree, image = opened(root / "kaniko/layout", tmp_path)
    assert tree == {"file": file("text\n")}
    assert "A=b" in image.config.env


def test_a_failing_instruction_is_told_with_its_line(engine: Kaniko, base: str, work: Work) -> None:
    dockerfile = f"FROM {base} AS main\n# one\nRUN echo one\nRUN echo \\\n two; false\nRUN true\n"
    with pytest.raises(FailedInstructionError) as caught:
        engine.build(work.job(dockerfile, network=True))
    assert caught.value.line == 4
    assert caught.value.said[0] == "two"
    assert "exit status 1" in caught.value.said[-1]


def test_a_missing_file_is_told_with_its_line(engine: Kaniko, base: str, work: Work) -> None:
    with pytest.raises(FailedInstructionError) as caught:
        engine.build(work.job(f"FROM {base} AS main\nCOPY file /\nCOPY nope /\n", network=True))
    assert (caught.value.line, caught.value.instruction) == (3, "COPY nope /")


def test_an_image_without_a_history_is_told_as_such(
    engine: Kaniko, registry: RunningRegistry, work: Work
) -> None:
    bare = push_busybox(registry, "bare")
    with pytest.raises(ToolFailedError, match="no history"):
        engine.build(work.job(f"FROM {bare} AS main\nCOPY file /\nRUN true\n", network=True))


def test_what_say_raises_ends_it_all(engine: Kaniko, base: str, work: Work) -> None:
    def say(line: str) -> None:
        if line == "now":
            assert processes("76543")
            raise KeyboardInterrupt

    dockerfile = f"FROM {base} AS main\nRUN sleep 76543 & sleep 1; echo now; wait\n"
    job = work.job(dockerfile, say=say, network=True)
    with pytest.raises(KeyboardInterrupt):
        engine.build(job)
    assert not processes("76543")
    assert list(job.scratch.iterdir()) == []


def test_run_without_network_is_refused_where_kaniko_needs_it(
    engine: Kaniko, base: str, work: Work
) -> None:
    with pytest.raises(UnsupportedError, match="the network"):
        engine.build(work.job(f"FROM {base} AS main\nRUN true\n"))


def test_secrets_and_caches_are_refused(engine: Kaniko, base: str, work: Work) -> None:
    dockerfile = f"FROM {base} AS main\n"
    with pytest.raises(UnsupportedError, match="no build secrets"):
        engine.build(work.job(dockerfile, secrets=(Secret(id="x", value=b"x"),)))
    with pytest.raises(UnsupportedError, match="cache"):
        engine.build(work.job(dockerfile, cache_to=("type=registry,ref=x/y",)))


def test_a_volume_of_the_base_is_refused(
    engine: Kaniko, base: str, registry: RunningRegistry, work: Work
) -> None:
    volume = with_history(registry, base, Volumes={"/data": {}})
    with pytest.raises(UnsupportedError, match="/data"):
        engine.build(work.job(f"FROM {volume} AS main\nRUN true\n", network=True))


def test_what_kaniko_builds_otherwise_is_refused_with_its_line(
    engine: Kaniko, base: str, work: Work
) -> None:
    dockerfile = f"""\
FROM {base} AS main
EXPOSE 80-90
RUN --mount=type=tmpfs,target=/x true
COPY --chmod=755 file /x
COPY --chown=app file /x
COPY file /etc/hosts
VOLUME /v
RUN true
USER app
WORKDIR /a/b
COPY <<EOF /x
EOF
"""
    with pytest.raises(DockerfileError) as caught:
        engine.build(work.job(dockerfile, network=True))
    assert [found.line for found in caught.value.diagnostics] == [2, 3, 4, 5, 6, 8, 10, 11]


def test_without_an_image_or_an_engine_it_is_not_available(
    executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "[build] kaniko" in Kaniko(None).unavailable
    assert "not named by digest" in Kaniko("host/kaniko:latest").unavailable
    monkeypatch.setenv("PATH", "/nowhere")
    assert Kaniko(executor).unavailable == (
        "there is no program 'docker'; there is no program 'podman'"
    )


def test_credentials_are_those_of_the_registries_that_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert credentials({"a.example"}) == {}
    auths = {
        name: {"auth": name} for name in ("a.example", "b.example", "https://index.docker.io/v1/")
    }
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    assert credentials({"a.example", "docker.io"}).keys() == {
        "a.example",
        "https://index.docker.io/v1/",
    }

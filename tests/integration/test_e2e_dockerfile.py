"""Cages on Dockerfiles, through whole commands and real engines, with the base in a registry."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from cagebuild.engine import leftovers
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.layout import open_image
from cagebuild.runtime.toolchain import provide
from tests.support.bases import bases, busybox_layer, push_kaniko
from tests.support.dockerfile_golden import Facts, lines
from tests.support.engines import docker_daemon
from tests.support.http_server import serving
from tests.support.workspaces import PROJECT, Workspace, installer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.digest import Digest
    from tests.support.bases import Bases
    from tests.support.engines import Daemon

pytestmark = pytest.mark.integration

BUILDAH: Final = {"CAGEBUILD_ENGINE": "buildah"}
CAGE: Final = """\
[base]
dockerfile = "Dockerfile"

[app]
env = { A = 'a $b "c" \\d' }

[[app.files]]
source = "more"
destination = "/srv/more"
owner = "1000:1001"

[[ingress]]
port = 8080

[runtime]
installer = "@INSTALLER@"
url = "@URL@"
"""
ROOT: Final = """\
[workspace.defaults.epoch]
policy = "zero"

[workspace.defaults.enclave]
boot = { kernel = "//boot/bzImage", init = "//boot/init", nsm = "//boot/nsm.ko", \
cmdline = "//boot/cmdline" }
"""
STAGES: Final = """\
ARG BASE=@BASE@
FROM $BASE AS build
USER root
COPY . /src
# RUN of several lines
RUN mkdir /out && \\
  # a comment in it
  cat /src/a > /out/a && ln /out/a /out/b && chmod 4755 /out/b && \\
  ls -la / /dev /proc/self > /dev/null
RUN --mount=type=secret,id=token test -s /run/secrets/token && wc -c < /run/secrets/token > /out/c

FROM @BASE@
USER root
COPY --from=build --chown=app:app /out /srv/
RUN ln /bin/busybox /bin/again && rm -r /home/app && mkdir -p /var/x && touch /var/x/y
WORKDIR /srv
USER app
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["cat a"]
"""
PLAIN: Final = """\
FROM @BASE@ AS base
FROM base
COPY --chown=app:app a more /srv/
ENV B=b
CMD ["/bin/cat", "/srv/a"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A registry, and a server that has a runtime installer."""

    bases: Bases
    url: str
    installer: Digest

    def runtime(self, cage: str) -> str:
        """A cage.toml with that installer."""
        return cage.replace("@INSTALLER@", str(self.installer)).replace("@URL@", self.url)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("installers")
    digest = installer(folder)
    with bases(tmp_path_factory.mktemp("bases")) as running, serving(folder) as url:
        yield World(bases=running, url=url, installer=digest)


@pytest.fixture(scope="module")
def docker() -> Iterator[Daemon]:
    with docker_daemon("26-containerd") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def old_docker() -> Iterator[Daemon]:
    with docker_daemon("20.10") as daemon:
        yield daemon


class Project:
    """A workspace with a cage ``svc`` on a Dockerfile."""

    def __init__(self, folder: Path, world: World, dockerfile: str, cage: str = CAGE) -> None:
        self.folder = folder
        self.world = world
        folder.mkdir(exist_ok=True)
        self.work = Workspace(folder, text=ROOT)
        self.work.write("svc/cage.toml", world.runtime(cage))
        self.dockerfile(dockerfile)
        for name in ("a", "more/x", "more/deep/y"):
            self.work.write(f"svc/{name}", f"{name}\n")
        self.work.commit()

    def dockerfile(self, text: str) -> None:
        """Write it, with the base's name in it."""
        self.work.write("svc/Dockerfile", text.replace("@BASE@", self.world.bases.named("busybox")))

    def pcrs(self, **env: str) -> dict[str, str]:
        """What a build from nothing comes to, which is as locked."""
        store = self.folder / f"store-{len(list(self.folder.iterdir()))}"
        return self.work.ok("pcr", env={**env, "CAGEBUILD_STORE": str(store)}).pcrs()


def found_in(text: bytes, *folders: Path) -> list[Path]:
    """Files below the folders that hold that text."""
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text in path.read_bytes()
    ]


TOKEN: Final = "swordfish-4711-swordfish"
SECRET: Final = '\n[build.secrets]\ntoken = { env = "TOKEN" }\n'


def test_the_same_through_every_engine_and_no_secret_anywhere(
    world: World, docker: Daemon, old_docker: Daemon, tmp_path: Path
) -> None:
    project = Project(tmp_path, world, STAGES, CAGE + SECRET)
    locked = project.work.ok("lock", env={**docker.env, "TOKEN": TOKEN})
    assert "| by Docker 26" in locked.err
    pcrs = locked.pcrs()
    for env in (old_docker.env | {"CAGEBUILD_ENGINE": "buildkit"}, BUILDAH):
        assert project.pcrs(**env, TOKEN=TOKEN) == pcrs
    built = project.work.ok("build", env={**docker.env, "TOKEN": TOKEN})
    assert built.pcrs() == pcrs
    manifest = project.work.result("svc", "manifest.json").decode()
    assert '"origin": "Dockerfile:15 RUN ln /bin/busybox /bin/again' in manifest
    assert TOKEN not in locked.err + built.err
    folders = (tmp_path, docker.folder, old_docker.folder)
    assert found_in(TOKEN.encode(), *folders) == []


def test_a_secret_in_the_image_is_refused(world: World, docker: Daemon, tmp_path: Path) -> None:
    text = STAGES.replace("test -s /run/secrets/token", "cat /run/secrets/token > /out/d")
    project = Project(tmp_path, world, text, CAGE + SECRET)
    answer = project.work.run("lock", env={**docker.env, "TOKEN": TOKEN})
    assert answer.code == 71
    assert "the build secret 'token' in /srv/d (Dockerfile:14 COPY" in answer.err
    assert TOKEN not in answer.err
    assert not (project.work.root / "svc/cage.lock").exists()


def test_a_dockerfile_without_run_is_the_same_without_an_engine(
    world: World, docker: Daemon, tmp_path: Path
) -> None:
    project = Project(tmp_path, world, PLAIN)
    nothing = {"PATH": "/usr/bin", "DOCKER_HOST": "unix:///nowhere"}
    pcrs = project.work.ok("lock", env=nothing).pcrs()
    assert project.pcrs(**docker.env, CAGEBUILD_ENGINE="buildkit") == pcrs
    assert project.pcrs(**BUILDAH) == pcrs


def test_images_are_asked_for_by_digest_alone(world: World, docker: Daemon, tmp_path: Path) -> None:
    project = Project(tmp_path, world, STAGES.replace("RUN --mount", "# RUN --mount"))
    project.work.ok("lock", env=docker.env)
    before = len(world.bases.registry.log())
    project.pcrs(**docker.env, CAGEBUILD_ENGINE_CACHE="off")
    project.pcrs(**BUILDAH)
    asked = re.findall(r"/v2/[^ ]*/manifests/([^\s\"?]+)", world.bases.registry.log()[before:])
    assert asked
    assert all(name.startswith("sha256:") for name in asked), asked


def test_what_is_staged_gives_the_same_by_hand(
    world: World, docker: Daemon, tmp_path: Path
) -> None:
    project = Project(tmp_path, world, STAGES.replace("RUN --mount", "# RUN --mount"))
    project.work.ok("lock", env=docker.env)
    shown = project.work.ok("stage", env={"PATH": "/usr/bin"}).out
    folder = tmp_path / "staged"
    answer = project.work.ok("stage", "--output", str(folder), env=docker.env)
    assert (folder / "Dockerfile.cage").read_text() == shown
    words = shlex.split(answer.lines[-1].partition(" && ")[2])
    assert words[:2] == ["docker", "build"]
    assert by_hand(docker, folder, words, tmp_path) == exported(project, tmp_path, **docker.env)


@pytest.mark.parametrize(
    "base",
    ['image = "@BASE@"', 'archive = "base.tar"', "scratch = true"],
    ids=lambda base: base[:5],
)
def test_a_cage_without_a_dockerfile_can_be_built_by_hand_too(
    world: World, docker: Daemon, tmp_path: Path, base: str
) -> None:
    named = base.replace("@BASE@", world.bases.named("busybox"))
    cage = CAGE.replace('dockerfile = "Dockerfile"', named)
    cage = cage.replace("[app]\n", '[app]\ncommand = ["/srv/more/x"]\n')
    project = Project(tmp_path, world, "", cage)
    if "archive" in base:
        image = world.bases.by_digest("busybox")
        docker.docker("pull", image)
        docker.docker("tag", image, "base:1")
        docker.docker("save", "--output", f"{project.work.root}/svc/base.tar", "base:1")
        docker.docker("rmi", "--force", "base:1", image)
    project.work.ok("lock")
    folder = tmp_path / "staged"
    answer = project.work.ok("stage", "--output", str(folder))
    words = shlex.split(answer.lines[-1].partition(" && ")[2])
    assert by_hand(docker, folder, words, tmp_path) == exported(project, tmp_path)


def by_hand(docker: Daemon, folder: Path, words: list[str], scratch: Path) -> Facts:
    """Run the command that was shown; what the image has, but for times."""
    done = subprocess.run(
        [*words[:2], "--tag", "by-hand:1", *words[2:]],
        cwd=folder,
        env={**os.environ, **docker.env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    docker.docker("save", "--output", str(scratch / "by-hand.tar"), "by-hand:1")
    docker.docker("rmi", "--force", "by-hand:1")
    return image_facts(scratch / "by-hand.tar")


def exported(project: Project, scratch: Path, **env: str) -> Facts:
    """The same of what is measured."""
    project.work.ok("export", "--output", str(scratch / "exported"), env=env)
    return image_facts(scratch / "exported")


def image_facts(path: Path) -> Facts:
    """Files, and how the image is run: nitro-cli takes no more of it."""
    with tempfile.TemporaryDirectory() as scratch:
        image = open_image(path, architecture="x86_64", scratch=Path(scratch))
        layers = [
            Layer(region=blob.open(Path(scratch)), name=blob.name, origin="")
            for blob in image.layers
        ]
        root = flatten(layers, keep_unchanged=True)
        leftovers.remove(root, leftovers.Seen())
        run = {"Env": image.config.env, "argv": image.config.argv()}
        return {"files": lines(root), "config": run}


# building again


def test_building_again_through_each_engine(world: World, docker: Daemon, tmp_path: Path) -> None:
    project = Project(tmp_path, world, STAGES.replace("RUN --mount", "# RUN --mount"))
    project.work.ok("lock", env=docker.env)
    answer = project.work.ok("verify", "--rebuild", env=docker.env)
    assert answer.out == "//svc: equal twice by buildkit, buildah, and as in the lock\n"


def test_a_dockerfile_that_writes_the_date_is_caught(
    world: World, docker: Daemon, tmp_path: Path
) -> None:
    text = PLAIN.replace("CMD", "USER root\nRUN date +%s%N > /srv/stamp\nCMD")
    project = Project(tmp_path, world, text)
    locked = project.work.ok("lock", env=docker.env)
    assert "svc/Dockerfile:6" in locked.err
    assert "date" in locked.err
    answer = project.work.run("verify", "--rebuild", "--engines", "buildkit", env=docker.env)
    assert answer.code == 60
    assert "Dockerfile:6 RUN date +%s%N > /srv/stamp: 1 changed" in answer.out
    assert "changed  rootfs/srv/stamp" in answer.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rebuild", "--engines", "docker"), "--engines: 'docker' is none"),
        (("--engines", "buildah"), "--engines is for --rebuild"),
        ((), "verify how?"),
        (("--with", "another"), "--with another"),
    ],
)
def test_words_that_mean_nothing(
    world: World, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    answer = Project(tmp_path, world, PLAIN).work.run("verify", *words)
    assert answer.code == 2
    assert says in answer.err


def test_kaniko_comes_to_the_same(world: World, old_docker: Daemon, tmp_path: Path) -> None:
    """It has to fetch the base, so that RUN has the network too. Its COPY knows no hard links."""
    build = f'\n[build]\nnetwork = true\nkaniko = "{push_kaniko(world.bases.registry)}"\n'
    text = STAGES.replace("RUN --mount", "# RUN --mount").replace("ln /out/a", "cp /out/a")
    project = Project(tmp_path, world, text.replace("4755", "755"), CAGE + build)
    pcrs = project.work.ok("lock", env=BUILDAH).pcrs()
    assert project.pcrs(**old_docker.env, CAGEBUILD_ENGINE="kaniko") == pcrs


# what goes wrong


def test_a_failing_run_is_shown_with_its_line_and_what_it_said(
    world: World, docker: Daemon, tmp_path: Path
) -> None:
    text = STAGES.replace("ls -la /", "echo the reason && false && ls -la /")
    project = Project(tmp_path, world, text.replace("RUN --mount", "# RUN --mount"))
    for env in (docker.env, BUILDAH):
        answer = project.work.run("lock", env={**env, "CAGEBUILD_ENGINE_CACHE": "off"})
        assert answer.code == 71
        assert f"{project.work.root}/svc/Dockerfile:6:1: failed in " in answer.err
        assert "  6 | RUN mkdir /out && \\" in answer.err
        assert (
            "    the reason" in answer.err.replace("#", "").replace("  0.", "  ")
            or "the reason" in answer.err
        )
        assert "Traceback" not in answer.err


def test_without_any_engine_it_says_what_each_lacks(world: World, tmp_path: Path) -> None:
    text = STAGES.replace("RUN --mount", "# RUN --mount")
    project = Project(tmp_path, world, text)
    git = tmp_path / "bin"
    git.mkdir()
    (git / "git").symlink_to("/usr/bin/git")
    answer = project.work.run("lock", env={"PATH": str(git), "DOCKER_HOST": "unix:///nowhere"})
    assert answer.code == 71
    assert "needs an engine for Dockerfiles:" in answer.err
    assert "  buildkit: " in answer.err
    assert "  buildah: there is no program" in answer.err
    assert "apt-get install buildah" in answer.err


def test_ctrl_c_leaves_nothing_behind(world: World, docker: Daemon, tmp_path: Path) -> None:
    text = STAGES.replace("ls -la /", "sleep 300 && ls -la /")
    project = Project(tmp_path, world, text.replace("RUN --mount", "# RUN --mount"))
    before = contents(docker)
    for env in (docker.env, BUILDAH):
        process = project.work.start("lock", env={**env, "CAGEBUILD_ENGINE_CACHE": "off"})
        assert process.stderr is not None
        for line in process.stderr:
            if b"RUN mkdir" in line:
                break
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert not list(project.work.store.glob("tmp/*/*")), "scratch of the store"
    assert contents(docker) == before
    assert not [p for p in processes() if "sleep 300" in p]


def contents(docker: Daemon) -> list[str]:
    """Images, containers and volumes of a daemon."""
    return [
        docker.docker(*words)
        for words in (("images", "-aq"), ("ps", "-aq"), ("volume", "ls", "-q"))
    ]


def processes() -> list[str]:
    """Command lines of all that runs."""
    return subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_two_builds_of_one_cage_at_once(world: World, docker: Daemon, tmp_path: Path) -> None:
    project = Project(tmp_path, world, STAGES.replace("RUN --mount", "# RUN --mount"))
    pcrs = project.work.ok("lock", env=docker.env).pcrs()
    started = [
        project.work.start(
            "pcr",
            env={
                **docker.env,
                "CAGEBUILD_STORE": str(tmp_path / f"s{n}"),
                "CAGEBUILD_ENGINE_CACHE": "off",
            },
        )
        for n in range(2)
    ]
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
        assert all(value in out.decode() for value in pcrs.values())


# compiled code

COMPILED: Final = """FROM @GO@ AS build
USER root
WORKDIR /src
COPY main.go go.mod ./
RUN CGO_ENABLED=0 GOCACHE=/tmp/cache GOFLAGS=-p=2 /go/bin/go build -trimpath -buildvcs=false \\
    -ldflags=-buildid= -o /out/app .
FROM scratch
COPY --from=build /out/app /app
USER 1000:1000
ENTRYPOINT ["/app"]
"""


def test_a_program_that_is_compiled_in_a_stage(
    world: World, docker: Daemon, tmp_path: Path
) -> None:
    world.bases.push("go", busybox_layer(), go_layer(tmp_path), config={"Env": ["PATH=/bin"]})
    project = Project(tmp_path / "work", world, COMPILED.replace("@GO@", world.bases.named("go")))
    project.work.write("svc/main.go", 'package main\n\nfunc main() { println("compiled") }\n')
    project.work.write("svc/go.mod", "module example.test/app\n\ngo 1.24\n")
    project.work.commit()
    pcrs = project.work.ok("lock", env=docker.env).pcrs()
    assert project.pcrs(**BUILDAH) == pcrs


def go_layer(folder: Path) -> bytes:
    """The pinned Go toolchain, below /go."""
    goroot = provide(PROJECT / ".nox/go")
    file = folder / "go.tar"
    with tarfile.open(file, "w") as archive:
        for name in ("bin", "pkg", "src", "go.env", "VERSION"):
            archive.add(goroot / name, f"go/{name}")
    return file.read_bytes()

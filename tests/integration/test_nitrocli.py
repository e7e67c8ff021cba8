"""``invoke verify --with nitro-cli``: the real program comes to the PCRs that are measured here."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.errors import InterruptedBuildError, ToolFailedError
from cagebuild.nitro.build import BootFiles
from cagebuild.nitrocli import engine, run, tool
from cagebuild.nitrocli.stops import Stops
from tests.support import nitrocli
from tests.support.e2e import shared_lab
from tests.support.engines import Daemon, DockerKind, docker_daemon
from tests.support.http_server import serving
from tests.support.images import Files, named
from tests.support.nitro import arm_image
from tests.support.registry import docker_registry
from tests.support.tars import archive, device, directory, hard_link, regular, symlink
from tests.support.workspaces import CAGE, ROOT, Workspace, installer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1500),  # the first one compiles nitro-cli
    pytest.mark.skipif(os.geteuid() != 0, reason="Docker needs root: run the tests with sudo"),
]
VERIFY = ("verify", "--with", "nitro-cli")
COMPARED = {"PCR0", "PCR1", "PCR2"}


@pytest.fixture(scope="module", params=["20.10", "28-containerd"])
def docker(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with docker_daemon(request.param) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def image(docker: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of an image with nitro-cli."""
    layer = nitrocli.layer(tmp_path_factory.mktemp("tool"))
    return nitrocli.import_image(docker, layer, "nitro-cli:test", "VOLUME /scratch")


@pytest.fixture
def workspace(docker: Daemon, image: str, tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with a private Docker, which holds neither more nor less afterwards."""
    made = Workspace(tmp_path)
    made.environment["DOCKER_HOST"] = docker.address
    before = nitrocli.contents(docker)
    yield made
    assert nitrocli.contents(docker) == before


@pytest.fixture
def locked(workspace: Workspace) -> Workspace:
    """A workspace with one small cage."""
    workspace.add("svc", CAGE, data="some\n")
    workspace.ok("lock")
    return workspace


@pytest.fixture
def script(docker: Daemon, workspace: Workspace, tmp_path: Path) -> Iterator[Any]:
    """Images in which nitro-cli is a script: ``script(text)`` gives an id."""
    made: list[str] = []

    def make(text: str, *, wrapper: bool = False) -> str:
        folder = tmp_path / f"tool-{len(made)}"
        folder.mkdir()
        layer = nitrocli.layer if wrapper else nitrocli.script_layer
        made.append(nitrocli.import_image(docker, layer(folder, text), f"script:{len(made)}"))
        return made[-1]

    yield make
    for one in made:
        docker.docker("rmi", "--force", one)


# the same


def test_nitro_cli_comes_to_the_same(image: str, locked: Workspace) -> None:
    ours = locked.ok("pcr").pcrs()
    answer = locked.ok(*VERIFY, "--nitro-image", image)
    assert answer.pcrs() == ours
    assert set(ours) == COMPARED
    assert f"as nitro-cli of {image} has it" in answer.out
    assert "note: nitro-cli: Enclave Image successfully created." in answer.err


AWKWARD = archive(
    *(directory(f"{name}/") for name in ("dev", "dev/pts", "etc", "foo", "proc", "var", "var/www")),
    directory("etc/mtab/", mode=0o700, uid=5),
    regular("etc/hosts", b"1.2.3.4 mine\n"),
    regular("etc/hostname", b"name\n"),
    regular("Dockerfile", b"FROM scratch\n"),
    regular("foo-bar", b"-"),
    regular("foo/x", b"x", mode=0o4755),
    regular("foo/\u00e4 name\twith \u4e2d", b"name"),
    regular("foo/" + 22 * "long" + ".txt", b"long"),
    regular(b"foo/\xff", b"no text"),
    hard_link("foo/y", "foo/x"),
    hard_link("a-link", "foo/x"),
    symlink("bin", "usr/bin"),
    directory("usr/"),
    directory("usr/bin/", mode=0o1777, uid=70_000, gid=2_000_000),
    regular("usr/bin/app", b"#!app\n", mode=0o755),
    device("dev/null", 1, 3),
    device("dev/sda", 8, 0, kind=b"4"),
)
ABOVE = archive(
    directory("foo/"), regular("foo/.wh.foo"), regular(".wh.foo-bar"), regular("foo.x", b".")
)


def awkward(workspace: Workspace, folder: Path) -> None:
    """A locked cage ``//svc`` on an awkward image, with a runtime of programs that run nothing."""
    made = Files()
    config: dict[str, object] = {
        "Entrypoint": ["/bin/app"],
        "Cmd": ["--serve"],
        "Env": ["A=1", "QUOTED='\"\\ $x"],
        "Volumes": {"/var/www": {}},
        "Labels": {"a": "b"},
    }
    made.layout(named(made.image(AWKWARD, ABOVE, config=config), "latest"))
    made.folder(workspace.root / "svc/base")
    served = folder / "served"
    served.mkdir()
    digest = installer(served)
    with serving(served) as url:
        text = RUNTIME.format(digest=digest, url=url)
        workspace.write("svc/cage.toml", text)
        workspace.commit()
        workspace.ok("lock")


RUNTIME = """\
[base]
archive = "base"

[app]
user = "33:34"
workdir = "/srv/new/place"

[epoch]
policy = "fixed"
time = 1_600_000_000

[runtime]
installer = "{digest}"
url = "{url}"
"""


def test_so_it_does_for_an_awkward_image_with_the_runtime(
    image: str, workspace: Workspace, tmp_path: Path
) -> None:
    awkward(workspace, tmp_path)
    ours = workspace.ok("pcr").pcrs()
    assert workspace.ok(*VERIFY, "--nitro-image", image).pcrs() == ours


@pytest.mark.parametrize("kind", ["26-overlay2", "26-containerd", "28-overlay2"])
def test_so_it_does_with_other_dockers(kind: DockerKind, tmp_path: Path) -> None:
    with docker_daemon(kind) as docker:
        layer = nitrocli.layer(tmp_path)
        image = nitrocli.import_image(docker, layer, "nitro-cli:test", "VOLUME /scratch")
        made = Workspace(tmp_path)
        made.environment |= docker.env
        awkward(made, tmp_path)
        ours = made.ok("pcr").pcrs()
        before = nitrocli.contents(docker)
        assert made.ok(*VERIFY, "--nitro-image", image).pcrs() == ours
        assert nitrocli.contents(docker) == before
        # And what is exported is there under its own name, for a nitro-cli of the user's.
        made.ok("export", "--format", "docker-archive", "--output", str(tmp_path / "mine.tar"))
        docker.docker("load", "--input", str(tmp_path / "mine.tar"))
        assert "cage-guest" in docker.docker("inspect", "svc:latest")


@pytest.mark.network
def test_so_it_does_for_this_projects_own_service(
    image: str, docker: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Debian's packages, the real runtime, and a kernel that has the driver in it."""
    repo = shared_lab(tmp_path_factory).service
    before = nitrocli.contents(docker)
    (ours,) = repo.invoke("pcr").pcrs().values()
    ended = repo.invoke(*VERIFY, "--nitro-image", image, DOCKER_HOST=docker.address)
    (theirs,) = ended.pcrs().values()
    assert theirs["PCR2"] == ours["PCR2"]
    assert "PCR0 and PCR1 are those with an empty nsm.ko" in ended.out
    assert nitrocli.contents(docker) == before


def test_without_a_driver_both_are_given_an_empty_one(image: str, workspace: Workspace) -> None:
    workspace.write("cage.toml", ROOT.replace('nsm = "//boot/nsm.ko", ', ""))
    workspace.add("svc")
    workspace.ok("lock")
    ours = workspace.ok("pcr").pcrs()
    answer = workspace.ok(*VERIFY, "--nitro-image", image)
    assert answer.pcrs()["PCR2"] == ours["PCR2"]
    assert answer.pcrs().keys() == COMPARED
    assert answer.pcrs()["PCR1"] != ours["PCR1"]
    assert "PCR0 and PCR1 are those with an empty nsm.ko" in answer.out


def test_cages_of_the_other_architecture_and_several_at_once(
    image: str, workspace: Workspace
) -> None:
    workspace.write("boot/Image", arm_image(3000))
    workspace.add("one")
    workspace.add(
        "two",
        CAGE
        + """
[enclave]
architecture = "aarch64"
boot = { kernel = "//boot/Image", init = "//boot/init", nsm = "//boot/nsm.ko", \
cmdline = "//boot/cmdline" }
""",
    )
    workspace.ok("lock", "//...")
    ours = [line for line in workspace.ok("pcr", "//...").lines if "PCR" in line]
    answer = workspace.ok(*VERIFY, "--nitro-image", image, "//...")
    assert [line for line in answer.lines if "PCR" in line] == ours
    assert len(ours) == 6


def test_pcr8_of_a_signed_cage_is_left_out(image: str, workspace: Workspace) -> None:
    from tests.support.workspaces import signing_files

    folder = workspace.add(
        "svc", CAGE + '\n[signing]\ncertificate = "certificate.pem"\nkey = "key.pem"\n'
    )
    signing_files(folder)
    workspace.commit()
    workspace.ok("lock")
    assert "PCR8" in workspace.ok("pcr").pcrs()
    assert workspace.ok(*VERIFY, "--nitro-image", image).pcrs().keys() == COMPARED


# not the same


def test_another_command_line_is_told(script: Any, locked: Workspace) -> None:
    wrapper = 'printf " quiet" >>"$NITRO_CLI_BLOBS/cmdline"; exec /usr/bin/real "$@"'
    answer = locked.run(*VERIFY, "--nitro-image", script(wrapper, wrapper=True))
    assert answer.code == 60
    ours = locked.ok("pcr").pcrs()
    assert f"    expected {ours['PCR0']}" in answer.out
    assert f"  PCR2  {ours['PCR2']}" in answer.out
    assert "PCR1 moved: cmdline" in answer.out
    assert "nitro-cli comes to other PCRs: //svc PCR0, PCR1\n" in answer.err


def test_another_file_is_told_by_name(script: Any, locked: Workspace) -> None:
    # Nitro-cli is right and the image that it looks at is another: what an image that was swapped
    # on its way through Docker comes to.
    wrapper = """
mkdir /cagebuild/own && cd /cagebuild/own
cat >linuxkit <<'end'
#!/bin/busybox sh
for last; do :; done
env=$(busybox sed -n 's/.*source: //p' "$last" | busybox tail -n 1)
case "$*" in *--docker*) echo EXTRA=1 >>"$env" ;; esac
exec /usr/share/nitro_enclaves/blobs/linuxkit "$@"
end
busybox chmod 755 linuxkit
busybox ln -sf /cagebuild/own/linuxkit "$NITRO_CLI_BLOBS/linuxkit"
exec /usr/bin/real "$@"
""".replace("mkdir", "busybox mkdir").replace("cat >", "busybox cat >")
    answer = locked.run(*VERIFY, "--nitro-image", script(wrapper, wrapper=True))
    assert answer.code == 60
    assert "nitro-cli comes to other PCRs: //svc PCR0, PCR2\n" in answer.err
    assert "changed  env" in answer.out


# what fails


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'echo "{}"; echo going wrong >&2; echo "E39 $1" >&2; exit 39',
            ["exit status 39 from: nitro-cli build-enclave", "going wrong", "E39 build-enclave"],
        ),
        ("echo Enclave built", ["printed no measurements: Enclave built"]),
        ("exit 0", ["printed no measurements: nothing"]),
        ("""echo '{"Measurements": {"PCR0": "0"}}'""", ["printed no measurements"]),
        ("""printf '\\033[2J'""", ["printed no measurements: \\x1b[2J"]),
        ("busybox head -c 2000000 /dev/zero", ["printed more than 1048576 bytes"]),
        ("busybox yes | busybox head -c 300000 >&2; exit 1", ["exit status 1", "  y\n  y\n"]),
    ],
)
def test_a_tool_that_fails_is_told_in_its_own_words(
    script: Any, locked: Workspace, text: str, words: list[str]
) -> None:
    answer = locked.run(*VERIFY, "--nitro-image", script(text))
    assert answer.code == 41
    for word in words:
        assert word in answer.err
    assert answer.out == ""


def test_an_image_without_the_tool(docker: Daemon, locked: Workspace, tmp_path: Path) -> None:
    layer = nitrocli.write_tree(tmp_path / "empty.tar", {})
    other = nitrocli.import_image(docker, layer, "empty:test")
    answer = locked.run(*VERIFY, "--nitro-image", other)
    docker.docker("rmi", other)
    assert answer.code == 41
    assert "has to have nitro-cli on its PATH" in answer.err


def test_what_is_wrong_with_the_image_is_nitro_clis_to_say(script: Any, locked: Workspace) -> None:
    wrapper = 'busybox rm "$NITRO_CLI_BLOBS/linuxkit"; exec /usr/bin/real "$@"'
    answer = locked.run(*VERIFY, "--nitro-image", script(wrapper, wrapper=True))
    assert answer.code == 41
    assert "LinuxkitPathError" in answer.err


# which image


def test_an_image_of_a_registry_is_pulled_by_digest(
    docker: Daemon, image: str, locked: Workspace, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/tools/nitro-cli"
        docker.docker("tag", image, f"{name}:1")
        docker.docker("push", f"{name}:1")
        form = "{{json .RepoDigests}}"
        found = json.loads(docker.docker("inspect", "--format", form, f"{name}:1"))
        (reference,) = (each for each in found if each.startswith(name))
        docker.docker("rmi", f"{name}:1")
        first = locked.ok(*VERIFY, "--nitro-image", reference)
        assert f"note: Docker: pulling {reference}" in first.err
        second = locked.ok(*VERIFY, "--nitro-image", reference)
        assert "pulling" not in second.err
        assert first.pcrs() == second.pcrs()
        wrong = reference[:-64] + 64 * "0"
        answer = locked.run(*VERIFY, "--nitro-image", wrong)
        assert answer.code == 41
        assert f"Docker could not pull {wrong}" in answer.err
        docker.docker("rmi", reference)


def test_an_id_that_docker_does_not_have(locked: Workspace) -> None:
    answer = locked.run(*VERIFY, "--nitro-image", "sha256:" + 64 * "0")
    assert answer.code == 40
    assert "Docker has no image sha256:000" in answer.err


def test_the_image_of_a_dockerfile_is_built_once(
    docker: Daemon, image: str, tmp_path: Path
) -> None:
    dockerfile = b"FROM nitro-cli:test\nENV NITRO_CLI_BLOBS=/opt/blobs/\n"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        docker.use(patch)
        with engine.connected() as client:
            found, name = tool.of_dockerfile(client, dockerfile, said.append)
            assert any("Successfully built" in line for line in said)
            said.clear()
            assert tool.of_dockerfile(client, dockerfile, said.append) == (found, name)
            assert said == []
            assert tool.look_at(client, found, name).blobs == "/opt/blobs"
            assert tool.look_at(client, image, "x").blobs == "/usr/share/nitro_enclaves/blobs"
            with pytest.raises(ToolFailedError, match=r"was not built.*no-such-command"):
                tool.of_dockerfile(
                    client, b'FROM nitro-cli:test\nRUN ["/no-such-command"]\n', said.append
                )
        docker.docker("rmi", name)
    assert name.startswith("cagebuild-nitro-cli:")


def test_amazons_packages_cannot_be_had_here(locked: Workspace) -> None:
    """The private Docker gives containers no network, so the image is never made in tests."""
    answer = locked.run(*VERIFY)
    assert answer.code == 41
    assert "note: Docker: building cagebuild-nitro-cli:" in answer.err
    assert "--nitro-image REF@sha256:" in answer.err


# nothing is left behind, nothing of the user's is touched


def test_the_users_own_image_and_tags_are_kept(
    docker: Daemon, image: str, locked: Workspace, tmp_path: Path
) -> None:
    file = tmp_path / "mine.tar"
    locked.ok("export", "--format", "docker-archive", "--output", str(file))
    docker.docker("load", "--input", str(file))
    docker.docker("create", "--name", "mine", "svc:latest")
    before = nitrocli.contents(docker)
    locked.ok(*VERIFY, "--nitro-image", image)
    assert nitrocli.contents(docker) == before
    docker.docker("rm", "mine")
    docker.docker("rmi", "svc:latest")


def wait_for(docker: Daemon) -> str:
    """The one container of a run, once it runs."""
    for _ in range(600):
        if found := docker.docker("ps", "--quiet", "--no-trunc").split():
            (one,) = found
            return one
        time.sleep(0.1)
    raise AssertionError("no container")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped(
    docker: Daemon, script: Any, locked: Workspace, number: signal.Signals
) -> None:
    """And what a container is given: the socket, and no network."""
    other = script("busybox sleep 600")
    with locked.start(*VERIFY, "--nitro-image", other) as process:
        container = wait_for(docker)
        (found,) = json.loads(docker.docker("inspect", container))
        assert len(docker.docker("ps", "--all", "--quiet").split()) == 1
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    (mount,) = found["Mounts"]
    assert mount["Source"] == docker.address.removeprefix("unix://")
    assert mount["Destination"] == "/var/run/docker.sock"
    assert found["HostConfig"]["NetworkMode"] == "none"
    assert not found["HostConfig"]["Privileged"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_docker_that_is_lost(number: signal.Signals, tmp_path: Path) -> None:
    with docker_daemon() as docker:
        made = Workspace(tmp_path)
        made.environment["DOCKER_HOST"] = docker.address
        made.add("svc")
        made.ok("lock")
        layer = nitrocli.script_layer(tmp_path, "trap 'exit 1' TERM; busybox sleep 600 & wait")
        other = nitrocli.import_image(docker, layer, "script:test")
        with made.start(*VERIFY, "--nitro-image", other) as process:
            wait_for(docker)
            docker.signal(number)
            _, err = process.communicate(timeout=60)
    assert process.returncode == 41, err
    assert b"Traceback" not in err


def test_a_stop_while_the_image_is_loaded(docker: Daemon, image: str, tmp_path: Path) -> None:
    """The archive never ends well: it is broken off, and Docker has nothing of it."""
    before = nitrocli.contents(docker)
    pipe = tmp_path / "image.tar"
    os.mkfifo(pipe)

    def feed() -> None:
        with pipe.open("wb") as out:
            try:
                for count in range(1000):
                    out.write(regular(f"file{count}", bytes(1 << 16)).encoded())
                    if count == 20:
                        os.kill(os.getpid(), signal.SIGINT)
            except BrokenPipeError:
                pass

    boot = BootFiles(kernel=pipe, cmdline=b"", init=pipe, nsm=None)
    job = run.Job(archive=pipe, tag=run.new_tag(), boot=boot)
    thread = threading.Thread(target=feed)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        docker.use(patch)
        with Stops() as stops, engine.connected() as client:
            found = tool.find(client, image, print)
            with (
                pytest.raises(InterruptedBuildError),
                run.asked(client, found, job, tell=print, stops=stops),
            ):
                pytest.fail("it was loaded")
    thread.join()
    assert nitrocli.contents(docker) == before


def test_a_container_that_the_tool_left_goes_with_the_image(docker: Daemon, image: str) -> None:
    docker.docker("tag", image, "mine:1")
    docker.docker("create", "--name", "mine", "mine:1", "x")
    before = nitrocli.contents(docker)
    tag = run.new_tag()
    docker.docker("tag", image, tag)
    docker.docker("create", tag, "x")
    docker.docker("create", f"docker.io/library/{tag}", "x")
    with pytest.MonkeyPatch.context() as patch:
        docker.use(patch)
        with engine.connected() as client:
            engine.remove_image(client, tag)
            engine.remove_image(client, tag)
    assert nitrocli.contents(docker) == before
    docker.docker("rm", "--volumes", "mine")
    docker.docker("rmi", "mine:1")

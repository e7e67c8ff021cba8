"""Dockerfiles in locks and plans: which images are pinned, which files count, who builds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild import config, plan
from cagebuild.config.model import DockerfileBase
from cagebuild.digest import Digest
from cagebuild.errors import (
    DockerfileError,
    LockError,
    SourceError,
    StaleLockError,
    UnsupportedError,
)
from cagebuild.execute.graph import in_order
from cagebuild.image.manifest import Descriptor
from cagebuild.image.registry import ImagePin, LayerPin
from cagebuild.lock import Lock
from cagebuild.pinning import World, resolve
from cagebuild.sources import BuildContext, collect
from cagebuild.step import FileInput, StepInput
from tests.support.workspaces import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cagebuild.config.model import Cage, EngineChoice
    from cagebuild.pinning import Part
    from cagebuild.plan import Plan
    from cagebuild.step import Step

ROOT = """\
[workspace.defaults]
runtime = false

[workspace.defaults.epoch]
policy = "zero"

[workspace.defaults.enclave]
boot = { kernel = "//boot/kernel", init = "//boot/init", cmdline = "//boot/cmdline" }
"""
RUN = b"""\
ARG BASE=base.test/a:1
FROM $BASE AS build
RUN make
FROM base.test/b:2
COPY --from=build /out /srv
COPY . /srv/app
CMD ["/srv/run"]
"""
NO_RUN = b"FROM base.test/b:2\nCOPY . /srv\n"


def no_network(url: str, *, limit: int) -> bytes:
    raise AssertionError(url)


def no_git(paths: Sequence[Path]) -> int | None:
    raise AssertionError(paths)


WORLD = World(get=no_network, last_commit=no_git, source_date_epoch=None)


def pin(name: str, version: int = 1) -> ImagePin:
    """A pin of two layers; another version is another image."""

    def digest(what: str) -> Digest:
        return Digest.of(f"{name} {version} {what}".encode())

    layers = tuple(
        LayerPin(media_type="tar", digest=digest(f"l{n}"), size=9, diff_id=digest(f"d{n}"))
        for n in range(2)
    )
    return ImagePin(
        reference=name,
        index=digest("index"),
        manifest=digest("manifest"),
        config=Descriptor(media_type="json", digest=digest("config"), size=9),
        layers=layers,
    )


class Project:
    """A cage ``pay`` on a Dockerfile, and a registry that counts who asks it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root.resolve()
        self.asked: list[str] = []
        self.version = 1
        for name in ("kernel", "init", "cmdline"):
            self.write(f"boot/{name}", name.encode())
        self.write("cage.toml", ROOT.encode())
        self.write("pay/run", b"program\n")
        self.write("pay/Dockerfile", RUN)
        self.settings()
        monkeypatch.setattr("cagebuild.image.registry.resolve", self._resolve)

    def _resolve(self, reference: str, architecture: str) -> ImagePin:
        self.asked.append(reference)
        return pin(reference, self.version)

    def write(self, name: str, data: bytes) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def settings(self, base: str = '"Dockerfile"', more: str = "") -> None:
        """Write cage.toml."""
        self.write("pay/cage.toml", f"[base]\ndockerfile = {base}\n{more}".encode())

    def cage(self) -> Cage:
        file = self.root / "pay/cage.toml"
        return config.load(file, config.load_workspace(file))

    def context(self) -> BuildContext:
        cage = self.cage()
        workspace = config.load_workspace(self.root)
        found = collect(workspace, [cage], Digest.of_file)[cage].context
        assert found is not None
        return found

    def names(self) -> list[str]:
        """What is in the context."""
        return [file.destination for file in self.context().files]

    def lock(self, previous: Lock | None = None, update: Sequence[Part] = ()) -> Lock:
        return resolve(
            self.cage(),
            (),
            context=self.context(),
            previous=previous,
            update=update,
            world=WORLD,
        )

    def plan(self, locked: Lock | None = None, engine: EngineChoice | None = None) -> Plan:
        cage = self.cage()
        assert isinstance(cage.base, DockerfileBase)
        if engine:
            build = replace(cage.base.build, engine=engine)
            cage = replace(cage, base=replace(cage.base, build=build))
        return plan.plan(
            cage,
            locked or self.lock(),
            (),
            context=self.context(),
            mirrors=(),
            digest=Digest.of_file,
        )

    def step(self, kind: str, **how: Any) -> Step:
        """The one step of that kind."""
        steps = in_order([self.plan(**how).measure]).values()
        (found,) = [step for step in steps if step.kind == kind]
        return found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path / "work", monkeypatch)


def images(locked: Lock) -> dict[str, str]:
    """Each pinned image with its index."""
    return {name: str(each["index"]) for name, each in locked.base.pins["images"].items()}


# pins


def test_every_image_that_the_target_needs_is_pinned(project: Project) -> None:
    project.write("pay/Dockerfile", b"# syntax=docker/dockerfile:1\n" + RUN)
    assert images(project.lock()).keys() == {
        "base.test/a:1",
        "base.test/b:2",
        "docker.io/docker/dockerfile:1",
    }


def test_what_the_target_does_not_need_is_not_asked_for(project: Project) -> None:
    project.settings('{ path = "Dockerfile", target = "build" }')
    assert images(project.lock()).keys() == {"base.test/a:1"}


def test_an_argument_of_the_cage_chooses_the_image(project: Project) -> None:
    project.settings('{ path = "Dockerfile", args = { BASE = "base.test/other:3" } }')
    assert images(project.lock()).keys() == {"base.test/other:3", "base.test/b:2"}


def test_no_pin_moves_unless_it_is_asked_to(project: Project) -> None:
    before = project.lock()
    project.version = 2
    project.asked.clear()
    project.write("pay/Dockerfile", RUN + b"COPY --from=base.test/new /x /x\n")
    after = project.lock(before)
    assert project.asked == ["base.test/new:latest"]
    assert images(before).items() < images(after).items()
    updated = project.lock(after, ["base"])
    assert images(updated)["base.test/a:1"] == str(pin("base.test/a:1", 2).index)


def test_pins_of_images_that_are_no_longer_needed_go(project: Project) -> None:
    before = project.lock()
    project.write("pay/Dockerfile", NO_RUN)
    assert images(project.lock(before)).keys() == {"base.test/b:2"}


def test_a_mistake_in_the_dockerfile_is_shown_with_its_line(project: Project) -> None:
    project.write("pay/Dockerfile", b"FROM scratch\nRUM make\n")
    with pytest.raises(DockerfileError) as caught:
        project.lock()
    assert f"{project.root}/pay/Dockerfile:2" in caught.value.render()


def test_a_dockerfile_that_is_not_there(project: Project) -> None:
    (project.root / "pay/Dockerfile").unlink()
    with pytest.raises(SourceError, match=r"base\.dockerfile names .*No such file"):
        project.context()


def test_a_pipe_is_no_dockerfile(project: Project) -> None:
    """Nor is it waited for."""
    project.settings('{ path = "Dockerfile", context = "//boot" }')
    (project.root / "pay/Dockerfile").unlink()
    os.mkfifo(project.root / "pay/Dockerfile")
    with pytest.raises(SourceError, match="is no file"):
        project.context()


def test_a_file_that_is_no_dockerfile_by_its_size(project: Project) -> None:
    project.write("pay/Dockerfile", bytes(2 << 20))
    with pytest.raises(SourceError, match="larger than 1 MiB"):
        project.context()


# the context


def test_the_context_is_the_cages_folder_without_the_lock(project: Project) -> None:
    project.write("pay/cage.lock", b"{}")
    project.write("pay/sub/x", b"")
    assert project.names() == ["Dockerfile", "cage.toml", "run", "sub/x"]


def test_the_context_may_be_another_folder(project: Project) -> None:
    project.settings('{ path = "Dockerfile", context = "//boot" }')
    assert project.names() == ["cmdline", "init", "kernel"]


def test_dockerignore_is_honoured(project: Project) -> None:
    project.write("pay/.dockerignore", b"# no tests\nsub\n!sub/kept\n*.toml\n")
    for name in ("sub/x", "sub/kept"):
        project.write(f"pay/{name}", b"")
    assert project.names() == [".dockerignore", "Dockerfile", "run", "sub/kept"]


def test_the_ignore_file_of_one_dockerfile_comes_first(project: Project) -> None:
    project.write("pay/.dockerignore", b"run\n")
    project.write("pay/Dockerfile.dockerignore", b"**\n!cage.toml\n")
    assert project.names() == ["cage.toml"]


def test_results_are_no_part_of_a_context_without_git(project: Project) -> None:
    project.settings('{ path = "Dockerfile", context = "//" }')
    project.write("dist/pay/pay.eif", b"")
    assert "dist/pay/pay.eif" not in project.names()


# plans


def test_a_dockerfile_without_run_needs_no_engine(project: Project) -> None:
    project.write("pay/Dockerfile", NO_RUN)
    step = project.step("dockerfile")
    layers = [name for name in step.inputs if name.startswith("image-00-layer")]
    assert len(layers) == 2
    assert step.params["dockerfile"] == NO_RUN.decode()


@pytest.mark.parametrize("line", [b"ONBUILD RUN make\n", b"ADD https://x.test/a.tar /\n"])
def test_what_this_process_cannot_do_is_for_an_engine(project: Project, line: bytes) -> None:
    project.write("pay/Dockerfile", NO_RUN + line)
    assert project.step("engine").params["network"] is False


def test_a_run_needs_an_engine_and_gets_images_by_digest(project: Project) -> None:
    step = project.step("engine")
    text = str(step.params["dockerfile"])
    for name in ("base.test/a:1", "base.test/b:2"):
        assert f"FROM {name}@{pin(name).index}" in text
    assert step.params["target"] == "cage-app"
    assert step.params["args"] == {"SOURCE_DATE_EPOCH": "0"}
    layers = [layer.digest.hex[:12] for layer in pin("base.test/b:2").layers]
    assert step.params["base_layers"] == [f"base.test/b:2 layer {digest}" for digest in layers]


def test_the_same_everywhere_and_with_whatever_engine(project: Project) -> None:
    ids = {project.step("engine", engine=engine).id for engine in ("auto", "buildkit", "buildah")}
    assert len(ids) == 1


@pytest.mark.parametrize(
    "more",
    [
        'cache_from = ["type=gha"]',
        'engine = "kaniko"\nkaniko = "k.test/k@sha256:' + "0" * 64 + '"',
    ],
)
def test_what_changes_no_result_changes_no_id(project: Project, more: str) -> None:
    project.write("pay/.dockerignore", b"cage.toml\n")
    before = project.step("engine").id
    project.settings(more=f"[build]\n{more}\n")
    assert project.step("engine").id == before


@pytest.mark.parametrize(
    ("base", "more"),
    [
        ('{ path = "Dockerfile", target = "build" }', ""),
        ('{ path = "Dockerfile", args = { A = "1" } }', ""),
        ('"Dockerfile"', "[build]\nnetwork = true\n"),
        ('"Dockerfile"', '[build.secrets]\na = { env = "A" }\n'),
    ],
)
def test_what_can_change_the_result_changes_the_id(project: Project, base: str, more: str) -> None:
    before = project.step("engine").id
    project.settings(base, more)
    assert project.step("engine").id != before


def test_the_context_is_part_of_the_id(project: Project) -> None:
    before = project.step("engine").id
    project.write("pay/run", b"another\n")
    assert project.step("engine").id != before


def test_a_secret_is_in_no_part_of_a_plan_but_its_place(project: Project) -> None:
    project.settings(more='[build.secrets]\na = { env = "A" }\nb = { file = "/etc/b" }\n')
    step = project.step("engine")
    assert step.params["secrets"] == ["a", "b"]
    assert step.hints["secrets"] == {
        "a": {"env": "A", "file": None},
        "b": {"env": None, "file": "/etc/b"},
    }
    assert "/etc/b" not in json.dumps(step.facts())


def test_an_image_that_is_not_in_the_lock_stops_the_build(project: Project) -> None:
    locked = project.lock()
    project.write("pay/Dockerfile", b"\n\n" + RUN.replace(b"b:2", b"b:3"))
    with pytest.raises(StaleLockError, match=r"Dockerfile:6: the image base.test/b:3") as caught:
        project.plan(locked)
    assert caught.value.hint == "pin it: invoke lock //pay"


@pytest.mark.parametrize(
    ("line", "what"),
    [(b"RUN make\n", "RUN make"), (b"ADD https://x.test/a /a\n", "ADD https://x.test/a /a")],
)
def test_the_embedded_engine_says_what_it_cannot_do(
    project: Project, line: bytes, what: str
) -> None:
    project.write("pay/Dockerfile", NO_RUN + line)
    with pytest.raises(UnsupportedError, match=f"Dockerfile:3: {what}") as caught:
        project.plan(engine="embedded")
    assert "buildah" in caught.value.hint


@pytest.mark.parametrize("flag", ["default", "host"])
def test_a_run_gets_no_network_by_its_own_flag(project: Project, flag: str) -> None:
    project.write("pay/Dockerfile", RUN.replace(b"RUN", f"RUN --network={flag}".encode()))
    with pytest.raises(UnsupportedError, match=f"Dockerfile:3: RUN --network={flag}") as caught:
        project.plan()
    assert "build.network = true" in caught.value.hint
    project.settings(more="[build]\nnetwork = true\n")
    project.plan()


def test_pins_that_were_edited_by_hand(project: Project) -> None:
    locked = project.lock()
    pins = {"images": {"base.test/a:1": {"reference": "x"}}}
    with pytest.raises(LockError, match="base image cannot be read"):
        project.plan(replace(locked, base=replace(locked.base, pins=pins)))


def test_files_of_the_context_are_inputs_by_digest(project: Project) -> None:
    given = project.step("engine").inputs["context.tar"]
    assert isinstance(given, StepInput)
    files = given.step.inputs
    assert all(isinstance(each, FileInput) for each in files.values())
    assert sorted(files) == ["file:Dockerfile", "file:cage.toml", "file:run"]


def test_a_mistake_that_the_build_finds_is_shown_in_the_users_file(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write("svc/cage.toml", '[base]\ndockerfile = "Dockerfile"\n')
    workspace.write("svc/Dockerfile", 'FROM scratch\nCOPY gone /\nCMD ["/a"]\n')
    workspace.commit()
    answer = workspace.run("lock")
    assert answer.code == 71
    assert f"  {workspace.root}/svc/Dockerfile:2:1: /gone is not there" in answer.err
    assert "not in .dockerignore?" in answer.err

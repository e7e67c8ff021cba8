"""What an engine is given, and what is kept of what it gives back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.engine.job import EngineJob, FailedInstructionError
from cagebuild.engine.run import Order, build
from cagebuild.errors import ImageError, ToolFailedError, UsageError
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.tree import Region, walk
from tests.support.images import Files
from tests.support.tars import archive, directory, regular, symlink

if TYPE_CHECKING:
    from collections.abc import Callable

DOCKERFILE = f"""\
FROM base.test/a@sha256:{"0" * 64} AS build
COPY . /src
RUN make
FROM base.test/b@sha256:{"1" * 64} AS app
ENV A=b
COPY --from=build /out /srv
RUN id > /srv/id
"""
HISTORY: list[dict[str, Any]] = [
    {"created_by": "the base"},
    {"created_by": '/bin/sh -c #(nop)  CMD ["sh"]', "empty_layer": True},
    {"created_by": "ENV A=b", "empty_layer": True},
    {"created_by": "COPY /out /srv # buildkit"},
    {"created_by": "RUN |1 X=1 /bin/sh -c id > /srv/id # buildkit"},
]
BASE = archive(directory("run/"), directory("srv/"), regular("etc/passwd", b"root:x:0:0::/:/\n"))
COPIED = archive(regular("srv/a", b"copied\n", mtime=77), symlink("srv/l", "a"))
RUN = archive(regular("srv/id", b"0\n"), directory("proc/", mode=0o555), regular("etc/hosts"))


@dataclass
class Engine:
    """Answers with an image, and remembers what it was given."""

    layers: tuple[bytes, ...] = (BASE, COPIED, RUN)
    history: list[dict[str, Any]] = field(default_factory=lambda: HISTORY)
    config: dict[str, Any] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    fails: Exception | None = None
    job: EngineJob | None = None
    context: dict[str, tuple[int, float]] = field(default_factory=dict)
    name: str = "example"
    unavailable: str = ""

    def describe(self) -> str:
        return "Example 1.0"

    def build(self, job: EngineJob) -> Path:
        self.job = job
        for path in sorted(job.context.rglob("*")):
            found = path.lstat()
            self.context[str(path.relative_to(job.context))] = (found.st_mode, found.st_mtime)
        for line in self.says:
            job.say(line)
        if self.fails:
            raise self.fails
        files = Files()
        image = files.image(*self.layers, config=self.config, history=self.history)
        path = job.scratch / "image"
        files.layout(image).folder(path)
        return path


@dataclass
class Run:
    """One run of the step in a folder."""

    folder: Path
    engine: Engine = field(default_factory=Engine)
    said: list[str] = field(default_factory=list)
    hints: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, bytes] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)

    def __call__(self, say: Callable[[str], None] | None = None) -> Run:
        scratch, outputs = self.folder / "scratch", self.folder / "outputs"
        scratch.mkdir()
        outputs.mkdir()
        context = self.folder / "context.tar"
        context.write_bytes(
            archive(regular("a", b"a\n", mode=0o755), symlink("l", "a"), regular("d/b", b"b\n"))
        )
        build(
            self.engine,
            Order(
                params={
                    "dockerfile": DOCKERFILE,
                    "name": "Dockerfile",
                    "target": "app",
                    "args": {"SOURCE_DATE_EPOCH": "1000"},
                    "architecture": "x86_64",
                    "epoch": 1000,
                    "network": False,
                    "secrets": [],
                    "base_layers": ["base.test/b layer 0"],
                    **self.params,
                },
                hints={"dockerfile": "/repo/Dockerfile", **self.hints},
                context=context,
                output=lambda name: outputs / name,
                scratch=scratch,
            ),
            say=say or self.said.append,
            variable=self.variables.get,
            use_cache=True,
        )
        return self

    def entries(self) -> dict[str, tuple[int, int]]:
        region = Region.of_file(self.folder / "outputs" / "layer.tar")
        root = flatten([Layer(region=region, name="", origin="")])
        return {path.decode(): (node.mode, node.mtime) for path, node in walk(root)}

    def origins(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "outputs" / "origins.json").read_text())
        return found

    def config(self) -> dict[str, Any]:
        text = (self.folder / "outputs" / "config.json").read_text()
        found: dict[str, Any] = json.loads(text)["config"]
        return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(folder=tmp_path)


def test_the_context_is_the_same_for_every_engine(run: Run) -> None:
    engine = run().engine
    assert engine.context == {
        "a": (0o100755, 1000),
        "d": (0o040755, 1000),
        "d/b": (0o100644, 1000),
        "l": (0o120777, 1000),
    }
    assert engine.job is not None
    assert engine.job.context.stat().st_mtime == 1000
    assert engine.job.dockerfile.read_text() == DOCKERFILE
    assert not engine.job.dockerfile.is_relative_to(engine.job.context)


def test_every_entry_has_the_epoch_and_stubs_of_engines_are_gone(run: Run) -> None:
    """``proc`` and ``etc/hosts`` were brought by a RUN; ``run`` is the base's own."""
    assert run().entries() == {
        "etc": (0o755, 1000),
        "etc/passwd": (0o644, 1000),
        "run": (0o755, 1000),
        "srv": (0o755, 1000),
        "srv/a": (0o644, 1000),
        "srv/id": (0o644, 1000),
        "srv/l": (0o777, 1000),
    }


def test_folders_that_a_run_mounts_something_on_are_gone_if_they_are_empty(run: Run) -> None:
    """Docker 20.10 leaves them; /srv is of the base, and /made holds something."""
    mounts = "--mount=type=cache,target=/var/cache/x --mount=type=tmpfs,dst=/made/t"
    text = DOCKERFILE.replace("RUN id", f"RUN {mounts} --mount=type=cache,target=/srv id")
    run.params["dockerfile"] = text
    left = (directory("var/cache/x"), directory("made/t"), regular("made/f"))
    run.engine.layers = (BASE, archive(), archive(*left))
    entries = run().entries().keys()
    assert {"srv", "made", "made/f"} <= entries
    assert not {"var", "var/cache", "made/t"} & entries


def test_mount_points_that_are_copied_stay(run: Run) -> None:
    """A root filesystem that an ADD unpacks has them as it wants them."""
    run.params["dockerfile"] = "FROM scratch AS app\nADD rootfs.tar /\nRUN true\n"
    run.params["base_layers"] = []
    run.engine.history = [
        {"created_by": "ADD rootfs.tar / # buildkit"},
        {"created_by": "RUN /bin/sh -c true # buildkit"},
    ]
    rootfs = archive(directory("proc/", mode=0o555), directory("run/"), regular("etc/hosts"))
    run.engine.layers = (rootfs, archive(directory("proc/", mode=0o555), directory("sys/")))
    assert run().entries().keys() == {"etc", "etc/hosts", "proc", "run"}


def test_mount_points_that_come_from_a_stage_with_a_run_are_its_leftovers(run: Run) -> None:
    run.params["dockerfile"] = (
        "FROM scratch AS first\nRUN true\nFROM first AS second\n"
        "FROM scratch AS app\nCOPY --from=second / /\n"
    )
    run.params["base_layers"] = []
    run.engine.history = [{"created_by": "COPY / / # buildkit"}]
    run.engine.layers = (archive(directory("proc/"), directory("run/"), regular("a")),)
    assert run().entries().keys() == {"a"}


def test_a_mistake_in_a_stage_that_nobody_builds_is_no_matter(run: Run) -> None:
    """Engines build such files: they look at what the target needs."""
    run.params["dockerfile"] = f"FROM Nobody/Has:this AS first\nRUN true\n{DOCKERFILE}"
    assert run().origins()["srv/id"] == "Dockerfile:9 RUN id > /srv/id"


def test_what_is_no_stub_stays(run: Run) -> None:
    run.engine.layers = (BASE, COPIED, archive(regular("etc/hosts", b"x"), regular("proc/x")))
    assert {"etc/hosts", "proc/x"} <= run().entries().keys()


def test_each_file_is_told_from_which_instruction_it_came(run: Run) -> None:
    origins = run().origins()
    assert origins["etc/passwd"] == "base.test/b layer 0"
    assert origins["srv/a"] == "Dockerfile:6 COPY /out /srv"
    assert origins["srv/id"] == "Dockerfile:7 RUN id > /srv/id"


def test_the_history_of_buildah_is_read_too(run: Run) -> None:
    run.engine.history = [
        {"created_by": "the base"},
        {"created_by": "/bin/sh -c #(nop) ENV A=b", "empty_layer": True},
        {"created_by": "/bin/sh -c #(nop) COPY dir:12 in /srv"},
        {"created_by": "/bin/sh -c id > /srv/id"},
    ]
    origins = run().origins()
    assert origins["srv/a"] == "Dockerfile:6 COPY /out /srv"
    assert origins["srv/id"] == "Dockerfile:7 RUN id > /srv/id"


@pytest.mark.parametrize("history", [[], HISTORY[:3], [*HISTORY, {"created_by": "RUN x"}]])
def test_a_history_that_does_not_fit_the_layers_says_nothing_wrong(
    run: Run, history: list[dict[str, Any]]
) -> None:
    run.engine.history = history
    assert run().origins()["srv/id"] == "Dockerfile layer 3"


def test_what_an_engine_says_of_itself_is_not_kept(run: Run) -> None:
    run.engine.config = {"Labels": {"io.buildah.version": "1.28", "a": "b"}, "Env": ["A=b"]}
    assert run().config() == {"Labels": {"a": "b"}, "Env": ["A=b"], "WorkingDir": "/"}


def test_a_failed_instruction_is_shown_with_its_line(run: Run) -> None:
    said = ("make: *** No targets.",)
    run.engine.fails = FailedInstructionError(line=3, instruction="RUN make", said=said)
    with pytest.raises(ToolFailedError) as caught:
        run()
    assert caught.value.render().splitlines() == [
        "/repo/Dockerfile:3:1: failed in Example 1.0: RUN make",
        "  3 | RUN make",
        "    | ^~~~~~~~",
        "  last output:",
        "    make: *** No targets.",
    ]


@pytest.mark.parametrize("line", [None, 99])
def test_an_engine_that_does_not_know_the_line_may_say_so(run: Run, line: int | None) -> None:
    run.engine.fails = FailedInstructionError(line=line, instruction="RUN make", said=())
    with pytest.raises(ToolFailedError) as caught:
        run()
    assert caught.value.render() == "/repo/Dockerfile: failed in Example 1.0: RUN make"


# secrets

TOKEN = b"correct horse battery"
SECRET: dict[str, Any] = {
    "params": {"secrets": ["token"]},
    "hints": {"secrets": {"token": {"env": "TOKEN", "file": None}}},
    "variables": {"TOKEN": TOKEN},
}


def test_a_secret_comes_from_its_variable_or_its_file(tmp_path: Path) -> None:
    by_name = Run(folder=tmp_path, **SECRET)()
    assert by_name.engine.job is not None
    (secret,) = by_name.engine.job.secrets
    assert (secret.id, secret.value) == ("token", TOKEN)
    assert TOKEN.decode() not in repr(by_name.engine.job)
    file = tmp_path / "file"
    file.write_bytes(b"from a file\n")
    folder = tmp_path / "second"
    folder.mkdir()
    hints = {"secrets": {"token": {"env": None, "file": str(file)}}}
    by_file = Run(folder=folder, **{**SECRET, "hints": hints})()
    assert by_file.engine.job is not None
    assert by_file.engine.job.secrets[0].value == b"from a file\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"env": "GONE", "file": None}, "variable GONE, which is not set"),
        ({"env": None, "file": "/nowhere/token"}, "from /nowhere/token, which cannot be read"),
        ({"env": "EMPTY", "file": None}, "'token' is empty"),
        ({"env": "LARGE", "file": None}, "more than 500 KiB"),
    ],
)
def test_a_secret_that_is_not_there_is_a_mistake(
    tmp_path: Path, source: dict[str, Any], words: str
) -> None:
    variables = {"EMPTY": b"", "LARGE": bytes(600_000)}
    hints = {"secrets": {"token": source}}
    with pytest.raises(UsageError, match=words):
        Run(folder=tmp_path, **{**SECRET, "hints": hints, "variables": variables})()


def test_no_line_that_is_shown_has_a_secret(tmp_path: Path) -> None:
    engine = Engine(says=("#1 curl -H correct horse battery https://x",))
    run = Run(folder=tmp_path, engine=engine, **SECRET)()
    assert run.said == ["", "by Example 1.0", "#1 curl -H *** https://x"]


@pytest.mark.parametrize(
    "fails",
    [
        FailedInstructionError(line=7, instruction=f"RUN {TOKEN.decode()}", said=(TOKEN.decode(),)),
        ToolFailedError(f"exit status 1\n  {TOKEN.decode()}"),
    ],
)
def test_no_error_has_a_secret(tmp_path: Path, fails: Exception) -> None:
    with pytest.raises(ToolFailedError) as caught:
        Run(folder=tmp_path, engine=Engine(fails=fails), **SECRET)()
    assert TOKEN.decode() not in caught.value.render()
    assert "***" in caught.value.render()


@pytest.mark.parametrize(
    ("layers", "config", "where"),
    [
        ((BASE, COPIED, archive(regular("root/.netrc", b"x" * 999 + TOKEN))), {}, "/root/.netrc"),
        ((BASE, COPIED, archive(symlink("root/l", TOKEN))), {}, "/root/l"),
        ((BASE, COPIED, archive(regular(b"root/" + TOKEN))), {}, "/root/correct"),
        ((BASE, COPIED, RUN), {"Env": [f"T={TOKEN.decode()}"]}, "its environment"),
        ((BASE, COPIED, RUN), {"Labels": {"a": TOKEN.decode()}}, "its labels"),
        ((BASE, COPIED, RUN), {"Cmd": ["x", TOKEN.decode()]}, "its command"),
    ],
)
def test_an_image_with_a_secret_is_refused(
    tmp_path: Path, layers: tuple[bytes, ...], config: dict[str, Any], where: str
) -> None:
    engine = Engine(layers=layers, config=config)
    with pytest.raises(ImageError, match="the build secret 'token'") as caught:
        Run(folder=tmp_path, engine=engine, **SECRET)()
    assert where in caught.value.message
    assert not (tmp_path / "outputs" / "layer.tar").exists()


def test_a_secret_across_two_pieces_of_a_file_is_found(tmp_path: Path) -> None:
    data = bytes((1 << 20) - 5) + TOKEN + bytes(100)
    engine = Engine(layers=(BASE, COPIED, archive(regular("f", data))))
    with pytest.raises(ImageError, match="/f "):
        Run(folder=tmp_path, engine=engine, **SECRET)()


def test_a_build_can_be_stopped(run: Run) -> None:
    run.engine.says = ("one",)

    def say(line: str) -> None:
        if line == "one":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(say)

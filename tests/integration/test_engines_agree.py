"""The same Dockerfiles through every engine: one image, whoever builds it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from cagebuild.dockerfile.parse import parse
from cagebuild.dockerfile.stages import lineage, needed
from cagebuild.dockerfile.staging import stage
from cagebuild.dockerfile.warnings import warnings
from cagebuild.engine.buildah import Buildah
from cagebuild.engine.buildkit import BuildKit
from cagebuild.engine.run import Order, build
from cagebuild.errors import CageError
from cagebuild.image.config import parse_config
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.tarwriter import write_tree
from cagebuild.image.tree import Kind, Node, Region, walk
from tests.support import dockerfile_table, run_dockerfiles
from tests.support.bases import bases
from tests.support.dockerfile_golden import Facts, facts, lines, load
from tests.support.engines import ENGINES as PROGRAMS
from tests.support.engines import docker_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cagebuild.dockerfile.model import Dockerfile
    from cagebuild.engine.job import Engine
    from cagebuild.image.config import ImageConfig
    from tests.support.bases import Bases
    from tests.support.dockerfile_table import Case
    from tests.support.engines import DockerKind
    from tests.support.run_dockerfiles import RunCase

pytestmark = pytest.mark.integration

EPOCH: Final = 1_000_000_000
ENGINES: Final = ("28-containerd", "20.10", "buildah-1.43", "buildah")
"""The newest BuildKit first: what it makes is what the others are held to."""
_MODES: Final = frozenset(
    [
        "attributes-of-folders-that-are-there",
        "files-of-a-stage-keep-owners-and-modes",
        "chmod-octal",
        "chmod-of-folders-on-the-way",
        "chmod-in-words",
        "add-an-archive-for-somebody",
    ]
)
_BUILDAH: Final = (
    _MODES
    | {
        "names-of-stages-in-capitals",
        "chown-by-names-of-odd-lines",
        "chown-to-root-and-to-no-user",
        "exclude-from-a-folder",
        "exclude",
        "parents",
        "add-without-unpacking",
        "commands-for-a-shell",
        "entrypoint-for-a-shell-of-its-own",
        "ranges-of-ports",
        "escapes-by-another-character",
        "heredocs",
    }
    | {"another shell"}
)
_HEREDOCS: Final = frozenset(
    ("heredocs", "heredocs-of-plain-text", "a heredoc right before CMD", "heredocs of COPY")
)
REFUSED: Final[dict[str, frozenset[str]]] = {
    "28-containerd": frozenset({"parents-of-plain-paths", "parents"}),
    "20.10": frozenset(
        [
            "files-of-a-stage-keep-owners-and-modes",
            "chmod-octal",
            "chmod-of-folders-on-the-way",
            "chmod-in-words",
            "link-where-nothing-is",
            "parents-of-plain-paths",
            "exclude-from-a-folder",
            "parents",
            "exclude",
            "add-archives",
            "add-without-unpacking",
        ]
    )
    | _HEREDOCS,
    "buildah-1.43": _BUILDAH,
    "buildah": _BUILDAH | _HEREDOCS | {"link-where-nothing-is", "parents-of-plain-paths"},
}
"""Dockerfiles that an engine cannot build as the newest BuildKit does: it has to say so."""
DIFFERENT: Final[dict[str, frozenset[str]]] = {
    "28-containerd": frozenset(),
    "20.10": frozenset({"add-an-archive-for-somebody"}),
    "buildah-1.43": frozenset({"arg-after-env", "args-and-env-of-a-stage-below"}),
    "buildah": frozenset({"arg-after-env", "args-and-env-of-a-stage-below"}),
}
"""Those that it may build otherwise: whoever builds them is warned."""
UNSEEN: Final = frozenset(
    {"symlinks-that-are-the-destination", "names-with-brackets", "user-volume-signal"}
)
"""What buildah makes another image of, and no reader of the Dockerfile can tell: in the limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An engine of one kind."""

    kind: str
    engine: Engine


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bases]:
    with bases(tmp_path_factory.mktemp("bases")) as running:
        yield running


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Named]:
    kind: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        if kind.startswith("buildah"):
            if kind != "buildah":
                folder = PROGRAMS / kind / "bin"
                assert folder.is_dir(), f"needs {kind}: run .ci/engines-buildah"
                patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
                patch.setenv("CONTAINERS_HELPER_BINARY_DIR", str(folder))
            yield Named(kind=kind, engine=Buildah("buildah"))
        else:
            with docker_daemon(cast("DockerKind", kind)) as daemon:
                daemon.use(patch)
                yield Named(kind=kind, engine=BuildKit())


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a step gives."""

    root: Node
    config: ImageConfig


def built(
    engine: Engine,
    folder: Path,
    dockerfile: bytes,
    context: Node,
    *,
    args: Any,
    target: str | None = None,
) -> Result:
    """Stage and build as a plan does; base images are by digest already."""
    given = {**args, "SOURCE_DATE_EPOCH": str(EPOCH)}
    staged = stage(
        parse(dockerfile, Path("Dockerfile")),
        target=target,
        pins={},
        args=given,
        architecture="x86_64",
    )
    file, outputs, scratch = folder / "context.tar", folder / "outputs", folder / "scratch"
    for each in (outputs, scratch):
        each.mkdir()
    with file.open("wb") as stream:
        write_tree(context, stream.write)
    parsed = parse(staged.text, Path("Dockerfile"))
    build(
        engine,
        Order(
            params={
                "dockerfile": staged.text.decode("utf-8", "surrogateescape"),
                "name": "Dockerfile",
                "target": staged.target,
                "args": given,
                "architecture": "x86_64",
                "epoch": EPOCH,
                "network": False,
                "secrets": [],
                "base_layers": base_layers(parsed, staged.target, given),
            },
            hints={},
            context=file,
            output=lambda name: outputs / name,
            scratch=scratch,
        ),
        say=print,
        variable=lambda _: None,
        use_cache=True,
    )
    region = Region.of_file(outputs / "layer.tar")
    return Result(
        root=flatten([Layer(region=region, name="", origin="")]),
        config=parse_config((outputs / "config.json").read_bytes(), "config"),
    )


def base_layers(dockerfile: Dockerfile, target: str, args: Mapping[str, str]) -> list[str]:
    """As a plan has them: the images here have one layer."""
    _, below = lineage(dockerfile, target, args, "x86_64")
    return ["base"] if below else []


@pytest.mark.parametrize("case", dockerfile_table.CASES, ids=lambda case: case.name)
def test_every_engine_makes_of_a_dockerfile_what_buildkit_does(
    engine: Named, tmp_path: Path, case: Case
) -> None:
    expected = load()[case.name]
    dockerfile, context = case.dockerfile, dict(case.context)
    if not expected["files"]:
        # No engine exports an image without any layer.
        dockerfile += b"\nCOPY a-file /\n"
        context["a-file"] = dockerfile_table.text("a")
        expected = {**expected, "files": ["a-file file 0644 0:0 b'a'"]}
    given = (engine.engine, tmp_path, dockerfile, dockerfile_table.tree_of(context))
    if case.name in REFUSED[engine.kind]:
        with pytest.raises(CageError):
            built(*given, args=case.args, target=case.target)
        return
    if engine.kind.startswith("buildah") and case.name in UNSEEN:
        return
    found = built(*given, args=case.args, target=case.target)
    if case.name in DIFFERENT[engine.kind]:
        parsed = parse(dockerfile, Path("Dockerfile"))
        assert warnings(parsed, needed(parsed, case.target, case.args, "x86_64"))
        assert facts(found.root, found.config) != expected
    else:
        assert facts(found.root, found.config) == expected


@pytest.mark.parametrize("case", run_dockerfiles.CASES, ids=lambda case: case.name)
def test_every_engine_takes_what_broke_others(
    engine: Named, registry: Bases, tmp_path: Path, case: RunCase
) -> None:
    base = registry.by_digest("busybox").encode()
    dockerfile = case.dockerfile.replace(run_dockerfiles.BASE, base)
    context = dockerfile_table.tree_of(case.context)
    if case.name in REFUSED[engine.kind]:
        with pytest.raises(CageError) as caught:
            built(engine.engine, tmp_path, dockerfile, context, args=case.args)
        assert "Dockerfile:" in caught.value.render()
        return
    found = built(engine.engine, tmp_path, dockerfile, context, args=case.args)
    files = {
        path.decode().removeprefix("out/"): b"".join(node.read()).decode()
        for path, node in walk(found.root)
        if node.kind is Kind.FILE and path.startswith(b"out/")
    }
    assert files == case.files
    shown: Any = facts(found.root, found.config)
    assert {key: shown["config"][key] for key in case.config} == case.config
    # Whichever engine came first is what the others are held to.
    assert FIRST.setdefault(case.name, shown) == shown


def test_equal_sizes_and_times_are_not_taken_for_equal_contents(
    engine: Named, registry: Bases, tmp_path: Path
) -> None:
    """Everything has the epoch for its time, so an engine must not go by that."""
    base = registry.by_digest("busybox")
    for text in ("one", "two"):
        folder = tmp_path / text
        folder.mkdir()
        dockerfile = f"FROM {base}\nUSER root\nCOPY a /out/a\nRUN echo {text} > /out/b\n".encode()
        context = dockerfile_table.tree_of({"a": dockerfile_table.text(text)})
        found = built(engine.engine, folder, dockerfile, context, args={})
        shown = lines(found.root)
        assert f"out/a file 0644 0:0 {text.encode()!r}" in shown
        assert f"out/b file 0644 0:0 {(text + chr(10)).encode()!r}" in shown


FIRST: dict[str, Facts] = {}
"""What the first engine made of each Dockerfile."""

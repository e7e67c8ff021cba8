"""Images from outside: what is taken over from them, and where their files go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cagebuild.embedded.build import Base
from cagebuild.errors import DockerfileError, UnsupportedError
from cagebuild.image.config import Healthcheck, parse_config
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.tree import Region
from tests.support import tars
from tests.support.dockerfile_golden import lines
from tests.support.dockerfile_table import PASSWD, Case, text
from tests.support.embedded import built

CONTEXT = {"a": text("a"), "t.sh": text("t", 0o755)}
FULL: dict[str, object] = {
    "Env": ["A=base", "PATH=/base", "B="],
    "Entrypoint": ["/entry"],
    "Cmd": ["cmd"],
    "User": "app",
    "WorkingDir": "/work",
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}},
    "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5},
    "Labels": {"k": "base"},
    "Shell": ["/bin/bash", "-c"],
}


class Images:
    """A registry of one image, which counts what it is asked for."""

    def __init__(self, config: dict[str, object], *entries: tars.Item) -> None:
        self.asked: list[str] = []
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": []},
        }
        self._config = parse_config(json.dumps(document).encode(), "the config")
        self._layer = tars.archive(*entries)

    def __call__(self, reference: str) -> Base:
        self.asked.append(reference)
        layer = Layer(region=Region.of_bytes(self._layer), name="the layer", origin="base")
        return Base(root=flatten([layer]), config=self._config)


def test_a_config_is_taken_over(tmp_path: Path) -> None:
    config = built("FROM base\n", tmp_path, images=Images(FULL)).config
    assert config.env == ("A=base", "PATH=/base", "B=")
    assert (config.entrypoint, config.cmd) == (("/entry",), ("cmd",))
    assert (config.user, config.workdir, config.stop_signal) == ("app", "/work", "SIGINT")
    assert (config.exposed_ports, config.volumes) == (("80/tcp",), ("/data",))
    assert config.healthcheck == Healthcheck(test=("CMD", "x"), interval=5)
    assert config.labels == {"k": "base"}
    assert (config.architecture, config.os) == ("amd64", "linux")


def test_a_config_is_changed(tmp_path: Path) -> None:
    config = built(
        "FROM base\nENV A=$A-own C=1\nEXPOSE 9\nVOLUME /v\nLABEL k=own z=$B\nCMD run it\n",
        tmp_path,
        images=Images(FULL),
    ).config
    assert config.env == ("A=base-own", "PATH=/base", "B=", "C=1")
    assert (config.exposed_ports, config.volumes) == (("80/tcp", "9/tcp"), ("/data", "/v"))
    assert config.labels == {"k": "own", "z": ""}
    assert config.entrypoint == ("/entry",)
    assert config.cmd == ("/bin/bash", "-c", "run it")


def test_an_entrypoint_takes_the_cmd_of_the_image_away(tmp_path: Path) -> None:
    config = built('FROM base\nENTRYPOINT ["/x"]\n', tmp_path, images=Images(FULL)).config
    assert (config.entrypoint, config.cmd) == (("/x",), None)


def test_an_image_without_a_path_or_directory(tmp_path: Path) -> None:
    config = built("FROM base\nENV X=$PATH\n", tmp_path, images=Images({"Env": ["A=1"]})).config
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert config.env == ("A=1", f"PATH={path}", f"X={path}")
    assert config.workdir == ""


def test_an_image_with_a_relative_directory(tmp_path: Path) -> None:
    image = built("FROM base\nWORKDIR x\n", tmp_path, images=Images({"WorkingDir": "rel/y"}))
    assert image.config.workdir == "/rel/y/rel/y/x"


def test_files_keep_their_origin_and_new_ones_name_their_line(tmp_path: Path) -> None:
    images = Images({}, tars.directory("d"), tars.regular("d/old"), tars.regular("d/gone"))
    context = Case(name="", dockerfile=b"", context=CONTEXT).context_tree()
    image = built(
        "FROM base\nWORKDIR /w\n\nCOPY a \\\n  /d/gone\nCOPY . /d/all/\n",
        tmp_path,
        images=images,
        context=context,
    )
    children = image.root.children or {}
    folder = children[b"d"]
    inside = folder.children or {}
    assert folder.origin == "base"
    assert inside[b"old"].origin == "base"
    assert inside[b"gone"].origin == "Dockerfile:4 COPY a /d/gone"
    assert inside[b"all"].origin == "Dockerfile:6 COPY . /d/all/"
    assert children[b"w"].origin == "Dockerfile:2 WORKDIR /w"


def test_each_from_has_a_tree_of_its_own_and_copy_reads_one(tmp_path: Path) -> None:
    images = Images({}, tars.regular("f", b"1", 0o600))
    context = Case(name="", dockerfile=b"", context=CONTEXT).context_tree()
    image = built(
        "FROM base AS one\nCOPY a /f\nFROM base\nCOPY --from=one /f /changed\n"
        "COPY --from=base:latest /f /again\nCOPY --from=docker.io/library/base /f /more\n",
        tmp_path,
        images=images,
        context=context,
    )
    assert lines(image.root) == [
        "again file 0600 0:0 b'1'",
        "changed file 0644 0:0 b'a'",
        "f file 0600 0:0 b'1'",
        "more file 0600 0:0 b'1'",
    ]
    assert images.asked == ["docker.io/library/base:latest"] * 3


def test_a_stage_is_not_changed_by_one_that_is_built_from_it(tmp_path: Path) -> None:
    context = Case(name="", dockerfile=b"", context=CONTEXT).context_tree()
    image = built(
        "FROM base AS one\nFROM one AS two\nCOPY a /d/f\nFROM scratch\nCOPY --from=one /d /one\n"
        "COPY --from=two /d /two\n",
        tmp_path,
        images=Images({}, tars.directory("d"), tars.regular("d/f", b"old")),
        context=context,
    )
    assert "one/f file 0644 0:0 b'old'" in lines(image.root)
    assert "two/f file 0644 0:0 b'a'" in lines(image.root)


def test_a_directory_and_names_of_the_image(tmp_path: Path) -> None:
    context = Case(name="", dockerfile=b"", context=CONTEXT).context_tree()
    image = built(
        "FROM base\nWORKDIR sub\nCOPY --chown=app:app a .\n",
        tmp_path,
        images=Images(
            FULL,
            tars.directory("real"),
            tars.regular("real/passwd", PASSWD.data),
            tars.regular("real/group", b"app:x:9:\n"),
            tars.symlink("etc", "real"),
            tars.directory("work", 0o700, 3, 4),
        ),
        context=context,
    )
    assert lines(image.root)[-3:] == [
        "work directory 0700 3:4",
        "work/sub directory 0755 1000:1001",
        "work/sub/a file 0644 1000:9 b'a'",
    ]


def test_triggers_run_before_all_else(tmp_path: Path) -> None:
    triggers = ["ENV T=$A", "COPY --chmod=700 . /t", "COPY --from=tool /f /f", "WORKDIR /w"]
    images = Images({"Env": ["A=1"], "OnBuild": triggers}, tars.regular("f", b"f"))
    context = Case(name="", dockerfile=b"", context=CONTEXT).context_tree()
    image = built(
        "FROM scratch AS tool\nCOPY a /f\n\nFROM base\nENV A=2\nCOPY a .\n",
        tmp_path,
        images=images,
        context=context,
    )
    assert image.config.env[0] == "A=2"
    assert "T=1" in image.config.env
    assert lines(image.root) == [
        "f file 0644 0:0 b'a'",
        "t directory 0700 0:0",
        "t/a file 0700 0:0 b'a'",
        "t/t.sh file 0700 0:0 b't'",
        "w directory 0755 0:0",
        "w/a file 0644 0:0 b'a'",
    ]
    assert (image.root.children or {})[b"t"].origin == "Dockerfile:4 COPY . /t"


def test_triggers_are_not_inherited_twice(tmp_path: Path) -> None:
    images = Images({"OnBuild": ["ENV N=${N}x"]})
    config = built("FROM base AS a\nFROM a AS b\nFROM b\n", tmp_path, images=images).config
    assert "N=x" in config.env


@pytest.mark.parametrize("trigger", ["RUN true", "run true"])
def test_a_trigger_that_runs_something(trigger: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="Dockerfile:2:"):
        built("\nFROM base\n", tmp_path, images=Images({"OnBuild": [trigger]}))


def test_a_trigger_that_needs_a_stage_that_runs_something(tmp_path: Path) -> None:
    images = Images({"OnBuild": ["COPY --from=tool /x /x"]})
    with pytest.raises(UnsupportedError, match="Dockerfile:2:"):
        built("FROM scratch AS tool\nRUN true\nFROM base\n", tmp_path, images=images)


@pytest.mark.parametrize("trigger", ["", "NOTHING x", "ENV A=1\nENV B=2", "FROM x"])
def test_a_trigger_that_is_none(trigger: str, tmp_path: Path) -> None:
    with pytest.raises(DockerfileError) as raised:
        built("\nFROM base\n", tmp_path, images=Images({"OnBuild": [trigger]}))
    assert raised.value.diagnostics[0].line == 2
    assert "ONBUILD of base" in raised.value.diagnostics[0].message


def test_an_image_that_is_not_needed_is_not_asked_for(tmp_path: Path) -> None:
    images = Images({})
    built(
        "FROM other AS a\nRUN true\nFROM base AS b\nFROM a\n", tmp_path, images=images, target="b"
    )
    assert images.asked == ["docker.io/library/base:latest"]

"""The step ``image``: how the finished image is run, by Docker's rules, and its last layer."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.errors import ImageError
from cagebuild.steps import image
from tests.support.steps import Context
from tests.support.tars import Item, archive, directory, regular, symlink

if TYPE_CHECKING:
    from pathlib import Path

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSWD = b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\nbare:x:7:8:::\n"
GROUP = b"root:x:0:\nweb:x:34:\nlogs:x:4:web,other\nstaff:x:50:\n"


class Run:
    """One run of the step: what it wrote."""

    def __init__(
        self,
        folder: Path,
        *layers: bytes,
        app: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        base: dict[str, Any] | None = None,
        **params: Any,
    ) -> None:
        """``config`` is the base image's; there is none, from scratch, where it is None."""
        inputs = {f"layer-{number:03}.tar": data for number, data in enumerate(layers)}
        if config is not None:
            document = {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": []},
                "config": config,
                **(base or {}),
            }
            inputs["config.json"] = json.dumps(document).encode()
        folder.mkdir(exist_ok=True)
        for name, data in inputs.items():
            (folder / f"in-{name}").write_bytes(data)
        unset: dict[str, Any] = {
            "entrypoint": None,
            "command": None,
            "user": None,
            "workdir": None,
            "env": [],
        }
        context = Context(
            folder / "out",
            params={
                "epoch": 5,
                "name": "pay",
                "architecture": "x86_64",
                "origins": [f"layer {number}" for number in range(len(layers))],
                "runtime": True,
                "ingress": [],
                "egress": [],
                "secrets": {"env": [], "files": []},
                "logs": False,
                **params,
                "app": {**unset, **(app or {})},
            },
            inputs={name: folder / f"in-{name}" for name in inputs},
        )
        image.run(context)
        self.config = json.loads(context.output("config.json").read_bytes())
        self.run: dict[str, Any] = self.config["config"]
        with tarfile.open(context.output("settings.tar")) as layer:
            self.members = layer.getmembers()
            self.names = [member.name for member in self.members]
            self.settings: dict[str, Any] = {}
            if "cage/etc/cage.json" in self.names:
                stream = layer.extractfile("cage/etc/cage.json")
                assert stream
                self.settings = json.load(stream)


def argv(folder: Path, config: dict[str, Any], app: dict[str, Any]) -> list[str]:
    """What the app is run as."""
    found: list[str] = Run(folder, config=config, app=app).settings["argv"]
    return found


# ENTRYPOINT and CMD

COMMANDS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "inherited command": ({"Cmd": ["/a", "b"]}, {}, ["/a", "b"]),
    "inherited entrypoint": ({"Entrypoint": ["/a"]}, {}, ["/a"]),
    "inherited both": ({"Entrypoint": ["/a"], "Cmd": ["b"]}, {}, ["/a", "b"]),
    "own command after inherited entrypoint": (
        {"Entrypoint": ["/a"], "Cmd": ["b"]},
        {"command": ["c"]},
        ["/a", "c"],
    ),
    "own command": ({}, {"command": ["/c"]}, ["/c"]),
    "own entrypoint drops the inherited command": (
        {"Entrypoint": ["/a"], "Cmd": ["b"]},
        {"entrypoint": ["/d"]},
        ["/d"],
    ),
    "own both": (
        {"Entrypoint": ["/a"], "Cmd": ["b"]},
        {"entrypoint": ["/d"], "command": ["e"]},
        ["/d", "e"],
    ),
    "own empty entrypoint drops both, own command stays": (
        {"Entrypoint": ["/a"], "Cmd": ["b"]},
        {"entrypoint": [], "command": ["/e"]},
        ["/e"],
    ),
    "own empty command drops the inherited one": (
        {"Entrypoint": ["/a"], "Cmd": ["b"]},
        {"command": []},
        ["/a"],
    ),
    "a shell's words stay as they are": (
        {"Cmd": ["/bin/sh", "-c", "echo a, b && $HOME \"'%s\\n"]},
        {},
        ["/bin/sh", "-c", "echo a, b && $HOME \"'%s\\n"],
    ),
    "a word may be empty": ({"Cmd": ["/a", "", "b"]}, {}, ["/a", "", "b"]),
    "a command that is one text": ({"Cmd": "/a"}, {}, ["/a"]),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_what_is_run_is_what_docker_would_run(tmp_path: Path, what: str) -> None:
    config, app, expected = COMMANDS[what]
    assert argv(tmp_path, config, app) == expected


@pytest.mark.parametrize("what", COMMANDS)
def test_without_the_runtime_init_finds_all_of_it_as_cmd(tmp_path: Path, what: str) -> None:
    config, app, expected = COMMANDS[what]
    made = Run(tmp_path, config=config, app=app, runtime=False)
    assert made.run["Cmd"] == expected
    assert "Entrypoint" not in made.run
    assert made.names == []


NOTHING: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "scratch without a command": (None, {}),
    "an image without both": ({}, {}),
    "empty lists": ({"Entrypoint": [], "Cmd": []}, {}),
    "an empty entrypoint drops the inherited command": ({"Cmd": ["/a"]}, {"entrypoint": []}),
    "an empty name of a program": ({"Cmd": ["", "b"]}, {}),
}


@pytest.mark.parametrize("runtime", [True, False])
@pytest.mark.parametrize("what", NOTHING)
def test_nothing_to_run_is_refused(tmp_path: Path, what: str, runtime: bool) -> None:
    config, app = NOTHING[what]
    with pytest.raises(ImageError, match="names no program to run") as caught:
        Run(tmp_path, config=config, app=app, runtime=runtime)
    assert "app.command" in caught.value.hint


def test_with_the_runtime_the_image_starts_it_as_root(tmp_path: Path) -> None:
    made = Run(tmp_path, config={"Entrypoint": ["/a"], "Cmd": ["b"], "User": "7"})
    assert made.run["Entrypoint"] == ["/cage/bin/cage-guest", "boot"]
    assert "Cmd" not in made.run
    assert "User" not in made.run
    assert made.settings["uid"] == 7


# environment

ENVIRONMENTS: dict[str, tuple[list[str], list[list[str]], list[str]]] = {
    "none": ([], [], ["HOME=/", PATH]),
    "the image's path": (["PATH=/x"], [], ["HOME=/", "PATH=/x"]),
    "the cage's path": (["PATH=/x"], [["PATH", "/y"]], ["HOME=/", "PATH=/y"]),
    "the image's home": (["HOME=/h"], [], ["HOME=/h", PATH]),
    "the cage's home": ([], [["HOME", "/h"]], ["HOME=/h", PATH]),
    "later ones win in the place of the first": (
        ["A=1", "B=2", "A=3"],
        [["B", "4"], ["C", "5"]],
        ["HOME=/", PATH, "A=3", "B=4", "C=5"],
    ),
    "names differ by case": (["a=1"], [["A", "2"]], ["HOME=/", PATH, "a=1", "A=2"]),
    "empty values stay": (["A="], [["B", ""]], ["HOME=/", PATH, "A=", "B="]),
    "values with signs": ([], [["A", "b=c d'\"%s$X"]], ["HOME=/", PATH, "A=b=c d'\"%s$X"]),
}


@pytest.mark.parametrize("what", ENVIRONMENTS)
def test_the_environment_is_the_images_then_the_cages(tmp_path: Path, what: str) -> None:
    given, own, expected = ENVIRONMENTS[what]
    app = {"env": own, "command": ["/a"]}
    assert Run(tmp_path, config={"Env": given}, app=app).settings["env"] == expected


def test_without_the_runtime_the_environment_is_the_images_own(tmp_path: Path) -> None:
    app = {"env": [["B", "2"]], "command": ["/a"]}
    made = Run(tmp_path, config={"Env": ["A=1"]}, app=app, runtime=False)
    assert made.run["Env"] == [PATH, "A=1", "B=2"]


def test_a_variable_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="'A' is not NAME=value"):
        Run(tmp_path, config={"Env": ["A"], "Cmd": ["/a"]})


# users

ETC = archive(directory("etc"), regular("etc/passwd", PASSWD), regular("etc/group", GROUP))

USERS: dict[str, tuple[int, int, list[int], str]] = {
    "": (0, 0, [0], "/root"),
    "root": (0, 0, [0], "/root"),
    "web": (33, 34, [4, 34], "/var/www"),
    "33": (33, 34, [4, 34], "/var/www"),
    "web:staff": (33, 50, [50], "/var/www"),
    "web:1234": (33, 1234, [1234], "/var/www"),
    "1000": (1000, 0, [0], "/"),
    "1000:1000": (1000, 1000, [1000], "/"),
    "1000:web": (1000, 34, [34], "/"),
    "bare": (7, 8, [8], "/"),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("by", ["image", "cage"])
def test_users_are_numbers_by_the_images_own_files(tmp_path: Path, user: str, by: str) -> None:
    uid, gid, groups, home = USERS[user]
    config = {"Cmd": ["/a"], "User": user if by == "image" else "nobody"}
    made = Run(tmp_path, ETC, config=config, app={"user": user if by == "cage" else None})
    found = {key: made.settings[key] for key in ("uid", "gid", "groups")}
    assert found == {"uid": uid, "gid": gid, "groups": groups}
    assert made.settings["env"][0] == f"HOME={home}"


@pytest.mark.parametrize("user", ["nobody", "web:nobody", "nobody:web", "2147483648"])
def test_a_user_that_the_image_does_not_have_is_refused(tmp_path: Path, user: str) -> None:
    with pytest.raises(ImageError) as caught:
        Run(tmp_path, ETC, config={"Cmd": ["/a"], "User": user})
    assert caught.value.hint


def test_files_of_users_are_those_of_the_topmost_layer(tmp_path: Path) -> None:
    upper = archive(regular("etc/passwd", b"web:x:99:98::/w:/bin/sh\n"))
    made = Run(tmp_path, ETC, upper, config={"Cmd": ["/a"], "User": "web"})
    assert (made.settings["uid"], made.settings["gid"]) == (99, 98)


# working directory


def directories(made: Run) -> list[str]:
    """What is made for the working directory."""
    for member in made.members:
        if member.isdir():
            assert (member.mode, member.uid, member.gid) == (0o755, 0, 0)
    return [member.name for member in made.members if member.isdir()]


WORKDIRS: dict[str, tuple[list[Item], str | None, list[str], str]] = {
    "none": ([], None, [], "/"),
    "the root": ([], "/", [], "/"),
    "one that is there": ([directory("srv")], "/srv", [], "/srv"),
    "one that is not there": ([], "/srv/app", ["srv", "srv/app"], "/srv/app"),
    "partly there": ([directory("srv")], "/srv/a/b", ["srv/a", "srv/a/b"], "/srv/a/b"),
    "behind an absolute symlink": (
        [directory("data"), symlink("srv", "/data")],
        "/srv/app",
        ["data/app"],
        "/srv/app",
    ),
    "behind a relative symlink": (
        [directory("var"), directory("var/lib"), symlink("var/app", "lib")],
        "/var/app/x",
        ["var/lib/x"],
        "/var/app/x",
    ),
    "behind a symlink to what is not there": (
        [symlink("srv", "data/new")],
        "/srv",
        ["data", "data/new"],
        "/srv",
    ),
    "behind a symlink that climbs out": (
        [symlink("srv", "../../../data")],
        "/srv/x",
        ["data", "data/x"],
        "/srv/x",
    ),
}


@pytest.mark.parametrize("what", WORKDIRS)
def test_a_missing_working_directory_is_made(tmp_path: Path, what: str) -> None:
    items, workdir, made_there, expected = WORKDIRS[what]
    app = {"workdir": workdir, "command": ["/a"]}
    made = Run(tmp_path, archive(*items), app=app)
    assert directories(made) == made_there
    assert made.settings["workdir"] == expected
    assert made.run.get("WorkingDir") == workdir


@pytest.mark.parametrize("workdir", ["/file", "/file/below", "/link", "/link/below"])
def test_a_working_directory_that_is_a_file_is_refused(tmp_path: Path, workdir: str) -> None:
    layer = archive(regular("file"), symlink("link", "file"))
    with pytest.raises(ImageError, match="is not a directory"):
        Run(tmp_path, layer, app={"workdir": workdir, "command": ["/a"]})


def test_a_working_directory_in_a_loop_is_refused(tmp_path: Path) -> None:
    layer = archive(symlink("a", "b"), symlink("b", "a"))
    with pytest.raises(ImageError, match="loop of symlinks"):
        Run(tmp_path, layer, app={"workdir": "/a", "command": ["/a"]})


def test_a_relative_working_directory_of_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not absolute"):
        Run(tmp_path, config={"Cmd": ["/a"], "WorkingDir": "srv"})


# what cannot be


@pytest.mark.parametrize(
    "item", [directory("cage"), regular("cage"), symlink("cage", "/elsewhere"), regular("cage/x")]
)
def test_an_image_with_a_cage_of_its_own_is_refused_with_the_runtime_only(
    tmp_path: Path, item: Item
) -> None:
    with pytest.raises(ImageError, match="/cage of its own"):
        Run(tmp_path, archive(item), app={"command": ["/a"]})
    made = Run(tmp_path / "plain", archive(item), app={"command": ["/a"]}, runtime=False)
    assert made.names == []


def test_an_upper_layer_may_take_the_cage_away(tmp_path: Path) -> None:
    made = Run(
        tmp_path,
        archive(directory("cage")),
        archive(regular(".wh.cage")),
        app={"command": ["/a"]},
    )
    assert made.names == ["cage/etc/cage.json"]


@pytest.mark.parametrize("user", ["1", "web", "0:5", "root:web"])
def test_without_the_runtime_another_user_is_refused(tmp_path: Path, user: str) -> None:
    with pytest.raises(ImageError, match="everything runs as root"):
        Run(tmp_path, app={"user": user, "command": ["/a"]}, runtime=False)


@pytest.mark.parametrize("user", ["", "0", "root", "0:0", "root:root"])
def test_without_the_runtime_root_may_be_named(tmp_path: Path, user: str) -> None:
    assert Run(tmp_path, app={"user": user, "command": ["/a"]}, runtime=False).run["Cmd"] == ["/a"]


def test_without_the_runtime_another_working_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="without the runtime it is /"):
        Run(tmp_path, app={"workdir": "/srv", "command": ["/a"]}, runtime=False)
    root = Run(tmp_path / "root", app={"workdir": "/", "command": ["/a"]}, runtime=False)
    assert root.run["Cmd"] == ["/a"]


@pytest.mark.parametrize(("of", "enclave"), [("arm64", "x86_64"), ("amd64", "aarch64")])
def test_a_base_for_another_processor_is_refused(tmp_path: Path, of: str, enclave: str) -> None:
    with pytest.raises(ImageError, match=f"the base image is for {of}"):
        Run(
            tmp_path,
            config={"Cmd": ["/a"]},
            base={"architecture": of},
            architecture=enclave,
        )


def test_a_base_from_scratch_is_for_the_enclaves_processor(tmp_path: Path) -> None:
    made = Run(tmp_path, app={"command": ["/a"]}, architecture="aarch64")
    assert (made.config["architecture"], made.config["os"]) == ("arm64", "linux")


def test_the_finished_config_has_nothing_of_the_bases_layers_and_times(tmp_path: Path) -> None:
    base = {
        "created": "2020-01-01T00:00:00Z",
        "history": [{"created_by": "someone"}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'1' * 64}"]},
        "container_config": {"Hostname": "builder"},
    }
    made = Run(tmp_path, config={"Cmd": ["/a"], "Labels": {"a": "b"}}, base=base)
    assert made.config["created"] == "1970-01-01T00:00:05Z"
    assert made.config["rootfs"]["diff_ids"] == []
    assert made.run["Labels"] == {"a": "b"}
    assert "builder" not in str(made.config)


def test_settings_are_not_writable_and_the_same_twice(tmp_path: Path) -> None:
    for name in ("1", "2"):
        Run(tmp_path / name, ETC, config={"Cmd": ["/a"], "User": "web"})
    first, second = (
        [(tmp_path / name / "out" / file).read_bytes() for file in ("config.json", "settings.tar")]
        for name in ("1", "2")
    )
    assert first == second
    (member,) = Run(tmp_path / "3", app={"command": ["/a"]}).members
    assert (member.mode, member.uid, member.gid) == (0o644, 0, 0)

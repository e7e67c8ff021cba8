"""Image configs: null is not an empty list, types are strict, output depends on nothing else."""

from __future__ import annotations

import json

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import ImageError
from cagebuild.image.config import Healthcheck, ImageConfig, parse_config, rfc3339

_BASE: dict[str, object] = {
    "architecture": "amd64",
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": []},
}


def _parse(**run: object) -> ImageConfig:
    return parse_config(json.dumps({**_BASE, "config": run}).encode(), "config")


def test_everything() -> None:
    digest = "sha256:" + "a" * 64
    document = {
        "architecture": "arm64",
        "variant": "v8",
        "os": "linux",
        "author": "someone",
        "config": {
            "Env": ["PATH=/bin", "A=b=c", "É=ü"],
            "Entrypoint": ["/app"],
            "Cmd": ["--x", ""],
            "User": "app:1",
            "WorkingDir": "/srv",
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD", "/check"], "Interval": 5, "Retries": 3},
            "Labels": {"b": "2", "a": "1"},
        },
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    config = parse_config(json.dumps(document).encode(), "config")
    assert config == ImageConfig(
        architecture="arm64",
        variant="v8",
        os="linux",
        env=("PATH=/bin", "A=b=c", "É=ü"),
        entrypoint=("/app",),
        cmd=("--x", ""),
        user="app:1",
        workdir="/srv",
        exposed_ports=("443/tcp", "80/tcp"),
        volumes=("/data",),
        stop_signal="SIGINT",
        healthcheck=Healthcheck(test=("CMD", "/check"), interval=5, retries=3),
        labels={"a": "1", "b": "2"},
        diff_ids=(Digest.parse(digest),),
    )
    assert config.raw == document
    assert config.argv() == ("/app", "--x", "")


@pytest.mark.parametrize(
    "run", [{}, {"Cmd": None, "Entrypoint": None, "Env": None, "Labels": None}]
)
def test_null_and_missing_are_none(run: dict[str, object]) -> None:
    config = _parse(**run)
    assert (config.cmd, config.entrypoint, config.env, config.labels) == (None, None, (), {})


def test_an_empty_list_is_not_none() -> None:
    config = _parse(Cmd=[], Entrypoint=[])
    assert (config.cmd, config.entrypoint, config.argv()) == ((), (), ())


def test_one_string_is_a_list_of_one_as_docker_reads_it() -> None:
    assert _parse(Cmd="echo a b").cmd == ("echo a b",)


def test_no_config_at_all() -> None:
    assert parse_config(json.dumps(_BASE).encode(), "config").cmd is None


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"Cmd": {}}, r"config.Cmd must be a list"),
        ({"Cmd": [1]}, r"config.Cmd\[0\] must be a string"),
        ({"Cmd": ["a", None]}, r"config.Cmd\[1\] must be a string"),
        ({"Cmd": ["a\0b"]}, r"config.Cmd\[0\] has a NUL"),
        ({"Env": ["\ud800"]}, r"config.Env\[0\] has text that is not Unicode"),
        ({"Env": "A=b"}, "config.Env must be a list"),
        ({"Env": {"A": "b"}}, "config.Env must be a list"),
        ({"User": 0}, "config.User must be a string"),
        ({"ExposedPorts": ["80"]}, "config.ExposedPorts must be an object"),
        ({"Labels": {"a": 1}}, "config.Labels.a must be a string"),
        ({"Healthcheck": []}, "config.Healthcheck must be an object"),
        ({"Healthcheck": {"Retries": -1}}, "config.Healthcheck.Retries must be a whole number"),
        ({"Healthcheck": {"Retries": 1.0}}, "config.Healthcheck.Retries must be a whole number"),
        ({"Healthcheck": {"Test": "x"}}, "config.Healthcheck.Test must be a list"),
    ],
)
def test_wrong_types(run: dict[str, object], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        _parse(**run)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": None}, "architecture must be a string"),
        ({"architecture": "x" * 100_000}, "architecture must be a word"),
        ({"os": 1}, "os must be a string"),
        ({"os": "\x1b[2J"}, "os must be a word"),
        ({"variant": ["v8"]}, "variant must be a string"),
        ({"config": []}, "config must be an object"),
        ({"rootfs": None}, "rootfs must be an object"),
        ({"rootfs": {"type": "other"}}, "rootfs.type"),
        ({"rootfs": {"type": "layers", "diff_ids": 7}}, "diff_ids must be a list"),
        ({"rootfs": {"type": "layers", "diff_ids": ["x"]}}, "must be a digest, not 'x'"),
        (
            {"rootfs": {"type": "layers", "diff_ids": ["sha512:" + "a" * 128]}},
            "must be a sha256 digest",
        ),
        ({"rootfs": {"type": "layers", "diff_ids": ["x"] * 1001}}, "1001 entries"),
    ],
)
def test_wrong_documents(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        parse_config(json.dumps({**_BASE, **change}).encode(), "config")


def test_output_can_be_read_back_and_depends_on_nothing_else() -> None:
    config = _parse(Cmd=[], Env=["B=1", "A=2"], Labels={"b": "1", "a": "2"}, User="1:1")
    other = _parse(User="1:1", Labels={"a": "2", "b": "1"}, Env=["B=1", "A=2"], Cmd=[])
    data = config.to_json(created=86400)
    assert data == other.to_json(created=86400)
    assert parse_config(data, "again") == config
    assert json.loads(data)["created"] == "1970-01-02T00:00:00Z"
    assert "Entrypoint" not in json.loads(data)["config"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (253402300799, "9999-12-31T23:59:59Z"),
        (-62135596800, "0001-01-01T00:00:00Z"),
    ],
)
def test_times(seconds: int, text: str) -> None:
    assert rfc3339(seconds) == text


@pytest.mark.parametrize("seconds", [253402300800, -62135596801, 1 << 70])
def test_times_that_rfc_3339_has_not(seconds: int) -> None:
    with pytest.raises(ImageError, match="can't be created"):
        rfc3339(seconds)

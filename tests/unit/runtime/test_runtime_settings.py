"""cage.json: what is written, and that schema, writer and the Go reader mean the same format.

The cases in runtime/internal/settings/testdata are those that the Go reader is tested with.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cagebuild import schema
from cagebuild.config import steering
from cagebuild.config.ports import RESERVED
from cagebuild.errors import ImageError
from cagebuild.runtime import settings

CASES = Path(__file__).parents[3] / "runtime/internal/settings/testdata"
BEYOND_THE_SCHEMA = {
    # A schema compares no values but those of one list.
    "port_twice",
    "secrets_env_in_env",
}
LEAST: dict[str, Any] = {
    "name": "pay",
    "argv": ["/app"],
    "uid": 1000,
    "gid": 1000,
    "groups": [],
    "env": ["PATH=/bin"],
    "workdir": "/",
    "ingress": [],
    "egress": [],
    "secrets": {"env": [], "files": []},
    "logs": False,
    "epoch": 0,
}


def cases(kind: str) -> list[Path]:
    found = sorted((CASES / kind).glob("*.json"))
    assert found
    return found


def of_schema(path: Path) -> bool:
    """Whether a schema can tell: some mistakes are in the bytes, not in what they mean."""
    return not path.stem.startswith("text_") and path.stem not in BEYOND_THE_SCHEMA


@pytest.mark.parametrize("path", cases("valid"), ids=lambda path: path.stem)
def test_the_schema_takes_what_the_reader_takes(path: Path) -> None:
    assert schema.first_mistake("settings", json.loads(path.read_bytes())) is None


@pytest.mark.parametrize(
    "path", [path for path in cases("invalid") if of_schema(path)], ids=lambda path: path.stem
)
def test_the_schema_refuses_what_the_reader_refuses(path: Path) -> None:
    assert schema.first_mistake("settings", json.loads(path.read_bytes())) is not None


@pytest.mark.parametrize("path", cases("valid"), ids=lambda path: path.stem)
def test_the_writer_writes_the_cases_of_the_reader(path: Path) -> None:
    values = json.loads(path.read_bytes())
    assert values.pop("version") == 2
    assert settings(**values) == path.read_bytes()


def test_the_schema_describes_every_key() -> None:
    def check(part: dict[str, Any]) -> None:
        for name, value in part.get("properties", {}).items():
            assert value.get("description"), name
            check(value)
            check(value.get("items", {}))

    document = json.loads(schema.raw("settings"))
    check(document)
    assert set(document["required"]) == set(document["properties"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Pay"}, "no host name"),
        ({"name": "a\n"}, "no host name"),
        ({"name": "a" * 64}, "no host name"),
        ({"argv": []}, "names no program"),
        ({"argv": ["", "x"]}, "names no program"),
        ({"argv": ["/app", "a\0"]}, "command: 'a\\x00' holds a NUL"),
        ({"argv": ["/app", "\udcff"]}, "command: '\\udcff' is not valid Unicode"),
        ({"env": ["PATH"]}, "environment: 'PATH' is not NAME=value"),
        ({"env": ["=x"]}, "environment: '=x' is not NAME=value"),
        ({"env": ["A=\0"]}, "environment: 'A=\\x00' holds a NUL"),
        ({"workdir": "srv"}, "working directory: 'srv' is not absolute"),
        ({"workdir": ""}, "working directory: '' is not absolute"),
        ({"uid": -1}, "user or group -1"),
        ({"gid": 2**32 - 1}, "user or group 4294967295"),
        ({"groups": [0, 2**32]}, "user or group 4294967296"),
        (
            {"env": ["A=1", "TOKEN=x"], "secrets": {"env": ["KEY", "TOKEN"], "files": []}},
            "secrets.env: the image's environment has TOKEN already",
        ),
        ({"env": ["A=b"] * 65537}, "more than 65536 items"),
        ({"argv": ["x" * (5 << 20)]}, "more than 4194304"),
    ],
)
def test_what_the_guest_would_refuse_is_not_written(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=re.escape(message)):
        settings(**{**LEAST, **change})


def test_one_list_says_what_no_secret_may_be_called() -> None:
    """The reader's, the schema's and that of the checks of cage.toml."""
    prefixes, names = json.loads(schema.raw("settings"))["$defs"]["steering"]["anyOf"]
    assert sorted(names["enum"]) == sorted(steering.NAMES)
    assert prefixes["pattern"] == f"^({'|'.join(steering.PREFIXES)})"
    code = (CASES.parent / "secrets.go").read_text()
    block = code.partition("steeringPrefixes")[2].partition("\n)\n")[0]
    assert sorted(re.findall(r'"(\w+)"', block)) == sorted((*steering.NAMES, *steering.PREFIXES))


def test_the_schema_refuses_the_ports_that_cage_toml_cannot_have() -> None:
    items = json.loads(schema.raw("settings"))["properties"]["ingress"]["items"]
    assert items["properties"]["port"]["not"]["enum"] == sorted(RESERVED)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
    argv=st.lists(TEXT, min_size=1).filter(lambda argv: bool(argv[0])),
    env=st.lists(st.builds("{}={}".format, st.from_regex(r"[^=\0]+", fullmatch=True), TEXT)),
    groups=st.lists(st.integers(0, 2**32 - 2)),
    workdir=TEXT.map("/{}".format),
    secrets=st.fixed_dictionaries(
        {
            "env": st.lists(st.from_regex(r"_SECRET_[A-Z0-9_]*", fullmatch=True), unique=True),
            "files": st.lists(
                st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), unique=True
            ),
        }
    ),
    logs=st.booleans(),
    epoch=st.integers(0, 2**32 - 1),
)
def test_whatever_is_written_follows_the_schema_and_reads_back(**change: Any) -> None:
    change["env"] = [
        text for text in change["env"] if text.isprintable() and not text.startswith("_SECRET_")
    ]
    data = settings(**{**LEAST, **change})
    document = json.loads(data)
    assert schema.first_mistake("settings", document) is None
    assert document == {"version": 2, **LEAST, **change}
    assert data == settings(**{**LEAST, **change})

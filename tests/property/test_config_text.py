"""Any valid configuration, written as TOML in any of its ways, loads as what it says."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import string
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import tomlkit
from hypothesis import assume, given
from hypothesis import strategies as st

from cagebuild import config
from cagebuild.config.egress import RuleError, parse_rule
from cagebuild.config.model import Cage, EgressRule
from cagebuild.config.steering import steers
from cagebuild.digest import Digest
from cagebuild.errors import ConfigError
from tests.support.config import INSTALLER

TEXT = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=20)
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
COMPONENTS = st.text(string.ascii_letters + "_- é", min_size=1, max_size=8)
RELATIVE = st.lists(COMPONENTS, min_size=1, max_size=3).map("/".join)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
TOP = st.sampled_from(["com", "example", "x", "xn--p1ai"])
HOSTS = st.lists(LABELS, min_size=1, max_size=3).flatmap(
    lambda labels: TOP.map(lambda top: ".".join([*labels, top]))
)
RULES = st.builds("{}{}:{}".format, st.sampled_from(["", "*."]), HOSTS, st.integers(1, 65535))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Valid documents of a cage."""
    may = st.booleans()
    document: dict[str, Any] = {"cage": {"name": draw(LABELS)}, "base": {"scratch": True}}
    document["app"] = {"command": draw(st.lists(TEXT, max_size=3).map(lambda w: ["x", *w]))}
    if draw(may):
        document["app"]["env"] = draw(st.dictionaries(NAMES, TEXT, max_size=4))
    destinations = draw(st.lists(RELATIVE, max_size=3, unique=True))
    document["app"]["files"] = [
        {"source": draw(RELATIVE), "destination": f"/srv/{path}", "mode": draw(MODES)}
        for path in destinations
    ]
    document["runtime"] = {"installer": INSTALLER}
    document["egress"] = {"allow": draw(st.lists(RULES, max_size=4, unique=True))}
    leaving = {parse_rule(text).port for text in document["egress"]["allow"]}
    ports = st.integers(1024, 8999).filter(lambda port: port not in leaving)
    document["ingress"] = [
        {"port": port, **draw(WAYS)} for port in draw(st.lists(ports, max_size=3, unique=True))
    ]
    if draw(may):
        given = document["app"].get("env", {})
        free = NAMES.filter(lambda name: name not in given and not steers(name))
        document["secrets"] = {
            "env": draw(st.lists(free, max_size=3, unique=True)),
            "files": draw(st.lists(SECRET_FILES, max_size=3, unique=True)),
        }
        document["logs"] = {"forward": draw(may)}
    if draw(may):
        time = draw(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2106, 1, 1)))  # noqa: DTZ001
        stamp = time.replace(microsecond=0, tzinfo=dt.UTC)
        document["epoch"] = {"policy": "fixed", "time": stamp}
    if draw(may):
        document["enclave"] = {"memory": draw(st.integers(64, 1 << 20)), "cpus": 4}
    return document


SECRET_FILES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
WAYS = st.one_of(
    st.fixed_dictionaries(
        {}, optional={"tls": st.just("passthrough"), "proxy_protocol": st.booleans()}
    ),
    st.fixed_dictionaries(
        {"tls": st.just("terminate")},
        optional={
            "protocol": st.sampled_from(["http", "h2c", "tcp"]),
            "proxy_protocol": st.booleans(),
        },
    ),
)
MODES = st.sampled_from(["0644", "755", "4755"])


def loaded(text: str) -> Cage:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        (root / ".git").mkdir()
        (root / "c").mkdir()
        (root / "c/cage.toml").write_bytes(text.encode())
        return config.load(root / "c/cage.toml", config.load_workspace(root))


def inline(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + "".join(f"  {inline(item)}, # item\n" for item in value) + "]"
    if isinstance(value, str):
        return quoted(value)
    return value.isoformat() if isinstance(value, dt.datetime) else json.dumps(value)


def quoted(value: str) -> str:
    escaped = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
    return '"' + "".join(escaped) + '"'


@given(documents())
def test_a_valid_document_loads_as_what_it_says(document: dict[str, Any]) -> None:
    allow = document["egress"]["allow"]
    assume(len({parse_rule(text) for text in allow}) == len(allow))
    cage = loaded(tomlkit.dumps(document))
    assert cage.name == document["cage"]["name"]
    assert cage.app.command == tuple(document["app"]["command"])
    assert dict(cage.app.env) == document["app"].get("env", {})
    assert list(cage.app.env) == sorted(cage.app.env)
    for made, file in zip(cage.app.files, document["app"]["files"], strict=True):
        assert made.source == cage.folder / file["source"]
        assert made.destination == PurePosixPath(file["destination"])
        assert made.mode == int(file["mode"], 8)
    said = {way["port"]: way for way in document["ingress"]}
    assert sorted(said) == [way.port for way in cage.ingress]
    for way in cage.ingress:
        terminated = said[way.port].get("tls") == "terminate"
        assert way.protocol == (said[way.port].get("protocol", "http") if terminated else "tcp")
        assert way.proxy_protocol is said[way.port].get("proxy_protocol", False)
    secrets = document.get("secrets", {"env": [], "files": []})
    assert list(cage.secrets.env) == sorted(secrets["env"])
    assert list(cage.secrets.files) == sorted(secrets["files"])
    assert cage.logs is document.get("logs", {}).get("forward", False)
    assert {f"{rule.host}:{rule.port}" for rule in cage.egress} == set(allow)
    if "epoch" in document:
        assert cage.epoch.time == document["epoch"]["time"].timestamp()
    assert cage.runtime is not None
    assert cage.runtime.installer == Digest.parse(INSTALLER)


@given(documents(), st.randoms(use_true_random=False))
def test_how_it_is_written_changes_nothing(document: dict[str, Any], random: Any) -> None:
    allow = document["egress"]["allow"]
    assume(len({parse_rule(text) for text in allow}) == len(allow))
    first = loaded(tomlkit.dumps(document))
    sections = list(document.items())
    random.shuffle(sections)
    second = loaded("".join(f"{key} = {inline(value)}\n" for key, value in sections))
    assert second.checksum == first.checksum


@given(st.text(st.sampled_from([*string.printable, "é", "\u2028"]), max_size=60))
def test_any_text_is_a_cage_or_a_mistake(text: str) -> None:
    with contextlib.suppress(ConfigError):
        loaded(text)


@given(HOSTS, st.integers(1, 65535), st.booleans(), st.booleans())
def test_a_rule_says_what_it_was_read_from(
    host: str, port: int, wildcard: bool, dotted: bool
) -> None:
    name = f"*.{host}" if wildcard else host
    rule = parse_rule(f"{name.upper()}{'.' * dotted}:{port}")
    assert rule == EgressRule(host=name, port=port)
    assert parse_rule(f"{rule.host}:{rule.port}") == rule


@given(st.integers(1, 32), st.binary(min_size=4, max_size=4), st.integers(1, 65535))
def test_networks_are_canonical_or_refused(prefix: int, raw: bytes, port: int) -> None:
    address = ".".join(map(str, raw))
    try:
        rule = parse_rule(f"{address}/{prefix}:{port}")
    except RuleError:
        return
    bits = int.from_bytes(raw, "big")
    assert bits & ((1 << (32 - prefix)) - 1) == 0
    assert rule == EgressRule(host=f"{address}/{prefix}", port=port)
    assert raw[0] not in {127, 224, 239}


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except RuleError:
        return
    host = f"[{rule.host.partition('/')[0]}]" if ":" in rule.host else rule.host
    slash = f"/{rule.host.partition('/')[2]}" if ":" in rule.host and "/" in rule.host else ""
    assert parse_rule(f"{host}{slash}:{rule.port}") == rule

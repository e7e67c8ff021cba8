"""Which flags an instruction takes, and what may be their values.

Source: moby/buildkit, frontend/dockerfile/instructions: bflag.go, parse.go, commands_run*.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from cagebuild.dockerfile import splitting
from cagebuild.dockerfile.model import Origin
from cagebuild.dockerfile.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from cagebuild.dockerfile.model import Span
    from cagebuild.dockerfile.splitting import Mapped

    Say = Callable[[str, str, Mapped], None]
    """Notes a mistake: what it is, the cure, and where it stands."""

_Kind = Literal["text", "texts", "switch"]

_KNOWN: dict[str, dict[str, _Kind]] = {
    "FROM": {"platform": "text"},
    "RUN": {"mount": "texts", "network": "text", "security": "text", "device": "texts"},
    "COPY": {
        "from": "text",
        "chown": "text",
        "chmod": "text",
        "link": "switch",
        "parents": "switch",
        "exclude": "texts",
    },
    "ADD": {
        "chown": "text",
        "chmod": "text",
        "checksum": "text",
        "link": "switch",
        "keep-git-dir": "switch",
        "unpack": "switch",
        "exclude": "texts",
    },
    "HEALTHCHECK": {
        "interval": "text",
        "timeout": "text",
        "start-period": "text",
        "start-interval": "text",
        "retries": "text",
    },
}
_VALUES = {
    ("RUN", "network"): {"default", "none", "host"},
    ("RUN", "security"): {"sandbox", "insecure"},
}
_MOUNT_TYPES = {"bind", "cache", "tmpfs", "secret", "ssh"}
_MOUNT_KEYS = frozenset(
    [
        "type",
        "from",
        "source",
        "src",
        "target",
        "dst",
        "destination",
        "readonly",
        "ro",
        "readwrite",
        "rw",
        "required",
        "size",
        "id",
        "sharing",
        "mode",
        "uid",
        "gid",
        "env",
    ]
)
_MOUNT_SWITCHES = frozenset({"readonly", "ro", "readwrite", "rw", "required"})

_DURATION = re.compile(r"[-+]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+|[-+]?0")
_PART = re.compile(r"([0-9.]+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def check(keyword: str, given: list[Mapped], say: Say) -> tuple[tuple[str, str], ...]:
    """Names and values of the flags of an instruction; what is wrong with them is said."""
    known = _KNOWN.get(keyword, {})
    found: list[tuple[str, str]] = []
    for flag in given:
        name, equals, value = flag.text[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            say(f"{keyword} has no flag --{name[:40]}", _instead(keyword, name), flag)
            continue
        wrong = _wrong(keyword, name, kind, value if equals else None)
        if not flag.text.isascii():
            wrong = "holds other characters than ASCII, which BuildKit garbles"
        if kind != "texts" and any(name == earlier for earlier, _ in found):
            wrong = "is given twice"
        if wrong:
            say(f"--{name} {wrong}", "", flag)
        found.append((name, value.lower() if kind == "switch" else value))
    return tuple(found)


def _instead(keyword: str, name: str) -> str:
    near = did_you_mean(name, _KNOWN.get(keyword, {}))
    if near:
        return near
    others = sorted(other for other, flags in _KNOWN.items() if name in flags)
    return f"it is a flag of {' and '.join(others)}" if others else ""


def _wrong(keyword: str, name: str, kind: _Kind, value: str | None) -> str:
    if kind == "switch":
        fine = value is None or value.lower() in {"true", "false"}
        return "" if fine else "is followed by something else than true or false"
    if value is None:
        return f"needs a value: --{name}=…"
    allowed = _VALUES.get((keyword, name))
    if allowed and value not in allowed:
        return f"has to be one of {', '.join(sorted(allowed))}"
    if keyword == "HEALTHCHECK":
        return _wrong_health(name, value)
    return ""


def _wrong_health(name: str, value: str) -> str:
    if not value:
        return ""
    if name == "retries":
        fine = re.fullmatch(r"\+?[0-9]{1,9}", value)
        return "" if fine else "has to be a number from 0"
    try:
        length = duration(value)
    except ValueError:
        return "has to be a duration like 30s or 1m30s"
    return "cannot be less than 1ms" if length and length < 10**6 else ""


def duration(text: str) -> int:
    """``1m30s`` in nanoseconds, as Go's time.ParseDuration reads it; raises ValueError."""
    if len(text) > 100 or not _DURATION.fullmatch(text):
        raise ValueError(f"not a duration: {text[:100]!r}")
    total = 0
    for number, unit in _PART.findall(text):
        whole, _, fraction = number.partition(".")
        total += int(whole or 0) * _UNITS[unit]
        total += int(fraction or 0) * _UNITS[unit] // 10 ** len(fraction)
    return -total if text.startswith("-") else total


def mount(value: str) -> dict[str, str]:
    """The options of ``--mount=``: the last value of each, empty for a bare ``ro``.

    Of a value that ``origins`` found no fault with. Keys are in lower case; ``type`` is always
    there.
    """
    options = {"type": "bind"}
    for field in splitting.fields(splitting.Mapped(value, tuple(range(len(value))))):
        name, _, text = field.text.partition("=")
        options[name.lower()] = text
    return options


def origins(
    keyword: str, given: list[Mapped], span_of: Callable[[int, int], Span], say: Say
) -> tuple[Origin, ...]:
    """What ``--from=`` and ``from=`` name."""
    found: list[Origin] = []
    for flag in given:
        name, equals, _ = flag.text[2:].partition("=")
        value = flag.part(len(name) + 3)
        named: list[Mapped] = []
        if keyword == "COPY" and name == "from" and equals:
            named = [value] if value.text else []
        elif keyword == "RUN" and name == "mount" and equals:
            named = _mount_origins(value, say)
        for part in named:
            if "$" in part.text.rstrip("$"):
                say(
                    f"variables are not expanded in from={part.text[:100]}",
                    "name the image in a stage of its own (FROM takes variables), then the stage",
                    part,
                )
            elif part.whole is None:
                say(f"quotes or escapes inside of from={part.text[:100]}", "write it without", part)
            else:
                found.append(Origin(name=part.text, span=span_of(*part.whole)))
    return tuple(found)


def _mount_origins(value: Mapped, say: Say) -> list[Mapped]:
    try:
        fields = splitting.fields(value)
    except splitting.FieldError as error:
        say(f"--mount={value.text[:100]}: {error}", "write --mount=type=…,target=…", value)
        return []
    named: list[Mapped] = []
    options: dict[str, str] = {"type": "bind"}
    for field in fields:
        name, equals, text = field.text.partition("=")
        key = name.lower()
        if key not in _MOUNT_KEYS:
            say(f"a mount has no option '{name[:40]}'", did_you_mean(key, _MOUNT_KEYS), field)
        elif not equals and key not in _MOUNT_SWITCHES:
            say(f"the option '{key}' of a mount needs a value", f"write {key}=…", field)
        elif key == "from":
            named = [field.part(len(name) + 1)] if text else []
        options[key] = text
    kind = options["type"].lower()
    if "$" not in kind and kind not in _MOUNT_TYPES:
        say(f"no type of mount: '{kind[:40]}'", did_you_mean(kind, _MOUNT_TYPES), value)
    if kind == "secret" and named:
        say("a mount of a secret has no from=", "", value)
    return named

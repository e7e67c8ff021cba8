"""Checks of single sections, in a cage or in the workspace's defaults.

``at`` is the section's path. Values that the schema refused are None.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from cagebuild.config import globs, keys
from cagebuild.config.egress import RuleError, parse_rule
from cagebuild.config.model import EgressRule
from cagebuild.config.problems import Problem, quoted
from cagebuild.config.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cagebuild.config.positions import Path

_LEAST_MIB = 64
_MOST_MIB = 32 << 20


def alone(sections: dict[str, Any], at: Path) -> Iterator[Problem]:
    """What is wrong with sections, each looked at by itself."""
    for name, check in _CHECKS.items():
        section = sections.get(name)
        if isinstance(section, dict):
            yield from check(section, (*at, name))


def _debian(section: dict[str, Any], at: Path) -> Iterator[Problem]:
    debian = section.get("debian")
    if not debian:
        return
    at = (*at, "debian")
    for key in ("packages", "components", "updates"):
        yield from _twice(debian.get(key), (*at, key))
    for key, names in (("suite", [debian.get("suite")]), ("updates", debian.get("updates") or [])):
        for index, name in enumerate(names):
            if name and ".." in name:
                where = (*at, key) if key == "suite" else (*at, key, index)
                yield Problem(path=where, message="has a '..'")
    snapshot = debian.get("snapshot")
    if snapshot is not None:
        try:
            dt.datetime.strptime(snapshot, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        except ValueError:
            yield Problem(path=(*at, "snapshot"), message="there is no such time")


def _twice(items: list[Any] | None, at: Path) -> Iterator[Problem]:
    seen: dict[Any, int] = {}
    for index, item in enumerate(items or ()):
        if item is not None and seen.setdefault(item, index) != index:
            yield Problem(path=(*at, index), message=f"{quoted(item)} is listed twice")


def _egress(section: dict[str, Any], at: Path) -> Iterator[Problem]:
    seen: dict[EgressRule, int] = {}
    for index, text in enumerate(section.get("allow") or ()):
        if text is None:
            continue
        where = (*at, "allow", index)
        try:
            rule = parse_rule(text)
        except RuleError as error:
            yield Problem(path=where, message=error.message, hint=error.hint)
            continue
        if seen.setdefault(rule, index) != index:
            message = f"the same as allow[{seen[rule]}]"
            yield Problem(path=where, message=message, hint="leave one out")


def _epoch(section: dict[str, Any], at: Path) -> Iterator[Problem]:
    policy = section.get("policy", keys.default("epoch", "policy"))
    if policy is None:
        return
    if policy == "fixed" and "time" not in section:
        yield Problem(
            path=(*at, "time"),
            at="key",
            message="missing: the policy 'fixed' needs a time",
            hint="such as time = 2026-01-01T00:00:00Z",
        )
    if policy != "fixed" and "time" in section:
        hint = 'policy = "fixed", or leave out the time'
        yield Problem(
            path=(*at, "time"), at="key", message=f"has no use with '{policy}'", hint=hint
        )
    elif isinstance(section.get("time"), str):
        try:
            seconds(section["time"])
        except ValueError as error:
            yield Problem(path=(*at, "time"), message=str(error))


def _enclave(section: dict[str, Any], at: Path) -> Iterator[Problem]:
    memory = section.get("memory")
    if isinstance(memory, str) and mebibytes(memory) < _LEAST_MIB:
        message = f"{memory} is less than an enclave's least, {_LEAST_MIB}MiB"
        yield Problem(path=(*at, "memory"), message=message)
    elif isinstance(memory, str) and mebibytes(memory) > _MOST_MIB:
        yield Problem(path=(*at, "memory"), message=f"{memory} is more than 32 TiB")


def _signing(section: dict[str, Any], at: Path) -> Iterator[Problem]:
    for key, other in (("certificate", "key"), ("key", "certificate")):
        if key not in section:
            message = f"missing: a {other} signs nothing without its {key}"
            yield Problem(path=(*at, key), at="key", message=message)


_CHECKS: dict[str, Callable[[dict[str, Any], Path], Iterator[Problem]]] = {
    "base": _debian,
    "egress": _egress,
    "epoch": _epoch,
    "enclave": _enclave,
    "signing": _signing,
}


def patterns(patterns: list[Any] | None, at: Path) -> Iterator[Problem]:
    """What is wrong with a list of path patterns."""
    for index, pattern in enumerate(patterns or ()):
        if pattern is None:
            continue
        try:
            globs.compiled(pattern)
        except globs.PatternError as error:
            yield Problem(path=(*at, index), message=f"{quoted(pattern)} {error}")

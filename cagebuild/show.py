"""What a person reads on standard output: results, locks, plans. Progress is in ``report``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from cagebuild.report import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cagebuild.config.model import Cage
    from cagebuild.explain import Difference
    from cagebuild.lock import Lock
    from cagebuild.nitrocli.opinion import Opinion
    from cagebuild.results import Result
    from cagebuild.session import Session

_SHOWN = 5
_SHOWN_MISTAKES = 20


def json_document(document: object) -> None:
    """Print a document as JSON."""
    print(json.dumps(document, indent=2))


def warn(text: str) -> None:
    """Print a warning to standard error."""
    print(f"warning: {printable(text)}", file=sys.stderr)


def sources(session: Session, chosen: Sequence[Cage]) -> None:
    """Warn of files beside those that are added, and of those that are missing."""
    session.load_sources(chosen)
    for cage in chosen:
        found = session.app_sources(cage)
        left_out = "are not added, because git does not track them: git add, or exclude them"
        _warn_of(session, cage, found.untracked, left_out)
        _warn_of(session, cage, found.missing, "are tracked by git, but are not there")


def dockerfiles(session: Session, chosen: Sequence[Cage]) -> None:
    """Warn of what a Dockerfile cannot reproduce, each with its line and the cure."""
    from cagebuild.config.model import DockerfileBase

    for cage in chosen:
        context = session.context(cage)
        if context is None or not isinstance(cage.base, DockerfileBase):
            continue
        from cagebuild.dockerfile.parse import parse
        from cagebuild.dockerfile.stages import needed
        from cagebuild.dockerfile.warnings import warnings

        parsed = parse(context.data, context.file)
        base, architecture = cage.base, cage.enclave.architecture
        found = warnings(parsed, needed(parsed, base.target, dict(base.args), architecture))
        for each in found[:_SHOWN_MISTAKES]:
            warn(each.render())
        if found[_SHOWN_MISTAKES:]:
            warn(f"{cage.address}: and {len(found) - _SHOWN_MISTAKES} more of these")


def _warn_of(session: Session, cage: Cage, paths: Sequence[Path], what: str) -> None:
    if paths:
        names = ", ".join(str(path.relative_to(session.workspace.root)) for path in paths[:_SHOWN])
        more = f" and {len(paths) - _SHOWN} more" if paths[_SHOWN:] else ""
        warn(f"{cage.address}: {names}{more} {what}")


def uncommitted(session: Session, chosen: Sequence[Cage]) -> None:
    """Warn of cages whose epoch is a commit's while their files differ from the last commit."""
    from cagebuild.workspace import inputs, is_dirty

    for cage in chosen:
        if cage.epoch.policy == "commit" and is_dirty(session.workspace, inputs(cage)):
            warn(
                f"{cage.address}: has changes that are not committed; the epoch is the time of the"
                " commit before"
            )


def results(session: Session, found: Iterable[Result]) -> None:
    """Print the PCRs of each cage, and how they compare with its lock."""
    for result in found:
        for line in result.warnings[:_SHOWN]:
            warn(f"{result.cage.address}: {line}")
        if result.warnings[_SHOWN:]:
            warn(f"{result.cage.address}: and {len(result.warnings) - _SHOWN} more of these")
        where = f"  {result.eif.relative_to(session.workspace.root)}" if result.eif else ""
        print(printable(f"{result.cage.address}{where}"))
        for name, value in result.pcrs.items():
            print(f"  {name}  {value}")
        if result.as_locked:
            print(f"  as in {result.cage.lock_file.name}")
        else:
            _mismatch(session, result)


def _mismatch(session: Session, result: Result) -> None:
    from cagebuild import compare

    print(f"  not as in {result.cage.lock_file.name}:")
    print("\n".join(f"    {line}".rstrip() for line in compare.reasons(session, result)))
    print(f"  to accept: invoke lock {result.cage.address}")


def results_json(found: Iterable[Result]) -> None:
    """Print measurements as nitro-cli does, by address."""
    json_document(
        {
            result.cage.address: {
                "Measurements": {"HashAlgorithm": "Sha384 { ... }", **result.pcrs},
                "expected": result.expected and dict(result.expected),
            }
            for result in found
        }
    )


def locks(session: Session, made: Iterable[tuple[Cage, Lock | None, Lock]]) -> None:
    """Print what moved in each lock."""
    from cagebuild.explain.locks import pcrs, pins

    for cage, before, after in made:
        name = cage.lock_file.relative_to(session.workspace.root)
        if before == after:
            print(f"{cage.address}  {name}: nothing moved")
            continue
        print(f"{cage.address}  {name}: {'new' if before is None else 'moved'}")
        if before is None:
            print(f"  epoch  {after.epoch.time} ({after.epoch.policy})")
            for pcr, value in (after.expected or {}).items():
                print(f"  {pcr}  {value}")
            continue
        for change in (*pins(before, after), *pcrs(before, after)):
            print(f"  {printable(change.subject)}")
            print(f"    was {printable(change.expected or 'not there')}")
            print(f"    is  {printable(change.got or 'removed')}")


def cages(found: Sequence[Cage]) -> None:
    """Print addresses, names and files."""
    width = max((len(cage.address) for cage in found), default=0)
    for cage in found:
        print(f"{printable(cage.address):{width}}  {cage.name}  {cage.enclave.architecture}")


def difference(found: Difference, *, as_json: bool) -> None:
    """Print what moved."""
    from cagebuild.explain.text import render

    if as_json:
        json_document(found.to_json())
    else:
        print(render(found))


def opinion(found: Opinion) -> None:
    """Print what nitro-cli makes of a cage."""
    print(printable("\n".join(found.lines())))

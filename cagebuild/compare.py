"""What ``invoke diff`` compares, and why a measurement is not the lock's."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild import explain
from cagebuild.errors import StoreError, UsageError
from cagebuild.explain.text import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cagebuild.explain import Difference, Subject
    from cagebuild.results import Result
    from cagebuild.session import Session


def difference(open_session: Callable[[], Session], a: str, b: str, *, limit: int) -> Difference:
    """What differs between two things that the command names; raises UsageError and CageError."""
    with tempfile.TemporaryDirectory(prefix="cagebuild-") as scratch:
        expected = _subject(open_session, a, Path(scratch) / "a")
        got = _subject(open_session, b, Path(scratch) / "b")
        return explain.explain(expected, got, limit=limit)


def _subject(open_session: Callable[[], Session], words: str, scratch: Path) -> Subject:
    if Path(words).exists():
        return explain.load(Path(words))
    from cagebuild import revisions

    revision, separator, target = words.partition("//")
    session = open_session()
    if not revision and separator:
        manifest = revisions.measured(session, words, scratch)
    elif revisions.is_one(session.workspace, revision):
        manifest = revisions.manifest(session, revision, separator + target, scratch)
    else:
        raise UsageError(
            f"'{words}' is neither a file, a cage nor a git revision",
            hint="name a manifest, image file, lock, dist folder, //cage, REVISION or"
            " REVISION//cage",
        )
    return replace(explain.load(manifest), name=words)


def reasons(session: Session, result: Result) -> Iterator[str]:
    """Lines that say what moved the PCRs, down to the file if the expected manifest is known."""
    if not result.expected:
        yield "the lock has no measurements yet"
        return
    with tempfile.TemporaryDirectory(prefix="cagebuild-") as scratch:
        expected = _remembered(session, result.expected, Path(scratch) / "expected.json")
        got = _remembered(session, result.pcrs, Path(scratch) / "got.json")
        if expected is None or got is None:
            yield from moved(result.pcrs, result.expected)
            yield (
                "the files behind the expected PCRs are not in this machine's store: "
                f"invoke diff REVISION{result.cage.address} {result.cage.address} compares with "
                "those of a commit"
            )
            return
        name = result.cage.lock_file.name
        found = explain.explain(
            replace(expected, name=name), replace(got, name="this build"), limit=_FEW
        )
        yield from render(found).splitlines()


def moved(got: Mapping[str, str], expected: Mapping[str, str]) -> Iterator[str]:
    """The PCRs that differ, without a reason."""
    for name in dict.fromkeys([*got, *expected]):
        if got.get(name) != expected.get(name):
            yield f"{name} got      {got.get(name, 'none')}"
            yield f"{name} expected {expected.get(name, 'none')}"


_FEW = 5


def _remembered(session: Session, pcrs: Mapping[str, str], file: Path) -> Subject | None:
    blob = session.memory.manifest(pcrs)
    if blob is None:
        return None
    try:
        session.store.export(blob, file)
    except StoreError:
        return None
    return explain.load(file)

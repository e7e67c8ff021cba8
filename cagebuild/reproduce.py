"""Building cages again under unlike conditions, from nothing, and comparing all with the locks.

What ``nox -s pcr`` and ``invoke verify --rebuild`` do. Path, umask, time zone, locale, clock, hash
seed and the order of folders differ between two builds, and so may the engine for Dockerfiles,
which takes nothing from its own cache. The builds' stores start with what is known by its digest
alone (locked files, a kernel and an installer that are pinned), of which nothing could be learnt by
getting it twice, and nothing else.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from cagebuild import explain, process
from cagebuild import lock as lockfile
from cagebuild.compare import moved
from cagebuild.config.model import DockerfileBase, EngineChoice
from cagebuild.digest import Digest
from cagebuild.engine.choice import available
from cagebuild.errors import BuildFailedError, CageError, MeasurementError, UsageError
from cagebuild.explain.text import render
from cagebuild.pipeline import obtain, plans
from cagebuild.results import EIF, MANIFEST, outputs
from cagebuild.seeding import pinned_steps, seed
from cagebuild.session import Session
from cagebuild.store import Store
from cagebuild.workspace import git

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cagebuild.config.model import Cage
    from cagebuild.pipeline import How
    from cagebuild.step import Step


_APART: Final = 1.1
"""Seconds between two builds of Dockerfiles: within one second both get the same from ``date``."""
_ENGINES: Final = tuple(name for name in get_args(EngineChoice) if name != "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a build is run under."""

    folder: str
    """Where the checkout goes, below a temporary folder."""
    options: tuple[str, ...]
    """For ``cagebuild.elsewhere``."""
    environment: Mapping[str, str]
    name: str


PLAIN: Final = Conditions(
    folder="a",
    options=("--umask", "022"),
    environment={"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0"},
    name="the first build",
)
UNLIKE: Final = Conditions(
    folder="another place/not ASCII: ö",
    options=("--umask", "077", "--clock", "40000000", "--reverse-folders"),
    environment={"TZ": "Pacific/Chatham", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "4242"},
    name="the second build",
)


def conditions(engines: Sequence[str]) -> list[Conditions]:
    """What the builds run under: two at least, and one for each engine."""
    if not engines:
        return [PLAIN, UNLIKE]
    found = []
    for number in range(max(len(engines), 2)):
        like = (PLAIN, UNLIKE)[number % 2]
        engine = engines[number % len(engines)]
        place = ("first", "second", "third", "fourth", "fifth")[number]
        found.append(
            replace(
                like,
                folder=f"{like.folder} {number}",
                environment={**like.environment, "CAGEBUILD_ENGINE": engine},
                name=f"the {place} build, by {engine}",
            )
        )
    return found


def check(
    start: Path, words: Sequence[str], scratch: Path, how: How, engines: Sequence[str] = ()
) -> Iterator[str]:
    """Build the cages that ``words`` mean twice or more; lines that say how each compares.

    ``engines`` are those to build Dockerfiles with, one for each build; none: what the cages say.
    Raises MeasurementError after the last line when anything differs, BuildFailedError when a build
    fails, and CageError for configurations and locks.
    """
    session = Session(start)
    chosen = session.cages(words)
    locks = {cage: lockfile.require(cage) for cage in chosen}
    known = _known(session, chosen, how)
    under = conditions(engines)
    roots: list[Path] = []
    for each in under:
        if roots and _of_dockerfiles(chosen):
            time.sleep(_APART)
        roots.append(_build(session, chosen, known, each, scratch))
    wrong = []
    for cage in chosen:
        first, *others = (outputs(root, cage) for root in roots)
        lines = [
            line
            for other, condition in zip(others, under[1:], strict=True)
            for line in _between(first, under[0].name, other, condition.name)
        ]
        lines += _against_lock(session, cage, locks[cage], first)
        yield f"{cage.address}: {'differs' if lines else _equal(engines)}"
        yield from lines
        if lines:
            wrong.append(cage.address)
    if wrong:
        raise MeasurementError(
            f"not reproducible, or not as locked: {', '.join(wrong)}",
            hint="the lines above say what moved; if it is meant, renew the lock: invoke lock",
        )


def rebuilt(start: Path, words: Sequence[str], how: How, engines: str) -> Iterator[str]:
    """``check`` in a folder of its own. ``engines`` are names with commas; none: all that are here.

    Raises UsageError for a name that is none.
    """
    chosen = [name for name in engines.split(",") if name]
    for name in chosen:
        if name not in _ENGINES:
            raise UsageError(
                f"--engines: '{name}' is none", hint=f"there are {', '.join(_ENGINES)}"
            )
    if not chosen and _of_dockerfiles(Session(start).cages(words)):
        chosen = available()
    with tempfile.TemporaryDirectory(prefix="cagebuild-verify-") as scratch:
        yield from check(start, words, Path(scratch), how, chosen)


def _of_dockerfiles(cages: Sequence[Cage]) -> bool:
    return any(isinstance(cage.base, DockerfileBase) for cage in cages)


def _equal(engines: Sequence[str]) -> str:
    by = f" by {', '.join(engines)}" if engines else ""
    times = "twice" if len(engines) <= 2 else f"{len(engines)} times"
    return f"equal {times}{by}, and as in the lock"


def _known(session: Session, chosen: Sequence[Cage], how: How) -> list[Step]:
    """What is known by its digest alone, in this workspace's own store."""
    steps = pinned_steps(plan.eif for plan in plans(session, chosen)).values()
    obtain(session, list(steps), how)
    return list(steps)


def _build(
    session: Session,
    chosen: Sequence[Cage],
    known: Sequence[Step],
    conditions: Conditions,
    scratch: Path,
) -> Path:
    """Build in a copy of the checkout; the copy's workspace root."""
    root = session.workspace.root
    copy = scratch / conditions.folder / "checkout"
    copy.parent.mkdir(parents=True)
    root_copy = _copy(root, copy)
    store = scratch / conditions.folder / "store"
    seed(session.store, Store(store), known)
    status = process.attend(
        [
            sys.executable,
            *("-m", "cagebuild.elsewhere", *conditions.options),
            *("--", "build", *(cage.address for cage in chosen)),
        ],
        cwd=root_copy,
        env={
            **conditions.environment,
            "CAGEBUILD_STORE": str(store),
            "CAGEBUILD_ENGINE_CACHE": "off",
        },
    )
    if status != 0:
        raise BuildFailedError(
            f"{conditions.name} failed",
            hint="its own error stands above",
        )
    return root_copy


def _copy(root: Path, copy: Path) -> Path:
    """A copy of the checkout as the working tree has it, what git ignores left out."""
    if not git.is_used(root):
        shutil.copytree(root, copy, symlinks=True, ignore=shutil.ignore_patterns("dist"))
        return copy
    program = process.find("git", needed_for="copying the checkout", hint="install git")
    top = Path(os.fsdecode(process.run([program, "rev-parse", "--show-toplevel"], cwd=root))[:-1])
    process.run([program, "clone", "--quiet", "--shared", str(top), str(copy)], cwd=root)
    changed = process.run(
        [program, "ls-files", "-z", "--modified", "--deleted", "--others", "--exclude-standard"],
        cwd=top,
    )
    for name in {os.fsdecode(raw) for raw in changed.split(b"\0") if raw}:
        source, target = top / name, copy / name
        target.unlink(missing_ok=True)
        if os.path.lexists(source) and not source.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return copy / root.relative_to(top)


def _between(
    first: Mapping[str, Path], first_name: str, second: Mapping[str, Path], second_name: str
) -> list[str]:
    """What differs between two builds."""
    if Digest.of_file(first[EIF]) == Digest.of_file(second[EIF]):
        return []
    found = explain.explain(
        _named(first_name, first[MANIFEST]), _named(second_name, second[MANIFEST])
    )
    if not found:
        # Signatures are made with fresh randomness; nothing of them is measured.
        return []
    return [f"{first_name} and {second_name} differ:", *render(found).splitlines()]


def _named(name: str, manifest: Path) -> explain.Subject:
    """A manifest under a name that still says something when its folder is gone."""
    return replace(explain.load(manifest), name=name)


def _against_lock(
    session: Session, cage: Cage, locked: lockfile.Lock, built: Mapping[str, Path]
) -> list[str]:
    """What differs from the lock, down to the file where the locked revision can be built again."""
    subject = explain.load(built[MANIFEST])
    if not isinstance(subject, explain.Image):
        raise TypeError(f"{built[MANIFEST]} is no manifest")
    pcrs = subject.measurements.pcrs()
    expected = dict(locked.expected or {})
    if pcrs == expected:
        return []
    return [
        "differs from the lock:",
        *(f"  {line}" for line in moved(pcrs, expected)),
        *_since_locked(session, cage, built[MANIFEST]),
    ]


def _since_locked(session: Session, cage: Cage, manifest: Path) -> list[str]:
    """How the build differs from the one at the commit that last changed the lock."""
    from cagebuild import revisions

    commit = git.last_commit(session.workspace.root, [cage.lock_file])
    if commit is None:
        return ["the lock was never committed, so there is nothing to compare with"]
    scratch = manifest.parent / "locked"
    try:
        locked = revisions.manifest(session, commit, cage.address, scratch)
        found = explain.explain(
            _named(f"commit {commit[:12]}", locked), _named("the first build", manifest)
        )
    except CageError as error:
        return [
            f"commit {commit[:12]}, which last changed the lock, cannot be built:",
            error.render(),
        ]
    if not found:
        return [
            f"commit {commit[:12]}, which last changed the lock, gives the same: the lock is wrong"
        ]
    return [
        f"since commit {commit[:12]}, which last changed the lock:",
        *render(found).splitlines(),
    ]

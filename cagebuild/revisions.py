"""A cage as it was at a git revision: built again, for comparison with what it is now."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild import pipeline, process
from cagebuild.errors import CageError, LockError, ToolFailedError, UsageError
from cagebuild.report import reporter
from cagebuild.session import Session

if TYPE_CHECKING:
    from cagebuild.config.model import Workspace


def _git(folder: Path, *words: str) -> str:
    program = process.find(
        "git", needed_for="comparing with a revision", hint="install git, or name two manifests"
    )
    return process.run([program, *words], cwd=folder).decode(errors="surrogateescape").strip()


def is_one(workspace: Workspace, text: str) -> bool:
    """Whether git knows ``text`` as a commit."""
    if not text or text.startswith("-"):
        return False
    try:
        _git(workspace.root, "rev-parse", "--quiet", "--verify", f"{text}^{{commit}}")
    except ToolFailedError:
        return False
    return True


def manifest(session: Session, revision: str, target: str, scratch: Path) -> Path:
    """Measure a cage as of ``revision``, from a clone in ``scratch``, and return its manifest.

    ``target`` names the cage as commands do; empty: the one that the current folder means. The
    clone's builds go to the same store, so what did not change is not built again.
    """
    root = session.workspace.root
    top = Path(_git(root, "rev-parse", "--show-toplevel"))
    commit = _git(root, "rev-parse", "--verify", f"{revision}^{{commit}}")
    clone = scratch / "tree"
    _git(root, "clone", "--quiet", "--shared", "--no-checkout", str(top), str(clone))
    _git(clone, "checkout", "--quiet", "--detach", commit)
    start = clone / os.path.relpath(session.start.resolve(), top)
    try:
        return measured(Session(start), target, scratch)
    except CageError as error:
        error.message = f"as of {revision}: {error.message}"
        if isinstance(error, LockError):
            error.hint = "a revision is measured from its own lock: name one that has it"
        raise


def measured(session: Session, target: str, scratch: Path) -> Path:
    """Measure the one cage that ``target`` means, and put its manifest into ``scratch``."""
    chosen = session.cages([target] if target else [])
    if len(chosen) != 1:
        raise UsageError(
            f"{len(chosen)} cages are meant", hint="name one: REVISION//folder, or //folder"
        )
    how = pipeline.How(reporter=reporter(sys.stderr), jobs=len(os.sched_getaffinity(0)))
    (result,) = pipeline.measure(session, chosen, how)
    blob = session.memory.manifest(result.pcrs)
    if blob is None:  # pragma: no cover - measuring has just noted it
        raise UsageError("the manifest is gone from the store again", hint="run it once more")
    scratch.mkdir(parents=True, exist_ok=True)
    session.store.export(blob, scratch / "manifest.json")
    return scratch / "manifest.json"

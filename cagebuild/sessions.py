"""The nox sessions. In a monorepo's noxfile.py: ``from cagebuild.sessions import *``."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nox

__all__ = ["pcr"]


@nox.session(venv_backend="none")
def pcr(session: nox.Session) -> None:
    """Build every cage twice, under unlike conditions; fail when a PCR is not the lock's."""
    from cagebuild.errors import CageError
    from cagebuild.pipeline import How
    from cagebuild.report import reporter
    from cagebuild.reproduce import check

    how = How(reporter=reporter(sys.stderr), jobs=len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="cagebuild-pcr-") as scratch:
        try:
            for line in check(Path.cwd(), session.posargs, Path(scratch), how):
                print(line)
        except CageError as error:
            session.error(error.render())

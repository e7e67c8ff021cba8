"""The nox sessions. In a monorepo's noxfile.py: ``from cagebuild.sessions import *``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nox

__all__ = ["pcr"]


@nox.session(venv_backend="none")
def pcr(session: nox.Session) -> None:
    """Build every cage twice, under unlike conditions; fail when a PCR is not the lock's."""
    from cagebuild.errors import CageError
    from cagebuild.reproduce import check

    with tempfile.TemporaryDirectory(prefix="cagebuild-pcr-") as scratch:
        try:
            for line in check(Path.cwd(), session.posargs, Path(scratch)):
                print(line)
        except CageError as error:
            session.error(error.render())

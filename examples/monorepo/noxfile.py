"""The monorepo's sessions: `nox -s pcr`."""

from cagebuild.sessions import *  # noqa: F403

"""The monorepo's tasks: `invoke --list`."""

from cagebuild.tasks import *  # noqa: F403

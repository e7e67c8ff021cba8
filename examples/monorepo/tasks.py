"""The monorepo's tasks: `invoke --list`."""

from cagebuild.tasks import namespace  # noqa: F401

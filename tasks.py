"""What a monorepo needs in its own tasks.py."""

from cagebuild.tasks import *  # noqa: F403

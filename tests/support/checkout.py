"""Real git checkouts for tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.config import SMALLEST


class Checkout:
    """A git repository in a folder, with a history that any machine makes alike."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words: str, time: int = 1_700_000_000) -> str:
        """Run git without the user's settings; commits are of the given time."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_DATE": "@1 +0000",
            "GIT_COMMITTER_DATE": f"@{time} +0000",
        }
        names = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        settings = (*names, "-c", "protocol.file.allow=always")
        done = subprocess.run(
            ["git", *settings, *words],
            cwd=self.root,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def write(self, name: str, text: str = "content\n") -> Path:
        """A file in the working tree."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def cage(self, name: str, text: str = SMALLEST) -> Path:
        """A tracked cage file."""
        file = self.write(name, text)
        self.git("add", "--", name)
        return file

    def commit(self, time: int = 1_700_000_000) -> None:
        """Commit all that is there."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x", time=time)

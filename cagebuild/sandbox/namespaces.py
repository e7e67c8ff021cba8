"""The kernel's own namespaces: with root's rights, or with those that everybody has."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild import process
from cagebuild.errors import ToolFailedError
from cagebuild.image.ondisk import unpack
from cagebuild.sandbox import enter
from cagebuild.sandbox.job import BUILD, HOSTNAME, INPUTS, OUTPUTS, USER, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.sandbox.job import Job

_TEMPORARY = "tmp"


class Namespaces:
    """Runs jobs in namespaces of this machine's kernel."""

    name = "namespaces"

    @property
    def unavailable(self) -> str:
        """Why this machine's kernel lets this user have none; empty when it does."""
        with tempfile.TemporaryFile() as said:
            status = process.watch([*_program(), json.dumps({"probe": True})], output=said)
            said.seek(0)
            return "" if status == 0 else said.read(1000).decode(errors="replace").strip()

    def run(self, job: Job) -> int:
        """See ``Sandbox``."""
        root = job.scratch / "root"
        unpack(job.root, root, lambda: job.watcher(0))
        for name in (INPUTS, OUTPUTS, BUILD):
            (root / name).mkdir()
        inputs = job.scratch / INPUTS
        _place(job.inputs, inputs)
        writable = {
            OUTPUTS: job.outputs,
            BUILD: job.scratch / BUILD,
            _TEMPORARY: job.scratch / _TEMPORARY,
        }
        for folder in writable.values():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
            if os.geteuid() == 0:
                os.chown(folder, USER, USER)
        specification = {
            "root": str(root),
            "read": {INPUTS: str(inputs)},
            "write": {name: str(folder) for name, folder in writable.items()},
            "folder": f"/{BUILD}",
            "hostname": HOSTNAME,
            "user": USER,
            "command": job.command(),
        }
        status = process.watch(
            [*_program(), json.dumps(specification)], output=job.log, watcher=job.watcher
        )
        if status == enter.FAILED:
            job.log.seek(0)
            said = job.log.read(1000).decode(errors="replace").strip()
            raise ToolFailedError(said, hint="CAGEBUILD_SANDBOX=docker or podman uses an engine")
        return status


def _program() -> list[str]:
    return [sys.executable, "-I", "-S", enter.__file__]


def _place(inputs: Mapping[str, Path], folder: Path) -> None:
    """Put the inputs into a folder under their names, readable for everybody."""
    folder.mkdir()
    for name, path in inputs.items():
        target = folder / check_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not by link: a file of the user's own may have any mode, which the job must not see.
        shutil.copyfile(path, target)
        target.chmod(0o444)
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o755)  # whatever the umask

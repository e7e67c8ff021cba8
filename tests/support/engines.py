"""A private Docker daemon, for tests that need the real thing."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIES = 300


@contextmanager
def docker_daemon() -> Iterator[str]:
    """The address (DOCKER_HOST) of a daemon of its own, without any network, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="cagebuild-docker-") as name:
        folder = Path(name)
        address = f"unix://{folder}/socket"
        config = folder / "config.json"
        config.write_text("{}")
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [
                    *("dockerd", "--host", address, "--pidfile", str(folder / "pid")),
                    *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                    *("--bridge=none", "--iptables=false", "--ip6tables=false"),
                    *("--ip-forward=false", "--config-file", str(config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            for _ in range(_TRIES):
                asked = subprocess.run(
                    ["docker", "--host", address, "info"], capture_output=True, check=False
                )
                if asked.returncode == 0:
                    break
                assert daemon.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield address
        finally:
            daemon.terminate()
            daemon.wait(timeout=60)
            for left in ("data", "exec"):
                shutil.rmtree(folder / left, ignore_errors=True)

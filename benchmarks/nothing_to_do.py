"""How long a build takes that has nothing to do: one cage, and a workspace of many.

The measure is `invoke --list` of an empty task file, timed in the same run and in turn with the
builds, so that figures from different machines compare:

    one cage         at most 2.5 times that
    1,000 cages      at most 3 s above 2.5 times that (fewer: in proportion)

    python benchmarks/nothing_to_do.py [--cages 1000] [--rounds 7] [--check]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_TIMES = 2.5
MOST_SECONDS_A_CAGE = 3 / 1000

_WORKSPACE = """\
[workspace.defaults]
runtime = false
epoch = { policy = "zero" }
enclave = { boot = { kernel = "boot/kernel", init = "boot/init", cmdline = "boot/cmdline" } }
"""
_CAGE = """\
[base]
scratch = true

[app]
command = ["/app/program"]

[[app.files]]
source = "program"
destination = "/app/program"
mode = "0755"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A temporary home, and the environment that every command runs in."""

    home: Path
    env: dict[str, str]

    def run(self, folder: Path, *words: str, status: int = 0) -> float:
        """Seconds that a command takes; RuntimeError with its output for another exit status."""
        started = time.perf_counter()
        done = subprocess.run(
            words,
            check=False,
            cwd=folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        taken = time.perf_counter() - started
        if done.returncode != status:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return taken

    def invoke(self, folder: Path, *words: str) -> float:
        """Seconds that one run of invoke takes."""
        return self.run(folder, sys.executable, "-m", "invoke", *words)

    def git(self, folder: Path, *words: str) -> None:
        """Run git as nobody in particular."""
        self.run(folder, "git", "-c", "user.name=x", "-c", "user.email=x@localhost", *words)


def bzimage() -> bytes:
    """As much of a kernel as tells that it is one."""
    image = bytearray(4096)
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x211] = 1
    return bytes(image)


def make_workspace(bench: Bench, folder: Path, cages: int) -> None:
    """A repository of small cages, locked and built."""
    boot = folder / "boot"
    boot.mkdir(parents=True)
    (boot / "kernel").write_bytes(bzimage())
    (boot / "init").write_bytes(b"init")
    (boot / "cmdline").write_bytes(b"console=ttyS0\n")
    (folder / "cage.toml").write_text(_WORKSPACE)
    (folder / "tasks.py").write_text("from cagebuild.tasks import *  # noqa: F403\n")
    (folder / ".gitignore").write_text("dist/\n__pycache__/\n")
    for number in range(cages):
        cage = folder / f"services/{number // 100:02}/cage{number:04}"
        cage.mkdir(parents=True)
        (cage / "cage.toml").write_text(_CAGE)
        (cage / "program").write_text(f"program {number}\n")
    bench.git(folder, "init", "--quiet")
    bench.git(folder, "add", ".")
    bench.git(folder, "commit", "--quiet", "--message", "cages")
    bench.invoke(folder, "lock")
    bench.git(folder, "add", ".")
    bench.git(folder, "commit", "--quiet", "--message", "locks")
    bench.invoke(folder, "build")


def results(folder: Path) -> dict[Path, tuple[int, int]]:
    """Which files a build has left, and when they were written."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted((folder / "dist").glob("*/*"))
    }


def measure(bench: Bench, cages: int, rounds: int) -> tuple[float, float, float]:
    """Median seconds of `invoke --list`, of one cage and of many; rounds take turns."""
    empty, one, many = (bench.home / name for name in ("empty", "one", "many"))
    empty.mkdir()
    (empty / "tasks.py").touch()
    make_workspace(bench, one, 1)
    make_workspace(bench, many, cages)
    before = results(one), results(many)
    if [len(found) for found in before] != [3, 3 * cages]:
        raise RuntimeError(f"the builds left {[len(found) for found in before]} files")
    times: list[tuple[float, float, float]] = []
    for turn in range(rounds + 1):
        taken = (
            bench.run(empty, sys.executable, "-m", "invoke", "--list", status=1),  # no tasks
            bench.invoke(one, "build"),
            bench.invoke(many, "build"),
        )
        times += [taken] if turn else []  # the first round only warms up
    if before != (results(one), results(many)):
        raise RuntimeError("a build with nothing to do wrote its results again")
    first, second, third = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second, third


def main() -> int:
    """Print the figures; 1 when `--check` finds one above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cages", type=int, default=1000, help="cages in the large workspace")
    parser.add_argument("--rounds", type=int, default=7, help="runs that count, of each command")
    parser.add_argument("--check", action="store_true", help="fail above the limits")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cagebuild-bench-") as home:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "PYTHONPATH": str(ROOT),
            "CI": "true",
        }
        listed, one, many = measure(
            Bench(home=Path(home).resolve(), env=env), given.cages, given.rounds
        )
    above = many - MOST_TIMES * listed
    allowed = given.cages * MOST_SECONDS_A_CAGE
    print(f"invoke --list of an empty file   {listed * 1000:7.0f} ms")
    print(
        f"invoke build, 1 cage             {one * 1000:7.0f} ms"
        f"   {one / listed:.2f} times (at most {MOST_TIMES})"
    )
    print(
        f"invoke build, {given.cages:<5} cages        {many * 1000:7.0f} ms"
        f"   {above:+.2f} s above {MOST_TIMES} times (at most {allowed:.2f} s)"
    )
    failed = one > MOST_TIMES * listed or above > allowed
    if failed:
        print("above the limit")
    return int(given.check and failed)


if __name__ == "__main__":
    sys.exit(main())

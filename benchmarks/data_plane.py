"""What the data plane costs: plain loopback TCP against both of its programs, and a pair of socats.

The real cage-guest and cage-host are compiled and run, the one in a network namespace of the
enclave's, the other outside, with a unix socket where an enclave has its vsock. A pair of socats
does the same between the same two. Clients and the app are one Go program (`load/`). The ways take
turns in every round and medians are compared, because a machine is rarely idle. ``--check`` fails
when a ratio, a rate or the memory is not what the project promises. Needs root, ip and socat.

    sudo .venv/bin/python benchmarks/data_plane.py --rounds 5 --check
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.data_plane import Cage, Wanted, compile_all, ingress
from tests.support.golang import compile_program
from tests.support.namespaces import Program

if TYPE_CHECKING:
    from collections.abc import Iterator

LOAD = Path(__file__).parent / "load"
PORT = 8080
PORTS = {"plain": 8081, "cage": PORT, "socat": 8082}
"""What clients connect to, outside, for each way."""

GOAL_THROUGHPUT = 0.7
"""Of plain loopback TCP's."""
LEAST_THROUGHPUT = {"": 0.25, "tls-": 0.35}
"""Of plain loopback TCP's, below which something has broken; and more than socat's.

For bytes that nobody looks at, and between two ends that speak TLS to each other. The second pass
through TCP, to the app, takes about as much of two processors as the first, so the goal isn't
reached there.
"""
GOAL_LATENCY = 1 / 3
"""Of what socat adds to a round trip."""
MOST_LATENCY = 1.5
"""The same, above which something has broken. Most of a round trip is the waking of threads, which
is much slower on a processor that sleeps than on one that is busy."""
LEAST_CONNECTS = 1000
"""New connections a second."""
MOST_MEMORY_MIB = 200
"""Resident memory of both programs together, while all connections are open."""

_OTHER_FILES = 1100
"""Of each program, besides two for every connection; cage-host keeps 1,024 for itself."""
_WORKERS = 16
_TRIPS = 5000


@dataclass(kw_only=True)
class Lab:
    """The cage, the app behind it, and the client program."""

    cage: Cage
    load: Path
    figures: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """All results, by measure and way."""

    def measure(self, measure: str, way: str, *words: object) -> None:
        """Let a client do one thing, and keep its figure."""
        argv = [words[0], f"127.0.0.1:{PORTS[way]}", *words[1:]]
        said = self.cage.outside.output(str(self.load), *map(str, argv))
        self.figures.setdefault((measure, way), []).append(float(said))

    def median(self, measure: str, way: str) -> float:
        """The median of all rounds."""
        return statistics.median(self.figures[measure, way])


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """Compile and start everything."""
    programs = compile_all(folder)
    compiled = compile_program(folder, LOAD, folder / "load")
    wanted = Wanted(ingress=[ingress(PORT)])
    with Cage(folder, programs, wanted) as cage, contextlib.ExitStack() as stack:
        load = cage.shared / "load"
        load.write_bytes(compiled.read_bytes())
        load.chmod(0o755)
        for place, port in ((cage.inside, PORT), (cage.outside, PORTS["plain"])):
            server = Program(place, str(load), "serve", f"127.0.0.1:{port}")
            stack.enter_context(server).until("ready")
        between = f"{cage.shared}/socat"
        for place, come, go in (
            (cage.inside, f"UNIX-LISTEN:{between}", f"TCP:127.0.0.1:{PORT}"),
            (cage.outside, f"TCP-LISTEN:{PORTS['socat']},reuseaddr", f"UNIX-CONNECT:{between}"),
        ):
            stack.enter_context(Program(place, "socat", f"{come},fork,backlog=4096", go))
        # All descriptors for clients: the two limits share them.
        cage.start_host("--max-egress-connections", "1")
        cage.start_guest()
        made = Lab(cage=cage, load=load)
        wait_for_all(made)
        yield made


def wait_for_all(made: Lab) -> None:
    """Return when a round trip succeeds in every way."""
    for port in PORTS.values():
        made.cage.outside.output(
            *(
                "sh",
                "-c",
                'until echo 1 | "$0" hold "127.0.0.1:$1" 1; do sleep 0.1; done 2>/dev/null',
            ),
            *(str(made.load), str(port)),
        )


def allow_files(wanted: int) -> int:
    """Raise the limit on open files, for the programs inherit it, and return what it is then."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < wanted:
        with contextlib.suppress(ValueError):  # not everybody may
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def resident(made: Lab) -> float:
    """Resident memory of cage-guest and cage-host together, in MiB."""
    total = 0
    for program in (made.cage.guest, made.cage.host):
        status = Path(f"/proc/{program.number}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        total += int(line.split()[1])
    return total / 1024


def hold(made: Lab, count: int) -> float:
    """Resident memory with so many connections open, in MiB."""
    words = made.cage.outside.words(str(made.load), "hold", f"127.0.0.1:{PORT}", str(count))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        if client.stdout.readline() != b"ready\n":
            raise SystemExit(f"{count} connections could not be opened")
        memory = resident(made)
        said, _ = client.communicate()
    if client.returncode or float(said) != count:
        raise SystemExit(f"of {count} connections some could not be used again")
    return memory


def run_rounds(made: Lab, rounds: int, seconds: int) -> None:
    """All measures in all ways, taking turns."""
    for _ in range(rounds):
        for streams in (1, 8):
            for direction in ("up", "down", "tls-up", "tls-down"):
                for way in PORTS:
                    made.measure(f"{direction} {streams}", way, direction, streams, seconds)
        for way in PORTS:
            made.measure("latency", way, "latency", _TRIPS)
        for way in PORTS:
            made.measure("connect", way, "connect", _WORKERS, seconds)


def row(what: str, figures: tuple[float, ...], places: int, compared: str) -> None:
    """Print one line of the table."""
    print(f"{what:<26}{''.join(f'{each:9.{places}f}' for each in figures)}   {compared}")


def report(made: Lab) -> bool:
    """Print all figures; whether all are within their limits."""
    kept = True
    for kind, least in LEAST_THROUGHPUT.items():
        for measure, what in (
            ("up 1", "1 stream in, GB/s"),
            ("up 8", "8 streams in, GB/s"),
            ("down 1", "1 stream out, GB/s"),
            ("down 8", "8 streams out, GB/s"),
        ):
            plain, cage, socat = (made.median(kind + measure, way) / 1e9 for way in PORTS)
            kept &= cage >= least * plain and cage > socat
            compared = (
                f"{cage / plain:.2f} x plain (goal {GOAL_THROUGHPUT}), {cage / socat:.1f} x socat"
            )
            row(f"{'TLS, ' if kind else ''}{what}", (plain, cage, socat), 2, compared)
    plain, cage, socat = (made.median("latency", way) for way in PORTS)
    share = (cage - plain) / (socat - plain)
    kept &= share <= MOST_LATENCY
    compared = f"added {cage - plain:.1f}: {share:.2f} x socat's {socat - plain:.1f}"
    row(
        "64 bytes, round trip, µs", (plain, cage, socat), 1, f"{compared} (goal {GOAL_LATENCY:.2f})"
    )
    plain, cage, socat = (made.median("connect", way) for way in PORTS)
    kept &= cage >= LEAST_CONNECTS
    row("connections a second", (plain, cage, socat), 0, f"at least {LEAST_CONNECTS}")
    return kept


def main() -> int:
    """Run the benchmark; 1 when ``--check`` found a limit broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="how long each transfer lasts")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    most = (allow_files(2 * given.connections + _OTHER_FILES) - _OTHER_FILES) // 2
    connections = min(given.connections, most)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, lab(Path(name)) as made:
        before = resident(made)
        print(f"{'':<26}{'plain':>9}{'cage':>9}{'socat':>9}")
        run_rounds(made, given.rounds, given.seconds)
        kept = report(made)
        memory = hold(made, connections)
        kept &= memory * given.connections / connections < MOST_MEMORY_MIB
        print(
            f"{connections} connections open: both programs {memory:.0f} MiB"
            f" (below {MOST_MEMORY_MIB} for {given.connections}), {before:.0f} MiB before"
        )
    return int(given.check and not kept)


if __name__ == "__main__":
    sys.exit(main())

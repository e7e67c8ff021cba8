"""A program that builds a graph of these tests, to be killed, interrupted, or run many at once.

    python -m tests.support.run_graph STORE LOG [key=value …]

Keys: ``jobs``; ``shape``: ``layers`` (a graph of 3 layers with files of some size), ``slow`` (looks
whether it should stop) or ``stubborn`` (doesn't); ``seconds`` that a step of those takes.
Prints how each step ended, then the digests of the targets; exits as the command line would.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild.errors import CageError
from cagebuild.execute import ProcessExecutor, Summary, execute
from cagebuild.report import reporter
from cagebuild.store import Store
from tests.support.graphs import OUT, load, step

if TYPE_CHECKING:
    from cagebuild.step import Step


def layers(log: Path) -> list[Step]:
    """Three layers of steps, each reading all of the one below; 16 MiB in all."""
    below = [
        step(f"fetch {n}", params={"text": f"fetch {n}", "size": (n + 1) << 16}, log=log)
        for n in range(5)
    ]
    middle = [
        step(
            f"layer {n}",
            inputs={f"{i}": s for i, s in enumerate(below)},
            params={"text": f"layer {n}"},
            log=log,
        )
        for n in range(4)
    ]
    top = step("image", inputs={f"{i}": s for i, s in enumerate(middle)}, log=log)
    return [step(name, inputs={"image": top}, log=log) for name in ("eif", "measure")]


def waiting(kind: str, seconds: str, log: Path) -> list[Step]:
    """Two steps that take their time, and one that needs them; one that is quick."""
    below = [
        step(f"{kind} {n}", kind, params={"text": f"{kind} {n}", "seconds": seconds}, log=log)
        for n in range(2)
    ]
    quick = step("quick", log=log)
    return [step("top", inputs={"a": below[0], "b": below[1], "quick": quick}, log=log)]


def targets(shape: str, log: Path, seconds: str = "30") -> list[Step]:
    """The targets of a graph."""
    return layers(log) if shape == "layers" else waiting(shape, seconds, log)


def digests(summary: Summary, wanted: list[Step]) -> list[str]:
    """What the targets are, to compare runs by."""
    return [f"{step.name} {summary.output(step, OUT).digest}" for step in wanted]


def main(store: str, log: str, *words: str) -> int:
    """Build; the exit status is the error's."""
    options = dict(word.split("=") for word in words)
    wanted = targets(options.get("shape", "layers"), Path(log), options.get("seconds", "30"))
    try:
        summary = execute(
            {"//cage": wanted},
            store=Store(Path(store)),
            executor=ProcessExecutor(load),
            reporter=reporter(sys.stderr, verbose=True),
            jobs=int(options.get("jobs", "3")),
        )
        summary.raise_for_failures()
    except CageError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    print(*digests(summary, wanted), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

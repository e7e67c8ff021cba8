"""Steps for tests: small code that really runs, and reporters that remember what they were told.

Every kind first appends its step's name to the file of the hint ``log``, if there is one: who ran,
in which order, across processes.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cagebuild.digest import Digest
from cagebuild.errors import FetchError
from cagebuild.execute import ProcessExecutor, Summary, execute
from cagebuild.step import FileInput, Input, Step, StepInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cagebuild.execute import Export, Outcome
    from cagebuild.step import StepContext, StepFunction
    from cagebuild.store import Store
    from cagebuild.store.statcache import StatCache

OUT = "out"
CHUNK = 1 << 16


def step(
    name: str,
    kind: str = "join",
    *,
    params: Mapping[str, object] | None = None,
    inputs: Mapping[str, Input | Step] | None = None,
    outputs: Sequence[str] = (OUT,),
    log: Path | None = None,
    code: str = "1",
) -> Step:
    """A step; an input that is a step means its output ``out``."""
    given = {
        key: StepInput(step=value, output=OUT) if isinstance(value, Step) else value
        for key, value in (inputs or {}).items()
    }
    return Step(
        kind=kind,
        code=code,
        name=name,
        params=params if params is not None else {"text": name},
        inputs=given,
        outputs=tuple(outputs),
        hints={"log": str(log)} if log else {},
    )


def source(path: Path, content: bytes | None = None) -> FileInput:
    """A source file, written first if content is given."""
    if content is not None:
        path.write_bytes(content)
    return FileInput(digest=Digest.of_file(path), path=path)


def _join(context: StepContext) -> None:
    """Write the text, the output's name and all inputs, in pieces."""
    for number, name in enumerate(
        cast("list[str]", context.params.get("only", _declared(context)))
    ):
        with context.output(name).open("wb") as stream:
            stream.write(f"{context.params.get('text')} {name}\n".encode())
            stream.write(b"x" * cast("int", context.params.get("size", 0)))
            for key, path in context.inputs.items():
                stream.write(f"[{key}]".encode() + path.read_bytes())
        context.progress(number + 1, None)


def _declared(context: StepContext) -> list[str]:
    return cast("list[str]", context.params.get("outputs", [OUT]))


def _slow(context: StepContext) -> None:
    """Like join, after many small steps of progress: ``params.seconds`` in all."""
    seconds = float(cast("str", context.params.get("seconds", "0.1")))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        context.progress(0, 100)
        time.sleep(0.005)
    _join(context)


def _stubborn(context: StepContext) -> None:
    """Never looks whether it should stop, for ``params.seconds``."""
    time.sleep(float(cast("str", context.params["seconds"])))
    _join(context)


def _fail(context: StepContext) -> None:
    raise FetchError(f"no luck with {context.params['text']}", hint="try the other one")


def _bug(context: StepContext) -> None:
    context.output(OUT).write_bytes(b"half")
    raise ZeroDivisionError("a secret trace")


def _no_space(context: StepContext) -> None:
    with Path("/dev/full").open("wb", buffering=0) as stream:
        stream.write(b"x")


def _writes_nothing(context: StepContext) -> None:
    assert context.scratch.is_dir()


def _writes_more(context: StepContext) -> None:
    context.output(OUT).write_bytes(b"x")
    context.output(OUT).with_name("extra").write_bytes(b"x")


def _asks_for_more(context: StepContext) -> None:
    context.output("other")


def _writes_link(context: StepContext) -> None:
    context.output(OUT).symlink_to("/etc/hostname")


def _links_input(context: StepContext) -> None:
    """Makes the output a second name of its input."""
    os.link(next(iter(context.inputs.values())), context.output(OUT))


def _edits_source(context: StepContext) -> None:
    """Changes the file that it reads: what an editor may do at that moment."""
    path = context.inputs["file"]
    context.output(OUT).write_bytes(path.read_bytes())
    path.write_bytes(b"changed meanwhile")


def _order(context: StepContext) -> None:
    """Shows in which order the code sees inputs and parameters."""
    seen = [*context.inputs, "|", *context.params]
    context.output(OUT).write_text(" ".join(seen))


KINDS: dict[str, Callable[[StepContext], None]] = {
    "join": _join,
    "slow": _slow,
    "stubborn": _stubborn,
    "fail": _fail,
    "bug": _bug,
    "no-space": _no_space,
    "writes-nothing": _writes_nothing,
    "writes-more": _writes_more,
    "asks-for-more": _asks_for_more,
    "writes-link": _writes_link,
    "links-input": _links_input,
    "edits-source": _edits_source,
    "order": _order,
}


def load(kind: str) -> StepFunction:
    """The function behind a kind of these tests; it notes that it ran."""

    def run(context: StepContext) -> None:
        log = context.hints.get("log")
        if log:
            line = f"{context.params.get('text')}\n".encode()
            descriptor = os.open(str(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line)
            os.close(descriptor)
        KINDS[kind](context)

    return run


def ran(log: Path) -> list[str]:
    """The names in a log, in order."""
    return log.read_text().splitlines() if log.exists() else []


class Recorder:
    """A reporter that keeps everything."""

    def __init__(self) -> None:
        self.total = 0
        self.begun: list[str] = []
        self.outcomes: list[Outcome] = []
        self.notes: list[str] = []
        self.summaries: list[Summary] = []
        self.moved = threading.Event()

    def begin(self, total: int) -> None:
        self.total = total

    def started(self, step: Step) -> None:
        self.begun.append(step.name)

    def progress(self, step: Step, done: int, total: int | None) -> None:
        self.moved.set()

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def said(self, step: Step, text: str) -> None:
        self.notes.append(f"{step.name} | {text}")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def end(self, summary: Summary) -> None:
        self.summaries.append(summary)


def build(
    store: Store,
    *targets: Step,
    jobs: int = 2,
    keep_going: bool = False,
    exports: Sequence[Export] = (),
    stats: StatCache | None = None,
    recorder: Recorder | None = None,
    owner: str = "//cage",
) -> Summary:
    """Run targets of one owner with the kinds of these tests."""
    return execute(
        {owner: targets},
        store=store,
        executor=ProcessExecutor(load),
        reporter=recorder or Recorder(),
        jobs=jobs,
        keep_going=keep_going,
        exports=exports,
        stats=stats,
    )


def endings(summary: Summary) -> dict[str, str]:
    """How each step ended, by its name."""
    return {outcome.step.name: outcome.status for outcome in summary.outcomes.values()}


def content(store: Store, summary: Summary, target: Step, output: str = OUT) -> bytes:
    """What a target made."""
    return store.read(summary.output(target, output))
